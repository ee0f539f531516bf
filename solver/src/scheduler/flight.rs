//! Equal runs happen once: a map of what is running, with an owner and waiters each.
//!
//! Whoever asks first for a run owns it. Others wait for its result, which they get as a clone,
//! success or failure. If the owner goes away without a result, because its solve was cancelled
//! or dropped, or because it failed with what its caller lent, the waiters are told and ask again:
//! one of them becomes the owner of a new run, on its own terms. A result is taken out of the map
//! as soon as it is there: by then it is in the cache.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::cache::RunKey;
use crate::error::Failure;
use crate::sync::{Arc, Mutex, PoisonError, watch};

/// What is shared: runs on equal inputs; those that ignore the cache only within one solve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    pub run: RunKey,
    pub solve: Option<u64>,
}

/// The values of all outputs, or why there are none.
pub(super) type Landing<T> = Result<Vec<T>, Failure>;

/// What is running.
#[derive(Debug)]
pub(super) struct Flights<T> {
    /// Guards the map; never held while anything waits.
    running: Mutex<HashMap<FlightKey, watch::Receiver<Option<Landing<T>>>>>,
}

/// The part somebody has in a run.
#[derive(Debug)]
pub(super) enum Role<T: Clone> {
    /// Does the run.
    Owner(Owner<T>),
    /// Waits for it.
    Waiter(Waiter<T>),
}

/// Does a run for everyone who asks for it; dropping it without a result hands the run on.
#[derive(Debug)]
pub(super) struct Owner<T: Clone> {
    flights: Arc<Flights<T>>,
    key: FlightKey,
    sender: watch::Sender<Option<Landing<T>>>,
}

/// Waits for somebody else's run.
#[derive(Debug)]
pub(super) struct Waiter<T>(watch::Receiver<Option<Landing<T>>>);

impl<T: Clone> Flights<T> {
    pub(super) fn new() -> Self {
        Self {
            running: Mutex::default(),
        }
    }

    /// Joins the run of `key`, or starts it.
    pub(super) fn join(self: &Arc<Self>, key: FlightKey) -> Role<T> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match running.entry(key) {
            Entry::Occupied(entry) => Role::Waiter(Waiter(entry.get().clone())),
            Entry::Vacant(entry) => {
                let (sender, receiver) = watch::channel(None);
                entry.insert(receiver);
                Role::Owner(Owner {
                    flights: Arc::clone(self),
                    key,
                    sender,
                })
            }
        }
    }
}

impl<T: Clone> Owner<T> {
    /// Hands out the result. It must be in the cache by now.
    pub(super) fn land(self, landing: Landing<T>) {
        self.sender.send_replace(Some(landing));
    }
}

impl<T: Clone> Drop for Owner<T> {
    fn drop(&mut self) {
        // Before the sender goes: whoever is told that the owner is gone finds no entry.
        self.flights
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

impl<T: Clone> Waiter<T> {
    /// The result; `None` if the owner went away without one.
    pub(super) async fn landing(mut self) -> Option<Landing<T>> {
        self.0
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|landing| landing.clone())
    }
}
