//! A typed builder and reader for BuildKit's content-addressed build graphs (LLB), byte for byte.
//!
//! This crate is values only: no I/O, no clock, no environment, no randomness. The same input
//! always yields the same bytes, and the bytes are those of BuildKit's own Go client, so that
//! digests, and with them caches, agree.
//!
//! - [`pb`] has the wire messages, [`encode`] writes them.

pub mod digest;
pub mod encode;
mod go_json;
pub mod pb;

pub use digest::{BlobDigest, ChainId, DiffId, OpDigest};
