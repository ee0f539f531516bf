//! Exec ops: a process in a root file system put together from mounts.
//!
//! Owns [`ExecOperation`]: the mounts are made ready, the process runs in an
//! [`crate::executor::Executor`], and what it changed becomes layers.
//!
//! Invariants:
//! - Overlays are described here and mounted by the executor, in the process's own mount namespace.
//! - What was written is committed whether the process succeeded or not: a failure carries it, as a
//!   [`FailedStep`], and it is gone when nobody holds that any more.
//!
//! Leaves to others: running the process (`executor`), reading what it changed (`tree::capture`).

mod agent;
mod cache_mount;
mod devices;
mod error;
pub(crate) mod failed;
mod lent;
mod meta;
mod mounts;
pub(crate) mod rerun;

use std::sync::Arc;

use ashlar_llb::{Platform, pb};
use ashlar_sandbox::SandboxError;
use async_trait::async_trait;

pub use cache_mount::CacheMounts;
pub use error::ExecError;

use failed::FailedStep;
use lent::Lent;
use mounts::{Active, Mounts, Output};

use super::keys::{self, OpKey};
use super::{Engine, checksum_input, describe_input, unblock};
use crate::cache::ContentListing;
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::executor::{ExecutorError, Exit, Process, Resources, Streams, find_user, home};
use crate::id::ContentDigest;
use crate::operation::{CacheMap, ContentDescription, Context, Operation};
use crate::progress::Reporter;
use crate::refs::Ref;
use crate::snapshot::{LayerDescription, mount_points};
use crate::tree::Timestamp;
use crate::tree::capture::{CaptureError, CaptureOptions, capture};

/// An exec op, ready to run.
#[derive(Debug, Clone)]
pub struct ExecOperation {
    op: Arc<pb::ExecOp>,
    platform: Arc<pb::Platform>,
    key: OpKey,
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
    /// Checks the op of a vertex that has `inputs` inputs.
    ///
    /// # Errors
    /// [`ExecError`] if the op is not valid or not allowed; [`keys::KeyError`].
    pub fn new(
        op: &pb::ExecOp,
        platform: &pb::Platform,
        inputs: usize,
        engine: &Arc<Engine>,
    ) -> Result<Self, OperationError> {
        let invalid = |reason: &str| ExecError::Invalid {
            reason: reason.to_owned(),
        };
        let meta = op
            .meta
            .as_ref()
            .ok_or_else(|| invalid("there is no process"))?;
        if meta.args.is_empty() {
            return Err(invalid("there are no arguments").into());
        }
        let words = meta::words(meta);
        if words > meta::MOST_WORDS {
            let most = meta::MOST_WORDS;
            let reason = format!(
                "arguments and environment take {words} bytes, more than the {most} of any process"
            );
            return Err(ExecError::Invalid { reason }.into());
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
        let mut op = op.clone();
        devices::admit(&mut op, engine)?;
        let key = keys::exec(&op, platform, inputs)?;
        Ok(Self {
            op: Arc::new(op),
            platform: Arc::new(platform.clone()),
            key,
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

    /// What is run.
    fn meta(&self) -> &pb::Meta {
        let meta = self.op.meta.as_ref();
        meta.expect("BUG: an operation was made of an op with a process")
    }

    fn process(&self, mounts: &Mounts, lent: &Lent) -> Result<Process, ExecError> {
        let user =
            find_user(&mounts.root_view, &self.meta().user).map_err(|source| ExecError::User {
                user: self.meta().user.clone(),
                source,
            })?;
        Ok(Process {
            root: mounts.root.clone(),
            mounts: mounts.mounts.clone(),
            args: self.meta().args.clone(),
            env: meta::environment(&self.op, self.meta(), || home(&mounts.root_view, user.uid)),
            secret_env: lent.variables(&self.op)?,
            cwd: meta::absolute(&self.meta().cwd, "")?,
            user,
            hostname: meta::hostname(self.meta()),
            extra_hosts: meta::extra_hosts(self.meta())?,
            network: meta::network(&self.op, &self.engine)?,
            insecure: meta::insecure(&self.op, &self.engine)?,
            limits: meta::limits(self.meta()),
            cgroup_parent: self.meta().cgroup_parent.clone(),
            resources: self.resources.clone(),
            hooks: Vec::new(),
        })
    }

    /// Whether it is made for another machine.
    fn is_foreign(&self) -> bool {
        let platform = Platform::from(&*self.platform).normalised();
        platform.architecture != Platform::of_target().architecture
    }

    /// Runs the process, and returns how it ended and what its mounts are then. Its start is told
    /// to `reporter`.
    async fn execute(
        &self,
        inputs: Vec<Ref>,
        streams: Streams,
        reporter: Option<&Reporter>,
        cancel: &Cancel,
    ) -> Result<(Result<Exit, ExecutorError>, Mounts), OperationError> {
        let lent = tokio::select! {
            () = cancel.cancelled() => return Err(OperationError::Cancelled),
            lent = lent::fetch(&self.op, &self.engine.session) => Arc::new(lent?),
        };
        let (op, engine) = (self.op.clone(), self.engine.clone());
        let cwd = self.meta().cwd.clone();
        let borrowed = lent.clone();
        let (edits, mut mounts) = unblock(cancel, move |cancel| {
            let edits = devices::look_up(&op, &engine)?;
            let run = Run {
                op,
                engine,
                inputs,
                lent: borrowed,
                cancel,
            };
            Ok((edits, mounts::prepare(&run, &cwd)?))
        })
        .await?;
        let mut process = self.process(&mounts, &lent)?;
        mounts.user = (process.user.uid, process.user.gid);
        edits.apply(&mut process);
        drop(lent);
        let sockets = std::mem::take(&mut mounts.sockets);
        let forwarding = agent::forward(sockets)?;
        if let Some(reporter) = reporter {
            reporter.process_started();
        }
        let exit = self.engine.executor.run(process, streams, cancel).await;
        drop(forwarding);
        match exit {
            Err(ExecutorError::Cancelled(_)) => {
                mounts.discard().await;
                Err(OperationError::Cancelled)
            }
            exit => Ok((exit, mounts)),
        }
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

    async fn describe_content(
        &self,
        input: usize,
        value: &Ref,
        old: Option<&ContentListing>,
        context: &Context,
    ) -> Result<Option<ContentDescription>, OperationError> {
        describe_input(&self.key, input, value, old, context).await
    }

    fn is_personal(&self) -> bool {
        lent::borrows(&self.op)
    }

    async fn run(&self, inputs: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let reporter = &context.reporter;
        let streams = Streams::new(Arc::new(reporter.clone()));
        let (exit, mounts) = self
            .execute(inputs.clone(), streams, Some(reporter), &context.cancel)
            .await?;
        if let Ok(exit) = &exit {
            reporter.process_ended(exit.status.code(), exit.usage);
        }
        let valid = &self.meta().valid_exit_codes;
        let success = exit.as_ref().is_ok_and(|exit| match exit.status.code() {
            code if valid.is_empty() => code == 0,
            code => valid.contains(&code),
        });
        let (engine, op) = (self.engine.clone(), self.op.clone());
        let keep = if success { Keep::Outputs } else { Keep::All };
        let committed = unblock(&context.cancel, move |cancel| {
            commit(mounts, &engine, &op, keep, &cancel)
        })
        .await;
        if success {
            return committed.map(|committed| committed.outputs);
        }
        let step = match committed {
            Ok(committed) => Some(FailedStep::new(self, inputs, committed, exit.as_ref().ok())),
            Err(OperationError::Cancelled) => return Err(OperationError::Cancelled),
            Err(OperationError::Failed(failure)) => {
                let reason = failure.chain();
                reporter.warn(format!("what the failed step wrote is not kept: {reason}"));
                None
            }
        };
        let command = self.meta().args.join(" ");
        Err(match exit {
            Ok(exit) => ExecError::Exit {
                command,
                status: exit.status,
                out_of_memory: exit.out_of_memory,
                step,
            },
            Err(ExecutorError::Start {
                source: SandboxError::ProgramFormat { .. },
            }) if self.is_foreign() => ExecError::ForeignProgram {
                command,
                platform: Platform::from(&*self.platform).to_string(),
                step,
            },
            Err(source) => ExecError::Run {
                command,
                source,
                step,
            },
        }
        .into())
    }
}

/// What becomes a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// What was written to outputs, for ever.
    Outputs,
    /// All that was written, as long as somebody holds it.
    All,
}

/// What a process wrote.
#[derive(Debug)]
struct Committed {
    /// The outputs of the op, in order.
    outputs: Vec<Ref>,
    /// What mounts have become, by their number.
    states: Vec<(usize, Ref)>,
}

/// What the history of an image says of a layer, in the words of BuildKit.
fn described(op: &pb::ExecOp, mount: usize) -> String {
    let destination = op.mounts.get(mount).map_or("", |mount| &mount.dest);
    let args = op.meta.iter().flat_map(|meta| &meta.args);
    let command: Vec<&str> = args.map(String::as_str).collect();
    format!("mount {destination} from exec {}", command.join(" "))
}

/// Makes layers of what the process wrote. Blocks.
fn commit(
    mounts: Mounts,
    engine: &Engine,
    op: &pb::ExecOp,
    keep: Keep,
    cancel: &Cancel,
) -> Result<Committed, OperationError> {
    let created = Timestamp::from(engine.clock.now());
    let is_output = |at: usize| {
        let mut outputs = mounts.outputs.iter();
        outputs.any(|output| matches!(output, Output::Active(active) if *active == at))
    };
    let mut written: Vec<Option<(usize, Ref)>> = Vec::new();
    for (at, active) in mounts.actives.into_iter().enumerate() {
        if keep == Keep::Outputs && !is_output(at) {
            written.push(None);
            continue;
        }
        let Active {
            mount,
            layer,
            base,
            view,
        } = active;
        let is_root = op
            .mounts
            .get(mount)
            .is_some_and(|it| it.dest == pb::ROOT_MOUNT);
        let options = CaptureOptions {
            stubs: if is_root { mount_points() } else { Vec::new() },
            single_id: (!engine.is_privileged()).then_some(mounts.user),
            cancel: cancel.clone(),
            ..CaptureOptions::default()
        };
        let index = capture(layer.fs_handle()?, &view, &options).map_err(captured)?;
        let layer = layer.on(&base);
        let description = LayerDescription {
            text: described(op, mount),
            created,
        };
        let layer = match keep {
            Keep::Outputs => layer.commit(index, &description)?,
            Keep::All => layer.commit_while_held(index, &description)?,
        };
        written.push(Some((mount, Ref::from(base.push(layer)))));
    }
    let outputs = mounts.outputs.into_iter().map(|output| match output {
        Output::Input(input) => input,
        Output::Active(at) => {
            let written = written.get(at).cloned().flatten();
            written.expect("BUG: an output was written").1
        }
    });
    Ok(Committed {
        outputs: outputs.collect(),
        states: written.into_iter().flatten().collect(),
    })
}

fn captured(error: CaptureError) -> OperationError {
    match error {
        CaptureError::Cancelled(_) => OperationError::Cancelled,
        error => error.into(),
    }
}
