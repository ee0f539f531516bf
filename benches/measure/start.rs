//! How long it takes until there is a first result.

use std::time::Instant;

use ashlar_solver::solver::SolveRequest;
use tempfile::TempDir;

use crate::child::{self, Task};
use crate::no_op::chain;
use crate::sample::{Times, definition, runtime, solve, solver};
use crate::table::Row;
use crate::{Outcome, Size};

pub(crate) fn measure(size: Size) -> Outcome {
    let folder = TempDir::with_prefix("ashlar-bench-")?;
    let root = folder.path();
    {
        let runtime = runtime()?;
        let solver = solver(&runtime, root)?;
        solve(
            &runtime,
            &solver,
            SolveRequest::new(definition(&chain("start", 1))?),
        )?;
    }
    let samples = size.pick(50, 5);
    let (mut cached, mut ran) = (Times::default(), Times::default());
    for sample in 0..samples {
        for (times, name) in [
            (&mut cached, "start".to_owned()),
            (&mut ran, format!("s{sample}")),
        ] {
            let definition = definition(&chain(&name, 1))?;
            let start = Instant::now();
            let runtime = runtime()?;
            let solver = solver(&runtime, root)?;
            solve(&runtime, &solver, SolveRequest::new(definition))?;
            times.add(start.elapsed());
        }
    }
    Row::times("start to first result, cached", &cached)
        .target("5 ms")
        .print();
    Row::times("start to first result, one file made", &ran)
        .target("5 ms")
        .print();
    let mut process = Times::default();
    for _ in 0..samples {
        process.add(child::start(Task::NoOp, root, root)?.whole);
    }
    Row::times("a whole process with one cached solve", &process).print();
    Ok(())
}
