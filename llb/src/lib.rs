//! A typed builder and reader for BuildKit's content-addressed build graphs (LLB), byte for byte.
//!
//! This crate is values only: no I/O, no clock, no environment, no randomness. The same input
//! always yields the same bytes, and the bytes are those of BuildKit's own Go client, so that
//! digests, and with them caches, agree.
//!
//! - [`Definition`] is a build graph as it travels; [`Graph`] is the same graph, checked.
//! - [`pb`] has the wire messages, [`encode`] writes them.
//! - [`mod@reference`], [`platform`], [`patterns`] and [`path`] are the small languages that build
//!   graphs use, with BuildKit's exact meaning.

mod constraints;
mod definition;
pub mod digest;
pub mod encode;
mod exec;
mod file;
mod go_json;
mod graph;
mod import;
mod limits;
mod marshal;
mod merge;
mod mount;
mod op_state;
pub mod path;
pub mod patterns;
pub mod pb;
pub mod platform;
pub mod reference;
mod shlex;
mod source;
mod state;
mod vertex;
mod wire;

pub use constraints::{Constraints, SourceMap, SourceRange};
pub use definition::{DecodeError, Definition};
pub use digest::{BlobDigest, ChainId, DiffId, OpDigest};
pub use exec::{Run, Secret, Ssh};
pub use file::{
    CopyInput, CopyPath, FileActions, FileTree, MakeDirectory, MakeFile, MakeSymlink, Owner,
    Principal, Remove, Step, copy, mkdir, mkfile, rm, symlink,
};
pub use graph::{Edge, Fault, Graph, LoadError, SourceLocation, Vertex, VertexIndex};
pub use import::ImportError;
pub use limits::Limits;
pub use marshal::MarshalError;
pub use merge::{Passthrough, diff, merge};
pub use mount::{Cache, ContentCache, Mount, Sharing, Tmpfs};
pub use op_state::OpState;
pub use platform::Platform;
pub use reference::Reference;
pub use shlex::shlex;
pub use source::{
    Blob, Differ, Git, GitModifiedTime, Http, Image, InvalidSource, Local, OciLayout, RawSource,
    ResolveMode, git, http, image, image_blob, local, oci_layout, oci_layout_blob, raw_source,
};
pub use state::{ImageConfig, Network, Security, State, scratch};
pub use vertex::Unusable;
pub use wire::WireError;
