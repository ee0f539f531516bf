//! Secrets: where they come from, and the value that carries one.
//!
//! Owns [`SecretValue`], the seam [`SecretProvider`], and its implementations: a value in memory, a
//! file, a variable of the environment, the output of a command.
//!
//! Invariants:
//! - The bytes of a secret are in memory that is zeroed when nobody holds them any more, and in no
//!   debug output and no error.
//! - Nothing is read before a step asks for it.
//!
//! Leaves to others: how a step gets to see a secret (`ops`, `executor`).

mod command;
mod env;
mod file;
mod read;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use zeroize::Zeroizing;

pub use command::CommandSecret;
pub use env::EnvSecret;
pub use file::FileSecret;

use crate::error::{Blame, Fault};

/// The longest secret there may be, in bytes: BuildKit's limit.
pub const MAX_SECRET: usize = 500 << 10;

/// The bytes of a secret: shared by all clones, zeroed when the last of them is dropped, and not
/// shown by [`Debug`](fmt::Debug).
///
/// ```
/// use ashlar_solver::session::SecretValue;
///
/// let value = SecretValue::new("hunter2");
/// assert_eq!(value.expose(), b"hunter2");
/// assert_eq!(format!("{value:?}"), "SecretValue(..)");
/// ```
#[derive(Clone)]
pub struct SecretValue(Arc<Zeroizing<Vec<u8>>>);

impl SecretValue {
    /// Takes the bytes over. A `Vec` or `String` is not copied, so that no second copy is left
    /// behind.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.into())))
    }

    /// The bytes. Whoever copies them has to see to it that the copy does not last.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as shared memory, for the sandbox.
    pub(crate) fn shared(&self) -> Arc<Zeroizing<Vec<u8>>> {
        self.0.clone()
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretValue {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// Has secrets by id.
///
/// A provider may be asked from many tasks at once and again for the same id: once for each step
/// that uses it.
#[async_trait]
pub trait SecretProvider: Send + Sync + fmt::Debug {
    /// The secret `id`; `None` if this provider has none of that id. A step that needs it then
    /// fails, one that does not runs without it.
    ///
    /// # Errors
    /// [`SecretError`] if there is such a secret and it cannot be had; the step fails.
    ///
    /// # Cancellation
    /// The future may be dropped at any await; what it started must end with it.
    async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError>;
}

/// A secret that is there cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// It is longer than [`MAX_SECRET`].
    #[error("the secret {id:?} is larger than 500 KiB")]
    TooBig {
        /// Its id.
        id: String,
    },
    /// Its file cannot be read.
    #[error("cannot read the secret {id:?} from {}", path.display())]
    File {
        /// Its id.
        id: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The command that prints it cannot be run.
    #[error("cannot run {program:?} for the secret {id:?}")]
    Command {
        /// Its id.
        id: String,
        /// The program, without its arguments.
        program: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The command that prints it failed.
    #[error("{program:?}, which has the secret {id:?}, failed: {status}: {message}")]
    CommandFailed {
        /// Its id.
        id: String,
        /// The program, without its arguments.
        program: String,
        /// How it ended.
        status: String,
        /// The beginning of what it wrote to standard error.
        message: String,
    },
    /// A provider of the caller failed.
    #[error("cannot get the secret {id:?}")]
    Provider {
        /// Its id.
        id: String,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The runtime is going down.
    #[error("reading the secret {id:?} was interrupted")]
    Interrupted {
        /// Its id.
        id: String,
    },
}

impl Blame for SecretError {
    fn fault(&self) -> Fault {
        match self {
            Self::TooBig { .. } => Fault::Input,
            _ => Fault::Environment,
        }
    }
}

/// A secret whose value the caller has already.
#[derive(Debug, Clone)]
pub struct MemorySecret {
    id: String,
    value: SecretValue,
}

impl MemorySecret {
    /// The secret `id` with this value.
    pub fn new(id: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            id: id.into(),
            value: SecretValue::new(value),
        }
    }
}

#[async_trait]
impl SecretProvider for MemorySecret {
    async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError> {
        Ok((id == self.id).then(|| self.value.clone()))
    }
}

#[cfg(test)]
mod tests;
