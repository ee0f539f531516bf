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
use crate::{GuestPath, Platform};

/// One op in the making.
#[derive(Clone)]
pub(crate) struct Vertex {
    pub(crate) op: VertexOp,
    pub(crate) constraints: OpConstraints,
}

/// What the op does. All but the smallest are boxed, because there may be very many of any kind.
#[derive(Clone)]
pub(crate) enum VertexOp {
    Source(Box<SourceVertex>),
    Exec(Box<ExecVertex>),
    File(FileVertex),
    Merge(Box<[Output]>),
    Diff(Box<DiffVertex>),
    Build(Box<BuildVertex>),
    Passthrough(Box<PassthroughVertex>),
    Imported(Box<Imported>),
    Deferred(Box<Deferred>),
}

/// A diff op in the making.
#[derive(Clone)]
pub(crate) struct DiffVertex {
    pub(crate) lower: Option<Output>,
    pub(crate) upper: Option<Output>,
}

/// A build op in the making.
#[derive(Clone)]
pub(crate) struct BuildVertex {
    pub(crate) input: Option<Output>,
    pub(crate) filename: GuestPath,
}

/// A passthrough op in the making.
#[derive(Clone)]
pub(crate) struct PassthroughVertex {
    pub(crate) id: String,
    pub(crate) inputs: Vec<Output>,
    /// For each output, the position of the input it hands on.
    pub(crate) outputs: Vec<usize>,
}

/// One result of a vertex.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) vertex: Arc<Vertex>,
    pub(crate) port: Port,
    /// Platform that states made of this output inherit.
    pub(crate) platform: Option<Arc<Platform>>,
}

/// Which result of the vertex it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// The output of this number.
    Index(u32),
    /// Nothing that can be used; marshalling fails with this reason.
    Unusable(Box<Unusable>),
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
    pub(crate) fn first(vertex: Vertex) -> Self {
        Self {
            vertex: Arc::new(vertex),
            port: Port::Index(0),
            platform: None,
        }
    }
}

impl Vertex {
    /// Tells whether it is known only when it is written what this vertex is.
    pub(crate) fn is_deferred(&self) -> bool {
        matches!(self.op, VertexOp::Deferred(_))
    }

    /// Calls `visit` with what this vertex consumes, in the order in which it is to be written.
    pub(crate) fn each_input<'a>(&'a self, mut visit: impl FnMut(&'a Output)) {
        match &self.op {
            VertexOp::Source(_) | VertexOp::Deferred(_) => {}
            VertexOp::Exec(exec) => exec.each_input(visit),
            VertexOp::File(file) => file.each_input(visit),
            VertexOp::Merge(inputs) => inputs.iter().for_each(visit),
            VertexOp::Passthrough(passthrough) => passthrough.inputs.iter().for_each(visit),
            VertexOp::Diff(diff) => diff.lower.iter().chain(&diff.upper).for_each(visit),
            VertexOp::Build(build) => build.input.iter().for_each(visit),
            VertexOp::Imported(imported) => imported.inputs.iter().for_each(&mut visit),
        }
    }

    /// Name of the vertex in error messages: the custom name if there is one.
    pub(crate) fn name(&self) -> String {
        let custom = self.constraints.description.text(pb::CUSTOM_NAME_KEY);
        if let Some(name) = custom.filter(|name| !name.is_empty()) {
            return name.to_owned();
        }
        match &self.op {
            VertexOp::Source(source) => source.name(),
            VertexOp::Exec(exec) => exec.name(),
            VertexOp::File(file) => match file.name() {
                name if name.is_empty() => "file step without actions".to_owned(),
                name => name,
            },
            VertexOp::Merge(_) => "merge".to_owned(),
            VertexOp::Diff(_) => "diff".to_owned(),
            VertexOp::Build(_) => "build".to_owned(),
            VertexOp::Passthrough(passthrough) => format!("passthrough {}", passthrough.id),
            VertexOp::Imported(imported) => imported.name(),
            VertexOp::Deferred(deferred) => deferred.name(),
        }
    }

    /// Moves everything this vertex keeps alive to `links`.
    fn unlink(&mut self, links: &mut Vec<Link>) {
        let links_to = |output: Output| links.push(Link::Vertex(output.vertex));
        match &mut self.op {
            VertexOp::Source(_) => {}
            VertexOp::Exec(exec) => exec.unlink(links),
            VertexOp::Deferred(deferred) => deferred.unlink(links),
            VertexOp::File(file) => links.extend(file.take_chain().map(Link::Chain)),
            VertexOp::Merge(inputs) => mem::take(inputs).into_iter().for_each(links_to),
            VertexOp::Passthrough(passthrough) => {
                passthrough.inputs.drain(..).for_each(links_to);
            }
            VertexOp::Diff(diff) => {
                let sides = [diff.lower.take(), diff.upper.take()];
                sides.into_iter().flatten().for_each(links_to);
            }
            VertexOp::Build(build) => build.input.take().into_iter().for_each(links_to),
            VertexOp::Imported(imported) => imported.inputs.drain(..).for_each(links_to),
        }
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
