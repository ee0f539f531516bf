//! Operations on numbers that count their runs, and a store of numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ashlar_llb::OpDigest;
use ashlar_solver::cache::{
    Cache, Change, ContentChanges, ContentListing, ListedEntry, NewResult, PathChange, Records,
};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::SystemClock;
use ashlar_solver::error::{Blame, Failure, Fault, OperationError};
use ashlar_solver::id::{CacheDigest, ContentDigest, ResultId, Selector};
use ashlar_solver::meta::{Memory, MetaError, RecordWriter};
use ashlar_solver::operation::{
    CacheMap, ContentDescription, Context, InputKey, Operation, Results,
};
use ashlar_solver::progress::{Event, Ignore, Outcome, Sink};
use ashlar_solver::scheduler::{Edge, Graph, Scheduler, SolveContext, SolveError, Solved, Vertex};
use tokio::sync::Semaphore;

/// Everything that happened, by the name of the operation.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) runs: Mutex<BTreeMap<String, usize>>,
    pub(super) contents: Mutex<BTreeMap<String, usize>>,
}

impl Log {
    pub(super) fn take_runs(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.runs.lock().unwrap())
    }

    pub(super) fn take_contents(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut *self.contents.lock().unwrap())
    }

    /// The names of what ran, each of which ran once.
    pub(super) fn ran(&self) -> Vec<String> {
        let runs = self.take_runs();
        assert!(runs.values().all(|&count| count == 1), "{runs:?}");
        runs.into_keys().collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A number.
    Const(i64),
    /// The sum of the inputs; of inputs taken by content, only the tens count.
    Sum,
    /// Two outputs: the sum and the product of the inputs.
    SumAndProduct,
    /// A number that its key does not tell.
    Hidden(i64),
    /// Fails.
    Fail,
    /// Panics.
    Panic,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Gate {
    Open,
    /// Gives way to other tasks a few times.
    Yield(u8),
}

/// An operation on numbers. Its name stands for what it does: equal names, equal keys.
#[derive(Debug, Clone)]
pub(super) struct Number {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) content: Vec<bool>,
    /// The content may be told after the run.
    pub(super) deferrable: bool,
    pub(super) selector: bool,
    pub(super) volatile: bool,
    /// A further key, for constants.
    pub(super) further: Option<String>,
    pub(super) gate: Gate,
    /// Its result depends on something that is not in its key.
    pub(super) confined: bool,
    /// Taken one by one by runs, which wait for it until they are cancelled.
    pub(super) wait: Option<Arc<Semaphore>>,
    pub(super) log: Arc<Log>,
}

static FRESH: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be computed")]
pub(super) struct Impossible {
    pub(super) name: String,
}

impl Blame for Impossible {
    fn fault(&self) -> Fault {
        Fault::Input
    }
}

impl Number {
    fn seen(&self, input: usize, value: i64) -> i64 {
        if self.content.get(input) == Some(&true) {
            value.div_euclid(10) * 10
        } else {
            value
        }
    }

    pub(super) fn compute(&self, inputs: &[i64]) -> Vec<i64> {
        let seen: Vec<i64> = inputs
            .iter()
            .enumerate()
            .map(|(input, &value)| self.seen(input, value))
            .collect();
        let sum = seen
            .iter()
            .fold(0_i64, |sum, value| sum.wrapping_add(*value));
        match self.kind {
            Kind::Const(value) | Kind::Hidden(value) => vec![value],
            Kind::Sum | Kind::Fail | Kind::Panic => vec![sum],
            Kind::SumAndProduct => {
                vec![
                    sum,
                    seen.iter()
                        .fold(1_i64, |product, value| product.wrapping_mul(*value)),
                ]
            }
        }
    }

    fn count(&self, of: &Mutex<BTreeMap<String, usize>>) {
        *of.lock().unwrap().entry(self.name.clone()).or_default() += 1;
    }
}

#[async_trait::async_trait]
impl Operation<i64> for Number {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        if let Gate::Yield(times) = self.gate {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        }
        let text = match (&self.kind, self.volatile) {
            (_, true) => format!("random {}", FRESH.fetch_add(1, Ordering::Relaxed)),
            (Kind::Const(value), _) => format!("const {value} {}", self.name),
            _ => self.name.clone(),
        };
        let selector = self.selector.then(|| Selector::of(b"tens"));
        let input = |&content: &bool| InputKey {
            selector,
            content,
            deferrable: self.deferrable,
        };
        Ok(CacheMap {
            digest: CacheDigest::of(text.as_bytes()),
            volatile: self.volatile,
            inputs: self.content.iter().map(input).collect(),
            further: self.further.is_some(),
        })
    }

    async fn further_cache_map(
        &self,
        index: usize,
        _: &Context,
    ) -> Result<Option<CacheMap>, OperationError> {
        assert_eq!(index, 1);
        let further = self.further.as_ref().unwrap();
        Ok(Some(CacheMap::leaf(CacheDigest::of(further.as_bytes()))))
    }

    async fn content_digest(
        &self,
        input: usize,
        value: &i64,
        _: &Context,
    ) -> Result<ContentDigest, OperationError> {
        assert!(
            self.content[input],
            "{} is not keyed by the content of {input}",
            self.name
        );
        self.count(&self.log.contents);
        Ok(ContentDigest::of(&self.seen(input, *value).to_le_bytes()))
    }

    async fn describe_content(
        &self,
        input: usize,
        value: &i64,
        old: Option<&ContentListing>,
        _: &Context,
    ) -> Result<Option<ContentDescription>, OperationError> {
        let entry = ListedEntry {
            part: 0,
            path: b"tens".as_slice().into(),
            whole: false,
            digest: self.seen(input, *value).to_le_bytes(),
        };
        let changed = |old: &ContentListing| {
            let path = entry.path.clone();
            let change = Change::Changed;
            let differs = old.entries[0].digest != entry.digest;
            ContentChanges::of(
                differs
                    .then_some(PathChange { path, change })
                    .into_iter()
                    .collect(),
            )
        };
        Ok(Some(ContentDescription {
            changes: old.map(changed),
            listing: ContentListing {
                entries: vec![entry],
            },
        }))
    }

    async fn run(&self, inputs: Vec<i64>, context: &Context) -> Result<Vec<i64>, OperationError> {
        self.count(&self.log.runs);
        if let Some(wait) = &self.wait {
            tokio::select! {
                () = context.cancel.cancelled() => return Err(OperationError::Cancelled),
                permit = wait.acquire() => permit.unwrap().forget(),
            }
        }
        if let Gate::Yield(times) = self.gate {
            for _ in 0..times {
                tokio::task::yield_now().await;
            }
        }
        if self.confined {
            context.confine();
        }
        match self.kind {
            Kind::Fail => Err(Failure::new(Impossible {
                name: self.name.clone(),
            })
            .into()),
            Kind::Panic => panic!("{} panics", self.name),
            _ => Ok(self.compute(&inputs)),
        }
    }
}

/// A store of numbers that may lose them.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    stored: Arc<Mutex<Stored>>,
    pub(super) loads: AtomicU64,
}

#[derive(Debug, Default)]
struct Stored {
    numbers: HashMap<i64, i64>,
    last: i64,
}

#[derive(Debug)]
struct NewNumber(Arc<Mutex<Stored>>, i64);

impl NewResult for NewNumber {
    fn store(&mut self, _: &mut dyn RecordWriter) -> Result<ResultId, MetaError> {
        let mut stored = self.0.lock().unwrap();
        stored.last += 1;
        let id = stored.last;
        stored.numbers.insert(id, self.1);
        Ok(ResultId(id))
    }

    fn stored(&mut self) {}
}

impl Numbers {
    /// Loses the results whose ids `lost` picks.
    pub(super) fn lose(&self, lost: impl Fn(i64) -> bool) {
        self.stored
            .lock()
            .unwrap()
            .numbers
            .retain(|&id, _| !lost(id));
    }
}

#[async_trait::async_trait]
impl Results<i64> for Numbers {
    fn keep(&self, value: &i64) -> Option<Box<dyn NewResult>> {
        Some(Box::new(NewNumber(self.stored.clone(), *value)))
    }

    async fn load(&self, id: ResultId) -> Result<Option<i64>, Failure> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(self.stored.lock().unwrap().numbers.get(&id.0).copied())
    }
}

/// How vertices ended, by name.
#[derive(Debug, Default)]
pub(super) struct Events(pub(super) Mutex<Vec<Event>>);

#[async_trait::async_trait]
impl Sink for Events {
    fn control(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    async fn log(&self, event: Event) {
        self.control(event);
    }
}

impl Events {
    /// What was said of one vertex after it was introduced.
    pub(super) fn of(&self, name: &str) -> Vec<String> {
        let wanted = OpDigest::of(name.as_bytes());
        let events = self.0.lock().unwrap();
        let text = |event: &Event| match event {
            Event::Started { digest, .. } if *digest == wanted => Some("started".to_owned()),
            Event::Completed {
                digest, outcome, ..
            } if *digest == wanted => Some(match outcome {
                Outcome::Failed(message) => format!("failed: {message}"),
                other => format!("{other:?}").to_lowercase(),
            }),
            _ => None,
        };
        events.iter().filter_map(text).collect()
    }
}

/// A scheduler on numbers, with its log.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) scheduler: Scheduler<i64>,
    pub(super) results: Arc<Numbers>,
    pub(super) log: Arc<Log>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::on(Arc::new(Memory::new()))
    }

    pub(super) fn on(records: Arc<dyn Records>) -> Self {
        Self::with(records, Arc::default())
    }

    pub(super) fn with(records: Arc<dyn Records>, results: Arc<Numbers>) -> Self {
        let scheduler = Scheduler::new(Cache::new(records), Arc::clone(&results) as _, 4);
        Self {
            scheduler,
            results,
            log: Arc::default(),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        Plan {
            log: Arc::clone(&self.log),
            graph: Graph {
                vertices: Vec::new(),
            },
        }
    }

    pub(super) async fn solve(
        &self,
        plan: &Plan,
        outputs: &[Edge],
    ) -> Result<Solved<i64>, SolveError> {
        self.scheduler
            .solve(&plan.graph, outputs, &context(Cancel::new()))
            .await
    }

    /// Solves for one output and returns its value.
    pub(super) async fn value(&self, plan: &Plan, output: Edge) -> i64 {
        self.solve(plan, &[output]).await.unwrap().values[0]
    }
}

pub(super) fn context(cancel: Cancel) -> SolveContext {
    SolveContext::new(cancel, Arc::new(Ignore), Arc::new(SystemClock))
}

/// A graph that is being put together.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) log: Arc<Log>,
    pub(super) graph: Graph<i64>,
}

impl Plan {
    pub(super) fn number(&self, name: &str, kind: Kind) -> Number {
        Number {
            name: name.to_owned(),
            kind,
            content: Vec::new(),
            deferrable: false,
            selector: false,
            volatile: false,
            further: None,
            gate: Gate::Open,
            confined: false,
            wait: None,
            log: Arc::clone(&self.log),
        }
    }

    pub(super) fn add(&mut self, mut number: Number, inputs: &[Edge]) -> Edge {
        number.content.resize(inputs.len(), false);
        self.graph.vertices.push(Vertex {
            digest: OpDigest::of(number.name.as_bytes()),
            name: number.name.as_str().into(),
            inputs: inputs.to_vec(),
            ignore_cache: false,
            operation: Arc::new(number),
        });
        edge(self.graph.vertices.len() - 1, 0)
    }

    pub(super) fn constant(&mut self, name: &str, value: i64) -> Edge {
        self.add(self.number(name, Kind::Const(value)), &[])
    }

    /// A constant whose key is good for one solve.
    pub(super) fn local(&mut self, name: &str, value: i64) -> Edge {
        self.add(
            Number {
                volatile: true,
                ..self.number(name, Kind::Const(value))
            },
            &[],
        )
    }

    pub(super) fn sum(&mut self, name: &str, inputs: &[Edge]) -> Edge {
        self.add(self.number(name, Kind::Sum), inputs)
    }

    /// A sum of the tens of its inputs, keyed by their content where `content` says so.
    pub(super) fn tens(&mut self, name: &str, inputs: &[Edge], content: &[bool]) -> Edge {
        let number = Number {
            content: content.to_vec(),
            ..self.number(name, Kind::Sum)
        };
        self.add(number, inputs)
    }

    pub(super) fn ignore_cache(&mut self, edge: Edge) {
        self.graph.vertices[edge.vertex].ignore_cache = true;
    }
}

pub(super) fn edge(vertex: usize, output: u32) -> Edge {
    Edge { vertex, output }
}
