//! Who we are to a registry.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use zeroize::Zeroizing;

use crate::error::{Blame, Fault};

/// A password or token. Zeroed when dropped, and not shown by [`Debug`](fmt::Debug).
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What to show to a registry or to its token server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A user and a password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Password,
    },
    /// A token that the token server exchanges for others (OAuth2's refresh token).
    IdentityToken(Password),
    /// A token for the registry itself; no token server is asked.
    RegistryToken(Password),
}

impl Credential {
    /// A user and a password.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password {
            username: username.into(),
            password: Password::new(password),
        }
    }
}

/// A provider cannot tell whether there is a credential.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file of credentials cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file of credentials is not what it should be. Its content is not repeated.
    #[error("{} is not a good file of credentials: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A credential helper failed.
    #[error("the credential helper `{program}` failed: {problem}")]
    Helper {
        /// Its program.
        program: String,
        /// What happened; what the helper wrote to its standard error, shortened.
        problem: String,
    },
    /// A provider of the caller failed.
    #[error("no credential can be had: {0}")]
    Other(String),
}

impl Blame for CredentialError {
    fn fault(&self) -> Fault {
        match self {
            Self::Malformed { .. } => Fault::Input,
            _ => Fault::Environment,
        }
    }
}

/// Knows the credentials of registries. Implemented by [`DockerConfig`](super::DockerConfig), [`StaticCredentials`]
/// and callers.
#[async_trait]
pub trait Credentials: Send + Sync + fmt::Debug {
    /// What to show to `host` (as references have it: `docker.io`, `localhost:5000`) for
    /// `repository` (`library/alpine`); `None` to be nobody there.
    ///
    /// Called only after the registry demanded a credential, from any task, and again after a
    /// registry refused the one it got. Dropping the future gives up.
    ///
    /// # Errors
    /// [`CredentialError`].
    async fn credential(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError>;
}

/// Is nobody everywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn credential(&self, _: &str, _: &str) -> Result<Option<Credential>, CredentialError> {
        Ok(None)
    }
}

/// Credentials in memory, by host.
///
/// ```
/// use ashlar_solver::registry::{Credential, StaticCredentials};
///
/// let known = StaticCredentials::new()
///     .with("localhost:5000", Credential::password("me", "hunter2"));
/// assert!(!format!("{known:?}").contains("hunter2"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct StaticCredentials(BTreeMap<String, Credential>);

impl StaticCredentials {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the credential of a host, as references have it.
    #[must_use]
    pub fn with(mut self, host: impl Into<String>, credential: Credential) -> Self {
        self.0.insert(host.into(), credential);
        self
    }
}

#[async_trait]
impl Credentials for StaticCredentials {
    async fn credential(&self, host: &str, _: &str) -> Result<Option<Credential>, CredentialError> {
        Ok(self.0.get(host).cloned())
    }
}
