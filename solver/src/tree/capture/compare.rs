//! Whether an object of an upper directory is as the base has it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use super::{CaptureError, failed};
use crate::dir;
use crate::tree::{Entry, Kind, Node, TreePath};

/// Bytes compared at once.
const BUFFER: usize = 64 << 10;

/// Directories are the same whatever their times.
pub(in crate::tree) fn same_directory(below: &Entry, above: &Entry) -> bool {
    let (a, b) = (&below.attributes, &above.attributes);
    (below.kind, a.mode, a.uid, a.gid, &a.xattrs) == (above.kind, b.mode, b.uid, b.gid, &b.xattrs)
}

/// Whether all that an entry tells of something is the same, but for the bytes of a file.
pub(in crate::tree) fn same_entry(below: &Entry, above: &Entry) -> bool {
    same_directory(below, above)
        && below.attributes.mtime == above.attributes.mtime
        && (below.size, below.device, &below.target) == (above.size, above.device, &above.target)
}

/// As BuildKit compares: equal times count as equal bytes unless they may have been cut to
/// seconds.
pub(super) fn same(
    fs: BorrowedFd<'_>,
    path: &TreePath,
    below: &Node,
    above: &Entry,
) -> Result<bool, CaptureError> {
    if !same_entry(below.entry(), above) {
        return Ok(false);
    }
    if above.attributes.mtime.nanoseconds != 0 {
        return Ok(true);
    }
    same_content(fs, path, below, above).map_err(failed("compare", path))
}

/// Whether a file in `fs` has the bytes of one below, of the same size. Anything else has none.
pub(in crate::tree) fn same_content(
    fs: BorrowedFd<'_>,
    path: &TreePath,
    below: &Node,
    above: &Entry,
) -> io::Result<bool> {
    if above.kind != Kind::File || above.size == 0 {
        return Ok(true);
    }
    let Some(files) = below.files() else {
        return Ok(false);
    };
    same_bytes(files.open(path)?, dir::open_file(fs, path.as_bytes())?)
}

fn same_bytes(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let length = fill(&mut a, &mut left)?;
        if fill(&mut b, &mut right)? != length || left[..length] != right[..length] {
            return Ok(false);
        }
        if length < BUFFER {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
