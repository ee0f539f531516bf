//! Runs processes of exec ops.
//!
//! Owns the [`Executor`] seam, what a process is given ([`Process`]), what it is connected to
//! ([`Streams`]), who it runs as ([`find_user`]) and the network files it sees.
//! [`SandboxExecutor`] needs nothing installed; [`RuncExecutor`] uses runc or crun;
//! [`ScriptedExecutor`] is the double of tests.
//!
//! Invariants:
//! - Nothing is mounted outside the mount namespace of the process.
//! - No process outlives the call that started it: neither when it is cancelled nor when its
//!   future is dropped.
//! - Output waits for a slow receiver; nothing is cut or kept back.
//!
//! Leaves to others: what the mounts are made of and what becomes of them (`ops`).

mod accounts;
mod cgroup;
mod network;
mod network_files;
mod probe;
mod process;
mod relay;
mod runc;
mod sandbox;
mod scripted;
mod select;
mod starting;
mod streams;

use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;

pub use accounts::{AccountError, User, find_user};
pub(crate) use accounts::{Accounts, home};
pub use cgroup::{
    CgroupError, ControlGroups, CpuQuota, Group, Resources, available_parallelism, parallelism,
};
pub use network::{
    Connection, Namespace, NetworkError, NetworkProvider, SlirpNetwork, Tunnel, UserNetwork,
};
pub use network_files::Dns;
pub use probe::{Attempt, Capabilities, ExecTier, Findings, Obstacle, Stops};
pub use process::{
    Hook, HookStage, Mount, MountSource, Network, Node, NodeKind, Process, ResourceLimit, Root,
};
pub use runc::{RuncExecutor, Runtime};
pub use sandbox::SandboxExecutor;
pub use scripted::{Effect, Script, ScriptedExecutor};
pub(crate) use select::select;
pub use select::{ExecutorChoice, ExecutorKind};
pub use streams::{Control, Output, Streams, TerminalSize};

use crate::cancel::{Cancel, Cancelled};
use crate::error::{Blame, Fault};
use crate::progress::Usage;
use ashlar_sandbox::SandboxError;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It returned this code.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
}

impl ExitStatus {
    /// The exit code as a shell tells it: 128 and the signal for a process that was killed.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// How a process ended, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// What it used; `None` if that cannot be told.
    pub usage: Option<Usage>,
    /// Whether the kernel killed processes of it because the memory of its control group ran out.
    pub out_of_memory: bool,
}

impl Exit {
    /// An end of which no more is known.
    pub fn new(status: ExitStatus) -> Self {
        Self {
            status,
            usage: None,
            out_of_memory: false,
        }
    }

    /// Sets whether memory ran out.
    #[must_use]
    pub fn out_of_memory(mut self, is: bool) -> Self {
        self.out_of_memory = is;
        self
    }

    /// Sets what was used.
    #[must_use]
    pub fn usage(mut self, usage: Option<Usage>) -> Self {
        self.usage = usage;
        self
    }
}

/// A process cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The sandbox refused it.
    #[error("cannot start the process")]
    Start {
        /// Why.
        #[source]
        source: SandboxError,
    },
    /// This machine does not let steps run. [`Blame::remedy`] says what can be done.
    #[error("steps cannot be run on this machine: {obstacle}")]
    Unavailable {
        /// Why.
        obstacle: Obstacle,
    },
    /// What the machine can do cannot be found out.
    #[error("cannot try out namespaces and mounts in {}", directory.display())]
    Probe {
        /// Where it was tried.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be connected with the outside.
    #[error("cannot connect the process with the network")]
    Network {
        /// Why.
        #[source]
        source: NetworkError,
    },
    /// This executor has no network of that kind.
    #[error("{executor} cannot give a step a network of its own")]
    NoSandboxNetwork {
        /// The executor.
        executor: &'static str,
    },
    /// Its control group cannot be made.
    #[error("cannot limit the process")]
    ControlGroup {
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// There are no pipes or no terminal for it, or they fail.
    #[error("cannot carry the streams of the process")]
    Streams {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The host program took the exit status away: it reaps children that are not its own.
    #[error("the exit status of the process was lost")]
    StatusLost,
    /// There is no container runtime at this path.
    #[error("{} is not the absolute path of a program", path.display())]
    NoRuntime {
        /// The path.
        path: PathBuf,
    },
    /// There is no container runtime in any of these directories.
    #[error("neither runc nor crun is in {directories:?}")]
    NoRuntimeFound {
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// A container runtime could not start the process.
    #[error("{runtime} cannot start the process: {message}")]
    Runtime {
        /// Which: `runc` or `crun`.
        runtime: &'static str,
        /// What it said.
        message: String,
    },
    /// A container runtime of an ordinary user runs nobody but root.
    #[error("as an ordinary user, {runtime} cannot run a step as user {uid} and group {gid}")]
    RuntimeUser {
        /// Which: `runc` or `crun`.
        runtime: &'static str,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// Nothing here runs programs of the host on the way to a process.
    #[error("the built-in sandbox runs no hooks, and a device of the step has {}", path.display())]
    Hooks {
        /// The program of the first.
        path: PathBuf,
    },
    /// A limit has a name that is not known.
    #[error("unknown resource limit {name:?}")]
    UnknownLimit {
        /// The name.
        name: String,
    },
    /// The blocking part of the work ended early.
    #[error("the start of the process was interrupted")]
    Interrupted,
    /// The double was not told what to do.
    #[error("the scripted executor has no script for {args:?}")]
    Unscripted {
        /// Program and arguments.
        args: Vec<String>,
    },
    /// It was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for ExecutorError {
    fn fault(&self) -> Fault {
        match self {
            Self::Start { source } => match source {
                SandboxError::SelectorNotFound { .. }
                | SandboxError::TargetRefused { .. }
                | SandboxError::CwdRefused { .. }
                | SandboxError::ProgramNotFound { .. }
                | SandboxError::ProgramPermission { .. }
                | SandboxError::ProgramFormat { .. }
                | SandboxError::InterpreterNotFound { .. }
                | SandboxError::InvalidSpec { .. } => Fault::Input,
                _ => Fault::Environment,
            },
            Self::UnknownLimit { .. } => Fault::Input,
            Self::ControlGroup { source } => source.fault(),
            Self::Network { source } => source.fault(),
            Self::NoSandboxNetwork { .. } | Self::RuntimeUser { .. } | Self::Hooks { .. } => {
                Fault::Environment
            }
            Self::Unavailable { .. } | Self::Probe { .. } => Fault::Environment,
            Self::Unscripted { .. } | Self::Interrupted => Fault::Bug,
            Self::NoRuntime { .. } | Self::NoRuntimeFound { .. } | Self::Runtime { .. } => {
                Fault::Environment
            }
            Self::Streams { .. } | Self::StatusLost | Self::Cancelled(_) => Fault::Environment,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Unavailable { obstacle } => Some(obstacle.remedy()),
            Self::ControlGroup { source } => source.remedy(),
            Self::NoRuntime { .. } | Self::NoRuntimeFound { .. } => {
                Some("install runc or crun, or use the built-in sandbox".to_owned())
            }
            Self::Network { source } => source.remedy(),
            Self::RuntimeUser { .. } => {
                Some("run steps in the built-in sandbox, or as root".to_owned())
            }
            Self::Hooks { .. } => Some(
                "run steps with runc or crun (SolverBuilder::executor, ExecutorChoice::FirstRuntime)"
                    .to_owned(),
            ),
            Self::NoSandboxNetwork { .. } => Some(
                "run steps in the built-in sandbox, or give them the network of the host"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Runs one process at a time per call; calls may be concurrent.
///
/// Must be called on a tokio runtime with I/O enabled.
#[async_trait]
pub trait Executor: Send + Sync + Debug {
    /// What steps can have on this machine; `None` if this executor does not know. The first call
    /// may block for some milliseconds.
    fn capabilities(&self) -> Option<&Capabilities> {
        None
    }

    /// What connects steps with [`Network::Sandbox`]; `None` if such steps cannot be run.
    fn network_provider(&self) -> Option<&dyn NetworkProvider> {
        None
    }

    /// Runs `process` to its end, connected to `streams`. All it wrote was taken when this returns.
    /// Mount points that had to be made in a writable root are gone again afterwards.
    ///
    /// # Errors
    /// [`ExecutorError`] if it could not be run. Ending with a code other than 0 is no error.
    ///
    /// # Cancellation
    /// When `cancel` is raised, the process and all it started are killed with SIGKILL, without a
    /// warning, as BuildKit does; they are gone when [`Cancel::cancel`] returns, within a second,
    /// and the call returns [`ExecutorError::Cancelled`]. Dropping the future kills them too.
    async fn run(
        &self,
        process: Process,
        streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError>;
}
