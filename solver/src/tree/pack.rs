//! From a layer to its tar stream.
//!
//! Owns [`pack`]: the bytes are those that BuildKit makes of the same entries (containerd's
//! `archive.ChangeWriter` over Go's `archive/tar`), so that diff ids are equal.
//!
//! What such a stream looks like:
//! - entries in the order of the index, without the root directory; names of directories end in
//!   `/`;
//! - a removal is an empty file `.wh.NAME` of mode 0, owner 0 and time 0;
//! - of a hard-link group the first entry has the bytes, the others are links to it;
//! - times are cut to seconds; a PAX header only where a name, owner, size or time needs it;
//! - of the extended attributes `security.capability` alone, unless more is asked for.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};

use super::tar::{Header, TarFormat, TarKind, TarWriter};
use super::{Entry, Files, Index, Kind, Opener, Room, Timestamp, TreePath};
use crate::cancel::{Cancel, Cancelled};
use crate::error::{Blame, Fault};

/// Bytes that are read at once: a part of what the caches of a processor hold.
const STEP: usize = 256 << 10;

/// How a layer is written.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PackOptions {
    /// Write all extended attributes instead of `security.capability` alone. Default: false, as
    /// BuildKit does.
    pub all_xattrs: bool,
    /// Directories that are written with an opaque mark instead of the removals in them: what
    /// [`super::apply::Normalized::opaque`] remembered of an image layer. Default: none.
    pub opaque: BTreeSet<TreePath>,
    /// Times after this moment become this moment (`rewrite-timestamp`). Default: none.
    pub latest: Option<Timestamp>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackSummary {
    /// Bytes of the tar stream.
    pub size: u64,
    /// Entries in it.
    pub entries: u64,
}

/// A layer could not be written as a tar.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The receiver of the bytes failed.
    #[error("cannot write the layer")]
    Write {
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A file of the layer could not be read.
    #[error("cannot read {path} of the layer")]
    File {
        /// Which file.
        path: TreePath,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file has other bytes than its entry tells.
    #[error("{path} of the layer has {found} bytes, its entry tells {expected}")]
    Changed {
        /// Which file.
        path: TreePath,
        /// What the index tells.
        expected: u64,
        /// What could be read; one more than expected stands for any surplus.
        found: u64,
    },
    /// An entry cannot be expressed in a tar.
    #[error("{path} does not fit into a tar")]
    Inexpressible {
        /// Which entry.
        path: TreePath,
        /// What does not fit.
        #[source]
        source: io::Error,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for PackError {
    fn fault(&self) -> Fault {
        match self {
            Self::Write { .. } | Self::File { .. } | Self::Cancelled(_) => Fault::Environment,
            Self::Changed { .. } => Fault::Bug,
            Self::Inexpressible { .. } => Fault::Input,
        }
    }
}

/// Writes the layer as a tar stream, reading each file once, into the room that `out` lends. It is
/// not flushed. [`Lent`](super::Lent) makes one of any stream.
///
/// # Errors
/// [`PackError`]. What was written until then is of no use.
///
/// # Cancellation
/// Checked at every entry and every 256 KiB.
pub fn pack(
    index: &Index,
    files: &dyn Files,
    out: &mut dyn Room,
    options: &PackOptions,
    cancel: &Cancel,
) -> Result<PackSummary, PackError> {
    let mut tar = TarWriter::new(out);
    let mut entries = 0;
    let mut links: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut opener = Opener::default();
    let write = |path: &TreePath, source: io::Error| {
        if source.kind() == io::ErrorKind::InvalidInput {
            PackError::Inexpressible {
                path: path.clone(),
                source,
            }
        } else {
            PackError::Write { source }
        }
    };
    for (path, entry) in index.entries() {
        cancel.check()?;
        if entry.kind == Kind::Whiteout {
            if path
                .parent()
                .is_some_and(|parent| options.opaque.contains(&parent))
            {
                continue;
            }
            let header = whiteout(path, path.name().unwrap_or_default());
            tar.header(&header, TarFormat::Any)
                .map_err(|error| write(path, error))?;
            entries += 1;
            continue;
        }
        if !path.is_root() {
            let header = header(path, entry, &mut links, options);
            tar.header(&header, TarFormat::Pax)
                .map_err(|error| write(path, error))?;
            entries += 1;
            if header.size > 0 {
                let file = opener.open(files, path);
                copy(path, header.size, file, &mut tar, cancel)?;
            }
        }
        if entry.is_directory() && options.opaque.contains(path) {
            let mark = path.join_path(&TreePath::new(&b"x"[..]).unwrap_or_default());
            let header = whiteout(&mark, b".wh..opq");
            tar.header(&header, TarFormat::Any)
                .map_err(|error| write(path, error))?;
            entries += 1;
        }
    }
    let size = tar.finish().map_err(|source| PackError::Write { source })?;
    Ok(PackSummary { size, entries })
}

/// The mark `.wh.NAME` beside `path`.
fn whiteout(path: &TreePath, name: &[u8]) -> Header {
    let mut text = path.parent().unwrap_or_default().as_bytes().to_vec();
    if !text.is_empty() {
        text.push(b'/');
    }
    text.extend_from_slice(b".wh.");
    text.extend_from_slice(name);
    Header {
        path: text,
        kind: TarKind::File,
        link: Vec::new(),
        mode: 0,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp::default(),
        device: super::entry::Device::default(),
        xattrs: Vec::new(),
        sparse: false,
    }
}

fn header(
    path: &TreePath,
    entry: &Entry,
    links: &mut HashMap<u32, Vec<u8>>,
    options: &PackOptions,
) -> Header {
    let attributes = &entry.attributes;
    let mut name = path.as_bytes().to_vec();
    let mtime = options
        .latest
        .map_or(attributes.mtime, |latest| attributes.mtime.min(latest));
    let xattrs = attributes
        .xattrs
        .iter()
        .filter(|(name, _)| options.all_xattrs || *name == b"security.capability")
        .filter(|(_, value)| options.all_xattrs || !value.is_empty())
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    let mut kind = match entry.kind {
        Kind::Directory => TarKind::Directory,
        Kind::File | Kind::Whiteout => TarKind::File,
        Kind::Symlink => TarKind::Symlink,
        Kind::CharDevice => TarKind::CharDevice,
        Kind::BlockDevice => TarKind::BlockDevice,
        Kind::Fifo => TarKind::Fifo,
    };
    let mut link = entry.target.to_vec();
    let mut size = entry.size;
    if kind == TarKind::Directory {
        name.push(b'/');
    } else if entry.link_group != 0 {
        match links.get(&entry.link_group) {
            Some(first) => {
                kind = TarKind::HardLink;
                link.clone_from(first);
                size = 0;
            }
            None => drop(links.insert(entry.link_group, name.clone())),
        }
    }
    Header {
        path: name,
        kind,
        link,
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        size,
        mtime: Timestamp {
            nanoseconds: 0,
            ..mtime
        },
        device: entry.device,
        xattrs,
        sparse: false,
    }
}

fn copy(
    path: &TreePath,
    size: u64,
    file: io::Result<File>,
    tar: &mut TarWriter<&mut dyn Room>,
    cancel: &Cancel,
) -> Result<(), PackError> {
    let failed = |source| PackError::File {
        path: path.clone(),
        source,
    };
    let full = |source| PackError::Write { source };
    let mut file = file.map_err(failed)?;
    let mut found = 0;
    loop {
        cancel.check()?;
        let room = tar.room().map_err(full)?;
        let wanted = room.len().min(STEP);
        let length = match file.read(&mut room[..wanted]) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        found += length as u64;
        if found > size {
            found = size + 1;
            break;
        }
        tar.filled(length).map_err(full)?;
        // One read usually has it all; a second one that finds the end is not free.
        if found == size && length < wanted {
            break;
        }
    }
    if found == size {
        Ok(())
    } else {
        Err(PackError::Changed {
            path: path.clone(),
            expected: size,
            found,
        })
    }
}
