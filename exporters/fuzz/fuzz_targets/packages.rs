//! Package databases and lock files: the first byte says which, the others are the file. Whatever
//! they are, a scan gives a document that can be read.
#![no_main]

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::{Arc, OnceLock};

use ashlar_exporters::sbom::{PackageScanner, ScanTarget, Scanner as _};
use ashlar_llb::Platform;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::OperationError;
use ashlar_solver::refs::{Lazy, Ref};
use ashlar_solver::snapshot::Stack;
use ashlar_solver::tree::{Attributes, Entry, Files, Kind, Node, Timestamp, TreePath, View};
use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;
use tokio::runtime::Runtime;

/// Where the scanner looks, each kind of file once.
const PATHS: [&str; 12] = [
    "var/lib/rpm/rpmdb.sqlite",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/Packages",
    "var/lib/dpkg/status",
    "lib/apk/db/installed",
    "Cargo.lock",
    "package-lock.json",
    "yarn.lock",
    "node_modules/a/package.json",
    "Pipfile.lock",
    "requirements.txt",
    "a.dist-info/METADATA",
];

/// One file in memory.
#[derive(Debug)]
struct Memory(Vec<u8>);

impl Files for Memory {
    fn open(&self, _: &TreePath) -> io::Result<File> {
        let mut file = File::from(rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.0)?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// A tree that has no layers.
#[derive(Debug)]
struct Tree(View);

impl Lazy for Tree {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(Some(self.0.clone()))
    }

    fn materialize(&self, _: &Cancel) -> Result<Stack, OperationError> {
        unreachable!("a scan needs no layers")
    }
}

fn tree(path: &str, bytes: &[u8]) -> Ref {
    let mut entry = Entry::new(Kind::File, Attributes::default());
    entry.size = bytes.len() as u64;
    let mut node = Node::leaf(entry, Some(Arc::new(Memory(bytes.to_vec()))));
    for name in path.split('/').rev() {
        let child = (Arc::from(name.as_bytes()), node);
        let entry = Entry::new(Kind::Directory, Attributes::default());
        node = Node::directory(entry, None, vec![child]);
    }
    Ref::lazy(Arc::new(Tree(View::new(node))))
}

fuzz_target!(|data: &[u8]| {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let path = PATHS[usize::from(*kind) % PATHS.len()];
    let platform = Platform::linux_amd64();
    let target = ScanTarget::new(tree(path, bytes), platform, Timestamp::default());
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().expect("a runtime")
    });
    let scanned = runtime.block_on(PackageScanner::new().scan(&target, &Cancel::new()));
    let documents = scanned.expect("a scan of any tree ends well");
    let json: serde_json::Value =
        serde_json::from_slice(&documents[0].predicate).expect("a document is JSON");
    assert_eq!(json["spdxVersion"], "SPDX-2.3");
});
