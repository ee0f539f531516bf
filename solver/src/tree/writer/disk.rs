//! The directory of a layer on disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, chmodat, chownat,
    fchmod, fchown, fstat, futimens, linkat, mkdirat, mknodat, openat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use crate::content::WRITE_SIZE;
use crate::dir;
use crate::tree::entry::{Attributes, open_mode};
use crate::tree::index::is_overlay_xattr;
use crate::tree::whiteout::make_whiteout;
use crate::tree::{Entry, Kind, TreePath};

/// Directory handles kept open; a handful of directories is written at a time.
const HANDLES: usize = 32;

/// The `fs` directory of a layer.
#[derive(Debug)]
pub(super) struct Disk {
    fs: Arc<OwnedFd>,
    pub(super) privileged: bool,
    handles: HashMap<TreePath, Arc<OwnedFd>>,
    /// Who owns what this process makes.
    owner: OnceLock<(u32, u32)>,
}

impl Disk {
    pub(super) fn new(fs: OwnedFd, privileged: bool) -> io::Result<Self> {
        // Ours alone while it is being filled, and without the bits that new objects inherit.
        fchmod(&fs, Mode::from(0o700))?;
        Ok(Self {
            fs: Arc::new(fs),
            privileged,
            handles: HashMap::new(),
            owner: OnceLock::new(),
        })
    }

    /// The root directory of the layer.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }

    /// Opens a directory of the layer.
    pub(super) fn open_directory(&self, path: &[u8]) -> io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.fs.clone());
        }
        dir::open_directory(&*self.fs, path).map(Arc::new)
    }

    /// As [`Disk::open_directory`], from the handles that are kept open.
    pub(super) fn directory(&mut self, path: &TreePath) -> io::Result<Arc<OwnedFd>> {
        if let Some(handle) = self.handles.get(path) {
            return Ok(handle.clone());
        }
        let handle = self.open_directory(path.as_bytes())?;
        if self.handles.len() >= HANDLES {
            self.handles.clear();
        }
        self.handles.insert(path.clone(), handle.clone());
        Ok(handle)
    }

    /// Must be called when a directory is removed.
    pub(super) fn forget_handles(&mut self) {
        self.handles.clear();
    }

    /// The directory and name of an object that is not the root.
    pub(super) fn place<'a>(&mut self, path: &'a TreePath) -> io::Result<(Arc<OwnedFd>, &'a [u8])> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(Errno::INVAL.into());
        };
        Ok((self.directory(&parent)?, name))
    }

    /// Makes a directory, which is given its attributes by [`Disk::seal_directory`].
    pub(super) fn make_directory(&mut self, path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        Ok(mkdirat(&*parent, dir::name(name), Mode::from(0o700))?)
    }

    pub(super) fn remove(&mut self, path: &TreePath, directory: bool) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        let flags = if directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        Ok(unlinkat(&*parent, dir::name(name), flags)?)
    }

    pub(super) fn make_whiteout(&mut self, path: &TreePath) -> io::Result<()> {
        let (parent, name) = self.place(path)?;
        make_whiteout(parent.as_fd(), name, self.privileged)?;
        Ok(())
    }

    /// Makes another name of an object of the layer. Returns whether the file system allows it.
    pub(super) fn link(&mut self, existing: &TreePath, path: &TreePath) -> io::Result<bool> {
        let (from, old) = self.place(existing)?;
        let (to, new) = self.place(path)?;
        link(&*from, old, &*to, new)
    }

    /// Makes a symbolic link, device or pipe.
    pub(super) fn make_special(
        &self,
        parent: impl AsFd,
        name: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        let (parent, os_name) = (parent.as_fd(), dir::name(name));
        let mode = Mode::from(0o600);
        let device = rustix::fs::makedev(entry.device.major, entry.device.minor);
        match entry.kind {
            Kind::Symlink => symlinkat(dir::name(&entry.target), parent, os_name)?,
            Kind::Fifo => mknodat(parent, os_name, FileType::Fifo, mode, 0)?,
            Kind::CharDevice if self.privileged => {
                mknodat(parent, os_name, FileType::CharacterDevice, mode, device)?;
            }
            Kind::BlockDevice if self.privileged => {
                mknodat(parent, os_name, FileType::BlockDevice, mode, device)?;
            }
            // Only the index knows that it is a device.
            _ => drop(create(parent, name)?),
        }
        self.set_attributes(parent, name, entry, true)
    }

    /// Owner, extended attributes, mode and time of anything but a directory, known by its name.
    /// `fresh`: it was just made by this process.
    pub(super) fn set_attributes(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        fresh: bool,
    ) -> io::Result<()> {
        let (attributes, os_name) = (&entry.attributes, dir::name(name));
        if self.privileged {
            let (uid, gid) = owner(attributes);
            chownat(parent, os_name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.set_xattrs(parent, name, entry, fresh)?;
        if entry.kind != Kind::Symlink {
            chmodat(parent, os_name, self.mode(entry), AtFlags::empty())?;
        }
        utimensat(
            parent,
            os_name,
            &times(attributes),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    /// As [`Disk::set_attributes`] for a regular file that was just made and is open.
    pub(super) fn seal_file(
        &self,
        file: &File,
        parent: impl AsFd,
        name: &[u8],
        entry: &Entry,
    ) -> io::Result<()> {
        let attributes = &entry.attributes;
        if self.privileged && self.owner(file)? != (attributes.uid, attributes.gid) {
            let (uid, gid) = owner(attributes);
            fchown(file, uid, gid)?;
        }
        self.set_xattrs(parent.as_fd(), name, entry, true)?;
        fchmod(file, self.mode(entry))?;
        futimens(file, &times(attributes))?;
        Ok(())
    }

    /// Gives a directory its final attributes.
    pub(super) fn seal_directory(&self, path: &TreePath, entry: &Entry) -> io::Result<()> {
        let directory = self.open_directory(path.as_bytes())?;
        let attributes = &entry.attributes;
        if self.privileged {
            let (uid, gid) = owner(attributes);
            fchown(&*directory, uid, gid)?;
        }
        // `.` in the directory names itself.
        self.set_xattrs(directory.as_fd(), b".", entry, true)?;
        if entry.opaque {
            let key: &[u8] = if self.privileged {
                b"trusted.overlay.opaque"
            } else {
                b"user.overlay.opaque"
            };
            if !dir::set_xattr(&*directory, b".", key, b"y")? {
                return Err(Errno::NOTSUP.into());
            }
        }
        fchmod(&*directory, self.mode(entry))?;
        futimens(&*directory, &times(attributes))?;
        Ok(())
    }

    fn owner(&self, file: &File) -> io::Result<(u32, u32)> {
        if let Some(&owner) = self.owner.get() {
            return Ok(owner);
        }
        let stat = fstat(file)?;
        Ok(*self.owner.get_or_init(|| (stat.st_uid, stat.st_gid)))
    }

    /// The mode on disk. Without privileges everything stays readable for its owner, who is the
    /// engine; the index knows better.
    fn mode(&self, entry: &Entry) -> Mode {
        let mode = entry.attributes.mode;
        Mode::from(match entry.kind {
            _ if self.privileged => mode,
            Kind::CharDevice | Kind::BlockDevice => 0o600,
            kind => open_mode(kind, mode),
        })
    }

    fn set_xattrs(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        fresh: bool,
    ) -> io::Result<()> {
        let wanted = &entry.attributes.xattrs;
        if !fresh {
            for (key, _) in dir::xattrs(parent, name)? {
                let system = key.starts_with(b"security.") && &*key != b"security.capability";
                if !system && !is_overlay_xattr(&key) && wanted.value(&key).is_none() {
                    dir::remove_xattr(parent, name, &key)?;
                }
            }
        }
        let plain = matches!(entry.kind, Kind::File | Kind::Directory);
        for (key, value) in wanted.iter() {
            let user = key.starts_with(b"user.");
            if (self.privileged || user) && (plain || !user) {
                // Where it cannot be, the index has it.
                dir::set_xattr(parent, name, key, value)?;
            }
        }
        Ok(())
    }
}

/// Makes an empty regular file, for this process alone.
pub(super) fn create(parent: impl AsFd, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(
        parent,
        dir::name(name),
        flags,
        Mode::from(0o600),
    )?))
}

/// Makes a hard link. Returns whether the file system allows it.
pub(super) fn link(from: impl AsFd, old: &[u8], to: impl AsFd, new: &[u8]) -> io::Result<bool> {
    match linkat(from, dir::name(old), to, dir::name(new), AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::XDEV | Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes at an offset; blocks of zeros become holes if the original had some.
pub(super) fn write_block(
    file: &mut File,
    block: &[u8],
    offset: u64,
    sparse: bool,
) -> io::Result<()> {
    if !sparse {
        let mut parts = block.chunks(WRITE_SIZE);
        return parts.try_for_each(|part| file.write_all(part));
    }
    if block.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    file.write_all_at(block, offset)
}

fn owner(attributes: &Attributes) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(attributes.uid)),
        Some(Gid::from_raw(attributes.gid)),
    )
}

fn times(attributes: &Attributes) -> Timestamps {
    let mtime = attributes.mtime;
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        },
    }
}
