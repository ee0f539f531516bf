//! The kernel's mount calls, raw.

use crate::sys::{Result, call};
use std::ffi::{CStr, c_int, c_uint};
use std::ptr;

pub(crate) const ATTR_RDONLY: u64 = 0x1;
pub(crate) const ATTR_NOSUID: u64 = 0x2;
pub(crate) const ATTR_NODEV: u64 = 0x4;
pub(crate) const ATTR_NOEXEC: u64 = 0x8;
pub(crate) const ATTR_STRICTATIME: u64 = 0x20;
/// All bits that say when the time of access is noted.
const ATTR_ATIME: u64 = 0x70;

const OPEN_TREE_CLONE: c_uint = 1;
const RECURSIVE: c_uint = 0x8000;
const EMPTY_PATH: c_uint = 0x1000;
const CLOEXEC: c_uint = 0x8_0000;
const MOVE_FROM_EMPTY_PATH: c_uint = 0x4;
const MOVE_TO_EMPTY_PATH: c_uint = 0x40;
const CONFIG_CREATE: c_uint = 6;

/// How a parameter of a file system is passed to `fsconfig`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ParameterKind {
    Flag = 0,
    String = 1,
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's descriptors are C ints"
)]
fn fd(value: std::ffi::c_long) -> c_int {
    value as c_int
}

pub(crate) fn fsopen(kind: &CStr) -> Result<c_int> {
    // SAFETY: the name is a valid C string.
    unsafe { call!(libc::SYS_fsopen, kind, 1u32) }.map(fd)
}

pub(crate) fn configure(
    context: c_int,
    kind: ParameterKind,
    key: &CStr,
    value: Option<&CStr>,
) -> Result<()> {
    let value = value.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: key and value are valid C strings, or null for a flag.
    unsafe { call!(libc::SYS_fsconfig, context, kind as c_uint, key, value, 0) }.map(drop)
}

pub(crate) fn create(context: c_int) -> Result<()> {
    let none = ptr::null::<u8>();
    // SAFETY: the command takes neither key nor value.
    unsafe { call!(libc::SYS_fsconfig, context, CONFIG_CREATE, none, none, 0) }.map(drop)
}

/// Makes a detached mount of a configured file system.
pub(crate) fn fsmount(context: c_int, attributes: u64) -> Result<c_int> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fsmount, context, 1u32, attributes) }.map(fd)
}

/// Makes a detached copy of the mounts from `path` (relative to `dir`) on.
pub(crate) fn clone_tree(dir: c_int, path: &CStr) -> Result<c_int> {
    let flags = OPEN_TREE_CLONE | CLOEXEC | RECURSIVE | EMPTY_PATH;
    // SAFETY: the path is a valid C string.
    unsafe { call!(libc::SYS_open_tree, dir, path, flags) }.map(fd)
}

/// Sets attributes on a mount, and with `recursive` on every mount below it.
pub(crate) fn set_attributes(mount: c_int, attributes: u64, recursive: bool) -> Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let clear = match attributes & ATTR_ATIME {
        0 => 0,
        _ => ATTR_ATIME,
    };
    let attr = MountAttr {
        set: attributes,
        clear,
        propagation: 0,
        user_namespace: 0,
    };
    let flags = EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    let size = size_of::<MountAttr>();
    // SAFETY: the structure is valid for the call, which only reads it.
    unsafe {
        call!(
            libc::SYS_mount_setattr,
            mount,
            c"",
            flags,
            &raw const attr,
            size
        )
    }
    .map(drop)
}

/// Attaches a detached mount, or moves an attached one, onto what `target` names.
pub(crate) fn attach(mount: c_int, target: c_int) -> Result<()> {
    let flags = MOVE_FROM_EMPTY_PATH | MOVE_TO_EMPTY_PATH;
    // SAFETY: no memory is involved beyond constant strings.
    unsafe { call!(libc::SYS_move_mount, mount, c"", target, c"", flags) }.map(drop)
}

/// Attaches a detached mount onto `path` (relative to `dir`).
pub(crate) fn attach_at(mount: c_int, dir: c_int, path: &CStr) -> Result<()> {
    // SAFETY: the path is a valid C string.
    unsafe {
        call!(
            libc::SYS_move_mount,
            mount,
            c"",
            dir,
            path,
            MOVE_FROM_EMPTY_PATH
        )
    }
    .map(drop)
}

/// mount(2) of a file system of type `kind` onto `target`.
pub(crate) fn mount(kind: &CStr, target: &CStr, flags: u64, options: &CStr) -> Result<()> {
    // SAFETY: all three are valid C strings.
    unsafe { call!(libc::SYS_mount, kind, target, kind, flags, options) }.map(drop)
}

/// Cuts every mount of the namespace off from its peers.
pub(crate) fn make_all_private() -> Result<()> {
    let none = ptr::null::<u8>();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: a change of propagation reads the target only.
    unsafe { call!(libc::SYS_mount, none, c"/", none, flags, none) }.map(drop)
}

/// Takes away what is mounted at `path`, which is no link.
pub(crate) fn detach(path: &CStr) -> Result<()> {
    let flags = libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW;
    // SAFETY: the path is a valid C string.
    unsafe { call!(libc::SYS_umount2, path, flags) }.map(drop)
}

/// Makes the current directory, the root of the mount `id`, the root of the process and drops
/// everything of the old root, of which `old` is a descriptor that was opened before anything was
/// attached to it.
pub(crate) fn pivot_into_current(id: u64, old: c_int) -> Result<()> {
    const MOST: usize = 1024;
    // SAFETY: the paths are constant strings.
    unsafe { call!(libc::SYS_pivot_root, c".", c".") }?;
    // The old root now lies on the new one. It goes with all that is attached to it, at once: the
    // kernel lets every processor take note of each removal.
    crate::sys::fchdir(old)?;
    // SAFETY: the path is a constant string.
    unsafe { call!(libc::SYS_umount2, c".", libc::MNT_DETACH) }?;
    crate::sys::chdir(c"/")?;
    // The parent of `/` is `/` with whatever is mounted on it: only when that is the new root
    // itself is the host's tree gone.
    for _ in 0..MOST {
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        let top = crate::sys::open_at(libc::AT_FDCWD, c"/..", flags, 0)?;
        let mount = crate::sys::stat(top)?.mount;
        crate::sys::close(top);
        if mount == id {
            return Ok(());
        }
        // SAFETY: the path is a constant string.
        unsafe { call!(libc::SYS_umount2, c"/..", libc::MNT_DETACH) }?;
    }
    Err(libc::EBUSY)
}
