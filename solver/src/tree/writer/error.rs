//! Why a layer cannot be written.

use std::io;

use crate::cancel::Cancelled;
use crate::error::{Blame, Fault};
use crate::tree::TreePath;

/// A layer cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The operating system refused.
    #[error("cannot {action} {path} of a layer")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which object.
        path: TreePath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes to be written cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Where they should come from.
        path: TreePath,
        /// What the system or the reader said.
        #[source]
        source: io::Error,
    },
    /// Nothing is there.
    #[error("{path}: no such file or directory")]
    NotFound {
        /// The path that does not exist.
        path: TreePath,
    },
    /// Something that must be a directory is none.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// The object that is not one.
        path: TreePath,
    },
    /// A directory is where something else should be written, or is to be hard linked. It must be
    /// removed first.
    #[error("{path}: is a directory")]
    IsADirectory {
        /// The directory.
        path: TreePath,
    },
    /// The entry cannot be: a device 0:0, an empty link, a path or mode out of range.
    #[error("{path}: {problem}")]
    Entry {
        /// Which entry.
        path: TreePath,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file is no longer what it was when its checksum was computed.
    #[error("{path} changed while it was being read")]
    InputChanged {
        /// The file, in the tree it was read from.
        path: TreePath,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for WriteError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Environment,
            Self::Cancelled(_) => Fault::Environment,
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::InputChanged { .. } => {
                Some("do not change the directory while it is being built from".to_owned())
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space below the state root".to_owned())
            }
            _ => None,
        }
    }
}
