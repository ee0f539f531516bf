//! Blobs: bytes that are named by their digest.
//!
//! Owns [`BlobStore`] (the blobs of a state root), [`BlobProvider`] (blobs from anywhere), [`Verify`] (a reader that fails unless it
//! yields exactly the bytes a descriptor promises) and [`Inflate`] (the tar stream inside a layer
//! blob, in one pass over its bytes).
//!
//! Invariants:
//! - **A name in the store leads to a complete blob.** A blob appears under its name in one step;
//!   a writer that is dropped leaves nothing.
//! - **Nobody learns a byte more than was promised.** A reader that verifies fails on a surplus
//!   byte as on a missing one.
//! - Nothing here calls fsync: after a power cut a blob may be damaged, which every reader that
//!   verifies notices.
//!
//! Leaves to others: which blobs are needed and which may go (`refs`), and what is in them.

mod error;
mod inflate;
mod provider;
mod store;
mod verify;
mod writer;

pub use error::ContentError;
pub use inflate::{Compression, Inflate};
pub use provider::{BlobProvider, NoSuchBlob};
pub use store::{Blob, BlobStore};
pub use verify::Verify;
pub use writer::BlobWriter;

/// Bytes of a large file that are written by one call. Linux takes memory for a file in pieces of
/// what a call writes; larger ones come out of the largest stretches of free memory, which are those
/// that a virtual machine gives back to its host and waits for when they are needed again. In pieces
/// of 256 KiB and more 500 MB took up to 1.3 s there, and 0.1 s in these when a file of that size had
/// just been removed; elsewhere all take the same.
pub const WRITE_SIZE: usize = 128 << 10;

#[cfg(test)]
mod tests;
