//! `clone3` on a stack of its own, with the parent suspended and the memory shared.
//!
//! Owns: the one place where a process comes into being. Sharing memory makes the start
//! independent of how much memory the host has; suspending the parent thread makes sharing sound.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

/// The child uses a few kilobytes in release builds and far less than this in debug builds.
const STACK: usize = 256 * 1024;
/// Covers the page sizes in use.
const GUARD: usize = 64 * 1024;

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A mapped stack with an inaccessible region below it.
pub(crate) struct Stack {
    base: *mut c_void,
}

// SAFETY: the mapping belongs to the value, not to a thread.
unsafe impl Send for Stack {}

impl Stack {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping touches no existing memory.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                GUARD + STACK,
                libc::PROT_NONE,
                flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is the upper part of the mapping just made.
        if unsafe { libc::mprotect(stack.usable(), STACK, access) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    fn usable(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing runs on it any more: the
        // thread that would have started a child on it is the one that drops it.
        unsafe { libc::munmap(self.base, GUARD + STACK) };
    }
}

/// The kernel's `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Runs `entry(argument)` in a new process with the given namespaces and returns when it has
/// executed a program or ended, with its process id and pidfd. With a `cgroup` that is not negative
/// it is born in that group.
///
/// # Safety
/// `entry` must not return, and must only do what is allowed in a process that shares the memory
/// and thread-local storage of the suspended caller. `argument` must be what it expects. All
/// signals must be blocked in the calling thread.
pub(crate) unsafe fn clone_and_wait_for_exec(
    namespaces: u64,
    cgroup: c_int,
    stack: &mut Stack,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> io::Result<(u32, OwnedFd)> {
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let into = u64::try_from(cgroup).map_or(0, |_| CLONE_INTO_CGROUP);
    let args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()) | CLONE_CLEAR_SIGHAND | into | namespaces,
        cgroup: u64::try_from(cgroup).unwrap_or(0),
        pidfd: (&raw mut pidfd).expose_provenance() as u64,
        stack: stack.usable().expose_provenance() as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the caller's promises; the stack is not used by anyone else as it is borrowed
    // mutably until the child has left it.
    let result = unsafe { clone3(&args, entry, argument) };
    let Ok(pid) = u32::try_from(result) else {
        let errno = i32::try_from(-result).unwrap_or(libc::EINVAL);
        return Err(io::Error::from_raw_os_error(errno));
    };
    // SAFETY: the call succeeded, so that the kernel has stored a new descriptor that nobody else
    // owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    args: &CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: in the parent this is a system call that changes rax, rcx, r11 and memory. The child
    // comes out of it with the same registers on an empty stack, aligned to 16 bytes, and calls
    // `entry`, which does not return; it never uses the parent's frame.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    args: &CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> i64 {
    let result: i64;
    // SAFETY: as on x86_64; the call changes x0 and memory.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") ptr::from_ref(args).expose_provenance() as i64 => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") argument,
            in("x21") entry,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("ashlar-sandbox starts processes on x86_64 and aarch64 only");
