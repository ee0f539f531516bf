//! Operations on numbers that give way to other tasks while they run, and count.

use std::collections::{BTreeMap, HashMap, HashSet};
// Not of the checker: whoever counts is no part of what is checked.
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use ashlar_llb::OpDigest;
use ashlar_solver::cache::{Cache, NewResult, Records, RunKey};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::Clock;
use ashlar_solver::error::{Failure, OperationError};
use ashlar_solver::id::{CacheDigest, CacheKey, ContentDigest, ResultId};
use ashlar_solver::meta::{Memory, MetaError, RecordWriter};
use ashlar_solver::operation::{
    CacheMap, Context, InputKey, Operation, Results, RunLock, RunLocks,
};
use ashlar_solver::progress::Ignore;

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler as Order};
use shuttle::{Config, Runner};

use crate::scheduler::{Edge, Graph, Scheduler, SolveContext, SolveError, Solved, Vertex};

/// Orders that are tried, at random and by priority.
const ORDERS: usize = 250;

/// Orders that are tried one after the other; there may be fewer.
const ALL: usize = 2500;

/// How many times as many orders a long proof tries.
const SOAK: usize = 8;

/// Where the orders of a short proof begin, so that it is the same each time.
const SEED: u64 = 20_261_129;

/// Places at which the order that priorities give is changed.
const CHANGES: usize = 3;

fn run(order: impl Order + 'static, model: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // Futures of a build without optimisation take more than the 32 KiB that tasks get.
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    Runner::new(order, config).run(model);
}

/// Whether the proofs are to be long: then with orders that nobody tried before, too.
fn soak() -> bool {
    std::env::var_os("ASHLAR_SOAK").is_some()
}

fn orders(usual: usize) -> usize {
    if soak() { usual * SOAK } else { usual }
}

/// Runs a model in orders chosen at random.
pub(crate) fn in_random_orders(model: impl Fn() + Clone + Send + Sync + 'static) {
    run(RandomScheduler::new_from_seed(SEED, ORDERS), model.clone());
    if soak() {
        run(RandomScheduler::new(orders(ORDERS)), model);
    }
}

/// The same, and in orders by priority, which finds other defects.
pub(crate) fn in_many_orders(model: impl Fn() + Clone + Send + Sync + 'static) {
    in_random_orders(model.clone());
    run(
        PctScheduler::new_from_seed(SEED, CHANGES, ORDERS),
        model.clone(),
    );
    if soak() {
        run(PctScheduler::new(CHANGES, orders(ORDERS)), model);
    }
}

/// Runs a model in all orders, or so many of them as there is time for.
pub(crate) fn in_all_orders(model: impl Fn() + Send + Sync + 'static) {
    run(DfsScheduler::new(Some(orders(ALL)), false), model);
}

/// A clock that stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// How often each operation began, and how often it came to its end.
#[derive(Debug, Default)]
pub(crate) struct Log {
    began: Mutex<BTreeMap<String, usize>>,
    ended: Mutex<BTreeMap<String, usize>>,
    fresh: Mutex<u64>,
}

impl Log {
    fn note(of: &Mutex<BTreeMap<String, usize>>, name: &str) {
        *of.lock().unwrap().entry(name.to_owned()).or_default() += 1;
    }

    pub(crate) fn ended(&self) -> BTreeMap<String, usize> {
        self.ended.lock().unwrap().clone()
    }

    pub(crate) fn began(&self) -> BTreeMap<String, usize> {
        self.began.lock().unwrap().clone()
    }
}

/// A number, or the sum of its inputs.
#[derive(Debug)]
struct Number {
    name: String,
    value: Option<i64>,
    inputs: usize,
    /// Keyed by the content of its inputs, which is told after the run if nobody knows the op.
    content: bool,
    /// Its key is good for one solve.
    volatile: bool,
    log: Arc<Log>,
}

#[async_trait::async_trait]
impl Operation<i64> for Number {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        let mut text = self.name.clone();
        if self.volatile {
            let mut fresh = self.log.fresh.lock().unwrap();
            *fresh += 1;
            text = format!("random {fresh}");
        }
        let key = InputKey {
            selector: None,
            content: self.content,
            deferrable: self.content,
        };
        Ok(CacheMap {
            digest: CacheDigest::of(text.as_bytes()),
            volatile: self.volatile,
            inputs: vec![key; self.inputs],
            further: false,
        })
    }

    async fn content_digest(
        &self,
        _: usize,
        value: &i64,
        _: &Context,
    ) -> Result<ContentDigest, OperationError> {
        shuttle::future::yield_now().await;
        Ok(ContentDigest::of(&value.to_le_bytes()))
    }

    async fn run(&self, inputs: Vec<i64>, context: &Context) -> Result<Vec<i64>, OperationError> {
        Log::note(&self.log.began, &self.name);
        for _ in 0..2 {
            shuttle::future::yield_now().await;
            if context.cancel.is_cancelled() {
                return Err(OperationError::Cancelled);
            }
        }
        Log::note(&self.log.ended, &self.name);
        Ok(vec![self.value.unwrap_or_else(|| inputs.iter().sum())])
    }
}

/// A store of numbers.
#[derive(Debug, Default)]
struct Numbers(Arc<Mutex<Vec<i64>>>);

#[derive(Debug)]
struct NewNumber(Arc<Mutex<Vec<i64>>>, i64);

impl NewResult for NewNumber {
    fn store(&mut self, _: &mut dyn RecordWriter) -> Result<ResultId, MetaError> {
        let mut stored = self.0.lock().unwrap();
        stored.push(self.1);
        Ok(ResultId(i64::try_from(stored.len()).unwrap()))
    }

    fn stored(&mut self) {}
}

#[async_trait::async_trait]
impl Results<i64> for Numbers {
    fn keep(&self, value: &i64) -> Option<Box<dyn NewResult>> {
        Some(Box::new(NewNumber(self.0.clone(), *value)))
    }

    async fn load(&self, id: ResultId) -> Result<Option<i64>, Failure> {
        shuttle::future::yield_now().await;
        let at = usize::try_from(id.0 - 1).unwrap();
        Ok(self.0.lock().unwrap().get(at).copied())
    }
}

/// Locks that two schedulers have in common, as two processes have those of a store.
#[derive(Debug, Default)]
struct Locks(Arc<Mutex<HashSet<RunKey>>>);

#[derive(Debug)]
struct Held(Arc<Mutex<HashSet<RunKey>>>, RunKey);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

impl RunLocks for Locks {
    fn try_lock(&self, run: RunKey) -> Result<Option<RunLock>, Failure> {
        let free = self.0.lock().unwrap().insert(run);
        Ok(free.then(|| Box::new(Held(self.0.clone(), run)) as RunLock))
    }
}

/// One store, and what happens on it.
#[derive(Debug)]
pub(crate) struct Store {
    records: Arc<dyn Records>,
    results: Arc<Numbers>,
    locks: Arc<Locks>,
    pub(crate) log: Arc<Log>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            records: Arc::new(Memory::new()),
            results: Arc::default(),
            locks: Arc::default(),
            log: Arc::default(),
        }
    }

    /// A scheduler on the store, as each process has one.
    pub(crate) fn scheduler(&self) -> Arc<Scheduler<i64>> {
        let cache = Cache::new(self.records.clone());
        let scheduler = Scheduler::new(cache, self.results.clone(), 2);
        Arc::new(scheduler.locks(self.locks.clone()))
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan {
            log: self.log.clone(),
            vertices: Vec::new(),
        }
    }
}

/// A graph that is being put together.
#[derive(Debug)]
pub(crate) struct Plan {
    log: Arc<Log>,
    vertices: Vec<Vertex<i64>>,
}

impl Plan {
    fn add(&mut self, number: Number, inputs: &[Edge]) -> Edge {
        self.vertices.push(Vertex {
            digest: OpDigest::of(number.name.as_bytes()),
            name: number.name.as_str().into(),
            inputs: inputs.to_vec(),
            ignore_cache: false,
            operation: Arc::new(number),
        });
        Edge {
            vertex: self.vertices.len() - 1,
            output: 0,
        }
    }

    fn number(&self, name: &str, inputs: usize) -> Number {
        Number {
            name: name.to_owned(),
            value: None,
            inputs,
            content: false,
            volatile: false,
            log: self.log.clone(),
        }
    }

    pub(crate) fn constant(&mut self, name: &str, value: i64) -> Edge {
        let number = Number {
            value: Some(value),
            ..self.number(name, 0)
        };
        self.add(number, &[])
    }

    pub(crate) fn local(&mut self, name: &str, value: i64) -> Edge {
        let number = Number {
            value: Some(value),
            volatile: true,
            ..self.number(name, 0)
        };
        self.add(number, &[])
    }

    pub(crate) fn sum(&mut self, name: &str, inputs: &[Edge]) -> Edge {
        self.add(self.number(name, inputs.len()), inputs)
    }

    pub(crate) fn copy(&mut self, name: &str, inputs: &[Edge]) -> Edge {
        let number = Number {
            content: true,
            ..self.number(name, inputs.len())
        };
        self.add(number, inputs)
    }

    pub(crate) fn graph(self) -> Arc<Graph<i64>> {
        Arc::new(Graph {
            vertices: self.vertices,
        })
    }
}

/// Solves `graph` for one output.
pub(crate) async fn solve(
    scheduler: Arc<Scheduler<i64>>,
    graph: Arc<Graph<i64>>,
    output: Edge,
    cancel: Cancel,
) -> Result<Solved<i64>, SolveError> {
    let context = SolveContext::new(cancel, Arc::new(Ignore), Arc::new(Still));
    scheduler.solve(&graph, &[output], &context).await
}

/// What must come out the same whatever the order: kept by the first run of a model.
#[derive(Debug, Default)]
pub(crate) struct Same(OnceLock<HashMap<String, Option<CacheKey>>>);

impl Same {
    pub(crate) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Compares the keys of all vertices that have one for more than this solve.
    pub(crate) fn keys(&self, graph: &Graph<i64>, solved: &Solved<i64>) {
        let named = graph.vertices.iter().zip(&solved.report);
        let keys = named
            .filter(|(_, report)| !report.volatile)
            .map(|(vertex, report)| (vertex.name.to_string(), report.key));
        let keys: HashMap<_, _> = keys.collect();
        let first = self.0.get_or_init(|| keys.clone());
        assert_eq!(*first, keys);
    }
}
