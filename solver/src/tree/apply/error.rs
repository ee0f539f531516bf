//! Why a layer cannot be unpacked.

use std::io;

use crate::cancel::Cancelled;
use crate::error::{Blame, Fault};
use crate::tree::TreePath;
use crate::tree::index::IndexError;
use crate::tree::tar::TarError;

/// A layer cannot be unpacked. Paths are those of the archive, escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The stream is not a good archive.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// There are more entries than the limit.
    #[error("the layer has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// The files are larger than the limit, holes included.
    #[error("the files of the layer have more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// Names, link targets and attributes take more memory than is given to one layer.
    #[error("the metadata of the layer have more than {limit} bytes")]
    TooMuchMetadata {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A name contains a NUL byte, or is longer than file systems allow.
    #[error("`{path}` is not a possible name: {problem}")]
    Name {
        /// The entry.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An owner is the number that stands for nobody at all.
    #[error("the owner of `{path}` is out of range")]
    Owner {
        /// The entry.
        path: String,
    },
    /// The root of the archive is something other than a directory.
    #[error("the entry `{path}` would replace the root of the layer")]
    Root {
        /// The entry.
        path: String,
    },
    /// A removal has no name to remove, or something is inside a removal.
    #[error("the whiteout `{path}` is malformed")]
    Whiteout {
        /// The entry.
        path: String,
    },
    /// Something above an entry is not a directory.
    #[error("`{path}` is below something that is not a directory")]
    NotADirectory {
        /// The entry.
        path: String,
    },
    /// Symbolic links above an entry lead round in circles.
    #[error("`{path}` is behind too many symbolic links")]
    TooManyLinks {
        /// The entry.
        path: String,
    },
    /// A hard link does not lead to an earlier file of the same archive.
    #[error(
        "the hard link `{path}` leads to `{target}`, which is not an earlier file of the layer"
    )]
    HardLink {
        /// The entry.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A character device 0:0, which means a removal to the overlay file system.
    #[error("`{path}` is a character device 0:0")]
    WhiteoutDevice {
        /// The entry.
        path: String,
    },
    /// The file system refused.
    #[error("cannot {action} {path} of the layer")]
    Disk {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: TreePath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What was unpacked is not a layer.
    #[error("the layer cannot be indexed")]
    Index(#[from] IndexError),
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for ApplyError {
    fn fault(&self) -> Fault {
        match self {
            Self::Tar(TarError::Read { source }) => {
                // A reader that verifies or inflates says itself what is wrong with the blob.
                let content = source
                    .get_ref()
                    .and_then(|inner| inner.downcast_ref::<crate::content::ContentError>());
                content.map_or(Fault::Environment, Blame::fault)
            }
            Self::Disk { source, .. } => match source.raw_os_error().map(errno) {
                Some(Errno::NAMETOOLONG | Errno::RANGE | Errno::TOOBIG | Errno::INVAL) => {
                    Fault::Input
                }
                _ => Fault::Environment,
            },
            Self::Cancelled(_) => Fault::Environment,
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::TooManyEntries { .. } => {
                Some("raise Limits::layer_entries if the layer is wanted".to_owned())
            }
            Self::TooLarge { .. } => {
                Some("raise Limits::layer_bytes if the layer is wanted".to_owned())
            }
            _ => None,
        }
    }
}

use rustix::io::Errno;

fn errno(code: i32) -> Errno {
    Errno::from_raw_os_error(code)
}
