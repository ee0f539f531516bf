//! Reading what a process did to an overlay mount.
//!
//! Owns [`capture`]: it turns the upper directory of an overlay mount into a layer in normal form,
//! on disk and as an [`Index`].
//!
//! Invariants:
//! - **The content is hostile.** No link is followed, nothing is opened but directories and regular
//!   files, and names reach the kernel only below the handle of their directory.
//! - **Disk and index agree**: what the index leaves out is removed from the directory, so that the
//!   kernel shows what the view tells.
//! - What is in the layer is what BuildKit's overlay differ would report: a directory that only
//!   was passed through is in it if something below changed, a file that was copied up and
//!   is as before is not.
//!
//! Leaves to others: making the mount and running the process (`executor`), and committing the
//! layer (`snapshot`).

pub(super) mod compare;
mod repair;
mod stubs;
mod upper;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::index::{Index, IndexError};
use super::{Entry, TreePath, View};
use crate::cancel::{Cancel, Cancelled};
use crate::error::{Blame, Fault};

/// How [`capture`] reads an upper directory.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    /// Files and directories that were made as places for mounts. They go away again if the base
    /// does not have them and they are still empty, and the time of their parent is restored.
    pub stubs: Vec<TreePath>,
    /// Whether directories on the way to a stub that the base does not have go away too, once they
    /// are empty. True by default, as BuildKit's clients ask for.
    pub stub_parents: bool,
    /// User and group of the process if there were no others, so that owners on disk mean nothing:
    /// an object then has the owner of the object of the same kind that it replaces, and belongs to
    /// the process if there is none, or to the group of a directory that passes its group on. On
    /// disk, what its owner may not read is opened to the owner, who is the engine. The mount then
    /// was one with `userxattr`. `None` by default.
    pub single_id: Option<(u32, u32)>,
    /// Stops the work between two directories.
    pub cancel: Cancel,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            stubs: Vec::new(),
            stub_parents: true,
            single_id: None,
            cancel: Cancel::new(),
        }
    }
}

impl CaptureOptions {
    /// The attribute by which this kind of mount marks opaque directories. The other one is
    /// content: a process may set it to whatever it likes.
    fn opaque_mark(&self) -> &'static [u8] {
        if self.single_id.is_some() {
            b"user.overlay.opaque"
        } else {
            b"trusted.overlay.opaque"
        }
    }
}

/// Why an upper directory did not become a layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The operating system refused something.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: TreePath,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The process left something that cannot be in a layer, such as a path that is too long.
    #[error("the changes cannot be a layer")]
    Index(#[source] IndexError),
    /// The work was cancelled. The directory is no layer, and half repaired.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for CaptureError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Environment,
            Self::Index(_) | Self::Cancelled(_) => Fault::Input,
        }
    }
}

fn failed(action: &'static str, path: &TreePath) -> impl FnOnce(io::Error) -> CaptureError {
    let path = path.clone();
    move |source| CaptureError::Io {
        action,
        path,
        source,
    }
}

/// Turns the upper directory `fs` of an overlay mount over `base` into a layer, and tells its
/// entries. The mount must be gone and nobody else may use the directory. Blocks.
///
/// * A removal of something that `base` lacks vanishes, an opaque directory over a directory of
///   `base` becomes explicit removals, and one over anything else stays opaque.
/// * Directories, and files that were copied up, that are as `base` has them vanish, unless
///   something in the directory changed. Times of directories do not count, as in BuildKit.
/// * Sockets vanish; if they hide something it is removed.
/// * Names of one inode are one link group.
/// * The root is an entry if anything changed.
///
/// # Errors
/// [`CaptureError`].
pub fn capture(fs: OwnedFd, base: &View, options: &CaptureOptions) -> Result<Index, CaptureError> {
    stubs::remove(fs.as_fd(), base, options)?;
    let mut upper = upper::read(fs.as_fd(), base, options)?;
    drop_unchanged(&mut upper);
    repair::repair(fs.as_fd(), &upper, options)?;
    let root = root_entry(&upper, base);
    let found = upper.found.into_iter().filter(|found| found.keep);
    let mut entries: Vec<(TreePath, Entry)> = Vec::new();
    let mut groups: HashMap<(u32, u32, u64), Vec<usize>> = HashMap::new();
    entries.extend(root.map(|root| (TreePath::root(), root)));
    for found in found {
        if let Some(inode) = found.inode {
            groups.entry(inode).or_default().push(entries.len());
        }
        entries.push((found.path, found.entry));
    }
    let mut groups: Vec<_> = groups
        .into_values()
        .filter(|group| group.len() > 1)
        .collect();
    groups.sort_unstable();
    for (number, group) in (1..).zip(groups) {
        for at in group {
            entries[at].1.link_group = number;
        }
    }
    Index::new(entries).map_err(CaptureError::Index)
}

/// Decides which directories stay, and writes down that the others are to be removed.
fn drop_unchanged(upper: &mut upper::Upper) {
    for at in (0..upper.found.len()).rev() {
        let (keep, parent) = (upper.found[at].keep, upper.found[at].parent);
        if keep {
            if let Some(parent) = upper.directories[parent].found {
                upper.found[parent].keep = true;
            }
        } else if upper.found[at].entry.is_directory() {
            let name = upper.found[at].path.name().unwrap_or_default().into();
            upper.directories[parent]
                .fixes
                .push(upper::Fix::RemoveDirectory(name));
        }
    }
}

/// The entry of the root directory, if it is to be one. A root directory that only was passed
/// through keeps its time.
fn root_entry(upper: &upper::Upper, base: &View) -> Option<Entry> {
    let mut entry = upper.root.clone();
    let below = base.root().entry();
    if entry.attributes.xattrs.is_empty() {
        entry.attributes.xattrs = below.attributes.xattrs.clone();
    }
    let in_root = |found: &&upper::Found| found.keep && found.path.components().count() == 1;
    let moved = upper
        .found
        .iter()
        .filter(in_root)
        .any(|found| found.in_directory_changed);
    if !moved {
        entry.attributes.mtime = below.attributes.mtime;
    }
    let changed = !compare::same_directory(below, &entry);
    let any = upper.found.iter().any(|found| found.keep);
    (changed || any).then_some(entry)
}

#[cfg(test)]
mod tests;
