//! Raw system calls for the time between `clone3` and `execve`.
//!
//! Owns: thin functions that allocate nothing, take no lock and touch no state of the C library
//! but `errno`. The child shares `errno` with the suspended thread that made it, which does not
//! look at it. Results are the kernel's value or its error number.
//!
//! The functions are safe to call: what is passed by reference outlives the call, and a wrong
//! descriptor is an error, not undefined behaviour.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint};

/// A kernel value or an `errno`.
pub(crate) type Result<T> = std::result::Result<T, i32>;

/// A value that can be passed to the kernel.
pub(crate) trait Word {
    fn word(self) -> c_long;
}

impl Word for c_int {
    fn word(self) -> c_long {
        c_long::from(self)
    }
}

impl Word for c_long {
    fn word(self) -> c_long {
        self
    }
}

impl Word for c_uint {
    fn word(self) -> c_long {
        c_long::from(self)
    }
}

impl Word for usize {
    fn word(self) -> c_long {
        self.cast_signed() as c_long
    }
}

impl Word for u64 {
    fn word(self) -> c_long {
        self.cast_signed()
    }
}

impl Word for &CStr {
    fn word(self) -> c_long {
        self.as_ptr().word()
    }
}

impl<T> Word for *const T {
    fn word(self) -> c_long {
        self.expose_provenance().word()
    }
}

impl<T> Word for *mut T {
    fn word(self) -> c_long {
        self.expose_provenance().word()
    }
}

/// Makes a system call with up to five arguments.
///
/// SAFETY: the caller upholds what the call asks of its pointers.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::result(libc::syscall($number $(, $crate::sys::Word::word($argument))*))
    };
}
pub(crate) use call;

/// Turns the C library's convention into a result.
pub(crate) fn result(value: c_long) -> Result<c_long> {
    if value == -1 {
        // SAFETY: the location of the calling thread's errno is always valid.
        Err(unsafe { *libc::__errno_location() })
    } else {
        Ok(value)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's descriptors are C ints"
)]
fn fd(value: c_long) -> c_int {
    value as c_int
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "both are as wide as a pointer"
)]
fn size(value: c_long) -> usize {
    value.unsigned_abs() as usize
}

pub(crate) fn open_at(dir: c_int, path: &CStr, flags: c_int, mode: c_uint) -> Result<c_int> {
    // SAFETY: the path is a valid C string.
    unsafe { call!(libc::SYS_openat, dir, path, flags | libc::O_CLOEXEC, mode) }.map(fd)
}

/// Resolves `path` as if `dir` were `/`, through no magic link.
pub(crate) fn open_in_root(dir: c_int, path: &CStr) -> Result<c_int> {
    const ATTEMPTS: usize = 10_000;
    #[repr(C)]
    struct OpenHow {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    let how = OpenHow {
        flags: u64::from((libc::O_PATH | libc::O_CLOEXEC).cast_unsigned()),
        mode: 0,
        resolve: libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    };
    // `..` is answered EAGAIN whenever anything on the machine is renamed or mounted meanwhile.
    for _ in 0..ATTEMPTS {
        let size = size_of::<OpenHow>();
        // SAFETY: the path and the structure are valid for the call, which only reads them.
        match unsafe { call!(libc::SYS_openat2, dir, path, &raw const how, size) } {
            Err(libc::EAGAIN) => {}
            other => return other.map(fd),
        }
    }
    Err(libc::EAGAIN)
}

pub(crate) fn close(fd: c_int) {
    // SAFETY: no memory is involved. The error is of no use to anyone.
    let _ = unsafe { call!(libc::SYS_close, fd) };
}

pub(crate) fn dup3(old: c_int, new: c_int) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_dup3, old, new, 0) }.map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn close_on_exec_from(first: c_int) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe {
        call!(
            libc::SYS_close_range,
            first,
            c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC
        )
    }
    .map(drop)
}

/// Writes everything or fails.
pub(crate) fn write_all(fd: c_int, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        // SAFETY: the buffer is valid for its length.
        let written = unsafe { call!(libc::SYS_write, fd, data.as_ptr(), data.len()) }?;
        data = data.get(size(written)..).unwrap_or_default();
    }
    Ok(())
}

pub(crate) fn mkdir_at(dir: c_int, name: &CStr, mode: c_uint) -> Result<()> {
    // SAFETY: the name is a valid C string.
    unsafe { call!(libc::SYS_mkdirat, dir, name, mode) }.map(drop)
}

pub(crate) fn mknod_at(dir: c_int, name: &CStr, mode: c_uint, device: u64) -> Result<()> {
    // SAFETY: the name is a valid C string.
    unsafe { call!(libc::SYS_mknodat, dir, name, mode, device) }.map(drop)
}

pub(crate) fn symlink_at(target: &CStr, dir: c_int, name: &CStr) -> Result<()> {
    // SAFETY: both names are valid C strings.
    unsafe { call!(libc::SYS_symlinkat, target, dir, name) }.map(drop)
}

/// Reads a symbolic link through a descriptor of the link itself.
pub(crate) fn read_link(fd: c_int, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the buffer is valid and writable for its length.
    unsafe {
        call!(
            libc::SYS_readlinkat,
            fd,
            c"",
            buffer.as_mut_ptr(),
            buffer.len()
        )
    }
    .map(size)
}

pub(crate) fn fchmod(fd: c_int, mode: c_uint) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fchmod, fd, mode) }.map(drop)
}

/// Changes the owner of what the descriptor names; works with `O_PATH`.
pub(crate) fn chown(fd: c_int, uid: u32, gid: u32) -> Result<()> {
    // SAFETY: no memory is involved beyond a constant string.
    unsafe { call!(libc::SYS_fchownat, fd, c"", uid, gid, libc::AT_EMPTY_PATH) }.map(drop)
}

pub(crate) fn chdir(path: &CStr) -> Result<()> {
    // SAFETY: the path is a valid C string.
    unsafe { call!(libc::SYS_chdir, path) }.map(drop)
}

pub(crate) fn fchdir(fd: c_int) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { call!(libc::SYS_fchdir, fd) }.map(drop)
}

/// What [`stat`] tells.
#[derive(Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) mode: u32,
    pub(crate) device: (u32, u32),
    pub(crate) mount: u64,
    pub(crate) modified: (i64, u32),
}

impl Stat {
    pub(crate) const fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
}

/// Status of what the descriptor names, symbolic links included; works with `O_PATH`.
pub(crate) fn stat(fd: c_int) -> Result<Stat> {
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut out: libc::statx = unsafe { std::mem::zeroed() };
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    // SAFETY: the structure is valid and writable.
    unsafe {
        call!(
            libc::SYS_statx,
            fd,
            c"",
            libc::AT_EMPTY_PATH,
            mask,
            &raw mut out
        )
    }?;
    Ok(Stat {
        mode: u32::from(out.stx_mode),
        device: (out.stx_rdev_major, out.stx_rdev_minor),
        mount: out.stx_mnt_id,
        modified: (out.stx_mtime.tv_sec, out.stx_mtime.tv_nsec),
    })
}

/// The magic number of the file system that the descriptor is on.
pub(crate) fn file_system(fd: c_int) -> Result<i64> {
    // SAFETY: the structure is made of integers, for which zero is a value.
    let mut out: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is valid and writable.
    unsafe { call!(libc::SYS_fstatfs, fd, &raw mut out) }?;
    Ok(out.f_type)
}

pub(crate) fn exists(path: &CStr) -> bool {
    // SAFETY: the path is a valid C string.
    unsafe { call!(libc::SYS_faccessat, libc::AT_FDCWD, path, libc::F_OK) }.is_ok()
}

/// Ends the process without running anything.
pub(crate) fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: the call does not return.
        let _ = unsafe { call!(libc::SYS_exit_group, code) };
    }
}

pub(crate) fn prctl(option: c_int, a: u64, b: u64) -> Result<c_long> {
    // SAFETY: only options that take integers are used.
    unsafe { call!(libc::SYS_prctl, option, a, b, 0u64, 0u64) }
}

/// Executes a program. Returns only on failure.
pub(crate) fn execve(path: &CStr, args: &[*const c_char], env: &[*const c_char]) -> i32 {
    // SAFETY: both arrays end with a null pointer and hold pointers to C strings of the plan.
    unsafe { call!(libc::SYS_execve, path, args.as_ptr(), env.as_ptr()) }
        .err()
        .unwrap_or(0)
}
