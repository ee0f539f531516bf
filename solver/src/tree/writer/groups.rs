//! Which paths of a layer are names of one inode.

use std::collections::{BTreeSet, HashMap};

use crate::tree::TreePath;

/// The hard links of a layer that is being written.
#[derive(Debug, Default)]
pub(super) struct LinkGroups {
    last: u32,
    members: HashMap<u32, BTreeSet<TreePath>>,
    of: HashMap<TreePath, u32>,
}

impl LinkGroups {
    /// Starts a group with one path and gives its number.
    pub(super) fn start(&mut self, path: &TreePath) -> u32 {
        // Four thousand million groups do not fit in a layer.
        self.last = self.last.wrapping_add(1).max(1);
        self.add(self.last, path);
        self.last
    }

    pub(super) fn add(&mut self, group: u32, path: &TreePath) {
        self.members.entry(group).or_default().insert(path.clone());
        self.of.insert(path.clone(), group);
    }

    /// All paths of the group; of no group: the path itself.
    pub(super) fn members(&self, group: u32, path: &TreePath) -> Vec<TreePath> {
        match self.members.get(&group) {
            Some(members) => members.iter().cloned().collect(),
            None => vec![path.clone()],
        }
    }

    /// Takes a path out of its group. Returns the one that is left alone by that, which is then
    /// in no group either.
    pub(super) fn remove(&mut self, path: &TreePath) -> Option<TreePath> {
        let group = self.of.remove(path)?;
        let members = self.members.get_mut(&group)?;
        members.remove(path);
        if members.len() > 1 {
            return None;
        }
        let last = self.members.remove(&group)?.pop_first()?;
        self.of.remove(&last);
        Some(last)
    }
}
