//! Images from docker-registry: open, with passwords, with certificates of one's own, with tokens.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::registry::{
    ClientIdentity, Credentials, DockerConfig, HostConfig, Password, RegistryConfig, RegistryError,
};
use ashlar_solver::solver::{SolveError, Solved};

use super::registries::{
    Registry, Yard, copied, me, nobody, passwords, push, request_head, tls, tokens,
};
use super::support::{self, Need, PATH, file, files, run, skipped};

/// A place where the directory `store` has the image `app:v1`, whose `/hello` says `hi`; none if a
/// tool is missing.
async fn with_app(test: &str) -> Option<Yard> {
    let yard = Yard::enter(test)?;
    let state = llb::scratch().file(mkfile("/hello", "hi"));
    let solved = support::solve(&yard.solver(), support::request(&state)).await;
    let layout = yard.at("layout");
    let exporter = Oci::directory(&layout).name("example.com/app:v1");
    exporter
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    let image = format!("oci:{}:v1", layout.display());
    push(&image, &yard.open(), "app:v1");
    Some(yard)
}

async fn pull(
    yard: &Yard,
    registry: &Registry,
    config: RegistryConfig,
    known: impl Credentials + 'static,
) -> Result<Solved, SolveError> {
    let image = llb::image(format!("{}/app:v1", registry.host()));
    let state = llb::scratch().file(copy(State::from(image), "/hello", "/hello"));
    let solver = yard.solver_of(config, known);
    solver.solve(support::request(&state)).result().await
}

async fn says_hi(solved: Result<Solved, SolveError>) {
    let tree = files(&solved.unwrap()).await;
    assert_eq!(tree["hello"], file(0o644, b"hi"));
}

/// What went wrong, as the registry client tells it.
fn failure(solved: Result<Solved, SolveError>, test: impl Fn(&RegistryError) -> bool) {
    let error = solved.unwrap_err();
    let SolveError::Vertex { failure, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(
        failure.downcast_ref::<RegistryError>().is_some_and(test),
        "{failure:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_base_that_skopeo_pushed_is_pulled_and_built_on() {
    let name = "a_debian_base_that_skopeo_pushed_is_pulled_and_built_on";
    if skipped(name, &[Need::Root, Need::Debian]) {
        return;
    }
    let Some(yard) = Yard::enter(name) else {
        return;
    };
    let layout = support::debian_layout().unwrap();
    let (registry, solver) = (yard.open(), yard.solver());
    let base = format!("oci:{}:base", layout.display());
    push(&base, &registry, "debian:12");
    let image = || llb::image(format!("{}/debian:12", registry.host()));
    let script =
        "echo 'int main(void){return 0;}' >/m.c && gcc -o /m /m.c && /m && echo built >/out";
    let built = || {
        let base = State::from(image()).env("PATH", PATH);
        let built = base.run(["sh", "-c", script]).root();
        llb::scratch().file(copy(&built, "/out", "/out"))
    };
    let solved = support::solve(&solver, support::request(&built())).await;
    assert_eq!(files(&solved).await["out"], file(0o644, b"built\n"));
    let again = support::solve(&solver, support::request(&built())).await;
    assert_eq!(again.ran(), 0);
    // skopeo has the same blobs.
    let theirs = copied(&format!("{}/debian:12", registry.host()), yard.path());
    let names = |folder: PathBuf| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let [theirs, ours] = [&theirs, solver.root()].map(|at| at.join("blobs/sha256"));
    assert_eq!(names(theirs.clone()), names(ours.clone()));
    for name in names(theirs.clone()) {
        assert!(fs::read(theirs.join(&name)).unwrap() == fs::read(ours.join(&name)).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untouched_base_is_exported_without_being_unpacked() {
    let Some(yard) = with_app("an_untouched_base_is_exported_without_being_unpacked").await else {
        return;
    };
    let (registry, solver) = (yard.open(), yard.solver());
    let image = llb::image(format!("{}/app:v1", registry.host()));
    let request = support::request(&State::from(image));
    let solved = support::solve(&solver, request).await;
    assert_eq!(
        fs::read_dir(solver.root().join("blobs/sha256"))
            .unwrap()
            .count(),
        2
    );
    let layout = yard.at("exported");
    let exporter = Oci::directory(&layout).name("example.com/app:v2");
    exporter
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    assert_eq!(support::layers(solver.root()), 0);
    let list = run(Command::new("skopeo")
        .args(["--insecure-policy", "inspect", "--raw"])
        .arg(format!("oci:{}:v2", layout.display())));
    let manifest: serde_json::Value = serde_json::from_str(&list).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap();
    let original = yard.at("layout/blobs").join(digest.replace(':', "/"));
    let exported = layout.join("blobs").join(digest.replace(':', "/"));
    assert_eq!(fs::read(original).unwrap(), fs::read(exported).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_shown_where_they_are_demanded() {
    let Some(yard) = with_app("passwords_are_shown_where_they_are_demanded").await else {
        return;
    };
    let registry = yard.registry("store", &passwords(yard.path()));
    let pull = |known| pull(&yard, &registry, RegistryConfig::default(), known);
    says_hi(pull(me(&registry.host(), "hunter2")).await).await;
    failure(pull(nobody()).await, |e| {
        matches!(e, RegistryError::Unauthorized { shown: false, .. })
    });
    failure(pull(me(&registry.host(), "hunter3")).await, |e| {
        matches!(e, RegistryError::Unauthorized { shown: true, .. })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_others_are_used() {
    let Some(yard) = with_app("logins_of_others_are_used").await else {
        return;
    };
    let registry = yard.registry("store", &passwords(yard.path()));
    // Podman has the same file and the same code.
    let file = yard.at("auth.json");
    run(Command::new("skopeo")
        .args(["login", "--tls-verify=false", "--username=me"])
        .args(["--password=hunter2", "--authfile"])
        .args([file.display().to_string(), registry.host()]));
    let config = RegistryConfig::default();
    says_hi(pull(&yard, &registry, config, DockerConfig::new(file)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_private_authority() {
    let Some(yard) = with_app("certificates_of_a_private_authority").await else {
        return;
    };
    let tls = tls(yard.path());
    let registry = yard.registry("store", &tls);
    let pull = |registry, host| {
        let mut config = RegistryConfig::default();
        config.retry.tries = 1;
        let config = config.host(Registry::host(registry), host);
        pull(&yard, registry, config, nobody())
    };
    let read = |name: &str| fs::read(yard.at(name)).unwrap();
    let trusting = || HostConfig::default().root(read("ca.pem"));
    says_hi(pull(&registry, trusting()).await).await;
    assert!(registry.requests("HTTP/2.0") >= 3);
    assert_eq!(registry.requests("HTTP/1.1"), 0);
    let mut older = trusting();
    older.http1_only = true;
    says_hi(pull(&registry, older).await).await;
    assert!(registry.requests("HTTP/1.1") >= 3);
    says_hi(pull(&registry, HostConfig::default().skip_verify(true)).await).await;
    // An authority that nobody named is not trusted, and is not got around in plain text.
    let mut strict = HostConfig::default();
    strict.scheme = ashlar_solver::registry::Scheme::Https;
    failure(pull(&registry, strict).await, |e| {
        matches!(e, RegistryError::Unreachable { .. })
    });
    let error = pull(&registry, HostConfig::default()).await.unwrap_err();
    assert!(!error.to_string().is_empty());
    failure(
        pull(&registry, HostConfig::default().root("no PEM")).await,
        |e| matches!(e, RegistryError::Config { .. }),
    );
    // One that wants to see a certificate of ours.
    let authority = yard.at("ca.pem");
    let tls = format!("{tls}    clientcas:\n      - {}\n", authority.display());
    let registry = yard.registry("store", &tls);
    let identity = ClientIdentity::new(read("client.pem"), read("client.key"));
    says_hi(pull(&registry, trusting().identity(identity)).await).await;
    assert!(pull(&registry, trusting()).await.is_err());
}

/// A proxy that connects to where it is told. What it hears in plain text goes to the returned
/// buffer. Ends with the process.
fn tunnel() -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(String::new()));
    let log = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = request_head(&mut stream);
            log.lock().unwrap().push_str(&head);
            let place = head
                .strip_prefix("CONNECT ")
                .and_then(|rest| rest.split(' ').next());
            let Some(Ok(mut there)) = place.map(TcpStream::connect) else {
                continue;
            };
            let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            let (mut back, mut forth) = (there.try_clone().unwrap(), stream.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut forth));
            std::thread::spawn(move || std::io::copy(&mut stream, &mut there));
        }
    });
    (port, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_hears_where_to_and_nothing_else() {
    let Some(yard) = with_app("a_proxy_hears_where_to_and_nothing_else").await else {
        return;
    };
    let more = tls(yard.path()) + &passwords(yard.path());
    let registry = yard.registry("store", &more);
    let (port, heard) = tunnel();
    let mut host = HostConfig::default().root(fs::read(yard.at("ca.pem")).unwrap());
    host.proxy = Some(Password::new(format!("http://127.0.0.1:{port}")));
    let config = RegistryConfig::default().host(registry.host(), host);
    let known = me(&registry.host(), "hunter2");
    says_hi(pull(&yard, &registry, config, known).await).await;
    let heard = heard.lock().unwrap().clone();
    assert!(
        heard.contains(&format!("CONNECT {} HTTP/1.1", registry.host())),
        "{heard}"
    );
    let heard = heard.to_ascii_lowercase();
    assert!(
        !heard.contains("authorization") && !heard.contains("bwu6"),
        "{heard}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_token_server() {
    let Some(yard) = with_app("tokens_of_a_token_server").await else {
        return;
    };
    let registry = yard.registry("store", &tokens(yard.path()));
    let pull = |known| pull(&yard, &registry, RegistryConfig::default(), known);
    says_hi(pull(me(&registry.host(), "hunter2")).await).await;
    let refused = |e: &RegistryError| matches!(e, RegistryError::Token { refused: true, .. });
    failure(pull(me(&registry.host(), "hunter3")).await, refused);
    failure(pull(nobody()).await, refused);
}
