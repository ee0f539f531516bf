//! Walking over a graph.

use std::ops::ControlFlow;

use super::{Graph, Vertex};
use crate::pb;
use crate::pb::op::Op;

/// Sees the vertices of a graph, inputs before their users.
///
/// All methods do nothing unless they are written; kinds of op that BuildKit adds later reach
/// [`Visitor::vertex`] alone until they get a method. Returning [`ControlFlow::Break`] ends
/// the walk with that value.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use ashlar_llb as llb;
/// use llb::{Constraints, Graph, Platform, Vertex, Visitor, pb};
///
/// #[derive(Default)]
/// struct Images(Vec<String>);
///
/// impl Visitor for Images {
///     type Break = ();
///
///     fn source(&mut self, _: &Vertex, source: &pb::SourceOp) -> ControlFlow<()> {
///         self.0.extend(source.identifier.strip_prefix("docker-image://").map(Into::into));
///         ControlFlow::Continue(())
///     }
/// }
///
/// let made = llb::image("alpine").run(["true"]).root();
/// let definition = made.marshal(&Constraints::new(Platform::linux_amd64()))?;
/// let mut images = Images::default();
/// assert!(Graph::load(&definition)?.visit(&mut images).is_continue());
/// assert_eq!(images.0, ["docker.io/library/alpine:latest"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[expect(unused_variables, reason = "the names are documentation")]
pub trait Visitor {
    /// What ends a walk early.
    type Break;

    /// Sees any vertex, before the method of its kind does.
    fn vertex(&mut self, vertex: &Vertex) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees a source.
    fn source(&mut self, vertex: &Vertex, op: &pb::SourceOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees a process.
    fn exec(&mut self, vertex: &Vertex, op: &pb::ExecOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees a file op.
    fn file(&mut self, vertex: &Vertex, op: &pb::FileOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees the build of a nested definition.
    fn build(&mut self, vertex: &Vertex, op: &pb::BuildOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees a merge.
    fn merge(&mut self, vertex: &Vertex, op: &pb::MergeOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees a diff.
    fn diff(&mut self, vertex: &Vertex, op: &pb::DiffOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }

    /// Sees a passthrough.
    fn passthrough(&mut self, vertex: &Vertex, op: &pb::PassthroughOp) -> ControlFlow<Self::Break> {
        ControlFlow::Continue(())
    }
}

impl Graph {
    /// Shows each vertex to `visitor`, in the order of [`Graph::vertices`], until it breaks.
    pub fn visit<V: Visitor + ?Sized>(&self, visitor: &mut V) -> ControlFlow<V::Break> {
        for vertex in self.vertices() {
            visitor.vertex(vertex)?;
            match vertex.op() {
                Op::Source(op) => visitor.source(vertex, op)?,
                Op::Exec(op) => visitor.exec(vertex, op)?,
                Op::File(op) => visitor.file(vertex, op)?,
                Op::Build(op) => visitor.build(vertex, op)?,
                Op::Merge(op) => visitor.merge(vertex, op)?,
                Op::Diff(op) => visitor.diff(vertex, op)?,
                Op::Passthrough(op) => visitor.passthrough(vertex, op)?,
            }
        }
        ControlFlow::Continue(())
    }
}
