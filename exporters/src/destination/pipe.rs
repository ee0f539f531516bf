//! Pipes and devices at a path.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use ashlar_solver::cancel::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, openat, stat};
use rustix::io::Errno;

use crate::ExportError;

/// How long a pipe is waited for between two looks at the cancel flag.
const WAIT: Duration = Duration::from_millis(20);

/// A pipe or a device that is written to. Whoever has to read it may take any time, or never do it:
/// raising the cancel flag ends the wait.
#[derive(Debug)]
pub(super) struct Pipe {
    file: File,
    cancel: Cancel,
}

impl Pipe {
    /// Opens what is at `path`; waits until somebody reads a pipe.
    pub(super) fn open(path: &Path, cancel: &Cancel) -> Result<Self, ExportError> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let failed = |error: Errno| ExportError::io("open", path)(error.into());
        loop {
            cancel.check()?;
            match openat(CWD, path, flags, Mode::empty()) {
                Ok(file) => {
                    return Ok(Self {
                        file: file.into(),
                        cancel: cancel.clone(),
                    });
                }
                Err(Errno::NXIO) if is_pipe(path) => std::thread::sleep(WAIT),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Waits until it takes more.
    fn wait(&self) -> io::Result<()> {
        let wait = Timespec::try_from(WAIT).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.cancel.check().map_err(io::Error::other)
    }
}

fn is_pipe(path: &Path) -> bool {
    let kind = stat(path).map(|there| FileType::from_raw_mode(there.st_mode));
    kind == Ok(FileType::Fifo)
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.file, bytes) {
                Err(Errno::AGAIN) => self.wait()?,
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_takes_bytes_and_tells_when_it_is_full() {
        let cancel = Cancel::new();
        let mut null = Pipe::open(Path::new("/dev/null"), &cancel).unwrap();
        assert_eq!(null.write(&[0; 10]).unwrap(), 10);
        let mut full = Pipe::open(Path::new("/dev/full"), &cancel).unwrap();
        let error = full.write(&[0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
