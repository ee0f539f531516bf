//! Ssh agents that a caller lends.
//!
//! Owns the seam [`SshAgent`] and the agent behind a socket. What a step may say to an agent, and
//! the socket it says it through, is the business of the exec op.

use std::fmt;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use tokio::net::UnixStream;

/// An ssh agent, or whatever else listens behind a socket.
///
/// Connections may be asked for from many tasks at once: one for each that a step opens.
#[async_trait]
pub trait SshAgent: Send + Sync + fmt::Debug {
    /// Opens a connection on which the agent protocol is spoken.
    ///
    /// # Errors
    /// What the system says. At the start of a step it fails the step; later it only ends the
    /// connection of the step.
    async fn connect(&self) -> io::Result<UnixStream>;

    /// Whether a step may send anything, rather than only list keys and have them sign. For
    /// sockets behind which there is no agent (`raw` in BuildKit). Default: no.
    fn is_raw(&self) -> bool {
        false
    }
}

/// The agent that listens on a socket, such as the one that `SSH_AUTH_SOCK` names.
#[derive(Debug, Clone)]
pub struct AgentSocket {
    path: PathBuf,
    raw: bool,
}

impl AgentSocket {
    /// The agent behind the socket `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            raw: false,
        }
    }

    /// Lets steps send anything, because there is something else than an ssh agent.
    #[must_use]
    pub fn raw(mut self) -> Self {
        self.raw = true;
        self
    }
}

#[async_trait]
impl SshAgent for AgentSocket {
    async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path).await
    }

    fn is_raw(&self) -> bool {
        self.raw
    }
}
