//! Files that are written by one thread while another makes their bytes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Bytes that are written at once: large enough for file systems that take memory in large pieces.
const PIECE: usize = 1 << 20;

/// Pieces that wait or are being written, beside the one that is being filled.
const BEHIND: usize = 2;

/// Writes to a file behind its user: whole pieces on a thread of its own, which is started with the
/// first and lives no longer than this.
#[derive(Debug)]
pub(crate) struct WriteBehind<'a> {
    file: &'a File,
    piece: Piece,
    thread: Option<Running>,
}

#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    used: usize,
}

#[derive(Debug)]
struct Running {
    full: Sender<Piece>,
    written: Receiver<io::Result<Piece>>,
    /// Pieces that were sent and did not come back.
    under_way: usize,
    handle: JoinHandle<()>,
}

impl<'a> WriteBehind<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        Self {
            file,
            piece: Piece::default(),
            thread: None,
        }
    }

    /// Reads at most so many bytes of `from` as the next ones. 0 is its end. The outer error is that
    /// of the file that is written.
    pub(crate) fn take(&mut self, from: &mut File, most: u64) -> io::Result<io::Result<usize>> {
        let room = self.room()?;
        let wanted = usize::try_from(most).unwrap_or(usize::MAX).min(room.len());
        let read = from.read(&mut room[..wanted]);
        if let Ok(length) = &read {
            self.piece.used += length;
        }
        Ok(read)
    }

    /// The file, when all that was written until now is in it.
    pub(crate) fn file(&mut self) -> io::Result<&'a File> {
        self.flush()?;
        Ok(self.file)
    }

    /// Where the next bytes go: one at least.
    fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.piece.used == PIECE {
            let full = std::mem::take(&mut self.piece);
            self.send(full)?;
        }
        if self.piece.bytes.is_empty() {
            self.piece = self.empty()?;
        }
        Ok(&mut self.piece.bytes[self.piece.used..])
    }

    /// A piece to be filled. Waits for one, if there are as many as there may be.
    fn empty(&mut self) -> io::Result<Piece> {
        match &mut self.thread {
            Some(thread) if thread.under_way >= BEHIND => thread.wait(),
            _ => Ok(Piece {
                bytes: vec![0; PIECE],
                used: 0,
            }),
        }
    }

    fn send(&mut self, piece: Piece) -> io::Result<()> {
        if self.thread.is_none() {
            self.thread = Running::start(self.file.try_clone()?);
        }
        match &mut self.thread {
            Some(thread) => thread.send(piece),
            None => self.file.write_all(&piece.bytes[..piece.used]),
        }
    }
}

impl Running {
    /// Starts the thread; none if the system has no more.
    fn start(mut file: File) -> Option<Self> {
        let (full, to_write) = channel::<Piece>();
        let (done, written) = channel();
        let thread = std::thread::Builder::new().name("ashlar-write".to_owned());
        let handle = thread.spawn(move || {
            for mut piece in to_write {
                let outcome = file.write_all(&piece.bytes[..piece.used]);
                let failed = outcome.is_err();
                piece.used = 0;
                if done.send(outcome.map(|()| piece)).is_err() || failed {
                    return;
                }
            }
        });
        Some(Self {
            full,
            written,
            under_way: 0,
            handle: handle.ok()?,
        })
    }

    fn send(&mut self, piece: Piece) -> io::Result<()> {
        self.under_way += 1;
        match self.full.send(piece) {
            Ok(()) => Ok(()),
            // It ended with an error, which waits behind what it wrote before.
            Err(_) => self.drain(),
        }
    }

    /// Waits for a piece that was written.
    fn wait(&mut self) -> io::Result<Piece> {
        let written = self.written.recv();
        self.under_way = self.under_way.saturating_sub(1);
        written.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.under_way > 0 {
            self.wait()?;
        }
        Ok(())
    }
}

impl Write for WriteBehind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room()?;
        let length = bytes.len().min(room.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.piece.used += length;
        Ok(length)
    }

    /// Waits until all is in the file.
    fn flush(&mut self) -> io::Result<()> {
        if let Some(thread) = &mut self.thread {
            thread.drain()?;
        }
        let rest = std::mem::take(&mut self.piece.used);
        self.file.write_all(&self.piece.bytes[..rest])
    }
}

impl Drop for WriteBehind<'_> {
    fn drop(&mut self) {
        if let Some(Running { full, handle, .. }) = self.thread.take() {
            drop(full);
            let _panicked = handle.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;

    use super::*;

    fn numbers(length: usize) -> Vec<u8> {
        let words = (0_u32..).flat_map(u32::to_le_bytes);
        words.take(length).collect()
    }

    #[test]
    fn bytes_arrive_in_their_order() {
        let wanted = numbers(7 * PIECE + 5);
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(&wanted).unwrap();
        source.rewind().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        let mut behind = WriteBehind::new(&file);
        let mut at = 0;
        // By turns written and taken, and once in the file itself.
        while at < wanted.len() {
            let next = &wanted[at..wanted.len().min(at + 300_001)];
            behind.write_all(next).unwrap();
            at += next.len();
            source.seek(io::SeekFrom::Start(at as u64)).unwrap();
            at += behind.take(&mut source, 500_003).unwrap().unwrap();
            if (3 * PIECE..4 * PIECE).contains(&at) {
                let mut direct = behind.file().unwrap();
                assert_eq!(direct.stream_position().unwrap(), at as u64);
                direct.write_all(&wanted[at..at + 10]).unwrap();
                at += 10;
            }
        }
        behind.flush().unwrap();
        drop(behind);
        let mut found = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut found).unwrap();
        assert!(found == wanted);
    }

    #[test]
    fn an_error_is_told_and_nothing_hangs() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut behind = WriteBehind::new(&full);
        let bytes = numbers(PIECE);
        let outcome = (0..20).try_for_each(|_| behind.write_all(&bytes));
        let error = outcome.and_then(|()| behind.flush()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        // What is small has no thread.
        let mut behind = WriteBehind::new(&full);
        behind.write_all(&bytes[..100]).unwrap();
        let error = behind.flush().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(behind.thread.is_none());
    }
}
