//! The store's database: small records about layers, blobs, names and cache keys.
//!
//! Owns `meta.db` below the state root, behind the traits of this module. Many processes use one
//! file at once. Each method is one short transaction; none waits for a disk.
//!
//! Invariants:
//! 1. Losing the database loses hits, never correctness: nothing here is the only copy of
//!    anything but the knowledge what can be used again.
//! 2. A record is visible to every process as soon as the method returns, and survives the death
//!    of a process. It survives the death of the *machine* once the generation it is stamped with
//!    was synced ([`Durability`]); records past the last synced generation are dropped when the
//!    database is opened after a restart of the machine.
//! 3. Ids of stacks are never used twice.
//!
//! Leaves to others: the layers and blobs themselves, and the check that they are still there.
//!
//! [`Database`] is the real thing, [`Memory`] the strict double; `contract` is the suite that
//! both pass. Methods block for microseconds and may be called from async code.

#[cfg(test)]
mod contract;
mod database;
mod memory;
mod records;
mod stacks;

pub use database::{Database, Opened};
pub use memory::Memory;
pub use records::{Link, RecordBatch, RecordReader, RecordWriter, Records, ResultRow, WriteBody};
pub use stacks::{LayerBlob, LayerBlobs, StackRow, Stacks};

use std::path::PathBuf;

use crate::error::{Blame, Fault};

/// Everything the engine keeps in the database.
pub trait Meta: Stacks + LayerBlobs + Names + Records + Durability {}

impl<M: Stacks + LayerBlobs + Names + Records + Durability> Meta for M {}

/// A key of a namespace, and its value.
pub type NamedValue = (Vec<u8>, Vec<u8>);

/// Small values by namespace and key, for example an image's chain id -> its stack.
pub trait Names: Send + Sync + std::fmt::Debug {
    /// The value of `key` in `namespace`.
    ///
    /// # Errors
    /// The database cannot be read.
    fn name(&self, namespace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError>;

    /// All keys of `namespace` with their values, in the order of the keys.
    ///
    /// # Errors
    /// The database cannot be read.
    fn names(&self, namespace: &str) -> Result<Vec<NamedValue>, MetaError>;

    /// Sets the value of `key` in `namespace`, replacing what was there.
    ///
    /// # Errors
    /// The database cannot be written.
    fn put_name(&self, namespace: &str, key: &[u8], value: &[u8]) -> Result<(), MetaError> {
        self.put_names(namespace, &[(key, value)])
    }

    /// Sets the values of several keys in `namespace` at once: all of them, or none.
    ///
    /// # Errors
    /// The database cannot be written; all is as it was then.
    fn put_names(&self, namespace: &str, named: &[(&[u8], &[u8])]) -> Result<(), MetaError>;

    /// Removes `key` from `namespace`; nothing happens if it is not there.
    ///
    /// # Errors
    /// The database cannot be written.
    fn remove_name(&self, namespace: &str, key: &[u8]) -> Result<(), MetaError>;
}

/// A batch of records that becomes durable together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub i64);

/// Which records survive the death of the machine.
pub trait Durability: Send + Sync + std::fmt::Debug {
    /// Closes the current generation and returns it; later records belong to the next one. The
    /// caller then syncs the file system and calls [`finish_sync`](Self::finish_sync).
    ///
    /// # Errors
    /// The database cannot be written.
    fn begin_sync(&self) -> Result<Generation, MetaError>;

    /// States that everything up to `generation` is on disk.
    ///
    /// # Errors
    /// The database cannot be written.
    fn finish_sync(&self, generation: Generation) -> Result<(), MetaError>;

    /// Whether any record was written that no finished generation covers. Reads only, so that a
    /// solve that changed nothing syncs nothing.
    ///
    /// # Errors
    /// The database cannot be read.
    fn needs_sync(&self) -> Result<bool, MetaError>;
}

/// Why the database did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// The file cannot be opened or made.
    #[error("cannot open the database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: rusqlite::Error,
    },
    /// A file beside the database cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: std::io::Error,
    },
    /// The file was written by another version of the engine.
    #[error("the database {} has format {found}, not {known}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The format of this version.
        known: i64,
    },
    /// A statement failed.
    #[error("cannot {action} in the database")]
    Statement {
        /// What was tried.
        action: &'static str,
        /// What went wrong.
        #[source]
        source: rusqlite::Error,
    },
    /// A stored value cannot be what this version wrote.
    #[error("the database holds a malformed {what}")]
    Malformed {
        /// Which value.
        what: &'static str,
    },
    /// A stack was to be added on a parent that is not there.
    #[error("there is no stack {parent}")]
    NoParent {
        /// The parent.
        parent: i64,
    },
}

impl Blame for MetaError {
    fn fault(&self) -> Fault {
        match self {
            Self::Open { .. }
            | Self::File { .. }
            | Self::Format { .. }
            | Self::Statement { .. }
            | Self::Malformed { .. } => Fault::Environment,
            Self::NoParent { .. } => Fault::Bug,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Format { .. } => Some(
                "use a state root of its own, or the version of the engine that made it".to_owned(),
            ),
            _ => None,
        }
    }
}
