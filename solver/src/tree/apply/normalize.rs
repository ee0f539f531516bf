//! Normal form: what a layer removes, said against the base it stands on.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::disk::Disk;
use super::staging::{Id, ROOT};
use super::{ApplyError, RawLayer};
use crate::tree::{Entry, Index, Node, TreePath, View};

/// A layer in normal form.
#[derive(Debug)]
#[non_exhaustive]
pub struct Normalized {
    /// Its entries.
    pub index: Index,
    /// The directories that the archive marked opaque, for writing it again.
    pub opaque: BTreeSet<TreePath>,
}

/// A directory of the layer that is still to be compared with the base.
struct Todo<'a> {
    id: Id,
    path: TreePath,
    /// The directory of the base at the same place.
    base: Option<&'a Arc<Node>>,
    /// Nothing of the base shows here.
    hidden: bool,
}

impl RawLayer {
    /// Brings the layer to normal form on `base`: what is opaque becomes removals of what `base`
    /// has there, directories that the archive does not mention get the attributes they have in
    /// `base`, and directories over something else are marked. `fs` is the directory that the
    /// layer was unpacked into.
    ///
    /// Removals of what `base` does not have stay: they count when the layer is stacked on
    /// something else.
    ///
    /// # Errors
    /// [`ApplyError::Disk`], [`ApplyError::Index`].
    pub fn normalize(mut self, base: &View, fs: BorrowedFd<'_>) -> Result<Normalized, ApplyError> {
        let mut disk = Disk::new(fs, self.options);
        let mut entries: Vec<(TreePath, Entry)> = Vec::new();
        let mut opaque = BTreeSet::new();
        let root = Todo {
            id: ROOT,
            path: TreePath::root(),
            base: Some(base.root()),
            hidden: false,
        };
        let mut todo = vec![root];
        while let Some(at) = todo.pop() {
            self.directory(at, base, &mut disk, &mut entries, &mut opaque, &mut todo)?;
        }
        Ok(Normalized {
            index: Index::sorted(entries)?,
            opaque,
        })
    }

    fn directory<'a>(
        &mut self,
        at: Todo<'a>,
        base: &View,
        disk: &mut Disk<'_>,
        entries: &mut Vec<(TreePath, Entry)>,
        opaque: &mut BTreeSet<TreePath>,
        todo: &mut Vec<Todo<'a>>,
    ) -> Result<(), ApplyError> {
        let Todo {
            id,
            path,
            base: below,
            hidden,
        } = at;
        let failed = |action, path: &TreePath| {
            let path = path.clone();
            move |source: io::Error| ApplyError::Disk {
                action,
                path,
                source,
            }
        };
        let node = self.tree.node_mut(id);
        if node.opaque {
            opaque.insert(path.clone());
        }
        let hides = hidden || node.opaque || node.removed;
        let implied = node.implied && id != ROOT;
        let replaces = below.is_some_and(|node| !node.entry().is_directory());
        let below = below.filter(|node| node.entry().is_directory());
        let Some(entry) = &mut node.entry else {
            return Ok(());
        };
        let mut changed = false;
        if replaces {
            entry.opaque = true;
            changed = true;
        }
        if implied {
            if !hides
                && let Ok((_, there)) = base.resolve(path.as_bytes(), true)
                && there.entry().is_directory()
            {
                entry.attributes = there.entry().attributes.clone();
            }
            changed = true;
        }
        let entry = entry.clone();
        if replaces {
            let marked = disk.opaque(&self.tree, id).map_err(io::Error::from);
            marked.map_err(failed("mark", &path))?;
        }
        let node = self.tree.node(id);
        for (name, &child) in &node.children {
            let child_node = self.tree.node(child);
            let child_path = path.join(name).unwrap_or_default();
            match &child_node.entry {
                Some(entry) if entry.is_directory() => todo.push(Todo {
                    id: child,
                    path: child_path,
                    base: below.and_then(|below| below.child(name)),
                    hidden: hides,
                }),
                Some(entry) => entries.push((child_path, entry.clone())),
                None if child_node.removed => entries.push((child_path, Entry::whiteout())),
                None => {}
            }
        }
        if hides {
            for (name, _) in below.map(|below| below.children()).unwrap_or_default() {
                let kept = node.children.get(&name[..]).is_some_and(|&child| {
                    let child = self.tree.node(child);
                    child.entry.is_some() || child.removed
                });
                if !kept {
                    let gone = path.join(name).unwrap_or_default();
                    let made = disk.whiteout(&self.tree, id, name);
                    made.map_err(failed("make whiteout", &gone))?;
                    entries.push((gone, Entry::whiteout()));
                    changed = true;
                }
            }
        }
        if id != ROOT {
            if changed {
                let dressed = disk.dress_directory(&self.tree, id, &entry.attributes);
                let dressed = dressed.map_err(io::Error::from);
                dressed.map_err(failed("set attributes of", &path))?;
            }
            entries.push((path, entry));
        }
        Ok(())
    }
}
