//! From a layer blob to a layer directory.

use std::io::{self, Cursor, Read};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use ashlar_llb::digest::DiffId;

use super::{ImageError, ImageLayer};
use crate::cancel::Cancel;
use crate::content::{Compression, Inflate};
use crate::limits::Limits;
use crate::tree::apply::{ApplyError, ApplyOptions, RawLayer, apply};
use crate::tree::tar::TarError;

/// Bytes of a piece that goes from the thread that inflates to the one that writes.
const PIECE: usize = 256 << 10;

/// Pieces that may be on the way.
const PIECES: usize = 4;

/// Unpacks a layer into `fs`, an empty directory, in one pass over `blob`, which must fail unless
/// it yields the bytes that the descriptor promises. A second thread, which ends before this
/// returns, reads and inflates.
///
/// A layer whose media type tells a compression is inflated by its first bytes, as containerd
/// does: some tools mix gzip, zstd and none up.
///
/// Layers can be unpacked at the same time; each result is to be brought to normal form on the
/// ones below it ([`RawLayer::normalize`]).
///
/// # Errors
/// [`ImageError`]; what is in `fs` is of no use then.
///
/// # Cancellation
/// As [`apply`].
pub fn unpack(
    layer: &ImageLayer,
    blob: impl Read + Send,
    fs: BorrowedFd<'_>,
    options: ApplyOptions,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<RawLayer, ImageError> {
    let digest = layer.descriptor.digest;
    let (full_sender, full) = sync_channel(PIECES);
    let (empty, empty_receiver) = channel();
    let reader = Pieces {
        full,
        empty,
        piece: Vec::new(),
        at: 0,
    };
    let told = layer.compression;
    let limit = limits.layer_bytes;
    let (applied, found) = std::thread::scope(|scope| {
        // The blob is first read on the other thread: it may wait for another machine.
        let inflate = move || match inflate(blob, told, limit) {
            Ok(mut source) => {
                send_pieces(&mut source, &full_sender, &empty_receiver);
                Some(source.diff_id())
            }
            Err(error) => {
                // Nobody may want to know any more.
                let _ended = full_sender.send(Err(error));
                None
            }
        };
        let thread = std::thread::Builder::new().name("ashlar-inflate".to_owned());
        let thread = thread
            .spawn_scoped(scope, inflate)
            .map_err(|source| ImageError::Read { digest, source })?;
        // The reader is dropped inside, so that the other thread ends.
        let applied = apply(reader, fs, options, limits, cancel);
        let found: Option<DiffId> = match thread.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok::<_, ImageError>((applied, found))
    })?;
    let raw = applied.map_err(|source| match source {
        ApplyError::Tar(TarError::Read { source }) => ImageError::reading(digest, source),
        source => ImageError::Apply { digest, source },
    })?;
    match found {
        Some(found) if found == layer.diff_id => Ok(raw),
        found => Err(ImageError::DiffId {
            digest,
            expected: layer.diff_id,
            found: found.unwrap_or_else(|| DiffId::of(&[])),
        }),
    }
}

/// The tar stream in a blob.
fn inflate<R: Read>(
    mut blob: R,
    told: Compression,
    limit: u64,
) -> io::Result<Inflate<io::Chain<Cursor<Vec<u8>>, R>>> {
    let mut start = Vec::new();
    if told != Compression::Uncompressed {
        blob.by_ref().take(4).read_to_end(&mut start)?;
    }
    let compression = match told {
        Compression::Uncompressed => told,
        _ => Compression::of_magic(&start),
    };
    Ok(Inflate::new(
        Cursor::new(start).chain(blob),
        compression,
        limit,
    )?)
}

/// Fills pieces and sends them until the stream ends, fails, or nobody wants more.
fn send_pieces(
    source: &mut impl Read,
    full: &SyncSender<io::Result<Vec<u8>>>,
    empty: &Receiver<Vec<u8>>,
) {
    loop {
        let mut piece = empty
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let filled = source.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let last = !matches!(filled, Ok(1..));
        let sent = full.send(filled.map(|_| piece));
        if last || sent.is_err() {
            return;
        }
    }
}

/// The other end: an empty piece is the end of the stream.
struct Pieces {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let used = std::mem::take(&mut self.piece);
            if used.capacity() > 0 {
                // The other thread may have ended; the piece is dropped then.
                let _ended = self.empty.send(used);
            }
            self.at = 0;
            self.piece = match self.full.recv() {
                Ok(piece) => piece?,
                Err(_) => Vec::new(),
            };
        }
        let length = buffer.len().min(self.piece.len() - self.at);
        buffer[..length].copy_from_slice(&self.piece[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
