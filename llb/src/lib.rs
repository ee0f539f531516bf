//! A typed builder and reader for BuildKit's content-addressed build graphs (LLB), byte for byte.
//!
//! This crate is values only: no I/O, no clock, no environment, no randomness. The same input
//! always yields the same bytes, and the bytes are those of BuildKit's own Go client, so that
//! digests, and with them caches, agree.
//!
//! - [`Definition`] is a build graph as it travels; [`Graph`] is the same graph, checked.
//! - [`pb`] has the wire messages, [`encode`] writes them.
//! - [`reference`], [`platform`], [`patterns`] and [`path`] are the small languages that build
//!   graphs use, with BuildKit's exact meaning.

mod definition;
pub mod digest;
pub mod encode;
mod go_json;
mod graph;
mod limits;
<<<<<<< HEAD
pub mod pb;
=======
pub mod path;
pub mod patterns;
pub mod pb;
pub mod platform;
pub mod reference;
>>>>>>> main
mod wire;

pub use definition::{DecodeError, Definition};
pub use digest::{BlobDigest, ChainId, DiffId, OpDigest};
pub use graph::{Edge, Fault, Graph, LoadError, SourceLocation, Vertex, VertexIndex};
pub use limits::Limits;
<<<<<<< HEAD
=======
pub use platform::Platform;
pub use reference::Reference;
>>>>>>> main
pub use wire::WireError;
