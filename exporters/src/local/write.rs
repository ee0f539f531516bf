//! Writing the tree of an export, on several threads.

use std::collections::{HashMap, HashSet, hash_map};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_solver::cancel::Cancel;
use ashlar_solver::dir::open_directory;
use ashlar_solver::tree::{Entry, Kind, Node, Timestamp, TreePath};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fchmod, fsetxattr, futimens,
    linkat, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::abilities::Abilities;
use super::beneath::Beneath;
use super::compare::{Copy, Sources, has_file, has_link};
use super::known::Known;
use super::stage::Stage;
use crate::ExportError;
use crate::durable::WriteOut;
use crate::files::{Item, Part, directory_entry, link_group, statement_entry};

/// Threads that copy files. More do not help one disk.
const WORKERS: usize = 4;
/// Files that a thread takes at once at most.
const BATCH: usize = 32;
/// Bytes of files that a thread takes at once, and between two looks at the cancel flag.
const BYTES: u64 = 4 << 20;
/// Files up to this size are read and written; from it on the kernel copies.
const SMALL: u64 = 128 << 10;

/// Files of one directory.
struct Batch {
    /// The directory as it is at the destination.
    there: Option<Arc<OwnedFd>>,
    /// Whether it may be compared with what is there.
    compared: bool,
    directory: TreePath,
    files: Vec<Copy>,
    bytes: u64,
}

/// What the threads share.
struct Shared<'a> {
    stage: &'a Stage,
    cancel: &'a Cancel,
    stopped: AtomicBool,
    error: Mutex<Option<ExportError>>,
    unchanged: Mutex<HashSet<TreePath>>,
    /// Files that need not be compared.
    known: Option<&'a Known>,
    /// What is told how much was written.
    out: Option<&'a Mutex<WriteOut>>,
}

/// Writes what the destination does not have yet, and gives the files and directories that it has. Files
/// that are `known` are not compared; a directory that is there is made only for what is written into
/// it. Blocks.
pub(super) fn write(
    stage: &Stage,
    parts: &[Part],
    known: Option<&Known>,
    out: Option<&Mutex<WriteOut>>,
    cancel: &Cancel,
) -> Result<HashSet<TreePath>, ExportError> {
    let shared = Shared {
        stage,
        cancel,
        stopped: AtomicBool::new(false),
        error: Mutex::new(None),
        unchanged: Mutex::default(),
        known,
        out,
    };
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (send, receive) = sync_channel(2 * WORKERS);
    let receive = Mutex::new(receive);
    let walked = std::thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..workers.min(WORKERS) {
            let thread = std::thread::Builder::new().name("ashlar-local".to_owned());
            let spawned = thread.spawn_scoped(scope, || shared.work(&receive));
            started += usize::from(spawned.is_ok());
        }
        if started == 0 {
            let error = io::Error::from(io::ErrorKind::WouldBlock);
            return Err(ExportError::io("copy into", &stage.destination)(error));
        }
        let mut walk = Walk {
            shared: &shared,
            to: Beneath::new(stage.tree.clone()),
            there: stage.there.clone().map(Beneath::new),
            batch: None,
            abilities: Abilities::default(),
            linked: HashMap::new(),
            links: Vec::new(),
            directories: Vec::new(),
            send: &mut |batch| send.send(batch).is_ok(),
        };
        let walked = parts.iter().try_for_each(|part| walk.part(part));
        walk.flush();
        let (links, directories) = (walk.links, walk.directories);
        drop(send);
        walked.map(|()| (links, directories))
    });
    let failed = shared
        .error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = failed {
        return Err(error);
    }
    let (links, directories) = walked?;
    for (path, first) in links {
        cancel.check()?;
        link(stage, &path, &first)?;
    }
    // Deepest first, for what is written into a directory changes its time.
    for (path, entry, time) in directories.into_iter().rev() {
        cancel.check()?;
        let failed = |error| stage.failed("set the attributes of", &path, error);
        let directory = match open_directory(stage.tree.as_fd(), path.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed)?,
        };
        set_attributes(directory.as_fd(), &entry, time).map_err(failed)?;
    }
    cancel.check()?;
    let unchanged = shared.unchanged.into_inner();
    Ok(unchanged.unwrap_or_else(PoisonError::into_inner))
}

impl Stage {
    /// Opens a directory of the tree, which is made if it is not there yet.
    fn directory(&self, path: &TreePath) -> io::Result<OwnedFd> {
        match open_directory(self.tree.as_fd(), path.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        let parent = self.directory(&path.parent().unwrap_or_default())?;
        match mkdirat(parent, name(path), Mode::RWXU) {
            // Another thread made it.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        open_directory(self.tree.as_fd(), path.as_bytes())
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
        path: &TreePath,
        error: io::Error,
    ) -> ExportError {
        ExportError::io(action, self.destination.join(path.as_relative()))(error)
    }
}

fn link(stage: &Stage, path: &TreePath, first: &TreePath) -> Result<(), ExportError> {
    let linked = linkat(
        &*stage.tree,
        first.as_relative(),
        &*stage.tree,
        path.as_relative(),
        AtFlags::empty(),
    );
    linked.map_err(|error| stage.failed("link", path, error.into()))
}

/// The thread that goes through the tree: it makes all but regular files.
struct Walk<'a, 'b> {
    shared: &'a Shared<'a>,
    to: Beneath,
    there: Option<Beneath>,
    batch: Option<Batch>,
    abilities: Abilities,
    /// First path of each group of hard links.
    linked: HashMap<(usize, u32), TreePath>,
    /// Hard links to be made: path and what it is a link of.
    links: Vec<(TreePath, TreePath)>,
    directories: Vec<(TreePath, Entry, Timestamp)>,
    send: &'b mut dyn FnMut(Batch) -> bool,
}

impl Walk<'_, '_> {
    fn part(&mut self, part: &Part) -> Result<(), ExportError> {
        self.linked.clear();
        if let Some(directory) = &part.directory {
            let entry = directory_entry(part);
            let time = entry.attributes.mtime;
            self.directory(directory, &entry, time)?;
        }
        for (path, item) in part.items() {
            self.shared.cancel.check()?;
            if self.shared.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let whole = part.prefix().join_path(&path);
            match item {
                Item::Node(node) => self.node(part, path, &whole, node)?,
                Item::Statement(text) => {
                    self.flush();
                    self.statement(&whole, &statement_entry(part, text), text)?;
                }
            }
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, path: &TreePath, error: Errno) -> ExportError {
        self.shared.stage.failed(action, path, error.into())
    }

    fn parent(&mut self, path: &TreePath) -> Result<Arc<OwnedFd>, ExportError> {
        let (stage, parent) = (self.shared.stage, path.parent().unwrap_or_default());
        let mut opened = self.to.open(&parent);
        if opened
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            opened = stage.directory(&parent).and_then(|_| self.to.open(&parent));
        }
        opened.map_err(|error| stage.failed("open", &parent, error))
    }

    fn directory(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        time: Timestamp,
    ) -> Result<(), ExportError> {
        let there = self.there.as_mut().and_then(|there| there.find(path));
        match there {
            Some(_) => self.shared.has(path.clone()),
            None => {
                let parent = self.parent(path)?;
                match mkdirat(&*parent, name(path), Mode::RWXU) {
                    // Another platform has it too.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(self.failed("make directory", path, error)),
                }
            }
        }
        self.directories.push((path.clone(), entry.clone(), time));
        Ok(())
    }

    fn node(
        &mut self,
        part: &Part,
        path: TreePath,
        whole: &TreePath,
        node: &Arc<Node>,
    ) -> Result<(), ExportError> {
        let entry = node.entry();
        let time = part.time(entry.attributes.mtime);
        if entry.is_directory() {
            return self.directory(whole, entry, time);
        }
        // Without hard links each is a file of its own.
        let group = link_group(node).filter(|_| self.abilities.hard_links(self.shared.stage));
        if let Some(group) = group {
            match self.linked.entry(group) {
                hash_map::Entry::Occupied(first) => {
                    let first = first.get().clone();
                    self.parent(whole)?;
                    self.links.push((whole.clone(), first));
                    return Ok(());
                }
                hash_map::Entry::Vacant(none) => drop(none.insert(whole.clone())),
            }
        }
        match entry.kind {
            Kind::File => self.file(path, whole, node, time, group.is_none()),
            Kind::Symlink => {
                let target = part.link_target(&entry.target);
                if group.is_none() && self.has_link(whole, &target, time) {
                    self.shared.has(whole.clone());
                    return Ok(());
                }
                let parent = self.parent(whole)?;
                symlinkat(OsStr::from_bytes(&target), &*parent, name(whole))
                    .map_err(|error| self.failed("link", whole, error))?;
                match self.abilities.link_times(self.shared.stage) {
                    true => self.set_time(&parent, whole, time),
                    false => Ok(()),
                }
            }
            Kind::Fifo => self.special(whole, entry, FileType::Fifo, time),
            Kind::CharDevice => self.special(whole, entry, FileType::CharacterDevice, time),
            Kind::BlockDevice => self.special(whole, entry, FileType::BlockDevice, time),
            Kind::Directory | Kind::Whiteout => Ok(()),
        }
    }

    fn has_link(&mut self, path: &TreePath, target: &[u8], time: Timestamp) -> bool {
        let parent = path.parent().unwrap_or_default();
        let there = self.there.as_mut().and_then(|there| there.find(&parent));
        there.is_some_and(|there| has_link(there.as_fd(), name(path), target, time))
    }

    /// Hands a regular file to the threads.
    fn file(
        &mut self,
        path: TreePath,
        whole: &TreePath,
        node: &Arc<Node>,
        time: Timestamp,
        alone: bool,
    ) -> Result<(), ExportError> {
        let directory = whole.parent().unwrap_or_default();
        let fits = self.batch.as_ref().is_some_and(|batch| {
            let room = batch.files.len() < BATCH && batch.bytes < BYTES;
            room && batch.directory == directory && batch.compared == alone
        });
        if !fits {
            self.flush();
            // What has several names is written anew, for it is compared by one.
            let there = match &mut self.there {
                Some(there) if alone => there.find(&directory),
                _ => None,
            };
            self.batch = Some(Batch {
                there,
                compared: alone,
                directory,
                files: Vec::new(),
                bytes: 0,
            });
        }
        let batch = self.batch.as_mut().expect("BUG: it was just made");
        batch.bytes += node.entry().size;
        batch.files.push(Copy {
            path,
            node: node.clone(),
            time,
        });
        if !alone {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        if let Some(batch) = self.batch.take() {
            // Nobody takes it only if all threads gave up, and then there is an error.
            let _taken = (self.send)(batch);
        }
    }

    fn special(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        kind: FileType,
        time: Timestamp,
    ) -> Result<(), ExportError> {
        let parent = self.parent(path)?;
        let mode = Mode::from_raw_mode(entry.attributes.mode & 0o7777);
        let device = rustix::fs::makedev(entry.device.major, entry.device.minor);
        mknodat(&*parent, name(path), kind, mode, device)
            .map_err(|error| self.failed("make", path, error))?;
        // The mode again, because the umask took bits away; nobody else is in this directory.
        rustix::fs::chmodat(&*parent, name(path), mode, AtFlags::empty())
            .map_err(|error| self.failed("set the mode of", path, error))?;
        self.set_time(&parent, path, time)
    }

    fn set_time(
        &self,
        parent: &OwnedFd,
        path: &TreePath,
        time: Timestamp,
    ) -> Result<(), ExportError> {
        utimensat(parent, name(path), &times(time), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.failed("set the time of", path, error))
    }

    fn statement(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        text: &[u8],
    ) -> Result<(), ExportError> {
        let parent = self.parent(path)?;
        let failed = |error| self.shared.stage.failed("write", path, error);
        let mut file = create(parent.as_fd(), name(path)).map_err(failed)?;
        file.write_all(text).map_err(failed)?;
        set_attributes(file.as_fd(), entry, entry.attributes.mtime).map_err(failed)
    }
}

pub(super) fn name(path: &TreePath) -> &OsStr {
    OsStr::from_bytes(path.name().unwrap_or(b"."))
}

impl Shared<'_> {
    fn work(&self, todo: &Mutex<Receiver<Batch>>) {
        let mut buffers = [vec![0; 128 << 10], Vec::new()];
        loop {
            let next = todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = next else { return };
            // Others go on taking, so that the walk never waits for ever.
            if self.stopped.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.copy_batch(&batch, &mut buffers) {
                self.stopped.store(true, Ordering::Relaxed);
                let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(error);
            }
        }
    }

    fn copy_batch(&self, batch: &Batch, buffers: &mut [Vec<u8>; 2]) -> Result<(), ExportError> {
        let mut sources = Sources::default();
        // The directory as written.
        let mut to: Option<OwnedFd> = None;
        for copy in &batch.files {
            self.cancel.check()?;
            let whole = batch.directory.join_path(&leaf(&copy.path));
            let failed = |action| {
                let whole = &whole;
                move |error| self.stage.failed(action, whole, error)
            };
            if let Some(there) = &batch.there
                && has_file(
                    there.as_fd(),
                    copy,
                    self.known,
                    &mut sources,
                    buffers,
                    self.cancel,
                )?
                .map_err(failed("read"))?
            {
                self.has(whole);
                continue;
            }
            let to = match &to {
                Some(to) => to,
                None => {
                    let made = self.stage.directory(&batch.directory);
                    to.insert(made.map_err(failed("make the directory of"))?)
                }
            };
            let mut from = sources.open(copy).map_err(failed("read"))?;
            let mut file = create(to.as_fd(), name(&copy.path)).map_err(failed("create"))?;
            let copied = self.copy(
                &mut from,
                &mut file,
                copy.node.entry().size,
                &mut buffers[0],
            )?;
            match copied.map_err(failed("write"))? {
                true => {}
                false => {
                    return Err(ExportError::Unsupported {
                        path: whole.to_string(),
                        reason: "it changed while it was read",
                    });
                }
            }
            set_attributes(file.as_fd(), copy.node.entry(), copy.time)
                .map_err(failed("set the attributes of"))?;
            if let Some(out) = &self.out {
                let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
                out.add(copy.node.entry().size);
            }
        }
        Ok(())
    }

    /// Notes that the destination has this.
    fn has(&self, path: TreePath) {
        let unchanged = self.unchanged.lock();
        let mut unchanged = unchanged.unwrap_or_else(PoisonError::into_inner);
        unchanged.insert(path);
    }

    /// Copies `size` bytes; false if there are fewer.
    fn copy(
        &self,
        from: &mut File,
        to: &mut File,
        size: u64,
        buffer: &mut [u8],
    ) -> Result<io::Result<bool>, ExportError> {
        let mut left = size;
        while left > SMALL {
            self.cancel.check()?;
            let wanted = usize::try_from(left.min(BYTES)).unwrap_or(1 << 20);
            match rustix::fs::copy_file_range(&*from, None, &*to, None, wanted) {
                Ok(0) => break,
                Ok(copied) => left -= copied as u64,
                Err(Errno::INTR) => {}
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => {
                    return Ok(Err(error.into()));
                }
                // Not between these file systems.
                Err(_) => break,
            }
        }
        while left > 0 {
            self.cancel.check()?;
            let wanted = buffer
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            match from.read(&mut buffer[..wanted]) {
                Ok(0) => return Ok(Ok(false)),
                Ok(length) => {
                    if let Err(error) = to.write_all(&buffer[..length]) {
                        return Ok(Err(error));
                    }
                    left -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(true))
    }
}

/// The last component of a path.
fn leaf(path: &TreePath) -> TreePath {
    let name = TreePath::new(path.name().unwrap_or_default());
    name.expect("BUG: a component of a path is a path")
}

fn create(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

/// Sets extended attributes, as far as this user may, mode and time of an open file or directory, as
/// far as the file system has them.
pub(super) fn set_attributes(
    file: BorrowedFd<'_>,
    entry: &Entry,
    time: Timestamp,
) -> io::Result<()> {
    for (name, value) in entry.attributes.xattrs.iter() {
        let name = OsStr::from_bytes(name);
        match fsetxattr(file, name, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mode = Mode::from_raw_mode(entry.attributes.mode & 0o7777);
    for done in [fchmod(file, mode), futimens(file, &times(time))] {
        match done {
            Err(error) if !has_none(error, || is_own(file)) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the error of setting a mode or time says that the file system has none, or not this one:
/// nothing else stands in the way of who owns a file.
fn has_none(error: Errno, is_own: impl FnOnce() -> bool) -> bool {
    match error {
        Errno::NOSYS | Errno::OPNOTSUPP => true,
        Errno::PERM => is_own(),
        _ => false,
    }
}

fn is_own(file: BorrowedFd<'_>) -> bool {
    let user = rustix::process::geteuid();
    let owner = || rustix::fs::fstat(file).is_ok_and(|stat| stat.st_uid == user.as_raw());
    user.is_root() || owner()
}

pub(super) fn times(time: Timestamp) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_set_where_there_are_any() {
        for own in [false, true] {
            assert!(has_none(Errno::NOSYS, || own));
            assert!(!has_none(Errno::IO, || own));
            assert_eq!(has_none(Errno::PERM, || own), own);
        }
    }
}
