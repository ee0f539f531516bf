//! How long a solve takes that finds everything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ashlar_solver::meta::Database;

use super::kit::Bench;

/// The median of 21 solves of a chain, each on a fresh connection if `fresh`.
#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn median(vertices: usize, fresh: bool) -> Duration {
    let root = tempfile::tempdir().unwrap();
    let open = || Arc::new(Database::open(root.path(), "boot").unwrap().database);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let mut bench = Bench::on(open());
    let mut plan = bench.plan();
    let mut last = plan.constant("start", 1);
    for at in 1..vertices {
        last = plan.sum(&format!("{at}"), &[last]);
    }
    runtime.block_on(bench.value(&plan, last));
    let mut times: Vec<_> = (0..21)
        .map(|_| {
            if fresh {
                bench = Bench::with(open(), Arc::clone(&bench.results));
            }
            let start = Instant::now();
            runtime.block_on(bench.value(&plan, last));
            start.elapsed()
        })
        .collect();
    times.sort();
    times[10]
}

#[test]
#[ignore = "a measurement, to be run by hand in release mode"]
fn solves_that_find_everything() {
    for vertices in [1, 100, 1000, 100_000] {
        let (first, later) = (median(vertices, true), median(vertices, false));
        println!("{vertices} vertices: first in a process {first:?}, later {later:?}");
        let bound = Duration::from_micros(100)
            + Duration::from_micros(4) * u32::try_from(vertices).unwrap();
        assert!(
            later < bound,
            "{vertices} vertices: {later:?} exceeds {bound:?}"
        );
    }
}
