//! Directories below one that is open, kept open as long as a walk needs them.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use ashlar_solver::dir::open_directory;
use ashlar_solver::tree::TreePath;

/// Directories that are kept open at the same time; deeper ones are opened again by their path.
const OPEN: usize = 24;

/// The way from a root directory to where a walk is. No symbolic link is followed.
#[derive(Debug)]
pub(super) struct Beneath {
    root: Arc<OwnedFd>,
    /// Each below the one before.
    way: Vec<(TreePath, Arc<OwnedFd>)>,
    /// A directory that is not there.
    missing: Option<TreePath>,
}

impl Beneath {
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        Self {
            root,
            way: Vec::new(),
            missing: None,
        }
    }

    /// Opens the directory at `path`.
    pub(super) fn open(&mut self, path: &TreePath) -> io::Result<Arc<OwnedFd>> {
        if path.is_root() {
            return Ok(self.root.clone());
        }
        while self
            .way
            .pop_if(|(open, _)| !path.starts_with(open))
            .is_some()
        {}
        let (from, rest) = match self.way.last() {
            Some((open, handle)) if open == path => return Ok(handle.clone()),
            Some((open, handle)) => (handle, &path.as_bytes()[open.as_bytes().len() + 1..]),
            None => (&self.root, path.as_bytes()),
        };
        let handle = Arc::new(open_directory(from.as_fd(), rest)?);
        if self.way.len() == OPEN {
            self.way.remove(0);
        }
        self.way.push((path.clone(), handle.clone()));
        Ok(handle)
    }

    /// Opens the directory at `path` if it is there and can be opened.
    pub(super) fn find(&mut self, path: &TreePath) -> Option<Arc<OwnedFd>> {
        if self
            .missing
            .as_ref()
            .is_some_and(|missing| path.starts_with(missing))
        {
            return None;
        }
        match self.open(path) {
            Ok(handle) => Some(handle),
            Err(_) => {
                self.missing = Some(path.clone());
                None
            }
        }
    }
}
