//! Taking times.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ashlar_llb::{Constraints, Definition, Platform, State};
use ashlar_solver::solver::{Durability, SolveRequest, Solved, Solver};
use tokio::runtime::Runtime;

use crate::Outcome;

/// Times of one thing.
#[derive(Debug, Default, Clone)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Each time divided by `parts`.
    pub(crate) fn per(&self, parts: u32) -> Self {
        Self(self.0.iter().map(|time| *time / parts).collect())
    }

    pub(crate) fn median(&self) -> Duration {
        let mut times = self.0.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    pub(crate) fn minimum(&self) -> Duration {
        self.0.iter().min().copied().unwrap_or_default()
    }
}

/// The runtime of the solvers: as many workers as there are processors.
pub(crate) fn runtime() -> Outcome<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?)
}

pub(crate) fn solver(runtime: &Runtime, root: &std::path::Path) -> Outcome<Solver> {
    Ok(Solver::builder()
        .root(root)
        .runtime(runtime.handle().clone())
        .build()?)
}

pub(crate) fn definition(state: &State) -> Outcome<Definition> {
    Ok(state.marshal(&Constraints::new(Platform::linux_amd64()))?)
}

/// Solves and says how long it took, from the request to the result.
pub(crate) fn solve(
    runtime: &Runtime,
    solver: &Solver,
    request: SolveRequest,
) -> Outcome<(Duration, Solved)> {
    let start = Instant::now();
    let solved = runtime.block_on(solver.solve(request).result())?;
    Ok((start.elapsed(), solved))
}

/// The two moments at which a write can count as done.
pub(crate) const MOMENTS: [(&str, Durability); 2] = [
    ("until the result", Durability::Background),
    ("until durable", Durability::Synced),
];

/// Runs a shell command, without its output, and says how long it took.
pub(crate) fn shell(command: &str) -> Outcome<Duration> {
    let start = Instant::now();
    let status = Command::new("sh")
        .args(["-c", command])
        .stdout(Stdio::null())
        .status()?;
    let time = start.elapsed();
    match status.success() {
        true => Ok(time),
        false => Err(format!("`{command}` failed: {status}").into()),
    }
}

/// Whether there is a program of this name.
pub(crate) fn has(program: &str) -> bool {
    shell(&format!("command -v {program}")).is_ok()
}
