//! Where outputs that are one stream of bytes go: files, and whatever else takes bytes.

mod behind;
mod pipe;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::Durability;
use ashlar_solver::tree::Room;
use rustix::fs::{CWD, Mode, OFlags};

use crate::ExportError;
use crate::durable::{WriteOut, sync_bytes, sync_name};
use crate::exporter::{Exported, Prepared, blocking};
use crate::layer::Packed;
use crate::target::Target;
use crate::written::Written;
use behind::{PIECE, WriteBehind, write_at};
use pipe::Pipe;

/// Bytes that are read at once.
const STEP: usize = 256 << 10;

/// Bytes that a stream gets at once.
const STREAM_PIECE: usize = 128 << 10;

/// Opens a stream; called once per export.
pub(crate) type OpenWriter = dyn Fn() -> io::Result<Box<dyn Write + Send>> + Send + Sync;

/// The same, waiting no longer than until it is cancelled.
type OpenStream = dyn Fn(&Cancel) -> Result<Box<dyn Write + Send>, ExportError> + Send + Sync;

/// Where an output goes.
#[derive(Clone)]
pub(crate) enum Destination {
    /// A file, replaced when the new one is complete. Devices and pipes are written to.
    File(PathBuf),
    /// A stream, which gets its bytes when the export is finalized.
    Writer(Arc<OpenWriter>),
}

impl fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Writer(_) => formatter.write_str("Writer(..)"),
        }
    }
}

/// What is done to an output once it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checks {
    /// Whether it is read again.
    pub(crate) verify: bool,
    /// Whether it is waited for until it is on disk.
    pub(crate) durability: Durability,
}

impl Destination {
    /// Writes an output. `write` is called at most once, now for a file and at the end for a stream;
    /// `check` reads what was written, before it is in its place, if that is asked for. A file that
    /// is what an export of the same `content` wrote stays as it is, unless it is to be checked.
    pub(crate) fn write(
        &self,
        exported: Exported,
        checks: Checks,
        content: Written,
        cancel: &Cancel,
        write: impl FnOnce(&mut Sink<'_>, &Cancel) -> Result<(), ExportError> + Send + Sync + 'static,
        check: impl FnOnce(&mut File, &Path, &Cancel) -> Result<(), ExportError>,
    ) -> Result<Prepared, ExportError> {
        let durability = checks.durability;
        let open: Box<OpenStream> = match self {
            Self::Writer(open) => {
                let open = open.clone();
                Box::new(move |_| open().map_err(ExportError::io("open", "the output")))
            }
            Self::File(path) => match place(path).map_err(ExportError::io("open", path))? {
                Place::File(path) => {
                    if !checks.verify && content.is_at(&path) {
                        return Ok(Prepared::new(exported, move |cancel| {
                            blocking(move || keep(&path, durability, content, write, &cancel))
                        }));
                    }
                    let mut target = fill(&path, durability, write, cancel)?;
                    if checks.verify {
                        check(target.file(), &path, cancel)?;
                    }
                    target.settle()?;
                    return Ok(Prepared::new(exported, move |_| {
                        blocking(move || put(target, &path, durability, content))
                    }));
                }
                Place::Stream => {
                    let path = path.clone();
                    Box::new(move |cancel| {
                        let pipe = Pipe::open(&path, cancel)?;
                        Ok(Box::new(pipe) as Box<dyn Write + Send>)
                    })
                }
            },
        };
        Ok(Prepared::new(exported, move |cancel| {
            blocking(move || {
                let mut stream = open(&cancel)?;
                let mut sink = Sink::stream(&mut *stream);
                let written = write(&mut sink, &cancel).and_then(|()| sink.finish());
                // Who waits for a reader ends with an error of the stream.
                written.map_err(|error| match cancel.is_cancelled() {
                    true => ExportError::Cancelled,
                    false => error,
                })
            })
        }))
    }
}

/// Writes a file that is not in its place yet.
fn fill(
    path: &Path,
    durability: Durability,
    write: impl FnOnce(&mut Sink<'_>, &Cancel) -> Result<(), ExportError>,
    cancel: &Cancel,
) -> Result<Target, ExportError> {
    let mut target = Target::create(path, durability)?;
    let mut sink = target.sink();
    write(&mut sink, cancel)?;
    sink.finish()?;
    Ok(target)
}

/// Moves a file to its place.
fn put(
    mut target: Target,
    path: &Path,
    durability: Durability,
    content: Written,
) -> Result<(), ExportError> {
    let marked = content.mark(target.file());
    target.complete()?;
    if durability == Durability::Synced {
        sync_name(path)?;
    }
    if let Some(marked) = marked {
        marked.note(path);
    }
    Ok(())
}

/// Leaves a file as it is, if it still is what it was found to be.
fn keep(
    path: &Path,
    durability: Durability,
    content: Written,
    write: impl FnOnce(&mut Sink<'_>, &Cancel) -> Result<(), ExportError>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let synced = || sync_bytes(path).and_then(|()| sync_name(path)).is_ok();
    // What did not get to the disk is lost, and the file does not show it.
    if content.is_at(path) && (durability != Durability::Synced || synced()) {
        return Ok(());
    }
    let target = fill(path, durability, write, cancel)?;
    put(target, path, durability, content)
}

/// What stands at a path.
enum Place {
    /// A file, or nothing; with links followed.
    File(PathBuf),
    /// A pipe or a device: what is written to it is gone.
    Stream,
}

fn place(path: &Path) -> io::Result<Place> {
    let there = match std::fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Place::File(path.to_path_buf()));
        }
        Err(error) => return Err(error),
    };
    if there.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !there.is_file() {
        return Ok(Place::Stream);
    }
    if !std::fs::symlink_metadata(path)?.is_symlink() {
        return Ok(Place::File(path.to_path_buf()));
    }
    // The file that a link leads to is replaced, not the link.
    let handle = rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
    Ok(Place::File(real))
}

/// Takes bytes, and whole files.
pub(crate) struct Sink<'a> {
    to: To<'a>,
    /// What errors name.
    path: PathBuf,
    /// What is being filled. Its length is that of all pieces but the last.
    piece: Vec<u8>,
    filled: usize,
    /// What is told how much was written.
    out: Option<&'a mut WriteOut>,
}

enum To<'a> {
    File {
        file: &'a File,
        /// Where the piece goes.
        at: u64,
        /// Writes the pieces, from the second one on.
        behind: Option<WriteBehind>,
    },
    Stream(&'a mut dyn Write),
}

impl<'a> Sink<'a> {
    pub(crate) fn file(file: &'a File, path: &Path, out: Option<&'a mut WriteOut>) -> Self {
        Self {
            to: To::File {
                file,
                at: 0,
                behind: None,
            },
            path: path.to_path_buf(),
            piece: vec![0; PIECE],
            filled: 0,
            out,
        }
    }

    pub(crate) fn stream(stream: &'a mut dyn Write) -> Self {
        Self {
            to: To::Stream(stream),
            path: PathBuf::from("the output"),
            piece: vec![0; STREAM_PIECE],
            filled: 0,
            out: None,
        }
    }

    /// The error of an output that could not be written.
    pub(crate) fn failed(&self, error: io::Error) -> ExportError {
        ExportError::io("write", &self.path)(error)
    }

    /// The error of a part of the output that is not what it was to be.
    pub(crate) fn damaged(&self, what: impl ToString) -> ExportError {
        ExportError::verify(what, &self.path)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.write_all(bytes).map_err(|error| self.failed(error))
    }

    /// Writes the next `size` bytes of a file, and fails with
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if it has fewer.
    pub(crate) fn append(
        &mut self,
        from: &mut File,
        size: u64,
        cancel: &Cancel,
    ) -> Result<io::Result<()>, ExportError> {
        let mut left = size;
        while left > 0 {
            cancel.check()?;
            if let Err(error) = self.make_room() {
                return Err(self.failed(error));
            }
            let room = &mut self.piece[self.filled..];
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let wanted = wanted.min(room.len()).min(STEP);
            match from.read(&mut room[..wanted]) {
                Ok(0) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => {
                    self.filled += length;
                    left -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Writes a layer as a tar, and tells its size.
    pub(crate) fn pack(&mut self, layer: &Packed, cancel: &Cancel) -> Result<u64, ExportError> {
        let path = self.path.clone();
        layer.write(self, ExportError::io("write", path), cancel)
    }

    /// Waits until everything is written.
    pub(crate) fn finish(mut self) -> Result<(), ExportError> {
        self.flush().map_err(|error| self.failed(error))
    }

    fn make_room(&mut self) -> io::Result<()> {
        match self.filled < self.piece.len() {
            true => Ok(()),
            false => self.pass(),
        }
    }

    /// Writes what was filled.
    fn pass(&mut self) -> io::Result<()> {
        let length = std::mem::take(&mut self.filled);
        match &mut self.to {
            To::Stream(stream) => stream.write_all(&self.piece[..length])?,
            // A thread is not worth while for what is all there is, and cannot always be had.
            To::File { file, at, behind } => {
                if *at > 0 && behind.is_none() {
                    *behind = WriteBehind::new(file, *at).ok();
                }
                match behind {
                    None => write_at(file, &self.piece[..length], *at)?,
                    Some(behind) => {
                        let mut piece = std::mem::take(&mut self.piece);
                        piece.truncate(length);
                        self.piece = behind.write(piece)?;
                        self.piece.resize(PIECE, 0);
                    }
                }
                *at += length as u64;
            }
        }
        if let Some(out) = &mut self.out {
            out.add(length as u64);
        }
        Ok(())
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room()?;
        let length = room.len().min(bytes.len());
        room[..length].copy_from_slice(&bytes[..length]);
        self.filled += length;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pass()?;
        match &mut self.to {
            To::File { behind, .. } => behind.take().map_or(Ok(()), WriteBehind::finish),
            To::Stream(stream) => stream.flush(),
        }
    }
}

impl Room for Sink<'_> {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        self.make_room()?;
        Ok(&mut self.piece[self.filled..])
    }

    fn filled(&mut self, length: usize) -> io::Result<()> {
        let end = self.filled + length;
        assert!(end <= self.piece.len(), "BUG: there was less room");
        self.filled = end;
        Ok(())
    }
}
