//! The controlling terminal of an interactive process.
//!
//! It is made in the `/dev/pts` of the process, so that its name means something there, and its
//! master side is handed to the host over a socket.

use super::{At, Failed};
use crate::Step;
use crate::plan::Plan;
use crate::sys::{self, call};
use std::ffi::c_int;

/// Makes the terminal the plan asks for, and the standard streams lead to it.
pub(super) fn make(plan: &Plan) -> Result<(), Failed> {
    match plan.terminal {
        Some(size) => open(plan, size).at(Step::Terminal, 0),
        None => Ok(()),
    }
}

fn open(plan: &Plan, [rows, columns]: [u16; 2]) -> sys::Result<()> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = sys::open_at(
        libc::AT_FDCWD,
        c"/dev/pts/ptmx",
        flags | libc::O_NOFOLLOW,
        0,
    )?;
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let unlocked: c_int = 0;
    // SAFETY: the kernel reads one integer and one structure.
    unsafe {
        call!(
            libc::SYS_ioctl,
            master,
            libc::TIOCSPTLCK,
            &raw const unlocked
        )?;
        call!(libc::SYS_ioctl, master, libc::TIOCSWINSZ, &raw const size)?;
    }
    // The other side by its master: whatever a mount shows under its name.
    // SAFETY: the flags are an integer.
    let peer = unsafe { call!(libc::SYS_ioctl, master, libc::TIOCGPTPEER, flags) }?;
    let slave = c_int::try_from(peer).map_err(|_| libc::EBADF)?;
    // The group stays that of terminals.
    let group = u32::MAX;
    // SAFETY: the calls take integers only. The process is the leader of a session of its own.
    unsafe {
        call!(libc::SYS_fchown, slave, plan.uid, group)?;
        call!(libc::SYS_ioctl, slave, libc::TIOCSCTTY, 0)?;
    }
    for stream in 0..3 {
        sys::dup3(slave, stream)?;
    }
    hand_over(plan.console, master)?;
    sys::close(slave);
    sys::close(master);
    Ok(())
}

/// Room for one descriptor in a control message, aligned as its header.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: c_int,
}

/// Sends a descriptor with one byte.
fn hand_over(socket: c_int, fd: c_int) -> sys::Result<()> {
    let mut byte = 0u8;
    let mut data = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: both structures are made of integers and pointers, for which zero is a value; they
    // may have padding that must be set.
    let (mut rights, mut message) = unsafe {
        (
            std::mem::zeroed::<Rights>(),
            std::mem::zeroed::<libc::msghdr>(),
        )
    };
    rights.header.cmsg_len = std::mem::offset_of!(Rights, fd) + size_of::<c_int>();
    rights.header.cmsg_level = libc::SOL_SOCKET;
    rights.header.cmsg_type = libc::SCM_RIGHTS;
    rights.fd = fd;
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = size_of::<Rights>();
    // SAFETY: the message and what it points to are valid for the call, which only reads them.
    unsafe { call!(libc::SYS_sendmsg, socket, &raw const message, 0) }.map(drop)
}
