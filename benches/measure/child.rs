//! A solve in a process of its own, which tells its peak memory.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ashlar_llb::{State, copy, local, scratch};
use ashlar_solver::solver::SolveRequest;

use crate::Outcome;
use crate::no_op::chain;
use crate::sample::{definition, runtime, solve, solver};

/// The first argument of such a process.
pub(crate) const FLAG: &str = "--child";

/// What the process does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    /// Solves the graph that the group `start` has made.
    NoOp,
    /// Copies a directory.
    Copy,
}

/// What a process reported.
#[derive(Debug)]
pub(crate) struct Report {
    /// From its start to its end.
    pub(crate) whole: Duration,
    /// Largest resident memory in KiB.
    pub(crate) peak: u64,
}

/// A copy of the local directory `files` to scratch.
pub(crate) fn copy_of_files() -> State {
    scratch().file(copy(local("files"), "/", "/"))
}

/// Starts a process and waits for it.
pub(crate) fn start(task: Task, root: &Path, files: &Path) -> Outcome<Report> {
    let name = match task {
        Task::NoOp => "no-op",
        Task::Copy => "copy",
    };
    let start = Instant::now();
    let output = Command::new(std::env::current_exe()?)
        .args([FLAG, name])
        .args([root, files])
        .output()?;
    let whole = start.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let peak = String::from_utf8(output.stdout)?.trim().parse()?;
    Ok(Report { whole, peak })
}

/// The other side of [`start`].
pub(crate) fn run(arguments: &[String]) -> Outcome {
    if let [task, rest @ ..] = arguments
        && task == "steps"
    {
        return crate::steps::child(rest);
    }
    let [task, root, files] = arguments else {
        return Err("expected a task and two directories".into());
    };
    let state = match task.as_str() {
        "no-op" => chain("start", 1),
        _ => copy_of_files(),
    };
    let request = SolveRequest::new(definition(&state)?).local("files", files);
    let runtime = runtime()?;
    let solver = solver(&runtime, Path::new(root))?;
    solve(&runtime, &solver, request)?;
    println!("{}", peak()?);
    Ok(())
}

/// The largest resident memory of this process so far, in KiB.
fn peak() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("no VmHWM")?.parse()?)
}
