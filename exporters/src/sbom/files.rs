//! Checksums of files of a view.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::sync::PoisonError;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::tree::{TreePath, View};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::ScanError;

/// A file and what is said of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) path: TreePath,
    pub(super) sha1: String,
    pub(super) sha256: String,
    pub(super) types: &'static [&'static str],
}

/// Most threads that read at the same time.
const THREADS: usize = 4;

/// Bytes that are read at once.
const BLOCK: usize = 256 << 10;

/// Hashes regular files, each once, in the order of their paths. Blocks.
pub(super) fn hash(
    view: &View,
    paths: impl Iterator<Item = TreePath>,
    cancel: &Cancel,
) -> Result<Vec<Hashed>, ScanError> {
    let paths: Vec<TreePath> = paths.collect::<BTreeSet<_>>().into_iter().collect();
    let next = Mutex::new(0..paths.len());
    let done = Mutex::new(Vec::with_capacity(paths.len()));
    let failed = Mutex::new(None);
    let work = || {
        let mut block = vec![0; BLOCK];
        loop {
            let at = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(at) = at else { return };
            match one(view, &paths[at], &mut block, cancel) {
                Ok(hashed) => done
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(hashed),
                Err(error) => {
                    *next.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                    return;
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(THREADS).min(paths.len()) {
            let thread = std::thread::Builder::new().name("ashlar-scan".to_owned());
            // Without a second thread the first does it all.
            if thread.spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(done)
}

fn one(
    view: &View,
    path: &TreePath,
    block: &mut [u8],
    cancel: &Cancel,
) -> Result<Hashed, ScanError> {
    let failed = |source| ScanError::Read {
        path: path.to_string(),
        source,
    };
    let node = view.lookup(path);
    let files = node.and_then(|node| node.files());
    let file = files.map_or_else(
        || Err(io::ErrorKind::NotFound.into()),
        |files| files.open(path),
    );
    // A directory that is lent may grow while it is read.
    let size = node.map_or(0, |node| node.entry().size);
    let mut file = file.map_err(failed)?.take(size);
    let (mut sha1, mut sha256) = (Sha1::new(), Sha256::new());
    let mut types: &'static [&'static str] = &["OTHER"];
    let mut first = true;
    loop {
        cancel.check()?;
        let length = match file.read(block) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        if std::mem::take(&mut first) {
            types = types_of(&block[..length.min(512)]);
        }
        sha1.update(&block[..length]);
        sha256.update(&block[..length]);
    }
    Ok(Hashed {
        path: path.clone(),
        sha1: hex(&sha1.finalize()),
        sha256: hex(&sha256.finalize()),
        types,
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]));
    digits.collect()
}

/// SPDX's types of a file that begins like this.
fn types_of(start: &[u8]) -> &'static [&'static str] {
    if start.starts_with(b"\x7fELF") {
        return &["APPLICATION", "BINARY"];
    }
    let archives: [&[u8]; 5] = [
        b"\x1f\x8b",
        b"PK\x03\x04",
        b"\xfd7zXZ",
        b"BZh",
        b"\x28\xb5\x2f\xfd",
    ];
    if archives.iter().any(|magic| start.starts_with(magic)) {
        return &["APPLICATION", "ARCHIVE"];
    }
    // The end may cut a character in two.
    let text = match std::str::from_utf8(start) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    match text && !start.contains(&0) {
        true => &["TEXT"],
        false => &["OTHER"],
    }
}
