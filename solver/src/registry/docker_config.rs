//! The files in which Docker, Podman and their like keep credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use base64::Engine as _;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::helper;
use super::{Credential, CredentialError, Credentials, Password};

/// Bytes of a file that are read. Real ones have a few kilobytes.
const FILE_BYTES: u64 = 16 << 20;

/// What `docker.io` is called in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Credentials from files of the format of `~/.docker/config.json`: entries of `auths`, helpers by
/// host (`credHelpers`) and a helper for all others (`credsStore`). Podman's `auth.json`, whose
/// entries may name a repository too, is of the same format.
///
/// The files are read each time a registry demands a credential, in their order; the first that
/// has an answer counts. A file that does not exist has none.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use ashlar_solver::registry::{Credential, Credentials as _, DockerConfig};
///
/// # let folder = tempfile::tempdir().unwrap();
/// let file = folder.path().join("config.json");
/// std::fs::write(&file, r#"{"auths": {"registry.test": {"auth": "bWU6aHVudGVyMg=="}}}"#).unwrap();
/// let known = DockerConfig::new(file);
/// let found = known.credential("registry.test", "any/thing").await.unwrap();
/// assert_eq!(found, Some(Credential::password("me", "hunter2")));
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    files: Vec<PathBuf>,
    helpers: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    auth: Option<Password>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Password>,
    #[serde(default, rename = "identitytoken")]
    identity: Option<Password>,
    #[serde(default, rename = "registrytoken")]
    registry: Option<Password>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").finish_non_exhaustive()
    }
}

impl DockerConfig {
    /// Reads one file.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            files: vec![file.into()],
            helpers: None,
        }
    }

    /// Adds a file that is read where those before it have no answer.
    #[must_use]
    pub fn and(mut self, file: impl Into<PathBuf>) -> Self {
        self.files.push(file.into());
        self
    }

    /// Sets the directory that has the helpers. Default: those that the `PATH` of the host program
    /// names.
    #[must_use]
    pub fn helpers(mut self, folder: impl Into<PathBuf>) -> Self {
        self.helpers = Some(folder.into());
        self
    }

    /// The files that Docker and Podman would read: `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`; `$REGISTRY_AUTH_FILE`, or `containers/auth.json` below
    /// `$XDG_RUNTIME_DIR` and below `$XDG_CONFIG_HOME` or `~/.config`.
    ///
    /// The one place of the library that reads the environment, and only when it is called.
    pub fn from_environment() -> Self {
        let variable = |name: &str| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let home = std::env::home_dir();
        let below = |folder: Option<PathBuf>, rest: &str| folder.map(|folder| folder.join(rest));
        let docker = variable("DOCKER_CONFIG").or_else(|| below(home.clone(), ".docker"));
        let mut files: Vec<PathBuf> = below(docker, "config.json").into_iter().collect();
        match variable("REGISTRY_AUTH_FILE") {
            Some(file) => files.push(file),
            None => {
                files.extend(below(variable("XDG_RUNTIME_DIR"), "containers/auth.json"));
                let config = variable("XDG_CONFIG_HOME").or_else(|| below(home, ".config"));
                files.extend(below(config, "containers/auth.json"));
            }
        }
        Self {
            files,
            helpers: None,
        }
    }

    async fn look(
        &self,
        path: &Path,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let Some(file) = read(path)? else {
            return Ok(None);
        };
        let server = match host {
            "docker.io" => DOCKER_HUB,
            host => host,
        };
        let own = file.helpers.get(server).or_else(|| file.helpers.get(host));
        if let Some(name) = own.or(file.store.as_ref()).filter(|name| !name.is_empty()) {
            let found = helper::ask(name, self.helpers.as_deref(), server).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        let malformed = |problem: &str| CredentialError::Malformed {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        file.entry(host, repository)
            .map_or(Ok(None), |entry| entry.credential().map_err(malformed))
    }
}

#[async_trait]
impl Credentials for DockerConfig {
    async fn credential(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for path in &self.files {
            if let Some(found) = self.look(path, host, repository).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path) -> Result<Option<File>, CredentialError> {
    let failed = |source| CredentialError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // Only where it is wrong is told: the message of the decoder may repeat a password.
    let malformed = |error: serde_json::Error| CredentialError::Malformed {
        path: path.to_owned(),
        problem: format!("line {}, column {}", error.line(), error.column()),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

impl File {
    /// The entry that fits best: of the repository, of what is above it, of the host.
    fn entry(&self, host: &str, repository: &str) -> Option<&Entry> {
        let mut name = format!("{host}/{repository}");
        loop {
            if let Some(entry) = self.auths.get(&name) {
                return Some(entry);
            }
            match name.rfind('/') {
                Some(at) => name.truncate(at),
                None => break,
            }
        }
        let hub = host == "docker.io";
        let named = |key: &&String| {
            let bare = key
                .strip_prefix("https://")
                .or_else(|| key.strip_prefix("http://"));
            let bare = bare.unwrap_or(key);
            let bare = bare.split('/').next().unwrap_or_default();
            // Older clients wrote addresses; a name with a path that is none stands for a
            // repository.
            let address = key.contains("://") || !key.contains('/');
            address && (bare == host || (hub && bare == "index.docker.io"))
        };
        let key = self.auths.keys().find(named)?;
        self.auths.get(key)
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let given = |text: &Option<Password>| {
            let text = text.as_ref().filter(|text| !text.reveal().is_empty());
            text.cloned()
        };
        if let Some(token) = given(&self.identity) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(token) = given(&self.registry) {
            return Ok(Some(Credential::RegistryToken(token)));
        }
        if let (Some(username), Some(password)) = (&self.username, given(&self.password)) {
            let username = username.clone();
            return Ok(Some(Credential::Password { username, password }));
        }
        let Some(auth) = given(&self.auth) else {
            return Ok(None);
        };
        let decoded = base64::engine::general_purpose::STANDARD.decode(auth.reveal().trim());
        let decoded = Zeroizing::new(decoded.map_err(|_| "an `auth` is not base64")?);
        let text = std::str::from_utf8(&decoded).map_err(|_| "an `auth` is not text")?;
        let (username, password) = text
            .split_once(':')
            .ok_or("an `auth` has no user and password")?;
        let password = password.trim_end_matches('\0');
        Ok(Some(Credential::password(username, password)))
    }
}
