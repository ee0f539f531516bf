//! Files that appear whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::ExportError;

/// A file that is being written beside its place and moved there when it is complete. Dropping it
/// removes it.
#[derive(Debug)]
pub(crate) struct Target {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    complete: bool,
}

impl Target {
    pub(crate) fn create(path: &Path) -> Result<Self, ExportError> {
        let failed = ExportError::io("create", path);
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput));
        let name = match name {
            Ok(name) => name.to_string_lossy(),
            Err(error) => return Err(failed(error)),
        };
        let mut random = [0; 8];
        let temporary = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map(|_| format!(".{name}.{:016x}.partial", u64::from_le_bytes(random)))
            .map_err(|error| ExportError::io("create", path)(error.into()))?;
        let temporary = path.with_file_name(temporary);
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o666)
            .open(&temporary);
        let file = opened.map_err(failed)?;
        Ok(Self {
            file,
            temporary,
            path: path.to_path_buf(),
            complete: false,
        })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Moves the file to its place, replacing what is there.
    pub(crate) fn complete(mut self) -> Result<(), ExportError> {
        std::fs::rename(&self.temporary, &self.path)
            .map_err(ExportError::io("write", &self.path))?;
        self.complete = true;
        Ok(())
    }

    /// Writes a small file.
    pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
        let mut target = Self::create(path)?;
        target
            .file
            .write_all(bytes)
            .map_err(ExportError::io("write", path))?;
        target.complete()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.complete {
            let _gone = std::fs::remove_file(&self.temporary);
        }
    }
}
