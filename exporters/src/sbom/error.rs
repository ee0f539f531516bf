//! Why a scan failed.

use std::io;

use ashlar_solver::cancel::Cancelled;
use ashlar_solver::error::{Blame, Failure, Fault, OperationError};

use crate::exporter::NoRuntime;

/// A result could not be looked through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// It was cancelled.
    #[error("the scan was cancelled")]
    Cancelled,
    /// It was awaited where there is no tokio runtime.
    #[error("a scan needs a tokio runtime")]
    NoRuntime,
    /// There is more to read, or to write down, than the scanner takes.
    #[error("the result has more {what} than a scan takes ({limit})")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much it takes.
        limit: u64,
    },
    /// A file of the result cannot be read.
    #[error("cannot read {path} of the result")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store failed, or a lazy result cannot be read.
    #[error("{}", .0.chain())]
    Store(Failure),
    /// A scanner failed in a way of its own.
    #[error("the scanner failed: {reason}")]
    Scanner {
        /// What happened.
        reason: String,
    },
}

impl From<Cancelled> for ScanError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<NoRuntime> for ScanError {
    fn from(_: NoRuntime) -> Self {
        Self::NoRuntime
    }
}

impl From<OperationError> for ScanError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Cancelled => Self::Cancelled,
            OperationError::Failed(failure) => Self::Store(failure),
        }
    }
}

impl Blame for ScanError {
    fn fault(&self) -> Fault {
        match self {
            Self::Cancelled | Self::NoRuntime | Self::Limit { .. } => Fault::Input,
            Self::Read { .. } | Self::Scanner { .. } => Fault::Environment,
            Self::Store(failure) => failure.fault(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Limit { what, .. } if *what == DOCUMENT => {
                let remedy = "leave the files of packages out (PackageScanner::files(false)) or \
                              raise the limit (PackageScanner::limits)";
                Some(remedy.to_owned())
            }
            Self::Limit { .. } => Some("raise the limit: PackageScanner::limits".to_owned()),
            Self::NoRuntime => Some("await the scan inside a tokio runtime".to_owned()),
            Self::Store(failure) => failure.remedy(),
            _ => None,
        }
    }
}

/// What a document that became too large has too much of.
pub(crate) const DOCUMENT: &str = "bytes of documents about it";
