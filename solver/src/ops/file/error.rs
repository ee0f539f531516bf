//! Why a file op fails.

use std::fmt::Write as _;

use super::mode::ModeError;
use crate::cancel::Cancelled;
use crate::error::{Blame, Failure, Fault, OperationError};
use crate::executor::AccountError;
use crate::tree::TreePath;
use crate::tree::tar::TarError;
use crate::tree::view::ResolveError;
use crate::tree::writer::WriteError;

/// A file op cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// An action failed.
    #[error("action {index} ({action})")]
    Action {
        /// Which action of the op, from 0.
        index: usize,
        /// What it does, for example `copy /a to /b`.
        action: String,
        /// Why it failed.
        #[source]
        problem: FileProblem,
    },
    /// An action names an input that is neither an input of the op nor an earlier action.
    #[error("action {index} uses input {input}, but there are {count}")]
    Input {
        /// Which action of the op, from 0.
        index: usize,
        /// The number it gives.
        input: i64,
        /// Inputs of the op and actions.
        count: usize,
    },
    /// An action depends on its own outcome.
    #[error("action {index} depends on its own outcome")]
    Loop {
        /// Which action of the op, from 0.
        index: usize,
    },
    /// Two actions make the same output.
    #[error("output {output} is made twice")]
    DuplicateOutput {
        /// The number of the output.
        output: i64,
    },
    /// Outputs must be numbered from 0 without a gap, and there must be one.
    #[error("no action makes output {output}")]
    MissingOutput {
        /// The number of the output.
        output: usize,
    },
    /// An action of a kind that is not known.
    #[error("action {index} is of an unknown kind")]
    UnknownAction {
        /// Which action of the op, from 0.
        index: usize,
    },
}

/// Why one action fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// A path leads nowhere.
    #[error("{path}: no such file or directory{}", suggestion(nearest))]
    NotFound {
        /// The path.
        path: TreePath,
        /// What exists and is named nearly so.
        nearest: Vec<String>,
    },
    /// A path leads through something that is not a directory, or in circles.
    #[error(transparent)]
    Resolve(ResolveError),
    /// Something exists that must not.
    #[error("{path}: file exists")]
    Exists {
        /// The path.
        path: TreePath,
    },
    /// Something that is not a directory is where a directory is needed.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// The path.
        path: TreePath,
    },
    /// A file should be written where a directory, device or pipe is.
    #[error("{path}: not a regular file")]
    NotAFile {
        /// The path.
        path: TreePath,
    },
    /// A directory should be replaced by something else.
    #[error("cannot replace directory {path} with a file")]
    ReplacesDirectory {
        /// The directory.
        path: TreePath,
    },
    /// A directory should be copied onto something else.
    #[error("cannot copy a directory to non-directory {path}")]
    OntoFile {
        /// What is there.
        path: TreePath,
    },
    /// The root cannot be removed.
    #[error("the root cannot be removed")]
    RemovesRoot,
    /// A wildcard matches nothing.
    #[error("{pattern} not found{}", suggestion(nearest))]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// What exists and is named nearly so.
        nearest: Vec<String>,
    },
    /// A path holds a NUL byte.
    #[error("{path:?} is not a path")]
    Path {
        /// The path.
        path: String,
    },
    /// The mode cannot be read.
    #[error(transparent)]
    Mode(#[from] ModeError),
    /// An include or exclude pattern cannot be read.
    #[error("{pattern:?} cannot be taken for a pattern: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The owner cannot be told.
    #[error("cannot tell the owner")]
    Owner(#[from] AccountError),
    /// An owner is to be looked up in an input that is not there.
    #[error("the owner {name:?} is to be looked up in input {input}, which is not there")]
    OwnerInput {
        /// The user or group.
        name: String,
        /// The number of the input.
        input: i64,
    },
    /// The source is an archive, and cannot be unpacked.
    #[error("cannot unpack {archive}")]
    Unpack {
        /// The archive.
        archive: TreePath,
        /// Why not.
        #[source]
        problem: Box<Self>,
    },
    /// An archive is malformed, or its compression is.
    #[error(transparent)]
    Tar(TarError),
    /// An archive inflates to more than may be.
    #[error("it inflates to more than {limit} bytes")]
    TooLarge {
        /// The ceiling, [`Limits::layer_bytes`](crate::limits::Limits::layer_bytes).
        limit: u64,
    },
    /// An archive has more entries than may be.
    #[error("it has more than {limit} entries")]
    TooMany {
        /// The ceiling, [`Limits::layer_entries`](crate::limits::Limits::layer_entries).
        limit: u64,
    },
    /// A file of an input cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: TreePath,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The layer cannot be written.
    #[error("cannot write the layer")]
    Write(#[source] WriteError),
}

/// `; did you mean a or b?`, or nothing.
fn suggestion(nearest: &[String]) -> String {
    let mut text = String::new();
    for (at, name) in nearest.iter().enumerate() {
        let before = if at == 0 { "; did you mean " } else { " or " };
        write!(text, "{before}{name}").expect("BUG: writing to a string cannot fail");
    }
    if !text.is_empty() {
        text.push('?');
    }
    text
}

impl From<ResolveError> for FileProblem {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::NotFound { path } => Self::NotFound {
                path,
                nearest: Vec::new(),
            },
            ResolveError::NotADirectory { path } => Self::NotADirectory { path },
            error => Self::Resolve(error),
        }
    }
}

impl Blame for FileError {
    fn fault(&self) -> Fault {
        match self {
            Self::Action { problem, .. } => match problem.write_error() {
                Some(error) => error.fault(),
                None if matches!(problem, FileProblem::Read { .. }) => Fault::Environment,
                None => Fault::Input,
            },
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Action { problem, .. } => problem.write_error()?.remedy(),
            _ => None,
        }
    }
}

/// What ends an action early: its own problem, or that of something it needs.
#[derive(Debug)]
pub(super) enum Stop {
    Problem(FileProblem),
    Operation(OperationError),
}

impl<E: Into<FileProblem>> From<E> for Stop {
    fn from(problem: E) -> Self {
        Self::Problem(problem.into())
    }
}

impl From<OperationError> for Stop {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}

impl From<Cancelled> for Stop {
    fn from(_: Cancelled) -> Self {
        Self::Operation(OperationError::Cancelled)
    }
}

impl From<WriteError> for Stop {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Cancelled(_) => Self::Operation(OperationError::Cancelled),
            error => Self::Problem(FileProblem::Write(error)),
        }
    }
}

impl Stop {
    /// The error of the op, told which action it was.
    pub(super) fn of_action(self, index: usize, action: String) -> OperationError {
        match self {
            Self::Problem(problem) => Failure::new(FileError::Action {
                index,
                action,
                problem,
            })
            .into(),
            Self::Operation(error) => error,
        }
    }
}
