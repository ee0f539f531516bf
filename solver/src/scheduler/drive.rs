//! The event loop of one solve: does what the build state asks for, and tells it what came of it.
//!
//! Cache maps and loads are polled in the solve's own task, at once when they need no waiting;
//! content digests and runs are tasks of the runtime. When the loop ends, for whatever reason,
//! the cancel flag of its operations is raised and running vertices are waited for, so that
//! nothing outlives the solve. (A solve whose future is dropped raises the flag and aborts its
//! tasks without waiting.)

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tracing::Instrument as _;

use super::build::{Action, Build, Event, RunRequest};
use super::work::{SeamError, Work, milliseconds};
use super::{Edge, Graph, Scheduler, SolveContext, SolveError, Solved, Trace};
use crate::cache::{Cache, ImportedRecords, KnownResult, MetaError, ResultSource};
use crate::cancel::Cancel;
use crate::error::{Failure, OperationError};
use crate::id::CacheKey;
use crate::operation::{Context, Import};
use crate::progress::{self, Outcome, Reporter};
use crate::sync::{Arc, JoinSet, sleep};

/// After so long without news, records that were deferred do not wait for more. Who solves a vertex
/// anew that was solved meanwhile, in another process or after the death of this one, loses as much.
const IDLE: Duration = Duration::from_millis(20);

/// What came of an action for a vertex.
type Done<T> = (usize, Result<Event<T>, OperationError>);

type Pending<T> = Pin<Box<dyn Future<Output = Done<T>> + Send>>;

/// One solve on its way.
pub(super) struct Drive<'a, T: Clone> {
    scheduler: &'a Scheduler<T>,
    graph: &'a Graph<T>,
    context: &'a SolveContext,
    end: EndOfSolve,
    solve: u64,
    imports: Arc<[Import<T>]>,
    /// The records of `imports`.
    imported: Vec<Arc<ImportedRecords>>,
    build: Build<T>,
    /// Cache maps and loads.
    light: FuturesUnordered<Pending<T>>,
    /// Content digests and runs.
    tasks: JoinSet<Done<T>>,
    /// What was said about each vertex.
    told: Vec<Told>,
    warned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Started,
    Completed,
}

/// Raises the flag when dropped, and stores the records that were deferred.
struct EndOfSolve {
    cancel: Cancel,
    cache: Cache,
}

impl Drop for EndOfSolve {
    fn drop(&mut self) {
        self.cancel.cancel();
        // Nobody is left to be warned.
        drop(self.cache.store_deferred());
    }
}

impl<'a, T: Clone + Send + Sync + 'static> Drive<'a, T> {
    pub(super) fn new(
        scheduler: &'a Scheduler<T>,
        graph: &'a Graph<T>,
        outputs: &[Edge],
        context: &'a SolveContext,
        solve: u64,
        imports: Arc<[Import<T>]>,
    ) -> Result<Self, SolveError> {
        Ok(Self {
            scheduler,
            graph,
            context,
            end: EndOfSolve {
                cancel: context.cancel.child(),
                cache: scheduler.cache.clone(),
            },
            solve,
            imported: imports
                .iter()
                .map(|import| Arc::clone(&import.records))
                .collect(),
            imports,
            build: Build::new(graph, outputs)?,
            light: FuturesUnordered::new(),
            tasks: JoinSet::new(),
            told: vec![Told::Nothing; graph.vertices.len()],
            warned: false,
        })
    }

    /// Runs the solve to its end.
    pub(super) async fn run(mut self) -> Result<Solved<T>, SolveError> {
        self.announce();
        let ended = self.work().await;
        self.end.cancel.cancel();
        self.light.clear();
        while self.tasks.join_next().await.is_some() {}
        self.store_deferred();
        self.tell_rest(ended.is_ok());
        ended?;
        let value = |&(vertex, slot): &(usize, usize)| {
            self.build.vertices[vertex].edges[slot].value.clone()
        };
        let values: Option<Vec<T>> = self.build.outputs.iter().map(value).collect();
        let values = values.ok_or_else(stuck)?;
        Ok(Solved {
            values,
            report: self.build.report(),
            outputs: self.build.known_outputs(),
            trace: Trace::new(self.build, self.imports),
        })
    }

    async fn work(&mut self) -> Result<(), SolveError> {
        let mut events = Vec::new();
        loop {
            self.decide(&mut events);
            for action in std::mem::take(&mut self.build.actions) {
                if let Some(done) = self.start(action) {
                    events.extend(self.take(done)?);
                }
            }
            if !events.is_empty() {
                continue;
            }
            if self.build.outstanding == 0 {
                return Ok(());
            }
            if self.light.is_empty() && self.tasks.is_empty() {
                return Err(stuck());
            }
            let deferred = self.scheduler.cache.has_deferred();
            let done = tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => return Err(SolveError::Cancelled),
                Some(done) = self.light.next() => Some(done),
                Some(done) = self.tasks.join_next() => done.ok(),
                () = sleep(IDLE), if deferred => {
                    self.store_deferred();
                    None
                }
            };
            if let Some(done) = done {
                events.extend(self.take(done)?);
            }
            while let Some(Ok(done)) = self.tasks.try_join_next() {
                events.extend(self.take(done)?);
            }
        }
    }

    /// Feeds the build state and lets it decide, in one read of the cache.
    fn decide(&mut self, events: &mut Vec<Event<T>>) {
        let build = &mut self.build;
        let error = self.scheduler.cache.read_with(&self.imported, |lookup| {
            for event in events.drain(..) {
                build.apply(event, lookup);
            }
            build.settle(lookup);
            lookup.take_error()
        });
        if let Some(error) = error
            && !std::mem::replace(&mut self.warned, true)
        {
            let message = format!("the cache cannot be used: {}", Failure::new(error).chain());
            self.context.sink.control(progress::Event::Warning {
                digest: None,
                message,
            });
        }
    }

    fn store_deferred(&self) {
        self.warn_of(self.scheduler.cache.store_deferred());
    }

    /// Tells that records are lost.
    fn warn_of(&self, stored: Result<(), MetaError>) {
        if let Err(error) = stored {
            let message = Failure::new(error).chain();
            self.context.sink.control(progress::Event::Warning {
                digest: None,
                message,
            });
        }
    }

    /// Starts what is to be done; returns what is done already.
    fn start(&mut self, action: Action<T>) -> Option<Done<T>> {
        match action {
            Action::CacheMap { vertex, index } => {
                let cache_map = self.cache_map(vertex, index);
                let done = self.poll(cache_map);
                if done.is_none() {
                    self.tell_started(vertex);
                }
                done
            }
            Action::Load {
                vertex,
                slot,
                key,
                result,
            } => {
                let load = self.load(vertex, key, result);
                let load = async move {
                    let value = load.await;
                    Ok(Event::Loaded {
                        vertex,
                        slot,
                        key,
                        result,
                        value,
                    })
                };
                let load = guarded(vertex, load).instrument(self.span(vertex, "load"));
                self.poll(Box::pin(load))
            }
            Action::Content {
                vertex,
                input,
                value,
            } => {
                let operation = Arc::clone(&self.graph.vertices[vertex].operation);
                let context = self.operation_context(vertex);
                let work = async move {
                    let digest = tokio::select! {
                        biased;
                        () = context.cancel.cancelled() => return Err(OperationError::Cancelled),
                        digest = operation.content_digest(input, &value, &context) => digest?,
                    };
                    Ok(Event::Content {
                        vertex,
                        input,
                        digest,
                    })
                };
                let span = self.span(vertex, "content");
                self.tasks.spawn(guarded(vertex, work).instrument(span));
                None
            }
            Action::Run(request) => {
                self.start_run(request);
                None
            }
            Action::Learn(mut batch) => {
                batch.created_at = milliseconds(&*self.context.clock);
                self.warn_of(self.scheduler.cache.defer(batch));
                None
            }
        }
    }

    /// Loads a result; `None` if it is gone.
    fn load(
        &self,
        vertex: usize,
        key: CacheKey,
        result: KnownResult,
    ) -> impl Future<Output = Option<T>> + Send + use<T> {
        let results = Arc::clone(&self.scheduler.results);
        let cache = self.scheduler.cache.clone();
        let reporter = self.reporter(vertex);
        let imports = Arc::clone(&self.imports);
        async move {
            let loaded = match result.source {
                ResultSource::Stored(id) => {
                    let loaded = results.load(id).await;
                    if let Ok(None) = loaded {
                        // If this fails, the record is found gone again next time.
                        drop(cache.drop_result(key, id));
                    }
                    loaded
                }
                ResultSource::Imported { import, layer } => match imports.get(import) {
                    Some(import) => {
                        let created_at = result.created_at;
                        let results = &import.results;
                        results.load(key, layer, created_at, &reporter).await
                    }
                    None => Ok(None),
                },
            };
            loaded.unwrap_or_else(|failure| {
                reporter.warn(format!("a result cannot be used: {}", failure.chain()));
                None
            })
        }
    }

    fn cache_map(&self, vertex: usize, index: usize) -> Pending<T> {
        let graph_vertex = &self.graph.vertices[vertex];
        let operation = Arc::clone(&graph_vertex.operation);
        let context = self.operation_context(vertex);
        let expected = graph_vertex.inputs.len();
        let work = async move {
            let map = match index {
                0 => Some(operation.cache_map(&context).await?),
                _ => operation.further_cache_map(index, &context).await?,
            };
            let found = map.as_ref().map_or(expected, |map| map.inputs.len());
            if found != expected {
                return Err(SeamError::CacheMap { found, expected }.into());
            }
            Ok(Event::CacheMap { vertex, map })
        };
        Box::pin(guarded(vertex, work).instrument(self.span(vertex, "cache map")))
    }

    fn start_run(&mut self, request: RunRequest<T>) {
        let vertex = request.vertex;
        let told = std::mem::replace(&mut self.told[vertex], Told::Started);
        let work = Work {
            operation: Arc::clone(&self.graph.vertices[vertex].operation),
            context: self.operation_context(vertex),
            request,
            contents: Vec::new(),
            flights: Arc::clone(&self.scheduler.flights),
            solve: self.solve,
            cache: self.scheduler.cache.clone(),
            results: Arc::clone(&self.scheduler.results),
            permits: Arc::clone(&self.scheduler.permits),
            locks: Arc::clone(&self.scheduler.locks),
            clock: Arc::clone(&self.context.clock),
        };
        let (sink, clock) = (
            Arc::clone(&self.context.sink),
            Arc::clone(&self.context.clock),
        );
        let digest = self.graph.vertices[vertex].digest;
        let started = move || {
            if told == Told::Nothing {
                sink.control(progress::Event::Started {
                    digest,
                    at: clock.now(),
                });
            }
        };
        let work = guarded(vertex, work.run(started));
        self.tasks.spawn(work.instrument(self.span(vertex, "run")));
    }

    /// Polls once, and keeps what is not done.
    fn poll(&self, mut pending: Pending<T>) -> Option<Done<T>> {
        match (&mut pending).now_or_never() {
            Some(done) => Some(done),
            None => {
                self.light.push(pending);
                None
            }
        }
    }

    /// Looks at what came of an action; an event for the build state unless it ends the solve.
    fn take(&mut self, (vertex, result): Done<T>) -> Result<Option<Event<T>>, SolveError> {
        match result {
            Ok(event) => {
                match &event {
                    Event::Ran {
                        shared: false,
                        confined,
                        ..
                    } => {
                        let outcome = if *confined || self.build.is_volatile(vertex) {
                            Outcome::Looked
                        } else {
                            Outcome::Ran
                        };
                        self.tell_completed(vertex, outcome);
                    }
                    Event::Ran { shared: true, .. } | Event::Loaded { value: Some(_), .. } => {
                        self.tell_completed(vertex, Outcome::Cached);
                    }
                    _ => {}
                }
                Ok(Some(event))
            }
            Err(OperationError::Cancelled) => Err(SolveError::Cancelled),
            Err(OperationError::Failed(failure)) => {
                self.tell_completed(vertex, Outcome::Failed(failure.chain()));
                let failed = &self.graph.vertices[vertex];
                Err(SolveError::Vertex {
                    vertex,
                    digest: failed.digest,
                    name: failed.name.to_string(),
                    failure,
                })
            }
        }
    }

    /// The span of a piece of work on a vertex, in that of the solve.
    fn span(&self, vertex: usize, work: &'static str) -> tracing::Span {
        let vertex = &self.graph.vertices[vertex];
        let (digest, name) = (vertex.digest, &*vertex.name);
        tracing::debug_span!("vertex", work, %digest, name)
    }

    fn reporter(&self, vertex: usize) -> Reporter {
        Reporter::new(
            Arc::clone(&self.context.sink),
            self.graph.vertices[vertex].digest,
            Arc::clone(&self.context.clock),
        )
    }

    fn operation_context(&self, vertex: usize) -> Context {
        Context::new(self.end.cancel.clone(), self.reporter(vertex))
    }

    /// Tells which vertices there are, inputs first.
    fn announce(&self) {
        for &vertex in &self.build.order {
            let vertex = &self.graph.vertices[vertex];
            let input = |edge: &Edge| self.graph.vertices[edge.vertex].digest;
            self.context.sink.control(progress::Event::Vertex {
                digest: vertex.digest,
                name: Arc::clone(&vertex.name),
                inputs: vertex.inputs.iter().map(input).collect(),
            });
        }
    }

    fn tell_started(&mut self, vertex: usize) {
        if self.told[vertex] == Told::Nothing {
            self.told[vertex] = Told::Started;
            let digest = self.graph.vertices[vertex].digest;
            let at = self.context.clock.now();
            self.context
                .sink
                .control(progress::Event::Started { digest, at });
        }
    }

    fn tell_completed(&mut self, vertex: usize, outcome: Outcome) {
        if self.told[vertex] != Told::Completed {
            self.told[vertex] = Told::Completed;
            let graph_vertex = &self.graph.vertices[vertex];
            let (digest, name) = (graph_vertex.digest, &*graph_vertex.name);
            tracing::debug!(%digest, name, ?outcome, "completed");
            let at = self.context.clock.now();
            self.context.sink.control(progress::Event::Completed {
                digest,
                at,
                outcome,
            });
        }
    }

    /// Tells how all other vertices ended: cached ones that nobody had to load, and cancelled
    /// ones that had started.
    fn tell_rest(&mut self, solved: bool) {
        let at = self.context.clock.now();
        for &vertex in &self.build.order {
            let outcome = match self.told[vertex] {
                Told::Completed => continue,
                _ if solved => Outcome::Cached,
                Told::Started => Outcome::Cancelled,
                Told::Nothing => continue,
            };
            self.told[vertex] = Told::Completed;
            let digest = self.graph.vertices[vertex].digest;
            self.context.sink.control(progress::Event::Completed {
                digest,
                at,
                outcome,
            });
        }
    }
}

/// Turns a panic of an operation into a failure of its vertex.
async fn guarded<T>(
    vertex: usize,
    work: impl Future<Output = Result<Event<T>, OperationError>> + Send,
) -> Done<T> {
    let result = AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let message = message_of(&*panic);
            Err(SeamError::Panicked { message }.into())
        });
    (vertex, result)
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}

fn stuck() -> SolveError {
    SolveError::Malformed {
        reason: "nothing is left to do, and outputs are missing".to_owned(),
    }
}
