//! Layouts in one file: what `skopeo copy … oci-archive:` and `docker save` write.
//!
//! The headers are read once; after that a blob is a place in the file. In a compressed file there
//! are no places to go to: it is inflated again up to the blob. Nothing is written anywhere.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use super::OciLayoutError;
use crate::content::{Compression, Inflate};
use crate::source::image::ImageError;
use crate::tree::tar::{Header, TarError, TarKind, TarReader};

/// Entries of one archive: each blob is one. An image has some thousands at most.
const MAX_ENTRIES: usize = 1_000_000;

/// What a compressed archive may inflate to: as much as one layer by default.
const MAX_INFLATED: u64 = 64 << 30;

/// Links of an archive that follow each other.
const MAX_LINKS: usize = 8;

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    file: Arc<File>,
    compression: Compression,
    entries: HashMap<Vec<u8>, Entry>,
}

/// Where the bytes of a file are, and what they look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    at: u64,
    pub(super) size: u64,
    /// Its first bytes, zeros if there are fewer.
    pub(super) start: [u8; 4],
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    File(Place),
    /// Another name of an entry, by its path from the top.
    Link(Vec<u8>),
}

impl Archive {
    /// Reads the headers of the archive in `file`. What is not an entry of a layout is read over.
    pub(super) fn read(file: File, path: &Path) -> Result<Self, OciLayoutError> {
        let failed = |source| OciLayoutError::Archive {
            path: path.to_path_buf(),
            source,
        };
        let io = |source| OciLayoutError::Io {
            name: path.display().to_string(),
            source,
        };
        let file = Arc::new(file);
        let mut start = [0; 4];
        let length = file.read_at(&mut start, 0).map_err(io)?;
        let mut archive = Self {
            file,
            compression: Compression::of_magic(&start[..length]),
            entries: HashMap::new(),
        };
        if !archive.is_compressed() {
            let end = archive.file.metadata().map_err(io)?.len();
            let mut tar = TarReader::new(Part::new(archive.file.clone(), 0, end));
            while let Some(header) = tar.next_entry().map_err(failed)? {
                let at = tar.offset();
                // A file that ends early is found out here, not when a blob is wanted.
                if at.checked_add(header.size).is_none_or(|to| to > end) {
                    let place = "a file";
                    return Err(failed(TarError::Truncated { place }));
                }
                let start = start_of(&mut tar).map_err(failed)?;
                tar.seek_over_data().map_err(failed)?;
                archive.add(header, at, start)?;
            }
        } else {
            let mut tar = TarReader::new(archive.inflate()?);
            while let Some(header) = tar.next_entry().map_err(failed)? {
                let at = tar.offset();
                let start = start_of(&mut tar).map_err(failed)?;
                archive.add(header, at, start)?;
            }
        }
        Ok(archive)
    }

    fn add(&mut self, header: Header, at: u64, start: [u8; 4]) -> Result<(), OciLayoutError> {
        let confusing = |problem: &str| ImageError::Confusing {
            name: String::from_utf8_lossy(&header.path).into_owned(),
            problem: problem.to_owned(),
        };
        let Some(path) = clean(b"", &header.path) else {
            return Ok(());
        };
        let entry = match header.kind {
            TarKind::File if !header.sparse => Entry::File(Place {
                at,
                size: header.size,
                start,
            }),
            TarKind::File => return Err(confusing("it is a sparse file").into()),
            TarKind::Symlink => {
                let parent = path.iter().rposition(|&byte| byte == b'/');
                match clean(&path[..parent.unwrap_or(0)], &header.link) {
                    Some(target) => Entry::Link(target),
                    None => return Ok(()),
                }
            }
            TarKind::HardLink => match clean(b"", &header.link) {
                Some(target) => Entry::Link(target),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        if self.entries.len() >= MAX_ENTRIES {
            return Err(confusing("the archive has too many entries").into());
        }
        // Readers disagree which of two counts. Blobs cannot differ: they are verified.
        let blob = path.starts_with(b"blobs/");
        if self.entries.get(&path).is_some_and(|old| *old != entry) && !blob {
            return Err(confusing("it is in the archive twice").into());
        }
        self.entries.entry(path).or_insert(entry);
        Ok(())
    }

    /// The bytes of an entry, and how many; `None` if there is no such file.
    pub(super) fn file(&self, name: &[u8]) -> Result<Option<(Bytes, u64)>, OciLayoutError> {
        match self.place(name)? {
            None => Ok(None),
            Some(place) => Ok(Some((self.part(place)?, place.size))),
        }
    }

    /// Whether the archive as a whole is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.compression != Compression::Uncompressed
    }

    /// Where the bytes of an entry are. Links are followed inside the archive.
    pub(super) fn place(&self, name: &[u8]) -> Result<Option<Place>, OciLayoutError> {
        let mut name = name;
        for _ in 0..=MAX_LINKS {
            match self.entries.get(name) {
                None => return Ok(None),
                Some(Entry::Link(target)) => name = target,
                Some(Entry::File(place)) => return Ok(Some(*place)),
            }
        }
        Err(ImageError::Confusing {
            name: String::from_utf8_lossy(name).into_owned(),
            problem: "too many links lead to it".to_owned(),
        }
        .into())
    }

    /// The bytes at a place.
    pub(super) fn part(&self, place: Place) -> Result<Bytes, OciLayoutError> {
        let Place { at, size, .. } = place;
        if !self.is_compressed() {
            return Ok(Bytes::Part(Part::new(self.file.clone(), at, at + size)));
        }
        let inflated = self.inflate()?;
        Ok(Bytes::Inflated(Box::new(Inflated {
            before: at,
            left: size,
            inflated,
        })))
    }

    fn inflate(&self) -> Result<Inflate<Part>, OciLayoutError> {
        let whole = Part::new(self.file.clone(), 0, u64::MAX);
        Ok(Inflate::new(whole, self.compression, MAX_INFLATED)?)
    }
}

/// The first bytes of the current file.
fn start_of<R: Read>(tar: &mut TarReader<R>) -> Result<[u8; 4], TarError> {
    let mut start = [0; 4];
    let mut at = 0;
    while at < start.len() {
        let more = tar.data((start.len() - at) as u64)?;
        if more.is_empty() {
            break;
        }
        start[at..at + more.len()].copy_from_slice(more);
        at += more.len();
    }
    Ok(start)
}

/// A path from the top of the archive: without `.`, `/` at its ends, and `..`; `None` if it leads
/// out.
fn clean(parent: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in parent
        .split(|&byte| byte == b'/')
        .chain(path.split(|&byte| byte == b'/'))
    {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// The bytes of a file of a layout.
#[derive(Debug)]
pub(super) enum Bytes {
    File(File),
    Part(Part),
    Inflated(Box<Inflated>),
    Made(io::Cursor<Vec<u8>>),
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Part(part) => part.read(buffer),
            Self::Inflated(inflated) => inflated.read(buffer),
            Self::Made(bytes) => bytes.read(buffer),
        }
    }
}

/// A part of a file that others read as well: it has a place of its own.
#[derive(Debug)]
pub(super) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Part {
    fn new(file: Arc<File>, at: u64, end: u64) -> Self {
        Self { file, at, end }
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let length = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A part of a compressed file.
#[derive(Debug)]
pub(super) struct Inflated {
    /// Bytes that come before it and were not read yet.
    before: u64,
    left: u64,
    inflated: Inflate<Part>,
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.before > 0 {
            let mut before = self.inflated.by_ref().take(self.before);
            let skipped = io::copy(&mut before, &mut io::sink())?;
            if skipped < self.before {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.before = 0;
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let length = self.inflated.read(&mut buffer[..length])?;
        self.left -= length as u64;
        Ok(length)
    }
}
