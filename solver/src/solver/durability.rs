//! Getting what solves wrote onto the disk, without making them wait.
//!
//! One thread, started when there is something to sync and gone when there is nothing more. A
//! sync covers every record that was visible when it began.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use crate::error::{Failure, Fault};
use crate::meta::Meta;
use crate::root::StateRoot;

/// When the result of a solve counts as safe from a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// The result returns at once; a sync of the store begins in the background when the solve
    /// ends. A power cut before it is done loses cache hits, never correctness.
    #[default]
    Background,
    /// The result waits until everything it consists of is on disk.
    Synced,
}

/// The store could not be synced.
#[derive(Debug, thiserror::Error)]
#[error("cannot sync the store to disk")]
struct SyncError(#[source] std::io::Error);

impl crate::error::Blame for SyncError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

/// Syncs the store.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    root: Arc<StateRoot>,
    meta: Arc<dyn Meta>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Counts requests; a sync serves all that came before it began.
    asked: u64,
    /// The last request that is on disk, or failed.
    done: u64,
    failed: Option<Failure>,
    running: bool,
    closing: bool,
}

impl Syncer {
    pub(super) fn new(root: Arc<StateRoot>, meta: Arc<dyn Meta>) -> Self {
        let shared = Shared {
            root,
            meta,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            thread: Mutex::new(None),
        }
    }

    /// Starts a sync if any record needs one, without waiting for it. Returns the request to
    /// [`Syncer::wait`] for.
    pub(super) fn start(&self) -> Result<Option<u64>, Failure> {
        if !self.shared.meta.needs_sync()? {
            return Ok(None);
        }
        let mut state = self.shared.state();
        state.asked += 1;
        let request = state.asked;
        if !state.running && !state.closing {
            state.running = true;
            drop(state);
            let mut thread = self
                .thread
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if let Some(ended) = thread.take() {
                let _panicked = ended.join();
            }
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name("ashlar-sync".to_owned());
            match builder.spawn(move || shared.run()) {
                Ok(handle) => *thread = Some(handle),
                Err(error) => {
                    self.shared.state().running = false;
                    return Err(SyncError(error).into());
                }
            }
        }
        Ok(Some(request))
    }

    /// Waits until that request is on disk. Blocks.
    pub(super) fn wait(&self, request: u64) -> Result<(), Failure> {
        let mut state = self.shared.state();
        while state.done < request && (state.running || !state.closing) {
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        match &state.failed {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        if let Some(thread) = thread {
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn run(&self) {
        loop {
            let request = {
                let mut state = self.state();
                if state.done == state.asked {
                    state.running = false;
                    self.changed.notify_all();
                    return;
                }
                state.asked
            };
            let outcome = self.sync();
            let mut state = self.state();
            state.done = request;
            state.failed = outcome.err();
            self.changed.notify_all();
        }
    }

    fn sync(&self) -> Result<(), Failure> {
        let generation = self.meta.begin_sync()?;
        self.root.sync().map_err(SyncError)?;
        Ok(self.meta.finish_sync(generation)?)
    }
}
