//! The stat walk of a lent directory, with two threads.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, RawDir, Stat, readlinkat, statat};
use rustix::io::Errno;

use super::LocalError;
use super::files::{LocalFiles, Pending, inode_of, stamp_of};
use super::filter::{Filter, Matches};
use super::folder::{Folder, Item, Leaf, Seen, assemble};
use super::known::{Inode, Known, Near, Stamp};
use crate::cancel::Cancel;
use crate::dir;
use crate::tree::entry::Device;
use crate::tree::index::{MAX_PATH, is_overlay_xattr};
use crate::tree::{Attributes, Entry, Files, Kind, Node, Timestamp, TreePath, Xattrs};

/// Threads that walk. The kernel's locks leave nothing for more.
const THREADS: usize = 2;

/// Bytes of directory entries asked for at once.
const LISTING: usize = 32 << 10;

/// Clocks of file systems advance in ticks of up to 10 ms: a file that changed later than this
/// before it was looked at may change again without showing it.
const UNSETTLED: u32 = 20_000_000;

/// What a walk needs to know.
pub(super) struct Scan<'a> {
    pub(super) name: &'a str,
    pub(super) files: &'a Arc<LocalFiles>,
    pub(super) filter: &'a Filter,
    pub(super) keep_owners: bool,
    pub(super) git_modes: bool,
    pub(super) most: u64,
    /// When the walk began.
    pub(super) start: Timestamp,
    pub(super) cancel: &'a Cancel,
}

/// A directory to be looked into.
struct Task {
    id: usize,
    path: TreePath,
    matches: Matches,
    keep: bool,
    old: Option<Arc<Folder>>,
}

/// A directory that was looked into.
pub(super) struct Listed {
    pub(super) items: Vec<Item>,
    pub(super) old: Option<Arc<Folder>>,
}

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    /// Threads that may still add tasks.
    busy: usize,
    next: usize,
    error: Option<LocalError>,
}

/// The names in a directory, in one piece of memory.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    names: Vec<Name>,
}

/// A name in a directory.
struct Name {
    /// Where it begins, and where it ends.
    place: (usize, usize),
    directory: bool,
    keep: bool,
    matches: Matches,
}

/// What a thread keeps from directory to directory.
struct Worker {
    listing: Vec<u8>,
    names: Names,
    pending: Vec<(u64, Pending)>,
    near: Near,
}

/// What the files of a directory are looked up in, and noted in.
struct Leaves<'a> {
    known: &'a Known,
    near: &'a mut Near,
    pending: &'a mut Vec<(u64, Pending)>,
}

impl Leaves<'_> {
    /// Whether the checksum of a file, if there is one, is of the bytes that belong to its stamp.
    /// What was read may have been another file that was under its path only for a moment.
    fn confirm(&mut self, leaf: &Leaf) -> bool {
        let entry = leaf.node.entry();
        let bytes = entry.kind == Kind::File && entry.size > 0;
        let Some(digest) = leaf.node.digest_memo().get().filter(|_| bytes) else {
            return true;
        };
        let known = self.known.lookup(leaf.inode, &leaf.stamp, self.near);
        known.is_some_and(|(known, _)| known == *digest)
    }
}

impl Scan<'_> {
    /// Walks the directory. Objects that did not change since `old` are taken from there.
    pub(super) fn run(&self, old: Option<Arc<Folder>>) -> Result<Arc<Folder>, LocalError> {
        let first = Task {
            id: 0,
            path: TreePath::root(),
            matches: Matches::default(),
            keep: true,
            old: old.clone(),
        };
        let queue = Queue {
            tasks: vec![first],
            next: 1,
            ..Queue::default()
        };
        let (queue, wake, entries) = (Mutex::new(queue), Condvar::new(), AtomicU64::new(0));
        let work = || self.work(&queue, &wake, &entries);
        let mut listed = std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..THREADS)
                .filter_map(|_| {
                    let thread = std::thread::Builder::new().name("ashlar-scan".to_owned());
                    // Without threads to be had, the caller's does all.
                    thread.spawn_scoped(scope, work).ok()
                })
                .collect();
            let mut listed = work();
            for helper in helpers {
                match helper.join() {
                    Ok(more) => listed.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            listed
        });
        let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = queue.error {
            return Err(error);
        }
        let mut all: Vec<Option<Listed>> = Vec::new();
        all.resize_with(queue.next, || None);
        for (id, directory) in listed.drain(..) {
            all[id] = directory;
        }
        let files: Arc<dyn Files> = self.files.clone();
        assemble(all, &files).ok_or_else(|| LocalError::Missing {
            name: self.name.to_owned(),
        })
    }

    fn work(
        &self,
        queue: &Mutex<Queue>,
        wake: &Condvar,
        entries: &AtomicU64,
    ) -> Vec<(usize, Option<Listed>)> {
        let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = Vec::new();
        let mut worker = Worker {
            listing: Vec::with_capacity(LISTING),
            names: Names::default(),
            pending: Vec::new(),
            near: Near::default(),
        };
        loop {
            let mut waiting = lock();
            let task = loop {
                if waiting.error.is_some() {
                    return done;
                }
                if let Some(task) = waiting.tasks.pop() {
                    waiting.busy += 1;
                    break task;
                }
                if waiting.busy == 0 {
                    self.files.expect(std::mem::take(&mut worker.pending));
                    return done;
                }
                waiting = wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            };
            drop(waiting);
            let result = self.list(&task, entries, &mut worker);
            let mut waiting = lock();
            waiting.busy -= 1;
            match result {
                Ok((mut listed, mut below)) => {
                    // Numbers grow from parents to children; the way back is theirs.
                    let base = waiting.next;
                    waiting.next += below.len();
                    for task in &mut below {
                        task.id += base;
                    }
                    for item in listed.iter_mut().flat_map(|listed| &mut listed.items) {
                        if let Seen::Pending { id, .. } = &mut item.seen {
                            *id += base;
                        }
                    }
                    waiting.tasks.append(&mut below);
                    done.push((task.id, listed));
                }
                Err(error) => {
                    waiting.error.get_or_insert(error);
                }
            }
            wake.notify_all();
        }
    }

    /// Looks into one directory; `None` if it is not there any more. Also gives the directories
    /// in it, numbered from 0.
    fn list(
        &self,
        task: &Task,
        entries: &AtomicU64,
        worker: &mut Worker,
    ) -> Result<(Option<Listed>, Vec<Task>), LocalError> {
        self.cancel.check()?;
        let directory = match dir::open_directory(self.files.root(), task.path.as_bytes()) {
            Ok(directory) => directory,
            Err(error) => return self.closed(task, error).map(|listed| (listed, Vec::new())),
        };
        self.names(task, &directory, worker)?;
        let Names { bytes, names } = std::mem::take(&mut worker.names);
        let count = names.len() as u64;
        if entries.fetch_add(count, Ordering::Relaxed) + count > self.most {
            return Err(LocalError::TooMany {
                name: self.name.to_owned(),
                most: self.most,
            });
        }
        let mut items = Vec::with_capacity(names.len());
        let mut below = Vec::new();
        let mut old = task.old.iter().flat_map(|folder| &folder.items).peekable();
        let known = self.files.known();
        let mut leaves = Leaves {
            known: &known,
            near: &mut worker.near,
            pending: &mut worker.pending,
        };
        for Name {
            place: (start, end),
            directory: is_directory,
            keep,
            matches,
        } in names
        {
            let name = &bytes[start..end];
            while old.next_if(|item| *item.name < *name).is_some() {}
            let old = old.next_if(|item| *item.name == *name);
            let stat = match statat(&directory, dir::name(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(self.failed("look at", task, name, error.into())),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if (kind == FileType::Directory) != is_directory || kind == FileType::Socket {
                // Exchanged since it was listed, or a socket, which is nothing to be copied.
                continue;
            }
            let shared_name = old.map_or_else(|| Arc::from(name), |item| item.name.clone());
            let seen = if is_directory {
                let path = task.path.join(name).map_err(|_| self.too_long(task))?;
                let old = match old.map(|item| &item.seen) {
                    Some(Seen::Folder(folder)) => Some(folder.clone()),
                    _ => None,
                };
                let entry = self.directory_entry(&stat, &directory, name, task)?;
                let id = below.len();
                below.push(Task {
                    id,
                    path,
                    matches,
                    keep,
                    old,
                });
                Seen::Pending {
                    id,
                    entry: Box::new(entry),
                    keep,
                }
            } else {
                let Some(leaf) = self.leaf(task, &directory, name, &stat, old, &mut leaves)? else {
                    continue;
                };
                leaf
            };
            items.push(Item {
                name: shared_name,
                seen,
            });
        }
        drop(known);
        worker.names.bytes = bytes;
        Ok((
            Some(Listed {
                items,
                old: task.old.clone(),
            }),
            below,
        ))
    }

    /// What a directory that cannot be opened means.
    fn closed(&self, task: &Task, error: io::Error) -> Result<Option<Listed>, LocalError> {
        let looped = error.raw_os_error() == Some(Errno::LOOP.raw_os_error());
        match error.kind() {
            // Removed or exchanged since it was listed.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ if looped => Ok(None),
            // It belongs to the source only if something in it does, and nobody can tell.
            io::ErrorKind::PermissionDenied if !task.keep => Ok(Some(Listed {
                items: Vec::new(),
                old: None,
            })),
            _ => Err(LocalError::Io {
                action: "open",
                name: self.name.to_owned(),
                path: task.path.clone(),
                source: error,
            }),
        }
    }

    /// The names in a directory that the patterns do not leave out, sorted.
    fn names(
        &self,
        task: &Task,
        directory: &OwnedFd,
        worker: &mut Worker,
    ) -> Result<(), LocalError> {
        let Worker { listing, names, .. } = worker;
        let Names { bytes, names } = names;
        bytes.clear();
        names.clear();
        let mut path = task.path.as_bytes().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        let length = path.len();
        let mut listing = RawDir::new(directory, listing.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // Removed while it was being listed.
                Err(Errno::NOENT) => break,
                Err(error) => return Err(self.failed("list", task, b"", error.into())),
            };
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            path.truncate(length);
            path.extend_from_slice(name);
            if path.len() > MAX_PATH {
                return Err(self.too_long(task));
            }
            let directory = match entry.file_type() {
                FileType::Unknown => {
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    statat(directory, entry.file_name(), flags).is_ok_and(|stat| {
                        FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                    })
                }
                kind => kind == FileType::Directory,
            };
            let mut found = Name {
                place: (bytes.len(), bytes.len() + name.len()),
                directory,
                keep: true,
                matches: Matches::default(),
            };
            if !self.filter.is_empty() {
                let verdict = self.filter.judge(&path, &task.matches).map_err(|source| {
                    LocalError::Pattern {
                        name: self.name.to_owned(),
                        source,
                    }
                })?;
                let wanted = verdict.keep || (directory && verdict.enter);
                if !wanted {
                    continue;
                }
                found.keep = verdict.keep;
                found.matches = verdict.matches;
            }
            bytes.extend_from_slice(name);
            names.push(found);
        }
        let text = |name: &Name| &bytes[name.place.0..name.place.1];
        names.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        Ok(())
    }

    fn leaf(
        &self,
        task: &Task,
        directory: &OwnedFd,
        name: &[u8],
        stat: &Stat,
        old: Option<&Item>,
        leaves: &mut Leaves<'_>,
    ) -> Result<Option<Seen>, LocalError> {
        let (inode, stamp) = (inode_of(stat), stamp_of(stat));
        // Groups of hard links are numbered anew each time.
        let linked = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode).is_file();
        let settled = self.settled(&stamp);
        if let Some(Item {
            seen: Seen::Leaf(leaf),
            ..
        }) = old
            && (leaf.inode, leaf.stamp) == (inode, stamp)
            && leaf.settled
            && !(linked || leaf.linked)
            && leaves.confirm(leaf)
        {
            return Ok(Some(Seen::Leaf(leaf.clone())));
        }
        let mut entry = Entry::new(Kind::File, self.attributes(stat, &stamp));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                entry.size = stamp.size;
                entry.allocated = u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
            }
            FileType::Symlink => {
                entry.kind = Kind::Symlink;
                let target = match readlinkat(directory, dir::name(name), Vec::new()) {
                    Ok(target) => target.into_bytes(),
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                    Err(error) => return Err(self.failed("read", task, name, error.into())),
                };
                entry.target = target.into();
            }
            FileType::Fifo => entry.kind = Kind::Fifo,
            kind => {
                entry.kind = match kind {
                    FileType::BlockDevice => Kind::BlockDevice,
                    _ => Kind::CharDevice,
                };
                let (major, minor) = (
                    rustix::fs::major(stat.st_rdev),
                    rustix::fs::minor(stat.st_rdev),
                );
                entry.device = Device { major, minor };
                if (entry.kind, major, minor) == (Kind::CharDevice, 0, 0) {
                    let path = task.path.join(name).map_err(|_| self.too_long(task))?;
                    return Err(LocalError::Whiteout {
                        name: self.name.to_owned(),
                        path,
                    });
                }
            }
        }
        let known = match entry.kind {
            Kind::File => leaves.known.lookup(inode, &stamp, leaves.near),
            _ => None,
        };
        if let Some((digest, xattrs)) = known {
            entry.attributes.xattrs = xattrs;
            entry.digest = Some(digest);
        } else {
            entry.attributes.xattrs = match self.xattrs(directory, name) {
                Ok(xattrs) => xattrs,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => {
                    return Err(self.failed("read the attributes of", task, name, error));
                }
            };
            if settled && entry.kind == Kind::File {
                let path = task.path.join(name).map_err(|_| self.too_long(task))?;
                leaves
                    .pending
                    .push(self.files.pending(path.as_bytes(), inode, &stamp));
            }
        }
        let files: Arc<dyn Files> = self.files.clone();
        let node = Node::leaf(entry, Some(files));
        Ok(Some(Seen::Leaf(Leaf {
            node,
            inode,
            stamp,
            settled,
            linked,
        })))
    }

    fn directory_entry(
        &self,
        stat: &Stat,
        parent: &OwnedFd,
        name: &[u8],
        task: &Task,
    ) -> Result<Entry, LocalError> {
        let mut attributes = self.attributes(stat, &stamp_of(stat));
        attributes.xattrs = match self.xattrs(parent, name) {
            Ok(xattrs) => xattrs,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Xattrs::default(),
            Err(error) => return Err(self.failed("read the attributes of", task, name, error)),
        };
        Ok(Entry::new(Kind::Directory, attributes))
    }

    fn attributes(&self, stat: &Stat, stamp: &Stamp) -> Attributes {
        let owners = if self.keep_owners {
            (stat.st_uid, stat.st_gid)
        } else {
            (0, 0)
        };
        let mode = match FileType::from_raw_mode(stamp.mode) {
            FileType::Directory if self.git_modes => 0o755,
            FileType::RegularFile if self.git_modes && stamp.mode & 0o100 != 0 => 0o755,
            FileType::RegularFile if self.git_modes => 0o644,
            _ => stamp.mode & 0o7777,
        };
        Attributes {
            mode,
            uid: owners.0,
            gid: owners.1,
            mtime: stamp.mtime,
            xattrs: Xattrs::default(),
        }
    }

    /// The extended attributes that belong to the content: not those of the overlay file system,
    /// of a Mac, or of this machine's security policy.
    fn xattrs(&self, directory: &OwnedFd, name: &[u8]) -> io::Result<Xattrs> {
        let mut found = dir::xattrs(directory.as_fd(), name)?;
        found.retain(|(key, _)| {
            let policy = key.starts_with(b"security.") && **key != *b"security.capability";
            !policy && !key.starts_with(b"com.apple.") && !is_overlay_xattr(key)
        });
        Ok(if found.is_empty() {
            Xattrs::default()
        } else {
            Xattrs::new(found)
        })
    }

    fn settled(&self, stamp: &Stamp) -> bool {
        let mut limit = self.start;
        if limit.nanoseconds >= UNSETTLED {
            limit.nanoseconds -= UNSETTLED;
        } else {
            limit.seconds -= 1;
            limit.nanoseconds += 1_000_000_000 - UNSETTLED;
        }
        stamp.mtime < limit && stamp.ctime < limit
    }

    fn failed(
        &self,
        action: &'static str,
        task: &Task,
        name: &[u8],
        source: io::Error,
    ) -> LocalError {
        let path = task.path.join(name).unwrap_or_else(|_| task.path.clone());
        LocalError::Io {
            action,
            name: self.name.to_owned(),
            path,
            source,
        }
    }

    fn too_long(&self, task: &Task) -> LocalError {
        LocalError::PathTooLong {
            name: self.name.to_owned(),
            path: task.path.clone(),
        }
    }
}

/// The inodes of all files of a tree, sorted.
pub(super) fn inodes(top: &Arc<Folder>) -> Vec<Inode> {
    let mut found = Vec::new();
    let mut todo = vec![top];
    while let Some(folder) = todo.pop() {
        for item in &folder.items {
            match &item.seen {
                Seen::Leaf(leaf) => found.push(leaf.inode),
                Seen::Folder(folder) => todo.push(folder),
                Seen::Pending { .. } => {}
            }
        }
    }
    found.sort_unstable();
    found
}
