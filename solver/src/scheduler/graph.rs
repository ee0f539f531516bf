//! The graph as the scheduler takes it: vertices by index, ready to be asked for keys and run.

use ashlar_llb::OpDigest;

use super::report::SolveError;
use crate::operation::Operation;
use crate::sync::Arc;

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

impl<T> Graph<T> {
    /// The vertices that `outputs` need, inputs first.
    pub(super) fn reachable(&self, outputs: &[Edge]) -> Result<Vec<usize>, SolveError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.vertices.len()];
        let mut order = Vec::new();
        // A vertex and how many of its inputs were visited: the call stack of a depth-first
        // walk, kept on the heap because graphs may be deep.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for output in outputs {
            let mut next = Some(output.vertex);
            loop {
                if let Some(vertex) = next.take() {
                    match marks.get(vertex) {
                        None => return Err(malformed(format!("there is no vertex {vertex}"))),
                        Some(Mark::Open) => {
                            return Err(malformed(format!("vertex {vertex} depends on itself")));
                        }
                        Some(Mark::Done) => {}
                        Some(Mark::New) => {
                            marks[vertex] = Mark::Open;
                            path.push((vertex, 0));
                        }
                    }
                }
                let Some((vertex, visited)) = path.last_mut() else {
                    break;
                };
                if let Some(input) = self.vertices[*vertex].inputs.get(*visited) {
                    *visited += 1;
                    next = Some(input.vertex);
                } else {
                    marks[*vertex] = Mark::Done;
                    order.push(*vertex);
                    path.pop();
                }
            }
        }
        Ok(order)
    }
}

fn malformed(reason: String) -> SolveError {
    SolveError::Malformed { reason }
}
