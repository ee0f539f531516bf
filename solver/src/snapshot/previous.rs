//! A layer as the one that a copy follows.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};

use super::{ActiveLayer, Layer, LayerDescription, SnapshotError, io_error};
use crate::id::ContentDigest;
use crate::tree::writer::{Origins, Previous};
use crate::tree::{Entry, Files, Index, TreePath};

/// Where the origins of a layer's files are, beside its index.
const ORIGINS: &str = "origins";

/// Largest file of origins that is read: thirty million files.
const MAX_ORIGINS: u64 = 1 << 30;

impl ActiveLayer {
    /// Notes what its files are copies of, for [`Layer::previous`]. Before it is committed.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn note_origins(&self, origins: &Origins) -> Result<(), SnapshotError> {
        if origins.is_empty() {
            return Ok(());
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let write = || -> io::Result<()> {
            let file = openat(self.directory(), ORIGINS, flags, Mode::from(0o600))?;
            File::from(file)
                .write_all(&origins.encode())
                .inspect_err(|_| {
                    let _nothing_is_better = unlinkat(self.directory(), ORIGINS, AtFlags::empty());
                })
        };
        write().map_err(io_error("write the origins", self.id()))
    }
}

impl Layer {
    /// The layer as one that a later copy follows: its files are linked where they did not change.
    /// It stays as long as anybody holds what is returned. Blocks.
    ///
    /// # Errors
    /// As [`Layer::content`].
    pub fn previous(&self) -> Result<Arc<dyn Previous>, SnapshotError> {
        self.hold()?;
        let content = self.content()?;
        let origins = self.origins().unwrap_or_default();
        let files = self.files();
        Ok(Arc::new(PreviousLayer {
            _held: self.clone(),
            content,
            origins,
            files,
        }))
    }

    /// What its files are copies of; `None` if that was not noted, or cannot be read.
    fn origins(&self) -> Option<Origins> {
        let name = format!("{}/{ORIGINS}", self.id());
        let file = crate::dir::open_file(self.store().root().layers(), name.as_bytes()).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_ORIGINS).read_to_end(&mut bytes).ok()?;
        Origins::decode(&bytes)
    }
}

#[derive(Debug)]
struct PreviousLayer {
    _held: Layer,
    content: Arc<(Index, LayerDescription)>,
    origins: Origins,
    files: Arc<dyn Files>,
}

impl Previous for PreviousLayer {
    fn file(&self, path: &TreePath) -> Option<(&Entry, ContentDigest)> {
        self.origins.file(&self.content.0, path)
    }

    fn directory(&self, path: &TreePath) -> io::Result<OwnedFd> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.files.directory(path)?.ok_or_else(missing)
    }
}
