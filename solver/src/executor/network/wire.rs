//! The host's end of the wire into a namespace, while the process in it is being started.

use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ashlar_sandbox::{Spec, Wire};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::runtime::Handle;

use super::{Connection, Namespace, NetworkError, NetworkProvider};
use crate::executor::ExecutorError;

/// Room for the descriptors that a process sends.
const MAX_SENT: usize = 3;

/// How long a process may take to get to its network: it is the first thing it does, but the
/// thread that starts processes may have others to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a process with `start` and connects its namespace on the way. Must be called in a
/// runtime, on a thread that may block.
pub(in crate::executor) fn start_wired<T>(
    provider: &dyn NetworkProvider,
    mut spec: Spec,
    start: impl FnOnce(Spec) -> Result<T, ExecutorError>,
) -> Result<(T, Box<dyn Connection>), ExecutorError> {
    let network = |source| ExecutorError::Network { source };
    provider.check().map_err(network)?;
    let (ours, theirs) =
        UnixStream::pair().map_err(|source| network(NetworkError::Wire { source }))?;
    let tunnel = provider.tunnel();
    let wait = tunnel.is_none();
    spec.wire = Some(match tunnel {
        Some(tunnel) => Wire::with_tunnel(theirs, tunnel),
        None => Wire::new(theirs),
    });
    let user = spec.namespaces.user.is_some();
    let runtime = Handle::current();
    std::thread::scope(|scope| {
        let connecting = scope.spawn(move || {
            let _inside = runtime.enter();
            let namespace = receive(&ours, user).map_err(|source| NetworkError::Wire { source })?;
            let connection = provider.connect(namespace)?;
            if wait {
                // A process that is gone needs no answer.
                let _gone = (&ours).write_all(&[1]);
            }
            Ok(connection)
        });
        // The specification, and with it the other end, is gone when this returns.
        let started = start(spec);
        let connected: Result<_, NetworkError> = match connecting.join() {
            Ok(connected) => connected,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (started, connected) {
            (Ok(started), Ok(connection)) => Ok((started, connection)),
            // Why the wire broke says more than that it did.
            (_, Err(source)) if !matches!(source, NetworkError::Wire { .. }) => {
                Err(network(source))
            }
            (Err(error), _) => Err(error),
            (Ok(_), Err(source)) => Err(network(source)),
        }
    })
}

/// Takes the descriptors that the process sends first.
fn receive(socket: &UnixStream, user: bool) -> io::Result<Namespace> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        flags,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let mut fds = fds.into_iter();
    let network = fds.next().ok_or(io::ErrorKind::InvalidData)?;
    let user = if user { fds.next() } else { None };
    Ok(Namespace {
        network,
        user,
        tunnel: fds.next(),
    })
}
