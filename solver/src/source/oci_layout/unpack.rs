//! From a layer blob to a layer directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use ashlar_llb::digest::DiffId;

use super::layout::io_error;
use super::{ImageLayer, Layout, OciLayoutError};
use crate::cancel::Cancel;
use crate::content::{Compression, Inflate, Verify};
use crate::limits::Limits;
use crate::tree::apply::{ApplyError, ApplyOptions, RawLayer, apply};
use crate::tree::tar::TarError;

/// Bytes of a piece that goes from the thread that inflates to the one that writes.
const PIECE: usize = 256 << 10;

/// Pieces that may be on the way.
const PIECES: usize = 4;

impl Layout {
    /// Opens a layer: its tar stream, verified and inflated as it is read. At its end the blob is
    /// verified; the diff id is the caller's to compare.
    ///
    /// A layer whose media type tells a compression is inflated by its first bytes, as containerd
    /// does: some tools mix gzip, zstd and none up.
    ///
    /// # Errors
    /// [`OciLayoutError`].
    pub fn layer(
        &self,
        layer: &ImageLayer,
        limits: &Limits,
    ) -> Result<Inflate<Verify<File>>, OciLayoutError> {
        let blob = self.blob(&layer.descriptor)?;
        let compression = match layer.compression {
            Compression::Uncompressed => Compression::Uncompressed,
            _ => {
                let mut start = [0; 4];
                let length = blob
                    .get_ref()
                    .read_at(&mut start, 0)
                    .map_err(|source| io_error(layer.descriptor.digest.to_string(), source))?;
                Compression::of_magic(&start[..length])
            }
        };
        Ok(Inflate::new(blob, compression, limits.layer_bytes)?)
    }

    /// Unpacks a layer into `fs`, an empty directory, in one pass over the blob. A second thread,
    /// which ends before this returns, reads and inflates.
    ///
    /// Layers can be unpacked at the same time; each result is to be brought to normal form on
    /// the ones below it ([`RawLayer::normalize`]).
    ///
    /// # Errors
    /// [`OciLayoutError`]; what is in `fs` is of no use then.
    ///
    /// # Cancellation
    /// As [`apply`].
    pub fn unpack(
        &self,
        layer: &ImageLayer,
        fs: BorrowedFd<'_>,
        options: ApplyOptions,
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<RawLayer, OciLayoutError> {
        let digest = layer.descriptor.digest;
        let mut source = self.layer(layer, limits)?;
        let (full_sender, full) = sync_channel(PIECES);
        let (empty, empty_receiver) = channel();
        let reader = Pieces {
            full,
            empty,
            piece: Vec::new(),
            at: 0,
        };
        let (applied, found) = std::thread::scope(|scope| {
            let inflate = move || {
                send_pieces(&mut source, &full_sender, &empty_receiver);
                source.diff_id()
            };
            let thread = std::thread::Builder::new().name("ashlar-inflate".to_owned());
            let thread =
                thread
                    .spawn_scoped(scope, inflate)
                    .map_err(|source| OciLayoutError::Io {
                        name: "a thread to inflate a layer".to_owned(),
                        source,
                    })?;
            // The reader is dropped inside, so that the other thread ends.
            let applied = apply(reader, fs, options, limits, cancel);
            let found: DiffId = match thread.join() {
                Ok(found) => found,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            Ok::<_, OciLayoutError>((applied, found))
        })?;
        let raw = applied.map_err(|source| match source {
            ApplyError::Tar(TarError::Read { source }) => io_error(digest.to_string(), source),
            source => OciLayoutError::Apply { digest, source },
        })?;
        if found != layer.diff_id {
            let expected = layer.diff_id;
            return Err(OciLayoutError::DiffId {
                digest,
                expected,
                found,
            });
        }
        Ok(raw)
    }
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
