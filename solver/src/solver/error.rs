//! Why there is no solver or no result.

use std::sync::Arc;

use ashlar_llb::{LoadError, OpDigest};

pub use crate::error::FailureSource;

use crate::error::{Blame, Failure, Fault};
use crate::ops::build::NestedError;
use crate::ops::exec::ExecError;
use crate::ops::exec::failed::FailedStep;

/// A solver cannot be built.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No directory was given.
    #[error("a solver needs a directory for its state")]
    NoRoot,
    /// There is no tokio runtime on this thread, and none was given.
    #[error("a solver needs a tokio runtime")]
    NoRuntime,
    /// The store cannot be opened, or the sandbox not started.
    #[error("cannot open the solver")]
    Store(#[source] FailureSource),
}

impl Blame for BuildError {
    fn fault(&self) -> Fault {
        match self {
            Self::NoRoot | Self::NoRuntime => Fault::Input,
            Self::Store(failure) => failure.0.fault(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NoRoot => Some("call SolverBuilder::root".to_owned()),
            Self::NoRuntime => Some(
                "call build() inside a runtime, or pass its handle to SolverBuilder::runtime"
                    .to_owned(),
            ),
            Self::Store(failure) => failure.0.remedy(),
        }
    }
}

/// A place in the file that a vertex was written in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceLocation {
    /// Name of the file, as the definition says it.
    pub file: String,
    /// First line, from 1.
    pub line: u32,
    /// The text of that line; empty if the definition does not carry the file.
    pub text: String,
}

/// A solve has no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// It was cancelled.
    #[error("the solve was cancelled")]
    Cancelled,
    /// The definition is malformed.
    #[error("the definition cannot be loaded")]
    Definition(#[source] Arc<LoadError>),
    /// A vertex failed. What else ran was cancelled.
    #[error("failed to solve: {}{}", located(locations), failure.chain())]
    Vertex {
        /// Its digest.
        digest: OpDigest,
        /// Its display name.
        name: String,
        /// Where it stands in the user's source, if the definition says so.
        locations: Vec<SourceLocation>,
        /// Why it failed.
        failure: Failure,
    },
    /// Something failed that belongs to no vertex.
    #[error("failed to solve: {}", .0.chain())]
    Engine(Failure),
}

impl SolveError {
    /// The step that failed, with all it left behind, if a step of the build failed.
    pub fn failed_step(&self) -> Option<&FailedStep> {
        match self {
            Self::Vertex { failure, .. } => {
                // It may have failed in a build inside of the build.
                let mut failure = failure;
                while let Some(inner) = failure.downcast_ref().and_then(NestedError::inner) {
                    failure = inner;
                }
                failure.downcast_ref::<ExecError>()?.failed_step()
            }
            _ => None,
        }
    }
}

fn located(locations: &[SourceLocation]) -> String {
    locations
        .first()
        .map(|at| format!("{}:{}: ", at.file, at.line))
        .unwrap_or_default()
}

impl Blame for SolveError {
    fn fault(&self) -> Fault {
        match self {
            Self::Cancelled | Self::Definition(_) => Fault::Input,
            Self::Vertex { failure, .. } | Self::Engine(failure) => failure.fault(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Cancelled | Self::Definition(_) => None,
            Self::Vertex { failure, .. } | Self::Engine(failure) => failure.remedy(),
        }
    }
}
