//! Cancellation as a value: every long call takes a [`Cancel`].
//!
//! A [`Cancel`] never un-cancels. A child is cancelled with its parent, never the other way round.
//! Work that must be stopped from outside, a process above all, registers a hook: whoever cancels
//! runs the hooks, so that the process is dead when [`Cancel::cancel`] returns.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio_util::sync::CancellationToken;

/// The work was cancelled. Not an error of anybody: an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// A flag that many tasks watch and anyone may raise. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Raised first, with `stops` locked, so that the effect of a hook is never taken for anything
    /// but the cancellation.
    raised: AtomicBool,
    /// Wakes who waits; raised last, because who wakes up may take its hooks back.
    token: CancellationToken,
    stops: Mutex<Stops>,
}

/// What to do when the flag is raised.
#[derive(Default)]
struct Stops {
    next: u64,
    hooks: HashMap<u64, Arc<dyn Fn() + Send + Sync>>,
    children: Vec<Weak<Inner>>,
}

impl fmt::Debug for Stops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stops")
            .field("hooks", &self.hooks.len())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn stops(&self) -> MutexGuard<'_, Stops> {
        self.stops
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Cancel {
    /// Makes a flag that is not raised.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a flag that is raised with this one, and may be raised alone.
    pub fn child(&self) -> Self {
        let mut stops = self.0.stops();
        let inner = Arc::new(Inner {
            raised: AtomicBool::new(self.is_cancelled()),
            token: self.0.token.child_token(),
            stops: Mutex::default(),
        });
        stops.children.retain(|child| child.strong_count() > 0);
        stops.children.push(Arc::downgrade(&inner));
        Self(inner)
    }

    /// Raises the flag and runs the hooks of this flag and of its children, each to its end.
    pub fn cancel(&self) {
        let mut hooks = Vec::new();
        let mut todo = vec![self.0.clone()];
        while let Some(inner) = todo.pop() {
            let stops = inner.stops();
            inner.raised.store(true, Ordering::SeqCst);
            hooks.extend(stops.hooks.values().cloned());
            todo.extend(stops.children.iter().filter_map(Weak::upgrade));
        }
        for hook in hooks {
            hook();
        }
        self.0.token.cancel();
    }

    /// Registers what must happen when the flag is raised, until the guard is dropped. Runs it at
    /// once if the flag is raised already. It may run more than once, from any thread, and must
    /// not cancel or register anything itself.
    #[must_use = "the hook is forgotten when the guard is dropped"]
    pub fn on_cancel(&self, hook: impl Fn() + Send + Sync + 'static) -> CancelGuard {
        let hook: Arc<dyn Fn() + Send + Sync> = Arc::new(hook);
        let mut stops = self.0.stops();
        let id = stops.next;
        stops.next += 1;
        stops.hooks.insert(id, hook.clone());
        drop(stops);
        if self.is_cancelled() {
            hook();
        }
        CancelGuard {
            cancel: self.clone(),
            id,
        }
    }

    /// Tells whether the flag is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Returns [`Cancelled`] if the flag is raised; for loops of blocking code.
    ///
    /// # Errors
    /// [`Cancelled`].
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }

    /// Waits until the flag is raised. May be dropped and called again.
    pub async fn cancelled(&self) {
        self.0.token.cancelled().await;
    }
}

/// Keeps a hook registered; see [`Cancel::on_cancel`].
#[derive(Debug)]
pub struct CancelGuard {
    cancel: Cancel,
    id: u64,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.cancel.0.stops().hooks.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn hooks_of_children_run_before_cancel_returns() {
        let count = Arc::new(AtomicUsize::new(0));
        let hook = |count: &Arc<AtomicUsize>| {
            let count = count.clone();
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let cancel = Cancel::new();
        let child = cancel.child();
        let grandchild = child.child();
        let kept = grandchild.on_cancel(hook(&count));
        drop(child.on_cancel(hook(&count)));
        cancel.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(grandchild.is_cancelled());
        drop(kept);
        let late = child.on_cancel(hook(&count));
        assert_eq!(count.load(Ordering::SeqCst), 2);
        drop(late);
    }

    #[test]
    fn a_hook_runs_though_its_owner_wakes_up_and_takes_it_back() {
        for _ in 0..200 {
            let cancel = Cancel::new();
            let child = cancel.child();
            let done = Arc::new(AtomicUsize::new(0));
            let guard = child.on_cancel({
                let (done, child) = (done.clone(), child.clone());
                move || {
                    assert!(child.is_cancelled());
                    std::thread::yield_now();
                    done.store(1, Ordering::SeqCst);
                }
            });
            let owner = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(child.cancelled());
                drop(guard);
            });
            std::thread::yield_now();
            cancel.cancel();
            assert_eq!(done.load(Ordering::SeqCst), 1);
            owner.join().unwrap();
        }
    }

    #[test]
    fn a_child_does_not_cancel_its_parent() {
        let cancel = Cancel::new();
        cancel.child().cancel();
        assert!(!cancel.is_cancelled());
        assert_eq!(cancel.check(), Ok(()));
    }
}
