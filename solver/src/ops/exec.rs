//! Exec ops: a process in a root file system put together from mounts.
//!
//! Owns [`ExecOperation`]: the mounts are made ready, the process runs in an
//! [`crate::executor::Executor`], and what it changed becomes layers.
//!
//! Invariants:
//! - Overlays are described here and mounted by the executor, in the process's own mount namespace.
//! - What was written is committed whether the process succeeded or not: a failure carries it.
//!
//! Leaves to others: running the process (`executor`), reading what it changed (`tree::capture`).

mod agent;
mod cache_mount;
mod error;
mod lent;
mod meta;
mod mounts;

use std::sync::Arc;

use ashlar_llb::pb;
use async_trait::async_trait;

pub use error::ExecError;

use lent::Lent;
use mounts::{Active, Mounts, Output};

use super::keys::{self, OpKey};
use super::{Engine, checksum_input, unblock};
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::executor::{ExecutorError, Process, Resources, Streams, find_user};
use crate::id::ContentDigest;
use crate::operation::{CacheMap, Context, Operation};
use crate::refs::Ref;
use crate::snapshot::LayerDescription;
use crate::tree::Timestamp;
use crate::tree::capture::{CaptureError, CaptureOptions, capture};

/// An exec op, ready to run.
#[derive(Debug)]
pub struct ExecOperation {
    op: Arc<pb::ExecOp>,
    meta: pb::Meta,
    key: OpKey,
    name: Arc<str>,
    engine: Arc<Engine>,
    resources: Resources,
}

/// What the blocking part of a run needs.
#[derive(Debug)]
struct Run {
    op: Arc<pb::ExecOp>,
    engine: Arc<Engine>,
    inputs: Vec<Ref>,
    lent: Arc<Lent>,
    cancel: Cancel,
}

impl ExecOperation {
    /// Checks the op of a vertex that has `inputs` inputs and is shown as `name`.
    ///
    /// # Errors
    /// [`ExecError`] if the op is not valid or not allowed; [`keys::KeyError`].
    pub fn new(
        op: &pb::ExecOp,
        platform: &pb::Platform,
        inputs: usize,
        name: &str,
        engine: &Arc<Engine>,
    ) -> Result<Self, OperationError> {
        let invalid = |reason: &str| ExecError::Invalid {
            reason: reason.to_owned(),
        };
        let meta = op
            .meta
            .clone()
            .ok_or_else(|| invalid("there is no process"))?;
        if meta.args.is_empty() {
            return Err(invalid("there are no arguments").into());
        }
        if !op.mounts.iter().any(|mount| mount.dest == pb::ROOT_MOUNT) {
            return Err(invalid("there is no root mount").into());
        }
        if platform.os != "linux" {
            let what = format!("running a process of {}", platform.os);
            return Err(ExecError::NotSupported { what }.into());
        }
        meta::network(op, engine)?;
        meta::insecure(op, engine)?;
        meta::refuse_devices(op)?;
        let key = keys::exec(op, platform, inputs)?;
        Ok(Self {
            op: Arc::new(op.clone()),
            meta,
            key,
            name: name.into(),
            engine: engine.clone(),
            resources: Resources::default(),
        })
    }

    /// Limits the process and all it starts. They are not a part of its key, as in BuildKit.
    #[must_use]
    pub fn limited(mut self, resources: Option<&pb::LinuxResources>) -> Self {
        self.resources = resources.map(Resources::from).unwrap_or_default();
        self
    }

    fn process(&self, mounts: &Mounts, lent: &Lent) -> Result<Process, ExecError> {
        let user =
            find_user(&mounts.root_view, &self.meta.user).map_err(|source| ExecError::User {
                user: self.meta.user.clone(),
                source,
            })?;
        Ok(Process {
            root: mounts.root.clone(),
            mounts: mounts.mounts.clone(),
            args: self.meta.args.clone(),
            env: meta::environment(&self.op, &self.meta),
            secret_env: lent.variables(&self.op)?,
            cwd: meta::absolute(&self.meta.cwd, "")?,
            user,
            hostname: meta::hostname(&self.meta),
            extra_hosts: meta::extra_hosts(&self.meta)?,
            network: meta::network(&self.op, &self.engine)?,
            insecure: meta::insecure(&self.op, &self.engine)?,
            limits: meta::limits(&self.meta),
            cgroup_parent: self.meta.cgroup_parent.clone(),
            resources: self.resources.clone(),
        })
    }
}

#[async_trait]
impl Operation<Ref> for ExecOperation {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        Ok(self.key.cache_map())
    }

    async fn content_digest(
        &self,
        input: usize,
        value: &Ref,
        context: &Context,
    ) -> Result<ContentDigest, OperationError> {
        checksum_input(&self.key, input, value, context).await
    }

    fn is_personal(&self) -> bool {
        lent::borrows(&self.op)
    }

    async fn run(&self, inputs: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let lent = tokio::select! {
            () = context.cancel.cancelled() => return Err(OperationError::Cancelled),
            lent = lent::fetch(&self.op, &self.engine.session) => Arc::new(lent?),
        };
        let (op, engine) = (self.op.clone(), self.engine.clone());
        let cwd = self.meta.cwd.clone();
        let borrowed = lent.clone();
        let mut mounts = unblock(&context.cancel, move |cancel| {
            mounts::prepare(
                &Run {
                    op,
                    engine,
                    inputs,
                    lent: borrowed,
                    cancel,
                },
                &cwd,
            )
        })
        .await?;
        let process = self.process(&mounts, &lent)?;
        drop(lent);
        let sockets = std::mem::take(&mut mounts.sockets);
        let forwarding = agent::forward(sockets)?;
        let command = self.meta.args.join(" ");
        let reporter = &context.reporter;
        reporter.process_started();
        let streams = Streams::new(Arc::new(reporter.clone()));
        let executor = &self.engine.executor;
        let exit = executor.run(process, streams, &context.cancel).await;
        drop(forwarding);
        let exit = match exit {
            Ok(exit) => exit,
            Err(ExecutorError::Cancelled(_)) => return Err(OperationError::Cancelled),
            Err(source) => return Err(ExecError::Run { command, source }.into()),
        };
        let status = exit.status;
        reporter.process_ended(status.code(), exit.usage);
        let (engine, name) = (self.engine.clone(), self.name.clone());
        let outputs = unblock(&context.cancel, move |cancel| {
            commit(mounts, &engine, &name, &cancel)
        })
        .await?;
        let valid = &self.meta.valid_exit_codes;
        let success = if valid.is_empty() {
            status.code() == 0
        } else {
            valid.contains(&status.code())
        };
        if success {
            Ok(outputs)
        } else {
            Err(ExecError::Exit {
                command,
                status,
                outputs,
            }
            .into())
        }
    }
}

/// Makes layers of what the process wrote. Blocks.
fn commit(
    mounts: Mounts,
    engine: &Engine,
    name: &str,
    cancel: &Cancel,
) -> Result<Vec<Ref>, OperationError> {
    let created = Timestamp::from(engine.clock.now());
    let mut actives: Vec<Option<Active>> = mounts.actives.into_iter().map(Some).collect();
    let mut outputs = Vec::new();
    for output in mounts.outputs {
        outputs.push(match output {
            Output::Input(input) => input,
            Output::Active(at) => {
                let active = actives.get_mut(at).and_then(Option::take);
                let Active { layer, base, view } =
                    active.expect("BUG: an active layer is one output");
                let options = CaptureOptions {
                    single_id: !engine.is_privileged(),
                    cancel: cancel.clone(),
                    ..CaptureOptions::default()
                };
                let index = capture(layer.fs_handle()?, &view, &options).map_err(captured)?;
                let description = LayerDescription {
                    text: name.to_owned(),
                    created,
                };
                Ref::from(base.push(layer.commit(index, &description)?))
            }
        });
    }
    Ok(outputs)
}

fn captured(error: CaptureError) -> OperationError {
    match error {
        CaptureError::Cancelled(_) => OperationError::Cancelled,
        error => error.into(),
    }
}
