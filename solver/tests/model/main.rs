//! The scheduler, the map of running work and the turns, on interleavings that a checker chooses.
//!
//! `scheduler` and `turns` are the sources of the crate (symbolic links), compiled once more with
//! locks and tasks of shuttle in the place of `crate::sync`. All else is the crate itself. Every
//! lock, spawn and await is a place where another task may go on; shuttle tries orders at random, by
//! priority, and, where that ends, all of them. `SHUTTLE_RANDOM_SEED` and the schedule in a failure
//! repeat one.

#![expect(clippy::unwrap_used, reason = "in a test the failure is the message")]

mod kit;
#[allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    unnameable_types,
    unfulfilled_lint_expectations,
    reason = "it is a module of the crate, where all of it is used"
)]
mod scheduler;
mod sharing;
mod sync;
#[allow(dead_code, unreachable_pub, reason = "as above")]
mod turns;
mod turns_in_order;

pub(crate) use ashlar_solver::{cache, cancel, clock, error, id, operation, progress};
