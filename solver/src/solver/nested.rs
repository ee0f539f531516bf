//! Builds inside of a build.
//!
//! Owns [`Given`], what the caller gave to a solve and all builds in it share, and [`SubSolver`],
//! through which an op has a definition solved. A nested build may do what the outer one may, and
//! uses the same session; it ends when the outer one does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ashlar_llb::pb::{MountType, op::Op};
use ashlar_llb::{Definition, Graph};
use async_trait::async_trait;

use super::run::{self, Solving, VertexReport};
use super::{Inner, SolveError, Solver};
use crate::error::{FailureSource, OperationError};
use crate::operation::{Context, SubSolve, SubSolved};
use crate::ops::CacheMounts;
use crate::ops::build::NestedError;
use crate::ops::source::is_fixed;
use crate::progress::{Event, Sink};
use crate::refs::Ref;
use crate::scheduler::VertexStatus;
use crate::session::Session;
use crate::source::image::ResolveMode;
use crate::source::local::LocalTree;

/// What the caller gave to a solve, and what is learnt in the course of it.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) session: Session,
    pub(super) resolve: ResolveMode,
    pub(super) no_cache: bool,
    cache_mounts: CacheMounts,
    /// Weak, because results hold what they came from, and the events of a solve end with it.
    sink: Weak<dyn Sink>,
    /// The local directories that were looked at.
    pub(super) scanned: Arc<Mutex<Vec<Arc<LocalTree>>>>,
    /// What happened to the vertices of nested builds, in the order in which those ended.
    reports: Mutex<Vec<VertexReport>>,
    /// The default network was told of.
    told_network: AtomicBool,
}

impl Given {
    pub(super) fn new(
        session: Session,
        resolve: ResolveMode,
        no_cache: bool,
        cache_mounts: CacheMounts,
        sink: &Arc<dyn Sink>,
    ) -> Self {
        Self {
            session,
            resolve,
            no_cache,
            cache_mounts,
            sink: Arc::downgrade(sink),
            scanned: Arc::default(),
            reports: Mutex::default(),
            told_network: AtomicBool::new(false),
        }
    }

    /// Tells once which network steps have that ask for none.
    pub(super) fn tell_network(&self, solver: &Solver, graph: &Graph, sink: &dyn Sink) {
        if graph.vertices().iter().any(run::takes_default_network)
            && !self.told_network.swap(true, Ordering::Relaxed)
        {
            let network = solver.network();
            sink.control(Event::DefaultNetwork { network });
        }
    }

    /// The cache mounts as a graph of the solve uses them: those of steps for which the cache is
    /// ignored begin anew.
    pub(super) fn cache_mounts_of(&self, graph: &Graph) -> CacheMounts {
        let vertices = graph.vertices().iter();
        let ignored = vertices.filter(|it| self.no_cache || it.metadata().ignore_cache);
        let execs = ignored.filter_map(|vertex| match vertex.op() {
            Op::Exec(exec) => Some(exec),
            _ => None,
        });
        let caches = execs.flat_map(|exec| &exec.mounts);
        let caches = caches.filter(|mount| mount.mount_type() == MountType::Cache);
        let ids = caches.filter_map(|mount| Some(mount.cache_opt.as_ref()?.id.clone()));
        self.cache_mounts.ignoring(ids)
    }

    /// What happened to the vertices of nested builds.
    pub(super) fn take_reports(&self) -> Vec<VertexReport> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Solves definitions that are found in the course of a solve.
#[derive(Debug)]
pub(super) struct SubSolver {
    /// Weak, because results may outlive the solver and hold the ops that they came from.
    solver: Weak<Inner>,
    given: Arc<Given>,
    depth: usize,
}

impl SubSolver {
    pub(super) fn new(solver: &Solver, given: &Arc<Given>, depth: usize) -> Self {
        Self {
            solver: Arc::downgrade(&solver.0),
            given: given.clone(),
            depth,
        }
    }
}

#[async_trait]
impl SubSolve<Ref> for SubSolver {
    async fn sub_solve(
        &self,
        definition: Definition,
        context: &Context,
    ) -> Result<SubSolved<Ref>, OperationError> {
        let solver = self.solver.upgrade().map(Solver);
        let solver = solver.ok_or(OperationError::Cancelled)?;
        let limit = solver.0.store.limits().build_depth;
        if self.depth >= limit {
            return Err(NestedError::TooDeep { limit }.into());
        }
        let graph = Graph::load(&definition);
        let graph = graph.map_err(|error| NestedError::Load(Arc::new(error)))?;
        if graph.head().is_none() {
            return Ok(SubSolved {
                value: Ref::scratch(),
                fixed: true,
                origins: Vec::new(),
            });
        }
        let sink = self.given.sink.upgrade();
        let sink = sink.ok_or(OperationError::Cancelled)?;
        self.given.tell_network(&solver, &graph, &*sink);
        let engine = solver.engine(&graph, &self.given, self.depth + 1);
        let given = &self.given;
        let solving = Solving {
            no_cache: given.no_cache,
            cancel: context.cancel.clone(),
            sink,
            imports: Arc::new([]),
        };
        let solved = run::run(&solver, &graph, &engine, solving).await;
        let ran = solved.map_err(nested)?;
        let origins = ran.images(&graph);
        let run::Ran {
            reference: value,
            vertices: reports,
            ..
        } = ran;
        let looked = |report: &VertexReport| report.status == VertexStatus::Looked;
        let changing = |vertex: &ashlar_llb::Vertex| match vertex.op() {
            Op::Source(source) => !is_fixed(source),
            _ => false,
        };
        let fixed = !reports.iter().any(looked) && !graph.vertices().iter().any(changing);
        let mut all = given.reports.lock().unwrap_or_else(PoisonError::into_inner);
        run::append(&mut all, reports);
        Ok(SubSolved {
            value,
            fixed,
            origins,
        })
    }
}

/// The failure of a nested build as one of the op that asked for it.
fn nested(error: SolveError) -> OperationError {
    match error {
        SolveError::Cancelled => OperationError::Cancelled,
        SolveError::Definition(error) => NestedError::Load(error).into(),
        SolveError::Vertex {
            digest,
            name,
            locations,
            failure,
        } => {
            let location = locations.first();
            NestedError::Vertex {
                name,
                digest,
                location: location.map(|at| format!("{}:{}", at.file, at.line)),
                source: FailureSource(failure),
            }
            .into()
        }
        SolveError::Engine(failure) => failure.into(),
    }
}
