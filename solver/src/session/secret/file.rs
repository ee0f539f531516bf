//! Secrets in files.

use std::path::PathBuf;

use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};

use super::read::{Read, read, unblock};
use super::{SecretError, SecretProvider, SecretValue};

/// A secret in a file, read when a step asks for it. A pipe works too, once: its content is gone
/// after the first step.
#[derive(Debug, Clone)]
pub struct FileSecret {
    id: String,
    path: PathBuf,
}

impl FileSecret {
    /// The secret `id` in the file `path`. A relative path counts from the working directory of
    /// the moment when it is read.
    pub fn new(id: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            id: id.into(),
            path: path.into(),
        }
    }
}

#[async_trait]
impl SecretProvider for FileSecret {
    async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError> {
        if id != self.id {
            return Ok(None);
        }
        let path = self.path.clone();
        let done = unblock(move |cancel| {
            // Without NONBLOCK a pipe that nobody writes to could not be left again.
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            read(rustix::fs::open(path, flags, Mode::empty())?, &cancel)
        });
        let id = || self.id.clone();
        match done.await {
            Some(Ok(Read::All(value))) => Ok(Some(value)),
            Some(Ok(Read::TooBig)) => Err(SecretError::TooBig { id: id() }),
            Some(Ok(Read::Cancelled)) | None => Err(SecretError::Interrupted { id: id() }),
            Some(Err(source)) => {
                let (id, path) = (id(), self.path.clone());
                Err(SecretError::File { id, path, source })
            }
        }
    }
}
