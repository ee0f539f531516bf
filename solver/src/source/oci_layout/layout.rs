//! The layout: a directory, or an archive.

use std::io::Read;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde::Deserialize;

use super::OciLayoutError;
use super::archive::{Archive, Bytes};
use super::docker::Docker;
use crate::content::{ContentError, Verify};
use crate::oci::{Descriptor, Index};
use crate::source::image::ImageError;

/// The file that every layout has.
const MARKER: &str = "oci-layout";

/// Bytes of the file `oci-layout`: a few words.
const MARKER_BYTES: u64 = 4096;

/// An open image layout. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    place: Arc<Place>,
    path: PathBuf,
}

#[derive(Debug)]
enum Place {
    Directory(OwnedFd),
    Archive(Archive),
    Docker(Box<Docker>),
}

/// A blob of a layout; fails at its end unless its bytes are those of its digest.
#[derive(Debug)]
pub struct LayoutBlob(Verify<Bytes>);

impl Read for LayoutBlob {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

#[derive(Deserialize)]
struct Marker {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

impl Layout {
    /// Opens the layout in `path`: a directory, or an archive of one (`oci-archive` of skopeo and
    /// podman, `docker save`), plain or compressed with gzip or zstd. The older archives of Docker
    /// that are no layouts are read as if they were.
    ///
    /// An archive is read in place; of a plain one only the headers are read here. A compressed one
    /// is inflated here, and again up to each blob that is read: unpack it first if it is large.
    ///
    /// # Errors
    /// [`OciLayoutError`].
    pub fn open(path: &Path) -> Result<Self, OciLayoutError> {
        let problem = |problem| OciLayoutError::NotALayout {
            path: path.to_path_buf(),
            problem,
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let failed = |errno: Errno| OciLayoutError::Io {
            name: path.display().to_string(),
            source: errno.into(),
        };
        let opened = match openat(CWD, path, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Err(problem("there is no such file or directory")),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = fstat(&opened).map_err(failed)?;
        let place = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Place::Directory(opened),
            FileType::RegularFile => {
                let archive = Archive::read(opened.into(), path)?;
                match archive.file(MARKER.as_bytes())? {
                    None if Docker::is(&archive)? => {
                        Place::Docker(Box::new(Docker::read(archive)?))
                    }
                    _ => Place::Archive(archive),
                }
            }
            _ => return Err(problem("it is neither a directory nor an archive")),
        };
        let layout = Self {
            place: Arc::new(place),
            path: path.to_path_buf(),
        };
        if matches!(*layout.place, Place::Docker(_)) {
            return Ok(layout);
        }
        let marker = layout.document(MARKER, MARKER_BYTES)?;
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
        if let Place::Docker(docker) = &*self.place {
            return Ok(docker.index.clone());
        }
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
    pub fn blob(&self, descriptor: &Descriptor) -> Result<LayoutBlob, OciLayoutError> {
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
        Ok(LayoutBlob(Verify::new(file, digest, size)))
    }

    /// The size of a blob.
    pub(super) fn blob_size(&self, digest: &BlobDigest) -> Result<u64, OciLayoutError> {
        self.open_blob(digest).map(|(_, size)| size)
    }

    fn open_blob(&self, digest: &BlobDigest) -> Result<(Bytes, u64), OciLayoutError> {
        let found = match &*self.place {
            Place::Docker(docker) => docker.blob(digest)?,
            _ => {
                let text = digest.to_string();
                self.file(&format!("blobs/{}", text.replacen(':', "/", 1)))?
            }
        };
        found.ok_or(OciLayoutError::MissingBlob { digest: *digest })
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
        read_document(name, file, size, limit).map(Some)
    }

    fn file(&self, name: &str) -> Result<Option<(Bytes, u64)>, OciLayoutError> {
        match &*self.place {
            Place::Directory(directory) => file(directory.as_fd(), name),
            Place::Archive(archive) => archive.file(name.as_bytes()),
            Place::Docker(_) => Ok(None),
        }
    }
}

/// Reads a document of at most `limit` bytes.
pub(super) fn read_document(
    name: &str,
    bytes: Bytes,
    size: u64,
    limit: u64,
) -> Result<Vec<u8>, OciLayoutError> {
    let mut document = Vec::new();
    let read = bytes
        .take(limit.saturating_add(1))
        .read_to_end(&mut document);
    read.map_err(|source| io_error(name.to_owned(), source))?;
    if document.len() as u64 > limit {
        let name = name.to_owned();
        return Err(ImageError::DocumentTooLarge { name, size, limit }.into());
    }
    Ok(document)
}

/// Opens a regular file, never waiting for a pipe. Links are followed: some tools make their
/// blobs links, and what is read is verified.
fn file(directory: BorrowedFd<'_>, name: &str) -> Result<Option<(Bytes, u64)>, OciLayoutError> {
    let failed = |errno: Errno| OciLayoutError::Io {
        name: name.to_owned(),
        source: errno.into(),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match openat(directory, name, flags, Mode::empty()) {
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
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Some((Bytes::File(fd.into()), size)))
}

/// Takes an error of a verifying reader out of what `Read` made of it.
pub(super) fn io_error(name: String, source: std::io::Error) -> OciLayoutError {
    match source.downcast::<ContentError>() {
        Ok(error) => error.into(),
        Err(source) => OciLayoutError::Io { name, source },
    }
}
