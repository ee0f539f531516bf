//! Chains of file ops that run.

use ashlar_solver::solver::SolveRequest;

use crate::no_op::chain;
use crate::sample::{MOMENTS, Times, definition, runtime, solve, solver};
use crate::space::Space;
use crate::table::{Row, time};
use crate::{Outcome, Size};

pub(crate) fn measure(size: Size) -> Outcome {
    let runtime = runtime()?;
    let space = Space::new(1)?;
    space.announce();
    let solver = solver(&runtime, &space.path().join("state"))?;
    solve(
        &runtime,
        &solver,
        SolveRequest::new(definition(&chain("warm", 20))?),
    )?;
    // In turn: the state directory grows meanwhile.
    const LENGTHS: [usize; 2] = [100, 1000];
    for (moment, durability) in MOMENTS {
        let mut all = [Times::default(), Times::default()];
        for sample in 0..size.pick(5, 2) {
            for (length, times) in LENGTHS.into_iter().zip(&mut all) {
                let name = format!("{length}-{sample}-{durability:?}");
                let request = SolveRequest::new(definition(&chain(&name, length))?);
                let (time, solved) = solve(&runtime, &solver, request.durability(durability))?;
                assert_eq!(solved.ran(), length, "each op runs");
                times.add(time);
            }
        }
        for (length, times) in LENGTHS.into_iter().zip(all) {
            let what = format!("{length} file ops in a chain, {moment}");
            let mut row = Row::times(&what, &times);
            if (length, moment) == (LENGTHS[0], MOMENTS[0].0) {
                row = row.target("30 ms");
            }
            let per_op = times.per(u32::try_from(length)?);
            row.peer_value(format!("{} an op", time(per_op.median())))
                .print();
        }
    }
    Ok(())
}
