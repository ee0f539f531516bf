//! A typed builder and reader for BuildKit's content-addressed build graphs (LLB), byte for byte.
//!
//! This crate is values only: no I/O, no clock, no environment, no randomness. The same input
//! always yields the same bytes, and the bytes are those of BuildKit's own Go client, so that
//! digests, and with them caches, agree.
//!
//! - [`Definition`] is a build graph as it travels; [`Graph`] is the same graph, checked.
//! - [`pb`] has the wire messages, [`encode`] writes them.

mod definition;
pub mod digest;
pub mod encode;
mod go_json;
mod graph;
mod limits;
pub mod pb;
mod wire;

pub use definition::{DecodeError, Definition};
pub use digest::{BlobDigest, ChainId, DiffId, OpDigest};
pub use graph::{Edge, Fault, Graph, LoadError, SourceLocation, Vertex, VertexIndex};
pub use limits::Limits;
pub use wire::WireError;
