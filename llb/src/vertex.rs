//! Vertices under construction, and the outputs by which they refer to each other.
//!
//! Owns the immutable graph behind every [`State`](crate::State): a vertex keeps its inputs
//! alive by `Arc`, and copying is by reference. Invariants: the graph has no cycles, because a
//! vertex is complete before anything can refer to it; and dropping it takes no more stack for
//! a chain of a million steps than for one. What a vertex writes is for the op's own module.

use std::fmt;
use std::mem;
use std::sync::Arc;

use crate::constraints::OpConstraints;
use crate::deferred::Deferred;
use crate::exec::ExecVertex;
use crate::file::{ActionChain, FileVertex};
use crate::import::Imported;
use crate::pb;
use crate::source::SourceVertex;
use crate::{Platform, marshal};

/// One op in the making.
#[derive(Clone)]
pub(crate) struct Vertex {
    pub(crate) op: VertexOp,
    pub(crate) constraints: OpConstraints,
}

/// What the op does.
#[derive(Clone)]
pub(crate) enum VertexOp {
    Source(SourceVertex),
    Exec(Box<ExecVertex>),
    File(FileVertex),
    Merge {
        inputs: Vec<Output>,
    },
    Diff {
        lower: Option<Output>,
        upper: Option<Output>,
    },
    Build {
        input: Option<Output>,
        filename: String,
    },
    Passthrough {
        id: String,
        inputs: Vec<Output>,
        /// For each output, the position of the input it hands on.
        outputs: Vec<usize>,
    },
    Imported(Imported),
    Deferred(Box<Deferred>),
}

/// One result of a vertex.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) vertex: Arc<Vertex>,
    pub(crate) port: Port,
    /// Platform that states made of this output inherit.
    pub(crate) platform: Option<Platform>,
}

/// Which result of the vertex it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The output of this number.
    Index(i64),
    /// The result of an exec's mount, by its position among the declared mounts. Its number
    /// is known only when all mounts are.
    Mount(usize),
    /// Nothing that can be used; marshalling fails with this reason.
    Unusable(Unusable),
}

/// Why a mount or output has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// A tmpfs is gone when its process ends.
    #[error("the tmpfs mount at {target:?} has no result")]
    Tmpfs {
        /// Target of the mount.
        target: String,
    },
    /// The mount was declared to have no output.
    #[error("the mount at {target:?} was declared to have no output")]
    NoOutput {
        /// Target of the mount.
        target: String,
    },
    /// A cache mount is no result.
    #[error("the cache mount at {target:?} has no result")]
    Cache {
        /// Target of the mount.
        target: String,
    },
    /// There is no mount there.
    #[error("there is no mount at {target:?}")]
    NoMount {
        /// The target that was asked for.
        target: String,
    },
    /// The passthrough has fewer outputs.
    #[error("there is no output {index}")]
    NoOutputIndex {
        /// The index that was asked for.
        index: usize,
    },
}

impl Output {
    /// Makes the only, or first, output of a new vertex.
    pub(crate) fn first(vertex: Vertex, platform: Option<Platform>) -> Self {
        Self {
            vertex: Arc::new(vertex),
            port: Port::Index(0),
            platform,
        }
    }
}

impl Vertex {
    /// The vertices this one consumes, in the order in which they are to be written.
    pub(crate) fn inputs(&self) -> Vec<&Output> {
        match &self.op {
            VertexOp::Source(_) | VertexOp::Deferred(_) => Vec::new(),
            VertexOp::Exec(exec) => exec.inputs(),
            VertexOp::File(file) => file.inputs(),
            VertexOp::Merge { inputs } | VertexOp::Passthrough { inputs, .. } => {
                inputs.iter().collect()
            }
            VertexOp::Diff { lower, upper } => lower.iter().chain(upper).collect(),
            VertexOp::Build { input, .. } => input.iter().collect(),
            VertexOp::Imported(imported) => imported.inputs.iter().collect(),
        }
    }

    /// Name of the vertex in error messages: the custom name if there is one.
    pub(crate) fn name(&self) -> String {
        let description = &self.constraints.metadata.description;
        let custom = description.get(pb::CUSTOM_NAME_KEY);
        if let Some(name) = custom.filter(|name| !name.is_empty()) {
            return name.clone();
        }
        match &self.op {
            VertexOp::Source(source) => source.name(),
            VertexOp::Exec(exec) if exec.args.is_empty() => "run without arguments".to_owned(),
            VertexOp::Exec(exec) => marshal::run_name(&exec.args),
            VertexOp::File(file) => match file.name() {
                name if name.is_empty() => "file step without actions".to_owned(),
                name => name,
            },
            VertexOp::Merge { .. } => "merge".to_owned(),
            VertexOp::Diff { .. } => "diff".to_owned(),
            VertexOp::Build { .. } => "build".to_owned(),
            VertexOp::Passthrough { id, .. } => format!("passthrough {id}"),
            VertexOp::Imported(imported) => imported.digest.to_string(),
            VertexOp::Deferred(deferred) => deferred.name(),
        }
    }

    /// Moves everything this vertex keeps alive to `links`.
    fn unlink(&mut self, links: &mut Vec<Link>) {
        let mut outputs = Vec::new();
        match &mut self.op {
            VertexOp::Source(_) => {}
            VertexOp::Exec(exec) => exec.unlink(links),
            VertexOp::Deferred(deferred) => deferred.unlink(links),
            VertexOp::File(file) => links.extend(file.take_chain().map(Link::Chain)),
            VertexOp::Merge { inputs } | VertexOp::Passthrough { inputs, .. } => {
                outputs = mem::take(inputs);
            }
            VertexOp::Diff { lower, upper } => {
                outputs.extend(lower.take().into_iter().chain(upper.take()));
            }
            VertexOp::Build { input, .. } => outputs.extend(input.take()),
            VertexOp::Imported(imported) => outputs = mem::take(&mut imported.inputs),
        }
        links.extend(
            outputs
                .into_iter()
                .map(|output| Link::Vertex(output.vertex)),
        );
    }
}

impl fmt::Debug for Vertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not derived: printing the inputs would print the whole graph, recursively.
        f.debug_tuple("Vertex").field(&self.name()).finish()
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("vertex", &self.vertex.name())
            .field("port", &self.port)
            .finish()
    }
}

/// Something a vertex or an action chain keeps alive.
pub(crate) enum Link {
    Vertex(Arc<Vertex>),
    Chain(Arc<ActionChain>),
}

/// Lets go of `links`, and of all that only they keep alive, without recursion.
pub(crate) fn release(mut links: Vec<Link>) {
    while let Some(link) = links.pop() {
        match link {
            Link::Vertex(vertex) => {
                if let Some(mut vertex) = Arc::into_inner(vertex) {
                    vertex.unlink(&mut links);
                }
            }
            Link::Chain(chain) => {
                if let Some(mut chain) = Arc::into_inner(chain) {
                    chain.unlink(&mut links);
                }
            }
        }
    }
}

impl Drop for Vertex {
    fn drop(&mut self) {
        let mut links = Vec::new();
        self.unlink(&mut links);
        release(links);
    }
}
