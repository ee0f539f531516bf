//! A blob that is being written.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;

use ashlar_llb::digest::BlobDigest;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::store::file_name;
use super::{Blob, BlobStore, ContentError, WRITE_SIZE};

/// Writes a blob and hashes it on the way. The blob has no name until [`BlobWriter::finish`]; a
/// writer that is dropped leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    file: File,
    /// The name of the file where the file system cannot keep files without one.
    temporary: Option<String>,
    hash: Sha256,
    size: u64,
}

impl BlobWriter {
    pub(super) fn new(store: BlobStore) -> Result<Self, ContentError> {
        let mode = Mode::from_raw_mode(0o600);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let (fd, temporary) = match openat(store.directory(), ".", flags, mode) {
            Ok(fd) => (fd, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let (fd, name) = named(&store).map_err(ContentError::io("create", "new"))?;
                (fd, Some(name))
            }
            Err(errno) => return Err(ContentError::io("create", "new")(errno)),
        };
        Ok(Self {
            store,
            file: fd.into(),
            temporary,
            hash: Sha256::new(),
            size: 0,
        })
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives the blob its name. `expected`: the digest and size that the bytes must have.
    ///
    /// The name appears in one step; if another writer stored the same blob meanwhile, that one
    /// stays. Nothing is synced to disk.
    ///
    /// # Errors
    /// [`ContentError::Size`] and [`ContentError::Digest`] if the bytes are others than expected,
    /// [`ContentError::Io`]. Nothing is left then.
    pub fn finish(mut self, expected: Option<(BlobDigest, u64)>) -> Result<Blob, ContentError> {
        let hash = std::mem::take(&mut self.hash);
        let digest = BlobDigest::from_bytes(hash.finalize().into());
        if let Some((promised, size)) = expected {
            if size != self.size {
                let digest = promised;
                return Err(ContentError::Size {
                    digest,
                    expected: size,
                    found: self.size,
                });
            }
            if promised != digest {
                return Err(ContentError::Digest {
                    expected: promised,
                    found: digest,
                });
            }
        }
        let name = file_name(&digest);
        let directory = self.store.directory();
        let named = match self.temporary.take() {
            Some(temporary) => {
                let renamed = renameat(directory, &temporary, directory, &name);
                if renamed.is_err() {
                    self.temporary = Some(temporary);
                }
                renamed
            }
            None => {
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                match linkat(CWD, own, directory, &name, AtFlags::SYMLINK_FOLLOW) {
                    Err(Errno::EXIST) => Ok(()),
                    other => other,
                }
            }
        };
        named.map_err(ContentError::io("name", digest))?;
        Ok(Blob {
            digest,
            size: self.size,
        })
    }
}

/// A new file with a random name.
fn named(store: &BlobStore) -> Result<(rustix::fd::OwnedFd, String), Errno> {
    loop {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".new-{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        match openat(store.directory(), &name, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::EXIST) => {}
            Ok(fd) => return Ok((fd, name)),
            Err(errno) => return Err(errno),
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = usize::try_from(self.size).unwrap_or(0);
        // Up to where the next piece begins.
        let room = WRITE_SIZE - size % WRITE_SIZE;
        let length = self.file.write(&bytes[..bytes.len().min(room)])?;
        self.hash.update(&bytes[..length]);
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _gone = unlinkat(self.store.directory(), temporary, AtFlags::empty());
        }
    }
}
