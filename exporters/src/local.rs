//! The files of a result in a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::root::remove_tree;
use ashlar_solver::tree::{Entry, Kind, Node, TreePath, View};
use async_trait::async_trait;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use crate::ExportError;
use crate::exporter::{Exported, Exporter, Prepared, blocking};

/// Bytes copied between two looks at the cancel flag.
const CHUNK: u64 = 8 << 20;

/// Writes the files of a result into a directory, over what is there.
///
/// As with BuildKit's client, files belong to the user that exports; modes, times and extended
/// attributes are kept as far as that user may set them. Nothing is written outside of the
/// directory: a symbolic link in the way is replaced, never followed.
#[derive(Debug, Clone)]
pub struct Local {
    path: PathBuf,
}

impl Local {
    /// Exports into `path`, which is made if it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

#[async_trait]
impl Exporter for Local {
    async fn prepare(
        &self,
        result: &BuildResult,
        _cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        let (path, result) = (self.path.clone(), result.clone());
        Ok(Prepared::new(Exported::default(), move |cancel| {
            blocking(move || {
                let view = result.reference().view_until(&cancel)?;
                write_tree(&path, &view, &cancel)
            })
        }))
    }
}

/// One directory that is being filled.
struct Frame<'a> {
    dir: OwnedFd,
    path: TreePath,
    node: &'a Node,
    next: usize,
}

fn write_tree(destination: &Path, view: &View, cancel: &Cancel) -> Result<(), ExportError> {
    std::fs::create_dir_all(destination).map_err(ExportError::io("make directory", destination))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(rustix::fs::CWD, destination, flags, Mode::empty())
        .map_err(|error| ExportError::io("open", destination)(error.into()))?;
    let mut writer = Writer {
        destination,
        root: dir
            .try_clone()
            .map_err(ExportError::io("open", destination))?,
        linked: HashMap::new(),
        cancel,
    };
    let mut stack = vec![Frame {
        dir,
        path: TreePath::root(),
        node: view.root(),
        next: 0,
    }];
    while let Some(frame) = stack.last_mut() {
        cancel.check()?;
        let Some((name, child)) = frame.node.children().get(frame.next) else {
            let done = stack.pop().expect("BUG: the loop saw a frame");
            // The directory that the caller named keeps its own mode and time.
            if !stack.is_empty() {
                finish(done.dir.as_fd(), done.node.entry())
                    .map_err(writer.failed("set the attributes of", &done.path))?;
            }
            continue;
        };
        frame.next += 1;
        let path = frame.path.join(name).expect("BUG: a view holds names only");
        if child.entry().is_directory() {
            let dir = writer.directory(frame.dir.as_fd(), name, &path)?;
            stack.push(Frame {
                dir,
                path,
                node: child,
                next: 0,
            });
        } else {
            writer.leaf(frame.dir.as_fd(), name, &path, child)?;
        }
    }
    Ok(())
}

struct Writer<'a> {
    destination: &'a Path,
    root: OwnedFd,
    /// First path of each group of hard links, by the layer they are from and their number.
    linked: HashMap<(usize, u32), TreePath>,
    cancel: &'a Cancel,
}

impl Writer<'_> {
    fn failed<E: Into<io::Error>>(
        &self,
        action: &'static str,
        path: &TreePath,
    ) -> impl FnOnce(E) -> ExportError + use<E> {
        let path = self.destination.join(path.as_relative());
        move |error| ExportError::Io {
            action,
            path,
            source: error.into(),
        }
    }

    fn directory(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &TreePath,
    ) -> Result<OwnedFd, ExportError> {
        let name = OsStr::from_bytes(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || rustix::fs::mkdirat(dir, name, Mode::RWXU);
        match make() {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
                let is_directory = there
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
                if !is_directory {
                    rustix::fs::unlinkat(dir, name, AtFlags::empty())
                        .map_err(self.failed("replace", path))?;
                    make().map_err(self.failed("make directory", path))?;
                }
            }
            Err(error) => return Err(self.failed("make directory", path)(error)),
        }
        rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(self.failed("open", path))
    }

    fn leaf(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &TreePath,
        node: &Node,
    ) -> Result<(), ExportError> {
        let name = OsStr::from_bytes(name);
        self.clear(dir, name, path)?;
        if let Some(first) = self.link_target(path, node) {
            return rustix::fs::linkat(
                &self.root,
                first.as_relative(),
                dir,
                name,
                AtFlags::empty(),
            )
            .map_err(self.failed("link", path));
        }
        let entry = node.entry();
        match entry.kind {
            Kind::File => self.file(dir, name, path, node),
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.target);
                rustix::fs::symlinkat(target, dir, name).map_err(self.failed("link", path))?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(dir, name, &times(entry), flags)
                    .map_err(self.failed("set the time of", path))
            }
            Kind::Fifo => self.node(dir, name, path, entry, FileType::Fifo),
            Kind::CharDevice => self.node(dir, name, path, entry, FileType::CharacterDevice),
            Kind::BlockDevice => self.node(dir, name, path, entry, FileType::BlockDevice),
            Kind::Directory | Kind::Whiteout => Ok(()),
        }
    }

    /// The path that this one is a hard link of, if it was written already.
    fn link_target(&mut self, path: &TreePath, node: &Node) -> Option<TreePath> {
        let (group, files) = (node.entry().link_group, node.files()?);
        if group == 0 {
            return None;
        }
        let layer = std::sync::Arc::as_ptr(files).cast::<()>() as usize;
        match self.linked.entry((layer, group)) {
            std::collections::hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            std::collections::hash_map::Entry::Vacant(none) => {
                none.insert(path.clone());
                None
            }
        }
    }

    /// Removes what stands in the way, a whole directory if need be.
    fn clear(&self, dir: BorrowedFd<'_>, name: &OsStr, path: &TreePath) -> Result<(), ExportError> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
                remove_tree(dir, name).map_err(self.failed("replace", path))
            }
            Err(error) => Err(self.failed("replace", path)(error)),
        }
    }

    fn file(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &TreePath,
        node: &Node,
    ) -> Result<(), ExportError> {
        let Some(files) = node.files() else {
            return Err(ExportError::Unsupported {
                path: path.to_string(),
                reason: "its bytes are nowhere",
            });
        };
        let mut from = files.open(path).map_err(self.failed("read", path))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let to = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(self.failed("create", path))?;
        let mut to = File::from(to);
        loop {
            self.cancel.check()?;
            let copied = io::copy(&mut io::Read::take(&mut from, CHUNK), &mut to)
                .map_err(self.failed("write", path))?;
            if copied == 0 {
                break;
            }
        }
        finish(to.as_fd(), node.entry()).map_err(self.failed("set the attributes of", path))
    }

    fn node(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &TreePath,
        entry: &Entry,
        kind: FileType,
    ) -> Result<(), ExportError> {
        let mode = Mode::from_raw_mode(entry.attributes.mode & 0o7777);
        let device = rustix::fs::makedev(entry.device.major, entry.device.minor);
        rustix::fs::mknodat(dir, name, kind, mode, device).map_err(self.failed("make", path))?;
        // The mode again, because the umask took bits away; no link can be there by now.
        rustix::fs::chmodat(dir, name, mode, AtFlags::empty())
            .map_err(self.failed("set the mode of", path))?;
        rustix::fs::utimensat(dir, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("set the time of", path))
    }
}

/// Sets extended attributes, mode and time of an open file or directory.
fn finish(fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), io::Error> {
    for (name, value) in entry.attributes.xattrs.iter() {
        let name = OsStr::from_bytes(name);
        match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.attributes.mode & 0o7777))?;
    Ok(rustix::fs::futimens(fd, &times(entry))?)
}

fn times(entry: &Entry) -> Timestamps {
    let time = entry.attributes.mtime;
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
