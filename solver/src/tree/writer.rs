//! Makes a layer: its directory and its index in one pass.
//!
//! Owns [`LayerWriter`].
//!
//! Invariants:
//! - **The view is the truth**: [`LayerWriter::view`] is at any time what `finish` commits.
//! - **Normal form**: removals are explicit whiteouts; a directory is opaque only where it
//!   replaces something that is not a directory.
//! - **Names never leave the layer**: every object is reached by directory handles, and no
//!   symbolic link is followed.
//!
//! Leaves to others: where the layer is stored and when it is committed (`snapshot`), which paths
//! to write (`ops`, `source`).

mod changes;
mod copy;
mod disk;
mod error;
mod groups;
mod previous;
mod unchanged;

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

pub use self::error::WriteError;
pub use self::previous::{Origins, Previous};

use self::changes::{Directory, Found, Leaf, Slot};
use self::disk::Disk;
use self::groups::LinkGroups;
use super::checksum::FileHasher;
use super::entry::Device;
use super::index::{MAX_PATH, is_overlay_xattr};
use super::{Attributes, Entry, Files, Index, Kind, Node, Timestamp, TreePath, View, Xattrs};
use crate::cancel::Cancel;

/// Bytes read, hashed and written at once.
const BLOCK: usize = 1 << 20;

/// Bytes that a copy's buffer starts with; clearing a whole block would cost more than copying the
/// few small files of most copies.
const START: usize = 1 << 16;

/// How a layer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct WriterOptions {
    /// Whether the process may set owners, make devices and set trusted attributes. If not, these
    /// live in the index alone.
    pub privileged: bool,
    /// The time that directories get when something is made or removed in them.
    pub now: Timestamp,
}

/// One object to be copied by [`LayerWriter::copy`].
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct CopyItem {
    /// What to copy: for a directory only itself, its children are items of their own.
    pub source: Arc<Node>,
    /// Where it is in its own tree.
    pub source_path: TreePath,
    /// Where it goes.
    pub destination: TreePath,
    /// The attributes it gets there.
    pub attributes: Attributes,
    /// Items of one copy that share a number become hard links of each other.
    pub link_group: Option<u64>,
}

/// Writes a new layer on top of a base.
///
/// An error leaves the layer as it may be: it is then good for nothing but to be dropped.
#[derive(Debug)]
pub struct LayerWriter {
    disk: Disk,
    files: Arc<dyn Files>,
    base: View,
    now: Timestamp,
    root: Directory,
    /// Whether the root directory itself belongs to the layer.
    touched: bool,
    groups: LinkGroups,
    /// What copies are linked from as far as it is the same.
    previous: Option<Arc<dyn Previous>>,
    view: OnceLock<View>,
}

impl LayerWriter {
    /// Starts with an empty directory `fs`, which belongs to the layer; `files` reads it.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn new(
        fs: OwnedFd,
        files: Arc<dyn Files>,
        base: View,
        options: WriterOptions,
    ) -> Result<Self, WriteError> {
        let disk =
            Disk::new(fs, options.privileged).map_err(failed("prepare", &TreePath::root()))?;
        let root = Directory::new(plain(base.root().entry()), Some(base.root().clone()));
        let (groups, view) = (LinkGroups::default(), OnceLock::new());
        Ok(Self {
            disk,
            files,
            base,
            now: options.now,
            root,
            touched: false,
            groups,
            previous: None,
            view,
        })
    }

    /// From now on copies of files that may change are linked from `previous`, instead of read and
    /// written, where that has a file of the same name and attributes, and the checksum that is
    /// known of the source is the one of what that file was copied from. So the source must have
    /// been scanned, and its checksum be known, when it was copied to `previous` and now.
    pub fn follow(&mut self, previous: Option<Arc<dyn Previous>>) {
        self.previous = previous;
    }

    /// The base and everything written so far.
    pub fn view(&self) -> &View {
        self.view.get_or_init(|| {
            if self.touched {
                self.root.merged(&self.files)
            } else {
                self.base.clone()
            }
        })
    }

    /// What is at `path` in base and layer together; no link is followed. Costs the length of the
    /// path, unlike a look at [`LayerWriter::view`] after each change.
    pub fn entry(&self, path: &TreePath) -> Option<&Entry> {
        match self.root.find(path)? {
            Found::Directory(directory) => Some(&directory.entry),
            Found::Leaf(leaf) => Some(leaf.node.entry()),
            Found::Base(node) => Some(node.entry()),
        }
    }

    /// The time that directories get when something is made or removed in them.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Makes a directory, or gives an existing one these attributes and keeps what is in it.
    /// Something else at `path` is replaced.
    ///
    /// # Errors
    /// [`WriteError`]; the parent must be a directory.
    pub fn make_directory(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        let entry = checked(path, Entry::new(Kind::Directory, attributes))?;
        if self
            .root
            .find(path)
            .is_some_and(|found| found.is_directory())
        {
            let directory = self.own_directory(path)?;
            let opaque = directory.entry.opaque;
            directory.entry = Entry { opaque, ..entry };
            return Ok(());
        }
        let (parent_path, name) = split(path)?;
        self.clear(path)?;
        let below = self.own_directory(&parent_path)?.below(name).cloned();
        self.disk
            .make_directory(path)
            .map_err(failed("make", path))?;
        let opaque = below
            .as_ref()
            .is_some_and(|node| !node.entry().is_directory());
        // A removed directory of the base stays removed: each of its children is.
        let removed = below.filter(|_| !opaque);
        let mut directory = Directory::new(Entry { opaque, ..entry }, removed.clone());
        for (child, _) in removed.iter().flat_map(|node| node.children()) {
            let child_path = path.join(child).expect("BUG: a child's name is not a name");
            self.disk
                .make_whiteout(&child_path)
                .map_err(failed("remove", &child_path))?;
            directory.children.insert(child.clone(), Slot::Whiteout);
        }
        self.insert(path, Slot::Directory(Box::new(directory)))
    }

    /// Writes a regular file of all that `data` gives; what is at `path` is replaced, unless it
    /// is a directory.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_file(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
        data: &mut dyn Read,
    ) -> Result<(), WriteError> {
        let entry = checked(path, Entry::new(Kind::File, attributes))?;
        self.prepare(path)?;
        let (parent, name) = self.disk.place(path).map_err(failed("reach", path))?;
        let mut file = disk::create(&*parent, name).map_err(failed("make", path))?;
        let entry = copy::fill(&mut file, entry, data, path)?;
        self.disk
            .seal_file(&file, &*parent, name, &entry)
            .map_err(failed("set the attributes of", path))?;
        self.insert_leaf(path, entry, false)
    }

    /// Makes a symbolic link; what is at `path` is replaced, unless it is a directory. The mode is
    /// kept as given, as links have none.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn make_symlink(
        &mut self,
        path: &TreePath,
        target: &[u8],
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        let entry = Entry {
            target: target.into(),
            ..Entry::new(Kind::Symlink, attributes)
        };
        self.make_special(path, entry)
    }

    /// Makes a device file or a named pipe; what is at `path` is replaced, unless it is a
    /// directory. `device` is ignored for a pipe.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::Entry`] for any other kind.
    pub fn make_node(
        &mut self,
        path: &TreePath,
        kind: Kind,
        device: Device,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => device,
            Kind::Fifo => Device::default(),
            _ => return Err(wrong(path, "neither a device nor a pipe")),
        };
        self.make_special(
            path,
            Entry {
                device,
                ..Entry::new(kind, attributes)
            },
        )
    }

    fn make_special(&mut self, path: &TreePath, entry: Entry) -> Result<(), WriteError> {
        let mut entry = checked(path, entry)?;
        entry.digest = Some(FileHasher::new(&entry).finish());
        self.prepare(path)?;
        let (parent, name) = self.disk.place(path).map_err(failed("reach", path))?;
        self.disk
            .make_special(&*parent, name, &entry)
            .map_err(failed("make", path))?;
        self.insert_leaf(path, entry, false)
    }

    /// Makes `path` another name of `existing`, which is copied into the layer if it is in the
    /// base. What is at `path` is replaced, unless it is a directory.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::IsADirectory`] if `existing` is one.
    pub fn hard_link(&mut self, path: &TreePath, existing: &TreePath) -> Result<(), WriteError> {
        if self.find(existing)?.is_directory() {
            return Err(WriteError::IsADirectory {
                path: existing.clone(),
            });
        }
        if path == existing {
            return Ok(());
        }
        checked(path, Entry::new(Kind::File, Attributes::default()))?;
        self.prepare(path)?;
        self.own_leaf(existing)?;
        let linked = self
            .disk
            .link(existing, path)
            .map_err(failed("link", path))?;
        let leaf = self.leaf(existing)?;
        let shared = leaf.shared && linked;
        let mut entry = leaf.node.entry().clone();
        if !linked {
            // As many names as the file system allows: an inode of its own, which the index
            // knows to be the same.
            self.duplicate(existing, path, &entry)?;
        }
        if entry.link_group == 0 {
            entry.link_group = self.groups.start(existing);
            self.set_entry(existing, entry.clone())?;
        }
        let group = entry.link_group;
        self.insert_leaf(path, entry, shared)?;
        self.groups.add(group, path);
        Ok(())
    }

    /// Removes `path` and all below it.
    ///
    /// # Errors
    /// [`WriteError::NotFound`]; [`WriteError::Entry`] for the root.
    pub fn remove(&mut self, path: &TreePath) -> Result<(), WriteError> {
        let (parent, name) = split(path)?;
        self.find(path)?;
        self.clear(path)?;
        let now = self.now;
        let directory = self.own_directory(&parent)?;
        directory.entry.attributes.mtime = now;
        if directory.below(name).is_some() {
            directory.children.insert(name.into(), Slot::Whiteout);
            self.disk
                .make_whiteout(path)
                .map_err(failed("remove", path))?;
        }
        Ok(())
    }

    /// Gives the object at `path`, and its hard links in this layer, other attributes.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn set_attributes(
        &mut self,
        path: &TreePath,
        attributes: Attributes,
    ) -> Result<(), WriteError> {
        let found = self.find(path)?;
        if found.is_directory() {
            return self.make_directory(path, attributes);
        }
        let old = found.entry().clone();
        if let Found::Base(node) = found {
            let item = CopyItem {
                source: node.clone(),
                source_path: path.clone(),
                destination: path.clone(),
                attributes,
                link_group: None,
            };
            return self.copy_up(item);
        }
        let mut entry = checked(
            path,
            Entry {
                attributes,
                digest: None,
                ..old.clone()
            },
        )?;
        entry.digest = match entry.kind {
            Kind::File if copy::same_header(&entry, &old) => old.digest,
            Kind::File => None,
            _ => Some(FileHasher::new(&entry).finish()),
        };
        if self.leaf(path)?.shared {
            self.unshare(path)?;
        }
        let (parent, name) = self.disk.place(path).map_err(failed("reach", path))?;
        self.disk
            .set_attributes(std::os::fd::AsFd::as_fd(&*parent), name, &entry, false)
            .map_err(failed("set the attributes of", path))?;
        for path in self.groups.members(entry.link_group, path) {
            self.set_entry(&path, entry.clone())?;
        }
        Ok(())
    }

    /// Copies many objects, parents before children, with two threads. A directory that is there
    /// already gets the attributes of its item; anything else at a destination is replaced, but a
    /// directory never by something else.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::InputChanged`] if a file does not have the bytes that its
    /// checksum was computed from.
    ///
    /// # Cancellation
    /// Looked for before each object and each mebibyte.
    pub fn copy(&mut self, items: Vec<CopyItem>, cancel: &Cancel) -> Result<(), WriteError> {
        copy::copy(self, items, cancel)
    }

    /// Sets what must be set last, the attributes of directories, and gives the index of the
    /// layer.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn finish(self) -> Result<Index, WriteError> {
        self.finish_with_origins().map(|(index, _)| index)
    }

    /// As [`LayerWriter::finish`], with what a later copy needs to know to follow this layer.
    ///
    /// # Errors
    /// As [`LayerWriter::finish`].
    pub fn finish_with_origins(mut self) -> Result<(Index, Origins), WriteError> {
        let mut entries = Vec::with_capacity(1 + self.root.count());
        let mut origins = Origins::default();
        if self.touched {
            entries.push((TreePath::root(), self.root.entry.clone()));
        }
        let children = std::mem::take(&mut self.root.children);
        Directory::dismantle(children, |path, part| {
            if let Some(origin) = part.origin() {
                origins.push(entries.len(), origin);
            }
            entries.push((path, part.into_entry()));
        });
        for (path, entry) in entries
            .iter()
            .filter(|(_, entry)| entry.is_directory())
            .rev()
        {
            self.disk
                .seal_directory(path, entry)
                .map_err(failed("set the attributes of", path))?;
        }
        if !self.touched {
            let root = TreePath::root();
            self.disk
                .seal_directory(&root, &self.root.entry)
                .map_err(failed("set the attributes of", &root))?;
        }
        let index = Index::new(entries).map_err(|error| WriteError::Io {
            action: "index",
            path: TreePath::root(),
            source: io::Error::other(error),
        })?;
        Ok((index, origins))
    }

    fn find(&self, path: &TreePath) -> Result<Found<'_>, WriteError> {
        self.root
            .find(path)
            .ok_or_else(|| WriteError::NotFound { path: path.clone() })
    }

    fn leaf(&self, path: &TreePath) -> Result<&Leaf, WriteError> {
        match self.root.find(path) {
            Some(Found::Leaf(leaf)) => Ok(leaf),
            _ => Err(WriteError::NotFound { path: path.clone() }),
        }
    }

    /// Makes `path` and its parents directories of the layer, with the attributes they have.
    fn own_directory(&mut self, path: &TreePath) -> Result<&mut Directory, WriteError> {
        self.touched = true;
        self.view.take();
        let mut here = &mut self.root;
        let mut at = TreePath::root();
        here.forget();
        for name in path.components() {
            at = at.join(name).expect("BUG: a component is not a name");
            if !here.children.contains_key(name) {
                let Some(node) = here.below(name) else {
                    return Err(WriteError::NotFound { path: at });
                };
                if !node.entry().is_directory() {
                    return Err(WriteError::NotADirectory { path: at });
                }
                let directory = Directory::new(plain(node.entry()), Some(node.clone()));
                self.disk.make_directory(&at).map_err(failed("make", &at))?;
                here.children
                    .insert(name.into(), Slot::Directory(Box::new(directory)));
            }
            match here.children.get_mut(name) {
                Some(Slot::Directory(directory)) => here = directory,
                Some(Slot::Leaf(_)) => return Err(WriteError::NotADirectory { path: at }),
                _ => return Err(WriteError::NotFound { path: at }),
            }
            here.forget();
        }
        Ok(here)
    }

    /// Makes the object at `path`, which is not a directory, one of the layer.
    fn own_leaf(&mut self, path: &TreePath) -> Result<(), WriteError> {
        let Found::Base(node) = self.find(path)? else {
            return Ok(());
        };
        let item = CopyItem {
            attributes: node.entry().attributes.clone(),
            source: node.clone(),
            source_path: path.clone(),
            destination: path.clone(),
            link_group: None,
        };
        self.copy_up(item)
    }

    /// Copies one object of the base to the same path, without anyone seeing it happen.
    fn copy_up(&mut self, item: CopyItem) -> Result<(), WriteError> {
        let (parent, _) = split(&item.destination)?;
        let mtime = self.own_directory(&parent)?.entry.attributes.mtime;
        self.copy(vec![item], &Cancel::new())?;
        self.own_directory(&parent)?.entry.attributes.mtime = mtime;
        Ok(())
    }

    /// Makes way for something that is not a directory.
    fn prepare(&mut self, path: &TreePath) -> Result<(), WriteError> {
        let (parent, _) = split(path)?;
        if self
            .root
            .find(path)
            .is_some_and(|found| found.is_directory())
        {
            return Err(WriteError::IsADirectory { path: path.clone() });
        }
        self.own_directory(&parent)?;
        self.clear(path)
    }

    /// Removes what the layer itself has at `path`, on disk and in memory.
    fn clear(&mut self, path: &TreePath) -> Result<(), WriteError> {
        let (parent, name) = split(path)?;
        let Some(slot) = self.own_directory(&parent)?.children.remove(name) else {
            return Ok(());
        };
        let mut gone = Vec::new();
        match slot {
            Slot::Directory(directory) => {
                gone.push((path.clone(), true));
                Directory::dismantle(directory.children, |below, part| {
                    let directory = matches!(part, changes::Dismantled::Directory(_));
                    gone.push((path.join_path(&below), directory));
                });
            }
            Slot::Leaf(_) | Slot::Whiteout => gone.push((path.clone(), false)),
        }
        for (path, directory) in gone.into_iter().rev() {
            self.disk
                .remove(&path, directory)
                .map_err(failed("remove", &path))?;
            if directory {
                self.disk.forget_handles();
            } else if let Some(lonely) = self.groups.remove(&path) {
                self.leave_group(&lonely)?;
            }
        }
        Ok(())
    }

    /// What was the last of several hard links is an object like others.
    fn leave_group(&mut self, path: &TreePath) -> Result<(), WriteError> {
        let Ok(leaf) = self.leaf(path) else {
            return Ok(());
        };
        let entry = Entry {
            link_group: 0,
            ..leaf.node.entry().clone()
        };
        self.set_entry(path, entry)
    }

    fn insert(&mut self, path: &TreePath, slot: Slot) -> Result<(), WriteError> {
        let (parent, name) = split(path)?;
        let now = self.now;
        let directory = self.own_directory(&parent)?;
        directory.entry.attributes.mtime = now;
        directory.children.insert(name.into(), slot);
        Ok(())
    }

    fn insert_leaf(
        &mut self,
        path: &TreePath,
        entry: Entry,
        shared: bool,
    ) -> Result<(), WriteError> {
        let node = Node::leaf(entry, Some(self.files.clone()));
        let origin = None;
        self.insert(
            path,
            Slot::Leaf(Leaf {
                node,
                shared,
                origin,
            }),
        )
    }

    /// Exchanges the entry of an object of the layer.
    fn set_entry(&mut self, path: &TreePath, entry: Entry) -> Result<(), WriteError> {
        let (parent, name) = split(path)?;
        let node = Node::leaf(entry, Some(self.files.clone()));
        let slot = self.own_directory(&parent)?.children.get_mut(name);
        let Some(Slot::Leaf(leaf)) = slot else {
            return Err(WriteError::NotFound { path: path.clone() });
        };
        leaf.node = node;
        Ok(())
    }

    /// Gives an object and its hard links an inode of their own.
    fn unshare(&mut self, path: &TreePath) -> Result<(), WriteError> {
        let entry = self.leaf(path)?.node.entry().clone();
        let (parent, name) = self.disk.place(path).map_err(failed("reach", path))?;
        let mut source =
            crate::dir::open_file(&*parent, name).map_err(|source| WriteError::Read {
                path: path.clone(),
                source,
            })?;
        let members = self.groups.members(entry.link_group, path);
        for member in &members {
            self.disk
                .remove(member, false)
                .map_err(failed("replace", member))?;
        }
        let mut file = disk::create(&*parent, name).map_err(failed("make", path))?;
        let entry = copy::fill(&mut file, entry, &mut source, path)?;
        for member in &members {
            if member != path
                && !self
                    .disk
                    .link(path, member)
                    .map_err(failed("link", member))?
            {
                self.duplicate(path, member, &entry)?;
            }
            let (parent, name) = split(member)?;
            if let Some(Slot::Leaf(leaf)) = self.own_directory(&parent)?.children.get_mut(name) {
                leaf.shared = false;
            }
        }
        Ok(())
    }

    /// Makes a file at `path` with the bytes of `existing`, both of this layer.
    fn duplicate(
        &mut self,
        existing: &TreePath,
        path: &TreePath,
        entry: &Entry,
    ) -> Result<(), WriteError> {
        let (from, old) = self
            .disk
            .place(existing)
            .map_err(failed("reach", existing))?;
        let (to, new) = self.disk.place(path).map_err(failed("reach", path))?;
        if entry.kind != Kind::File {
            return self
                .disk
                .make_special(&*to, new, entry)
                .map_err(failed("make", path));
        }
        let mut source = crate::dir::open_file(&*from, old).map_err(|source| WriteError::Read {
            path: existing.clone(),
            source,
        })?;
        let mut file = disk::create(&*to, new).map_err(failed("make", path))?;
        let entry = copy::fill(&mut file, entry.clone(), &mut source, path)?;
        self.disk
            .seal_file(&file, &*to, new, &entry)
            .map_err(failed("set the attributes of", path))
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        // Trees may be deeper than a thread's stack.
        Directory::dismantle(std::mem::take(&mut self.root.children), |_, _| {});
    }
}

/// The parent and name of everything but the root.
fn split(path: &TreePath) -> Result<(TreePath, &[u8]), WriteError> {
    match (path.parent(), path.name()) {
        (Some(parent), Some(name)) => Ok((parent, name)),
        _ => Err(wrong(
            path,
            "the root of a tree is always there and always a directory",
        )),
    }
}

fn wrong(path: &TreePath, problem: &'static str) -> WriteError {
    WriteError::Entry {
        path: path.clone(),
        problem,
    }
}

fn failed(action: &'static str, path: &TreePath) -> impl FnOnce(io::Error) -> WriteError {
    let path = path.clone();
    move |source| WriteError::Io {
        action,
        path,
        source,
    }
}

/// A directory of the base as it is copied up.
fn plain(entry: &Entry) -> Entry {
    Entry {
        opaque: false,
        ..entry.clone()
    }
}

/// Refuses what cannot be in an index, and drops the attributes of the overlay file system.
fn checked(path: &TreePath, mut entry: Entry) -> Result<Entry, WriteError> {
    let attributes = &mut entry.attributes;
    let numbers = (entry.device.major, entry.device.minor);
    let problem = if path.as_bytes().len() > MAX_PATH {
        "the path is too long"
    } else if attributes.mode > 0o7777 {
        "the mode is more than permission bits"
    } else if attributes.uid == u32::MAX || attributes.gid == u32::MAX {
        "the owner is out of range"
    } else if attributes.mtime.nanoseconds >= 1_000_000_000 {
        "the time has more than a second of nanoseconds"
    } else if entry.kind == Kind::CharDevice && numbers == (0, 0) {
        "a character device 0:0 would be a whiteout"
    } else if entry.kind == Kind::Symlink && entry.target.is_empty() {
        "a symbolic link has no target"
    } else if entry.target.contains(&0) {
        "the target contains a NUL byte"
    } else {
        if attributes
            .xattrs
            .iter()
            .any(|(name, _)| name.is_empty() || is_overlay_xattr(name))
        {
            let kept = attributes.xattrs.iter();
            let kept = kept.filter(|(name, _)| !name.is_empty() && !is_overlay_xattr(name));
            attributes.xattrs = Xattrs::new(kept.map(|(name, value)| (name.into(), value.into())));
        }
        return Ok(entry);
    };
    Err(wrong(path, problem))
}

#[cfg(test)]
mod tests;
