//! The one pass over an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use super::attributes::{Linked, attributes};
use super::disk::{Disk, allocated};
use super::staging::{Id, ROOT, Staged, implied_directory};
use super::{ApplyError, ApplyOptions, RawLayer};
use crate::cancel::Cancel;
use crate::id::ContentDigest;
use crate::limits::Limits;
use crate::tree::checksum::FileHasher;
use crate::tree::index::MAX_PATH;
use crate::tree::tar::{Header, TarKind, TarReader};
use crate::tree::{Entry, Kind, TreePath, Xattrs};

/// Links that are followed on the way to one entry, as in Linux and BuildKit.
const MAX_LINKS: usize = 255;

/// Bytes of the longest name that Linux file systems take.
const MAX_NAME: usize = 255;

/// Names, targets and attributes that one layer may have, in bytes: they stay in memory.
const MAX_LAYER_METADATA: u64 = 1 << 30;

/// What aufs keeps for itself in the root of a layer; old images have it. It is read over.
const AUFS: &[u8] = b".wh..wh.";

/// The mark that removes all of the layers below in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Zeros that are hashed at once for a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Unpacks the tar stream `input` into `fs`, an empty directory, and reads the stream to its end.
///
/// Each file is hashed as it is written. Nothing is synced.
///
/// # Errors
/// [`ApplyError`]; what was unpacked until then stays in `fs` and is of no use.
///
/// # Cancellation
/// Checked at every entry, at every piece of a file, and of what follows the archive.
pub fn apply(
    input: impl Read,
    fs: BorrowedFd<'_>,
    options: ApplyOptions,
    limits: &Limits,
    cancel: &Cancel,
) -> Result<RawLayer, ApplyError> {
    let mut reader = TarReader::new(input);
    let mut extract = Extract {
        tree: Staged::new(),
        disk: Disk::new(fs, options),
        limits,
        cancel,
        entries: 0,
        bytes: 0,
        metadata: 0,
        links: Vec::new(),
        last: None,
    };
    while let Some(header) = reader.next_entry()? {
        cancel.check()?;
        extract.count(&header)?;
        extract.entry(header, &mut reader)?;
    }
    while reader.drain()? {
        cancel.check()?;
    }
    extract.finish_links()?;
    extract.finish_directories()?;
    Ok(RawLayer {
        tree: extract.tree,
        options,
        entries: extract.entries,
    })
}

struct Extract<'a> {
    tree: Staged,
    disk: Disk<'a>,
    limits: &'a Limits,
    cancel: &'a Cancel,
    entries: u64,
    bytes: u64,
    metadata: u64,
    /// Files that have several names, by the number of their group less one.
    links: Vec<Links>,
    /// The parent of the last entry and its path as the archive wrote it: most entries are beside
    /// the one before them.
    last: Option<(TreePath, Id)>,
}

/// A file with several names.
struct Links {
    linked: Linked,
    /// Some may have been taken by later entries.
    names: Vec<Id>,
}

fn shown(path: &[u8]) -> String {
    path[..path.len().min(MAX_PATH)].escape_ascii().to_string()
}

impl Extract<'_> {
    fn count(&mut self, header: &Header) -> Result<(), ApplyError> {
        self.entries += 1;
        if self.entries > self.limits.layer_entries {
            return Err(ApplyError::TooManyEntries {
                limit: self.limits.layer_entries,
            });
        }
        self.bytes = self.bytes.saturating_add(header.size);
        if self.bytes > self.limits.layer_bytes {
            return Err(ApplyError::TooLarge {
                limit: self.limits.layer_bytes,
            });
        }
        let xattrs: usize = header
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.count_metadata((header.path.len() + header.link.len() + xattrs) as u64)
    }

    fn count_metadata(&mut self, bytes: u64) -> Result<(), ApplyError> {
        self.metadata = self.metadata.saturating_add(bytes);
        if self.metadata > MAX_LAYER_METADATA {
            return Err(ApplyError::TooMuchMetadata {
                limit: MAX_LAYER_METADATA,
            });
        }
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        header: Header,
        reader: &mut TarReader<R>,
    ) -> Result<(), ApplyError> {
        let path = clean(&header.path, &header.path)?;
        // To the kernel it means that an owner stays as it is.
        if header.uid == u32::MAX || header.gid == u32::MAX {
            return Err(ApplyError::Owner {
                path: shown(&header.path),
            });
        }
        let (Some(name), Some(parent)) = (path.name(), path.parent()) else {
            return if header.kind == TarKind::Directory {
                Ok(())
            } else {
                Err(ApplyError::Root {
                    path: shown(&header.path),
                })
            };
        };
        let first = path.components().next().unwrap_or_default();
        if first.starts_with(AUFS) && path.as_bytes() != OPAQUE {
            return Ok(());
        }
        if let Some(removed) = name.strip_prefix(b".wh.") {
            return self.whiteout(&header, &parent, removed);
        }
        let parent = self.parent(&parent, &header.path)?;
        self.check_name(parent, name, &header.path)?;
        let before = self.tree.child(parent, name);
        let old = before.filter(|id| self.tree.node(*id).entry.is_some());
        let merge = header.kind == TarKind::Directory
            && old.is_some_and(|id| self.tree.node(id).is_directory());
        if let (Some(old), false) = (old, merge) {
            self.remove(old)?;
        }
        let kind = kind(header.kind);
        let mut entry = Entry::new(kind, attributes(&header, kind));
        match header.kind {
            TarKind::Directory if merge => {}
            TarKind::Directory => {
                let made = self.disk.make_directory(&self.tree, parent, name);
                made.map_err(|errno| self.failed("make", parent, name, errno))?;
            }
            TarKind::File => self.file(&header, &mut entry, parent, name, reader)?,
            TarKind::HardLink => entry = self.hard_link(&header, parent, name)?,
            TarKind::Symlink => {
                if header.link.contains(&0) {
                    let problem = "a link target contains a NUL byte";
                    return Err(ApplyError::Name {
                        path: shown(&header.path),
                        problem,
                    });
                }
                entry.attributes.mode = 0o777;
                entry.target = header.link.into();
                let made =
                    self.disk
                        .symlink(&self.tree, parent, name, &entry.target, &entry.attributes);
                made.map_err(|errno| self.failed("make", parent, name, errno))?;
            }
            TarKind::CharDevice | TarKind::BlockDevice | TarKind::Fifo => {
                let zero = (header.device.major, header.device.minor) == (0, 0);
                if header.kind == TarKind::CharDevice && zero {
                    return Err(ApplyError::WhiteoutDevice {
                        path: shown(&header.path),
                    });
                }
                entry.device = header.device;
                let kind = entry.kind;
                let made = self.disk.node(
                    &self.tree,
                    parent,
                    name,
                    kind,
                    entry.device,
                    &entry.attributes,
                );
                made.map_err(|errno| self.failed("make", parent, name, errno))?;
            }
        }
        if !matches!(entry.kind, Kind::Directory) && entry.digest.is_none() {
            entry.digest = Some(FileHasher::new(&entry).finish());
        }
        let id = self.tree.child_or_new(parent, name);
        let node = self.tree.node_mut(id);
        node.entry = Some(entry);
        node.implied = false;
        Ok(())
    }

    /// `.wh.NAME` removes NAME from the layers below, `.wh..wh..opq` all beside it.
    fn whiteout(
        &mut self,
        header: &Header,
        parent: &TreePath,
        removed: &[u8],
    ) -> Result<(), ApplyError> {
        if removed == b".wh..opq" {
            let parent = self.parent(parent, &header.path)?;
            self.tree.node_mut(parent).opaque = true;
            return Ok(());
        }
        if matches!(removed, b"" | b"." | b"..") {
            return Err(ApplyError::Whiteout {
                path: shown(&header.path),
            });
        }
        let parent = self.parent(parent, &header.path)?;
        self.check_name(parent, removed, &header.path)?;
        let id = self.tree.child_or_new(parent, removed);
        self.tree.node_mut(id).removed = true;
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        header: &Header,
        entry: &mut Entry,
        parent: Id,
        name: &[u8],
        reader: &mut TarReader<R>,
    ) -> Result<(), ApplyError> {
        entry.size = header.size;
        let made = self.disk.create(&self.tree, parent, name);
        let mut file = made.map_err(|errno| self.failed("create", parent, name, errno))?;
        let mut hasher = FileHasher::new(entry);
        if header.sparse {
            self.sparse(header.size, &file, &mut hasher, reader)
        } else {
            self.plain(&mut file, &mut hasher, reader)
        }
        .map_err(|error| match error {
            Copy::Read(error) => error,
            Copy::Write(source) => ApplyError::Disk {
                action: "write",
                path: self.join(parent, name),
                source,
            },
        })?;
        let dressed = self.disk.dress(file.as_fd(), &entry.attributes, false);
        dressed.map_err(|errno| self.failed("set attributes of", parent, name, errno))?;
        if header.size > 0 {
            entry.allocated = allocated(&file).unwrap_or(0);
        }
        entry.digest = Some(hasher.finish());
        Ok(())
    }

    fn plain<R: Read>(
        &self,
        file: &mut File,
        hasher: &mut FileHasher,
        reader: &mut TarReader<R>,
    ) -> Result<(), Copy> {
        loop {
            let data = reader.data(u64::MAX)?;
            if data.is_empty() {
                return Ok(());
            }
            hasher.update(data);
            file.write_all(data).map_err(Copy::Write)?;
            self.check()?;
        }
    }

    fn sparse<R: Read>(
        &self,
        size: u64,
        file: &File,
        hasher: &mut FileHasher,
        reader: &mut TarReader<R>,
    ) -> Result<(), Copy> {
        let parts = reader.parts().unwrap_or_default().to_vec();
        file.set_len(size).map_err(Copy::Write)?;
        let mut at = 0;
        for (offset, length) in parts.into_iter().chain([(size, 0)]) {
            while at < offset {
                let hole = (offset - at).min(ZEROS.len() as u64);
                hasher.update(&ZEROS[..usize::try_from(hole).unwrap_or(0)]);
                at += hole;
                self.check()?;
            }
            let end = offset.saturating_add(length);
            while at < end {
                let data = reader.data(end - at)?;
                if data.is_empty() {
                    break;
                }
                hasher.update(data);
                file.write_all_at(data, at).map_err(Copy::Write)?;
                at += data.len() as u64;
                self.check()?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Copy> {
        self.cancel
            .check()
            .map_err(|cancelled| Copy::Read(cancelled.into()))
    }

    fn hard_link(&mut self, header: &Header, parent: Id, name: &[u8]) -> Result<Entry, ApplyError> {
        let refused = || ApplyError::HardLink {
            path: shown(&header.path),
            target: shown(&header.link),
        };
        let target = clean(&header.link, &header.path)?;
        let (Some(target_name), Some(target_parent)) = (target.name(), target.parent()) else {
            return Err(refused());
        };
        let target_parent = self
            .walk(&target_parent, &header.path, false)?
            .ok_or_else(refused)?;
        let id = self
            .tree
            .child(target_parent, target_name)
            .ok_or_else(refused)?;
        match &self.tree.node(id).entry {
            Some(entry) if !entry.is_directory() => {}
            _ => return Err(refused()),
        }
        let made = self
            .disk
            .hard_link(&self.tree, (target_parent, target_name), (parent, name));
        made.map_err(|errno| self.failed("link", parent, name, errno))?;
        let new = self.tree.child_or_new(parent, name);
        let entry = self.tree.node_mut(id).entry.as_mut().ok_or_else(refused)?;
        if entry.link_group == 0 {
            self.links.push(Links {
                linked: Linked::new(entry),
                names: vec![id],
            });
            entry.link_group = u32::try_from(self.links.len()).map_err(|_| refused())?;
        }
        let entry = entry.clone();
        let group = usize::try_from(entry.link_group - 1).unwrap_or(usize::MAX);
        let links = self.links.get_mut(group).ok_or_else(refused)?;
        links.linked.set(header);
        links.names.push(new);
        self.count_metadata(bytes(&entry.attributes.xattrs))?;
        Ok(entry)
    }

    /// Gives files that have several names what the entries of these said last. It is done once for
    /// each, whatever their number.
    fn finish_links(&mut self) -> Result<(), ApplyError> {
        for (group, links) in (1..).zip(std::mem::take(&mut self.links)) {
            self.cancel.check()?;
            let wanted = links.linked.attributes();
            // Later entries may have taken names.
            let of_group = |id: &Id| {
                let entry = self.tree.node(*id).entry.as_ref();
                entry.is_some_and(|entry| entry.link_group == group) && self.tree.is_there(*id)
            };
            let names: Vec<Id> = links.names.into_iter().filter(of_group).collect();
            let Some(&first) = names.first() else {
                continue;
            };
            let entry = self.tree.node(first).entry.clone();
            let Some(mut entry) = entry.filter(|entry| entry.attributes != wanted) else {
                continue;
            };
            self.count_metadata(bytes(&wanted.xattrs).saturating_mul(names.len() as u64))?;
            entry.attributes = wanted;
            let digest = self.redress(&entry, first)?;
            for id in names {
                if let Some(other) = &mut self.tree.node_mut(id).entry {
                    other.attributes = entry.attributes.clone();
                    other.digest = Some(digest);
                }
            }
        }
        Ok(())
    }

    /// Gives other attributes to what has a name already. Returns its digest, of which they are
    /// part.
    fn redress(&mut self, entry: &Entry, id: Id) -> Result<ContentDigest, ApplyError> {
        let node = self.tree.node(id);
        let (parent, name) = (node.parent, node.name.clone());
        let (kind, attributes) = (entry.kind, &entry.attributes);
        let dressed = self
            .disk
            .redress(&self.tree, parent, &name, kind, attributes);
        let file = dressed
            .map_err(|errno| self.failed("set attributes of", parent, &name, errno))?
            .filter(|_| kind == Kind::File);
        let mut hasher = FileHasher::new(entry);
        if let Some(mut file) = file {
            let mut buffer = vec![0; ZEROS.len()];
            loop {
                self.cancel.check()?;
                let read = file.read(&mut buffer);
                let read = read.map_err(|error| self.failed("read", parent, &name, error))?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
            }
        }
        Ok(hasher.finish())
    }

    /// The directory at `path`; links of this layer are followed, missing directories are made.
    fn parent(&mut self, path: &TreePath, asked: &[u8]) -> Result<Id, ApplyError> {
        if let Some((last, id)) = &self.last
            && last == path
        {
            return Ok(*id);
        }
        let found = self.walk(path, asked, true)?;
        let id = found.ok_or_else(|| ApplyError::NotADirectory { path: shown(asked) })?;
        self.last = Some((path.clone(), id));
        Ok(id)
    }

    /// As [`Extract::parent`]; without `make` a directory that is missing gives `None`.
    fn walk(
        &mut self,
        path: &TreePath,
        asked: &[u8],
        make: bool,
    ) -> Result<Option<Id>, ApplyError> {
        let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut here = ROOT;
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    here = self.tree.node(here).parent;
                    continue;
                }
                _ => {}
            }
            let child = self.tree.child(here, &name);
            match child.and_then(|id| Some((id, self.tree.node(id).entry.as_ref()?))) {
                Some((id, entry)) if entry.is_directory() => here = id,
                Some((_, entry)) if entry.kind == Kind::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ApplyError::TooManyLinks { path: shown(asked) });
                    }
                    if entry.target.starts_with(b"/") {
                        here = ROOT;
                    }
                    let parts = entry.target.split(|&byte| byte == b'/').rev();
                    todo.extend(parts.map(<[u8]>::to_vec));
                }
                Some(_) => return Err(ApplyError::NotADirectory { path: shown(asked) }),
                None if make => here = self.imply(here, &name, asked)?,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn imply(&mut self, parent: Id, name: &[u8], asked: &[u8]) -> Result<Id, ApplyError> {
        if name.starts_with(b".wh.") {
            return Err(ApplyError::Whiteout { path: shown(asked) });
        }
        self.check_name(parent, name, asked)?;
        let made = self.disk.make_directory(&self.tree, parent, name);
        made.map_err(|errno| self.failed("make", parent, name, errno))?;
        let id = self.tree.child_or_new(parent, name);
        let node = self.tree.node_mut(id);
        node.entry = Some(implied_directory());
        node.implied = true;
        // Many directories in one name count like many entries.
        self.entries += 1;
        if self.entries > self.limits.layer_entries {
            return Err(ApplyError::TooManyEntries {
                limit: self.limits.layer_entries,
            });
        }
        Ok(id)
    }

    fn check_name(&self, parent: Id, name: &[u8], asked: &[u8]) -> Result<(), ApplyError> {
        let problem = if name.len() > MAX_NAME {
            "a component has more than 255 bytes"
        } else if self.tree.node(parent).length + 1 + name.len() > MAX_PATH {
            "it has more than 4096 bytes"
        } else if name.contains(&0) {
            "it contains a NUL byte"
        } else {
            return Ok(());
        };
        Err(ApplyError::Name {
            path: shown(asked),
            problem,
        })
    }

    fn remove(&mut self, id: Id) -> Result<(), ApplyError> {
        self.last = None;
        let removed = self.disk.remove(&self.tree, id);
        removed.map_err(|errno| ApplyError::Disk {
            action: "replace",
            path: self.tree.path(id),
            source: errno.into(),
        })?;
        let node = self.tree.node_mut(id);
        node.entry = None;
        node.opaque = false;
        node.children = BTreeMap::new();
        Ok(())
    }

    /// Makes the removals, and sets what directories should have.
    fn finish_directories(&mut self) -> Result<(), ApplyError> {
        let mut todo = vec![ROOT];
        while let Some(id) = todo.pop() {
            self.cancel.check()?;
            let node = self.tree.node(id);
            let Some(entry) = node.entry.as_ref().filter(|entry| entry.is_directory()) else {
                continue;
            };
            for (name, &child) in &node.children {
                let child_node = self.tree.node(child);
                if child_node.entry.is_none() && child_node.removed {
                    let made = self.disk.whiteout(&self.tree, id, name);
                    made.map_err(|error| self.failed("make whiteout", id, name, error))?;
                } else if child_node.is_directory() {
                    todo.push(child);
                }
            }
            if id != ROOT {
                let dressed = self.disk.dress_directory(&self.tree, id, &entry.attributes);
                dressed.map_err(|errno| ApplyError::Disk {
                    action: "set attributes of",
                    path: self.tree.path(id),
                    source: errno.into(),
                })?;
            }
        }
        Ok(())
    }

    fn join(&self, parent: Id, name: &[u8]) -> TreePath {
        let parent = self.tree.path(parent);
        parent.join(name).unwrap_or(parent)
    }

    fn failed(
        &self,
        action: &'static str,
        parent: Id,
        name: &[u8],
        error: impl Into<io::Error>,
    ) -> ApplyError {
        ApplyError::Disk {
            action,
            path: self.join(parent, name),
            source: error.into(),
        }
    }
}

/// Bytes of names and values.
fn bytes(xattrs: &Xattrs) -> u64 {
    let lengths = xattrs.iter().map(|(name, value)| name.len() + value.len());
    lengths.sum::<usize>() as u64
}

/// Which side of a copy failed.
enum Copy {
    Read(ApplyError),
    Write(io::Error),
}

impl From<crate::tree::tar::TarError> for Copy {
    fn from(error: crate::tree::tar::TarError) -> Self {
        Self::Read(error.into())
    }
}

fn clean(path: &[u8], asked: &[u8]) -> Result<TreePath, ApplyError> {
    let clean = TreePath::clean(path);
    let problem = "it contains a NUL byte";
    clean.map_err(|_| ApplyError::Name {
        path: shown(asked),
        problem,
    })
}

fn kind(kind: TarKind) -> Kind {
    match kind {
        TarKind::File | TarKind::HardLink => Kind::File,
        TarKind::Symlink => Kind::Symlink,
        TarKind::CharDevice => Kind::CharDevice,
        TarKind::BlockDevice => Kind::BlockDevice,
        TarKind::Directory => Kind::Directory,
        TarKind::Fifo => Kind::Fifo,
    }
}
