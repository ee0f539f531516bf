//! A task of the runtime that ends with whoever waits for it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use crate::cancel::Cancel;

/// The outcome of a task, to be awaited: `None` if the runtime was shut down first. Dropping it
/// before the task has ended cancels the task.
#[derive(Debug)]
pub(crate) struct Task<T> {
    task: JoinHandle<T>,
    cancel: Cancel,
}

impl<T> Task<T> {
    /// Takes a task that ends when `cancel` is raised.
    pub(crate) fn new(task: JoinHandle<T>, cancel: Cancel) -> Self {
        Self { task, cancel }
    }

    /// What cancels it.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    /// A panic of the task goes on here.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.task)
            .poll(context)
            .map(|joined| match joined {
                Ok(outcome) => Some(outcome),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => None,
                },
            })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if !self.task.is_finished() {
            self.cancel.cancel();
        }
    }
}
