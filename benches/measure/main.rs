//! Measures what the project promises, next to the tools that do the same work.
//!
//! ```text
//! cargo bench                        everything
//! cargo bench -- --quick             smaller inputs, a minute in all
//! cargo bench -- no-op steps         only these groups: llb, no-op, start, steps, chain, files,
//!                                    contexts, export, outputs, pull, push, cache, shared
//! ```
//!
//! Each row is a median and a minimum, the target if there is one, and the ratio to the peer, which
//! ran in between on the same kind of file system. Nothing is asserted. Work on many files is done
//! on a fresh ext4 on a loop device; where that is not possible (it needs root) the output says so.
#![expect(
    clippy::disallowed_methods,
    reason = "a bench reads the clock and runs programs to compare with"
)]

mod cache;
mod chain;
mod child;
mod contexts;
mod export;
mod files;
mod graph;
mod llb;
mod no_op;
mod outputs;
mod pull;
mod push;
mod sample;
mod shared;
mod space;
mod start;
mod steps;
mod table;
mod trees;

use std::error::Error;

/// What every group returns.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    quick: bool,
}

impl Size {
    /// One of two values.
    fn pick<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

type Group = fn(Size) -> Outcome;

const GROUPS: [(&str, Group); 13] = [
    ("llb", llb::measure),
    ("no-op", no_op::measure),
    ("start", start::measure),
    ("steps", steps::measure),
    ("chain", chain::measure),
    ("files", files::measure),
    ("contexts", contexts::measure),
    ("export", export::measure),
    ("outputs", outputs::measure),
    ("pull", pull::measure),
    ("push", push::measure),
    ("cache", cache::measure),
    ("shared", shared::measure),
];

fn main() -> Outcome {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == child::FLAG) {
        return child::run(&arguments[1..]);
    }
    let size = Size {
        quick: arguments.iter().any(|a| a == "--quick"),
    };
    arguments.retain(|a| !a.starts_with("--"));
    if let Some(unknown) = arguments
        .iter()
        .find(|a| GROUPS.iter().all(|(name, _)| name != a))
    {
        return Err(format!("no group is called `{unknown}`").into());
    }
    table::head();
    for (name, measure) in GROUPS {
        if arguments.is_empty() || arguments.iter().any(|a| a == name) {
            measure(size)?;
        }
    }
    Ok(())
}
