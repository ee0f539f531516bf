//! The front door: a [`Solver`] takes definitions and gives results.
//!
//! Owns the wiring of all floors below: it opens the state root, starts the executor, turns an LLB
//! graph into operations, hands them to the scheduler and reports what happened.
//!
//! Invariants:
//! - **A good guest**: no runtime, no signal handler, no global state of its own. What a solver
//!   started ends when the solver is dropped.
//! - **Dropping or cancelling a solve kills its processes before it returns.**

mod bases;
mod builder;
mod cache;
mod durability;
mod error;
mod events;
mod handle;
mod nested;
mod record;
mod request;
mod results;
mod run;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use builder::SolverBuilder;
pub use cache::{CacheExport, CacheImport, CacheLayer, CacheLayerId, LazyBlob};
pub use durability::Durability;
pub use error::{BuildError, FailureSource, SolveError, SourceLocation};
pub use events::Events;
pub use handle::{SolveHandle, SolveOutcome};
pub use request::SolveRequest;
pub use run::{LocalReport, Solved, VertexReport};

pub use crate::ops::exec::failed::{FailedStep, OpenError};
pub use crate::ops::exec::rerun::{Rerun, StepExit, StepInput, StepOutput, StepProcess};

use ashlar_llb::Graph;
use ashlar_llb::digest::ChainId;
use nested::{Given, SubSolver};
use tracing::Instrument as _;

use crate::cancel::Cancel;
use crate::executor::{Capabilities, Executor, ExecutorKind, Network, NetworkProvider};
use crate::ops::keys::KnownKeys;
use crate::ops::{CacheMounts, Engine, Entitlements};
use crate::progress::Sink;
use crate::refs::Ref;
use crate::result::Store;
use crate::scheduler::Scheduler;
use crate::source::local::LocalCache;
use crate::turns::Turns;

/// Executes build graphs in this process. Cheap to clone; all clones are one solver.
///
/// Work that several solves have in common is done once. Several processes may have a solver on
/// the same directory at the same time.
#[derive(Debug, Clone)]
pub struct Solver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    executor: Arc<dyn Executor>,
    executor_kind: ExecutorKind,
    network: Network,
    entitlements: Entitlements,
    cdi_directories: Arc<[PathBuf]>,
    cache_mounts: CacheMounts,
    locals: Arc<LocalCache>,
    keys: Arc<KnownKeys>,
    unpacking: Arc<Turns<ChainId>>,
    #[cfg(feature = "registry")]
    registry: crate::registry::Registry,
    scheduler: Scheduler<Ref>,
    runtime: tokio::runtime::Handle,
    syncer: durability::Syncer,
}

impl Solver {
    /// Starts to describe a solver.
    pub fn builder() -> SolverBuilder {
        SolverBuilder::new()
    }

    /// Starts a solve; it runs on the solver's runtime whether or not the handle is polled.
    pub fn solve(&self, request: SolveRequest) -> SolveHandle {
        let (sender, events) = events::channel();
        let cancel = Cancel::new();
        let end = sender.end_when_dropped();
        let sink: Arc<dyn Sink> = sender;
        let span = tracing::info_span!("solve", ops = request.definition.ops().len());
        let work = run::solve(self.clone(), request, cancel.clone(), sink).instrument(span);
        let task = async move {
            let _told_last = end;
            work.await
        };
        SolveHandle::new(events, self.0.runtime.spawn(task), cancel)
    }

    /// What the operations of one solve are lent, or of a build `depth` deep inside of it.
    fn engine(&self, graph: &Graph, given: &Arc<Given>, depth: usize) -> Arc<Engine> {
        let inner = &self.0;
        Arc::new(Engine {
            layers: inner.store.layers().clone(),
            executor: inner.executor.clone(),
            clock: inner.store.clock().clone(),
            limits: inner.store.limits().clone(),
            session: given.session.clone(),
            entitlements: inner.entitlements.clone(),
            cdi_directories: inner.cdi_directories.clone(),
            network: inner.network,
            cache_mounts: given.cache_mounts_of(graph),
            blobs: inner.store.blobs().clone(),
            meta: inner.store.meta().clone(),
            keys: inner.keys.clone(),
            unpacking: inner.unpacking.clone(),
            resolve: given.resolve,
            #[cfg(feature = "registry")]
            registry: inner.registry.clone(),
            locals: inner.locals.clone(),
            scanned: given.scanned.clone(),
            sources: Mutex::default(),
            sub_solve: Arc::new(SubSolver::new(self, given, depth)),
        })
    }

    /// What steps can have on this machine, and what they cannot, with reasons and remedies; `None`
    /// if the executor cannot tell. The first call tries the machine out, which blocks for about
    /// ten milliseconds.
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.0.executor.capabilities()
    }

    /// The network of steps that do not ask for one: `host`, `none`, or the name of the provider
    /// that connects steps in networks of their own. Each solve with such steps says it too.
    pub fn network(&self) -> &'static str {
        match self.0.network {
            Network::Host => "host",
            Network::None => "none",
            Network::Sandbox => {
                let provider = self.0.executor.network_provider();
                provider.map_or("sandbox", NetworkProvider::name)
            }
        }
    }

    /// The client that images are pulled with.
    #[cfg(feature = "registry")]
    pub fn registry(&self) -> &crate::registry::Registry {
        &self.0.registry
    }

    /// The stores that results lie in.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What runs the processes of exec ops.
    pub fn executor(&self) -> &ExecutorKind {
        &self.0.executor_kind
    }

    /// The directory of the solver's state.
    pub fn root(&self) -> &Path {
        self.0.store.layers().root().path()
    }
}
