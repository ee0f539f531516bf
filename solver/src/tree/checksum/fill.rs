//! Computing the digests that nodes do not have yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sha2::{Digest as _, Sha256};

use super::hasher::digest_with_buffer;
use super::{ChecksumError, Located, digest_text, directory_header};
use crate::cancel::Cancel;
use crate::id::ContentDigest;
use crate::tree::{Kind, Node, TreePath};

/// Fewer files, if they are small, are not worth a second thread.
const FEW_FILES: usize = 32;

/// Fewer bytes, if files are few, are not worth a second thread.
const FEW_BYTES: u64 = 1 << 20;

/// Files and directories between two looks at the flag.
const BETWEEN_CHECKS: usize = 256;

/// The digest that [`fill`] has computed.
pub(super) fn known(node: &Node, path: &[u8]) -> Result<ContentDigest, ChecksumError> {
    // Filled before; a node without digest would be a defect, and is not worth a panic.
    let missing = || ChecksumError::NotFound {
        path: path.to_vec(),
    };
    node.digest_memo().get().copied().ok_or_else(missing)
}

/// Computes what is missing for these nodes: of directories all below them.
pub(in crate::tree) fn fill(nodes: Vec<Located>, cancel: &Cancel) -> Result<(), ChecksumError> {
    cancel.check()?;
    let mut files = Vec::new();
    let mut directories = Vec::new();
    for (path, node) in nodes {
        gather(&path, &node, &mut files);
        if node.entry().is_directory() {
            directories.push(node);
        }
    }
    read_files(&files, cancel)?;
    for directory in directories {
        sum_directory(&directory, cancel)?;
    }
    Ok(())
}

/// Appends the files without digest, and computes what needs no bytes.
fn gather(path: &TreePath, top: &Arc<Node>, files: &mut Vec<Located>) {
    let needs_bytes = |node: &Node| {
        let entry = node.entry();
        if node.digest_memo().get().is_some() || entry.is_directory() {
            return false;
        }
        if entry.kind == Kind::File && entry.size > 0 {
            return true;
        }
        node.digest_memo()
            .get_or_init(|| super::FileHasher::new(entry).finish());
        false
    };
    if needs_bytes(top) {
        files.push((path.clone(), top.clone()));
    }
    let mut stack = vec![(path.clone(), top)];
    while let Some((path, node)) = stack.pop() {
        if node.digest_memo().get().is_some() {
            continue;
        }
        for (name, child) in node.children() {
            let directory = child.entry().is_directory();
            if directory && child.digest_memo().get().is_none() || needs_bytes(child) {
                let Ok(path) = path.join(name) else { continue };
                if directory {
                    stack.push((path, child));
                } else {
                    files.push((path, child.clone()));
                }
            }
        }
    }
}

fn read_files(files: &[Located], cancel: &Cancel) -> Result<(), ChecksumError> {
    let bytes = files.iter().fold(0_u64, |sum, (_, node)| {
        sum.saturating_add(node.entry().size)
    });
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut buffer = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, node)) = files.get(at) else {
                break;
            };
            let result = cancel
                .check()
                .map_err(ChecksumError::from)
                .and_then(|()| read_file(path, node, &mut buffer));
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
                return result;
            }
        }
        Ok(())
    };
    if files.len() < 2 || files.len() < FEW_FILES && bytes < FEW_BYTES {
        return work();
    }
    std::thread::scope(|scope| {
        // Without a second thread the first does all of it.
        let second = std::thread::Builder::new()
            .name("ashlar-checksum".to_owned())
            .spawn_scoped(scope, work)
            .ok();
        let first = work();
        let second = match second.map(std::thread::ScopedJoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        };
        first.and(second)
    })
}

fn read_file(path: &TreePath, node: &Node, buffer: &mut Vec<u8>) -> Result<(), ChecksumError> {
    let failed = |source| ChecksumError::Read {
        path: path.clone(),
        source,
    };
    let files = node
        .files()
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let mut file = files.open(path).map_err(failed)?;
    let digest = digest_with_buffer(node.entry(), Some(&mut file), buffer).map_err(failed)?;
    if node.digest_memo().set(digest).is_ok() {
        files.computed(path, node.entry(), digest);
    }
    Ok(())
}

/// A directory whose digest is being computed.
struct Frame<'a> {
    node: &'a Arc<Node>,
    next: usize,
    hash: Sha256,
}

impl<'a> Frame<'a> {
    fn open(node: &'a Arc<Node>) -> Self {
        let mut hash = Sha256::new();
        hash.update([0]);
        hash.update(digest_text(directory_header(node)));
        Self {
            node,
            next: 0,
            hash,
        }
    }
}

/// The digest of a directory: of its own attributes, then of each child name and digest. All
/// other nodes below it have theirs.
fn sum_directory(top: &Arc<Node>, cancel: &Cancel) -> Result<(), ChecksumError> {
    if top.digest_memo().get().is_some() {
        return Ok(());
    }
    let mut frames = vec![Frame::open(top)];
    let mut line = Vec::new();
    let mut count = 0;
    while let Some(frame) = frames.last_mut() {
        let Some((name, child)) = frame.node.children().get(frame.next) else {
            if let Some(Frame { node, hash, .. }) = frames.pop() {
                let digest = ContentDigest::from_bytes(hash.finalize().into());
                node.digest_memo().get_or_init(|| digest);
            }
            count += 1;
            if count % BETWEEN_CHECKS == 0 {
                cancel.check()?;
            }
            continue;
        };
        let Some(digest) = child.digest_memo().get() else {
            if child.entry().is_directory() {
                frames.push(Frame::open(child));
                continue;
            }
            // Gathered and read before.
            let source = io::ErrorKind::NotFound.into();
            return Err(ChecksumError::Read {
                path: TreePath::root(),
                source,
            });
        };
        frame.next += 1;
        line.clear();
        line.push(0);
        line.extend_from_slice(name);
        line.extend_from_slice(&digest_text(*digest));
        frame.hash.update(&line);
    }
    Ok(())
}
