//! Many solves at once.

use std::sync::Arc;

use ashlar_solver::cache::MissReason;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::meta::Database;
use ashlar_solver::scheduler::{Edge, SolveError, VertexStatus};

use super::kit::{Bench, Gate, Kind, Number, Plan, context};

/// A graph of some width and depth, with content keys and a local source.
fn wide(bench: &Bench) -> (Plan, Edge) {
    let mut plan = bench.plan();
    let slow = |plan: &Plan, name: &str, kind| Number {
        gate: Gate::Yield(3),
        ..plan.number(name, kind)
    };
    let sources: Vec<_> = (0..4)
        .map(|at| {
            plan.add(
                slow(&plan, &format!("source {at}"), Kind::Const(at * 10)),
                &[],
            )
        })
        .collect();
    let mut row = sources.clone();
    for depth in 0..5 {
        row = (0..4)
            .map(|at| {
                let number = Number {
                    content: vec![at % 2 == 0, false],
                    deferrable: at == 0,
                    ..slow(&plan, &format!("{depth}/{at}"), Kind::Sum)
                };
                plan.add(number, &[row[at], row[(at + 1) % 4]])
            })
            .collect();
    }
    let top = plan.add(slow(&plan, "top", Kind::Sum), &row);
    (plan, top)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_solves_run_each_vertex_once() {
    let bench = Arc::new(Bench::new());
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let (plan, top) = wide(&bench);
                bench.value(&plan, top).await
            })
        })
        .collect();
    let mut values = Vec::new();
    for task in tasks {
        values.push(task.await.unwrap());
    }
    assert!(values.iter().all(|value| *value == values[0]));
    assert_eq!(bench.log.ran().len(), 25);
}

/// A copy of a local source: keyed by content alone, which is told after the first run.
fn copy_of(bench: &Bench, name: &str, value: i64, kind: Kind) -> (Plan, [Edge; 1]) {
    let mut plan = bench.plan();
    let local = plan.local("local", value);
    let number = Number {
        content: vec![true],
        deferrable: true,
        gate: Gate::Yield(5),
        ..plan.number(name, kind)
    };
    let copy = plan.add(number, &[local]);
    (plan, [copy])
}

#[tokio::test]
async fn the_content_of_a_first_run_is_told_after_it() {
    let bench = Bench::new();
    let (plan, outputs) = copy_of(&bench, "copy", 41, Kind::Sum);
    let first = bench.solve(&plan, &outputs).await.unwrap();
    assert_eq!(first.values, [40]);
    assert_eq!(
        first.report[1].status,
        VertexStatus::Ran(MissReason::NeverSeen)
    );
    assert_eq!(bench.log.ran(), ["copy", "local"]);
    assert_eq!(bench.log.take_contents()["copy"], 1);
    // Found by content, under the key that the first run got.
    let (plan, outputs) = copy_of(&bench, "copy", 42, Kind::Sum);
    let second = bench.solve(&plan, &outputs).await.unwrap();
    assert_eq!(second.report[1].key, first.report[1].key);
    assert_eq!(bench.log.ran(), ["local"]);
    // Once the op is known, content comes first: there may be a hit.
    let (plan, outputs) = copy_of(&bench, "copy", 50, Kind::Sum);
    let third = bench.solve(&plan, &outputs).await.unwrap();
    let status = &third.report[1].status;
    let VertexStatus::Ran(MissReason::ContentChanged {
        input: 0,
        old: Some(_),
        changes: Some(changes),
        ..
    }) = status
    else {
        panic!("{status:?}");
    };
    assert_eq!(changes.paths.len(), 1);
}

#[tokio::test]
async fn first_runs_of_many_solves_are_one() {
    let bench = Bench::new();
    let (plan, outputs) = copy_of(&bench, "copy", 41, Kind::Sum);
    let (other, _) = copy_of(&bench, "copy", 50, Kind::Sum);
    let (a, b, c) = tokio::join!(
        bench.solve(&plan, &outputs),
        bench.solve(&plan, &outputs),
        bench.solve(&other, &outputs),
    );
    assert_eq!(
        [a, b, c].map(|solved| solved.unwrap().values[0]),
        [40, 40, 50]
    );
    assert_eq!(bench.log.take_runs()["copy"], 2, "one per content");
}

#[tokio::test]
async fn a_first_run_that_fails_or_is_cancelled_stops_no_other() {
    let bench = Bench::new();
    let (plan, outputs) = copy_of(&bench, "bad", 41, Kind::Fail);
    let (first, second) = tokio::join!(bench.solve(&plan, &outputs), bench.solve(&plan, &outputs));
    assert!(first.is_err() && second.is_err());
    let (plan, outputs) = copy_of(&bench, "copy", 41, Kind::Sum);
    let flag = Cancel::new();
    let cancelled = context(flag.clone());
    let (first, second, ()) = tokio::join!(
        bench.scheduler.solve(&plan.graph, &outputs, &cancelled),
        bench.solve(&plan, &outputs),
        async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            flag.cancel();
        },
    );
    assert!(matches!(first, Err(SolveError::Cancelled)), "{first:?}");
    assert_eq!(second.unwrap().values, [40]);
}

#[tokio::test]
async fn equal_vertices_of_one_graph_run_once() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let copies: Vec<_> = (0..3)
        .map(|_| {
            let number = Number {
                gate: Gate::Yield(2),
                ..plan.number("a", Kind::Const(1))
            };
            plan.add(number, &[])
        })
        .collect();
    let sum = plan.sum("sum", &copies);
    assert_eq!(bench.value(&plan, sum).await, 3);
    assert_eq!(bench.log.ran(), ["a", "sum"]);
}

#[test]
fn two_databases_on_one_file_share_their_hits() {
    let root = tempfile::tempdir().unwrap();
    let results = Arc::default();
    let solve = |open: &dyn Fn() -> Database| {
        let bench = Bench::with(Arc::new(open()), Arc::clone(&results));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (plan, top) = wide(&bench);
        let value = runtime.block_on(bench.value(&plan, top));
        (value, bench.log.take_runs().len())
    };
    let open = || Database::open(root.path(), "boot").unwrap().database;
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| solve(&open))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(outcomes[0].0, outcomes[1].0);
    assert!(outcomes.iter().map(|(_, runs)| runs).max() > Some(&0));
    assert_eq!(solve(&open), (outcomes[0].0, 0));
}

#[tokio::test]
async fn a_shared_failure_reaches_everyone() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let number = Number {
        gate: Gate::Yield(5),
        ..plan.number("bad", Kind::Fail)
    };
    let bad = plan.add(number, &[]);
    let outputs = [bad];
    let (first, second) = tokio::join!(bench.solve(&plan, &outputs), bench.solve(&plan, &outputs));
    assert!(first.is_err() && second.is_err());
    assert_eq!(bench.log.take_runs()["bad"], 1);
}

#[tokio::test]
async fn those_who_ignore_the_cache_do_not_share_with_others() {
    let bench = Bench::new();
    let plan_of = |ignore| {
        let mut plan = bench.plan();
        let number = Number {
            gate: Gate::Yield(5),
            ..plan.number("a", Kind::Const(1))
        };
        let a = plan.add(number, &[]);
        if ignore {
            plan.ignore_cache(a);
        }
        (plan, [a])
    };
    let (plain, outputs) = plan_of(false);
    let (ignoring, _) = plan_of(true);
    let (first, second, third) = tokio::join!(
        bench.solve(&plain, &outputs),
        bench.solve(&ignoring, &outputs),
        bench.solve(&ignoring, &outputs),
    );
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    assert_eq!(bench.log.take_runs()["a"], 3);
}
