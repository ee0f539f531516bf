//! Copies of archives, which are unpacked as `ADD` of a Dockerfile does.
//!
//! Names of entries are taken below the destination as if it were the root: neither `..` nor a
//! symbolic link leads out of it. Links on the way to an entry are followed, what is at its name
//! is replaced, and directories are merged.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::FileProblem;
use super::archive::Archive;
use super::error::Stop;
use super::plan::{Owner, Settings, Step, make_directories, missing_directories};
use super::resolve::root_path;
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::limits::Limits;
use crate::tree::checksum::{ChecksumError, ChecksumOptions, checksum};
use crate::tree::tar::{Header, TarError, TarKind, TarReader};
use crate::tree::writer::{LayerWriter, WriteError};
use crate::tree::{Attributes, Kind, Timestamp, TreePath, View, Xattrs};

/// Links that are followed on the way to one entry before it counts as a loop: those of Linux.
const MAX_LINKS: usize = 40;

/// Mode of directories that an archive takes for granted.
const IMPLIED: u32 = 0o755;

/// An archive in a tree.
#[derive(Debug)]
pub(super) struct Found<'v> {
    view: &'v View,
    path: TreePath,
}

/// Finds out whether the source of a copy is an archive. Anything else is copied as it is.
pub(super) fn find<'v>(
    view: &'v View,
    path: &TreePath,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<Option<Found<'v>>, Stop> {
    let path = root_path(view, path.as_bytes(), true)?;
    let Some(node) = view.lookup(&path) else {
        return Ok(None);
    };
    let Some(files) = node.files().filter(|_| node.entry().kind == Kind::File) else {
        return Ok(None);
    };
    if !files.immutable() {
        // What is decided here must be true of the bytes that are unpacked or copied.
        let absolute = [b"/", path.as_bytes()].concat();
        let known = checksum(view, &absolute, &ChecksumOptions::default(), cancel);
        known.map_err(|error| match error {
            ChecksumError::Cancelled(_) => Stop::Operation(OperationError::Cancelled),
            error => Stop::Operation(error.into()),
        })?;
    }
    // What cannot be read is left to the copy to complain about.
    let holds_tar =
        Archive::open(node, &path, limits.layer_bytes, cancel).is_ok_and(Archive::holds_tar);
    Ok(holds_tar.then_some(Found { view, path }))
}

impl Found<'_> {
    /// Steps that make the destination of the archive, and the path it has.
    pub(super) fn destination(
        &self,
        view: &View,
        dest: &[u8],
        settings: &Settings,
    ) -> Result<(Vec<Step>, TreePath), FileProblem> {
        let dest = root_path(view, dest, true)?;
        let made = missing_directories(view, &dest, 0o755, settings)?;
        let (mut first, last) = make_directories(made, settings);
        first.extend(last);
        Ok((first, dest))
    }

    /// Unpacks the archive into the directory `dest`. Everything belongs to `owner` if there is
    /// one.
    pub(super) fn unpack(
        &self,
        writer: &mut LayerWriter,
        dest: &TreePath,
        owner: Option<Owner>,
        limits: &Limits,
        cancel: &Cancel,
    ) -> Result<(), Stop> {
        let node = self.view.lookup(&self.path);
        let node = node.ok_or_else(|| FileProblem::NotFound {
            path: self.path.clone(),
            nearest: Vec::new(),
        })?;
        let mut archive = Archive::open(node, &self.path, limits.layer_bytes, cancel)?;
        let mut unpack = Unpack {
            writer,
            dest,
            owner,
            left: limits.layer_entries,
            directories: Vec::new(),
        };
        let unpacked = unpack.entries(&mut TarReader::new(&mut archive), limits);
        cancel.check()?;
        let too_large = archive.too_large;
        // Damage that comes of a change of the file is blamed on the change.
        archive.finish()?;
        cancel.check()?;
        let limit = limits.layer_bytes;
        unpacked.map_err(|problem| FileProblem::Unpack {
            archive: self.path.clone(),
            problem: Box::new(if too_large {
                FileProblem::TooLarge { limit }
            } else {
                problem
            }),
        })?;
        Ok(())
    }
}

/// The way of one archive into a layer.
struct Unpack<'a> {
    writer: &'a mut LayerWriter,
    dest: &'a TreePath,
    owner: Option<Owner>,
    /// Entries that may still come.
    left: u64,
    /// Directories by their names in the archive; they get their times when all is in them.
    directories: Vec<(TreePath, Timestamp)>,
}

impl Unpack<'_> {
    fn entries<R: Read>(
        &mut self,
        reader: &mut TarReader<R>,
        limits: &Limits,
    ) -> Result<(), FileProblem> {
        while let Some(header) = reader.next_entry().map_err(FileProblem::Tar)? {
            self.left = self.left.checked_sub(1).ok_or(FileProblem::TooMany {
                limit: limits.layer_entries,
            })?;
            self.entry(&header, reader)?;
        }
        for (name, mtime) in std::mem::take(&mut self.directories) {
            // It may have been replaced by something else since.
            let Ok(path) = self.resolve(&name, true) else {
                continue;
            };
            let Some(entry) = self.writer.entry(&path).filter(|it| it.is_directory()) else {
                continue;
            };
            let attributes = Attributes {
                mtime,
                ..entry.attributes.clone()
            };
            self.writer
                .set_attributes(&path, attributes)
                .map_err(FileProblem::Write)?;
        }
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        header: &Header,
        reader: &mut TarReader<R>,
    ) -> Result<(), FileProblem> {
        let name = clean(&header.path)?;
        let is_directory = header.kind == TarKind::Directory;
        if name.is_root() && is_directory && !header.path.starts_with(b"/") {
            // The destination stays as it is.
            return Ok(());
        }
        if name.is_root() && !is_directory {
            return Err(FileProblem::ReplacesDirectory {
                path: self.dest.clone(),
            });
        }
        self.make_parents(&name)?;
        let path = self.resolve(&name, false)?;
        let existing = self.writer.entry(&path).map(|entry| entry.is_directory());
        let merges = is_directory && existing == Some(true);
        if existing.is_some() && !merges {
            self.writer.remove(&path).map_err(FileProblem::Write)?;
        }
        let attributes = self.attributes(header, merges.then_some(&path));
        let written = match header.kind {
            TarKind::Directory => {
                self.directories.push((name, attributes.mtime));
                self.writer.make_directory(&path, attributes)
            }
            TarKind::File => return self.file(&path, attributes, header, reader),
            TarKind::Symlink => self.writer.make_symlink(&path, &header.link, attributes),
            TarKind::HardLink => return self.hard_link(&path, header),
            TarKind::CharDevice | TarKind::BlockDevice | TarKind::Fifo => {
                let kind = match header.kind {
                    TarKind::CharDevice => Kind::CharDevice,
                    TarKind::BlockDevice => Kind::BlockDevice,
                    _ => Kind::Fifo,
                };
                self.writer
                    .make_node(&path, kind, header.device, attributes)
            }
        };
        written.map_err(FileProblem::Write)
    }

    fn file<R: Read>(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
        header: &Header,
        reader: &mut TarReader<R>,
    ) -> Result<(), FileProblem> {
        let parts = reader.parts().map(<[_]>::to_vec);
        let mut data = Data {
            reader,
            parts: parts.unwrap_or_else(|| vec![(0, header.size)]).into(),
            at: 0,
            size: header.size,
            failed: None,
        };
        let written = self.writer.write_file(path, attributes, &mut data);
        match data.failed {
            Some(error) => Err(FileProblem::Tar(error)),
            None => written.map_err(FileProblem::Write),
        }
    }

    /// Makes another name of something, which takes on what the archive says of the name.
    fn hard_link(&mut self, path: &TreePath, header: &Header) -> Result<(), FileProblem> {
        let target = self.resolve(&clean(&header.link)?, false)?;
        if self.writer.entry(&target).is_none() {
            return Err(FileProblem::NotFound {
                path: target,
                nearest: Vec::new(),
            });
        }
        self.writer
            .hard_link(path, &target)
            .map_err(FileProblem::Write)?;
        let Some(entry) = self.writer.entry(path) else {
            return Ok(());
        };
        let old = entry.attributes.clone();
        let mut attributes = self.attributes(header, Some(path));
        if entry.kind == Kind::Symlink {
            (attributes.mode, attributes.mtime) = (old.mode, old.mtime);
        }
        if attributes == old {
            return Ok(());
        }
        self.writer
            .set_attributes(path, attributes)
            .map_err(FileProblem::Write)
    }

    /// What the archive says of an entry. What is merged keeps the extended attributes it has.
    fn attributes(&self, header: &Header, merged: Option<&TreePath>) -> Attributes {
        let owner = self.owner.unwrap_or(Owner {
            uid: header.uid,
            gid: header.gid,
        });
        let kept = merged.and_then(|path| self.writer.entry(path));
        let kept = kept
            .into_iter()
            .flat_map(|entry| entry.attributes.xattrs.iter());
        let told = header
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        let xattrs = kept
            .chain(told)
            .map(|(name, value)| (name.into(), value.into()));
        Attributes {
            mode: if header.kind == TarKind::Symlink {
                0o777
            } else {
                header.mode
            },
            uid: owner.uid,
            gid: owner.gid,
            mtime: bounded(header.mtime),
            xattrs: Xattrs::new(xattrs),
        }
    }

    /// Makes the directories on the way to an entry that are not there, as root's.
    fn make_parents(&mut self, name: &TreePath) -> Result<(), FileProblem> {
        let Some(parent) = name.parent() else {
            return Ok(());
        };
        if self
            .resolve(&parent, true)
            .is_ok_and(|path| self.writer.entry(&path).is_some())
        {
            return Ok(());
        }
        let mut at = TreePath::root();
        for part in parent.components() {
            at = at.join(part).map_err(|_| unusable(part))?;
            let path = self.resolve(&at, true)?;
            match self.writer.entry(&path) {
                Some(entry) if entry.is_directory() => {}
                Some(_) => return Err(FileProblem::NotADirectory { path }),
                None => {
                    let attributes = Attributes {
                        mode: IMPLIED,
                        mtime: self.writer.now(),
                        ..Attributes::default()
                    };
                    self.writer
                        .make_directory(&path, attributes)
                        .map_err(FileProblem::Write)?;
                }
            }
        }
        Ok(())
    }

    /// Where a name of the archive leads in the tree: links of its parents are followed below the
    /// destination, and of itself if `follow`. What it leads to may not exist, its parents must.
    fn resolve(&self, name: &TreePath, follow: bool) -> Result<TreePath, FileProblem> {
        let mut todo: VecDeque<Vec<u8>> = name.components().map(<[u8]>::to_vec).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let path = |at: &[Vec<u8>]| {
            let below = TreePath::new(at.join(&b'/')).unwrap_or_default();
            self.dest.join_path(&below)
        };
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    continue;
                }
                _ => at.push(part),
            }
            let here = path(&at);
            let entry = self.writer.entry(&here);
            match entry.map(|entry| entry.kind) {
                Some(Kind::Symlink) if follow || !todo.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        let error = crate::tree::view::ResolveError::TooManyLinks { path: here };
                        return Err(FileProblem::Resolve(error));
                    }
                    let target = entry.map_or(&b""[..], |entry| &entry.target);
                    if target.starts_with(b"/") {
                        at.clear();
                    } else {
                        at.pop();
                    }
                    for part in target.split(|&byte| byte == b'/').rev() {
                        todo.push_front(part.to_vec());
                    }
                }
                Some(Kind::Directory) => {}
                Some(_) if !todo.is_empty() => {
                    return Err(FileProblem::NotADirectory { path: here });
                }
                None if !todo.is_empty() => {
                    return Err(FileProblem::NotFound {
                        path: here,
                        nearest: Vec::new(),
                    });
                }
                _ => {}
            }
        }
        Ok(path(&at))
    }
}

fn clean(name: &[u8]) -> Result<TreePath, FileProblem> {
    TreePath::clean(name).map_err(|_| unusable(name))
}

fn unusable(name: &[u8]) -> FileProblem {
    FileProblem::Path {
        path: String::from_utf8_lossy(name).into_owned(),
    }
}

/// Times that Go's library of archives does not set become 1970.
fn bounded(time: Timestamp) -> Timestamp {
    /// The last second that fits into nanoseconds of 64 bits.
    const LAST: i64 = i64::MAX / 1_000_000_000;
    if (0..LAST).contains(&time.seconds) {
        time
    } else {
        Timestamp::default()
    }
}

/// The bytes of one file, with zeros where it has holes.
struct Data<'r, R> {
    reader: &'r mut TarReader<R>,
    /// Where bytes are that the archive has: start and length, in order.
    parts: VecDeque<(u64, u64)>,
    at: u64,
    size: u64,
    failed: Option<TarError>,
}

impl<R: Read> Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self
            .parts
            .front()
            .is_some_and(|(start, length)| start + length <= self.at)
        {
            self.parts.pop_front();
        }
        let most = |bytes: u64| {
            usize::try_from(bytes)
                .unwrap_or(usize::MAX)
                .min(buffer.len())
        };
        let (hole, length) = match self.parts.front() {
            Some(&(start, length)) if start <= self.at => (false, most(start + length - self.at)),
            Some(&(start, _)) => (true, most(start - self.at)),
            None => (true, most(self.size.saturating_sub(self.at))),
        };
        let length = if hole || length == 0 {
            buffer[..length].fill(0);
            length
        } else {
            match self.reader.data(length as u64) {
                Ok(data) => {
                    buffer[..data.len()].copy_from_slice(data);
                    data.len()
                }
                Err(error) => {
                    self.failed = Some(error);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        };
        self.at += length as u64;
        Ok(length)
    }
}

/// A problem with a layer is one of the layer also where an archive is unpacked into it.
impl FileProblem {
    pub(super) fn write_error(&self) -> Option<&WriteError> {
        match self {
            Self::Write(error) => Some(error),
            Self::Unpack { problem, .. } => problem.write_error(),
            _ => None,
        }
    }
}
