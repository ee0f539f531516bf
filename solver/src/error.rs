//! What every error of the engine can say of itself.
//!
//! Each floor has its own error enum. An enum that implements [`Blame`] converts into a
//! [`Failure`], which is what an operation returns: cheap to clone, because one failed run may
//! have many waiters.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::cancel::Cancelled;

/// Whose fault an error is, which decides who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// What the caller asked for is wrong: the definition, the files, the options. Trying again
    /// does not help; changing the input does.
    Input,
    /// The machine lacks something: permission, space, a kernel feature, a program.
    Environment,
    /// Another machine failed. Worth another try when `retryable`.
    Remote {
        /// Whether the same request may succeed later.
        retryable: bool,
    },
    /// The engine broke one of its own promises; please report it.
    Bug,
}

/// An error that knows whose fault it is and what to do about it.
pub trait Blame: StdError + Send + Sync + 'static {
    /// Whose fault it is.
    fn fault(&self) -> Fault;

    /// What the person responsible can do, as one sentence; `None` if the message says it all.
    fn remedy(&self) -> Option<String> {
        None
    }

    /// Whether it lies with what the caller of one solve brought along, such as an imported cache.
    /// Other solves that wait for the same work then try for themselves. Default: false.
    fn is_personal(&self) -> bool {
        false
    }
}

/// Any error of the engine, shared by everyone who waited for the failed work.
#[derive(Clone)]
pub struct Failure(Arc<dyn Blame>);

impl Failure {
    /// Wraps an error.
    pub fn new(error: impl Blame) -> Self {
        Self(Arc::new(error))
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.0.fault()
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<String> {
        self.0.remedy()
    }

    /// Whether it lies with what the caller of one solve brought along.
    pub fn is_personal(&self) -> bool {
        self.0.is_personal()
    }

    /// The error itself, for a caller that knows which type to expect.
    pub fn downcast_ref<E: Blame>(&self) -> Option<&E> {
        let error: &(dyn StdError + 'static) = &*self.0;
        error.downcast_ref()
    }

    /// The error as the standard trait sees it.
    pub fn as_error(&self) -> &(dyn StdError + 'static) {
        &*self.0
    }

    /// The message followed by those of all causes, separated by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl<E: Blame> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A [`Failure`] as the source of another error.
#[derive(Debug, Clone)]
pub struct FailureSource(pub Failure);

impl fmt::Display for FailureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for FailureSource {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.as_error().source()
    }
}

/// Why an operation ended without a result.
#[derive(Debug, Clone, thiserror::Error)]
#[expect(
    clippy::exhaustive_enums,
    reason = "an operation fails or is cancelled; there is no third way"
)]
pub enum OperationError {
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// It failed.
    #[error("{0}")]
    Failed(Failure),
}

impl From<Cancelled> for OperationError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl<E: Blame> From<E> for OperationError {
    fn from(error: E) -> Self {
        Self::Failed(Failure::new(error))
    }
}

impl From<Failure> for OperationError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
