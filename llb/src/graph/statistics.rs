//! Counts of a graph.

use std::collections::BTreeMap;

use super::Graph;
use crate::pb::op::Op;

/// How many vertices of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpCounts {
    /// Sources.
    pub source: usize,
    /// Processes.
    pub exec: usize,
    /// File ops; each may have several actions.
    pub file: usize,
    /// Builds of nested definitions.
    pub build: usize,
    /// Merges.
    pub merge: usize,
    /// Diffs.
    pub diff: usize,
    /// Passthroughs.
    pub passthrough: usize,
}

/// What a graph consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Vertices, the terminal op not among them.
    pub vertices: usize,
    /// Vertices by kind.
    pub ops: OpCounts,
    /// Inputs of all vertices together.
    pub edges: usize,
    /// Vertices on the longest way from a vertex without inputs to the head, both included.
    pub depth: usize,
    /// The most inputs that one vertex has.
    pub most_inputs: usize,
    /// Bytes of all serialised ops.
    pub op_bytes: usize,
    /// Bytes of the largest serialised op.
    pub largest_op: usize,
    /// Actions of all file ops.
    pub file_actions: usize,
    /// Mounts of all exec ops, their roots among them.
    pub mounts: usize,
    /// Vertices that run even if they are cached.
    pub ignore_cache: usize,
    /// Sources by the scheme of their identifiers, such as `docker-image`; empty if a source
    /// has none.
    pub schemes: BTreeMap<String, usize>,
    /// Vertices that name a place in a source file.
    pub located: usize,
}

impl Graph {
    /// Counts what the graph consists of, in one pass.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{Constraints, Graph, Platform};
    ///
    /// let made = llb::image("alpine").run(["true"]).root();
    /// let definition = made.marshal(&Constraints::new(Platform::linux_amd64()))?;
    /// let statistics = Graph::load(&definition)?.statistics();
    /// assert_eq!((statistics.vertices, statistics.depth), (2, 2));
    /// assert_eq!(statistics.ops.exec, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut found = Statistics::default();
        let mut depths: Vec<usize> = Vec::with_capacity(self.vertices().len());
        for vertex in self.vertices() {
            found.vertices += 1;
            found.edges += vertex.inputs().len();
            found.most_inputs = found.most_inputs.max(vertex.inputs().len());
            found.op_bytes += vertex.raw().len();
            found.largest_op = found.largest_op.max(vertex.raw().len());
            found.ignore_cache += usize::from(vertex.metadata().ignore_cache);
            found.located += usize::from(vertex.locations().next().is_some());
            match vertex.op() {
                Op::Source(source) => {
                    found.ops.source += 1;
                    let scheme = source.identifier.split_once("://");
                    let scheme = scheme.map_or("", |(scheme, _)| scheme);
                    *found.schemes.entry(scheme.to_owned()).or_default() += 1;
                }
                Op::Exec(exec) => {
                    found.ops.exec += 1;
                    found.mounts += exec.mounts.len();
                }
                Op::File(file) => {
                    found.ops.file += 1;
                    found.file_actions += file.actions.len();
                }
                Op::Build(_) => found.ops.build += 1,
                Op::Merge(_) => found.ops.merge += 1,
                Op::Diff(_) => found.ops.diff += 1,
                Op::Passthrough(_) => found.ops.passthrough += 1,
            }
            let inputs = vertex.inputs().iter();
            let below = inputs.map(|edge| depths[edge.vertex.index()]).max();
            depths.push(below.unwrap_or(0) + 1);
        }
        // Everything leads to the head, so nothing is deeper.
        found.depth = depths.last().copied().unwrap_or(0);
        found
    }
}
