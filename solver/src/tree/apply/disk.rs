//! What unpacking does to the file system.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fremovexattr, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::ApplyOptions;
use super::attributes::{CAPABILITY, without_xattrs};
use super::staging::{Id, ROOT, Staged};
use crate::tree::entry::{Device, open_mode};
use crate::tree::whiteout::make_whiteout;
use crate::tree::{Attributes, Kind};

/// Directories that are kept open at most; paths can be deeper.
const OPEN: usize = 24;

/// The layer directory.
#[derive(Debug)]
pub(super) struct Disk<'a> {
    fs: BorrowedFd<'a>,
    options: ApplyOptions,
    me: (u32, u32),
    /// Open directories on the way to the last one that was used.
    open: Vec<(Id, OwnedFd)>,
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

impl<'a> Disk<'a> {
    pub(super) fn new(fs: BorrowedFd<'a>, options: ApplyOptions) -> Self {
        let me = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        Self {
            fs,
            options,
            me,
            open: Vec::new(),
        }
    }

    /// The open directory of a node, by single names from the nearest that is open.
    pub(super) fn directory(&mut self, tree: &Staged, id: Id) -> Result<BorrowedFd<'_>, Errno> {
        if id == ROOT {
            return Ok(self.fs);
        }
        let mut names = Vec::new();
        let mut at = id;
        let found = loop {
            if at == ROOT {
                break None;
            }
            if let Some(found) = self.open.iter().rposition(|(open, _)| *open == at) {
                break Some(found);
            }
            names.push(at);
            at = tree.node(at).parent;
        };
        self.open.truncate(found.map_or(0, |found| found + 1));
        for next in names.into_iter().rev() {
            let here = self.open.last().map_or(self.fs, |(_, fd)| fd.as_fd());
            let fd = openat(
                here,
                os(&tree.node(next).name),
                directory_flags(),
                Mode::empty(),
            )?;
            if self.open.len() >= OPEN {
                self.open.remove(0);
            }
            self.open.push((next, fd));
        }
        Ok(self.open.last().map_or(self.fs, |(_, fd)| fd.as_fd()))
    }

    /// Forgets open directories; needed before one of them is removed.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    pub(super) fn make_directory(
        &mut self,
        tree: &Staged,
        parent: Id,
        name: &[u8],
    ) -> Result<(), Errno> {
        mkdirat(
            self.directory(tree, parent)?,
            os(name),
            Mode::from_raw_mode(0o700),
        )
    }

    /// A new empty file, open for writing.
    pub(super) fn create(&mut self, tree: &Staged, parent: Id, name: &[u8]) -> Result<File, Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        Ok(openat(self.directory(tree, parent)?, os(name), flags, mode)?.into())
    }

    /// Sets what an open file or directory should have, its time last.
    pub(super) fn dress(
        &self,
        file: BorrowedFd<'_>,
        attributes: &Attributes,
        directory: bool,
    ) -> Result<(), Errno> {
        let mut mode = attributes.mode;
        if self.options.privileged {
            if (attributes.uid, attributes.gid) != self.me {
                let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
                fchown(file, Some(uid), Some(gid))?;
            }
        } else {
            let kind = if directory {
                Kind::Directory
            } else {
                Kind::File
            };
            mode = open_mode(kind, mode);
        }
        for (name, value) in attributes.xattrs.iter() {
            if self.options.privileged || name.starts_with(b"user.") {
                ignore_unsupported(fsetxattr(file, os(name), value, XattrFlags::empty()))?;
            }
        }
        fchmod(file, Mode::from_raw_mode(mode))?;
        futimens(file, &times(attributes))
    }

    /// Sets attributes, mode and times of a directory; to be done when nothing more changes in
    /// it. Also sets owners back to those of this process where they had been others before.
    pub(super) fn dress_directory(
        &mut self,
        tree: &Staged,
        id: Id,
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        let fd = self
            .directory(tree, id)?
            .try_clone_to_owned()
            .map_err(|_| Errno::MFILE)?;
        self.dress(fd.as_fd(), attributes, true)
    }

    pub(super) fn symlink(
        &mut self,
        tree: &Staged,
        parent: Id,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        symlinkat(os(target), self.directory(tree, parent)?, os(name))?;
        self.dress_name(tree, parent, name, attributes)
    }

    /// A device or pipe. What the process may not make is an empty file, so that nothing of the
    /// layers below shows in its place.
    pub(super) fn node(
        &mut self,
        tree: &Staged,
        parent: Id,
        name: &[u8],
        kind: Kind,
        device: Device,
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        let file_type = match kind {
            Kind::CharDevice => FileType::CharacterDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if !self.options.privileged && kind != Kind::Fifo {
            let file = self.create(tree, parent, name)?;
            return self.dress(file.as_fd(), &without_xattrs(attributes), false);
        }
        let number = rustix::fs::makedev(device.major, device.minor);
        let directory = self.directory(tree, parent)?;
        mknodat(
            directory,
            os(name),
            file_type,
            Mode::from_raw_mode(0o600),
            number,
        )?;
        self.dress_node(tree, parent, name, attributes)
    }

    /// Mode, owner, extended attributes and time of a device or pipe.
    fn dress_node(
        &mut self,
        tree: &Staged,
        parent: Id,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        // The node was made here, in a directory that nobody else writes to: no link is there.
        let mode = Mode::from_raw_mode(attributes.mode);
        let directory = self.directory(tree, parent)?;
        rustix::fs::chmodat(directory, os(name), mode, AtFlags::empty())?;
        self.dress_name(tree, parent, name, attributes)?;
        // A change of owner takes setuid and setgid away.
        if self.options.privileged && attributes.mode & 0o6000 != 0 {
            let directory = self.directory(tree, parent)?;
            rustix::fs::chmodat(directory, os(name), mode, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Owner, extended attributes and time of something that cannot be opened.
    fn dress_name(
        &mut self,
        tree: &Staged,
        parent: Id,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<(), Errno> {
        let (options, me) = (self.options, self.me);
        let directory = self.directory(tree, parent)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if options.privileged && (attributes.uid, attributes.gid) != me {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            chownat(directory, os(name), Some(uid), Some(gid), nofollow)?;
        }
        if options.privileged && !attributes.xattrs.is_empty() {
            use std::os::fd::AsRawFd as _;
            let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
            path.extend_from_slice(name);
            for (name, value) in attributes.xattrs.iter() {
                let set = rustix::fs::lsetxattr(os(&path), os(name), value, XattrFlags::empty());
                ignore_unsupported(set)?;
            }
        }
        utimensat(directory, os(name), &times(attributes), nofollow)
    }

    /// Sets attributes of something that had others before; opens it if it is a file on disk.
    pub(super) fn redress(
        &mut self,
        tree: &Staged,
        parent: Id,
        name: &[u8],
        kind: Kind,
        attributes: &Attributes,
    ) -> Result<Option<File>, Errno> {
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        if kind != Kind::File && (self.options.privileged || !device) {
            match kind {
                Kind::Symlink => self.dress_name(tree, parent, name, attributes)?,
                _ => self.dress_node(tree, parent, name, attributes)?,
            }
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(
            self.directory(tree, parent)?,
            os(name),
            flags,
            Mode::empty(),
        )?;
        if self.options.privileged {
            match fremovexattr(&file, os(CAPABILITY)) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        match device {
            true => self.dress(file.as_fd(), &without_xattrs(attributes), false)?,
            false => self.dress(file.as_fd(), attributes, false)?,
        }
        Ok(Some(file.into()))
    }

    pub(super) fn hard_link(
        &mut self,
        tree: &Staged,
        (target_parent, target): (Id, &[u8]),
        (parent, name): (Id, &[u8]),
    ) -> Result<(), Errno> {
        let from = self.directory(tree, target_parent)?;
        let from = from.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        let to = self.directory(tree, parent)?;
        linkat(&from, os(target), to, os(name), AtFlags::empty())
    }

    /// The mark that hides something of the layers below.
    pub(super) fn whiteout(&mut self, tree: &Staged, parent: Id, name: &[u8]) -> io::Result<()> {
        let privileged = self.options.privileged;
        make_whiteout(self.directory(tree, parent)?, name, privileged)
    }

    /// The mark that hides all of a directory of the layers below.
    pub(super) fn opaque(&mut self, tree: &Staged, id: Id) -> Result<(), Errno> {
        let name = if self.options.privileged {
            "trusted.overlay.opaque"
        } else {
            "user.overlay.opaque"
        };
        let directory = self.directory(tree, id)?;
        ignore_unsupported(fsetxattr(directory, name, b"y", XattrFlags::empty()))
    }

    /// Removes a name and all below it that was made.
    pub(super) fn remove(&mut self, tree: &Staged, id: Id) -> Result<(), Errno> {
        // Children before parents, without recursion: paths can be 2,000 directories deep.
        let mut order = vec![id];
        let mut at = 0;
        while at < order.len() {
            order.extend(tree.node(order[at]).children.values());
            at += 1;
        }
        for &node in order.iter().rev() {
            let node = tree.node(node);
            let Some(entry) = &node.entry else { continue };
            let flags = if entry.is_directory() {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            let parent = node.parent;
            unlinkat(self.directory(tree, parent)?, os(&node.name), flags)?;
        }
        self.forget();
        Ok(())
    }
}

/// File systems without such attributes keep them in the index alone.
fn ignore_unsupported(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = Timespec {
        tv_sec: attributes.mtime.seconds,
        tv_nsec: attributes.mtime.nanoseconds.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Bytes that a file takes on disk.
pub(super) fn allocated(file: &File) -> io::Result<u64> {
    let stat = rustix::fs::fstat(file)?;
    Ok(u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512))
}
