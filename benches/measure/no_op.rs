//! Solves in which nothing has to be done.

use ashlar_llb::{State, mkfile, scratch};
use ashlar_solver::solver::SolveRequest;
use tempfile::TempDir;

use crate::sample::{Times, definition, runtime, solve, solver};
use crate::table::Row;
use crate::{Outcome, Size};

/// A chain of file ops of which each writes one file; `name` tells chains apart.
pub(crate) fn chain(name: &str, length: usize) -> State {
    (0..length).fold(scratch(), |state, at| {
        state.file(mkfile(format!("/{name}-{at}"), format!("{name} {at}\n")))
    })
}

pub(crate) fn measure(size: Size) -> Outcome {
    let runtime = runtime()?;
    let folder = TempDir::with_prefix("ashlar-bench-")?;
    for (length, target) in [(1, "0.1 ms"), (100, "0.5 ms"), (1000, "4 ms")] {
        let definition = definition(&chain("no-op", length))?;
        let request = || SolveRequest::new(definition.clone());
        let first = solver(&runtime, folder.path())?;
        solve(&runtime, &first, request())?;
        let mut same = Times::default();
        for _ in 0..size.pick(100, 10) {
            let (time, solved) = solve(&runtime, &first, request())?;
            assert_eq!(solved.ran(), 0, "the second solve is all cache");
            same.add(time);
        }
        let what = format!("no-op solve, {length} vertices, same solver");
        Row::times(&what, &same).target(target).print();
        let mut fresh = Times::default();
        for _ in 0..size.pick(30, 5) {
            let solver = solver(&runtime, folder.path())?;
            fresh.add(solve(&runtime, &solver, request())?.0);
        }
        let what = format!("no-op solve, {length} vertices, first of a new solver");
        Row::times(&what, &fresh).target(target).print();
    }
    Ok(())
}
