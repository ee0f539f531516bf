//! Going through an upper directory.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, Statx, StatxFlags, readlinkat, statx};

use super::compare::{same, same_directory};
use super::{CaptureError, CaptureOptions, failed};
use crate::dir;
use crate::tree::entry::{Device, open_mode};
use crate::tree::index::{IndexError, MAX_PATH, is_overlay_xattr};
use crate::tree::{Attributes, Entry, Kind, Node, Timestamp, TreePath, View, Xattrs};

/// One object that may become an entry.
pub(super) struct Found {
    pub(super) path: TreePath,
    pub(super) entry: Entry,
    /// Whether it becomes an entry. A directory that is not kept here becomes one if something
    /// in it does.
    pub(super) keep: bool,
    /// Its directory, in [`Upper::directories`].
    pub(super) parent: usize,
    /// Device and inode, if the inode has other names.
    pub(super) inode: Option<(u32, u32, u64)>,
    /// Whether a name came into its directory or went.
    pub(super) in_directory_changed: bool,
}

/// What has to be done to a directory on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fix {
    Unlink(Box<[u8]>),
    RemoveDirectory(Box<[u8]>),
    MakeWhiteout(Box<[u8]>),
    /// Remove the mark from the directory itself.
    ClearOpaque,
    /// Set the mark on the directory itself.
    SetOpaque,
}

/// A directory of the upper directory, in the order of a walk.
pub(super) struct Directory {
    pub(super) path: TreePath,
    /// Its own place in [`Upper::found`]; `None` for the root.
    pub(super) found: Option<usize>,
    /// Its time, to be restored after fixes.
    pub(super) mtime: Timestamp,
    pub(super) fixes: Vec<Fix>,
}

/// All that is there.
pub(super) struct Upper {
    pub(super) root: Entry,
    /// In the order of a walk.
    pub(super) found: Vec<Found>,
    pub(super) directories: Vec<Directory>,
}

/// A name in a directory; nothing where a whiteout has to be made.
struct Child {
    name: Box<[u8]>,
    object: Option<Object>,
}

struct Object {
    stat: Statx,
    xattrs: Vec<dir::Xattr>,
    target: Box<[u8]>,
}

/// A directory whose children are being looked at. No handle is kept: a tree may be deeper than
/// the number of handles that a process may have.
struct Frame {
    directory: usize,
    children: std::vec::IntoIter<Child>,
    /// The directory of the base that shows through.
    below: Option<Arc<Node>>,
    /// Nothing of the base shows through, although `below` is there.
    opaque: bool,
}

pub(super) fn read(
    fs: BorrowedFd<'_>,
    base: &View,
    options: &CaptureOptions,
) -> Result<Upper, CaptureError> {
    let root = TreePath::root();
    let stat = stat(fs, b".").map_err(failed("look at", &root))?;
    if options.single_id.is_some() {
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777 | 0o700);
        rustix::fs::fchmod(fs, mode).map_err(|error| failed("open", &root)(error.into()))?;
    }
    let xattrs = dir::xattrs(fs, b".").map_err(failed("read the attributes of", &root))?;
    let object = Object {
        stat,
        xattrs,
        target: Box::default(),
    };
    let entry = entry(&object, Kind::Directory, Some(base.root()), None, options);
    let mtime = entry.attributes.mtime;
    let mut upper = Upper {
        root: entry,
        found: Vec::new(),
        directories: Vec::new(),
    };
    upper.directories.push(Directory {
        path: root,
        found: None,
        mtime,
        fixes: Vec::new(),
    });
    let mut frames = vec![open(
        fs,
        &upper,
        0,
        Some(base.root().clone()),
        false,
        options,
    )?];
    while let Some(frame) = frames.last_mut() {
        let Some(child) = frame.children.next() else {
            frames.pop();
            continue;
        };
        if let Some(below) = visit(fs, &mut upper, frame, child, options)? {
            let last = upper.directories.len() - 1;
            frames.push(open(fs, &upper, last, below.node, below.opaque, options)?);
        }
    }
    Ok(upper)
}

/// What shows through below a directory that is to be entered.
struct Below {
    node: Option<Arc<Node>>,
    opaque: bool,
}

/// Takes one object in; returns how to go on if it is a directory.
fn visit(
    fs: BorrowedFd<'_>,
    upper: &mut Upper,
    frame: &Frame,
    child: Child,
    options: &CaptureOptions,
) -> Result<Option<Below>, CaptureError> {
    let parent = frame.directory;
    let path = upper.directories[parent]
        .path
        .join(&child.name)
        .map_err(|_| {
            failed("use the name of", &upper.directories[parent].path)(
                std::io::ErrorKind::InvalidData.into(),
            )
        })?;
    if path.as_bytes().len() > MAX_PATH {
        let start = String::from_utf8_lossy(path.components().next().unwrap_or_default());
        let (start, length) = (start.chars().take(100).collect(), path.as_bytes().len());
        return Err(CaptureError::Index(IndexError::PathTooLong {
            start,
            length,
        }));
    }
    let below = frame
        .below
        .as_ref()
        .and_then(|node| node.child(&child.name))
        .cloned();
    let within = upper.directories[parent].found;
    let fixes = &mut upper.directories[parent].fixes;
    let whiteout = |path| Found {
        path,
        entry: Entry::whiteout(),
        keep: true,
        parent,
        inode: None,
        in_directory_changed: true,
    };
    let Some(object) = child.object else {
        fixes.push(Fix::MakeWhiteout(child.name));
        upper.found.push(whiteout(path));
        return Ok(None);
    };
    let kind = match kind(&object.stat) {
        Some(Kind::Whiteout) => {
            if below.is_some() {
                upper.found.push(whiteout(path));
            } else {
                fixes.push(Fix::Unlink(child.name));
            }
            return Ok(None);
        }
        None => {
            fixes.push(Fix::Unlink(child.name.clone()));
            if below.is_some() {
                fixes.push(Fix::MakeWhiteout(child.name));
                upper.found.push(whiteout(path));
            }
            return Ok(None);
        }
        Some(kind) => kind,
    };
    let within = within.map_or(&upper.root, |at| &upper.found[at].entry);
    let entry = entry(&object, kind, below.as_ref(), Some(within), options);
    let in_directory_changed = below.is_none();
    if kind == Kind::Directory {
        let at = upper.found.len();
        let (found, directory, next) = directory(&object, entry, path, below, frame, options);
        upper.directories.push(Directory {
            found: Some(at),
            ..directory
        });
        upper.found.push(Found {
            parent,
            in_directory_changed,
            ..found
        });
        return Ok(Some(next));
    }
    let unchanged = match &below {
        Some(below) => same(fs, &path, below, &entry)?,
        None => false,
    };
    if unchanged {
        fixes.push(Fix::Unlink(child.name));
        return Ok(None);
    }
    let stat = &object.stat;
    let inode =
        (stat.stx_nlink > 1).then_some((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino));
    upper.found.push(Found {
        path,
        entry,
        keep: true,
        parent,
        inode,
        in_directory_changed,
    });
    Ok(None)
}

fn directory(
    object: &Object,
    mut entry: Entry,
    path: TreePath,
    below: Option<Arc<Node>>,
    frame: &Frame,
    options: &CaptureOptions,
) -> (Found, Directory, Below) {
    let mark = object
        .xattrs
        .iter()
        .find(|(name, _)| **name == *options.opaque_mark());
    let opaque = mark.is_some_and(|(_, value)| **value == *b"y");
    let replaces = below
        .as_ref()
        .is_some_and(|node| !node.entry().is_directory());
    let node = below.filter(|node| node.entry().is_directory());
    let mut fixes = Vec::new();
    if replaces {
        entry.opaque = true;
        if !opaque {
            fixes.push(Fix::SetOpaque);
        }
    } else if mark.is_some() {
        fixes.push(Fix::ClearOpaque);
    }
    let keep = node
        .as_ref()
        .is_none_or(|node| !same_directory(node.entry(), &entry));
    let mtime = entry.attributes.mtime;
    let directory = Directory {
        path: path.clone(),
        found: None,
        mtime,
        fixes,
    };
    let found = Found {
        path,
        entry,
        keep,
        parent: 0,
        inode: None,
        in_directory_changed: false,
    };
    (
        found,
        directory,
        Below {
            node,
            opaque: frame.opaque || opaque,
        },
    )
}

/// Looks at all that is in a directory.
fn open(
    fs: BorrowedFd<'_>,
    upper: &Upper,
    directory: usize,
    below: Option<Arc<Node>>,
    opaque: bool,
    options: &CaptureOptions,
) -> Result<Frame, CaptureError> {
    options.cancel.check()?;
    let path = &upper.directories[directory].path;
    let handle = dir::open_directory(fs, path.as_bytes()).map_err(failed("open", path))?;
    let mut children: BTreeMap<Box<[u8]>, Option<Object>> = BTreeMap::new();
    if opaque && let Some(below) = &below {
        children.extend(
            below
                .children()
                .iter()
                .map(|(name, _)| ((**name).into(), None)),
        );
    }
    let listing = Dir::read_from(&handle).map_err(|error| failed("list", path)(error.into()))?;
    for item in listing {
        let item = item.map_err(|error| failed("list", path)(error.into()))?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let unlock = options.single_id.is_some();
        let object = look(handle.as_fd(), name, unlock).map_err(failed("look into", path))?;
        children.insert(name.into(), Some(object));
    }
    let children: Vec<Child> = children
        .into_iter()
        .map(|(name, object)| Child { name, object })
        .collect();
    Ok(Frame {
        directory,
        children: children.into_iter(),
        below,
        opaque,
    })
}

/// What an object is. With `unlock` one that its owner may not read is opened to the owner, who is
/// the engine; what is told is the mode that it had.
fn look(directory: BorrowedFd<'_>, name: &[u8], unlock: bool) -> std::io::Result<Object> {
    let stat = stat(directory, name)?;
    let mut target = Box::default();
    let kind = kind(&stat);
    if let Some(kind @ (Kind::File | Kind::Directory)) = kind.filter(|_| unlock) {
        let mode = u32::from(stat.stx_mode) & 0o7777;
        let open = open_mode(kind, mode);
        if open != mode {
            dir::set_mode(directory, name, open)?;
        }
    }
    if kind == Some(Kind::Symlink) {
        target = readlinkat(directory, dir::name(name), Vec::new())?
            .into_bytes()
            .into();
    }
    let bare = matches!(kind, None | Some(Kind::Whiteout));
    let xattrs = if bare {
        Vec::new()
    } else {
        dir::xattrs(directory, name)?
    };
    Ok(Object {
        stat,
        xattrs,
        target,
    })
}

pub(super) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(statx(
        directory,
        dir::name(name),
        flags,
        StatxFlags::BASIC_STATS,
    )?)
}

/// What an object is; `None` for what no layer can have.
pub(super) fn kind(stat: &Statx) -> Option<Kind> {
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Symlink),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::CharacterDevice if (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0) => {
            Some(Kind::Whiteout)
        }
        FileType::CharacterDevice => Some(Kind::CharDevice),
        _ => None,
    }
}

pub(super) fn mtime(stat: &Statx) -> Timestamp {
    Timestamp {
        seconds: stat.stx_mtime.tv_sec,
        nanoseconds: stat.stx_mtime.tv_nsec,
    }
}

/// The bit of a directory that makes what is new in it belong to its group.
const SET_GROUP_ID: u32 = 0o2000;

fn entry(
    object: &Object,
    kind: Kind,
    below: Option<&Arc<Node>>,
    within: Option<&Entry>,
    options: &CaptureOptions,
) -> Entry {
    let stat = &object.stat;
    let (mut uid, mut gid) = (stat.stx_uid, stat.stx_gid);
    let mut mode = u32::from(stat.stx_mode) & 0o7777;
    if let Some(process) = options.single_id {
        (uid, gid) = process;
        let replaced = below.map(|node| node.entry());
        if let Some(replaced) = replaced.filter(|entry| entry.kind == kind) {
            let replaced = &replaced.attributes;
            (uid, gid) = (replaced.uid, replaced.gid);
            if mode == open_mode(kind, replaced.mode) {
                mode = replaced.mode;
            }
        } else if let Some(within) = within.map(|it| &it.attributes)
            && within.mode & SET_GROUP_ID != 0
        {
            gid = within.gid;
        }
    }
    let attributes = Attributes {
        mode,
        uid,
        gid,
        mtime: mtime(stat),
        xattrs: Xattrs::new(
            object
                .xattrs
                .iter()
                .filter(|(name, _)| is_content(name))
                .cloned(),
        ),
    };
    let mut entry = Entry::new(kind, attributes);
    match kind {
        Kind::File => {
            entry.size = stat.stx_size;
            entry.allocated = stat.stx_blocks.saturating_mul(512);
        }
        Kind::Symlink => entry.target = object.target.clone(),
        Kind::CharDevice | Kind::BlockDevice => {
            entry.device = Device {
                major: stat.stx_rdev_major,
                minor: stat.stx_rdev_minor,
            };
        }
        Kind::Directory | Kind::Fifo | Kind::Whiteout => {}
    }
    entry
}

/// Whether an extended attribute belongs to the object and not to the machine: the labels of
/// security modules do not.
fn is_content(name: &[u8]) -> bool {
    let label = name.starts_with(b"security.") && name != b"security.capability";
    !label && !is_overlay_xattr(name)
}
