//! Files that appear whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use ashlar_solver::solver::Durability;

use crate::ExportError;
use crate::destination::Sink;
use crate::durable::WriteOut;

/// A file that is being written and moved to its place when it is complete. Dropping it removes
/// it. Where the file system allows it has no name until then, so that a killed process leaves
/// nothing.
#[derive(Debug)]
pub(crate) struct Target {
    file: File,
    /// The name that it has already.
    temporary: Option<PathBuf>,
    path: PathBuf,
    /// What sends its bytes to disk, if they are to be there before its name is.
    out: Option<WriteOut>,
}

impl Target {
    pub(crate) fn create(path: &Path, durability: Durability) -> Result<Self, ExportError> {
        let failed = ExportError::io("create", path);
        if path.file_name().is_none() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        let (file, temporary) = match rustix::fs::openat(CWD, folder, flags, mode) {
            Ok(file) => (File::from(file), None),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let temporary = beside(path).map_err(ExportError::io("create", path))?;
                let opened = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .mode(0o666)
                    .open(&temporary);
                (opened.map_err(failed)?, Some(temporary))
            }
            Err(error) => return Err(failed(error.into())),
        };
        let out = WriteOut::of_file(&file, durability);
        Ok(Self {
            file,
            temporary,
            path: path.to_path_buf(),
            out: out.map_err(ExportError::io("open", path))?,
        })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// What takes its bytes.
    pub(crate) fn sink(&mut self) -> Sink<'_> {
        Sink::file(&self.file, &self.path, self.out.as_mut())
    }

    /// Waits until its bytes are on disk, if they are to be there.
    pub(crate) fn settle(&mut self) -> Result<(), ExportError> {
        let settled = self.out.take().map_or(Ok(()), WriteOut::finish);
        settled.map_err(ExportError::io("sync", &self.path))
    }

    /// Moves the file to its place, replacing what is there. Its bytes are on disk before, if they
    /// are to be there; its name is not.
    pub(crate) fn complete(mut self) -> Result<(), ExportError> {
        self.settle()?;
        let failed = ExportError::io("write", self.path.clone());
        self.place().map_err(failed)
    }

    fn place(&mut self) -> io::Result<()> {
        if self.temporary.is_none() {
            let name = beside(&self.path)?;
            let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, descriptor, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            self.temporary = Some(name);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.path)?;
        }
        self.temporary = None;
        Ok(())
    }

    /// Writes a small file.
    pub(crate) fn write(
        path: &Path,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(), ExportError> {
        let mut target = Self::create(path, durability)?;
        target
            .file
            .write_all(bytes)
            .map_err(ExportError::io("write", path))?;
        target.complete()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _gone = std::fs::remove_file(temporary);
        }
    }
}

/// A name that nobody has, in the same directory.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let random = random()?;
    Ok(path.with_file_name(format!(".{random}.partial")))
}

/// A word that nobody else has.
pub(crate) fn random() -> io::Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_le_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_put_in_its_place_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let target = Target::create(&path, Durability::Background).unwrap();
        // Somebody else makes a directory there meanwhile.
        std::fs::create_dir(&path).unwrap();
        let error = target.complete().unwrap_err();
        assert!(matches!(&error, ExportError::Io { path: told, .. } if *told == path));
        let left = std::fs::read_dir(folder.path()).unwrap();
        let left: Vec<PathBuf> = left.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [path]);
    }
}
