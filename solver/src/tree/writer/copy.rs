//! Copies many objects with two threads.
//!
//! Directories are made first, by the caller's thread; then everything else, directory by
//! directory; then hard links among what was copied.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::io::Errno;

use super::changes::{Leaf, Slot};
use super::disk::{self, Disk};
use super::{BLOCK, CopyItem, LayerWriter, Previous, START, WriteError, checked, failed, wrong};
use crate::cancel::Cancel;
use crate::dir;
use crate::id::ContentDigest;
use crate::tree::checksum::FileHasher;
use crate::tree::{Entry, Files, Kind, Node, TreePath};

/// Threads that copy. More do not help: the file system is the limit.
const THREADS: usize = 2;

/// Objects that a thread takes at once: most directories whole, because two threads that make files
/// in one directory wait for each other.
const BATCH: usize = 1024;

/// Bytes that a thread takes at once.
const BATCH_BYTES: u64 = 8 << 20;

/// From this size on it is worth looking whether a file has holes.
const SPARSE: u64 = 64 << 10;

/// The objects of one destination directory, sorted by name.
struct Group {
    parent: TreePath,
    items: Vec<usize>,
}

/// What became of one item.
struct Copied {
    item: usize,
    leaf: Leaf,
}

pub(super) fn copy(
    writer: &mut LayerWriter,
    items: Vec<CopyItem>,
    cancel: &Cancel,
) -> Result<(), WriteError> {
    let mut directories = Vec::new();
    let mut leaders: HashMap<u64, usize> = HashMap::new();
    let mut followers = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        if item.source.entry().is_directory() {
            cancel.check()?;
            writer.make_directory(&item.destination, item.attributes.clone())?;
            directories.push(at);
            continue;
        }
        if let Some(group) = item.link_group
            && let Some(&leader) = leaders.get(&group)
        {
            followers.push((at, leader));
            continue;
        }
        leaders.extend(item.link_group.map(|group| (group, at)));
        let (parent, _) = split(&item.destination)?;
        let place = *places.entry(parent).or_insert_with(|| {
            let parent = item.destination.parent().unwrap_or_default();
            groups.push(Group {
                parent,
                items: Vec::new(),
            });
            groups.len() - 1
        });
        groups[place].items.push(at);
    }
    for group in &mut groups {
        make_way(writer, group, &items)?;
    }
    for (group, copied) in run(writer, &groups, &items, cancel)? {
        let directory = writer.own_directory(&groups[group].parent)?;
        for Copied { item, leaf } in copied {
            let (_, name) = split(&items[item].destination)?;
            directory.children.insert(name.into(), Slot::Leaf(leaf));
        }
    }
    for (follower, leader) in followers {
        writer.hard_link(&items[follower].destination, &items[leader].destination)?;
    }
    for at in directories {
        let CopyItem {
            destination,
            attributes,
            ..
        } = &items[at];
        let mtime = attributes.mtime;
        writer.own_directory(destination)?.entry.attributes.mtime = mtime;
    }
    Ok(())
}

/// The parent and name of a destination, without copying either.
fn split(path: &TreePath) -> Result<(&[u8], &[u8]), WriteError> {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|&byte| byte == b'/') {
        _ if bytes.is_empty() => Err(wrong(path, "the root of a tree is always a directory")),
        Some(at) => Ok((&bytes[..at], &bytes[at + 1..])),
        None => Ok((b"", bytes)),
    }
}

/// Removes what is at the destinations, and of equal destinations all but the last.
fn make_way(
    writer: &mut LayerWriter,
    group: &mut Group,
    items: &[CopyItem],
) -> Result<(), WriteError> {
    let destination = |at: &usize| items[*at].destination.as_bytes();
    if !group
        .items
        .is_sorted_by(|a, b| destination(a) < destination(b))
    {
        group
            .items
            .sort_by(|a, b| destination(a).cmp(destination(b)));
        group.items.dedup_by(|later, kept| {
            let same = destination(later) == destination(kept);
            if same {
                *kept = *later;
            }
            same
        });
    }
    let now = writer.now;
    let directory = writer.own_directory(&group.parent)?;
    directory.entry.attributes.mtime = now;
    let taken: Vec<usize> = group
        .items
        .iter()
        .copied()
        .filter(|&at| {
            let name = items[at].destination.name().unwrap_or_default();
            directory.children.contains_key(name) || directory.below(name).is_some()
        })
        .collect();
    taken
        .into_iter()
        .try_for_each(|at| writer.prepare(&items[at].destination))
}

/// How many of these objects a thread takes at once.
fn batch(group: &[usize], items: &[CopyItem]) -> usize {
    let mut bytes = 0_u64;
    let more = group.iter().take(BATCH).take_while(|at| {
        let fits = bytes < BATCH_BYTES;
        bytes = bytes.saturating_add(items[**at].source.entry().size);
        fits
    });
    more.count()
}

/// Copies all groups. Gives what was copied with the number of the group.
fn run(
    writer: &LayerWriter,
    groups: &[Group],
    items: &[CopyItem],
    cancel: &Cancel,
) -> Result<Vec<(usize, Vec<Copied>)>, WriteError> {
    let mut batches = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        let mut rest = &group.items[..];
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch(rest, items));
            batches.push((at, batch));
            rest = after;
        }
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> Result<Vec<(usize, Vec<Copied>)>, WriteError> {
        let mut worker = Worker::new(writer, cancel);
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed)
            && let Some(&(group, batch)) = batches.get(next.fetch_add(1, Ordering::Relaxed))
        {
            match worker.batch(&groups[group].parent, batch, items) {
                Ok(copied) => done.push((group, copied)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(done)
    };
    if batches.len() < THREADS {
        return work();
    }
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..THREADS)
            .filter_map(|_| {
                let thread = std::thread::Builder::new().name("ashlar-copy".to_owned());
                // Without threads to be had, the caller's does all.
                thread.spawn_scoped(scope, work).ok()
            })
            .collect();
        let mut done = work();
        for helper in helpers {
            let more = match helper.join() {
                Ok(more) => more,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            done = match (done, more) {
                (Ok(mut done), Ok(more)) => {
                    done.extend(more);
                    Ok(done)
                }
                (Err(error), _) | (_, Err(error)) => Err(error),
            };
        }
        done
    })
}

/// One thread's hands.
struct Worker<'a> {
    disk: &'a Disk,
    files: &'a Arc<dyn Files>,
    previous: Option<&'a dyn Previous>,
    cancel: &'a Cancel,
    buffer: Vec<u8>,
    /// The directory that the last file was read from: whose, path, handle if it has one.
    source: Option<(*const (), Vec<u8>, Option<OwnedFd>)>,
}

impl<'a> Worker<'a> {
    fn new(writer: &'a LayerWriter, cancel: &'a Cancel) -> Self {
        Self {
            disk: &writer.disk,
            files: &writer.files,
            previous: writer.previous.as_deref(),
            cancel,
            buffer: Vec::new(),
            source: None,
        }
    }

    fn batch(
        &mut self,
        parent: &TreePath,
        batch: &[usize],
        items: &[CopyItem],
    ) -> Result<Vec<Copied>, WriteError> {
        let directory = self
            .disk
            .open_directory(parent.as_bytes())
            .map_err(failed("open", parent))?;
        // Of what cannot be linked from there, nothing is.
        let previous = self
            .previous
            .and_then(|previous| Some((previous, previous.directory(parent).ok()?)));
        let one = |&at: &usize| {
            self.cancel.check()?;
            let item = &items[at];
            let (_, name) = split(&item.destination)?;
            let linked = previous.as_ref().and_then(|(previous, from)| {
                link_previous(item, *previous, from.as_fd(), directory.as_fd(), name)
            });
            let (entry, shared) = match linked {
                Some(entry) => (entry, true),
                None => self.one(item, directory.as_fd(), name)?,
            };
            let origin = origin(item, &entry);
            let node = Node::leaf(entry, Some(self.files.clone()));
            Ok(Copied {
                item: at,
                leaf: Leaf {
                    node,
                    shared,
                    origin,
                },
            })
        };
        batch.iter().map(one).collect()
    }

    /// Copies one object. Tells whether it shares its inode with the source.
    fn one(
        &mut self,
        item: &CopyItem,
        parent: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(Entry, bool), WriteError> {
        let source = item.source.entry();
        let entry = Entry {
            attributes: item.attributes.clone(),
            link_group: 0,
            allocated: 0,
            digest: None,
            ..source.clone()
        };
        let mut entry = checked(&item.destination, entry)?;
        if entry.kind != Kind::File {
            entry.digest = Some(FileHasher::new(&entry).finish());
            self.disk
                .make_special(parent, name, &entry)
                .map_err(failed("make", &item.destination))?;
            return Ok((entry, false));
        }
        let Some(files) = item.source.files() else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(WriteError::Read {
                path: item.source_path.clone(),
                source,
            });
        };
        if files.immutable() && entry.attributes == source.attributes {
            let (_, old) = split(&item.source_path)?;
            if let Some(from) = self.source_directory(files, &item.source_path)?
                && disk::link(from, old, parent, name).map_err(failed("link", &item.destination))?
            {
                entry.allocated = source.allocated;
                entry.digest = item.source.digest_memo().get().copied();
                return Ok((entry, true));
            }
        }
        let known = item.source.digest_memo().get().is_some();
        let original = self.open(files, &item.source_path, known)?;
        let mut file = disk::create(parent, name).map_err(failed("make", &item.destination))?;
        self.bytes(item, &**files, original, &mut file, &mut entry)?;
        self.disk
            .seal_file(&file, parent, name, &entry)
            .map_err(failed("set the attributes of", &item.destination))?;
        Ok((entry, false))
    }

    /// The handle of the directory that holds a source, if its files are in directories.
    fn source_directory(
        &mut self,
        files: &Arc<dyn Files>,
        path: &TreePath,
    ) -> Result<Option<BorrowedFd<'_>>, WriteError> {
        let (parent, _) = split(path)?;
        let whose = Arc::as_ptr(files).cast::<()>();
        let known = matches!(&self.source, Some((other, at, _)) if *other == whose && at == parent);
        if !known {
            let directory = path.parent().unwrap_or_default();
            let handle = files
                .directory(&directory)
                .map_err(|source| unreadable(files, path, source))?;
            self.source = Some((whose, parent.to_vec(), handle));
        }
        Ok(self
            .source
            .as_ref()
            .and_then(|(_, _, handle)| handle.as_ref().map(|fd| fd.as_fd())))
    }

    /// Opens a file; through [`Files::open`] if [`Files::computed`] shall hear of its checksum.
    fn open(
        &mut self,
        files: &Arc<dyn Files>,
        path: &TreePath,
        known: bool,
    ) -> Result<File, WriteError> {
        let (_, name) = split(path)?;
        let directory = if known || files.immutable() {
            self.source_directory(files, path)?
        } else {
            None
        };
        directory
            .map_or_else(|| files.open(path), |at| dir::open_file(at, name))
            .map_err(|source| unreadable(files, path, source))
    }

    /// Copies the bytes, and hashes them unless they cannot have changed and are known.
    fn bytes(
        &mut self,
        item: &CopyItem,
        files: &dyn Files,
        mut original: File,
        copy: &mut File,
        entry: &mut Entry,
    ) -> Result<(), WriteError> {
        let source = item.source.entry();
        let path = &item.source_path;
        let broken = |source| WriteError::Read {
            path: path.clone(),
            source,
        };
        let writing = failed("write", &item.destination);
        let changed = || WriteError::InputChanged { path: path.clone() };
        let mutable = !files.immutable();
        let known = item.source.digest_memo().get().copied();
        let same = same_header(entry, source);
        let mut hash = (mutable || !same || known.is_none()).then(|| FileHasher::new(entry));
        // What the checksum of the source was computed from, if that has another header.
        let mut check = (mutable && !same).then(|| FileHasher::new(source));
        let sparse = entry.size >= SPARSE && {
            let metadata = original.metadata().map_err(broken)?;
            metadata.blocks() < entry.size / 512
        };
        let mut written = 0;
        let mut write = |block: &[u8], offset| disk::write_block(copy, block, offset, sparse);
        let mut result = Ok(());
        while result.is_ok() {
            self.cancel.check()?;
            let rest = entry.size - written;
            // One more byte than there should be, to see whether there is.
            let ask = usize::try_from(rest).unwrap_or(BLOCK).saturating_add(1);
            let ask = ask.min(if sparse { BLOCK / 16 } else { BLOCK });
            if self.buffer.len() < ask {
                self.buffer.resize(ask.max(START), 0);
            }
            let block = match original.read(&mut self.buffer[..ask]) {
                Ok(length) => &self.buffer[..length],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            let length = block.len() as u64;
            if length > rest || (block.is_empty() && rest > 0) {
                return Err(changed());
            }
            hash.iter_mut()
                .chain(&mut check)
                .for_each(|hash| hash.update(block));
            result = if block.is_empty() {
                Ok(())
            } else {
                write(block, written)
            };
            written += length;
            if length == rest {
                break;
            }
        }
        if sparse && result.is_ok() {
            result = copy.set_len(written);
        }
        result.map_err(writing)?;
        entry.allocated = if sparse {
            copy.metadata().map_err(broken)?.blocks() * 512
        } else {
            written.next_multiple_of(4096)
        };
        let digest = hash.map(FileHasher::finish);
        entry.digest = digest.or(known);
        if mutable {
            let read = check.map(FileHasher::finish).or(digest.filter(|_| same));
            match (known, read) {
                (Some(known), Some(read)) if known != read => return Err(changed()),
                (None, Some(read)) => {
                    files.computed(path, source, read);
                    let _known_by_now = item.source.digest_memo().set(read);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The checksum of what was copied, if it may change and the copy has another checksum.
fn origin(item: &CopyItem, copy: &Entry) -> Option<ContentDigest> {
    let source = &item.source;
    let mutable = source.files().is_some_and(|files| !files.immutable());
    let known = source.digest_memo().get().copied();
    known.filter(|_| mutable && copy.kind == Kind::File && !same_header(copy, source.entry()))
}

/// Links a file that was copied before and did not change since; gives its entry. Whatever stands
/// in the way, it can still be copied.
fn link_previous(
    item: &CopyItem,
    previous: &dyn Previous,
    from: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &[u8],
) -> Option<Entry> {
    let source = item.source.entry();
    let known = *item.source.digest_memo().get()?;
    if source.kind != Kind::File || item.source.files().is_none_or(|files| files.immutable()) {
        return None;
    }
    let (old, origin) = previous.file(&item.destination)?;
    let same = old.kind == Kind::File
        && old.size == source.size
        && old.attributes == item.attributes
        && origin == known
        // Files that are apart by now must not be one inode.
        && old.link_group == 0;
    if !same || !disk::link(from, name, parent, name).unwrap_or(false) {
        return None;
    }
    Some(old.clone())
}

/// A file that is gone or something else by now has changed; others just cannot be read.
fn unreadable(files: &Arc<dyn Files>, path: &TreePath, source: io::Error) -> WriteError {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
    let path = path.clone();
    let other = matches!(source.kind(), NotFound | InvalidData | NotADirectory)
        || source.raw_os_error() == Some(Errno::LOOP.raw_os_error());
    if other && !files.immutable() {
        WriteError::InputChanged { path }
    } else {
        WriteError::Read { path, source }
    }
}

/// Whether the checksums of two files with equal bytes are equal.
pub(super) fn same_header(a: &Entry, b: &Entry) -> bool {
    let (x, y) = (&a.attributes, &b.attributes);
    a.kind == b.kind
        && a.size == b.size
        && (x.mode, x.uid, x.gid) == (y.mode, y.uid, y.gid)
        && x.xattrs == y.xattrs
}

/// Fills a new file with all that `data` gives, and completes its entry.
pub(super) fn fill(
    file: &mut File,
    mut entry: Entry,
    data: &mut dyn Read,
    path: &TreePath,
) -> Result<Entry, WriteError> {
    let reading = |source| WriteError::Read {
        path: path.clone(),
        source,
    };
    let writing = |source| WriteError::Io {
        action: "write",
        path: path.clone(),
        source,
    };
    // Grows with the file: most are far smaller than a block.
    let mut block = Vec::new();
    let mut size = 0_u64;
    loop {
        block.clear();
        Read::take(&mut *data, BLOCK as u64)
            .read_to_end(&mut block)
            .map_err(reading)?;
        file.write_all(&block).map_err(writing)?;
        size += block.len() as u64;
        if block.len() < BLOCK {
            break;
        }
    }
    entry.size = size;
    entry.allocated = size.next_multiple_of(4096);
    let mut hasher = FileHasher::new(&entry);
    if size < BLOCK as u64 {
        hasher.update(&block);
    } else {
        // The checksum starts with the size, which was not known before.
        file.rewind().map_err(writing)?;
        block.resize(BLOCK, 0);
        loop {
            let length = read_block(file, &mut block).map_err(writing)?;
            hasher.update(&block[..length]);
            if length < BLOCK {
                break;
            }
        }
    }
    entry.digest = Some(hasher.finish());
    Ok(entry)
}

/// Reads until the block is full or there is no more.
fn read_block(data: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match data.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
