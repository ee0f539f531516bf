//! Work of which two must not do the same at the same time.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use crate::cancel::{Cancel, Cancelled};
use crate::sync::{Arc, Condvar, Mutex, PoisonError};

/// Who works on what, by what the work makes.
///
/// ```
/// use std::sync::Arc;
///
/// use ashlar_solver::cancel::Cancel;
/// use ashlar_solver::turns::Turns;
///
/// let turns = Arc::new(Turns::default());
/// let turn = turns.take("layer 1", &Cancel::new())?;
/// // Whoever asks for the same one waits until it is dropped.
/// drop(turn);
/// # Ok::<(), ashlar_solver::cancel::Cancelled>(())
/// ```
#[derive(Debug)]
pub struct Turns<K> {
    busy: Mutex<HashSet<K>>,
    freed: Condvar,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self {
            busy: Mutex::default(),
            freed: Condvar::new(),
        }
    }
}

/// A turn that was taken; ends when dropped, on any thread.
#[derive(Debug)]
pub struct Turn<K: Hash + Eq> {
    turns: Arc<Turns<K>>,
    key: K,
}

impl<K: Hash + Eq + Clone + Send + 'static> Turns<K> {
    /// Waits until nobody else has this turn, and takes it. Blocks.
    ///
    /// # Errors
    /// [`Cancelled`], soon after `cancel` was raised.
    pub fn take(self: &Arc<Self>, key: K, cancel: &Cancel) -> Result<Turn<K>, Cancelled> {
        // Wakes who waits below, so that cancelling does not wait for another's work.
        let waker = self.clone();
        let _guard = cancel.on_cancel(move || waker.freed.notify_all());
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            cancel.check()?;
            if busy.insert(key.clone()) {
                let turns = self.clone();
                return Ok(Turn { turns, key });
            }
            // The time limit is for a wake-up that came between the check and the wait.
            let waited = self.freed.wait_timeout(busy, Duration::from_millis(200));
            busy = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<K: Hash + Eq> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut busy = self
            .turns
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.key);
        self.turns.freed.notify_all();
    }
}
