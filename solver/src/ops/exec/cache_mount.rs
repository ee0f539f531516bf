//! Directories that outlive a build: cache mounts.
//!
//! ```text
//! <root>/cache-mounts/<sha256 of the key>/<generation>/<n>/fs     the files
//! <root>/cache-mounts/<sha256 of the key>/<generation>/<n>/lock   locked while a step uses them
//! ```
//!
//! The key is the namespace of the solve, the id of the mount and what it starts from. Steps that
//! share a directory lock it together; the others alone, one of them per `<n>`. The locks are
//! flocks: they hold between processes and vanish with their process.
//!
//! A solve that ignores the cache for a step begins the caches of that step anew, once, as BuildKit
//! does: it makes the next generation, and the last one counts. Steps that are at work in an older
//! one are not disturbed; what nobody uses of it is removed.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ashlar_llb::pb::CacheSharingOpt;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, renameat_with};

use super::ExecError;
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::id::CacheDigest;
use crate::ops::Engine;
use crate::ops::diff::written;
use crate::snapshot::Stack;
use crate::tree::writer::{CopyItem, LayerWriter, WriterOptions};
use crate::tree::{Files, Node, Timestamp, TreePath, View};

/// How often a directory that is locked is looked at again, as in BuildKit.
const RETRY: Duration = Duration::from_millis(100);

/// Directories of one key that exist side by side at most.
const MOST: u32 = 1024;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Where the directories of cache mounts are, and which of them one solve uses. Cheap to clone;
/// clones are those of one solve.
#[derive(Debug, Clone)]
pub struct CacheMounts {
    directory: PathBuf,
    namespace: String,
    /// Ids whose directories the solve begins anew.
    ignored: Arc<HashSet<String>>,
    /// Keys that it has begun anew.
    begun: Arc<Mutex<HashSet<String>>>,
}

impl CacheMounts {
    /// Keeps them below `directory`, which is made when first needed.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            namespace: String::new(),
            ignored: Arc::default(),
            begun: Arc::default(),
        }
    }

    /// The same place for one solve. An id is another one in each `namespace`.
    #[must_use]
    pub fn of_solve(&self, namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            ..Self::new(&self.directory)
        }
    }

    /// The same for the same solve, where those of these ids get empty directories, or new copies
    /// of what they start from, when the solve first uses them.
    #[must_use]
    pub fn ignoring(&self, ids: impl IntoIterator<Item = String>) -> Self {
        Self {
            ignored: Arc::new(ids.into_iter().collect()),
            ..self.clone()
        }
    }

    /// What a directory is found by.
    fn key(&self, id: &str, base: &Stack) -> String {
        let mut key = match &*self.namespace {
            "" => id.to_owned(),
            namespace => format!("{namespace}/{id}"),
        };
        for layer in base.layer_ids() {
            key.push(':');
            key.push_str(&layer.to_string());
        }
        key
    }

    /// Whether the solve has to begin this directory anew, now.
    fn begins_anew(&self, id: &str, key: &str) -> bool {
        if !self.ignored.contains(id) {
            return false;
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.insert(key.to_owned())
    }
}

/// A cache directory in use. Dropping it lets others have it.
#[derive(Debug)]
pub(super) struct CacheMount {
    /// The directory of the files.
    pub(super) path: PathBuf,
    key: String,
    _lock: File,
}

/// Finds or makes the directory of a cache mount, and tells where it is. One that the step has
/// already, in `held`, is the same directory. Blocks, until another step is done with it if the
/// mount is of the locked kind.
pub(super) fn open(
    engine: &Engine,
    id: &str,
    sharing: CacheSharingOpt,
    base: &Stack,
    held: &mut Vec<CacheMount>,
    cancel: &Cancel,
) -> Result<PathBuf, OperationError> {
    let key = engine.cache_mounts.key(id, base);
    if let Some(same) = held.iter().find(|cache| cache.key == key) {
        return Ok(same.path.clone());
    }
    let digest = CacheDigest::of(key.as_bytes()).to_string();
    let name = digest.strip_prefix("sha256:").unwrap_or(&digest);
    let directory = engine.cache_mounts.directory.join(name);
    let failed = |action, source| ExecError::CacheMount {
        action,
        id: id.to_owned(),
        source,
    };
    make_directory(&directory, true).map_err(|error| failed("make", error))?;
    if engine.cache_mounts.begins_anew(id, &key) {
        begin_anew(&directory).map_err(|error| failed("make", error))?;
    }
    loop {
        let generation = generations(&directory).max().unwrap_or(0);
        let directory = directory.join(generation.to_string());
        for number in 0..MOST {
            let place = directory.join(number.to_string());
            // One that is locked does not make another beside one that is in use.
            let waits = sharing == CacheSharingOpt::Locked && number > 0;
            if waits && place.symlink_metadata().is_err() {
                break;
            }
            make_directory(&place, true).map_err(|error| failed("make", error))?;
            let lock = lock(&place, sharing).map_err(|error| failed("lock", error))?;
            let Some(lock) = lock else {
                continue;
            };
            let path = place.join("fs");
            if path.symlink_metadata().is_err() {
                fill(engine, &place, &path, base, cancel, &failed)?;
            }
            held.push(CacheMount {
                path: path.clone(),
                key,
                _lock: lock,
            });
            return Ok(path);
        }
        cancel.check()?;
        std::thread::sleep(RETRY);
    }
}

/// The generations of a directory, in any order.
fn generations(directory: &Path) -> impl Iterator<Item = u64> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Makes a new generation, and removes what nobody uses of older ones.
fn begin_anew(directory: &Path) -> io::Result<()> {
    let Some(last) = generations(directory).max() else {
        // Nobody has used it yet.
        return Ok(());
    };
    make_directory(&directory.join((last + 1).to_string()), false)?;
    for old in generations(directory).filter(|&it| it <= last) {
        let old = directory.join(old.to_string());
        for place in std::fs::read_dir(&old).into_iter().flatten().flatten() {
            // Locked alone, so that nobody begins to use it meanwhile.
            if let Ok(Some(_lock)) = lock(&place.path(), CacheSharingOpt::Locked)
                && let Ok(parent) = rustix::fs::open(&old, DIRECTORY, Mode::empty())
            {
                crate::root::remove_tree(parent.as_fd(), place.file_name())?;
            }
        }
        // Stays as long as something in it is in use.
        let _in_use = std::fs::remove_dir(&old);
    }
    Ok(())
}

fn make_directory(path: &Path, parents: bool) -> io::Result<()> {
    match DirBuilder::new()
        .mode(0o700)
        .recursive(parents)
        .create(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Takes the lock of a directory, if nobody else has it in a way that forbids it, and the directory
/// is not just being removed.
fn lock(place: &Path, sharing: CacheSharingOpt) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    let path = place.join("lock");
    let file = options.create(true).append(true).mode(0o600).open(&path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let operation = match sharing {
        CacheSharingOpt::Shared => FlockOperation::NonBlockingLockShared,
        CacheSharingOpt::Private | CacheSharingOpt::Locked => {
            FlockOperation::NonBlockingLockExclusive
        }
    };
    match flock(&file, operation) {
        Ok(()) => {
            let held = file.metadata()?;
            let named = path.symlink_metadata();
            let is_there = named.is_ok_and(|it| (it.dev(), it.ino()) == (held.dev(), held.ino()));
            Ok(is_there.then_some(file))
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes the files of a new directory: what it starts from. They appear at once, whole: steps that
/// share the directory may come here together, and then one of them wins.
fn fill(
    engine: &Engine,
    place: &Path,
    path: &Path,
    base: &Stack,
    cancel: &Cancel,
    failed: &dyn Fn(&'static str, io::Error) -> ExecError,
) -> Result<(), OperationError> {
    let name = format!("new-{}", engine.layers.root().next_layer_id());
    let new = place.join(&name);
    let clean = || {
        if let Ok(place) = rustix::fs::open(place, DIRECTORY, Mode::empty()) {
            let _gone = crate::root::remove_tree(place.as_fd(), &name);
        }
    };
    let make = || -> Result<bool, OperationError> {
        DirBuilder::new()
            .mode(0o755)
            .create(&new)
            .map_err(|error| failed("make", error))?;
        copy(engine, &new, base, cancel, failed)?;
        match renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(error) => Err(failed("make", error.into()).into()),
        }
    };
    let made = make();
    if !matches!(made, Ok(true)) {
        clean();
    }
    made.map(drop)
}

/// Files that are only copied, never linked: a step will write to the copies.
#[derive(Debug)]
struct Unshared(Option<Arc<dyn Files>>);

impl Files for Unshared {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        match &self.0 {
            Some(files) => files.open(path),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn immutable(&self) -> bool {
        false
    }
}

fn copy(
    engine: &Engine,
    new: &Path,
    base: &Stack,
    cancel: &Cancel,
    failed: &dyn Fn(&'static str, io::Error) -> ExecError,
) -> Result<(), OperationError> {
    let fs = rustix::fs::open(new, DIRECTORY, Mode::empty())
        .map_err(|error| failed("open", error.into()))?;
    rustix::fs::fchmod(&fs, Mode::from(0o755)).map_err(|error| failed("make", error.into()))?;
    if base.is_scratch() {
        return Ok(());
    }
    let view = base.view()?;
    let now = Timestamp::from(engine.clock.now());
    let options = WriterOptions {
        privileged: engine.is_privileged(),
        now,
    };
    let mut writer = LayerWriter::new(fs, Arc::new(Unshared(None)), View::empty(), options)?;
    let items = view
        .walk()
        .map(|(path, node)| {
            let files: Arc<dyn Files> = Arc::new(Unshared(node.files().cloned()));
            let source = if node.entry().is_directory() {
                node.clone()
            } else {
                Node::leaf(node.entry().clone(), Some(files))
            };
            let attributes = node.entry().attributes.clone();
            CopyItem {
                source,
                source_path: path.clone(),
                destination: path,
                attributes,
                link_group: None,
            }
        })
        .collect();
    writer.copy(items, cancel).map_err(written)?;
    writer.set_attributes(&TreePath::root(), view.root().entry().attributes.clone())?;
    writer.finish()?;
    Ok(())
}
