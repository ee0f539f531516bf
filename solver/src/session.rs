//! What a caller lends to one solve: local directories and image layouts.
//!
//! A session is a plain value; nothing in it outlives the solve it is given to.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A directory lent to a solve under the name that `llb::local` uses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalDirectory {
    /// Where it is. Read in place, never written to.
    pub path: PathBuf,
    /// Keep the owners of files instead of counting all as uid 0 and gid 0, which is what
    /// BuildKit's client sends. Default: false.
    pub keep_owners: bool,
}

impl LocalDirectory {
    /// Lends `path`, with owners counted as root.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            keep_owners: false,
        }
    }
}

/// Everything lent to one solve.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Session {
    /// Local directories by the name of the `local://` source.
    pub locals: BTreeMap<String, LocalDirectory>,
    /// Directories that hold an OCI image layout, by the store id of the `oci-layout://` source.
    pub oci_layouts: BTreeMap<String, PathBuf>,
}
