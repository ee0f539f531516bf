//! A running solve.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::task::JoinHandle;

use super::{Events, SolveError, Solved};
use crate::cancel::Cancel;
use crate::progress::Event;
use crate::task::Task;

/// A running solve: a stream of events, a result, and the means to cancel it.
///
/// The events need not be read: [`SolveHandle::result`] throws away what nobody took. While the
/// handle is held and events are not read, output of processes waits once 1 MiB of it is queued.
///
/// # Cancellation
/// Dropping the handle, or what [`SolveHandle::split`] returned for the result, cancels the solve;
/// its processes are dead when the drop returns.
#[derive(Debug)]
pub struct SolveHandle {
    events: Events,
    outcome: SolveOutcome,
}

impl SolveHandle {
    pub(super) fn new(
        events: Events,
        task: JoinHandle<Result<Solved, SolveError>>,
        cancel: Cancel,
    ) -> Self {
        Self {
            events,
            outcome: SolveOutcome(Task::new(task, cancel)),
        }
    }

    /// Cancels the solve. Its processes are dead when this returns; the result will be
    /// [`SolveError::Cancelled`].
    pub fn cancel(&self) {
        self.outcome.cancel();
    }

    /// Separates events and result, to be awaited in different places.
    pub fn split(self) -> (Events, SolveOutcome) {
        (self.events, self.outcome)
    }

    /// Waits for the result and forgets events that were not read.
    ///
    /// # Errors
    /// [`SolveError`].
    pub async fn result(self) -> Result<Solved, SolveError> {
        let (events, outcome) = self.split();
        drop(events);
        outcome.await
    }
}

impl Stream for SolveHandle {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        Pin::new(&mut self.events).poll_next(context)
    }
}

/// The result of a running solve, to be awaited. Dropping it cancels the solve.
#[derive(Debug)]
pub struct SolveOutcome(Task<Result<Solved, SolveError>>);

impl SolveOutcome {
    /// Cancels the solve, as [`SolveHandle::cancel`].
    pub fn cancel(&self) {
        self.0.cancel().cancel();
    }

    /// A handle to cancel the solve with from elsewhere.
    pub fn canceller(&self) -> Cancel {
        self.0.cancel().clone()
    }
}

impl Future for SolveOutcome {
    type Output = Result<Solved, SolveError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|outcome| outcome.unwrap_or(Err(SolveError::Cancelled)))
    }
}
