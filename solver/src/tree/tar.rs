//! The tar format: reading what others wrote, and writing what Go's `archive/tar` would.
//!
//! Owns [`TarReader`] (a stream of [`Header`]s and their bytes), [`TarScanner`] (the same for bytes
//! that are pushed) and [`TarWriter`].
//!
//! Invariants:
//! - **Where readers in use disagree about what an archive contains, it is refused**: malformed
//!   PAX records, sizes on entries that have no data, GNU and PAX names for one entry, numbers
//!   that overflow. What one reader checked is what another would unpack.
//! - One pass, bounded memory: the metadata of one entry is at most [`MAX_METADATA`] bytes.
//!
//! Formats read: V7, USTAR, PAX, GNU (long names, base-256 numbers, old sparse files), and GNU's
//! sparse files in PAX (0.0, 0.1, 1.0). Global PAX headers are read over as containerd does,
//! unless they would change what an entry is.
//!
//! Leaves to others: what names mean (`apply`), and which entries a layer has (`pack`).

mod block;
mod original;
mod pax;
mod reader;
mod rewrite;
mod scan;
mod sparse;
mod writer;

pub use reader::TarReader;
pub use rewrite::{RewriteError, rewrite_times};
pub use scan::{TarPart, TarScanner};
pub use writer::{TarFormat, TarWriter};

use std::io;

use super::Timestamp;
use super::entry::Device;

/// Bytes of a block.
const BLOCK: usize = 512;

/// Bytes that the metadata of one entry may have (PAX records, long names, maps of sparse
/// files): what Go accepts.
pub const MAX_METADATA: u64 = 1 << 20;

/// What kind of object an entry of a tar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the kinds of the format")]
pub enum TarKind {
    /// A regular file with its bytes.
    File,
    /// Another name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// What an archive says about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "the fields of the format; writers fill all of them"
)]
pub struct Header {
    /// The name, byte for byte: may be absolute, have `..`, end in `/`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// The target of a hard or symbolic link; empty for everything else.
    pub link: Vec<u8>,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file, holes included; 0 for everything else.
    pub size: u64,
    /// Time of last change.
    pub mtime: Timestamp,
    /// Number of a device; 0:0 for everything else.
    pub device: Device,
    /// Extended attributes (`SCHILY.xattr.` records), in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether the file has holes.
    pub sparse: bool,
}

/// Whether a block is the header of an entry. What an archive begins with tells it from other
/// files.
pub fn is_header(block: &[u8; 512]) -> bool {
    let block = block::Block(block);
    !block.is_zero() && block.checksum_holds()
}

/// A tar stream cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The reader below failed.
    #[error("cannot read the archive")]
    Read {
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The stream ends in the middle of something.
    #[error("the archive ends in the middle of {place}")]
    Truncated {
        /// Of what.
        place: &'static str,
    },
    /// The stream does not follow the format.
    #[error("the archive is malformed at byte {offset}: {problem}")]
    Malformed {
        /// Where the block starts.
        offset: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The stream uses something that no layer needs.
    #[error("the archive uses {feature} at byte {offset}, which is not supported")]
    Unsupported {
        /// Where the block starts.
        offset: u64,
        /// What it uses.
        feature: &'static str,
    },
}

#[cfg(test)]
mod tests;
