//! What stands in for `crate::sync` under the checker.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use shuttle::future::JoinHandle;

pub(crate) use std::sync::{Arc, PoisonError};

pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering};
pub(crate) use shuttle::sync::{Condvar, Mutex};
// These work in any runtime, and wake their waiters in order.
pub(crate) use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Time does not pass; others get a turn.
pub(crate) async fn sleep(_: Duration) {
    shuttle::future::yield_now().await;
}

/// Tasks that end with the set.
pub(crate) struct JoinSet<T> {
    tasks: Vec<JoinHandle<()>>,
    left: usize,
    sender: UnboundedSender<T>,
    receiver: UnboundedReceiver<T>,
}

impl<T: Send + 'static> JoinSet<T> {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = unbounded();
        Self {
            tasks: Vec::new(),
            left: 0,
            sender,
            receiver,
        }
    }

    pub(crate) fn spawn(&mut self, task: impl Future<Output = T> + Send + 'static) {
        let sender = self.sender.clone();
        self.left += 1;
        self.tasks.push(shuttle::future::spawn(async move {
            let _nobody_waits = sender.unbounded_send(task.await);
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(crate) async fn join_next(&mut self) -> Option<Result<T, Infallible>> {
        if self.left == 0 {
            return None;
        }
        let done = self.receiver.next().await?;
        self.left -= 1;
        Some(Ok(done))
    }

    pub(crate) fn try_join_next(&mut self) -> Option<Result<T, Infallible>> {
        let done = self.receiver.try_recv().ok()?;
        self.left -= 1;
        Some(Ok(done))
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
