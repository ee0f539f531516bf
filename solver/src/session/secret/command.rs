//! Secrets that a command prints.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::read::{Read, read, unblock};
use super::{SecretError, SecretProvider, SecretValue};
use crate::cancel::Cancel;

/// Bytes of standard error that an error shows at most.
const MESSAGE: u64 = 1 << 10;

/// A secret that a command prints on standard output, run on the host, as the user of this
/// process, each time a step asks for it. What it prints is the value as it is, a newline at the
/// end included.
///
/// Standard input is empty. A command that fails is an error, which shows the beginning of what it
/// wrote to standard error; of a command that succeeds, standard error is not kept.
#[derive(Debug, Clone)]
pub struct CommandSecret {
    id: String,
    program: OsString,
    arguments: Vec<OsString>,
}

impl CommandSecret {
    /// The secret `id` that `program`, looked up in `PATH`, prints.
    pub fn new<A: Into<OsString>>(
        id: impl Into<String>,
        program: impl Into<OsString>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            id: id.into(),
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
        }
    }
}

/// A command that runs. Dropping it kills it, with what it started, and reaps it.
struct Running {
    child: Child,
    group: Pid,
    /// Whether the number of the group still is that of the command, and nobody else's.
    alive: Arc<Mutex<bool>>,
}

fn kill(group: Pid, alive: &Mutex<bool>) {
    if *alive.lock().unwrap_or_else(PoisonError::into_inner) {
        // The only error there can be is that everything has ended.
        let _ended = kill_process_group(group, Signal::KILL);
    }
}

impl Running {
    fn wait(&mut self) -> io::Result<ExitStatus> {
        // The number stays taken until the command is reaped below.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _lost = waitid(WaitId::Pid(self.group), ended);
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if *self.alive.lock().unwrap_or_else(PoisonError::into_inner) {
            kill(self.group, &self.alive);
            let _status = self.wait();
        }
    }
}

/// What became of it.
enum Outcome {
    Read(Read),
    Failed { status: String, message: String },
}

/// A place in memory for the beginning of standard error; what is more is refused to the writer.
fn message_file() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("message", flags)?;
    ftruncate(&file, MESSAGE)?;
    fcntl_add_seals(&file, SealFlags::GROW)?;
    Ok(file.into())
}

fn run(command: &mut Command, cancel: &Cancel) -> io::Result<Outcome> {
    let mut message = message_file()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(message.try_clone()?)
        .process_group(0)
        .spawn()?;
    let stdout = child.stdout.take();
    let group = Pid::from_child(&child);
    let alive = Arc::new(Mutex::new(true));
    let mut running = Running {
        child,
        group,
        alive: alive.clone(),
    };
    let _kill = cancel.on_cancel(move || kill(group, &alive));
    let value = match stdout {
        Some(stdout) => read(stdout, cancel)?,
        None => Read::Cancelled,
    };
    if !matches!(value, Read::All(_)) {
        return Ok(Outcome::Read(value));
    }
    let status = running.wait()?;
    if status.success() {
        return Ok(Outcome::Read(value));
    }
    let mut text = Vec::new();
    message.rewind()?;
    message.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    Ok(Outcome::Failed {
        status: status.to_string(),
        message: text.trim_end_matches('\0').trim().to_owned(),
    })
}

#[async_trait]
impl SecretProvider for CommandSecret {
    async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError> {
        if id != self.id {
            return Ok(None);
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the caller asks for this command by making the value"
        )]
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let done = unblock(move |cancel| run(&mut command, &cancel)).await;
        let id = self.id.clone();
        let program = self.program.to_string_lossy().into_owned();
        match done {
            Some(Ok(Outcome::Read(Read::All(value)))) => Ok(Some(value)),
            Some(Ok(Outcome::Read(Read::TooBig))) => Err(SecretError::TooBig { id }),
            Some(Ok(Outcome::Read(Read::Cancelled))) | None => Err(SecretError::Interrupted { id }),
            Some(Ok(Outcome::Failed { status, message })) => Err(SecretError::CommandFailed {
                id,
                program,
                status,
                message,
            }),
            Some(Err(source)) => Err(SecretError::Command {
                id,
                program,
                source,
            }),
        }
    }
}
