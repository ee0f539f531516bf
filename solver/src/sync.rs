//! Locks, counters, tasks and timers of what is model-checked.
//!
//! The scheduler and the turns take them from here and from nowhere else, so that `tests/model` can
//! run the very same code on every interleaving that a checker thinks of. A floor below all others:
//! it imports nothing.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Condvar, Mutex, PoisonError};

pub(crate) use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
pub(crate) use tokio::task::JoinSet;
pub(crate) use tokio::time::sleep;
