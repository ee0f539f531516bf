//! One layer: while it is filled, and for ever after.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, chmodat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::{LayerStore, SnapshotError, Stack, io_error};
use crate::id::LayerId;
use crate::root::Tier;
use crate::tree::index::{Index, IndexError};
use crate::tree::{Attributes, Files, Timestamp, TreePath};

/// Longest description kept, in bytes; longer ones are cut. Vertex names can be whole scripts.
const MAX_DESCRIPTION: usize = 16 * 1024;

/// What is known of a layer beside its files; goes into the history of images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerDescription {
    /// What made it: the display name of its vertex.
    pub text: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A layer that is being filled. Dropping it removes it.
#[derive(Debug)]
pub struct ActiveLayer {
    store: LayerStore,
    id: LayerId,
    /// `layers/<id>`.
    dir: OwnedFd,
    /// `layers/<id>/fs`.
    fs: OwnedFd,
    /// What it is made on.
    base: Option<LayerId>,
    /// Whether there may be a `work`.
    mounted: AtomicBool,
    committed: bool,
}

impl ActiveLayer {
    pub(super) fn start(store: LayerStore, id: LayerId) -> Result<Self, SnapshotError> {
        let open = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let dir = openat(store.0.root.layers(), id.to_string(), flags, Mode::empty())?;
            mkdirat(&dir, "fs", Mode::from(0o755))?;
            let fs = openat(&dir, "fs", flags, Mode::empty())?;
            // Whatever the caller's umask: a step may run as any user and must pass the root.
            rustix::fs::fchmod(&fs, Mode::from(0o755))?;
            Ok((dir, fs))
        };
        match open() {
            Ok((dir, fs)) => Ok(Self {
                store,
                id,
                dir,
                fs,
                base: None,
                mounted: AtomicBool::new(false),
                committed: false,
            }),
            Err(error) => {
                store.discard(id);
                Err(io_error("make the directory", id)(error.into()))
            }
        }
    }

    /// Notes what the layer is made on. Default: nothing.
    #[must_use]
    pub fn on(mut self, base: &Stack) -> Self {
        self.base = base.top().map(Layer::id);
        self
    }

    /// Its id.
    pub fn id(&self) -> LayerId {
        self.id
    }

    /// Where it is: the directory that holds `fs`.
    pub fn path(&self) -> PathBuf {
        self.store
            .root()
            .path()
            .join("layers")
            .join(self.id.to_string())
    }

    /// The directory that holds `fs`.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory of its files.
    pub fn fs(&self) -> BorrowedFd<'_> {
        self.fs.as_fd()
    }

    /// A second handle of the directory of its files.
    ///
    /// # Errors
    /// [`SnapshotError::Io`] if the process is out of file descriptors.
    pub fn fs_handle(&self) -> Result<OwnedFd, SnapshotError> {
        self.fs
            .try_clone()
            .map_err(io_error("open the files", self.id))
    }

    /// Where the bytes of its files are read from, now and once it is committed.
    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(LayerFiles {
            store: self.store.clone(),
            id: self.id,
        })
    }

    /// Prepares the layer as the upper directory of an overlay mount whose root has these
    /// attributes, and gives the upper and the work directory.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn upper(&self, root: &Attributes) -> Result<(PathBuf, PathBuf), SnapshotError> {
        self.mounted.store(true, Ordering::Relaxed);
        let prepare = || -> rustix::io::Result<()> {
            match mkdirat(&self.dir, "work", Mode::from(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            if self.store.root().tier() == Tier::Root && (root.uid, root.gid) != (0, 0) {
                let owner = rustix::fs::Uid::from_raw(root.uid);
                let group = rustix::fs::Gid::from_raw(root.gid);
                rustix::fs::fchown(&self.fs, Some(owner), Some(group))?;
            }
            rustix::fs::fchmod(&self.fs, Mode::from_raw_mode(root.mode & 0o7777))
        };
        prepare().map_err(|error| io_error("prepare the root", self.id)(error.into()))?;
        let path = self.path();
        Ok((path.join("fs"), path.join("work")))
    }

    /// Writes the index: from now on the layer exists and never changes. Not synced to disk.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the layer is removed then.
    pub fn commit(
        self,
        index: Index,
        description: &LayerDescription,
    ) -> Result<Layer, SnapshotError> {
        self.finish(index, description, false)
    }

    /// Commits a layer that is removed when nobody holds it any more.
    ///
    /// # Errors
    /// As for [`ActiveLayer::commit`].
    pub fn commit_while_held(
        self,
        index: Index,
        description: &LayerDescription,
    ) -> Result<Layer, SnapshotError> {
        self.finish(index, description, true)
    }

    /// Removes what the kernel left of an overlay mount.
    fn remove_work(&self) -> io::Result<()> {
        /// The kernel's own directory in there, the innermost first.
        const LEFT: [(&str, AtFlags); 4] = [
            ("work/incompat/volatile/dirty", AtFlags::empty()),
            ("work/incompat/volatile", AtFlags::REMOVEDIR),
            ("work/incompat", AtFlags::REMOVEDIR),
            ("work", AtFlags::REMOVEDIR),
        ];
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let work = match openat(&self.dir, "work", flags, Mode::empty()) {
            Ok(work) => work,
            Err(Errno::NOENT) => return Ok(()),
            Err(_) => return crate::root::remove_tree(self.dir.as_fd(), "work"),
        };
        if self.store.root().tier() == Tier::User {
            // The kernel makes them for nobody.
            for (name, _) in LEFT[1..].iter().rev() {
                if chmodat(&work, *name, Mode::RWXU, AtFlags::empty()).is_err() {
                    break;
                }
            }
        }
        let is_gone = |result: rustix::io::Result<()>| matches!(result, Ok(()) | Err(Errno::NOENT));
        let known = LEFT
            .iter()
            .all(|(name, flags)| is_gone(unlinkat(&work, *name, *flags)))
            && is_gone(unlinkat(&self.dir, "work", AtFlags::REMOVEDIR));
        // There is more if it was unmounted in the middle of something, or on other kernels.
        match known {
            true => Ok(()),
            false => crate::root::remove_tree(self.dir.as_fd(), "work"),
        }
    }

    fn finish(
        mut self,
        index: Index,
        description: &LayerDescription,
        while_held: bool,
    ) -> Result<Layer, SnapshotError> {
        let text = cut(&description.text, MAX_DESCRIPTION).as_bytes();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(text);
        bytes.extend_from_slice(&description.created.seconds.to_le_bytes());
        bytes.extend_from_slice(&description.created.nanoseconds.to_le_bytes());
        let base = self.base.map_or(NO_BASE, LayerId::bits);
        bytes.extend_from_slice(&base.to_le_bytes());
        bytes.extend_from_slice(&index.encode());
        let write = || -> io::Result<()> {
            if self.mounted.load(Ordering::Relaxed) {
                self.remove_work()?;
            }
            // Whoever reads it has a row that names the layer, which is written later.
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = openat(&self.dir, "index", flags, Mode::from(0o600))?;
            File::from(file).write_all(&bytes)
        };
        write().map_err(io_error("write the index", self.id))?;
        self.committed = true;
        let layer = Layer::new(self.store.clone(), self.id, while_held);
        let content = Arc::new((index, description.clone()));
        let _first = layer.0.content.set((content, self.base));
        Ok(self.store.remember(layer))
    }
}

impl Drop for ActiveLayer {
    fn drop(&mut self) {
        if !self.committed {
            self.store.discard(self.id);
        }
    }
}

fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// What the index of a layer holds, and what the layer was made on.
type Content = (Arc<(Index, LayerDescription)>, Option<LayerId>);

/// Written for a layer that was made on nothing; no id has so many bits.
const NO_BASE: u64 = u64::MAX;

/// A committed layer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layer(Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    store: LayerStore,
    id: LayerId,
    content: OnceLock<Content>,
    /// The directory, with a shared lock: whoever wants to remove the layer needs an exclusive
    /// one. Only for the top layer of a loaded stack. Layers below are held by the rows of what
    /// stands on them, and new ones by the session of the process that made them.
    pin: OnceLock<OwnedFd>,
    /// It is removed when nobody holds it any more.
    while_held: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.store.forget(self.id);
        if self.while_held {
            self.store.discard(self.id);
            // An export may have noted its blob.
            let _left_behind = self.store.0.meta.remove_layer(self.id);
        }
    }
}

impl Layer {
    /// A layer that may be there.
    pub(super) fn unchecked(store: LayerStore, id: LayerId) -> Self {
        Self::new(store, id, false)
    }

    fn new(store: LayerStore, id: LayerId, while_held: bool) -> Self {
        Self(Arc::new(Inner {
            store,
            id,
            content: OnceLock::new(),
            pin: OnceLock::new(),
            while_held,
        }))
    }

    /// Makes sure that the layer is there, and that it stays while anybody holds it.
    pub(super) fn hold(&self) -> Result<(), SnapshotError> {
        let (store, id) = (&self.0.store, self.0.id);
        if self.0.pin.get().is_some() {
            return Ok(());
        }
        let held = if store.0.root.is_own(id) {
            let index = format!("{id}/index");
            let nofollow = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::statat(store.0.root.layers(), index, nofollow).map(|_| None)
        } else {
            pin(store, id, FlockOperation::NonBlockingLockShared).map(Some)
        };
        match held {
            Ok(held) => {
                let _first = held.map(|pin| self.0.pin.set(pin));
                Ok(())
            }
            // Gone, or just going.
            Err(Errno::NOENT | Errno::WOULDBLOCK) => Err(SnapshotError::Gone { layer: id }),
            Err(error) => Err(io_error("pin the directory", id)(error.into())),
        }
    }

    pub(super) fn from_inner(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(super) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Its id.
    pub fn id(&self) -> LayerId {
        self.0.id
    }

    pub(super) fn store(&self) -> &LayerStore {
        &self.0.store
    }

    /// The directory of its files.
    pub fn fs_path(&self) -> PathBuf {
        self.0
            .store
            .root()
            .path()
            .join("layers")
            .join(self.0.id.to_string())
            .join("fs")
    }

    /// Where the bytes of its files are read from.
    pub fn files(&self) -> Arc<dyn Files> {
        Arc::new(LayerFiles {
            store: self.0.store.clone(),
            id: self.0.id,
        })
    }

    /// Its entries and what is known of it; read from disk when first asked for. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Gone`], [`SnapshotError::Index`], [`SnapshotError::Io`].
    pub fn content(&self) -> Result<Arc<(Index, LayerDescription)>, SnapshotError> {
        Ok(self.whole()?.0.clone())
    }

    /// The layer that it was made on; `None` if there was none. Stacks that a merge made have it on
    /// others. Blocks as [`Layer::content`].
    ///
    /// # Errors
    /// As for [`Layer::content`].
    pub fn base(&self) -> Result<Option<LayerId>, SnapshotError> {
        Ok(self.whole()?.1)
    }

    fn whole(&self) -> Result<&Content, SnapshotError> {
        if let Some(content) = self.0.content.get() {
            return Ok(content);
        }
        let content = self.read()?;
        Ok(self.0.content.get_or_init(|| content))
    }

    fn read(&self) -> Result<Content, SnapshotError> {
        let id = self.0.id;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(
            self.0.store.0.root.layers(),
            format!("{id}/index"),
            flags,
            Mode::empty(),
        );
        let file = match opened {
            Err(Errno::NOENT) => return Err(SnapshotError::Gone { layer: id }),
            file => file.map_err(|error| io_error("open the index", id)(error.into()))?,
        };
        let mut bytes = Vec::new();
        File::from(file)
            .read_to_end(&mut bytes)
            .map_err(io_error("read the index", id))?;
        let (description, base, rest) =
            read_description(&bytes).ok_or_else(|| SnapshotError::Gone { layer: id })?;
        let index = Index::decode(rest)
            .map_err(|source: IndexError| SnapshotError::Index { layer: id, source })?;
        Ok((Arc::new((index, description)), base))
    }
}

/// Locks the directory of a committed layer, and makes sure that it is still that directory.
pub(super) fn pin(
    store: &LayerStore,
    id: LayerId,
    how: FlockOperation,
) -> rustix::io::Result<OwnedFd> {
    let (layers, name) = (store.0.root.layers(), id.to_string());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let dir = openat(layers, &name, flags, Mode::empty())?;
    rustix::fs::flock(&dir, how)?;
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statat(&dir, "index", nofollow)?;
    let (named, held) = (
        rustix::fs::statat(layers, &name, nofollow)?,
        rustix::fs::fstat(&dir)?,
    );
    if (named.st_dev, named.st_ino) != (held.st_dev, held.st_ino) {
        return Err(Errno::NOENT);
    }
    Ok(dir)
}

fn read_description(bytes: &[u8]) -> Option<(LayerDescription, Option<LayerId>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (text, rest) = rest.split_at_checked(length)?;
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let (nanoseconds, rest) = rest.split_first_chunk::<4>()?;
    let (base, rest) = rest.split_first_chunk::<8>()?;
    let base = match u64::from_le_bytes(*base) {
        NO_BASE => None,
        bits => Some(LayerId::from_bits(bits)),
    };
    let created = Timestamp {
        seconds: i64::from_le_bytes(*seconds),
        nanoseconds: u32::from_le_bytes(*nanoseconds),
    };
    Some((
        LayerDescription {
            text: String::from_utf8_lossy(text).into_owned(),
            created,
        },
        base,
        rest,
    ))
}

/// The bytes of a layer's files.
#[derive(Debug)]
struct LayerFiles {
    store: LayerStore,
    id: LayerId,
}

impl Files for LayerFiles {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let mut name = format!("{}/fs/", self.id).into_bytes();
        name.extend_from_slice(path.as_bytes());
        crate::dir::open_file(self.store.0.root.layers(), &name)
    }

    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        let mut name = format!("{}/fs", self.id).into_bytes();
        if !path.is_root() {
            name.push(b'/');
            name.extend_from_slice(path.as_bytes());
        }
        crate::dir::open_directory(self.store.0.root.layers(), &name).map(Some)
    }

    fn immutable(&self) -> bool {
        true
    }
}
