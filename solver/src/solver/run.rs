//! One solve, from definition to result.

use std::collections::BTreeMap;
use std::sync::Arc;

use ashlar_llb::pb::{NetMode, op::Op};
use ashlar_llb::{Graph, OpDigest, Platform};

use super::cache::SolveImport;
use super::nested::Given;
use super::{Durability, SolveError, SolveRequest, Solver, SourceLocation};
use super::{bases, record};
use crate::cancel::Cancel;
use crate::error::{Failure, OperationError};
use crate::operation::Import;
use crate::ops::imported::ImportError;
use crate::ops::{Engine, operation};
use crate::progress::{Event, Sink};
use crate::provenance::{Provenance, Recorder};
use crate::refs::Ref;
use crate::result::BuildResult;
use crate::scheduler::{self, Edge, SolveContext, Trace, Vertex, VertexStatus};

/// What a solve returns.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Solved {
    /// The result, ready to be exported.
    pub result: BuildResult,
    /// What happened to each vertex, inputs first; those of nested builds follow.
    pub vertices: Vec<VertexReport>,
    /// What was read of each local directory that was looked at.
    pub locals: Vec<LocalReport>,
    pub(super) solver: Solver,
    /// The keys and results of the vertices; `None` if there are none.
    pub(super) trace: Option<Trace<Ref>>,
    /// By vertex whether the definition lets its results be exported.
    pub(super) exports: Vec<Option<bool>>,
    /// The images that the vertices started from, in their order.
    pub(super) origins: Vec<Ref>,
}

/// What was read of one local directory to find out what is in its files. Files that are remembered
/// from earlier solves, and did not change since, are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalReport {
    /// The name under which it was lent.
    pub name: Arc<str>,
    /// Files that were opened. Of solves that look at one directory at the same time, each counts
    /// what the others read as well.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl Solved {
    /// How many vertices ran. Sources that every solve has to look at do not count.
    pub fn ran(&self) -> usize {
        self.vertices
            .iter()
            .filter(|v| matches!(v.status, VertexStatus::Ran(_)))
            .count()
    }

    /// Says in one line why a vertex ran, by its place in [`Solved::vertices`]; `None` if it did
    /// not. The reason as a value is in its [`VertexStatus`].
    pub fn explain(&self, vertex: usize) -> Option<String> {
        let report = self.vertices.get(vertex)?;
        let VertexStatus::Ran(reason) = &report.status else {
            return None;
        };
        let why = reason.text(|input| {
            let input = self.vertices.get(*report.inputs.get(input)?)?;
            Some(input.name.to_string())
        });
        Some(format!("{} ran: {why}", report.name))
    }
}

/// What happened to one vertex.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VertexReport {
    /// Its digest.
    pub digest: OpDigest,
    /// Its display name.
    pub name: Arc<str>,
    /// How it ended, and why it ran if it did.
    pub status: VertexStatus,
    /// The places of its inputs in [`Solved::vertices`].
    pub inputs: Vec<usize>,
}

pub(super) async fn solve(
    solver: Solver,
    request: SolveRequest,
    cancel: Cancel,
    sink: Arc<dyn Sink>,
) -> Result<Solved, SolveError> {
    let graph = Graph::load(&request.definition)
        .map_err(|error| SolveError::Definition(Arc::new(error)))?;
    let clock = solver.store().clock().clone();
    let started = clock.now();
    let recorder = Arc::new(Recorder::new(sink.clone()));
    let telling: Arc<dyn Sink> = recorder.clone();
    let cache_mounts = &solver.0.cache_mounts;
    let given = Arc::new(Given::new(
        request.session,
        request.resolve,
        request.no_cache,
        cache_mounts.of_solve(request.cache_mount_namespace),
        &telling,
    ));
    given.tell_network(&solver, &graph, &*sink);
    let engine = solver.engine(&graph, &given, 0);
    let awaited = match request.durability {
        Durability::Synced => Some(solver.0.syncer.ahead()),
        Durability::Background => None,
    };
    let ran = match graph.head() {
        Some(_) => {
            let imports = request.imports.iter();
            let imports = imports.map(|import| import.for_solve(&engine, &solver));
            let solving = Solving {
                no_cache: request.no_cache,
                cancel,
                sink: telling,
                imports: Arc::new([]),
            };
            run_importing(&solver, &graph, &engine, solving, imports.collect()).await?
        }
        None => Ran::nothing(),
    };
    let provenance = Provenance {
        invocation: record::invocation().map_err(|error| SolveError::Engine(error.into()))?,
        started,
        finished: clock.now(),
        vertices: record::vertices(&graph, &ran, &engine, &recorder),
        definition: request.definition,
    };
    let images = ran.images(&graph);
    let Ran {
        reference,
        mut vertices,
        trace,
        origins,
        ..
    } = ran;
    append(&mut vertices, given.take_reports());
    let mut locals = Vec::new();
    for (name, files, bytes) in engine.locals_read() {
        let name: Arc<str> = name.into();
        let report = name.clone();
        sink.control(Event::LocalRead {
            name: report,
            files,
            bytes,
        });
        locals.push(LocalReport { name, files, bytes });
    }
    if engine.has_locals() {
        // Its own thread, because a cache of many files takes milliseconds to write.
        let _panicked = tokio::task::spawn_blocking(move || engine.remember_locals()).await;
    }
    settle(&solver, request.durability).await?;
    drop(awaited);
    let platform = request.platform.unwrap_or_else(|| platform_of(&graph));
    let exports = graph.vertices().iter();
    let exports = exports.map(|vertex| {
        vertex
            .metadata()
            .export_cache
            .as_ref()
            .map(|told| told.value)
    });
    let exports = exports.collect();
    let result = BuildResult::new(reference, platform, solver.store().clone())
        .with_provenance(Arc::new(provenance))
        .with_images(images);
    Ok(Solved {
        result,
        vertices,
        locals,
        solver,
        trace,
        exports,
        origins: origins.into_values().flatten().collect(),
    })
}

/// Adds the reports of another graph, or of several.
pub(super) fn append(reports: &mut Vec<VertexReport>, of_another: Vec<VertexReport>) {
    let before = reports.len();
    reports.extend(of_another.into_iter().map(|mut report| {
        report.inputs.iter_mut().for_each(|input| *input += before);
        report
    }));
}

/// Whether a step leaves it to the solver which network it gets.
pub(super) fn takes_default_network(vertex: &ashlar_llb::Vertex) -> bool {
    matches!(vertex.op(), Op::Exec(exec) if exec.network == NetMode::Unset as i32)
}

/// The platform of the vertex that the result comes from.
fn platform_of(graph: &Graph) -> Platform {
    let head = graph.head().map(|edge| graph.vertex(edge.vertex));
    head.and_then(|vertex| vertex.platform())
        .map_or_else(Platform::of_target, |platform| {
            Platform::from(platform).normalised()
        })
}

/// How a graph is solved.
#[derive(Clone)]
pub(super) struct Solving {
    /// Run every vertex.
    pub(super) no_cache: bool,
    pub(super) cancel: Cancel,
    pub(super) sink: Arc<dyn Sink>,
    /// Records from elsewhere.
    pub(super) imports: Arc<[Import<Ref>]>,
}

/// As [`run`], and anew without those imports that turn out to be broken.
async fn run_importing(
    solver: &Solver,
    graph: &Graph,
    engine: &Arc<Engine>,
    mut solving: Solving,
    mut imports: Vec<SolveImport>,
) -> Result<Ran, SolveError> {
    loop {
        solving.imports = imports.iter().map(|import| import.import.clone()).collect();
        let error = match run(solver, graph, engine, solving.clone()).await {
            Err(error @ SolveError::Vertex { .. }) => error,
            ended => return ended,
        };
        let SolveError::Vertex { failure, .. } = &error else {
            return Err(error);
        };
        let count = imports.len();
        imports.retain(|import| !import.is_broken());
        if failure.downcast_ref::<ImportError>().is_none() || imports.len() == count {
            return Err(error);
        }
        let message = format!("{}; the solve goes on without it", failure.chain());
        let digest = None;
        solving.sink.control(Event::Warning { digest, message });
    }
}

/// Solves the head of a graph. Waits for all it started, unless dropped.
pub(super) async fn run(
    solver: &Solver,
    graph: &Graph,
    engine: &Arc<Engine>,
    solving: Solving,
) -> Result<Ran, SolveError> {
    let vertices = operations(graph, engine, solving.no_cache)?;
    let head = graph.head().expect("BUG: only graphs with a head run");
    let outputs = [Edge {
        vertex: head.vertex.index(),
        output: head.output,
    }];
    let context = SolveContext::new(solving.cancel, solving.sink, solver.store().clock().clone());
    let work = scheduler::Graph { vertices };
    let scheduler = &solver.0.scheduler;
    let solved = scheduler.solve_importing(&work, &outputs, &context, solving.imports);
    let solved = solved.await;
    let mut solved = solved.map_err(|error| located(graph, error))?;
    let reference = solved.values.pop().expect("BUG: one output was asked for");
    let reports = graph
        .vertices()
        .iter()
        .zip(&work.vertices)
        .zip(solved.report)
        .map(|((vertex, scheduled), report)| VertexReport {
            digest: vertex.digest(),
            name: scheduled.name.clone(),
            status: report.status,
            inputs: scheduled.inputs.iter().map(|edge| edge.vertex).collect(),
        })
        .collect();
    let origins = work.vertices.iter().enumerate();
    let origins = origins.map(|(at, vertex)| (at, vertex.operation.origins()));
    let origins = origins.filter(|(_, origins)| !origins.is_empty());
    Ok(Ran {
        reference,
        vertices: reports,
        outputs: solved.outputs,
        trace: Some(solved.trace),
        origins: origins.collect(),
    })
}

/// What running a graph gave.
pub(super) struct Ran {
    pub(super) reference: Ref,
    /// By index in the graph.
    pub(super) vertices: Vec<VertexReport>,
    pub(super) outputs: Vec<scheduler::Output<Ref>>,
    /// What an export of cache records needs; `None` if there is nothing to export.
    pub(super) trace: Option<Trace<Ref>>,
    /// What vertices started from, by their index in the graph; of those alone that did.
    origins: BTreeMap<usize, Vec<Ref>>,
}

impl Ran {
    /// The images that the head of the graph is built on.
    pub(super) fn images(&self, graph: &Graph) -> Vec<Ref> {
        if self.origins.is_empty() {
            return Vec::new();
        }
        let below = bases::below(graph).into_iter();
        let images = below.filter_map(|at| self.origins.get(&at));
        images.flatten().cloned().collect()
    }

    /// Of a graph without vertices.
    fn nothing() -> Self {
        Self {
            reference: Ref::scratch(),
            vertices: Vec::new(),
            outputs: Vec::new(),
            trace: None,
            origins: BTreeMap::new(),
        }
    }
}

fn operations(
    graph: &Graph,
    engine: &Arc<Engine>,
    no_cache: bool,
) -> Result<Vec<Vertex<Ref>>, SolveError> {
    let mut vertices = Vec::with_capacity(graph.vertices().len());
    for vertex in graph.vertices() {
        let operation = operation(vertex, engine).map_err(|error| match error {
            OperationError::Cancelled => SolveError::Cancelled,
            OperationError::Failed(failure) => failed(vertex, failure),
        })?;
        let edge = |edge: &ashlar_llb::Edge| Edge {
            vertex: edge.vertex.index(),
            output: edge.output,
        };
        vertices.push(Vertex {
            digest: vertex.digest(),
            name: vertex.shared_name(),
            inputs: vertex.inputs().iter().map(edge).collect(),
            ignore_cache: no_cache || vertex.metadata().ignore_cache,
            operation,
        });
    }
    Ok(vertices)
}

fn located(graph: &Graph, error: scheduler::SolveError) -> SolveError {
    match error {
        scheduler::SolveError::Cancelled => SolveError::Cancelled,
        scheduler::SolveError::Vertex {
            vertex, failure, ..
        } => failed(&graph.vertices()[vertex], failure),
        error => SolveError::Engine(error.into()),
    }
}

fn failed(vertex: &ashlar_llb::Vertex, failure: Failure) -> SolveError {
    let locations = vertex
        .locations()
        .map(|location| {
            let line = location.lines().map_or(0, |(first, _)| first);
            let text = location
                .excerpt(0)
                .next()
                .map(|(_, text)| text.into_owned());
            SourceLocation {
                file: location.file_name().to_owned(),
                line,
                text: text.unwrap_or_default(),
            }
        })
        .collect();
    SolveError::Vertex {
        digest: vertex.digest(),
        name: vertex.name().to_owned(),
        locations,
        failure,
    }
}

/// Starts to bring the store to disk, and waits for it if asked to.
async fn settle(solver: &Solver, durability: Durability) -> Result<(), SolveError> {
    let started = solver.0.syncer.start().map_err(SolveError::Engine)?;
    let (Some(request), Durability::Synced) = (started, durability) else {
        return Ok(());
    };
    let solver = solver.clone();
    let waited = tokio::task::spawn_blocking(move || solver.0.syncer.wait(request)).await;
    match waited {
        Ok(synced) => synced.map_err(SolveError::Engine),
        Err(_) => Err(SolveError::Cancelled),
    }
}

impl From<OperationError> for SolveError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Cancelled => Self::Cancelled,
            OperationError::Failed(failure) => Self::Engine(failure),
        }
    }
}
