//! What a failed step leaves behind.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use ashlar_llb::{Platform, pb};

use super::rerun::Rerun;
use super::{Committed, ExecOperation};
use crate::error::{Blame, Fault, OperationError};
use crate::executor::{Exit, ExitStatus};
use crate::refs::Ref;
use crate::result::{BuildResult, Store};
use crate::tree::{Kind, view::ResolveError};

/// A step that failed: what it started from, and what its mounts were when it ended. Cheap to
/// clone.
///
/// [`SolveError::failed_step`](crate::solver::SolveError::failed_step) gives it. Files can be read
/// ([`FailedStep::open`]), the root or a mount be exported ([`FailedStep::root`]), and processes be
/// run in the place of the failed one ([`FailedStep::rerun`]).
///
/// Nothing of it is in the cache. It stays on disk as long as the handle, a clone, the error that
/// it came from or a [`Ref`] of it lives, and is removed with the last of them. It also holds on to
/// what the solve was lent.
#[derive(Clone)]
pub struct FailedStep(Arc<Inner>);

struct Inner {
    operation: ExecOperation,
    inputs: Vec<Ref>,
    outputs: Vec<Ref>,
    /// By the number of the mount; `None`: as its input.
    states: Vec<Option<Ref>>,
    exit: Option<Exit>,
}

/// A file of a failed step cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such file.
    #[error("cannot find {path}")]
    NotFound {
        /// The path asked for.
        path: String,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// It is no regular file.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path asked for.
        path: String,
    },
    /// The system does not open it.
    #[error("cannot open {path}")]
    Io {
        /// The path asked for.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Blame for OpenError {
    fn fault(&self) -> Fault {
        match self {
            Self::NotFound { .. } | Self::NotAFile { .. } => Fault::Input,
            Self::Io { .. } => Fault::Environment,
        }
    }
}

impl FailedStep {
    pub(super) fn new(
        operation: &ExecOperation,
        inputs: Vec<Ref>,
        committed: Committed,
        exit: Option<&Exit>,
    ) -> Self {
        let mut states = vec![None; operation.op.mounts.len()];
        for (at, state) in committed.states {
            states[at] = Some(state);
        }
        Self(Arc::new(Inner {
            operation: operation.clone(),
            inputs,
            outputs: committed.outputs,
            states,
            exit: exit.copied(),
        }))
    }

    /// Program and arguments of the failed process.
    pub fn args(&self) -> &[String] {
        &self.0.operation.meta().args
    }

    /// How it ended; `None` if it could not be started.
    pub fn status(&self) -> Option<ExitStatus> {
        self.0.exit.map(|exit| exit.status)
    }

    /// What it used, if it ran.
    pub fn exit(&self) -> Option<Exit> {
        self.0.exit
    }

    /// What the op started from, in the order of its inputs.
    pub fn inputs(&self) -> &[Ref] {
        &self.0.inputs
    }

    /// What the outputs of the op had become, in their order.
    pub fn outputs(&self) -> &[Ref] {
        &self.0.outputs
    }

    /// Where the layers of bind mounts are mounted, the root at `/` among them, and what they had
    /// become.
    pub fn mounts(&self) -> impl Iterator<Item = (&str, &Ref)> {
        let inner = &*self.0;
        let mounts = inner.operation.op.mounts.iter().zip(&inner.states);
        mounts.filter_map(|(mount, state)| {
            let input = usize::try_from(mount.input);
            let input = || inner.inputs.get(input.ok()?);
            let is_bind = mount.mount_type == pb::MountType::Bind as i32;
            let state = state.as_ref().or_else(input).filter(|_| is_bind)?;
            Some((mount.dest.as_str(), state))
        })
    }

    /// The root as the process left it, ready to be exported.
    pub fn root(&self) -> BuildResult {
        let root = self.mounts().find(|(target, _)| *target == pb::ROOT_MOUNT);
        let (_, root) = root.expect("BUG: an op without a root mount does not run");
        self.result(root)
    }

    /// One of its trees, ready to be exported.
    pub fn result(&self, tree: &Ref) -> BuildResult {
        let engine = &self.0.operation.engine;
        let store = Store::new(
            engine.layers.clone(),
            engine.blobs.clone(),
            engine.meta.clone(),
            engine.clock.clone(),
        )
        .with_limits(engine.limits.clone());
        let platform = Platform::from(&*self.0.operation.platform).normalised();
        BuildResult::new(tree.clone(), platform, store)
    }

    /// Opens a regular file of the root as the process left it, to be read; links are followed
    /// inside the root. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, path: &str) -> Result<File, OperationError> {
        let view = self.root().reference().view()?;
        let path = || path.to_owned();
        let (found, node) = match view.resolve(path().as_bytes(), true) {
            Ok(found) => found,
            Err(source) => {
                return Err(OpenError::NotFound {
                    path: path(),
                    source,
                }
                .into());
            }
        };
        let files = node.files().filter(|_| node.entry().kind == Kind::File);
        let files = files.ok_or_else(|| OpenError::NotAFile { path: path() })?;
        files.open(&found).map_err(|source| {
            OpenError::Io {
                path: path(),
                source,
            }
            .into()
        })
    }

    /// Describes a process to be run where the failed one ran: with the same mounts as it left
    /// them, environment, working directory, user, network, limits, and lent secrets and agents.
    /// Each starts from what the failed one left; what it changes is gone when it ends, except in
    /// cache mounts.
    pub fn rerun<A: Into<String>>(&self, args: impl IntoIterator<Item = A>) -> Rerun {
        let inner = &*self.0;
        let (mut op, mut inputs) = ((*inner.operation.op).clone(), inner.inputs.clone());
        for (mount, state) in op.mounts.iter_mut().zip(&inner.states) {
            mount.output = pb::SKIP_OUTPUT;
            if let (Some(state), Ok(at)) = (state, i64::try_from(inputs.len())) {
                mount.input = at;
                inputs.push(state.clone());
            }
        }
        if let Some(meta) = &mut op.meta {
            meta.args = args.into_iter().map(Into::into).collect();
        }
        let mut operation = inner.operation.clone();
        operation.op = Arc::new(op);
        Rerun::new(operation, inputs)
    }
}

impl fmt::Debug for FailedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailedStep")
            .field("args", &self.args())
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
