//! The directory.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde::Deserialize;

use super::OciLayoutError;
use crate::content::{ContentError, Verify};
use crate::oci::{Descriptor, Index};
use crate::source::image::ImageError;

/// Bytes of the file `oci-layout`: a few words.
const MARKER_BYTES: u64 = 4096;

/// An open image layout. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    directory: Arc<OwnedFd>,
    path: PathBuf,
}

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens the layout in `path`.
    ///
    /// # Errors
    /// [`OciLayoutError::NotALayout`], [`OciLayoutError::Io`].
    pub fn open(path: &Path) -> Result<Self, OciLayoutError> {
        let problem = |problem| OciLayoutError::NotALayout {
            path: path.to_path_buf(),
            problem,
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory = match openat(CWD, path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Err(problem("there is no such directory")),
            Err(Errno::NOTDIR) => return Err(problem("it is not a directory")),
            Err(errno) => {
                let name = path.display().to_string();
                return Err(OciLayoutError::Io {
                    name,
                    source: errno.into(),
                });
            }
        };
        let layout = Self {
            directory: Arc::new(directory),
            path: path.to_path_buf(),
        };
        let marker = layout.document("oci-layout", MARKER_BYTES)?;
        let marker = marker.ok_or_else(|| problem("the file oci-layout is missing"))?;
        match serde_json::from_slice::<Marker>(&marker) {
            Ok(marker) if marker.version.starts_with("1.") => Ok(layout),
            Ok(_) => Err(problem("it has an unknown version")),
            Err(_) => Err(problem("the file oci-layout is malformed")),
        }
    }

    /// The images that `index.json` names. `limit`: how many bytes it may have.
    ///
    /// # Errors
    /// [`OciLayoutError`].
    pub fn index(&self, limit: u64) -> Result<Index, OciLayoutError> {
        let name = "index.json";
        let bytes = self
            .document(name, limit)?
            .ok_or_else(|| OciLayoutError::NotALayout {
                path: self.path.clone(),
                problem: "the file index.json is missing",
            })?;
        serde_json::from_slice(&bytes).map_err(|source| {
            let name = name.to_owned();
            ImageError::Document { name, source }.into()
        })
    }

    /// Opens a blob. It is verified as it is read.
    ///
    /// # Errors
    /// [`OciLayoutError::MissingBlob`], [`OciLayoutError::Io`], and [`ImageError::Content`] if
    /// its size is another than the descriptor says.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<Verify<File>, OciLayoutError> {
        let Descriptor { digest, size, .. } = *descriptor;
        let (file, found) = self.open_blob(&digest)?;
        if found != size {
            return Err(ContentError::Size {
                digest,
                expected: size,
                found,
            }
            .into());
        }
        Ok(Verify::new(file, digest, size))
    }

    /// The size of a blob.
    pub(super) fn blob_size(&self, digest: &BlobDigest) -> Result<u64, OciLayoutError> {
        self.open_blob(digest).map(|(_, size)| size)
    }

    fn open_blob(&self, digest: &BlobDigest) -> Result<(File, u64), OciLayoutError> {
        let text = digest.to_string();
        let name = format!("blobs/{}", text.replacen(':', "/", 1));
        self.file(&name)?
            .ok_or(OciLayoutError::MissingBlob { digest: *digest })
    }

    /// Reads a verified document.
    pub(super) fn verified(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, OciLayoutError> {
        let name = descriptor.digest.to_string();
        if descriptor.size > limit {
            let size = descriptor.size;
            return Err(ImageError::DocumentTooLarge { name, size, limit }.into());
        }
        let mut bytes = Vec::new();
        let read = self.blob(descriptor)?.read_to_end(&mut bytes);
        read.map_err(|source| io_error(name, source))?;
        Ok(bytes)
    }

    fn document(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, OciLayoutError> {
        let Some((file, size)) = self.file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|source| io_error(name.to_owned(), source))?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::DocumentTooLarge {
                name: name.to_owned(),
                size,
                limit,
            }
            .into());
        }
        Ok(Some(bytes))
    }

    /// Opens a regular file, never waiting for a pipe. Links are followed: some tools make their
    /// blobs links, and what is read is verified.
    fn file(&self, name: &str) -> Result<Option<(File, u64)>, OciLayoutError> {
        let failed = |errno: Errno| OciLayoutError::Io {
            name: name.to_owned(),
            source: errno.into(),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match openat(self.directory.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ImageError::Confusing {
                name: name.to_owned(),
                problem: "it is not a regular file".to_owned(),
            }
            .into());
        }
        Ok(Some((fd.into(), u64::try_from(stat.st_size).unwrap_or(0))))
    }
}

/// Takes an error of a verifying reader out of what `Read` made of it.
pub(super) fn io_error(name: String, source: std::io::Error) -> OciLayoutError {
    match source.downcast::<ContentError>() {
        Ok(error) => error.into(),
        Err(source) => OciLayoutError::Io { name, source },
    }
}
