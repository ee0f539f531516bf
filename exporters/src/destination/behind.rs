//! Files that are written on a thread of their own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use ashlar_solver::content::WRITE_SIZE;
use rustix::fs::{FallocateFlags, fallocate, fstatfs};

/// Bytes of a piece: where pieces begin, pages of the file do.
pub(super) const PIECE: usize = 1 << 20;

/// Pieces that wait to be written.
const WAITING: usize = 3;

/// Bytes whose place on disk is chosen at once.
const AHEAD: u64 = 64 << 20;

/// What `statfs` tells of ext4.
const EXT4: u64 = 0xef53;

/// Writes bytes of a file at their place.
pub(super) fn write_at(file: &File, bytes: &[u8], mut at: u64) -> io::Result<()> {
    for part in bytes.chunks(WRITE_SIZE) {
        file.write_all_at(part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Writes a file on a thread of its own, in pieces, so that what comes next can be read meanwhile.
/// The thread lives no longer than this.
#[derive(Debug)]
pub(super) struct WriteBehind {
    pieces: Option<SyncSender<Vec<u8>>>,
    /// Buffers that were written.
    spare: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl WriteBehind {
    /// Writes to a file from this place on.
    pub(super) fn new(file: &File, at: u64) -> io::Result<Self> {
        let (pieces, waiting) = sync_channel::<Vec<u8>>(WAITING);
        let (written, spare) = channel();
        let out = Out {
            file: file.try_clone()?,
            at,
            reserved: Reserved::new(file, at),
        };
        let thread = std::thread::Builder::new().name("ashlar-write".to_owned());
        let thread = thread.spawn(move || out.run(&waiting, &written))?;
        Ok(Self {
            pieces: Some(pieces),
            spare,
            thread: Some(thread),
        })
    }

    /// Takes the next piece, and gives a buffer for the one after it. Waits if several are not
    /// written yet.
    pub(super) fn write(&mut self, piece: Vec<u8>) -> io::Result<Vec<u8>> {
        let sent = self.pieces.as_ref().map(|pieces| pieces.send(piece));
        match sent {
            Some(Ok(())) => Ok(self.spare.try_recv().unwrap_or_default()),
            // It ends early for one reason only.
            _ => Err(self.end().err().unwrap_or(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Waits until everything is written.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        drop(self.pieces.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        drop(self.pieces.take());
        if let Some(thread) = self.thread.take() {
            let _failed = thread.join();
        }
    }
}

struct Out {
    file: File,
    at: u64,
    reserved: Reserved,
}

impl Out {
    fn run(mut self, waiting: &Receiver<Vec<u8>>, written: &Sender<Vec<u8>>) -> io::Result<()> {
        for piece in waiting {
            let end = self.at + piece.len() as u64;
            self.reserved.reach(&self.file, end);
            write_at(&self.file, &piece, self.at)?;
            self.at = end;
            // Nobody may want it any more.
            let _unused = written.send(piece);
        }
        self.reserved.release(&self.file, self.at)
    }
}

/// Space that is reserved before it is written, where that spares the file system work: ext4 takes
/// a third less time. That it fails does not matter.
#[derive(Debug)]
struct Reserved {
    /// How far; nothing beyond is tried if it is the most there is.
    end: u64,
    any: bool,
}

impl Reserved {
    fn new(file: &File, at: u64) -> Self {
        let ext4 = fstatfs(file).is_ok_and(|there| there.f_type.cast_unsigned() == EXT4);
        Self {
            end: if ext4 { at } else { u64::MAX },
            any: false,
        }
    }

    fn reach(&mut self, file: &File, end: u64) {
        if end <= self.end {
            return;
        }
        let wanted = AHEAD.max(end - self.end);
        match fallocate(file, FallocateFlags::KEEP_SIZE, self.end, wanted) {
            Ok(()) => {
                self.end += wanted;
                self.any = true;
            }
            Err(_) => self.end = u64::MAX,
        }
    }

    /// Gives back what lies behind the end of the file.
    fn release(&self, file: &File, end: u64) -> io::Result<()> {
        match self.any {
            true => file.set_len(end),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn pieces_of_any_size_come_in_their_order() {
        let mut file = tempfile::tempfile().unwrap();
        let mut expected = Vec::new();
        let mut behind = WriteBehind::new(&file, 0).unwrap();
        for (number, size) in [PIECE, PIECE, 1, 0, PIECE + 7, 4095]
            .into_iter()
            .enumerate()
        {
            let piece = vec![u8::try_from(number).unwrap(); size];
            expected.extend_from_slice(&piece);
            let _spare = behind.write(piece).unwrap();
        }
        behind.finish().unwrap();
        let mut found = Vec::new();
        file.read_to_end(&mut found).unwrap();
        assert!(found == expected);
    }

    #[test]
    fn what_was_reserved_and_not_written_is_given_back() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mut behind = WriteBehind::new(&file, 0).unwrap();
        for _ in 0..2 {
            let _spare = behind.write(vec![7; PIECE]).unwrap();
        }
        behind.finish().unwrap();
        let there = file.metadata().unwrap();
        assert_eq!(there.len(), 2 << 20);
        assert!(there.blocks() * 512 <= 3 << 20, "{}", there.blocks());
    }

    #[test]
    fn an_error_is_told_once_and_ends_it() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut behind = WriteBehind::new(&full, 0).unwrap();
        let error = loop {
            match behind.write(vec![0; 10]) {
                Ok(_) => std::thread::yield_now(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(behind.write(Vec::new()).is_err());
        let mut behind = WriteBehind::new(&full, 0).unwrap();
        let _spare = behind.write(vec![0; 10]).unwrap();
        assert!(behind.finish().is_err());
    }
}
