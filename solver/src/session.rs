//! What a caller lends to one solve: local directories, image layouts, secrets and ssh agents.
//!
//! Owns [`Session`], the seams [`SecretProvider`] and [`SshAgent`] behind which a caller keeps
//! what is its own, and the implementations that most callers need.
//!
//! A session is a plain value; nothing in it outlives the solve it is given to.

mod secret;
mod ssh;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub use secret::{
    CommandSecret, EnvSecret, FileSecret, MAX_SECRET, MemorySecret, SecretError, SecretProvider,
    SecretValue,
};
pub use ssh::{AgentSocket, SshAgent};

/// A directory lent to a solve under the name that `llb::local` uses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalDirectory {
    /// Where it is. Read in place, never written to.
    pub path: PathBuf,
    /// Keep the owners of files instead of counting all as uid 0 and gid 0, which is what
    /// BuildKit's client sends. Default: false.
    pub keep_owners: bool,
    /// Count permissions as git does: 0755 for directories and for files that their owner may
    /// execute, 0644 for other files. Checkouts with another umask then have the same cache keys.
    /// Default: false.
    pub git_modes: bool,
}

impl LocalDirectory {
    /// Lends `path`, with owners counted as root.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            keep_owners: false,
            git_modes: false,
        }
    }
}

/// Everything lent to one solve.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Session {
    /// Local directories by the name of the `local://` source.
    pub locals: BTreeMap<String, LocalDirectory>,
    /// OCI image layouts, directories or archives, by the store id of the `oci-layout://` source.
    pub oci_layouts: BTreeMap<String, PathBuf>,
    /// Where secrets come from. The last provider that has a secret of an id gives it.
    pub secrets: Vec<Arc<dyn SecretProvider>>,
    /// Ssh agents by their ids; that of a step that names none is `default`.
    pub ssh: BTreeMap<String, Arc<dyn SshAgent>>,
}

impl Session {
    /// The secret `id`; `None` if nobody has one.
    ///
    /// # Errors
    /// [`SecretError`], also for a value of more than [`MAX_SECRET`] bytes.
    ///
    /// # Cancellation
    /// Dropping the future ends what a provider does for it.
    pub async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError> {
        for provider in self.secrets.iter().rev() {
            if let Some(value) = provider.secret(id).await? {
                return if value.expose().len() > MAX_SECRET {
                    Err(SecretError::TooBig { id: id.to_owned() })
                } else {
                    Ok(Some(value))
                };
            }
        }
        Ok(None)
    }
}
