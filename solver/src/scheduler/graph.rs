//! The graph as the scheduler takes it: vertices by index, ready to be asked for keys and run.

use std::sync::Arc;

use ashlar_llb::OpDigest;

use crate::operation::Operation;

/// One output of one vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    clippy::exhaustive_structs,
    reason = "BuildKit's Edge has these two parts"
)]
pub struct Edge {
    /// Index of the vertex in [`Graph::vertices`].
    pub vertex: usize,
    /// Which of its outputs, from 0.
    pub output: u32,
}

/// One op of a graph.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "the layer above builds it as a literal"
)]
pub struct Vertex<T> {
    /// The op's digest, by which progress and errors name the vertex.
    pub digest: OpDigest,
    /// Its display name.
    pub name: Arc<str>,
    /// Where its inputs come from, in order.
    pub inputs: Vec<Edge>,
    /// Do not look for a cached result; still store the new one.
    pub ignore_cache: bool,
    /// How it is keyed and run.
    pub operation: Arc<dyn Operation<T>>,
}

/// Vertices in any order, without cycles.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "the layer above builds it as a literal"
)]
pub struct Graph<T> {
    /// The vertices. Those that no requested output needs are not touched.
    pub vertices: Vec<Vertex<T>>,
}
