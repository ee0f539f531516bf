//! What can go wrong between a [`Spec`](crate::Spec) and a running process.
//!
//! Each error names the step and the object. [`SandboxError::SelectorNotFound`],
//! [`SandboxError::ProgramNotFound`] and their like are about the input; the rest is about the
//! environment.

use crate::Stub;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A field of the specification holds a value that cannot be used.
    #[error("{field} of the process specification: {reason}")]
    InvalidSpec {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The spawner could not be set up.
    #[error("cannot prepare the spawner: {what}")]
    Spawner {
        /// What failed.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The thread of the spawner has ended.
    #[error("the spawner has ended")]
    SpawnerGone,
    /// The kernel refused the process or one of its namespaces.
    #[error("cannot create the process with its namespaces")]
    Clone {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step of the set-up inside the new process failed.
    #[error("{step} {object:?}")]
    Setup {
        /// What was being done.
        step: Step,
        /// What it was done to; empty if the step says it all.
        object: OsString,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process was killed before the program started.
    #[error("the process died during set-up: {step}")]
    Died {
        /// What was being done.
        step: Step,
    },
    /// A selector names nothing inside its mount source.
    #[error("{selector:?} is not in the source of the mount at {target:?}")]
    SelectorNotFound {
        /// The mount point; `/` for the root.
        target: PathBuf,
        /// The missing path.
        selector: PathBuf,
    },
    /// The mount point of a kernel file system is a symbolic link or no directory in the root.
    #[error("{target:?} in the root is not an ordinary directory")]
    TargetRefused {
        /// The mount point.
        target: PathBuf,
    },
    /// The working directory leads out of the root, for example through `/proc/self/fd`.
    #[error("{cwd:?} is not inside the root and cannot be the working directory")]
    CwdRefused {
        /// The working directory asked for.
        cwd: PathBuf,
    },
    /// The program does not exist inside the root.
    #[error("{name:?} is not found inside the root")]
    ProgramNotFound {
        /// The program as given.
        name: OsString,
    },
    /// The program exists, but the user may not execute it.
    #[error("{name:?} may not be executed")]
    ProgramPermission {
        /// The program as given.
        name: OsString,
    },
    /// The program is neither a binary of this machine nor a script with an interpreter line.
    #[error("{name:?} has an unknown executable format")]
    ProgramFormat {
        /// The program as given.
        name: OsString,
    },
    /// The program exists, but its interpreter or dynamic loader does not.
    #[error("the interpreter of {name:?} is not found inside the root")]
    InterpreterNotFound {
        /// The program as given.
        name: OsString,
    },
    /// The lower directories of an overlay do not fit into the kernel's mount options.
    #[error("{count} layers are too many for one overlay mount on this kernel")]
    TooManyLayers {
        /// Number of lower directories.
        count: usize,
    },
    /// A mount stub could not be removed.
    #[error("cannot remove the mount stub {path:?}")]
    RemoveStub {
        /// Path relative to the root.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A failed start, with the stubs that were created before it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the process")]
#[non_exhaustive]
pub struct SpawnError {
    /// What failed.
    #[source]
    pub error: SandboxError,
    /// Mount points created in the root until then; see [`remove_stubs`](crate::remove_stubs).
    pub stubs: Vec<Stub>,
}

impl From<SandboxError> for SpawnError {
    fn from(error: SandboxError) -> Self {
        Self {
            error,
            stubs: Vec::new(),
        }
    }
}

impl From<SpawnError> for SandboxError {
    fn from(error: SpawnError) -> Self {
        error.error
    }
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A step of the set-up inside the new process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        #[non_exhaustive]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// Standard streams, death signal, session, descriptors.
    Start = "prepare the process",
    /// The user and group maps of the user namespace.
    IdMap = "write the id map",
    /// Joining the control groups.
    ControlGroup = "join the control group",
    /// Connecting the network namespace.
    Wire = "connect the network",
    /// Cutting mount propagation to the host.
    Propagation = "make mounts private",
    /// The private memory file system for device nodes and files.
    Scratch = "make the scratch file system",
    /// A mount source.
    Source = "prepare the mount source",
    /// A layer of an overlay.
    Layer = "add the overlay layer",
    /// The selector of a mount source.
    Selector = "resolve the selector",
    /// Mounting the root and changing to it.
    PivotRoot = "change the root",
    /// Creating or finding a mount point.
    Target = "prepare the mount point",
    /// Attaching a mount.
    Attach = "mount",
    /// Filling `/dev`.
    Devices = "make the devices",
    /// Hiding a path.
    Mask = "mask the path",
    /// Making a path read-only.
    ReadOnly = "make read-only",
    /// The loopback interface.
    Loopback = "bring up the loopback interface",
    /// The controlling terminal.
    Terminal = "make the terminal",
    /// The host name.
    Hostname = "set the host name",
    /// Resource limits.
    Rlimit = "set the resource limit",
    /// The working directory.
    Cwd = "enter the working directory",
    /// The system call filter.
    Seccomp = "install the system call filter",
    /// User, groups and capabilities.
    Credentials = "take on the user and capabilities",
    /// Starting the program.
    Exec = "execute",
}

impl Step {
    pub(crate) fn from_code(code: u32) -> Self {
        usize::try_from(code)
            .ok()
            .and_then(|i| Self::ALL.get(i))
            .copied()
            .unwrap_or(Self::Start)
    }

    pub(crate) const fn code(self) -> u32 {
        self as u32
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}
