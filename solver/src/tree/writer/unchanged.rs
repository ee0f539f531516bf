//! What a layer has just as its base has it.

use std::sync::Arc;

use super::changes::{Directory, Slot};
use super::{LayerWriter, WriteError, failed, plain};
use crate::cancel::Cancel;
use crate::tree::capture::compare::{same_content, same_directory, same_entry};
use crate::tree::{Kind, Node, TreePath};

impl LayerWriter {
    /// Takes everything out of the layer again that is as the base has it: files that were replaced
    /// by equal ones, and directories in which nothing changed. Times of directories do not count,
    /// as in BuildKit.
    ///
    /// # Errors
    /// [`WriteError`].
    ///
    /// # Cancellation
    /// Looked for before each object.
    pub fn leave_out_unchanged(&mut self, cancel: &Cancel) -> Result<(), WriteError> {
        if !self.touched {
            return Ok(());
        }
        let mut directories = Vec::new();
        for (path, below) in self.replaced() {
            cancel.check()?;
            if below.entry().is_directory() {
                directories.push((path, below));
            } else if self.is_unchanged(&path, &below)? {
                self.clear(&path)?;
            }
        }
        // Those inside before those around them.
        for (path, below) in directories.iter().rev() {
            cancel.check()?;
            let directory = self.own_directory(path)?;
            let unchanged = same_directory(below.entry(), &directory.entry);
            if unchanged && directory.children.is_empty() {
                self.clear(path)?;
            }
        }
        let below = self.base.root().entry();
        if self.root.children.is_empty() && same_directory(below, &self.root.entry) {
            self.root = Directory::new(plain(below), Some(self.base.root().clone()));
            self.touched = false;
        }
        self.view.take();
        Ok(())
    }

    /// What of the layer stands in place of something of its kind in the base, each directory
    /// before what is in it.
    fn replaced(&self) -> Vec<(TreePath, Arc<Node>)> {
        let mut replaced = Vec::new();
        let mut todo = vec![(TreePath::root(), &self.root)];
        while let Some((parent, directory)) = todo.pop() {
            for (name, slot) in &directory.children {
                let Some(below) = directory.below(name) else {
                    // There is nothing to be found below a new directory either.
                    continue;
                };
                let path = parent
                    .join(name)
                    .expect("BUG: a child's name is not a name");
                match slot {
                    Slot::Directory(child) if below.entry().is_directory() => {
                        replaced.push((path.clone(), below.clone()));
                        todo.push((path, child));
                    }
                    Slot::Leaf(_) if !below.entry().is_directory() => {
                        replaced.push((path, below.clone()));
                    }
                    _ => {}
                }
            }
        }
        replaced
    }

    /// Whether the layer has at `path`, which is no directory, what the base has there.
    fn is_unchanged(&self, path: &TreePath, below: &Node) -> Result<bool, WriteError> {
        let above = &self.leaf(path)?.node;
        if !same_entry(below.entry(), above.entry()) {
            return Ok(false);
        }
        let known = |node: &Node| {
            let memo = || node.digest_memo().get().copied();
            node.entry().digest.or_else(memo)
        };
        match (known(below), known(above)) {
            // As all else is equal, so are the bytes.
            (Some(one), Some(other)) if above.entry().kind == Kind::File => Ok(one == other),
            _ => same_content(self.disk.root(), path, below, above.entry())
                .map_err(failed("compare", path)),
        }
    }
}
