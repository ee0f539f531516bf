//! Many small files.

use ashlar_solver::solver::{Durability, SolveRequest};

use crate::child::{self, Task, copy_of_files};
use crate::sample::{MOMENTS, Times, definition, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::Row;
use crate::{Outcome, Size, trees};

pub(crate) fn measure(size: Size) -> Outcome {
    let (samples, count) = (size.pick(5, 1), size.pick(50_000, 5_000));
    let gigabytes = size.pick(3, 1);
    let runtime = runtime()?;
    let source = Space::new(gigabytes)?;
    source.announce();
    let files = source.path().join("files");
    trees::small_files(&files, count)?;
    shell(&format!(
        "sync -f {0}; cp -a {0} {0}.warm; rm -rf {0}.warm",
        files.display()
    ))?;
    let definition = definition(&copy_of_files())?;
    let request = || SolveRequest::new(definition.clone()).local("files", &files);

    let (mut again, mut find) = (Times::default(), Times::default());
    for (moment, durability) in MOMENTS {
        let (mut ours, mut theirs) = (Times::default(), Times::default());
        for _ in 0..samples {
            let space = Space::new(gigabytes)?;
            let solver = solver(&runtime, space.path())?;
            ours.add(solve(&runtime, &solver, request().durability(durability))?.0);
            for _ in 0..size.pick(5, 2) {
                let (time, solved) = solve(&runtime, &solver, request())?;
                assert_eq!(solved.ran(), 0, "nothing has changed");
                again.add(time);
                find.add(shell(&format!(
                    "find {} -printf '%p %y %m %s %T@ %C@ %i\\n'",
                    files.display()
                ))?);
            }
            drop(solver);
            drop(space);
            let space = Space::new(gigabytes)?;
            let sync = match durability {
                Durability::Synced => format!("&& sync -f {}", space.path().display()),
                _ => String::new(),
            };
            theirs.add(shell(&format!(
                "cp -a {} {} {sync}",
                files.display(),
                space.path().display()
            ))?);
        }
        let what = format!("first copy of {count} files, {moment}");
        Row::times(&what, &ours)
            .target("0.6 cp")
            .peer("cp -a", &ours, &theirs)
            .print();
    }
    let what = format!("copy of {count} unchanged files, same solver");
    Row::times(&what, &again)
        .target("1.0 find")
        .peer("find", &again, &find)
        .print();

    let space = Space::new(gigabytes)?;
    let mut fresh = Times::default();
    let first = child::start(Task::Copy, space.path(), &files)?;
    let mut second = 0;
    for _ in 0..size.pick(7, 2) {
        let report = child::start(Task::Copy, space.path(), &files)?;
        fresh.add(report.whole);
        second = report.peak.max(second);
    }
    let what = format!("copy of {count} unchanged files, a whole process");
    Row::times(&what, &fresh)
        .target("1.0 find")
        .peer("find", &fresh, &find)
        .print();
    for (what, peak) in [("first", first.peak), ("unchanged", second)] {
        Row::value(
            &format!("peak memory, {what} copy of {count} files"),
            format!("{:.1} MB", f64::from(u32::try_from(peak)?) * 1.024e-3),
        )
        .target("120 MB")
        .print();
    }
    Ok(())
}
