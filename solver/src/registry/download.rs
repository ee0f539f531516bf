//! Blobs: downloaded in ranges at the same time, taken up where they broke off, read in order.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::RegistryError;
use super::endpoint::Endpoint;
use super::repository::Repository;
use super::retry::Tries;
use super::transport::Body;
use crate::cancel::{Cancel, CancelGuard};
use crate::content::ContentError;
use crate::oci::Descriptor;

/// The most bytes of one range that are kept in memory, whatever the settings say.
const MAX_ROOM: usize = 256 << 20;

type Piece = Result<Bytes, RegistryError>;

impl Repository {
    /// Downloads a blob. Nothing is verified but that there are no more bytes than promised: the
    /// digest is the reader's to check.
    ///
    /// Blobs of more than two ranges ([`super::RegistryConfig::range_bytes`]) are downloaded in ranges at
    /// the same time if the registry can do that. What breaks off is taken up where it broke off.
    ///
    /// # Cancellation
    /// Dropping the reader ends the download, cancelling too; a read that waits returns then.
    pub fn blob(&self, descriptor: &Descriptor, cancel: &Cancel) -> BlobReader {
        let (parts_sender, parts) = mpsc::channel(self.ranges().saturating_sub(1).max(1));
        let job = Job {
            repository: self.clone(),
            descriptor: descriptor.clone(),
        };
        let runtime = &self.registry().0.runtime;
        let task = runtime.spawn(job.download(parts_sender)).abort_handle();
        let stop = task.clone();
        BlobReader {
            host: self.name().to_owned(),
            parts,
            part: None,
            piece: Bytes::new(),
            left: descriptor.size,
            _guard: cancel.on_cancel(move || stop.abort()),
            task,
        }
    }

    fn ranges(&self) -> usize {
        self.config().ranges_per_blob
    }
}

/// The bytes of a blob that is being downloaded. Reading blocks.
///
/// An error that the registry is to blame for is an [`io::Error`] with a [`RegistryError`] in it.
#[derive(Debug)]
pub struct BlobReader {
    host: String,
    parts: mpsc::Receiver<Part>,
    part: Option<Part>,
    piece: Bytes,
    left: u64,
    _guard: CancelGuard,
    task: AbortHandle,
}

impl Drop for BlobReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One range as its reader sees it.
#[derive(Debug)]
struct Part {
    pieces: mpsc::UnboundedReceiver<Piece>,
    /// Bytes of the range that may be on the way.
    room: Arc<Semaphore>,
    left: u64,
}

impl BlobReader {
    /// The next piece; `None` if the download ended too early without saying why.
    async fn next(&mut self) -> Option<Piece> {
        loop {
            if self.part.as_ref().is_none_or(|part| part.left == 0) {
                self.part = Some(self.parts.recv().await?);
            }
            let part = self.part.as_mut()?;
            let piece = part.pieces.recv().await?;
            if let Ok(bytes) = &piece {
                part.left = part.left.saturating_sub(bytes.len() as u64);
                part.room.add_permits(bytes.len());
                if bytes.is_empty() {
                    continue;
                }
            }
            return Some(piece);
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            if self.left == 0 || buffer.is_empty() {
                return Ok(0);
            }
            // Channels need no driver: this works on any thread.
            self.piece = match futures::executor::block_on(self.next()) {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => {
                    let host = self.host.clone();
                    return Err(io::Error::other(RegistryError::Interrupted { host }));
                }
            };
            self.left = self.left.saturating_sub(self.piece.len() as u64);
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// A blob to be downloaded.
#[derive(Debug, Clone)]
struct Job {
    repository: Repository,
    descriptor: Descriptor,
}

/// One range to be downloaded, as its task sees it.
struct Range {
    from: u64,
    /// The first byte behind it.
    to: u64,
    pieces: mpsc::UnboundedSender<Piece>,
    room: Arc<Semaphore>,
    /// Bytes of the largest piece that is sent: what there is room for.
    most: usize,
    /// Told once the first answer is there: whether the registry knows ranges.
    ranged: Option<oneshot::Sender<bool>>,
}

impl Job {
    /// Starts one range after the other, as the reader comes along. Ends with the last one;
    /// dropping the future ends all.
    async fn download(self, parts: mpsc::Sender<Part>) {
        let size = self.descriptor.size;
        let step = self.repository.config().range_bytes.max(1);
        let whole = self.repository.ranges() <= 1 || size / 2 <= step;
        let mut tasks = tokio::task::JoinSet::new();
        let mut from = 0;
        let mut first = true;
        while from < size {
            let Ok(place) = parts.reserve().await else {
                break;
            };
            let to = match whole {
                true => size,
                false => size.min(from + step),
            };
            let (sender, pieces) = mpsc::unbounded_channel();
            let most = usize::try_from(step).unwrap_or(MAX_ROOM).min(MAX_ROOM);
            let room = Arc::new(Semaphore::new(most));
            let (ranged_sender, ranged) = oneshot::channel();
            let range = Range {
                from,
                to,
                pieces: sender,
                room: room.clone(),
                most,
                ranged: first.then_some(ranged_sender),
            };
            tasks.spawn(self.clone().range(range));
            let mut left = to - from;
            // Without an answer the range has told its error already.
            if first && !whole && ranged.await == Ok(false) {
                left = size;
            }
            first = false;
            from += left;
            place.send(Part { pieces, room, left });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn range(self, mut range: Range) {
        let mut tries = Tries::new(self.repository.config().retry);
        let mut at = range.from;
        let mut endpoints = self.repository.endpoints().iter();
        let mut endpoint = endpoints.next();
        while let Some(here) = endpoint {
            let before = at;
            let Err(mut error) = self.take(here, &mut range, &mut at).await else {
                return;
            };
            if at > before {
                tries.reset();
            }
            // A mirror is tried once, but as long as it delivers.
            if endpoints.len() > 0 && at == before {
                endpoint = endpoints.next();
                continue;
            }
            match tries.again(error).await {
                Ok(()) => {}
                Err(last) => {
                    error = last;
                    // Nobody reads any more if this fails.
                    let _gone = range.pieces.send(Err(error));
                    return;
                }
            }
        }
    }

    /// Takes as much of a range as one request yields.
    async fn take(
        &self,
        endpoint: &Endpoint,
        range: &mut Range,
        at: &mut u64,
    ) -> Result<(), RegistryError> {
        let size = self.descriptor.size;
        let mut headers = HeaderMap::new();
        if *at > 0 || range.to < size {
            let text = format!("bytes={at}-{}", range.to - 1);
            let value = HeaderValue::from_str(&text).expect("BUG: numbers are good headers");
            headers.insert(RANGE, value);
        }
        let path = format!("blobs/{}", self.descriptor.digest);
        let call = self.repository.call(endpoint, Method::GET, &path, headers);
        let sent = call.await?;
        let partial = sent.response.status() == StatusCode::PARTIAL_CONTENT;
        let refused = |problem: &str| RegistryError::Answer {
            url: sent.url.clone(),
            problem: problem.to_owned(),
        };
        // Bytes of the answer that are before what is wanted.
        let skip = if partial { 0 } else { *at };
        let told = match partial {
            true => {
                let told = sent.response.headers().get(CONTENT_RANGE);
                let told = told.and_then(|value| value.to_str().ok());
                let (start, size) = told
                    .and_then(content_range)
                    .ok_or_else(|| refused("it does not say which range it is"))?;
                if start != *at {
                    return Err(refused("it is another range than was asked for"));
                }
                size
            }
            false => sent.response.content_length(),
        };
        if let Some(found) = told.filter(|told| *told != size) {
            return Err(RegistryError::Content {
                host: endpoint.name.clone(),
                source: ContentError::Size {
                    digest: self.descriptor.digest,
                    expected: size,
                    found,
                },
            });
        }
        if let Some(ranged) = range.ranged.take() {
            if !partial {
                range.to = size;
            }
            // Who waited may be gone.
            let _gone = ranged.send(partial);
        }
        let body = self.repository.body(sent);
        self.pass(body, range, at, skip).await
    }

    /// Passes a body on, up to the end of the range.
    async fn pass(
        &self,
        mut body: Body,
        range: &Range,
        at: &mut u64,
        mut skip: u64,
    ) -> Result<(), RegistryError> {
        while *at < range.to {
            let Some(mut piece) = body.piece().await? else {
                return Err(RegistryError::BrokeOff {
                    url: body.url.clone(),
                    bytes: *at,
                    source: None,
                });
            };
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let start = usize::try_from(skipped).unwrap_or(piece.len());
            let wanted = usize::try_from(range.to - *at).unwrap_or(usize::MAX);
            piece = piece.slice(start..piece.len().min(start.saturating_add(wanted)));
            while !piece.is_empty() {
                let part = piece.split_to(piece.len().min(range.most));
                let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                match range.room.acquire_many(length).await {
                    Ok(permit) => permit.forget(),
                    Err(_) => return Ok(()),
                }
                *at += part.len() as u64;
                if range.pieces.send(Ok(part)).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The first byte of a range, and the size of the whole if it is told: `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    match size.trim() {
        "*" => Some((start, None)),
        size => Some((start, Some(size.parse().ok()?))),
    }
}
