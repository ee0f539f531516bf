//! Checked build graphs.
//!
//! [`Graph::load`] turns a [`Definition`](crate::Definition) into a [`Graph`] and refuses
//! everything that could not be solved. Invariants of a graph, on which later code relies:
//!
//! - all vertices are reachable from the head, inputs come before their users, no cycles;
//! - each edge leads to an output its vertex has;
//! - all positions inside ops (mounts, file actions, merge and diff inputs, outputs) are in
//!   range, what an op needs is there, and all enum numbers are known;
//! - a vertex's digest is that of its raw bytes.
//!
//! What stays open: whether sources exist, whether capabilities and entitlements are given, and
//! what paths and attributes mean.

mod check;
mod error;
mod load;
mod location;
mod name;
mod statistics;
mod visit;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

pub use check::Fault;
pub use error::LoadError;
pub use location::SourceLocation;
pub use statistics::{OpCounts, Statistics};
pub use visit::Visitor;

pub(crate) use check::kind;
pub(crate) use location::of as locations;
pub(crate) use name::own as own_name;

use crate::digest::OpPositions;
use crate::{Definition, Limits, Metadata, OpDigest, SourceMaps, pb};

/// A checked build graph. Cloning is cheap.
///
/// ```
/// use ashlar_llb::{Definition, Graph};
///
/// let graph = Graph::load(&Definition::default())?;
/// assert!(graph.head().is_none(), "the empty definition stands for scratch");
/// # Ok::<(), ashlar_llb::LoadError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Graph {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    vertices: Vec<Vertex>,
    index: OpPositions,
    head: Option<Edge>,
}

/// A vertex's position in its graph. It means nothing in another graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexIndex(u32);

impl VertexIndex {
    fn new(position: usize) -> Option<Self> {
        u32::try_from(position).ok().map(Self)
    }

    /// Returns the position in [`Graph::vertices`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One output of one vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// The vertex that makes the result.
    pub vertex: VertexIndex,
    /// Which of its outputs is meant, from 0.
    pub output: u32,
}

impl Graph {
    /// Checks a definition within the default limits.
    ///
    /// Takes time proportional to the definition's size, and no stack.
    ///
    /// # Errors
    /// See [`LoadError`]; all of them are faults of the input.
    pub fn load(definition: &Definition) -> Result<Self, LoadError> {
        Self::load_with(definition, &Limits::default())
    }

    /// Checks a definition within `limits`.
    ///
    /// # Errors
    /// See [`LoadError`]; all of them are faults of the input.
    pub fn load_with(definition: &Definition, limits: &Limits) -> Result<Self, LoadError> {
        load::load(definition, limits).map(|inner| Self {
            inner: Arc::new(inner),
        })
    }

    /// Returns the vertices that the head needs, inputs before their users.
    #[must_use]
    pub fn vertices(&self) -> &[Vertex] {
        &self.inner.vertices
    }

    /// Returns the result the graph is for; `None` means scratch.
    #[must_use]
    pub fn head(&self) -> Option<Edge> {
        self.inner.head
    }

    /// Returns a vertex.
    ///
    /// # Panics
    /// If `index` comes from another, larger graph.
    #[must_use]
    pub fn vertex(&self, index: VertexIndex) -> &Vertex {
        &self.inner.vertices[index.index()]
    }

    /// Finds a vertex by its digest.
    #[must_use]
    pub fn find(&self, digest: &OpDigest) -> Option<VertexIndex> {
        let vertices = &self.inner.vertices;
        let found = self.inner.index.find(*digest, |at| vertices[at].digest);
        found.and_then(VertexIndex::new)
    }
}

/// One op of a checked graph.
#[derive(Clone, Debug)]
pub struct Vertex {
    digest: OpDigest,
    op: Arc<pb::op::Op>,
    platform: Option<pb::Platform>,
    constraints: Option<pb::WorkerConstraints>,
    inputs: Box<[Edge]>,
    outputs: u32,
    metadata: Metadata,
    /// Made on first use, or when loading if it takes the names of inputs.
    name: OnceLock<Arc<str>>,
    raw: Bytes,
    source: Option<Arc<SourceMaps>>,
}

impl Vertex {
    /// Returns the op's digest, its identity.
    #[must_use]
    pub fn digest(&self) -> OpDigest {
        self.digest
    }

    /// Returns what the op does.
    #[must_use]
    pub fn op(&self) -> &pb::op::Op {
        &self.op
    }

    /// Returns what the op does, for those who keep it longer than the graph.
    #[must_use]
    pub fn shared_op(&self) -> Arc<pb::op::Op> {
        self.op.clone()
    }

    /// Returns the platform as written in the op, not normalised.
    #[must_use]
    pub fn platform(&self) -> Option<&pb::Platform> {
        self.platform.as_ref()
    }

    /// Returns the worker filter.
    #[must_use]
    pub fn constraints(&self) -> Option<&pb::WorkerConstraints> {
        self.constraints.as_ref()
    }

    /// Returns the results the op consumes; ops address them by position.
    #[must_use]
    pub fn inputs(&self) -> &[Edge] {
        &self.inputs
    }

    /// Returns how many outputs the op has. All edges to it have a smaller output number.
    #[must_use]
    pub fn output_count(&self) -> u32 {
        self.outputs
    }

    /// Returns what is said about the op; all unset if the definition says nothing.
    #[must_use]
    pub fn metadata(&self) -> &pb::OpMetadata {
        &self.metadata
    }

    /// What is said about the op, as it came.
    pub(crate) fn serialised_metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Returns the display name: the custom one if the metadata has one, else made of the op.
    ///
    /// Names made of other vertices' names (merge, diff) are cut at 512 bytes, where BuildKit's
    /// grow without bound.
    #[must_use]
    pub fn name(&self) -> &str {
        if let Some(custom) = self.metadata.description.get(pb::CUSTOM_NAME_KEY) {
            return custom;
        }
        match &*self.op {
            pb::op::Op::Source(source) => &source.identifier,
            op => self.name.get_or_init(|| name::own(op).into()),
        }
    }

    /// Returns [`name`](Self::name), for those who keep it longer than the graph.
    #[must_use]
    pub fn shared_name(&self) -> Arc<str> {
        let name = self.name();
        match self.name.get() {
            Some(own) if std::ptr::eq(&raw const **own, name) => own.clone(),
            _ => name.into(),
        }
    }

    /// Returns the op's serialised bytes, exactly as they came.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Returns the places in source files that the op was made from, the most specific first.
    pub fn locations(&self) -> impl Iterator<Item = SourceLocation<'_>> {
        location::of(self.source.as_ref().map(|source| &***source), self.digest)
    }
}
