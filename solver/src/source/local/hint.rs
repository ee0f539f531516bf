//! Directories that count as one for those who remember what they made of them
//! (`local.sharedkeyhint`): checkouts of one project in different places.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::ScanOptions;
use crate::id::ContentDigest;
use crate::tree::{Entry, Files, Node, TreePath, View};

/// The files of a directory, under the name that directories with the same hint share.
#[derive(Debug)]
struct Hinted {
    files: Arc<dyn Files>,
    lent: [u8; 32],
}

impl Files for Hinted {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        self.files.open(path)
    }

    fn immutable(&self) -> bool {
        self.files.immutable()
    }

    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        self.files.directory(path)
    }

    fn lent(&self) -> Option<[u8; 32]> {
        Some(self.lent)
    }

    fn computed(&self, path: &TreePath, entry: &Entry, digest: ContentDigest) {
        self.files.computed(path, entry, digest);
    }
}

/// The view whose root says that it is one of those that were lent as `name` with this hint.
pub(super) fn hinted(view: &View, name: &str, hint: &str, options: &ScanOptions) -> View {
    let root = view.root();
    let Some(files) = root.files().cloned() else {
        return view.clone();
    };
    let mut hash = Sha256::new();
    hash.update([options.keep_owners, options.git_modes].map(u8::from));
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update(hint);
    let lent = hash.finalize().into();
    let entry = root.entry().clone();
    let children = root.children().to_vec();
    let new = Node::directory(entry, Some(Arc::new(Hinted { files, lent })), children);
    if let Some(known) = root.digest_memo().get() {
        let _same = new.digest_memo().set(*known);
    }
    View::new(new)
}
