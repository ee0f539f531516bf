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
pub(super) fn same_directory(below: &Entry, above: &Entry) -> bool {
    let (a, b) = (&below.attributes, &above.attributes);
    (below.kind, a.mode, a.uid, a.gid, &a.xattrs) == (above.kind, b.mode, b.uid, b.gid, &b.xattrs)
}

/// As BuildKit compares: equal times count as equal bytes unless they may have been cut to
/// seconds.
pub(super) fn same(
    fs: BorrowedFd<'_>,
    path: &TreePath,
    below: &Node,
    above: &Entry,
) -> Result<bool, CaptureError> {
    let before = below.entry();
    if !same_directory(before, above)
        || before.attributes.mtime != above.attributes.mtime
        || (before.size, before.device, &before.target) != (above.size, above.device, &above.target)
    {
        return Ok(false);
    }
    if above.kind != Kind::File || above.size == 0 || above.attributes.mtime.nanoseconds != 0 {
        return Ok(true);
    }
    let Some(files) = below.files() else {
        return Ok(false);
    };
    let open = || -> io::Result<(File, File)> {
        Ok((files.open(path)?, dir::open_file(fs, path.as_bytes())?))
    };
    let (before, after) = open().map_err(failed("compare", path))?;
    same_bytes(before, after).map_err(failed("compare", path))
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
