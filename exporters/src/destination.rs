//! Where outputs that are one stream of bytes go: files, and whatever else takes bytes.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::Durability;
use rustix::fs::{CWD, Mode, OFlags};

use crate::ExportError;
use crate::durable::{WriteOut, sync_name};
use crate::exporter::{Exported, Prepared, blocking};
use crate::layer::Packed;
use crate::target::Target;

/// Bytes copied between two looks at the cancel flag.
const CHUNK: usize = 4 << 20;

/// Files up to this size are read and written; from it on the kernel copies.
const SMALL: u64 = 256 << 10;

/// Opens a stream; called once per export.
pub(crate) type OpenWriter = dyn Fn() -> io::Result<Box<dyn Write + Send>> + Send + Sync;

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

impl Destination {
    /// Writes an output. `write` is called once, now for a file and at the end for a stream;
    /// `check` reads what was written, before it is in its place.
    pub(crate) fn write(
        &self,
        exported: Exported,
        durability: Durability,
        cancel: &Cancel,
        write: impl FnOnce(&mut Sink<'_>, &Cancel) -> Result<(), ExportError> + Send + Sync + 'static,
        check: impl FnOnce(&mut File, &Cancel) -> Result<(), ExportError>,
    ) -> Result<Prepared, ExportError> {
        let open: Arc<OpenWriter> = match self {
            Self::Writer(open) => open.clone(),
            Self::File(path) => match place(path).map_err(ExportError::io("open", path))? {
                Place::File(path) => {
                    let mut target = Target::create(&path, durability)?;
                    let mut sink = target.sink();
                    write(&mut sink, cancel)?;
                    sink.flush().map_err(|error| sink.failed(error))?;
                    drop(sink);
                    check(target.file(), cancel)?;
                    target.settle()?;
                    return Ok(Prepared::new(exported, move |_| {
                        blocking(move || {
                            target.complete()?;
                            match durability {
                                Durability::Synced => sync_name(&path),
                                _ => Ok(()),
                            }
                        })
                    }));
                }
                Place::Stream => {
                    let path = path.clone();
                    Arc::new(move || {
                        let file = File::options().write(true).open(&path)?;
                        Ok(Box::new(file) as Box<dyn Write + Send>)
                    })
                }
            },
        };
        Ok(Prepared::new(exported, move |cancel| {
            blocking(move || {
                let mut stream = open().map_err(ExportError::io("open", "the output"))?;
                let mut sink = Sink::stream(&mut *stream);
                write(&mut sink, &cancel)?;
                sink.flush().map_err(|error| sink.failed(error))
            })
        }))
    }
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
    buffer: Vec<u8>,
    /// What is told how much was written.
    out: Option<&'a mut WriteOut>,
}

enum To<'a> {
    File(BufWriter<&'a mut File>),
    Stream(BufWriter<&'a mut dyn Write>),
}

impl<'a> Sink<'a> {
    pub(crate) fn file(file: &'a mut File, path: &Path, out: Option<&'a mut WriteOut>) -> Self {
        Self {
            to: To::File(BufWriter::with_capacity(128 << 10, file)),
            path: path.to_path_buf(),
            buffer: Vec::new(),
            out,
        }
    }

    pub(crate) fn stream(stream: &'a mut dyn Write) -> Self {
        Self {
            to: To::Stream(BufWriter::with_capacity(128 << 10, stream)),
            path: PathBuf::from("the output"),
            buffer: Vec::new(),
            out: None,
        }
    }

    /// The error of an output that could not be written.
    pub(crate) fn failed(&self, error: io::Error) -> ExportError {
        ExportError::io("write", &self.path)(error)
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
        if size > SMALL
            && let To::File(to) = &mut self.to
        {
            to.flush().map_err(ExportError::io("write", &self.path))?;
            while left > 0 {
                cancel.check()?;
                let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let to: &File = to.get_ref();
                match rustix::fs::copy_file_range(&*from, None, to, None, wanted) {
                    Ok(0) => break,
                    Ok(copied) => {
                        left -= copied as u64;
                        if let Some(out) = &mut self.out {
                            out.add(copied as u64);
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::NOSPC) => {
                        return Err(self.failed(io::ErrorKind::StorageFull.into()));
                    }
                    // Not between these file systems.
                    Err(_) => break,
                }
            }
        }
        self.buffer.resize(128 << 10, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.copy(from, left, &mut buffer, cancel);
        self.buffer = buffer;
        done
    }

    /// Writes a layer as a tar, and tells its size.
    pub(crate) fn pack(&mut self, layer: &Packed, cancel: &Cancel) -> Result<u64, ExportError> {
        let path = self.path.clone();
        layer.write(self, ExportError::io("write", path), cancel)
    }

    fn copy(
        &mut self,
        from: &mut File,
        mut left: u64,
        buffer: &mut [u8],
        cancel: &Cancel,
    ) -> Result<io::Result<()>, ExportError> {
        while left > 0 {
            cancel.check()?;
            let wanted = usize::try_from(left).unwrap_or(buffer.len());
            let wanted = wanted.min(buffer.len());
            let length = match from.read(&mut buffer[..wanted]) {
                Ok(0) => return Ok(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error)),
            };
            self.put(&buffer[..length])?;
            left -= length as u64;
        }
        Ok(Ok(()))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.to {
            To::File(to) => to.write(bytes),
            To::Stream(to) => to.write(bytes),
        }?;
        if let Some(out) = &mut self.out {
            out.add(written as u64);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::File(to) => to.flush(),
            To::Stream(to) => to.flush(),
        }
    }
}
