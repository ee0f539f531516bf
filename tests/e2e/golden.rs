//! Golden cases: where they are, and builds of them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlar_llb::Definition;
use ashlar_solver::ops::Entitlements;
use ashlar_solver::registry::{HostConfig, Mirror, RegistryConfig};
use ashlar_solver::session::{AgentSocket, MemorySecret};
use ashlar_solver::solver::{SolveRequest, Solver};
use serde_json::Value;
use tempfile::TempDir;

use super::registries::Registry;
use super::support::{chain, run, temp};

/// The host that the definitions name.
const HOST: &str = "127.0.0.1:5003";

/// The directory of golden files: `ASHLAR_GOLDEN`, or the one of the workspace.
pub fn directory() -> PathBuf {
    let chosen = std::env::var_os("ASHLAR_GOLDEN");
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    chosen.map_or_else(|| PathBuf::from(own), PathBuf::from)
}

/// Whether the files are those that are committed.
pub fn is_own() -> bool {
    std::env::var_os("ASHLAR_GOLDEN").is_none()
}

pub fn json(name: &str) -> Value {
    let path = directory().join(name);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The same, of what another directory of golden files may lack; says so then.
pub fn json_if_there(test: &str, name: &str) -> Option<Value> {
    let path = directory().join(name);
    if !path.exists() {
        println!("SKIPPED: {test}: no {}", path.display());
        return None;
    }
    Some(json(name))
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Where the base image is served under the name that the definitions give it.
pub struct World {
    folder: TempDir,
    registry: Registry,
    _agent: UnixListener,
}

impl World {
    pub fn new() -> Self {
        let folder = temp();
        let registry = Registry::start(folder.path(), &folder.path().join("registry"), "");
        let layout = directory().join("base/layout");
        for tag in ["v1", "multi"] {
            let from = format!("oci:{}:{tag}", layout.display());
            let to = format!("docker://{}/golden/base:{tag}", registry.host());
            let flags = ["--all", "--preserve-digests", "--dest-tls-verify=false"];
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["--insecure-policy", "copy", "--quiet"]);
            run(skopeo.args(flags).arg(from).arg(to));
        }
        let agent = UnixListener::bind(folder.path().join("agent")).unwrap();
        Self {
            folder,
            registry,
            _agent: agent,
        }
    }

    /// A solver with an empty state; to be called in a runtime.
    pub fn solver(&self) -> Solver {
        let root = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let mirror = self.registry.host();
        let host = HostConfig::default().mirror(Mirror::new(&mirror));
        let registry = RegistryConfig::default()
            .host(HOST, host)
            .host(mirror, HostConfig::plain_http());
        let mut allowed = Entitlements::default();
        allowed.network_host = true;
        allowed.security_insecure = true;
        let solver = Solver::builder()
            .root(root)
            .registry(registry)
            .entitlements(allowed);
        solver
            .build()
            .unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// The request for a build: its definition below `folder` of the golden files, with all that
    /// it is lent. `case` has the members `pb`, `inputs_tar`, `locals`, `secrets`.
    pub fn request(&self, folder: &str, case: &Value) -> SolveRequest {
        let below = directory().join(folder);
        let pb = below.join(case["pb"].as_str().expect("pb"));
        let definition = Definition::decode(fs::read(pb).unwrap()).unwrap();
        let mut request =
            SolveRequest::new(definition).oci_layout("base", directory().join("base/layout"));
        if let Some(tar) = case["inputs_tar"].as_str() {
            let inputs = self.inputs(&below.join(tar));
            for name in list(&case["locals"]) {
                let name = name.as_str().expect("a name");
                request = request.local(name, inputs.join(name));
            }
        }
        for (id, value) in case["secrets"].as_object().into_iter().flatten() {
            let value = value.as_str().expect("a secret").to_owned();
            request = request.secret(MemorySecret::new(id.clone(), value));
        }
        let agent = self.folder.path().join("agent");
        request
            .ssh("default", AgentSocket::new(&agent))
            .ssh("other", AgentSocket::new(agent))
    }

    /// What is in a tar, as it was.
    fn inputs(&self, tar: &Path) -> PathBuf {
        let inputs = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let attributes = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "-p"];
        let mut command = Command::new("tar");
        command.arg("-xf").arg(tar).arg("-C").arg(&inputs);
        run(command.args(attributes));
        inputs
    }
}
