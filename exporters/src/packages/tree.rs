//! A view, read within ceilings.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::tree::{Kind, Node, TreePath, View};

use super::Findings;
use crate::sbom::{ScanError, ScanLimits};

/// The tree that is looked through.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    view: &'a View,
    limits: &'a ScanLimits,
    cancel: &'a Cancel,
    /// Bytes of databases and lock files read so far.
    read: Cell<u64>,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(view: &'a View, limits: &'a ScanLimits, cancel: &'a Cancel) -> Self {
        Self {
            view,
            limits,
            cancel,
            read: Cell::new(0),
        }
    }

    pub(crate) fn view(&self) -> &'a View {
        self.view
    }

    pub(crate) fn limits(&self) -> &'a ScanLimits {
        self.limits
    }

    pub(crate) fn check(&self) -> Result<(), ScanError> {
        Ok(self.cancel.check()?)
    }

    /// The regular file at `path`, links followed as a process in the tree would.
    pub(crate) fn file(&self, path: &str) -> Option<(TreePath, &'a Arc<Node>)> {
        let found = self.view.resolve(path.as_bytes(), true).ok()?;
        (found.1.entry().kind == Kind::File).then_some(found)
    }

    /// The regular files of the directory at `path`, in the order of their names.
    pub(crate) fn files_in(&self, path: &str) -> Vec<TreePath> {
        let Ok((at, node)) = self.view.resolve(path.as_bytes(), true) else {
            return Vec::new();
        };
        let files = node
            .children()
            .iter()
            .filter(|(_, child)| child.entry().kind == Kind::File);
        files.filter_map(|(name, _)| at.join(name).ok()).collect()
    }

    /// Opens the regular file at `path`.
    pub(crate) fn open(&self, path: &TreePath) -> Result<File, ScanError> {
        let files = self.view.lookup(path).and_then(|node| node.files());
        let opened = files.map_or_else(
            || Err(io::ErrorKind::NotFound.into()),
            |files| files.open(path),
        );
        opened.map_err(|source| ScanError::Read {
            path: path.to_string(),
            source,
        })
    }

    /// All of a file that was found, unless it is larger than `ceiling`, which is remarked.
    ///
    /// # Errors
    /// It cannot be read, the scan was cancelled, or has read more than it may.
    pub(crate) fn bytes(
        &self,
        path: &TreePath,
        ceiling: u64,
        findings: &mut Findings<'_>,
    ) -> Result<Option<Vec<u8>>, ScanError> {
        self.check()?;
        let size = self.view.lookup(path).map_or(0, |node| node.entry().size);
        if size > ceiling {
            findings.remark(path, format!("left out, larger than {ceiling} bytes"));
            return Ok(None);
        }
        self.charge(size)?;
        let mut bytes = Vec::new();
        // A directory that is lent may change while it is read.
        let mut file = self.open(path)?.take(size);
        file.read_to_end(&mut bytes)
            .map_err(|source| ScanError::Read {
                path: path.to_string(),
                source,
            })?;
        Ok(Some(bytes))
    }

    /// Counts bytes that are going to be read.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), ScanError> {
        let read = self.read.get().saturating_add(bytes);
        self.read.set(read);
        if read > self.limits.total_bytes {
            return Err(ScanError::Limit {
                what: "bytes of package databases and lock files",
                limit: self.limits.total_bytes,
            });
        }
        Ok(())
    }
}

/// Bytes as text, at most `most` of them; what is no UTF-8 is replaced, and credentials in addresses
/// are masked.
pub(super) fn text(bytes: &[u8], most: usize) -> String {
    // An address that is cut is masked before: what tells a password stands behind it.
    let seen = String::from_utf8_lossy(&bytes[..bytes.len().min(most + FIELD)]);
    let mut text = crate::redact::text(seen.trim()).into_owned();
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.truncate(text.trim_end().len());
    text
}

/// Longest name, version, license or address that is kept: far above what any package has.
pub(super) const FIELD: usize = 4096;

/// Longest description that is kept.
pub(super) const DESCRIPTION: usize = 32 << 10;
