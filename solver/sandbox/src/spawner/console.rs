//! The terminal of a process, on its way to the host.

use super::high;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// The way of the master side of a terminal from the new process to the host.
pub(super) struct Console {
    ours: OwnedFd,
    /// What the process sends it through.
    pub(super) theirs: OwnedFd,
}

impl Console {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok(Self {
            ours: high(ours)?,
            theirs: high(theirs)?,
        })
    }

    /// What was sent.
    pub(super) fn terminal(self) -> io::Result<OwnedFd> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let data = &mut [io::IoSliceMut::new(&mut byte)];
        recvmsg(&self.ours, data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.next().and_then(|mut fds| fds.next());
        high(fd.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}
