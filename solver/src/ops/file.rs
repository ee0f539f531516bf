//! File ops: directories, files, links, removals and copies, without a mount.
//!
//! Owns [`FileOperation`]. What an action does is planned from views alone (`plan`, `copy`); a
//! [`LayerWriter`] then writes it.
//!
//! Invariants:
//! - Paths of actions are resolved in the view they are about: no link leads out of it.
//! - The bytes of a source are read through [`crate::tree::Files`] and nothing else.
//!
//! Leaves to others: how a layer is written (`tree::writer`), and where it is kept (`snapshot`).

mod archive;
mod copy;
mod error;
mod graph;
mod mode;
mod owner;
mod plan;
mod resolve;
#[cfg(test)]
mod tests;
mod unpack;
pub(crate) mod wildcard;

use std::io::Cursor;
use std::ops::Deref;
use std::sync::Arc;

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::op::Op;
use async_trait::async_trait;

pub use error::{FileError, FileProblem};
pub use mode::ModeError;

use error::Stop;
use graph::{Graph, Use};
use plan::{Settings, Step};

use super::keys::{self, OpKey};
use super::previous::CopyName;
use super::{Engine, checksum_input, describe_input, unblock};
use crate::cache::ContentListing;
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::id::{CacheDigest, ContentDigest};
use crate::operation::{CacheMap, ContentDescription, Context, Operation};
use crate::progress::Reporter;
use crate::refs::Ref;
use crate::snapshot::{ActiveLayer, LayerDescription, Stack};
use crate::tree::writer::{LayerWriter, WriterOptions};
use crate::tree::{Kind, Timestamp, TreePath, View};

/// A file op, ready to run.
#[derive(Debug)]
pub struct FileOperation {
    op: FileOp,
    inputs: usize,
    key: OpKey,
    name: Arc<str>,
    engine: Arc<Engine>,
}

impl FileOperation {
    /// Makes the op of a vertex that has `inputs` inputs and is shown as `name`. Whether its
    /// actions and inputs fit together is found out when it runs.
    ///
    /// # Errors
    /// [`keys::KeyError`].
    pub fn new(
        op: &pb::FileOp,
        inputs: usize,
        name: &str,
        engine: &Arc<Engine>,
    ) -> Result<Self, OperationError> {
        let key = keys::file(op, inputs)?;
        let op = Arc::new(Op::File(op.clone()));
        Ok(Self::of(op, inputs, key, name.into(), engine))
    }

    /// As [`new`](Self::new), for an op that is shared with its graph and has this key.
    ///
    /// # Panics
    /// If it is no file op.
    pub(super) fn of(
        op: Arc<Op>,
        inputs: usize,
        key: OpKey,
        name: Arc<str>,
        engine: &Arc<Engine>,
    ) -> Self {
        Self {
            op: FileOp(op),
            inputs,
            key,
            name,
            engine: engine.clone(),
        }
    }
}

/// A file op that may be shared with its graph.
#[derive(Debug, Clone)]
struct FileOp(Arc<Op>);

impl Deref for FileOp {
    type Target = pb::FileOp;

    fn deref(&self) -> &pb::FileOp {
        match &*self.0 {
            Op::File(op) => op,
            _ => unreachable!("BUG: made of another op"),
        }
    }
}

#[async_trait]
impl Operation<Ref> for FileOperation {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        let mut map = self.key.cache_map();
        for input in &mut map.inputs {
            // A copy hashes what it writes.
            input.deferrable = true;
        }
        Ok(map)
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

    fn is_locked(&self, inputs: &[Ref]) -> bool {
        !is_small(&self.op, inputs)
    }

    async fn run(&self, inputs: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let op = self.op.clone();
        let graph = Graph::check(&op, self.inputs)?;
        let (engine, name) = (self.engine.clone(), self.name.clone());
        let reporter = context.reporter.clone();
        // What is read in place or downloaded may take long to become layers.
        let made = inputs.iter().all(|input| input.made_stack().is_some());
        let small = made && is_small(&op, &inputs);
        let digest = self.key.digest();
        let work = move |cancel: Cancel| {
            let now = Timestamp::from(engine.clock.now());
            let values = inputs
                .into_iter()
                .map(|input| Some(Value::Ref(input)))
                .collect();
            Run {
                op,
                digest,
                graph: Arc::new(graph),
                engine,
                name,
                reporter,
                cancel,
                now,
                values,
            }
            .outputs()
        };
        if small {
            // A few system calls take less time than a change of thread.
            return work(context.cancel.clone());
        }
        unblock(&context.cancel, work).await
    }
}

/// Bytes that may be written without a thread for it.
const SMALL: usize = 64 << 10;

/// Whether the op makes a few small things, or copies small files of trees that are in memory.
fn is_small(op: &pb::FileOp, inputs: &[Ref]) -> bool {
    let mut bytes = 0;
    let simple = |action: &pb::FileAction| {
        let more = match &action.action {
            Some(Action::Mkfile(file)) => Some(file.data.len()),
            Some(Action::Mkdir(_) | Action::Symlink(_)) => Some(0),
            Some(Action::Copy(copy)) => usize::try_from(action.secondary_input)
                .ok()
                .and_then(|from| copied_bytes(copy, inputs.get(from)?)),
            Some(Action::Rm(_)) | None => None,
        };
        bytes += more.unwrap_or(SMALL + 1);
        bytes <= SMALL
    };
    op.actions.len() <= 16 && op.actions.iter().all(simple)
}

/// The size of the one file that is copied; `None` if it may be more, or something else.
fn copied_bytes(copy: &pb::FileActionCopy, from: &Ref) -> Option<usize> {
    let plain = !copy.allow_wildcard
        && !copy.attempt_unpack_docker_compatibility
        && copy.include_patterns.is_empty()
        && copy.exclude_patterns.is_empty();
    let view = from.made_view().filter(|_| plain)?;
    let path = TreePath::clean(copy.src.as_bytes()).ok()?;
    let entry = view.lookup(&path)?.entry();
    let size = (entry.kind == Kind::File).then_some(entry.size)?;
    usize::try_from(size).ok()
}

/// What an input or action is.
#[derive(Debug)]
enum Value {
    /// A tree that may be used often.
    Ref(Ref),
    /// A layer that is still being written: the next action goes on with it.
    Open(Box<Open>),
}

/// A layer that is being written.
#[derive(Debug)]
struct Open {
    base: Stack,
    writer: LayerWriter,
    layer: ActiveLayer,
    /// The copies of lent directories in it.
    copies: Vec<CopyName>,
}

/// One run of the op.
#[derive(Debug)]
struct Run {
    op: FileOp,
    digest: CacheDigest,
    graph: Arc<Graph>,
    engine: Arc<Engine>,
    name: Arc<str>,
    reporter: Reporter,
    cancel: Cancel,
    now: Timestamp,
    /// By input number: the inputs of the op, then the actions.
    values: Vec<Option<Value>>,
}

impl Run {
    fn outputs(mut self) -> Result<Vec<Ref>, OperationError> {
        let graph = self.graph.clone();
        self.values
            .resize_with(graph.inputs + self.op.actions.len(), || None);
        let op = self.op.clone();
        for &index in &graph.order {
            let action = &op.actions[index];
            let value = self
                .action(index, action)
                .map_err(|stop| stop.of_action(index, describe(action)))?;
            self.values[graph.inputs + index] = Some(value);
        }
        let output = |&index: &usize| match &self.values[graph.inputs + index] {
            Some(Value::Ref(output)) => output.clone(),
            _ => unreachable!("BUG: an output was not committed"),
        };
        Ok(graph.outputs.iter().map(output).collect())
    }

    fn action(&mut self, index: usize, action: &pb::FileAction) -> Result<Value, Stop> {
        self.cancel.check()?;
        let mut open = self.open(action.input)?;
        match &action.action {
            Some(Action::Mkdir(mkdir)) => {
                let settings = self.settings(mkdir.owner.as_ref(), mkdir.timestamp)?;
                let steps = plan::mkdir(open.writer.view(), mkdir, &settings)?;
                self.write(&mut open, steps)?;
            }
            Some(Action::Mkfile(mkfile)) => {
                let settings = self.settings(mkfile.owner.as_ref(), mkfile.timestamp)?;
                let steps = plan::mkfile(open.writer.view(), mkfile, &settings)?;
                self.write(&mut open, steps)?;
            }
            Some(Action::Symlink(symlink)) => {
                let settings = self.settings(symlink.owner.as_ref(), symlink.timestamp)?;
                let steps = plan::symlink(open.writer.view(), symlink, &settings)?;
                self.write(&mut open, steps)?;
            }
            Some(Action::Rm(rm)) => {
                let steps = plan::remove(open.writer.view(), rm)?;
                self.write(&mut open, steps)?;
            }
            Some(Action::Copy(copy)) => {
                let source = self.view(action.secondary_input)?;
                self.follow(&mut open, index, &source);
                self.copy(&mut open, copy, &source)?;
            }
            None => return Err(OperationError::from(FileError::UnknownAction { index }).into()),
        }
        if self.graph.uses[self.graph.inputs + index] == Use::Once {
            return Ok(Value::Open(open));
        }
        Ok(Value::Ref(self.commit(*open)?))
    }

    /// The layer that an action goes on with: a new one, or that of the action before.
    fn open(&mut self, input: i64) -> Result<Box<Open>, Stop> {
        let base = match usize::try_from(input)
            .ok()
            .and_then(|at| self.values.get_mut(at))
        {
            None => Stack::scratch(),
            Some(value) => match value.take() {
                Some(Value::Open(open)) => return Ok(open),
                Some(Value::Ref(base)) => {
                    let stack = base.stack(&self.cancel)?;
                    *value = Some(Value::Ref(base));
                    stack
                }
                None => unreachable!("BUG: an action ran before its input"),
            },
        };
        let layer = self
            .engine
            .layers
            .new_layer()
            .map_err(OperationError::from)?;
        let view = base.view().map_err(OperationError::from)?;
        let fs = layer.fs_handle().map_err(OperationError::from)?;
        let options = WriterOptions {
            privileged: self.engine.is_privileged(),
            now: self.now,
        };
        let writer = LayerWriter::new(fs, layer.files(), view, options)?;
        Ok(Box::new(Open {
            base,
            writer,
            layer,
            copies: Vec::new(),
        }))
    }

    /// Has what the action at `index` copies linked from what it made the last time.
    fn follow(&self, open: &mut Open, index: usize, source: &View) {
        let digest = self.digest.as_bytes();
        let copy = CopyName::new(&[digest, &index.to_le_bytes()], source);
        open.writer
            .follow(copy.and_then(|copy| copy.previous(&self.engine)));
        open.copies.extend(copy);
    }

    fn commit(&self, mut open: Open) -> Result<Ref, Stop> {
        open.writer.leave_out_unchanged(&self.cancel)?;
        let view = open.writer.view().clone();
        let (index, origins) = open.writer.finish_with_origins()?;
        open.layer
            .note_origins(&origins)
            .map_err(OperationError::from)?;
        let description = LayerDescription {
            text: self.name.to_string(),
            created: self.now,
        };
        let layer = open
            .layer
            .on(&open.base)
            .commit(index, &description)
            .map_err(OperationError::from)?;
        for copy in open.copies {
            copy.remember(&self.engine, layer.id())
                .map_err(OperationError::from)?;
        }
        let stack = open.base.push(layer);
        stack.provide_view(view);
        Ok(Ref::from(stack))
    }

    /// The tree of an input or action that is only looked at.
    fn view(&self, input: i64) -> Result<View, Stop> {
        match usize::try_from(input)
            .ok()
            .and_then(|at| self.values.get(at))
        {
            None => Ok(View::empty()),
            Some(Some(Value::Ref(value))) => Ok(value.view_until(&self.cancel)?),
            Some(Some(Value::Open(open))) => Ok(open.writer.view().clone()),
            Some(None) => unreachable!("BUG: an action ran before its input"),
        }
    }

    fn settings(&self, owner: Option<&pb::ChownOpt>, time: i64) -> Result<Settings, Stop> {
        let owner = owner
            .map(|owner| owner::find(owner, |input| self.view(input), &self.reporter))
            .transpose()?;
        Ok(Settings {
            owner,
            time: plan::timestamp(time),
            now: self.now,
        })
    }

    fn copy(
        &self,
        open: &mut Open,
        action: &pb::FileActionCopy,
        source: &View,
    ) -> Result<(), Stop> {
        let settings = self.settings(action.owner.as_ref(), action.timestamp)?;
        let copy = copy::Copy::new(action, settings)?;
        let mut pending: Option<copy::CopyPlan> = None;
        for from in copy.sources(source, open.writer.view())? {
            let limits = &self.engine.limits;
            if action.attempt_unpack_docker_compatibility
                && let Some(archive) = unpack::find(source, &from.path, limits, &self.cancel)?
            {
                if let Some(plan) = pending.take() {
                    self.write(open, plan.steps())?;
                }
                let (dest, view) = (action.dest.as_bytes(), open.writer.view());
                let (steps, dest) = archive.destination(view, dest, &settings)?;
                self.write(open, steps)?;
                let writer = &mut open.writer;
                archive.unpack(writer, &dest, settings.owner, limits, &self.cancel)?;
                continue;
            }
            let plan = copy.plan(source, &from, open.writer.view(), &self.cancel)?;
            let Some(mut joined) = pending.take() else {
                pending = Some(plan);
                continue;
            };
            match joined.join(plan) {
                Ok(()) => pending = Some(joined),
                Err(_) => {
                    self.write(open, joined.steps())?;
                    pending = Some(copy.plan(source, &from, open.writer.view(), &self.cancel)?);
                }
            }
        }
        pending.map_or(Ok(()), |plan| self.write(open, plan.steps()))
    }

    fn write(&self, open: &mut Open, steps: Vec<Step>) -> Result<(), Stop> {
        let writer = &mut open.writer;
        for step in steps {
            match step {
                Step::Remove(path) => writer.remove(&path)?,
                Step::MakeDirectory(path, attributes) => {
                    writer.make_directory(&path, attributes)?;
                }
                Step::WriteFile(path, attributes, data) => {
                    writer.write_file(&path, attributes, &mut Cursor::new(data))?;
                }
                Step::MakeSymlink(path, target, attributes) => {
                    writer.make_symlink(&path, &target, attributes)?;
                }
                Step::SetAttributes(path, attributes) => {
                    writer.set_attributes(&path, attributes)?;
                }
                Step::Copy(items) => writer.copy(items, &self.cancel)?,
            }
        }
        Ok(())
    }
}

/// Names near a path that leads nowhere: what the user may have meant.
pub(super) fn nearest_names(view: &View, path: &[u8]) -> Vec<String> {
    TreePath::clean(path)
        .map(|path| resolve::nearest(view, &path))
        .unwrap_or_default()
}

/// What an action does, for errors.
fn describe(action: &pb::FileAction) -> String {
    match &action.action {
        Some(Action::Mkdir(it)) => format!("mkdir {}", it.path),
        Some(Action::Mkfile(it)) => format!("mkfile {}", it.path),
        Some(Action::Symlink(it)) => format!("symlink {} -> {}", it.newpath, it.oldpath),
        Some(Action::Rm(it)) => format!("rm {}", it.path),
        Some(Action::Copy(it)) => format!("copy {} {}", it.src, it.dest),
        None => "unknown".to_owned(),
    }
}
