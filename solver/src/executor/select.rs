//! Which executor a solver uses.
//!
//! Owns the choice, and its report. There is nothing to fall back on: a container runtime is started
//! in the same sandbox and needs what it needs. Where the machine does not allow that, steps are
//! refused with a reason and a remedy ([`ExecutorError::Unavailable`]), whatever was chosen.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Executor, ExecutorError, RuncExecutor, Runtime, SandboxExecutor};

/// What is to run the processes of exec ops.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum ExecutorChoice {
    /// The built-in sandbox, which needs nothing installed.
    #[default]
    Sandbox,
    /// This container runtime.
    Runtime(Runtime),
    /// The first container runtime in one of these directories; see [`Runtime::search_path`].
    FirstRuntime(Vec<PathBuf>),
    /// An implementation of the caller's.
    Own(Arc<dyn Executor>),
}

impl From<Runtime> for ExecutorChoice {
    fn from(runtime: Runtime) -> Self {
        Self::Runtime(runtime)
    }
}

impl From<Arc<dyn Executor>> for ExecutorChoice {
    fn from(executor: Arc<dyn Executor>) -> Self {
        Self::Own(executor)
    }
}

impl<E: Executor + 'static> From<Arc<E>> for ExecutorChoice {
    fn from(executor: Arc<E>) -> Self {
        Self::Own(executor)
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExecutorKind {
    /// The built-in sandbox.
    Sandbox,
    /// A container runtime.
    Runtime(Runtime),
    /// An implementation of the caller's.
    Own,
}

impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox => f.write_str("the built-in sandbox"),
            Self::Runtime(runtime) => runtime.fmt(f),
            Self::Own => f.write_str("an executor of the caller"),
        }
    }
}

/// Makes the executor that was chosen. `sandbox` makes the one that processes or runtimes run in;
/// it is not called if neither is wanted.
///
/// # Errors
/// [`ExecutorError::NoRuntime`] if the runtime is not there; what `sandbox` says.
pub(crate) fn select(
    choice: ExecutorChoice,
    sandbox: impl FnOnce() -> Result<SandboxExecutor, ExecutorError>,
) -> Result<(Arc<dyn Executor>, ExecutorKind), ExecutorError> {
    let runtime = match choice {
        ExecutorChoice::Own(executor) => return Ok((executor, ExecutorKind::Own)),
        ExecutorChoice::Sandbox => return Ok((Arc::new(sandbox()?), ExecutorKind::Sandbox)),
        ExecutorChoice::Runtime(runtime) => runtime,
        ExecutorChoice::FirstRuntime(directories) => {
            let missing = || ExecutorError::NoRuntimeFound {
                directories: directories.clone(),
            };
            Runtime::find(&directories).ok_or_else(missing)?
        }
    };
    let executor = RuncExecutor::new(sandbox()?, runtime.clone())?;
    Ok((Arc::new(executor), ExecutorKind::Runtime(runtime)))
}
