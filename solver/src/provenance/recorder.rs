//! Times and usage of vertices, out of the events of a solve.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use ashlar_llb::OpDigest;
use hashbrown::HashMap;

use crate::progress::{Event, Outcome, Sink, Usage};

/// Passes events on and notes what provenance needs of them.
#[derive(Debug)]
pub(crate) struct Recorder {
    sink: Arc<dyn Sink>,
    seen: Mutex<HashMap<OpDigest, Seen>>,
}

/// What the events told of a vertex.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// When work on it began.
    pub(crate) started: Option<SystemTime>,
    /// When it ended.
    pub(crate) completed: Option<SystemTime>,
    /// Whether its result was found in the cache.
    pub(crate) cached: bool,
    /// What its process used.
    pub(crate) usage: Option<Usage>,
}

impl Recorder {
    /// Listens to what `sink` gets.
    pub(crate) fn new(sink: Arc<dyn Sink>) -> Self {
        Self {
            sink,
            seen: Mutex::default(),
        }
    }

    /// What was told of a vertex so far.
    pub(crate) fn seen(&self, digest: &OpDigest) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(digest).copied().unwrap_or_default()
    }

    fn note(&self, digest: &OpDigest, note: impl FnOnce(&mut Seen)) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        note(seen.entry(*digest).or_default());
    }
}

#[async_trait::async_trait]
impl Sink for Recorder {
    fn control(&self, event: Event) {
        match &event {
            // A vertex may start more than once, if what it ran into was cancelled elsewhere.
            Event::Started { digest, at } => self.note(digest, |seen| {
                seen.started.get_or_insert(*at);
            }),
            Event::Completed {
                digest,
                at,
                outcome,
            } => self.note(digest, |seen| {
                seen.completed = Some(*at);
                seen.cached = *outcome == Outcome::Cached;
            }),
            Event::ProcessEnded {
                digest,
                usage: Some(usage),
                ..
            } => self.note(digest, |seen| seen.usage = Some(*usage)),
            _ => {}
        }
        self.sink.control(event);
    }

    async fn log(&self, event: Event) {
        self.sink.log(event).await;
    }
}
