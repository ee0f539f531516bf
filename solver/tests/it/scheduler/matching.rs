//! What is found in the cache, what runs, and why.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ashlar_solver::cache::{Change, ContentChanges, MissReason, PathChange};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::SystemClock;
use ashlar_solver::id::{CacheKey, ContentDigest};
use ashlar_solver::meta::Database;
use ashlar_solver::scheduler::{SolveContext, SolveError, VertexStatus};

use super::kit::{Bench, Events, Kind, Number, edge};

#[tokio::test]
async fn a_second_solve_runs_nothing_and_loads_what_was_asked_for() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let (a, b) = (plan.constant("a", 2), plan.constant("b", 3));
    let sum = plan.sum("sum", &[a, b]);
    let twice = plan.sum("twice", &[sum, sum]);
    assert_eq!(bench.value(&plan, twice).await, 10);
    assert_eq!(bench.log.ran(), ["a", "b", "sum", "twice"]);
    assert_eq!(bench.results.loads.load(Ordering::Relaxed), 0);
    let solved = bench.solve(&plan, &[twice, twice]).await.unwrap();
    assert_eq!(solved.values, [10, 10]);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
    assert_eq!(bench.results.loads.load(Ordering::Relaxed), 1);
    assert!(
        solved
            .report
            .iter()
            .all(|vertex| vertex.status == VertexStatus::Cached)
    );
}

#[tokio::test]
async fn only_what_is_needed_runs() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let a = plan.constant("a", 2);
    let unused = plan.constant("unused", 3);
    assert_eq!(bench.value(&plan, a).await, 2);
    assert_eq!(bench.log.ran(), ["a"]);
    let report = bench.solve(&plan, &[a]).await.unwrap().report;
    assert_eq!(report[unused.vertex].status, VertexStatus::Unreachable);
}

#[tokio::test]
async fn outputs_have_keys_of_their_own() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let (a, b) = (plan.constant("a", 2), plan.constant("b", 3));
    let both = plan.add(plan.number("both", Kind::SumAndProduct), &[a, b]);
    let product = edge(both.vertex, 1);
    let minus = plan.sum("use", &[both, product]);
    assert_eq!(bench.value(&plan, minus).await, 11);
    assert_eq!(bench.log.ran(), ["a", "b", "both", "use"]);
    let solved = bench.solve(&plan, &[product, both]).await.unwrap();
    assert_eq!(solved.values, [6, 5]);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
    let missing = bench.solve(&plan, &[edge(both.vertex, 2)]).await;
    assert!(
        matches!(missing, Err(SolveError::Vertex { vertex: 2, .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn equal_content_stops_a_change() {
    let bench = Bench::new();
    let plan_of = |value| {
        let mut plan = bench.plan();
        let source = plan.constant("source", value);
        let tens = plan.tens("tens", &[source], &[true]);
        let above = plan.sum("above", &[tens]);
        (plan, above)
    };
    let (plan, above) = plan_of(41);
    let first = bench.solve(&plan, &[above]).await.unwrap();
    assert_eq!(first.values, [40]);
    assert_eq!(bench.log.ran(), ["above", "source", "tens"]);
    // Another source with the same content: it runs, and nothing above it.
    let (plan, above) = plan_of(42);
    assert_eq!(bench.value(&plan, above).await, 40);
    assert_eq!(bench.log.ran(), ["source"]);
    // From now on even its definition is known to lead there.
    bench.log.take_contents();
    assert_eq!(bench.value(&plan, above).await, 40);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
    assert!(bench.log.take_contents().is_empty());
    let (plan, above) = plan_of(50);
    let solved = bench.solve(&plan, &[above]).await.unwrap();
    assert_eq!(solved.values, [50]);
    let content = |value: i64| CacheKey::content(ContentDigest::of(&value.to_le_bytes()));
    let path = PathChange {
        path: b"tens".as_slice().into(),
        change: Change::Changed,
    };
    let reasons = [
        MissReason::NeverSeen,
        MissReason::ContentChanged {
            input: 0,
            old: Some(content(40)),
            new: Some(content(50)),
            changes: Some(ContentChanges::of(vec![path])),
        },
        MissReason::InputChanged {
            input: 0,
            old: first.report[1].key,
            new: solved.report[1].key,
        },
    ];
    for (vertex, reason) in solved.report.iter().zip(reasons) {
        assert_eq!(vertex.status, VertexStatus::Ran(reason));
    }
}

#[tokio::test]
async fn definitions_come_first_and_content_last() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let (a, b) = (plan.constant("a", 10), plan.constant("b", 20));
    let tens = plan.tens("tens", &[a, b], &[true, true]);
    assert_eq!(bench.value(&plan, tens).await, 30);
    bench.log.take_runs();
    bench.log.take_contents();
    // `a` is known by definition, so only the content of the new input is computed.
    let mut plan = bench.plan();
    let (a, b) = (plan.constant("a", 10), plan.constant("b2", 25));
    let tens = plan.tens("tens", &[a, b], &[true, true]);
    assert_eq!(bench.value(&plan, tens).await, 30);
    assert_eq!(bench.log.ran(), ["b2"]);
    assert_eq!(bench.log.take_contents()["tens"], 1);
    assert_eq!(
        bench.results.loads.load(Ordering::Relaxed),
        1,
        "only the result is loaded"
    );
}

#[tokio::test]
async fn volatile_sources_are_matched_by_content_alone() {
    let bench = Bench::new();
    let plan_of = |value| {
        let mut plan = bench.plan();
        let local = plan.local("local", value);
        let base = plan.constant("base", 100);
        let copied = plan.tens("copy", &[base, local], &[false, true]);
        let above = plan.sum("above", &[copied]);
        let direct = plan.sum("direct", &[local]);
        (plan, above, direct)
    };
    let (plan, above, _) = plan_of(41);
    assert_eq!(bench.value(&plan, above).await, 140);
    assert_eq!(bench.log.ran(), ["above", "base", "copy", "local"]);
    for value in [41, 42] {
        let (plan, above, _) = plan_of(value);
        assert_eq!(bench.value(&plan, above).await, 140);
        assert_eq!(bench.log.ran(), ["local"]);
    }
    for _ in 0..2 {
        let (plan, _, direct) = plan_of(41);
        let solved = bench.solve(&plan, &[direct]).await.unwrap();
        assert_eq!(bench.log.ran(), ["direct", "local"]);
        let report = &solved.report[direct.vertex];
        assert!(report.volatile);
    }
}

#[tokio::test]
async fn a_solve_that_finds_everything_writes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let database = Database::open(root.path(), "boot").unwrap().database;
    let bench = Bench::on(Arc::new(database));
    let mut plan = bench.plan();
    let local = plan.local("local", 41);
    let copied = plan.tens("copy", &[local], &[true]);
    let above = plan.sum("above", &[copied]);
    bench.value(&plan, above).await;
    let log = || {
        let data = std::fs::metadata(root.path().join("meta.db-wal")).unwrap();
        (data.len(), data.modified().unwrap())
    };
    let before = log();
    bench.log.take_runs();
    assert_eq!(bench.value(&plan, above).await, 40);
    assert_eq!(bench.log.ran(), ["local"]);
    assert_eq!(log(), before);
}

#[tokio::test]
async fn ignoring_the_cache_reruns_what_is_built_on_it() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let source = plan.constant("source", 41);
    let ignoring = plan.sum("ignoring", &[source]);
    let plain = plan.sum("plain", &[ignoring]);
    let by_content = plan.tens("by content", &[ignoring], &[true]);
    bench.solve(&plan, &[plain, by_content]).await.unwrap();
    bench.log.take_runs();
    plan.ignore_cache(ignoring);
    let solved = bench.solve(&plan, &[plain, by_content]).await.unwrap();
    assert_eq!(solved.values, [41, 40]);
    assert_eq!(bench.log.ran(), ["ignoring", "plain"]);
    let status = &solved.report[plain.vertex].status;
    assert_eq!(*status, VertexStatus::Ran(MissReason::Ignored));
    // What ran is stored for those that do not ignore the cache.
    plan.graph.vertices[ignoring.vertex].ignore_cache = false;
    bench.solve(&plan, &[plain, by_content]).await.unwrap();
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
}

#[tokio::test]
async fn lost_data_is_made_again() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let (a, b) = (plan.constant("a", 2), plan.constant("b", 3));
    let sum = plan.sum("sum", &[a, b]);
    bench.value(&plan, sum).await;
    bench.log.take_runs();
    bench.results.lose(|_| true);
    let solved = bench.solve(&plan, &[sum]).await.unwrap();
    assert_eq!(solved.values, [5]);
    assert_eq!(bench.log.ran(), ["a", "b", "sum"]);
    let status = &solved.report[sum.vertex].status;
    assert_eq!(*status, VertexStatus::Ran(MissReason::DataGone));
    assert_eq!(bench.value(&plan, sum).await, 5);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_further_key_of_a_source_is_tried() {
    let bench = Bench::new();
    let plan_of = |name: &str| {
        let mut plan = bench.plan();
        let image = Number {
            further: Some("layers".to_owned()),
            ..plan.number(name, Kind::Const(7))
        };
        let image = plan.add(image, &[]);
        let above = plan.sum("above", &[image]);
        (plan, image, above)
    };
    let (plan, _, above) = plan_of("first tag");
    assert_eq!(bench.value(&plan, above).await, 7);
    assert_eq!(bench.log.ran(), ["above", "first tag"]);
    let (plan, image, above) = plan_of("second tag");
    assert_eq!(bench.value(&plan, above).await, 7);
    assert_eq!(bench.value(&plan, image).await, 7);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
}

#[tokio::test]
async fn selectors_tell_links_apart() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let a = plan.constant("a", 2);
    let sum = plan.sum("sum", &[a]);
    bench.value(&plan, sum).await;
    let mut plan = bench.plan();
    let a = plan.constant("a", 2);
    let sum = plan.add(
        Number {
            selector: true,
            ..plan.number("sum", Kind::Sum)
        },
        &[a],
    );
    bench.log.take_runs();
    bench.value(&plan, sum).await;
    assert_eq!(bench.log.ran(), ["sum"]);
}

#[tokio::test]
async fn progress_tells_how_each_vertex_ended() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let a = plan.constant("a", 2);
    let sum = plan.sum("sum", &[a]);
    let solve = async || {
        let events = Arc::new(Events::default());
        let context = SolveContext::new(Cancel::new(), events.clone(), Arc::new(SystemClock));
        bench
            .scheduler
            .solve(&plan.graph, &[sum], &context)
            .await
            .unwrap();
        events
    };
    let first = solve().await;
    for name in ["a", "sum"] {
        assert_eq!(first.of(name), ["started", "ran"]);
    }
    let second = solve().await;
    for name in ["a", "sum"] {
        assert_eq!(second.of(name), ["cached"]);
    }
}

#[tokio::test]
async fn a_failure_names_its_vertex() {
    for kind in [Kind::Fail, Kind::Panic] {
        let bench = Bench::new();
        let mut plan = bench.plan();
        let a = plan.constant("a", 2);
        let bad = plan.add(plan.number("bad", kind.clone()), &[a]);
        let above = plan.sum("above", &[bad]);
        let events = Arc::new(Events::default());
        let context = SolveContext::new(Cancel::new(), events.clone(), Arc::new(SystemClock));
        let failed = bench.scheduler.solve(&plan.graph, &[above], &context).await;
        let Err(SolveError::Vertex {
            vertex,
            name,
            failure,
            ..
        }) = failed
        else {
            panic!("{failed:?}");
        };
        assert_eq!((vertex, name.as_str()), (bad.vertex, "bad"));
        assert_eq!(
            events.of("bad"),
            ["started".to_owned(), format!("failed: {failure}")]
        );
        assert_eq!(events.of("above"), [] as [&str; 0]);
    }
}

#[tokio::test]
async fn malformed_graphs_are_refused() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let first = plan.sum("first", &[edge(1, 0)]);
    plan.sum("second", &[first]);
    for output in [first, edge(7, 0)] {
        let refused = bench.solve(&plan, &[output]).await;
        assert!(
            matches!(refused, Err(SolveError::Malformed { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn depth_is_no_concern() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let mut last = plan.constant("start", 1);
    for at in 0..30_000 {
        last = plan.sum(&format!("{at}"), &[last]);
    }
    assert_eq!(bench.value(&plan, last).await, 1);
    assert_eq!(bench.log.ran().len(), 30_001);
    assert_eq!(bench.value(&plan, last).await, 1);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_much_used_input_still_matches() {
    let bench = Bench::new();
    let plan_of = |value| {
        let mut plan = bench.plan();
        let base = plan.constant("base", 1000);
        let local = plan.local("local", value);
        let copied = plan.tens("copy", &[base, local], &[false, true]);
        (plan, copied)
    };
    for value in 0..50 {
        let (plan, copied) = plan_of(value * 10);
        bench.value(&plan, copied).await;
    }
    bench.log.take_runs();
    for value in [0, 210, 490] {
        let (plan, copied) = plan_of(value);
        assert_eq!(bench.value(&plan, copied).await, 1000 + value);
        assert_eq!(bench.log.ran(), ["local"]);
    }
}

/// A result that depends on what is not in its key is made in every solve, and nothing that was
/// made of it is found by it.
#[tokio::test]
async fn confined_results_hold_for_one_solve() {
    let bench = Bench::new();
    let plan_of = |hidden, confined| {
        let mut plan = bench.plan();
        let base = plan.constant("base", 1000);
        let look = Number {
            confined,
            ..plan.number("look", Kind::Hidden(hidden))
        };
        let look = plan.add(look, &[base]);
        let by_content = plan.tens("content", &[look], &[true]);
        let by_definition = plan.sum("definition", &[look]);
        let all = plan.sum("all", &[by_content, by_definition]);
        (plan, all, look)
    };
    let (plan, all, look) = plan_of(10, true);
    let solved = bench.solve(&plan, &[all]).await.unwrap();
    assert_eq!(solved.values, [20]);
    assert_eq!(solved.report[look.vertex].status, VertexStatus::Looked);
    assert!(solved.report[look.vertex].volatile);
    assert_eq!(
        bench.log.ran(),
        ["all", "base", "content", "definition", "look"]
    );
    // The same: what is keyed by content is found.
    assert_eq!(bench.value(&plan, all).await, 20);
    assert_eq!(bench.log.ran(), ["all", "definition", "look"]);
    // Another result of the same key.
    let (plan, all, _) = plan_of(20, true);
    assert_eq!(bench.value(&plan, all).await, 40);
    assert_eq!(bench.log.ran(), ["all", "content", "definition", "look"]);
    // Once it follows from its key, it is kept.
    let (plan, all, _) = plan_of(30, false);
    assert_eq!(bench.value(&plan, all).await, 60);
    bench.log.take_runs();
    assert_eq!(bench.value(&plan, all).await, 60);
    assert_eq!(bench.log.ran(), [] as [&str; 0]);
}
