//! What a solve tells while it runs: typed events, never text on a terminal.
//!
//! Owns the [`Event`] type and the [`Reporter`] through which operations send. Control events
//! (started, completed) never block; log output waits when the receiver is slow, so nothing is
//! clipped and memory stays bounded.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ashlar_llb::OpDigest;
use bytes::Bytes;

/// Which stream of a process wrote a piece of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a process has these two")]
pub enum Stream {
    /// Standard output (stream 1 in BuildKit).
    Stdout,
    /// Standard error (stream 2 in BuildKit).
    Stderr,
}

/// One thing that happened in a solve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The graph is known; sent once per vertex, inputs first, before anything runs.
    Vertex {
        /// Its digest.
        digest: OpDigest,
        /// Its display name.
        name: Arc<str>,
        /// The digests of its inputs.
        inputs: Vec<OpDigest>,
    },
    /// Some steps do not say which network they want; this is what they get. At most once per
    /// solve, before anything runs.
    DefaultNetwork {
        /// `host`, `none`, or the name of the provider that connects steps in networks of their
        /// own.
        network: &'static str,
    },
    /// Work on a vertex began.
    Started {
        /// Which vertex.
        digest: OpDigest,
        /// When.
        at: SystemTime,
    },
    /// A vertex ended.
    Completed {
        /// Which vertex.
        digest: OpDigest,
        /// When.
        at: SystemTime,
        /// How.
        outcome: Outcome,
    },
    /// A vertex tells how far a part of its work is.
    Status {
        /// Which vertex.
        digest: OpDigest,
        /// What is being done, for example `transferring context:`.
        id: Arc<str>,
        /// Done so far, in bytes or items.
        current: u64,
        /// All there is to do; 0 if unknown.
        total: u64,
        /// Whether this part is finished.
        completed: bool,
        /// When.
        at: SystemTime,
    },
    /// The process of a vertex starts: all it waited for is there. A vertex without a process
    /// never sends this; one whose process cannot be started sends no
    /// [`Event::ProcessEnded`].
    ProcessStarted {
        /// Which vertex.
        digest: OpDigest,
        /// When.
        at: SystemTime,
    },
    /// The process of a vertex ended by itself, after its last [`Event::Log`].
    ProcessEnded {
        /// Which vertex.
        digest: OpDigest,
        /// Its exit code; 128 and the signal if one killed it.
        code: i32,
        /// What it used; `None` if that cannot be told.
        usage: Option<Usage>,
        /// When.
        at: SystemTime,
    },
    /// A process of a vertex wrote something.
    Log {
        /// Which vertex.
        digest: OpDigest,
        /// On which stream.
        stream: Stream,
        /// What; cut at arbitrary places.
        data: Bytes,
        /// When.
        at: SystemTime,
    },
    /// What was read of a local directory to find out what is in its files; sent once for each
    /// directory that was looked at, at the end of a solve that succeeded.
    LocalRead {
        /// The name under which it was lent.
        name: Arc<str>,
        /// Files that were opened.
        files: u64,
        /// Bytes in them.
        bytes: u64,
    },
    /// Something the user should know that fails nothing.
    Warning {
        /// Which vertex, if one.
        digest: Option<OpDigest>,
        /// The text, one line.
        message: String,
    },
}

/// How a vertex ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It ran.
    Ran,
    /// It is a source that every solve has to look at, such as a local directory, and it was
    /// looked at. What did not change since an earlier solve was not read again.
    Looked,
    /// Its result was found in the cache.
    Cached,
    /// It failed; the text is the whole chain of messages.
    Failed(String),
    /// It was cancelled before it ended.
    Cancelled,
}

/// What a process and those it started used, as far as they were waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time in programs.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Memory at its peak, in bytes: of all processes together where they have a control group of
    /// their own, else of the largest of them. `None` if that cannot be told.
    pub peak_memory: Option<u64>,
    /// Bytes read from storage, not from the page cache. `None` if that cannot be told.
    pub read: Option<u64>,
    /// Bytes for storage that they made. `None` if that cannot be told.
    pub written: Option<u64>,
}

/// The receiving side of progress: implemented by the solve's event stream and by doubles.
#[async_trait::async_trait]
pub trait Sink: Send + Sync + std::fmt::Debug {
    /// Takes a control event. Never blocks.
    fn control(&self, event: Event);

    /// Takes log output; waits while the receiver is behind. Dropping the future drops the event.
    async fn log(&self, event: Event);
}

/// A [`Sink`] that forgets everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ignore;

#[async_trait::async_trait]
impl Sink for Ignore {
    fn control(&self, _: Event) {}

    async fn log(&self, _: Event) {}
}

/// What an operation reports through: a sink, bound to the vertex it works for.
#[derive(Debug, Clone)]
pub struct Reporter {
    sink: Arc<dyn Sink>,
    digest: OpDigest,
    clock: Arc<dyn crate::clock::Clock>,
}

impl Reporter {
    /// Binds `sink` to the vertex `digest`.
    pub fn new(sink: Arc<dyn Sink>, digest: OpDigest, clock: Arc<dyn crate::clock::Clock>) -> Self {
        Self {
            sink,
            digest,
            clock,
        }
    }

    /// Reports how far a part of the work is.
    pub fn status(&self, id: impl Into<Arc<str>>, current: u64, total: u64, completed: bool) {
        self.sink.control(Event::Status {
            digest: self.digest,
            id: id.into(),
            current,
            total,
            completed,
            at: self.clock.now(),
        });
    }

    /// Reports output of a process; waits while the receiver is behind.
    pub async fn log(&self, stream: Stream, data: Bytes) {
        let at = self.clock.now();
        self.sink
            .log(Event::Log {
                digest: self.digest,
                stream,
                data,
                at,
            })
            .await;
    }

    /// Reports that the process starts.
    pub fn process_started(&self) {
        self.sink.control(Event::ProcessStarted {
            digest: self.digest,
            at: self.clock.now(),
        });
    }

    /// Reports that the process ended.
    pub fn process_ended(&self, code: i32, usage: Option<Usage>) {
        self.sink.control(Event::ProcessEnded {
            digest: self.digest,
            code,
            usage,
            at: self.clock.now(),
        });
    }

    /// Reports something the user should know.
    pub fn warn(&self, message: impl Into<String>) {
        self.sink.control(Event::Warning {
            digest: Some(self.digest),
            message: message.into(),
        });
    }
}
