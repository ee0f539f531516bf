//! The sockets through which a process speaks to the caller's ssh agents.
//!
//! Owns the socket of a mount, [`Listening`], and the tasks that carry what is said,
//! [`Forwarding`]. The socket is a file in the directory of a layer that is being made, beside its
//! files, so that the process can reach it only where it is mounted, and a killed host process
//! leaves nothing that is not cleared away with the layer.
//!
//! Invariants:
//! - Socket and tasks end with the run, whatever its end.
//! - A process may list keys and have them sign, and nothing else; see [`filter`].

mod filter;

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::pb;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chmodat, chownat, unlinkat};
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::ExecError;
use crate::session::SshAgent;

/// Connections of one socket at the same time; more wait.
const CONNECTIONS: usize = 64;

/// The longest path a socket address can hold, with its zero byte.
const MAX_ADDRESS: usize = 108;

/// A socket that is ready for its mount.
#[derive(Debug)]
pub(super) struct Listening {
    id: String,
    directory: OwnedFd,
    name: String,
    path: PathBuf,
    listener: UnixListener,
    agent: Arc<dyn SshAgent>,
}

impl Listening {
    /// Makes the socket number `number` in `directory`. The owner is the one asked for if the
    /// engine may give files away. Blocks.
    pub(super) fn open(
        directory: &Path,
        number: usize,
        options: &pb::SshOpt,
        privileged: bool,
        agent: Arc<dyn SshAgent>,
    ) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let handle = rustix::fs::open(directory, flags, Mode::empty())?;
        let name = format!("agent-{number}");
        let path = directory.join(&name);
        // A long path is no address; that of the open directory is short.
        let listener = if path.as_os_str().as_bytes().len() < MAX_ADDRESS {
            UnixListener::bind(&path)?
        } else {
            UnixListener::bind(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd()))?
        };
        let socket = Self {
            id: options.id.clone(),
            directory: handle,
            name,
            path,
            listener,
            agent,
        };
        socket.listener.set_nonblocking(true)?;
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if privileged {
            let owner = (Uid::from_raw(options.uid), Gid::from_raw(options.gid));
            let (uid, gid) = (Some(owner.0), Some(owner.1));
            chownat(&socket.directory, &socket.name, uid, gid, nofollow)?;
        }
        let mode = Mode::from_raw_mode(options.mode & 0o777);
        // Nobody else writes to the directory: it is no link.
        chmodat(&socket.directory, &socket.name, mode, AtFlags::empty())?;
        Ok(socket)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _gone = unlinkat(&self.directory, &self.name, AtFlags::empty());
    }
}

/// Carries what is said until it is dropped; the sockets are gone then.
#[derive(Debug)]
pub(super) struct Forwarding {
    /// Dropped first.
    _tasks: JoinSet<()>,
    _sockets: Vec<Listening>,
}

/// Starts to accept connections. To be called on a runtime.
pub(super) fn forward(sockets: Vec<Listening>) -> Result<Forwarding, ExecError> {
    let mut tasks = JoinSet::new();
    for socket in &sockets {
        let listener = socket.listener.try_clone();
        let listener = listener.and_then(tokio::net::UnixListener::from_std);
        let listener = listener.map_err(|source| ExecError::AgentSocket {
            id: socket.id.clone(),
            source,
        })?;
        tasks.spawn(accept(listener, socket.agent.clone()));
    }
    Ok(Forwarding {
        _tasks: tasks,
        _sockets: sockets,
    })
}

async fn accept(listener: tokio::net::UnixListener, agent: Arc<dyn SshAgent>) {
    let mut connections = JoinSet::new();
    loop {
        if connections.len() >= CONNECTIONS {
            let _ended = connections.join_next().await;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // Whatever is wrong with one connection, the next may work: but not at full speed.
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        connections.spawn(serve(stream, agent.clone()));
    }
}

/// Serves one connection to its end; an agent that cannot be reached ends it at once.
async fn serve(mut step: UnixStream, agent: Arc<dyn SshAgent>) {
    let Ok(mut connection) = agent.connect().await else {
        return;
    };
    // Both sides see the end of the connection; nobody is there to hear of an error.
    if agent.is_raw() {
        let _over = tokio::io::copy_bidirectional(&mut step, &mut connection).await;
    } else {
        let _over = filter::serve(&mut step, &mut connection).await;
    }
}
