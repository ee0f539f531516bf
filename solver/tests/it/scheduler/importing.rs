//! Solves that look at records from elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ashlar_solver::cache::{
    CacheMode, CacheRecords, ImportedRecords, MissReason, NewRecords, RecordBatch,
};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::id::CacheKey;
use ashlar_solver::operation::{Import, ImportedResults, Results as _};
use ashlar_solver::progress::{Ignore, Reporter};
use ashlar_solver::scheduler::{Edge, Solved, VertexStatus};

use super::exporting::export;
use super::kit::*;

/// Numbers by the records that name them.
#[derive(Debug)]
pub(super) struct Elsewhere {
    records: CacheRecords<i64>,
    pub(super) loads: AtomicU64,
    /// What cannot be had.
    pub(super) lost: Mutex<Vec<i64>>,
    /// Where what was loaded is stored.
    keep: Option<(Arc<Numbers>, ashlar_solver::cache::Cache)>,
}

#[async_trait::async_trait]
impl ImportedResults<i64> for Elsewhere {
    async fn load(
        &self,
        key: CacheKey,
        layer: usize,
        created_at: i64,
        _: &Reporter,
    ) -> Result<Option<i64>, Failure> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        let value = self.records.layers()[layer].layer;
        if self.lost.lock().unwrap().contains(&value) {
            return Ok(None);
        }
        if let Some((numbers, cache)) = &self.keep {
            let mut new = NewRecords::from(RecordBatch {
                created_at,
                ..RecordBatch::default()
            });
            new.results.push((numbers.keep(&value).unwrap(), vec![key]));
            cache.save(new).unwrap();
        }
        Ok(Some(value))
    }
}

fn import(records: &CacheRecords<i64>, keep: Option<&Bench>) -> (Arc<Elsewhere>, Import<i64>) {
    let results = Arc::new(Elsewhere {
        records: records.clone(),
        loads: AtomicU64::new(0),
        lost: Mutex::default(),
        keep: keep.map(|bench| (bench.results.clone(), bench.scheduler.cache().clone())),
    });
    let import = Import {
        records: Arc::new(ImportedRecords::new(records)),
        results: results.clone(),
    };
    (results, import)
}

pub(super) async fn load(import: &Import<i64>, key: CacheKey, layer: usize) -> Option<i64> {
    let digest = ashlar_llb::OpDigest::of(b"");
    let clock = Arc::new(ashlar_solver::clock::SystemClock);
    let reporter = Reporter::new(Arc::new(Ignore), digest, clock);
    let results = &import.results;
    results.load(key, layer, 0, &reporter).await.unwrap()
}

async fn solve(bench: &Bench, plan: &Plan, output: Edge, imports: Vec<Import<i64>>) -> Solved<i64> {
    let (context, outputs) = (context(Cancel::new()), [output]);
    let scheduler = &bench.scheduler;
    let solve = scheduler.solve_importing(&plan.graph, &outputs, &context, imports.into());
    solve.await.unwrap()
}

/// A source, a step on it by content, and two steps on that.
fn chain(bench: &Bench, value: i64) -> (Plan, Edge) {
    let mut plan = bench.plan();
    let source = plan.local("source", value);
    let number = Number {
        content: vec![true],
        selector: true,
        ..plan.number("tens", Kind::Sum)
    };
    let tens = plan.add(number, &[source]);
    let middle = plan.sum("middle", &[tens]);
    let last = plan.sum("last", &[middle, tens]);
    (plan, last)
}

async fn exported(value: i64) -> CacheRecords<i64> {
    let bench = Bench::new();
    let (plan, last) = chain(&bench, value);
    let solved = bench.solve(&plan, &[last]).await.unwrap();
    export(&bench, &solved, CacheMode::Max, |_| None).await
}

#[tokio::test]
async fn what_another_store_knows_need_not_run_nor_be_loaded() {
    let records = exported(41).await;
    let bench = Bench::new();
    let (elsewhere, import) = import(&records, None);
    let (plan, last) = chain(&bench, 42);
    let solved = solve(&bench, &plan, last, vec![import.clone()]).await;
    assert_eq!(solved.values, [80]);
    assert_eq!(bench.log.ran(), ["source"]);
    assert_eq!(elsewhere.loads.load(Ordering::Relaxed), 1);
    // It is exported again as it came.
    let again = export(&bench, &solved, CacheMode::Max, |_| None).await;
    assert_eq!(again.records(), records.records());
    assert_eq!(again.layers(), records.layers());
    elsewhere.loads.store(0, Ordering::Relaxed);
    // Nothing was stored but the way.
    let (plan, last) = chain(&bench, 43);
    let solved = solve(&bench, &plan, last, Vec::new()).await;
    assert_eq!(solved.values, [80]);
    assert_eq!(bench.log.ran(), ["last", "middle", "source", "tens"]);
    assert_eq!(
        solved.report[last.vertex].status,
        VertexStatus::Ran(MissReason::DataGone)
    );
    // Now it is, and the import is not asked.
    let (plan, last) = chain(&bench, 44);
    solve(&bench, &plan, last, vec![import]).await;
    assert_eq!(bench.log.ran(), ["source"]);
    assert_eq!(elsewhere.loads.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_result_that_was_kept_is_found_without_the_import() {
    let records = exported(41).await;
    let bench = Bench::new();
    let (_, import) = import(&records, Some(&bench));
    let (plan, last) = chain(&bench, 42);
    solve(&bench, &plan, last, vec![import]).await;
    bench.log.take_runs();
    let (plan, last) = chain(&bench, 43);
    let solved = solve(&bench, &plan, last, Vec::new()).await;
    assert_eq!(solved.values, [80]);
    assert_eq!(bench.log.ran(), ["source"]);
}

#[tokio::test]
async fn other_content_runs_and_says_why() {
    let records = exported(41).await;
    let bench = Bench::new();
    let (elsewhere, import) = import(&records, None);
    let (plan, last) = chain(&bench, 52);
    let solved = solve(&bench, &plan, last, vec![import]).await;
    assert_eq!(solved.values, [100]);
    assert_eq!(bench.log.ran(), ["last", "middle", "source", "tens"]);
    assert_eq!(elsewhere.loads.load(Ordering::Relaxed), 0);
    let reason = &solved.report[1].status;
    let VertexStatus::Ran(MissReason::ContentChanged { old: None, .. }) = reason else {
        panic!("{reason:?}");
    };
}

#[tokio::test]
async fn what_cannot_be_had_is_made() {
    let records = exported(41).await;
    let bench = Bench::new();
    let (elsewhere, import) = import(&records, None);
    elsewhere.lost.lock().unwrap().push(80);
    let (plan, last) = chain(&bench, 42);
    let solved = solve(&bench, &plan, last, vec![import.clone()]).await;
    assert_eq!(solved.values, [80]);
    // What it is made of is there.
    assert_eq!(bench.log.ran(), ["last", "source"]);
    assert_eq!(
        solved.report[last.vertex].status,
        VertexStatus::Ran(MissReason::DataGone)
    );
    // Its second import has it.
    let other = Bench::new();
    let (second, again) = self::import(&records, None);
    let (plan, last) = chain(&other, 42);
    let solved = solve(&other, &plan, last, vec![import, again]).await;
    assert_eq!(solved.values, [80]);
    assert_eq!(other.log.ran(), ["source"]);
    assert_eq!(second.loads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn records_of_two_imports_meet() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let (a, b) = (plan.constant("a", 1), plan.constant("b", 2));
    let (left, right) = (plan.sum("left", &[a]), plan.sum("right", &[b]));
    let both = plan.sum("both", &[left, right]);
    let mut imports = Vec::new();
    for part in [left, right] {
        let elsewhere = Bench::new();
        let solved = elsewhere.solve(&plan, &[part]).await.unwrap();
        let records = export(&elsewhere, &solved, CacheMode::Max, |_| None).await;
        imports.push(import(&records, None).1);
    }
    bench.log.take_runs();
    let solved = solve(&bench, &plan, both, imports).await;
    assert_eq!(solved.values, [3]);
    assert_eq!(bench.log.ran(), ["both"]);
}
