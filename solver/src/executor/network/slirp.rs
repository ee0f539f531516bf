//! The network of slirp4netns: packets end in a helper process.

use std::io::{self, Read as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ashlar_sandbox::Tunnel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Connection, Namespace, NetworkError, NetworkProvider};

/// Where distributions install it.
const PROGRAM: &str = "/usr/bin/slirp4netns";

/// How long it may take until the device is there: it is a matter of milliseconds.
const PATIENCE: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// Bytes of its complaints that are kept.
const MAX_MESSAGE: usize = 4096;

/// What it writes when the namespace is connected.
const READY: &[u8] = b"1";

/// Connects steps through slirp4netns 1.0 or newer, one process for each step. The loopback
/// addresses of the host cannot be reached through it.
///
/// The helper holds the read end of a pipe whose other end only this process has, and ends with
/// it: it is gone even if this process is killed.
#[derive(Debug, Clone)]
pub struct SlirpNetwork {
    program: PathBuf,
}

impl Default for SlirpNetwork {
    fn default() -> Self {
        Self::new()
    }
}

impl SlirpNetwork {
    /// Uses `/usr/bin/slirp4netns`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            program: PROGRAM.into(),
        }
    }

    /// Uses another program.
    #[must_use]
    pub fn with_program(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
        }
    }

    fn failed(&self, source: io::Error) -> NetworkError {
        NetworkError::Program {
            program: self.program.clone(),
            source,
        }
    }
}

/// The helper of one step.
#[derive(Debug)]
struct Helper(Child);

impl Connection for Helper {}

impl Drop for Helper {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A path to a descriptor of this process, for another one of the same user.
fn path_to(fd: &impl AsRawFd) -> PathBuf {
    let process = std::process::id();
    Path::new("/proc").join(format!("{process}/fd/{}", fd.as_raw_fd()))
}

impl NetworkProvider for SlirpNetwork {
    fn name(&self) -> &'static str {
        "slirp4netns"
    }

    fn tunnel(&self) -> Option<Tunnel> {
        None
    }

    fn check(&self) -> Result<(), NetworkError> {
        let found = rustix::fs::access(&self.program, rustix::fs::Access::EXEC_OK);
        found.map_err(|errno| self.failed(errno.into()))
    }

    fn connect(&self, namespace: Namespace) -> Result<Box<dyn Connection>, NetworkError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the provider is this program; it runs no code of a step"
        )]
        let mut command = Command::new(&self.program);
        command
            .args(["--configure", "--mtu=65520", "--disable-host-loopback"])
            .args(["--exit-fd=0", "--ready-fd=2", "--netns-type=path"]);
        if let Some(user) = &namespace.user {
            let path = path_to(user);
            command.arg(format!("--userns-path={}", path.display()));
        }
        command
            .arg(path_to(&namespace.network))
            .arg("eth0")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut helper = Helper(command.spawn().map_err(|source| self.failed(source))?);
        let not_ready = |message: String| NetworkError::NotReady {
            program: self.program.clone(),
            message,
        };
        let Some(mut told) = helper.0.stderr.take() else {
            return Err(not_ready("there is no pipe".to_owned()));
        };
        let mut text = Vec::new();
        // The last thing it says is that it is ready; then it closes the pipe.
        while !text.ends_with(READY) {
            let waited = poll(&mut [PollFd::new(&told, PollFlags::IN)], Some(&PATIENCE));
            if matches!(waited, Ok(0)) {
                return Err(not_ready("it takes too long".to_owned()));
            }
            let mut piece = [0; 512];
            match told.read(&mut piece) {
                Ok(length @ 1..) if text.len() < MAX_MESSAGE => {
                    text.extend_from_slice(&piece[..length]);
                }
                _ => {
                    let text = String::from_utf8_lossy(&text);
                    return Err(not_ready(text.trim().replace('\n', "; ")));
                }
            }
        }
        Ok(Box::new(helper))
    }
}
