//! Runs a graph of operations, each at most once, as many at a time as there are permits.
//!
//! ```text
//! Scheduler::new(meta: Arc<dyn Meta>, results: Arc<dyn Results<T>>, parallelism: usize)
//! async Scheduler::solve(&self, graph: &Graph<T>, outputs: &[Edge], context: SolveContext)
//!     -> Result<Solved<T>, SolveError>
//! SolveContext { cancel: Cancel, sink: Arc<dyn Sink>, clock: Arc<dyn Clock> }
//! ```

mod graph;
mod report;

pub use graph::{Edge, Graph, Vertex};
pub use report::{SolveError, Solved, VertexReport, VertexStatus};
