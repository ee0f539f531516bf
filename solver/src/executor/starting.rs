//! A process that is being started, for whoever may have to kill it meanwhile.
//!
//! Owns the agreement between the thread that starts a process and the one that cancels: after
//! [`Starting::kill`] nothing of the process is left, and nothing of it will be.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ashlar_sandbox::Child;

use super::ExecutorError;
use crate::cancel::Cancelled;

/// How far the start is.
#[derive(Debug, Default)]
enum State {
    /// Nobody began, or the start failed.
    #[default]
    Nothing,
    /// A thread is at it; it does not take long.
    UnderWay,
    Running(Arc<Child>),
    /// It must not start any more.
    Killed,
}

#[derive(Debug, Default)]
pub(super) struct Starting {
    state: Mutex<State>,
    /// Told when [`State::UnderWay`] is over.
    changed: Condvar,
}

/// Says that the start is over, whatever became of it.
struct UnderWay<'a>(&'a Starting, State);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.state() = std::mem::take(&mut self.1);
        self.0.changed.notify_all();
    }
}

impl Starting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the process, unless it was killed before. Blocks. To be called once.
    pub(super) fn start(
        &self,
        spawn: impl FnOnce() -> Result<Child, ExecutorError>,
    ) -> Result<Arc<Child>, ExecutorError> {
        {
            let mut state = self.state();
            if matches!(*state, State::Killed) {
                return Err(Cancelled.into());
            }
            *state = State::UnderWay;
        }
        let mut under_way = UnderWay(self, State::Nothing);
        let child = Arc::new(spawn()?);
        under_way.1 = State::Running(child.clone());
        Ok(child)
    }

    /// Kills the process and waits until it is gone; waits for its start before, if it is under
    /// way. What has not begun to start will not.
    pub(super) fn kill(&self) {
        let mut state = self.state();
        while matches!(*state, State::UnderWay) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let State::Running(child) = &*state else {
            *state = State::Killed;
            return;
        };
        let child = child.clone();
        drop(state);
        child.kill();
        let _status = child.wait();
    }
}
