//! The way of progress events from operations to the caller.
//!
//! Control events queue without bound: there are a few per vertex. Log output waits once
//! [`LOG_BYTES`] of it are queued and not yet taken. A receiver that is gone holds nobody up.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::progress::{Event, Sink};

/// Output that may wait for a slow receiver: 1 MiB, some thousand lines.
const LOG_BYTES: usize = 1 << 20;

/// An event and the room it takes; `None` at the end.
type Item = Option<(Event, Option<OwnedSemaphorePermit>)>;

/// Makes the two ends.
pub(super) fn channel() -> (Arc<Sender>, Events) {
    let (sender, receiver) = unbounded_channel();
    let room = Arc::new(Semaphore::new(LOG_BYTES));
    (
        Arc::new(Sender {
            sender,
            room: room.clone(),
        }),
        Events { receiver, room },
    )
}

/// The end that operations hold.
#[derive(Debug)]
pub(super) struct Sender {
    sender: UnboundedSender<Item>,
    room: Arc<Semaphore>,
}

impl Sender {
    /// Ends the events once the returned value is dropped: what a result still holds of the solve,
    /// such as an image that is not downloaded yet, may hold the sender too.
    pub(super) fn end_when_dropped(self: &Arc<Self>) -> End {
        End(self.clone())
    }
}

/// The end of a solve.
#[derive(Debug)]
pub(super) struct End(Arc<Sender>);

impl Drop for End {
    fn drop(&mut self) {
        let _nobody_listens = self.0.sender.send(None);
    }
}

#[async_trait::async_trait]
impl Sink for Sender {
    fn control(&self, event: Event) {
        let _nobody_listens = self.sender.send(Some((event, None)));
    }

    async fn log(&self, event: Event) {
        let bytes = match &event {
            Event::Log { data, .. } => data.len(),
            _ => 0,
        };
        let bytes = u32::try_from(bytes.clamp(1, LOG_BYTES)).unwrap_or(1);
        // Closed when the receiver is gone.
        if let Ok(permit) = self.room.clone().acquire_many_owned(bytes).await {
            let _nobody_listens = self.sender.send(Some((event, Some(permit))));
        }
    }
}

/// The events of one solve, in order; ends when the solve has ended. Dropping it holds nobody up.
#[derive(Debug)]
pub struct Events {
    receiver: UnboundedReceiver<Item>,
    room: Arc<Semaphore>,
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.receiver.poll_recv(context).map(|item| match item {
            Some(Some((event, _room))) => Some(event),
            Some(None) | None => {
                // Whatever is told from now on is about no solve.
                self.receiver.close();
                self.room.close();
                while self.receiver.try_recv().is_ok() {}
                None
            }
        })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.room.close();
    }
}
