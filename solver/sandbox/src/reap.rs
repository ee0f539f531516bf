//! Collects the exit status of a process through its pidfd.
//!
//! Owns: telling how a process ended even when the host process makes that hard. `execve` gives a
//! child the exit signal SIGCHLD, whatever `clone3` asked for, so that a host that ignores SIGCHLD
//! or waits for every child takes the status away; newer kernels still tell it through the pidfd.

use crate::{ExitStatus, ResourceUsage};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

/// The outcome, once the process has ended.
pub(crate) enum Reaped {
    Running,
    Ended(ExitStatus, Option<ResourceUsage>),
}

const P_PIDFD: libc::idtype_t = 3;

/// Asks without waiting.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Reaped {
    // SAFETY: both structures are made of integers, for which zero is a value.
    let (mut info, mut usage) = unsafe {
        (
            std::mem::zeroed::<libc::siginfo_t>(),
            std::mem::zeroed::<libc::rusage>(),
        )
    };
    let options = libc::WEXITED | libc::__WALL | libc::WNOHANG;
    loop {
        // SAFETY: both structures are valid and writable for the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                P_PIDFD,
                pidfd.as_raw_fd(),
                &raw mut info,
                options,
                &raw mut usage,
            )
        };
        if result == 0 {
            break;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => {}
            _ => return Reaped::Ended(taken_status(pidfd), None),
        }
    }
    // SAFETY: the call succeeded, so that the fields are those of a child's state change, or zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Reaped::Running;
    }
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Exited(status),
        _ => ExitStatus::Signaled(status),
    };
    Reaped::Ended(status, Some(resource_usage(&usage)))
}

fn resource_usage(usage: &libc::rusage) -> ResourceUsage {
    let duration = |time: libc::timeval| {
        let (seconds, micros) = (time.tv_sec.unsigned_abs(), time.tv_usec.unsigned_abs());
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    ResourceUsage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        // The kernel counts kibibytes.
        max_resident: usage.ru_maxrss.unsigned_abs() * 1024,
        // The kernel counts blocks of 512 bytes.
        read: usage.ru_inblock.unsigned_abs() * 512,
        written: usage.ru_oublock.unsigned_abs() * 512,
    }
}

/// The first version of the kernel's `struct pidfd_info`.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: libc::c_ulong =
    3 << 30 | (size_of::<PidfdInfo>() as libc::c_ulong) << 16 | 0xFF << 8 | 11;

/// The kernel has the status a moment after the pidfd becomes readable.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

fn taken_status(pidfd: BorrowedFd<'_>) -> ExitStatus {
    for _ in 0..ATTEMPTS {
        let mut info = PidfdInfo {
            mask: PIDFD_INFO_EXIT,
            ..PidfdInfo::default()
        };
        // SAFETY: the structure is as large as the request number says, and writable.
        let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        if result == 0 && info.mask & PIDFD_INFO_EXIT != 0 {
            let code = info.exit_code;
            return if libc::WIFEXITED(code) {
                ExitStatus::Exited(libc::WEXITSTATUS(code))
            } else {
                ExitStatus::Signaled(libc::WTERMSIG(code))
            };
        }
        if result != 0 && errno != Some(libc::ESRCH) {
            return ExitStatus::Lost;
        }
        thread::sleep(PAUSE);
    }
    ExitStatus::Lost
}
