//! Getting what solves wrote onto the disk, without making them wait.
//!
//! One thread, started when there is something to sync and gone when there is nothing more. A
//! sync covers every record that was visible when it began. While a solve is at work whose result
//! waits for the disk, what it writes is sent there as it comes, so that little is left at the end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Failure, Fault};
use crate::meta::Meta;
use crate::root::StateRoot;

/// Bytes that are written before they are sent to disk ahead of time: enough to keep a disk busy for
/// longer than the sync itself costs.
const AHEAD_BYTES: u64 = 32 << 20;

/// How often it is looked how much was written. A look takes microseconds.
const LOOK: Duration = Duration::from_millis(20);

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
    /// Solves at work whose results will wait.
    awaited: usize,
    /// How often something was sent to disk for them ahead of the end.
    ahead: u64,
    running: bool,
    closing: bool,
}

/// A solve at work whose result will wait for the disk, until dropped.
#[derive(Debug)]
pub(super) struct Awaited(Arc<Shared>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.state().awaited -= 1;
        self.0.changed.notify_all();
    }
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
        self.run(state)?;
        self.shared.changed.notify_all();
        Ok(Some(request))
    }

    /// Tells that a solve begins whose result will wait: what it writes goes to disk from now on.
    pub(super) fn ahead(&self) -> Awaited {
        let awaited = Awaited(self.shared.clone());
        let mut state = self.shared.state();
        state.awaited += 1;
        // Without the thread all is written at the end.
        let _nothing_ahead = self.run(state);
        awaited
    }

    /// Starts the thread if it does not run.
    fn run(&self, mut state: MutexGuard<'_, State>) -> Result<(), Failure> {
        if state.running || state.closing {
            return Ok(());
        }
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
        Ok(())
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
        // What is on the file system, as far as it was sent to disk.
        let mut sent = self.root.used_bytes();
        loop {
            let request = {
                let mut state = self.state();
                if state.done == state.asked && (state.awaited == 0 || state.closing) {
                    state.running = false;
                    self.changed.notify_all();
                    return;
                }
                if state.done == state.asked {
                    state = self
                        .changed
                        .wait_timeout(state, LOOK)
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .0;
                }
                (state.done != state.asked).then_some(state.asked)
            };
            let Some(request) = request else {
                let used = self.root.used_bytes();
                if used > sent.saturating_add(AHEAD_BYTES) {
                    // If it fails, so does the one at the end, which tells.
                    let _told_at_the_end = self.root.sync();
                    sent = used;
                    self.state().ahead += 1;
                } else {
                    // Less than before: something was removed.
                    sent = sent.min(used);
                }
                continue;
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

#[cfg(test)]
mod tests;
