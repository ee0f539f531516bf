//! Why a graph cannot be written.

use crate::source::InvalidSource;
use crate::vertex::Unusable;
use crate::{DeferredError, GuestPath, Mode};

/// Tells which step of a graph cannot be written, and why.
///
/// Steps are named by their custom name or, without one, by what they do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MarshalError {
    /// A source cannot be used.
    #[error("source {step:?}")]
    InvalidSource {
        /// The source.
        step: String,
        /// What is wrong with it.
        #[source]
        source: InvalidSource,
    },
    /// A run step has no program to run.
    #[error("run step {step:?} has no arguments")]
    NoArguments {
        /// The run step.
        step: String,
    },
    /// A file step does nothing.
    #[error("file step {step:?} has no actions")]
    NoActions {
        /// The file step.
        step: String,
    },
    /// A path has a zero byte, which no tree can have.
    #[error("path {path:?} of {step:?} has a zero byte")]
    Path {
        /// The step.
        step: String,
        /// The path.
        path: GuestPath,
    },
    /// A mode has bits that the file cannot have.
    #[error(
        "mode {mode} of {step:?} has bits the file cannot have; numbers of modes are octal, as 0o644"
    )]
    Mode {
        /// The step.
        step: String,
        /// The mode.
        mode: Mode,
    },
    /// A tmpfs starts empty.
    #[error("tmpfs mount {target:?} of {step:?} has a source other than scratch")]
    TmpfsSource {
        /// The run step.
        step: String,
        /// Target of the mount.
        target: String,
    },
    /// A step uses something that is no output.
    #[error("{step:?} uses an output that {maker:?} does not have")]
    Unusable {
        /// The step that uses it.
        step: String,
        /// The step that should make it.
        maker: String,
        /// Why it is no output.
        #[source]
        source: Unusable,
    },
    /// A step that needs an input has none but scratch.
    #[error("step {step:?} has no input but scratch")]
    NoInput {
        /// The step.
        step: String,
    },
    /// A passthrough has to be named.
    #[error("step {step:?} has no passthrough id")]
    NoPassthroughId {
        /// The step.
        step: String,
    },
    /// The function of a deferred state failed.
    #[error("{step:?} cannot be resolved")]
    Deferred {
        /// The deferred state.
        step: String,
        /// The function's error.
        #[source]
        source: DeferredError,
    },
    /// A deferred state turned out to be another one, a thousand times over.
    #[error("{step:?} is still deferred after 1000 steps")]
    DeferredTooOften {
        /// The last of them.
        step: String,
    },
}

impl MarshalError {
    /// Returns the name of the step that cannot be written.
    #[must_use]
    pub fn step(&self) -> &str {
        match self {
            Self::InvalidSource { step, .. }
            | Self::NoArguments { step }
            | Self::NoActions { step }
            | Self::Path { step, .. }
            | Self::Mode { step, .. }
            | Self::TmpfsSource { step, .. }
            | Self::Unusable { step, .. }
            | Self::NoInput { step }
            | Self::NoPassthroughId { step }
            | Self::Deferred { step, .. }
            | Self::DeferredTooOften { step } => step,
        }
    }
}
