//! What is sent along with a request, and whether the peer takes it.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Timeouts;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Pieces that are read before the peer takes them.
const AHEAD: usize = 2;

/// What is sent along with a request. Cheap to clone; may be sent several times.
#[derive(Debug, Clone, Default)]
pub(super) enum Payload {
    /// Nothing.
    #[default]
    None,
    /// Text, which may be secret.
    Text(String),
    /// Bytes in memory.
    Bytes(Bytes),
    /// A part of a file.
    File {
        file: Arc<File>,
        from: u64,
        length: u64,
    },
}

impl Payload {
    /// How many bytes it has.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Text(text) => text.len() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// How many bytes of it are sent piece by piece.
    fn length(&self) -> u64 {
        match self {
            Self::File { length, .. } => *length,
            // What is small is sent at once.
            _ => 0,
        }
    }

    /// The body of one request, and what tells how far it is.
    pub(super) fn body(&self) -> (Option<reqwest::Body>, Arc<Passing>) {
        let passing = Arc::new(Passing {
            length: self.length(),
            taken: AtomicU64::new(0),
            failure: Mutex::default(),
        });
        let body = match self {
            Self::None => None,
            Self::Text(text) => Some(text.clone().into()),
            Self::Bytes(bytes) => Some(bytes.clone().into()),
            Self::File { file, from, length } => {
                let (sender, pieces) = mpsc::channel(AHEAD);
                let (file, from, length) = (file.clone(), *from, *length);
                // Ends with the file, or when nobody takes the pieces any more.
                drop(tokio::task::spawn_blocking(move || {
                    read(&file, from, length, &sender);
                }));
                let left = length;
                let passing = passing.clone();
                Some(reqwest::Body::wrap(FileBody {
                    pieces,
                    left,
                    passing,
                }))
            }
        };
        (body, passing)
    }
}

fn read(file: &File, mut from: u64, length: u64, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let end = from.saturating_add(length);
    while from < end {
        let most = usize::try_from(end - from).map_or(PIECE, |left| left.min(PIECE));
        let mut piece = vec![0; most];
        let read = file.read_exact_at(&mut piece, from);
        let failed = read.is_err();
        if pieces.blocking_send(read.map(|()| piece.into())).is_err() || failed {
            return;
        }
        from += most as u64;
    }
}

/// A part of a file on its way.
struct FileBody {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    passing: Arc<Passing>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.pieces.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(piece)) => piece,
        };
        Poll::Ready(Some(match piece {
            Ok(piece) => {
                let length = piece.len() as u64;
                self.left = self.left.saturating_sub(length);
                self.passing.taken.fetch_add(length, Ordering::Relaxed);
                Ok(Frame::data(piece))
            }
            Err(error) => {
                let told = io::Error::from(error.kind());
                *self.passing.lock() = Some(error);
                Err(told)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// How far a payload is.
#[derive(Debug)]
pub(super) struct Passing {
    length: u64,
    taken: AtomicU64,
    /// Why it could not be read.
    failure: Mutex<Option<io::Error>>,
}

/// What did not come in time.
#[derive(Debug)]
pub(super) enum Late {
    /// The answer.
    Answer,
    /// The peer took too little of the payload.
    Payload {
        /// How much it took.
        bytes: u64,
    },
}

impl Passing {
    fn lock(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the payload could not be read, if that is what ended the request.
    pub(super) fn failure(&self) -> Option<io::Error> {
        self.lock().take()
    }

    /// Waits for the answer to a request as long as the payload gets on, and then for so long.
    pub(super) async fn watch<A>(
        &self,
        request: impl Future<Output = A>,
        timeouts: &Timeouts,
        answer: Duration,
    ) -> Result<A, Late> {
        let mut request = pin!(request);
        let mut seen = 0;
        loop {
            let whole = self.taken.load(Ordering::Relaxed) >= self.length;
            let wait = if whole { answer } else { timeouts.stall };
            if let Ok(answer) = timeout(wait, &mut request).await {
                return Ok(answer);
            }
            let taken = self.taken.load(Ordering::Relaxed);
            let bytes = taken - seen;
            match (whole, taken >= self.length) {
                (true, _) => return Err(Late::Answer),
                // The last of it was taken just now.
                (false, true) => {}
                (false, false) if bytes < timeouts.stall_bytes.max(1) => {
                    return Err(Late::Payload { bytes });
                }
                (false, false) => {}
            }
            seen = taken;
        }
    }
}
