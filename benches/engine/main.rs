//! What the engine costs, beside what the same work costs others, in one run.
//!
//! ```text
//! cargo bench --bench engine               the full sizes; as root, with runc, busybox and mkfs.ext4
//! cargo bench --bench engine -- --quick    small sizes, a few seconds
//! cargo bench --bench engine -- copy       only the rows whose name contains `copy`
//! ```
//!
//! Rows that write data come twice: until the result returns, and until it is on disk
//! (`Durability::Synced`; for a peer, followed by `sync -f`). File-heavy rows run on a fresh
//! loop-mounted ext4, because a file system that has seen many deletions creates files slower.

#![expect(
    clippy::disallowed_methods,
    reason = "a bench is a program and reads the clock"
)]

mod copy;
mod graphs;
mod report;
mod steps;
mod volume;

use std::path::Path;

use ashlar_llb::{Constraints, Definition, Platform, State};
use ashlar_solver::solver::{SolveRequest, Solved, Solver};
use tokio::runtime::Runtime;

use report::Report;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Quick,
    Full,
}

impl Size {
    /// One number or the other.
    pub fn pick(self, quick: usize, full: usize) -> usize {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, rest @ ..] = &arguments[..]
        && role == "--child"
    {
        return copy::child(rest);
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let size = if quick { Size::Quick } else { Size::Full };
    let filter = arguments
        .iter()
        .find(|argument| !argument.starts_with('-'))
        .cloned();
    let mut report = Report::new(filter);
    report.heading();
    graphs::measure(size, &mut report);
    steps::measure(size, &mut report);
    copy::measure(size, &mut report);
}

/// A runtime of two threads, as a host program would have.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be made")
}

/// Opens a solver; the runtime must be entered.
pub fn solver(root: &Path) -> Solver {
    Solver::builder()
        .root(root)
        .build()
        .expect("a solver can be opened")
}

/// Marshals a state for this machine's platform.
pub fn marshal(state: &State) -> Definition {
    let constraints = Constraints::new(Platform::linux_amd64()).local_unique_id("bench");
    state.marshal(&constraints).expect("the graph is valid")
}

/// Solves and waits for the result.
pub async fn solve(solver: &Solver, request: SolveRequest) -> Solved {
    match solver.solve(request).result().await {
        Ok(solved) => solved,
        Err(error) => panic!("{error}"),
    }
}
