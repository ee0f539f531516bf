//! Processes in a chain.

use std::fs;
use std::path::Path;

use ashlar_llb::{State, copy, local, scratch};
use ashlar_solver::solver::SolveRequest;

use crate::sample::{MOMENTS, Times, definition, has, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::{Row, note};
use crate::{Outcome, Size, trees};

/// Resident memory of the host in the last row.
const BALLAST: usize = 2 << 30;

/// A chain of `length` times `true` on a small base; `name` tells chains apart.
fn chain(name: &str, length: usize) -> State {
    let base = scratch()
        .file(copy(local("files"), "/", "/"))
        .env("NAME", name);
    (0..length).fold(base, |state, at| {
        state.env("STEP", at.to_string()).run(["/bin/true"]).root()
    })
}

pub(crate) fn measure(size: Size) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        note("steps are left out: they need root");
        return Ok(());
    }
    let (samples, length) = (size.pick(5, 2), size.pick(30, 10));
    let parts = u32::try_from(length)?;
    let runtime = runtime()?;
    let space = Space::new(1)?;
    space.announce();
    let root = space.path().join("rootfs");
    trees::small_root(&root)?;
    let solver = solver(&runtime, &space.path().join("state"))?;
    let request = |name: &str, length| -> Outcome<SolveRequest> {
        Ok(SolveRequest::new(definition(&chain(name, length))?).local("files", &root))
    };
    solve(&runtime, &solver, request("warm", 3)?)?;
    let runc = runc(space.path(), &root)?;

    let mut theirs = Times::default();
    for (moment, durability) in MOMENTS {
        let mut ours = Times::default();
        for sample in 0..samples {
            let request = request(&format!("{durability:?}{sample}"), length)?;
            ours.add(solve(&runtime, &solver, request.durability(durability))?.0);
            if let Some(command) = &runc {
                for _ in 0..5 {
                    theirs.add(shell(command)?);
                }
            }
        }
        let ours = ours.per(parts);
        let what = format!("{length} times RUN true, a step, {moment}");
        let row = Row::times(&what, &ours).target("5 ms");
        match &runc {
            Some(_) => row.peer("runc run", &ours, &theirs).print(),
            None => row.print(),
        }
    }

    let ballast = vec![1_u8; BALLAST];
    let mut ours = Times::default();
    for sample in 0..samples {
        ours.add(solve(&runtime, &solver, request(&format!("big{sample}"), length)?)?.0);
    }
    drop(std::hint::black_box(ballast));
    let what = format!("{length} times RUN true, a step, 2 GiB resident");
    Row::times(&what, &ours.per(parts)).target("6 ms").print();
    Ok(())
}

/// A command that runs `true` in the same root with runc, if it works here.
fn runc(space: &Path, root: &Path) -> Outcome<Option<String>> {
    if !has("runc") {
        note("runc is not installed");
        return Ok(None);
    }
    let bundle = space.join("bundle");
    fs::create_dir(&bundle)?;
    shell(&format!("cd {} && runc spec", bundle.display()))?;
    let path = bundle.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["root"]["path"] = root.to_str().ok_or("a path in UTF-8")?.into();
    fs::write(&path, serde_json::to_vec(&config)?)?;
    let command = format!(
        "exec runc --root {state} run --bundle {bundle} step-$$ </dev/null",
        state = space.join("runc").display(),
        bundle = bundle.display(),
    );
    match shell(&format!("{command} 2>/dev/null")) {
        Ok(_) => Ok(Some(command)),
        Err(_) => {
            note("runc does not work here");
            Ok(None)
        }
    }
}
