//! What tests of registries share: a place with registries and solvers in it, what registries can
//! want to see, and what skopeo says of them.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ashlar_solver::registry::{Credential, Credentials, RegistryConfig, StaticCredentials};
use ashlar_solver::solver::Solver;
use serde_json::Value;
use tempfile::TempDir;

use super::support::{Need, run, skipped, temp};
use super::token_server::TokenServer;

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
    pub fn requests(&self, version: &str) -> usize {
        let text = fs::read_to_string(&self.requests).unwrap();
        text.matches(version).count()
    }

    /// How many blobs were sent to a repository until a manifest was put there under this tag: it
    /// answers before it writes down what it was asked.
    pub fn sent(&self, repository: &str, tag: &str) -> usize {
        let manifest = format!("\"PUT /v2/{repository}/manifests/{tag} ");
        for _ in 0..500 {
            let text = fs::read_to_string(&self.requests).unwrap();
            if text.contains(&manifest) {
                let blob = format!("\"PUT /v2/{repository}/blobs/uploads/");
                return text.matches(&blob).count();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no manifest {tag} was put into {repository}");
    }

    /// The names under which manifests were put into it, in their order, once the last one is
    /// `last`: it answers before it writes down what it was asked.
    pub fn manifests(&self, last: &str) -> Vec<String> {
        for _ in 0..500 {
            let text = fs::read_to_string(&self.requests).unwrap();
            let puts = text
                .lines()
                .filter_map(|line| line.split_once("\"PUT /v2/"));
            let manifests = puts.filter_map(|(_, rest)| rest.split_once("/manifests/"));
            let names = manifests.map(|(_, rest)| rest.split(' ').next().unwrap().to_owned());
            let names: Vec<_> = names.collect();
            if names.last().is_some_and(|name| name == last) {
                return names;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no manifest {last} was put");
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

/// A directory of a test, with registries and solvers in it.
pub struct Yard(TempDir);

impl Yard {
    /// None if a tool is missing.
    pub fn enter(test: &str) -> Option<Self> {
        (!skipped(test, &TOOLS)).then(|| Self(temp()))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// A registry with what is in the directory `store`, and these settings.
    pub fn registry(&self, store: &str, settings: &str) -> Registry {
        Registry::start(self.path(), &self.at(store), settings)
    }

    /// A registry that takes everything.
    pub fn open(&self) -> Registry {
        self.registry("store", "")
    }

    /// A solver with a store of its own, whose client has these settings.
    pub fn solver_of(&self, config: RegistryConfig, known: impl Credentials + 'static) -> Solver {
        let root = tempfile::tempdir_in(self.path()).unwrap().keep();
        let builder = Solver::builder().root(root).registry(config);
        builder.credentials(Arc::new(known)).build().unwrap()
    }

    /// A solver that knows no passwords.
    pub fn solver(&self) -> Solver {
        self.solver_of(RegistryConfig::default(), nobody())
    }
}

/// What skopeo says of an image in an open registry.
pub fn inspect(reference: &str, arguments: &[&str]) -> Value {
    let text = run(Command::new("skopeo")
        .args(["--insecure-policy", "inspect", "--tls-verify=false"])
        .args(arguments)
        .arg(format!("docker://{reference}")));
    serde_json::from_str(&text).unwrap()
}

/// skopeo takes all of an image, verifying every digest; where it is then, as a layout.
pub fn copied(reference: &str, folder: &Path) -> PathBuf {
    let copied = folder.join("copied");
    let to = format!("oci:{}:v1", copied.display());
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .arg("--src-tls-verify=false")
        .args([format!("docker://{reference}"), to]));
    copied
}

pub fn nobody() -> StaticCredentials {
    StaticCredentials::new()
}

pub fn me(host: &str, password: &str) -> StaticCredentials {
    nobody().with(host, Credential::password("me", password))
}

/// Settings of a registry that wants a password: of `me`, `hunter2`.
pub fn passwords(folder: &Path) -> String {
    let line = "me:$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";
    let passwords = folder.join("htpasswd");
    fs::write(&passwords, line).unwrap();
    let path = passwords.display();
    format!("auth:\n  htpasswd:\n    realm: here\n    path: {path}\n")
}

/// Runs openssl in `folder`.
pub fn openssl(folder: &Path, arguments: &str) {
    run(Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' ')));
}

/// An authority `ca.pem`, with its key, of a kind in the words of openssl.
pub fn authority(folder: &Path, key: &str) {
    let own = "-nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2";
    openssl(folder, &format!("req -x509 -newkey {key} {own}"));
}

/// An authority `ca.pem`, and what it signed: `server.pem` for localhost, `client.pem`.
pub fn certificates(folder: &Path) {
    let key = "ec -pkeyopt ec_paramgen_curve:prime256v1";
    authority(folder, key);
    for (name, extension) in [
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ] {
        fs::write(folder.join(format!("{name}.ext")), extension).unwrap();
        openssl(
            folder,
            &format!(
                "req -newkey {key} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
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

/// Settings of a registry that shows the certificate of [`certificates`].
pub fn tls(folder: &Path) -> String {
    certificates(folder);
    format!(
        "  tls:\n    certificate: {}\n    key: {}\n",
        folder.join("server.pem").display(),
        folder.join("server.key").display()
    )
}

/// What a request says before its body, byte by byte: what follows is not ours.
pub(super) fn request_head(mut stream: impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Settings of a registry that wants tokens: `me`, with the password `hunter2`, may push to `app`.
pub fn tokens(folder: &Path) -> String {
    TokenServer::start(folder, &[("app", "pull,push")]).settings()
}
