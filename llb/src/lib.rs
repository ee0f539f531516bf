//! A typed builder and reader for BuildKit's content-addressed build graphs (LLB), byte for byte.
//!
//! A build is described by values that read like the graph they make, and marshalled to a
//! [`Definition`], which any BuildKit, or the Ashlar solver, can run:
//!
//! ```
//! use ashlar_llb as llb;
//! use llb::{Cache, Constraints, Platform, copy};
//!
//! let src = llb::local("context").include(["src/**", "Makefile"]);
//! let built = llb::image("debian:bookworm")
//!     .dir("/src")
//!     .run(["make", "-j2"])
//!     .mount("/src", &src)
//!     .mount("/root/.cache", Cache::shared("cc"))
//!     .root();
//! let out = llb::scratch().file(copy(&built, "/src/app", "/app"));
//! let definition = out.marshal(&Constraints::new(Platform::linux_amd64()))?;
//! assert_eq!(definition.ops().len(), 5); // local, image, run, file, and the terminal op
//! # Ok::<(), llb::MarshalError>(())
//! ```
//!
//! # Values
//!
//! A [`State`] is a tree of files in the making, with the settings (environment, directory,
//! user and so on) of the steps that will run on it. It never changes: each method gives a new
//! one, copying is cheap, and any state can be the start of any number of others. It can be
//! sent between threads and holds no borrowed data.
//!
//! | to | use |
//! |---|---|
//! | start from something | [`image`], [`oci_layout`], [`local`], [`git`], [`http`], [`image_blob`], [`oci_layout_blob`], [`scratch`] |
//! | run a process | [`State::run`], [`State::run_line`]: a [`Run`] with mounts, secrets and limits |
//! | change files without one | [`State::file`] with [`copy`], [`mkdir`], [`mkfile`], [`rm`], [`symlink`] |
//! | join trees | [`merge`], [`diff`], [`State::requires`], [`Passthrough`] |
//! | go on from a definition | [`State::from_definition`], [`State::build`] |
//! | write the graph | [`State::marshal`] with [`Constraints`] |
//!
//! What an op takes as options are methods of what its constructor returns: `image(...)` is an
//! [`Image`], on which `layer_limit` sets an option of the source; any method of [`State`] on
//! it goes on to the next step. Some options are there for every op: `custom_name`,
//! `ignore_cache`, `export_cache`, `progress_group`, `require`, `description`, `location`.
//!
//! [A guided tour](#a-guided-tour) through all of it ends this page. Nothing is checked until
//! [`State::marshal`], whose [`MarshalError`] names the step.
//!
//! # Bytes
//!
//! This crate is values only: no I/O, no clock, no environment, no randomness. The same input
//! always yields the same bytes, and the bytes are those of BuildKit's own Go client, so that
//! digests, and with them caches, agree. Where that client is surprising, so is this crate, and
//! the documentation of the method says so.
//!
//! # Texts
//!
//! What can be mistaken for something else has a type: [`GuestPath`], [`Mode`], [`CacheId`],
//! [`SecretId`], [`SshId`], [`SessionId`], [`StoreId`], a digest type per thing that is digested,
//! [`Platform`], [`Owner`], [`UlimitName`]. Literals become these by themselves. A plain string is
//! what the protocol takes as free text, and what only one party gives a meaning: arguments and
//! variables, host and user names, cgroup parents, URLs, git refs and commits (which need not be
//! whole), patterns, symbolic modes, headers, keys, names of capabilities, and what people read.
//!
//! # Features
//!
//! `serde`, which is off by default, gives `Serialize` and `Deserialize` to what one stores:
//! digests and references as their texts, [`Platform`] and [`ImageConfig`] in the shapes of the
//! OCI image specification, and [`Definition`] as its bytes, or as their base64 in formats for
//! people such as JSON.
//!
//! # Coming from Go
//!
//! [`go_names`] has every name of BuildKit's client and what it is called here.
//!
//! # Reading
//!
//! - [`Definition`] is a build graph as it travels; [`Graph`] is the same graph, checked.
//! - [`Dump`] writes one as text, JSON or DOT; [`Comparison`] tells two apart;
//!   [`Graph::statistics`] counts, a [`Visitor`] sees each vertex.
//! - [`Definition::rewrite`] drops, replaces and pins vertices of a definition that is there.
//! - [`pb`] has the wire messages, [`encode`] writes them.
//! - [`mod@reference`], [`platform`], [`patterns`] and [`path`] are the small languages that
//!   build graphs use, with BuildKit's exact meaning.
//!
#![doc = include_str!("guide.md")]

mod caps;
mod compare;
mod constraints;
mod deferred;
mod definition;
pub mod digest;
mod dump;
pub mod encode;
mod exec;
mod file;
pub mod go_json;
#[doc = include_str!("go_names.md")]
pub mod go_names {}
mod graph;
mod import;
mod lazy;
mod limits;
mod marshal;
mod merge;
mod mount;
mod names;
mod op_state;
pub mod path;
pub mod patterns;
pub mod pb;
pub mod platform;
pub mod reference;
mod rewrite;
#[cfg(feature = "serde")]
mod serde_forms;
mod shlex;
mod source;
mod state;
mod value;
mod vertex;
mod wire;

pub use compare::{Comparison, FieldChange, VertexChange, VertexName};
pub use constraints::{Constraints, SourceMap, SourceRange};
pub use deferred::DeferredError;
pub use definition::{DecodeError, Definition, MetadataMap};
pub use digest::{BlobDigest, ChainId, Checksum, DiffId, OpDigest};
pub use dump::Dump;
pub use exec::{Run, Secret, Ssh};
pub use file::{
    CopyInput, CopyPath, FileActions, FileTree, MakeDirectory, MakeFile, MakeSymlink, Owner,
    Principal, Remove, Step, copy, mkdir, mkfile, rm, symlink,
};
pub use graph::{
    Edge, Fault, Graph, LoadError, OpCounts, SourceLocation, Statistics, Vertex, VertexIndex,
    Visitor,
};
pub use import::ImportError;
pub use lazy::{Lazy, Metadata, SourceMaps};
pub use limits::Limits;
pub use marshal::MarshalError;
pub use merge::{Passthrough, diff, merge};
pub use mount::{Cache, ContentCache, Mount, Sharing, Tmpfs};
pub use names::{CacheId, GuestPath, Mode, SecretId, SessionId, SshId, StoreId};
pub use op_state::OpState;
pub use platform::Platform;
pub use reference::Reference;
pub use rewrite::{Rewrite, RewriteError};
pub use shlex::shlex;
pub use source::{
    Blob, Differ, Git, GitModifiedTime, Http, Image, ImageRequest, ImageResolver, InvalidSource,
    Local, OciBlob, OciLayout, RawSource, ResolveMode, ResolvedImage, git, http, image, image_blob,
    local, oci_layout, oci_layout_blob, raw_source,
};
pub use state::{ImageConfig, Network, Security, State, UlimitName, scratch};
pub use value::{Field, Value};
pub use vertex::Unusable;
pub use wire::WireError;
