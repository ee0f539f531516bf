//! The blobs of a state root.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::{BlobWriter, ContentError};

/// A blob that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a blob is its digest and its size"
)]
pub struct Blob {
    /// The digest of its bytes.
    pub digest: BlobDigest,
    /// How many bytes it has.
    pub size: u64,
}

/// The directory `blobs/sha256` of a state root. Cheap to clone; used by many threads and
/// processes at once without locks, because a blob under a name never changes.
#[derive(Debug, Clone)]
pub struct BlobStore {
    directory: Arc<OwnedFd>,
}

pub(super) fn file_name(digest: &BlobDigest) -> String {
    let text = digest.to_string();
    text.strip_prefix("sha256:").unwrap_or(&text).to_owned()
}

impl BlobStore {
    /// A store in `directory`, which must be writable by this process alone.
    pub fn new(directory: OwnedFd) -> Self {
        Self {
            directory: Arc::new(directory),
        }
    }

    /// The store of the state root whose directory is `root`.
    ///
    /// # Errors
    /// [`ContentError::Io`] if `blobs/sha256` cannot be opened.
    pub fn of_root(root: BorrowedFd<'_>) -> Result<Self, ContentError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let blobs = openat(root, "blobs", flags, Mode::empty());
        let directory = blobs
            .and_then(|blobs| openat(&blobs, "sha256", flags, Mode::empty()))
            .map_err(ContentError::io("open the directory of", "store"))?;
        Ok(Self::new(directory))
    }

    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether the blob is there.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn contains(&self, digest: &BlobDigest) -> Result<bool, ContentError> {
        Ok(self.size(digest)?.is_some())
    }

    /// How many bytes the blob has; `None` if it is not there.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn size(&self, digest: &BlobDigest) -> Result<Option<u64>, ContentError> {
        match statat(
            self.directory(),
            file_name(digest),
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(u64::try_from(stat.st_size).ok()),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(ContentError::io("look up", digest)(errno)),
        }
    }

    /// Opens the blob for reading; `None` if it is not there. The bytes are not verified: wrap
    /// the file in [`super::Verify`] when they matter.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn open(&self, digest: &BlobDigest) -> Result<Option<File>, ContentError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(self.directory(), file_name(digest), flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(ContentError::io("open", digest)(errno)),
        }
    }

    /// Starts a new blob.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn writer(&self) -> Result<BlobWriter, ContentError> {
        BlobWriter::new(self.clone())
    }

    /// Stores bytes that are in memory.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn put(&self, bytes: &[u8]) -> Result<Blob, ContentError> {
        let digest = BlobDigest::of(bytes);
        let size = bytes.len() as u64;
        if self.size(&digest)? == Some(size) {
            return Ok(Blob { digest, size });
        }
        let mut writer = self.writer()?;
        let written = io::Write::write_all(&mut writer, bytes);
        written.map_err(|source| ContentError::Io {
            action: "write",
            name: digest.to_string(),
            source,
        })?;
        writer.finish(Some((digest, size)))
    }

    /// Copies a blob from `file`, read from its current position to its end, and verifies it.
    /// Reads nothing if a blob of that digest and size is already there.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn copy_in(
        &self,
        file: &mut dyn Read,
        digest: BlobDigest,
        size: u64,
    ) -> Result<Blob, ContentError> {
        if self.size(&digest)? == Some(size) {
            return Ok(Blob { digest, size });
        }
        let mut writer = self.writer()?;
        let mut surplus = file.take(size.saturating_add(1));
        io::copy(&mut surplus, &mut writer).map_err(|source| ContentError::Io {
            action: "copy",
            name: digest.to_string(),
            source,
        })?;
        writer.finish(Some((digest, size)))
    }

    /// Removes the blob. Whoever has it open keeps its bytes. Returns whether it was there.
    ///
    /// # Errors
    /// [`ContentError::Io`].
    pub fn remove(&self, digest: &BlobDigest) -> Result<bool, ContentError> {
        match unlinkat(self.directory(), file_name(digest), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(ContentError::io("remove", digest)(errno)),
        }
    }
}
