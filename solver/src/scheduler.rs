//! Runs a graph of operations, each at most once, as many at a time as there are permits.
//!
//! Owns [`Scheduler`], the state of each solve and the map of what is running. Generic over the
//! result type: knows nothing of files, and is tested with numbers.
//!
//! ```text
//! Graph + outputs ──▶ build (decides; no I/O) ──▶ actions ──▶ drive (one event loop per solve)
//!                        ▲                                       │ cache maps, loads, runs
//!                        └──────────────── events ◀──────────────┘
//! ```
//!
//! Invariants:
//! 1. One owner for the state of a solve: its event loop. No lock is held across an await.
//! 2. Within one [`Scheduler`], runs that are equal, op and keys of inputs, happen once at a
//!    time, whichever solves ask for them; with [`RunLocks`] also those of several processes.
//!    Cancelling one solve never disturbs another.
//! 3. A value is loaded or made only if a vertex that runs, a content key or the caller needs it.
//! 4. Same records, same decisions, whatever the interleaving.
//!
//! Leaves to others: loading and checking definitions, what results are, how they are kept.

mod build;
mod drive;
mod flight;
mod graph;
mod report;
mod slow;
mod state;
mod value;
mod work;

pub use graph::{Edge, Graph, Vertex};
pub use report::{Output, SolveError, Solved, Trace, VertexReport, VertexStatus};
pub use work::SeamError;

use std::fmt::Debug;

use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::operation::{Import, NoLocks, Results, RunLocks};
use crate::progress::Sink;
use crate::sync::{Arc, AtomicU64, Ordering, Semaphore};

/// What a solve uses of its caller's.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SolveContext {
    /// Raised by the caller to end the solve early.
    pub cancel: Cancel,
    /// Where progress goes.
    pub sink: Arc<dyn Sink>,
    /// Times of progress events and cache records.
    pub clock: Arc<dyn Clock>,
}

impl SolveContext {
    /// Puts a context together.
    pub fn new(cancel: Cancel, sink: Arc<dyn Sink>, clock: Arc<dyn Clock>) -> Self {
        Self {
            cancel,
            sink,
            clock,
        }
    }
}

/// Solves graphs, many at a time, on one cache.
#[derive(Debug)]
pub struct Scheduler<T: Clone> {
    cache: Cache,
    results: Arc<dyn Results<T>>,
    flights: Arc<flight::Flights<T>>,
    permits: Arc<Semaphore>,
    locks: Arc<dyn RunLocks>,
    solves: AtomicU64,
}

impl<T: Clone + Debug + Send + Sync + 'static> Scheduler<T> {
    /// Makes a scheduler on a cache and the results that its records name. At most `parallelism`
    /// operations that take a permit run at a time, over all solves; 0 counts as 1.
    pub fn new(cache: Cache, results: Arc<dyn Results<T>>, parallelism: usize) -> Self {
        Self {
            cache,
            results,
            flights: Arc::new(flight::Flights::new()),
            permits: Arc::new(Semaphore::new(parallelism.clamp(1, Semaphore::MAX_PERMITS))),
            locks: Arc::new(NoLocks),
            solves: AtomicU64::new(0),
        }
    }

    /// Sets what keeps equal runs of several processes apart. Default: nothing does.
    #[must_use]
    pub fn locks(mut self, locks: Arc<dyn RunLocks>) -> Self {
        self.locks = locks;
        self
    }

    /// Solves `graph` for `outputs` and returns their values in order.
    ///
    /// Runs inside a tokio runtime of either kind whose time driver is enabled; operations run as
    /// its tasks. When it returns, all records are stored.
    ///
    /// # Errors
    /// The first vertex that fails ends the solve; what else was running is cancelled.
    ///
    /// # Cancellation
    /// Raising the context's flag ends the solve when all its running operations have returned.
    /// Dropping the future raises their flag and aborts their tasks. Either way, another solve
    /// that waits for the same work starts it anew.
    pub async fn solve(
        &self,
        graph: &Graph<T>,
        outputs: &[Edge],
        context: &SolveContext,
    ) -> Result<Solved<T>, SolveError> {
        self.solve_importing(graph, outputs, context, Arc::default())
            .await
    }

    /// As [`Scheduler::solve`], with imported records beside those of the store. Results of the
    /// store are preferred. The links by which an imported result was found are stored; the result
    /// itself is stored by who makes it.
    ///
    /// # Errors
    /// As [`Scheduler::solve`].
    ///
    /// # Cancellation
    /// As [`Scheduler::solve`].
    pub async fn solve_importing(
        &self,
        graph: &Graph<T>,
        outputs: &[Edge],
        context: &SolveContext,
        imports: Arc<[Import<T>]>,
    ) -> Result<Solved<T>, SolveError> {
        let solve = self.solves.fetch_add(1, Ordering::Relaxed);
        drive::Drive::new(self, graph, outputs, context, solve, imports)?
            .run()
            .await
    }

    /// The records that it looks at.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The results that the records name.
    pub fn results(&self) -> &Arc<dyn Results<T>> {
        &self.results
    }
}
