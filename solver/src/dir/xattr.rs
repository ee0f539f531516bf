//! Extended attributes of an object known by its directory and name.
//!
//! There are no such system calls before Linux 6.13, so the object is named through
//! `/proc/self/fd`.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::io::Errno;

use super::{name as os_name, proc_path};

/// One extended attribute: its name and its value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// Bytes first offered for a list or a value; enough for nearly all.
const GUESS: usize = 256;

/// The largest list or value that Linux has.
const MOST: usize = 64 << 10;

/// The extended attributes of `name` in `directory`, a symbolic link not followed. Those that may
/// not be read are left out; a file system without them has none.
///
/// # Errors
/// As the operating system says.
pub fn xattrs(directory: impl AsFd, name: &[u8]) -> io::Result<Vec<Xattr>> {
    let path = proc_path(directory.as_fd(), name);
    let path = os_name(&path);
    let list = match grow(|buffer| llistxattr(path, buffer)) {
        Ok(list) => list,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for key in list.split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
        match grow(|buffer| lgetxattr(path, os_name(key), buffer)) {
            Ok(value) => found.push((key.into(), value.into())),
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

fn grow(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; GUESS];
    match call(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0; MOST];
    let length = call(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// Sets an extended attribute of `name` in `directory`, a symbolic link not followed. Returns
/// whether the file system and the rights of the process allow it.
///
/// # Errors
/// As the operating system says.
pub fn set_xattr(directory: impl AsFd, name: &[u8], key: &[u8], value: &[u8]) -> io::Result<bool> {
    let path = proc_path(directory.as_fd(), name);
    match lsetxattr(os_name(&path), os_name(key), value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Removes an extended attribute of `name` in `directory`, if it is there and may be removed.
///
/// # Errors
/// As the operating system says.
pub fn remove_xattr(directory: impl AsFd, name: &[u8], key: &[u8]) -> io::Result<()> {
    let path = proc_path(directory.as_fd(), name);
    match lremovexattr(os_name(&path), os_name(key)) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
