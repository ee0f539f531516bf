//! Graphs of file ops: nothing to do, and everything to do.

use std::time::{Duration, Instant};

use ashlar_llb::{self as llb, State, mkfile};
use ashlar_solver::solver::{Durability, SolveRequest};

use super::report::{Report, median, timed};
use super::volume::Volume;
use super::{Size, marshal, runtime, solve, solver};

/// A chain of vertices that write one small file each.
fn chain(length: usize, salt: u64) -> State {
    let mut state = llb::scratch();
    for index in 0..length {
        let content = format!("{salt}-{index}");
        state = state.file(mkfile(format!("/f{index}"), content).created(std::time::UNIX_EPOCH));
    }
    state
}

pub fn measure(size: Size, report: &mut Report) {
    let volume = Volume::fresh(size.pick(512, 2048));
    let runtime = runtime();
    let _inside = runtime.enter();
    start(size, report, &volume, &runtime);
    for (length, target) in [(1, 100), (100, 500), (1000, 4000)] {
        no_op(
            size,
            report,
            &volume,
            &runtime,
            length,
            Duration::from_micros(target),
        );
    }
    cold(size, report, &volume, &runtime);
}

fn start(size: Size, report: &Report, volume: &Volume, runtime: &tokio::runtime::Runtime) {
    let name = "start: open a solver and solve one cached vertex";
    if !report.wants(name) {
        return;
    }
    let root = volume.path().join("start");
    let definition = marshal(&chain(1, 0));
    let mut times = Vec::new();
    for _ in 0..size.pick(5, 21) {
        let (time, solver) = timed(|| {
            let solver = solver(&root);
            runtime.block_on(solve(&solver, SolveRequest::new(definition.clone())));
            solver
        });
        drop(solver);
        times.push(time);
    }
    report.time(name, median(times), Some(Duration::from_millis(5)));
}

fn no_op(
    size: Size,
    report: &Report,
    volume: &Volume,
    runtime: &tokio::runtime::Runtime,
    length: usize,
    target: Duration,
) {
    let name = format!("no-op: {length} vertices, same solver");
    if !report.wants(&name) {
        return;
    }
    let root = volume.path().join(format!("noop-{length}"));
    let definition = marshal(&chain(length, 1));
    let first = solver(&root);
    runtime.block_on(solve(&first, SolveRequest::new(definition.clone())));
    drop(first);
    let mut fresh = Vec::new();
    let mut again = Vec::new();
    for _ in 0..size.pick(3, 11) {
        let solver = solver(&root);
        for round in 0..size.pick(5, 11) {
            let request = SolveRequest::new(definition.clone());
            let (time, solved) = timed(|| runtime.block_on(solve(&solver, request)));
            assert_eq!(solved.ran(), 0, "everything is cached");
            if round == 0 {
                fresh.push(time)
            } else {
                again.push(time)
            }
        }
    }
    report.time(&name, median(again), Some(target));
    report.time(
        &format!("no-op: {length} vertices, fresh solver"),
        median(fresh),
        None,
    );
}

/// The times of a chain, each time anew: until the result returns, and until it is on disk.
fn chain_times(
    volume: &Volume,
    runtime: &tokio::runtime::Runtime,
    length: usize,
    rounds: usize,
    durability: Durability,
) -> Duration {
    let root = volume.path().join(format!("chain-{length}-{durability:?}"));
    let solver = solver(&root);
    let mut times = Vec::new();
    for round in 0..rounds {
        let definition = marshal(&chain(length, round as u64 + 2));
        let request = SolveRequest::new(definition).durability(durability);
        let start = Instant::now();
        let solved = runtime.block_on(solve(&solver, request));
        times.push(start.elapsed());
        assert_eq!(solved.ran(), length);
    }
    median(times)
}

fn cold(size: Size, report: &Report, volume: &Volume, runtime: &tokio::runtime::Runtime) {
    let rounds = size.pick(3, 11);
    let mut per_op = Vec::new();
    for (length, target) in [(100, Some(Duration::from_millis(30))), (1000, None)] {
        let name = format!("chain: {length} file ops, until the result returns");
        if !report.wants(&name) {
            continue;
        }
        let time = chain_times(volume, runtime, length, rounds, Durability::Background);
        report.time(&name, time, target);
        per_op.push((length, time / u32::try_from(length).unwrap_or(1)));
        let time = chain_times(volume, runtime, length, rounds, Durability::Synced);
        report.time(
            &format!("chain: {length} file ops, until durable"),
            time,
            None,
        );
    }
    if let [(_, short), (_, long)] = per_op[..] {
        report.ratio("chain: per op of 1,000", long, "per op of 100", short, 1.0);
    }
}
