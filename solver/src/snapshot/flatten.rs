//! What to mount for a stack, however deep it is.
//!
//! The kernel takes at most 500 lower directories, and a mount gets slower with each. From
//! [`DEEP`] layers on, runs of [`RUN`] small layers are replaced by one directory below `flat/`
//! that holds the same files by hard links. It is a cache of the mount, not a layer: nothing
//! refers to it but its name, which is a hash of the layers it stands for.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use sha2::{Digest as _, Sha256};

use super::{Layer, LayerStore, SnapshotError, Stack};
use crate::dir;
use crate::root::Tier;
use crate::tree::whiteout::make_whiteout;
use crate::tree::{Attributes, Entry, Kind, TreePath};

/// Stacks up to this depth are mounted as they are: a step then costs about 2 ms, at 240 lowers
/// 2.4 ms and at 490 3.6 ms.
const DEEP: usize = 120;

/// How many layers one flattened directory replaces. Aligned from the bottom, so that a growing
/// stack uses the same directories again.
const RUN: usize = 64;

/// How many directories a mount may have; the kernel takes 500.
const MOST: usize = 490;

/// Layers with more entries than this are not flattened while there is another way: linking them
/// costs more than mounting them.
const SMALL: usize = 4096;

/// One directory to mount.
enum Lower {
    Layer(Layer),
    Run(Vec<Layer>),
}

pub(super) fn lower_paths(
    store: &LayerStore,
    stack: &Stack,
) -> Result<Vec<PathBuf>, SnapshotError> {
    let mut layers = Vec::new();
    for layer in last_of_each(stack.layers()) {
        let content = layer.content()?;
        // A layer that says nothing but the root's attributes changes nothing below it.
        let changes = content.0.entries().iter().any(|(path, _)| !path.is_root());
        if changes {
            layers.push((layer, content.0.entries().len() <= SMALL));
        }
    }
    if layers.is_empty() {
        layers.extend(stack.top().map(|layer| (layer.clone(), false)));
    }
    let mut paths = Vec::new();
    for lower in plan(layers) {
        paths.push(match lower {
            Lower::Layer(layer) => layer.fs_path(),
            Lower::Run(run) => flattened(store, &run)?,
        });
    }
    paths.reverse();
    Ok(paths)
}

/// The layers without those that are in the stack once more further up: a merge of trees that
/// have a base in common has it several times, and the kernel refuses a directory that it has
/// already. The last one says all that the ones before it say.
fn last_of_each(layers: Vec<Layer>) -> Vec<Layer> {
    let mut seen = HashSet::new();
    let mut kept: Vec<Layer> = layers
        .into_iter()
        .rev()
        .filter(|layer| seen.insert(layer.id()))
        .collect();
    kept.reverse();
    kept
}

/// Groups layers, bottom first, if there are too many.
fn plan(layers: Vec<(Layer, bool)>) -> Vec<Lower> {
    if layers.len() <= DEEP {
        return layers
            .into_iter()
            .map(|(layer, _)| Lower::Layer(layer))
            .collect();
    }
    let plan = grouped(&layers, |_, small| small);
    if plan.len() <= MOST {
        return plan;
    }
    // Large layers are too many or too evenly spread: all but the base are flattened then.
    grouped(&layers, |at, small| small || at > 0)
}

/// Makes runs of neighbours that may be flattened.
fn grouped(layers: &[(Layer, bool)], may: impl Fn(usize, bool) -> bool) -> Vec<Lower> {
    let mut plan = Vec::new();
    let mut run = Vec::new();
    for (at, (layer, small)) in layers.iter().enumerate() {
        if may(at, *small) {
            run.push(layer.clone());
            if run.len() == RUN {
                plan.push(Lower::Run(std::mem::take(&mut run)));
            }
        } else {
            plan.extend(run.drain(..).map(Lower::Layer));
            plan.push(Lower::Layer(layer.clone()));
        }
    }
    plan.extend(run.into_iter().map(Lower::Layer));
    plan
}

fn flattened(store: &LayerStore, run: &[Layer]) -> Result<PathBuf, SnapshotError> {
    let mut hasher = Sha256::new();
    for layer in run {
        hasher.update(layer.id().to_string());
    }
    let hash: [u8; 32] = hasher.finalize().into();
    let name: String = hash[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let path = store.root().path().join("flat").join(&name);
    let _one = store
        .0
        .flattening
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if path.exists() {
        return Ok(path);
    }
    let error = |action: &'static str| {
        let layer = format!("flat/{name}");
        move |source: io::Error| SnapshotError::Io {
            action,
            layer,
            source,
        }
    };
    let temporary = store.new_layer()?;
    let merged = merge(run)?;
    let fs = temporary.fs_handle()?;
    write(store, run, &merged, &fs).map_err(error("link the files"))?;
    let from = format!("{}/fs", temporary.id());
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(store.root().layers(), from, CWD, &path, flags) {
        // Another process was faster.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(path),
        Err(source) => Err(error("rename")(source.into())),
    }
}

/// An entry of a merged run and which layer of the run it is from.
type Merged = BTreeMap<TreePath, (Entry, usize)>;

/// The entries of a run of layers as one layer.
fn merge(run: &[Layer]) -> Result<Merged, SnapshotError> {
    let mut merged = Merged::new();
    for (number, layer) in run.iter().enumerate() {
        let content = layer.content()?;
        for (path, entry) in content.0.entries() {
            let mut entry = entry.clone();
            let below = merged
                .get(path)
                .map(|(below, _)| (below.kind, below.opaque));
            if entry.kind == Kind::Directory && !entry.opaque {
                entry.opaque = match below {
                    Some((Kind::Directory, opaque)) => opaque,
                    // What was removed or replaced further down must not show through.
                    Some(_) => true,
                    None => false,
                };
            } else {
                remove_below(&mut merged, path);
            }
            merged.insert(path.clone(), (entry, number));
        }
    }
    Ok(merged)
}

fn remove_below(merged: &mut Merged, path: &TreePath) {
    let Ok(first) = TreePath::new([path.as_bytes(), b"/\x01"].concat()) else {
        return;
    };
    let gone: Vec<TreePath> = merged
        .range(first..)
        .map(|(below, _)| below)
        .take_while(|below| below.starts_with(path))
        .cloned()
        .collect();
    for below in gone {
        merged.remove(&below);
    }
}

fn write(store: &LayerStore, run: &[Layer], merged: &Merged, fs: &OwnedFd) -> io::Result<()> {
    let privileged = store.root().tier() == Tier::Root;
    let mut directories = Vec::new();
    let (mut here, mut there) = (Handle::default(), Handle::default());
    // Bytewise order puts a parent before its children, as their paths begin with its own.
    for (path, (entry, number)) in merged {
        if entry.kind == Kind::Directory {
            directories.push((path, entry));
        }
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            continue;
        };
        let name = dir::name(name);
        let to = here.open(fs.as_fd(), parent.as_bytes())?;
        match entry.kind {
            Kind::Directory => rustix::fs::mkdirat(to, name, Mode::from(0o700))?,
            Kind::Whiteout => make_whiteout(to, name, privileged)?,
            _ => {
                let layer = &run[*number];
                let mut from = format!("{}/fs", layer.id()).into_bytes();
                if !parent.is_root() {
                    from.push(b'/');
                    from.extend_from_slice(parent.as_bytes());
                }
                let from = there.open(store.root().layers(), &from)?;
                match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::MLINK | rustix::io::Errno::XDEV) => {
                        copy(layer, path, entry, to, privileged)?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    // Deepest first, so that filling a directory does not change its time afterwards.
    for (path, entry) in directories.into_iter().rev() {
        finish_directory(fs, path, entry, privileged)?;
    }
    Ok(())
}

/// The directory that was used last, as the next entry is probably in it too.
#[derive(Default)]
struct Handle(Option<(Vec<u8>, OwnedFd)>);

impl Handle {
    fn open(&mut self, root: BorrowedFd<'_>, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        let open = match self.0.take() {
            Some((last, open)) if last == path => open,
            _ => dir::open_directory(root, path)?,
        };
        Ok(self.0.insert((path.to_vec(), open)).1.as_fd())
    }
}

fn finish_directory(
    fs: &OwnedFd,
    path: &TreePath,
    entry: &Entry,
    privileged: bool,
) -> io::Result<()> {
    let dir = dir::open_directory(fs, path.as_bytes())?;
    set_attributes(&dir, &entry.attributes, privileged)?;
    if entry.opaque {
        let name = if privileged {
            "trusted.overlay.opaque"
        } else {
            "user.overlay.opaque"
        };
        rustix::fs::fsetxattr(&dir, name, b"y", XattrFlags::empty())?;
    }
    Ok(rustix::fs::futimens(&dir, &times(&entry.attributes))?)
}

/// Copies what cannot be linked: the inode has as many links as the file system allows.
fn copy(
    layer: &Layer,
    path: &TreePath,
    entry: &Entry,
    to: BorrowedFd<'_>,
    privileged: bool,
) -> io::Result<()> {
    if entry.kind != Kind::File {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "too many links to a special file",
        ));
    }
    let name = dir::name(path.name().unwrap_or_default());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut to = File::from(rustix::fs::openat(to, name, flags, Mode::from(0o600))?);
    io::copy(&mut layer.files().open(path)?, &mut to)?;
    set_attributes(
        &OwnedFd::from(to.try_clone()?),
        &entry.attributes,
        privileged,
    )?;
    Ok(rustix::fs::futimens(to.as_fd(), &times(&entry.attributes))?)
}

fn set_attributes(fd: &OwnedFd, attributes: &Attributes, privileged: bool) -> io::Result<()> {
    if privileged {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    for (name, value) in attributes.xattrs.iter() {
        match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
            // What an ordinary user may not set lives in the index alone.
            Err(rustix::io::Errno::PERM | rustix::io::Errno::OPNOTSUPP) if !privileged => {}
            set => set?,
        }
    }
    let mode = if privileged {
        attributes.mode
    } else {
        attributes.mode | 0o700
    };
    Ok(rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))?)
}

fn times(attributes: &Attributes) -> Timestamps {
    let time = Timespec {
        tv_sec: attributes.mtime.seconds,
        tv_nsec: i64::from(attributes.mtime.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
