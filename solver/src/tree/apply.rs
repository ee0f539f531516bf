//! From the tar stream of an image layer to a layer directory.
//!
//! Owns [`apply`], which unpacks and hashes in one pass without knowing what lies below (so that
//! the layers of an image are unpacked at the same time), and [`RawLayer::normalize`], which then
//! brings the layer to normal form on its base.
//!
//! Invariants:
//! - **Nothing outside the layer directory is touched, whatever the archive says.** Paths are
//!   resolved in the memory image of this layer; the kernel only ever gets single names below
//!   directories that were opened without following links.
//! - **The kernel never sees what means something to it alone**: attributes of the overlay file
//!   system are dropped, character devices 0:0 are refused.
//! - Time, memory and disk are bounded by [`crate::limits::Limits`].
//!
//! Where an archive leaves a choice:
//! - A later entry replaces an earlier one of the same path; a directory over a directory only
//!   sets attributes.
//! - A directory that the archive does not mention has the attributes of the one in the base, or
//!   0755, root and time 0. A symbolic link of this layer in its place is followed inside the
//!   layer, one of the base is replaced.
//! - A removal of something that the same archive contains is about the layers below alone.
//! - The entry of the root directory (`./`) is read over, as containerd does; so is what aufs kept
//!   in the root (`.wh..wh.*` but for the opaque mark).
//! - A hard link leads to an earlier entry of the same archive. What the link's entry says of
//!   attributes counts for all names of the file.
//!
//! Leaves to others: reading and inflating blobs (`content`), and committing the layer
//! (`snapshot`).

mod attributes;
mod disk;
mod error;
mod extract;
mod normalize;
mod staging;

pub use error::ApplyError;
pub use extract::apply;
pub use normalize::Normalized;

use staging::Staged;

/// What the process may do when it unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "one switch, and a caller must say it"
)]
pub struct ApplyOptions {
    /// Set owners, devices and all extended attributes on disk. Otherwise they live in the index
    /// alone, devices are empty files on disk, and every file can be read by its owner.
    pub privileged: bool,
}

/// A layer that is unpacked but not in normal form: it is not known yet what it removes from
/// where.
#[derive(Debug)]
pub struct RawLayer {
    tree: Staged,
    options: ApplyOptions,
    entries: u64,
}

impl RawLayer {
    /// Entries of the archive, those that were replaced included.
    pub fn entries(&self) -> u64 {
        self.entries
    }
}

#[cfg(test)]
mod tests;
