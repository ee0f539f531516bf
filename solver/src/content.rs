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

#[cfg(test)]
mod tests;
