//! Images from docker-registry: open, with passwords, with certificates of one's own, with tokens.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::registry::{
    ClientIdentity, Credential, Credentials, DockerConfig, HostConfig, Password, RegistryConfig,
    RegistryError, StaticCredentials,
};
use ashlar_solver::solver::{SolveError, Solved, Solver};
use base64::Engine as _;
use serde_json::json;

use super::support::{self, Need, PATH, file, files, run, skipped, temp};

pub const TOOLS: [Need; 3] = [
    Need::Tool("docker-registry"),
    Need::Tool("skopeo"),
    Need::Tool("openssl"),
];

/// A running docker-registry; killed when dropped.
pub struct Registry {
    child: Child,
    port: u16,
    /// Where it writes down what it is asked.
    requests: PathBuf,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Registry {
    /// Serves what is in the directory `store`. `more`: YAML below `http:`, and sections after it.
    pub fn start(folder: &Path, store: &Path, more: &str) -> Self {
        // Free at this moment; nothing else here asks for ports that are told.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = folder.join(format!("registry-{port}.yml"));
        let requests = folder.join(format!("registry-{port}.requests"));
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
            store.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&requests).unwrap())
            .stderr(fs::File::create(folder.join(format!("registry-{port}.log"))).unwrap())
            .spawn()
            .unwrap();
        let registry = Self {
            child,
            port,
            requests,
        };
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return registry;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("docker-registry does not start");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// How many requests it had in a version of HTTP.
    fn requests(&self, version: &str) -> usize {
        let text = fs::read_to_string(&self.requests).unwrap();
        text.matches(version).count()
    }
}

/// Pushes `image` (in skopeo's words) as `name` into an open registry, with all its platforms and
/// as it is.
pub fn push(image: &str, registry: &Registry, name: &str) {
    let to = format!("docker://{}/{name}", registry.host());
    run(Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--all",
            "--preserve-digests",
            "--dest-tls-verify=false",
        ])
        .args([image, &to]));
}

/// A store with the image `app:v1`, whose `/hello` says `hi`.
async fn app(folder: &Path) -> PathBuf {
    let store = folder.join("store");
    let open = Registry::start(folder, &store, "");
    let solver = support::solver(folder.join("made"));
    let state = llb::scratch().file(mkfile("/hello", "hi"));
    let solved = support::solve(&solver, support::request(&state)).await;
    let layout = folder.join("layout");
    let exporter = Oci::directory(&layout).name("example.com/app:v1");
    exporter
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    push(&format!("oci:{}:v1", layout.display()), &open, "app:v1");
    store
}

async fn pull(
    folder: &Path,
    registry: &Registry,
    config: RegistryConfig,
    known: impl Credentials + 'static,
) -> Result<Solved, SolveError> {
    let root = tempfile::tempdir_in(folder).unwrap().keep();
    let solver = Solver::builder()
        .root(root)
        .registry(config)
        .credentials(Arc::new(known));
    let image = llb::image(format!("{}/app:v1", registry.host()));
    let state = llb::scratch().file(copy(State::from(image), "/hello", "/hello"));
    let solver = solver.build().unwrap();
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

pub fn nobody() -> StaticCredentials {
    StaticCredentials::new()
}

pub fn me(registry: &Registry, password: &str) -> StaticCredentials {
    nobody().with(registry.host(), Credential::password("me", password))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_base_that_skopeo_pushed_is_pulled_and_built_on() {
    let name = "a_debian_base_that_skopeo_pushed_is_pulled_and_built_on";
    if skipped(name, &TOOLS) || skipped(name, &[Need::Root, Need::Debian]) {
        return;
    }
    let folder = temp();
    let layout = support::debian_layout().unwrap();
    let registry = Registry::start(folder.path(), &folder.path().join("store"), "");
    push(
        &format!("oci:{}:base", layout.display()),
        &registry,
        "debian:12",
    );
    let solver = support::solver(folder.path().join("state"));
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
    let copied = folder.path().join("copied");
    let from = format!("docker://{}/debian:12", registry.host());
    run(Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
        ])
        .args([from, format!("oci:{}:12", copied.display())]));
    let names = |folder: PathBuf| -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let (theirs, ours) = (
        copied.join("blobs/sha256"),
        solver.root().join("blobs/sha256"),
    );
    assert_eq!(names(theirs.clone()), names(ours.clone()));
    for name in names(theirs.clone()) {
        assert!(fs::read(theirs.join(&name)).unwrap() == fs::read(ours.join(&name)).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untouched_base_is_exported_without_being_unpacked() {
    let name = "an_untouched_base_is_exported_without_being_unpacked";
    if skipped(name, &TOOLS) {
        return;
    }
    let folder = temp();
    let store = app(folder.path()).await;
    let registry = Registry::start(folder.path(), &store, "");
    let solver = support::solver(folder.path().join("state"));
    let image = llb::image(format!("{}/app:v1", registry.host()));
    let request = support::request(&State::from(image));
    let solved = support::solve(&solver, request).await;
    assert_eq!(
        fs::read_dir(solver.root().join("blobs/sha256"))
            .unwrap()
            .count(),
        2
    );
    let layout = folder.path().join("exported");
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
    let original = folder
        .path()
        .join("layout/blobs")
        .join(digest.replace(':', "/"));
    let exported = layout.join("blobs").join(digest.replace(':', "/"));
    assert_eq!(fs::read(original).unwrap(), fs::read(exported).unwrap());
}

/// Settings of a registry that wants a password: of `me`, `hunter2`.
pub fn passwords(folder: &Path) -> String {
    let line = "me:$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";
    let passwords = folder.join("htpasswd");
    fs::write(&passwords, line).unwrap();
    let path = passwords.display();
    format!("auth:\n  htpasswd:\n    realm: here\n    path: {path}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_shown_where_they_are_demanded() {
    let name = "passwords_are_shown_where_they_are_demanded";
    if skipped(name, &TOOLS) {
        return;
    }
    let folder = temp();
    let store = app(folder.path()).await;
    let registry = Registry::start(folder.path(), &store, &passwords(folder.path()));
    let pull = |known| pull(folder.path(), &registry, RegistryConfig::default(), known);
    says_hi(pull(me(&registry, "hunter2")).await).await;
    failure(pull(nobody()).await, |e| {
        matches!(e, RegistryError::Unauthorized { shown: false, .. })
    });
    failure(pull(me(&registry, "hunter3")).await, |e| {
        matches!(e, RegistryError::Unauthorized { shown: true, .. })
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_others_are_used() {
    let name = "logins_of_others_are_used";
    if skipped(name, &TOOLS) {
        return;
    }
    let folder = temp();
    let store = app(folder.path()).await;
    let registry = Registry::start(folder.path(), &store, &passwords(folder.path()));
    // Podman has the same file and the same code.
    let file = folder.path().join("auth.json");
    run(Command::new("skopeo")
        .args(["login", "--tls-verify=false", "--username=me"])
        .args(["--password=hunter2", "--authfile"])
        .args([file.display().to_string(), registry.host()]));
    let config = RegistryConfig::default();
    says_hi(pull(folder.path(), &registry, config, DockerConfig::new(file)).await).await;
}

/// Runs openssl in `folder`.
fn openssl(folder: &Path, arguments: &str) {
    run(Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' ')));
}

/// An authority `ca.pem`, and what it signed: `server.pem` for localhost, `client.pem`.
pub fn certificates(folder: &Path) {
    openssl(
        folder,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
    );
    for (name, extension) in [
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        fs::write(folder.join(format!("{name}.ext")), extension).unwrap();
        openssl(
            folder,
            &format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem \
                 -days 2 -extfile {name}.ext"
            ),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_private_authority() {
    let name = "certificates_of_a_private_authority";
    if skipped(name, &TOOLS) {
        return;
    }
    let folder = temp();
    let at = |name: &str| folder.path().join(name);
    let store = app(folder.path()).await;
    certificates(folder.path());
    let (certificate, key) = (at("server.pem"), at("server.key"));
    let tls = format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        certificate.display(),
        key.display()
    );
    let registry = Registry::start(folder.path(), &store, &tls);
    let pull = |registry, host| {
        let mut config = RegistryConfig::default();
        config.retry.tries = 1;
        let config = config.host(Registry::host(registry), host);
        pull(folder.path(), registry, config, nobody())
    };
    let read = |name: &str| fs::read(at(name)).unwrap();
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
    let authority = at("ca.pem");
    let tls = format!("{tls}    clientcas:\n      - {}\n", authority.display());
    let registry = Registry::start(folder.path(), &store, &tls);
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
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
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
    let name = "a_proxy_hears_where_to_and_nothing_else";
    if skipped(name, &TOOLS) {
        return;
    }
    let folder = temp();
    let store = app(folder.path()).await;
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let more = format!(
        "  tls:\n    certificate: {}\n    key: {}\n{}",
        at("server.pem"),
        at("server.key"),
        passwords(folder.path())
    );
    let registry = Registry::start(folder.path(), &store, &more);
    let (port, heard) = tunnel();
    let mut host = HostConfig::default().root(fs::read(folder.path().join("ca.pem")).unwrap());
    host.proxy = Some(Password::new(format!("http://127.0.0.1:{port}")));
    let config = RegistryConfig::default().host(registry.host(), host);
    let known = me(&registry, "hunter2");
    says_hi(pull(folder.path(), &registry, config, known).await).await;
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

/// A token server, as the Docker Hub has one: gives `me`, with the password `hunter2`, tokens that
/// docker-registry takes. Ends with the process.
fn token_server(folder: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = folder.to_path_buf();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            // `me:hunter2`.
            let known = head.contains("authorization: basic bwu6ahvudgvymg==");
            let asked = head.contains("service=here&scope=repository%3aapp%3apull");
            let actions = match head.contains("%3apull%2cpush") {
                true => &["pull", "push"][..],
                false => &["pull"],
            };
            let answer = match known && asked {
                true => json!({"token": token(&folder, actions), "expires_in": 300}).to_string(),
                false => String::new(),
            };
            let status = if known && asked { "200 OK" } else { "401 No" };
            let length = answer.len();
            let _gone = stream.write_all(
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{answer}")
                    .as_bytes(),
            );
        }
    });
    port
}

/// A token as docker-registry wants it: signed by `ca.key`, whose certificate is in it.
fn token(folder: &Path, actions: &[&str]) -> String {
    let coded = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let pem = fs::read_to_string(folder.join("ca.pem")).unwrap();
    let der: String = pem
        .lines()
        .filter(|line| !line.starts_with("---"))
        .collect();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
    let claims = json!({"iss": "issuer", "sub": "me", "aud": "here", "jti": "1",
        "iat": now - 10, "nbf": now - 10, "exp": now + 300,
        "access": [{"type": "repository", "name": "app", "actions": actions}]});
    let text = format!(
        "{}.{}",
        coded(head.to_string().as_bytes()),
        coded(claims.to_string().as_bytes())
    );
    fs::write(folder.join("claims"), &text).unwrap();
    openssl(folder, "dgst -sha256 -sign ca.key -out signature claims");
    format!(
        "{text}.{}",
        coded(&fs::read(folder.join("signature")).unwrap())
    )
}

/// Settings of a registry that wants tokens of [`token_server`].
pub fn tokens(folder: &Path) -> String {
    certificates(folder);
    let port = token_server(folder);
    format!(
        "auth:\n  token:\n    realm: http://127.0.0.1:{port}/token\n    service: here\n    issuer: \
         issuer\n    rootcertbundle: {}\n",
        folder.join("ca.pem").display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_token_server() {
    let name = "tokens_of_a_token_server";
    if skipped(name, &TOOLS) {
        return;
    }
    let folder = temp();
    let store = app(folder.path()).await;
    let registry = Registry::start(folder.path(), &store, &tokens(folder.path()));
    let pull = |known| pull(folder.path(), &registry, RegistryConfig::default(), known);
    says_hi(pull(me(&registry, "hunter2")).await).await;
    let refused = |e: &RegistryError| {
        matches!(
            e,
            RegistryError::Token {
                retryable: false,
                ..
            }
        )
    };
    failure(pull(me(&registry, "hunter3")).await, refused);
    failure(pull(nobody()).await, refused);
}
