//! Local directories of which little changes, and of which files are large.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use ashlar_solver::solver::{Durability, SolveRequest};

use crate::child::{self, Task, copy_of_files};
use crate::sample::{MOMENTS, Times, definition, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::Row;
use crate::{Outcome, Size, trees};

/// Longer than a file must be untouched for its checksum to be remembered.
const SETTLE: Duration = Duration::from_millis(50);

pub(crate) fn measure(size: Size) -> Outcome {
    small(size)?;
    large(size)
}

/// Overwrites a file with something of another length.
fn change(file: &Path, round: usize) -> Outcome {
    fs::write(file, "changed ".repeat(round + 1))?;
    std::thread::sleep(SETTLE);
    Ok(())
}

fn small(size: Size) -> Outcome {
    let count = size.pick(50_000, 5_000);
    let (source, space) = (Space::new(2)?, Space::new(6)?);
    source.announce();
    let files = source.path().join("files");
    trees::small_files(&files, count)?;
    std::thread::sleep(SETTLE);
    child::start(Task::Copy, space.path(), &files)?;
    let (mut unchanged, mut find, mut changed) = <(Times, Times, Times)>::default();
    let list = format!(
        "find {} -printf '%p %y %m %s %T@ %C@ %i\\n'",
        files.display()
    );
    for _ in 0..size.pick(9, 2) {
        find.add(shell(&list)?);
        unchanged.add(child::start(Task::Copy, space.path(), &files)?.whole);
    }
    for round in 0..size.pick(5, 2) {
        change(&files.join("group0/part3/file7.rs"), round)?;
        changed.add(child::start(Task::Copy, space.path(), &files)?.whole);
    }
    let what = format!("{count} unchanged files as a context, a whole process");
    Row::times(&what, &unchanged)
        .target("0.8 find")
        .peer("find", &unchanged, &find)
        .print();
    let what = format!("one of {count} files changed, a whole process");
    Row::times(&what, &changed).target("600 ms").print();
    let runtime = runtime()?;
    let solver = solver(&runtime, space.path())?;
    let definition = definition(&copy_of_files())?;
    let request = || SolveRequest::new(definition.clone()).local("files", &files);
    solve(&runtime, &solver, request())?;
    // Never what it was before: that would be found in the cache.
    let mut round = 10;
    for (moment, durability) in MOMENTS {
        let mut changed = Times::default();
        for _ in 0..size.pick(5, 2) {
            round += 1;
            shell(&format!("sync -f {}", space.path().display()))?;
            change(&files.join("group0/part3/file7.rs"), round)?;
            changed.add(solve(&runtime, &solver, request().durability(durability))?.0);
        }
        let what = format!("one of {count} files changed, same solver, {moment}");
        Row::times(&what, &changed).target("600 ms").print();
    }
    Ok(())
}

fn large(size: Size) -> Outcome {
    let (count, bytes) = (size.pick(200, 20), 5 << 20);
    let runtime = runtime()?;
    let source = Space::new(2)?;
    let files = source.path().join("files");
    fs::create_dir(&files)?;
    let mut block = vec![0; bytes];
    let mut state = 1_u32;
    block.fill_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    for at in 0_usize..count {
        let mut file = fs::File::create(files.join(format!("file{at}")))?;
        file.write_all(&at.to_le_bytes())?;
        file.write_all(&block)?;
    }
    shell(&format!(
        "sync -f {0}; cat {0}/* >/dev/null",
        files.display()
    ))?;
    let definition = definition(&copy_of_files())?;
    let request = || SolveRequest::new(definition.clone()).local("files", &files);
    for (moment, durability) in MOMENTS {
        let (mut ours, mut theirs, mut changed) = <(Times, Times, Times)>::default();
        for round in 0..size.pick(3, 1) {
            let space = Space::new(3)?;
            let sync = match durability {
                Durability::Synced => format!("&& sync -f {}", space.path().display()),
                _ => String::new(),
            };
            theirs.add(shell(&format!(
                "cp -a {0} {1} && openssl dgst -sha256 {0}/* {sync}",
                files.display(),
                space.path().display()
            ))?);
            drop(space);
            let space = Space::new(4)?;
            let solver = solver(&runtime, space.path())?;
            let request = || request().durability(durability);
            ours.add(solve(&runtime, &solver, request())?.0);
            shell(&format!("sync -f {}", space.path().display()))?;
            change(&files.join("file7"), round)?;
            changed.add(solve(&runtime, &solver, request())?.0);
        }
        let what = format!(
            "first copy of {} MiB in {count} files, {moment}",
            (count * bytes) >> 20
        );
        Row::times(&what, &ours)
            .target("1.2 cp and digest")
            .peer("cp -a && openssl dgst", &ours, &theirs)
            .print();
        let what = format!("one of them changed, same solver, {moment}");
        Row::times(&what, &changed).target("150 ms").print();
    }
    Ok(())
}
