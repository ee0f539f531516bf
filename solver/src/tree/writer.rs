//! Makes a layer: its directory and its index in one pass.
//!
//! Owns [`LayerWriter`].
//!
//! Invariants:
//! - **The view is the truth**: [`LayerWriter::view`] is at any time what `finish` commits.
//! - **Normal form**: removals are explicit whiteouts; a directory is opaque only where it
//!   replaces something that is not a directory.
//! - **Names never leave the layer**: every object is reached by directory handles, and no
//!   symbolic link is followed.
//!
//! Leaves to others: where the layer is stored and when it is committed (`snapshot`), which paths
//! to write (`ops`, `source`).

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::entry::Device;
use super::{Attributes, Files, Index, Kind, Node, Timestamp, TreePath, View};
use crate::cancel::{Cancel, Cancelled};
use crate::error::{Blame, Fault};

/// How a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct WriterOptions {
    /// Whether the process may set owners, make devices and set trusted attributes. If not, these
    /// live in the index alone.
    pub privileged: bool,
    /// The time that directories get when something is made or removed in them.
    pub now: Timestamp,
}

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

/// One object to be copied by [`LayerWriter::copy`].
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct CopyItem {
    /// What to copy: for a directory only itself, its children are items of their own.
    pub source: Arc<Node>,
    /// Where it is in its own tree.
    pub source_path: TreePath,
    /// Where it goes.
    pub destination: TreePath,
    /// The attributes it gets there.
    pub attributes: Attributes,
    /// Items of one copy that share a number become hard links of each other.
    pub link_group: Option<u64>,
}

/// Writes a new layer on top of a base.
#[derive(Debug)]
pub struct LayerWriter {
    fs: OwnedFd,
    files: Arc<dyn Files>,
    base: View,
    options: WriterOptions,
}

#[expect(unused_variables, clippy::missing_const_for_fn, reason = "signatures first")]
impl LayerWriter {
    /// Starts with an empty directory `fs`, which belongs to the layer; `files` reads it.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn new(
        fs: OwnedFd,
        files: Arc<dyn Files>,
        base: View,
        options: WriterOptions,
    ) -> Result<Self, WriteError> {
        Ok(Self { fs, files, base, options })
    }

    /// The base and everything written so far.
    pub fn view(&self) -> &View {
        &self.base
    }

    /// Makes a directory, or gives an existing one these attributes. Something else at `path` is
    /// replaced.
    ///
    /// # Errors
    /// [`WriteError`]; the parent must be a directory.
    pub fn make_directory(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Writes a regular file of all that `data` gives; what is at `path` is replaced, unless it
    /// is a directory.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_file(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
        data: &mut dyn Read,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn make_symlink(
        &mut self,
        path: &TreePath,
        target: &[u8],
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Makes a device file or a named pipe. `device` is ignored for a pipe.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn make_node(
        &mut self,
        path: &TreePath,
        kind: Kind,
        device: Device,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Makes `path` another name of `existing`, which is copied into the layer if it is in the
    /// base.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn hard_link(&mut self, path: &TreePath, existing: &TreePath) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Removes `path` and all below it.
    ///
    /// # Errors
    /// [`WriteError::NotFound`].
    pub fn remove(&mut self, path: &TreePath) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Gives the object at `path`, and its hard links in this layer, other attributes.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn set_attributes(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Copies many objects, parents before children, with two threads.
    ///
    /// # Errors
    /// [`WriteError`]; the layer is then good for nothing.
    pub fn copy(&mut self, items: Vec<CopyItem>, cancel: &Cancel) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Sets what must be set last and gives the index of the layer.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn finish(self) -> Result<Index, WriteError> {
        unimplemented!()
    }
}
