//! Who the process is: streams, control groups, host name, limits, user, capabilities, filter.

use super::{At, Failed};
use crate::Step;
use crate::plan::Plan;
use crate::sys::{self, call};
use std::ffi::c_int;
use std::ptr;

type Done = Result<(), Failed>;

/// First of all: nothing of the host stays open past `execve`, whatever happens later.
pub(super) fn isolate(plan: &Plan) -> Done {
    die_with_parent().at(Step::Start, 0)?;
    sys::close_on_exec_from(3).at(Step::Start, 0)?;
    for (number, &fd) in (0..).zip(&plan.stdio) {
        // A number that the host left free must not be taken by a descriptor of the set-up.
        let source = if fd >= 0 { fd } else { plan.host };
        sys::dup3(source, number).at(Step::Start, 0)?;
    }
    if plan.messages >= 0 {
        sys::dup3(plan.messages, 3).at(Step::Start, 0)?;
    }
    // SAFETY: both calls take integers only.
    unsafe {
        // A new session: no controlling terminal, no process group of the host.
        call!(libc::SYS_setsid).at(Step::Start, 0)?;
        call!(libc::SYS_umask, 0).at(Step::Start, 0)?;
    }
    for &procs in &plan.cgroup_procs {
        // "0" is the writer, whatever its process id is where the hierarchy is mounted.
        sys::write_all(procs, b"0").at(Step::ControlGroup, 0)?;
    }
    if let Some((uid_map, gid_map)) = &plan.id_map {
        write(c"/proc/self/setgroups", b"deny").at(Step::IdMap, 0)?;
        write(c"/proc/self/uid_map", uid_map).at(Step::IdMap, 0)?;
        write(c"/proc/self/gid_map", gid_map).at(Step::IdMap, 0)?;
    }
    if plan.late_cgroup_namespace {
        // SAFETY: the call takes an integer only.
        unsafe { call!(libc::SYS_unshare, libc::CLONE_NEWCGROUP) }.at(Step::ControlGroup, 0)?;
    }
    Ok(())
}

/// The kernel forgets the death signal at every change of credentials.
fn die_with_parent() -> sys::Result<()> {
    sys::prctl(
        libc::PR_SET_PDEATHSIG,
        u64::from(libc::SIGKILL.unsigned_abs()),
        0,
    )
    .map(drop)
}

fn write(path: &std::ffi::CStr, data: &[u8]) -> sys::Result<()> {
    let fd = sys::open_at(libc::AT_FDCWD, path, libc::O_WRONLY, 0)?;
    let written = sys::write_all(fd, data);
    sys::close(fd);
    written
}

/// Streams that were not given lead to the null device of the sandbox, not the host's: a root
/// process could change the mode of the host's through them.
pub(super) fn null_streams(plan: &Plan) -> Done {
    if plan.stdio.iter().all(|&fd| fd >= 0) {
        return Ok(());
    }
    let null = sys::open_at(
        libc::AT_FDCWD,
        c"/dev/null",
        libc::O_RDWR | libc::O_NOFOLLOW,
        0,
    )
    .at(Step::Start, 0)?;
    for (number, &fd) in (0..).zip(&plan.stdio) {
        if fd < 0 {
            sys::dup3(null, number).at(Step::Start, 0)?;
        }
    }
    Ok(())
}

pub(super) fn host_name(plan: &Plan) -> Done {
    if let Some(name) = &plan.hostname {
        // SAFETY: the buffer is valid for its length.
        unsafe { call!(libc::SYS_sethostname, name.as_ptr(), name.len()) }.at(Step::Hostname, 0)?;
    }
    Ok(())
}

/// Limits, signal state and the file mode mask of the program.
pub(super) fn limits(plan: &Plan) -> Done {
    for (resource, limit) in &plan.rlimits {
        let none = ptr::null::<u8>();
        // SAFETY: the two numbers are laid out as the kernel's structure; nothing is returned.
        unsafe { call!(libc::SYS_prlimit64, 0, *resource, limit.as_ptr(), none) }
            .at(Step::Rlimit, 0)?;
    }
    // SAFETY: the call takes an integer only.
    unsafe { call!(libc::SYS_umask, plan.umask) }.at(Step::Start, 0)?;
    default_signals();
    Ok(())
}

/// Signals that the host ignores would stay ignored. Everything is reset, then unblocked.
fn default_signals() {
    const KERNEL_SET: usize = 8;
    let zero = [0u64; 4];
    // Those two have no other action.
    let changeable = |signal: &c_int| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP);
    for signal in (1..=64).filter(changeable) {
        let (action, none) = (zero.as_ptr(), ptr::null::<u8>());
        // SAFETY: the zeroed words are the kernel's structure with the default action.
        let _ = unsafe { call!(libc::SYS_rt_sigaction, signal, action, none, KERNEL_SET) };
    }
    let (set, none) = (zero.as_ptr(), ptr::null::<u8>());
    let how = libc::SIG_SETMASK;
    // SAFETY: the set is eight zero bytes; nothing is returned.
    let _ = unsafe { call!(libc::SYS_rt_sigprocmask, how, set, none, KERNEL_SET) };
}

/// The filter goes in while the process may still install it, so that `no_new_privs` is not
/// needed; every call made after this point is one that the filter allows.
pub(super) fn filter(plan: &Plan) -> Done {
    const JOIN_SESSION_KEYRING: c_int = 1;
    if plan.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).at(Step::Seccomp, 0)?;
    }
    let Some(program) = &plan.seccomp else {
        // The filter keeps the process from the host's keys; without one it gets its own keyring.
        let none = ptr::null::<u8>();
        // SAFETY: no name is passed.
        return match unsafe { call!(libc::SYS_keyctl, JOIN_SESSION_KEYRING, none) } {
            Ok(_) | Err(libc::ENOSYS) => Ok(()),
            Err(errno) => Err(Failed {
                step: Step::Credentials,
                object: 0,
                errno,
            }),
        };
    };
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(u16::MAX),
        filter: program.as_ptr().cast_mut(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program is valid for the call, which only reads it.
    unsafe { call!(libc::SYS_seccomp, mode, 0u32, &raw const program) }
        .map(drop)
        .at(Step::Seccomp, 0)
}

pub(super) fn credentials(plan: &Plan) -> Done {
    take_on(plan).at(Step::Credentials, 0)?;
    die_with_parent().at(Step::Credentials, 0)?;
    // A host that died before this point could not send the signal.
    let mut host = libc::pollfd {
        fd: plan.host,
        events: libc::POLLIN,
        revents: 0,
    };
    let (now, none) = ([0u64; 2], ptr::null::<u8>());
    // SAFETY: the descriptor and the time are valid for the call; there is no signal mask.
    let ended = unsafe { call!(libc::SYS_ppoll, &raw mut host, 1, now.as_ptr(), none, 0) };
    if ended.at(Step::Credentials, 0)? > 0 {
        sys::exit(127)
    } else {
        Ok(())
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// Low and high halves of the effective, permitted and inheritable sets.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

fn take_on(plan: &Plan) -> sys::Result<()> {
    for number in 0..64u32 {
        if plan.capabilities & (1 << number) == 0
            && sys::prctl(libc::PR_CAPBSET_DROP, u64::from(number), 0).is_err()
        {
            // Past the kernel's last capability, or one that cannot be dropped.
            match sys::prctl(libc::PR_CAPBSET_READ, u64::from(number), 0) {
                Ok(1) => return Err(libc::EPERM),
                _ => break,
            }
        }
    }
    if plan.ambient {
        sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    }
    // SAFETY: the groups are valid for their number; the other calls take integers.
    unsafe {
        if plan.id_map.is_none() {
            call!(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr())?;
        }
        call!(libc::SYS_setresgid, plan.gid, plan.gid, plan.gid)?;
        call!(libc::SYS_setresuid, plan.uid, plan.uid, plan.uid)?;
    }
    set_capabilities(plan)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel takes the sets in halves"
)]
fn set_capabilities(plan: &Plan) -> sys::Result<()> {
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapabilityData::default(); 2];
    // SAFETY: header and data are the kernel's structures for version 3.
    unsafe { call!(libc::SYS_capget, &raw const header, data.as_mut_ptr()) }?;
    // Programs of other users have no capabilities after `execve`; they have none before it
    // either, so that the program itself must be theirs to execute.
    let wanted = if plan.uid == 0 || plan.ambient {
        plan.capabilities
    } else {
        0
    };
    for (half, word) in data.iter_mut().zip([wanted as u32, (wanted >> 32) as u32]) {
        half.permitted &= word;
        half.effective = half.permitted;
        half.inheritable = if plan.ambient { half.permitted } else { 0 };
    }
    // SAFETY: as above; the call reads both.
    unsafe { call!(libc::SYS_capset, &raw const header, data.as_ptr()) }?;
    if plan.ambient {
        let raise = libc::PR_CAP_AMBIENT_RAISE.unsigned_abs().into();
        for (word, half) in (0u64..).zip(&data) {
            for bit in 0..32u64 {
                if half.permitted & (1 << bit) != 0 {
                    sys::prctl(libc::PR_CAP_AMBIENT, raise, word * 32 + bit)?;
                }
            }
        }
    }
    Ok(())
}
