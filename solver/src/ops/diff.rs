//! Diff ops: what has to be stacked on one tree to get another.

use std::sync::Arc;

use ashlar_llb::pb;
use async_trait::async_trait;

use super::engine::unblock;
use super::keys::{self, OpKey};
use super::merge::checked;
use super::{Engine, NoSuchInput};
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::operation::{CacheMap, Context, Operation};
use crate::refs::Ref;
use crate::snapshot::{LayerDescription, SnapshotError, Stack};
use crate::tree::checksum::ChecksumError;
use crate::tree::diff::{DiffError, diff};
use crate::tree::writer::{CopyItem, LayerWriter, WriteError, WriterOptions};
use crate::tree::{Index, Kind, Timestamp, View};

/// Finds what makes its upper input of its lower one.
#[derive(Debug)]
pub struct DiffOperation {
    key: OpKey,
    lower: Option<usize>,
    upper: Option<usize>,
    name: Arc<str>,
    engine: Arc<Engine>,
}

impl DiffOperation {
    /// Checks the op of a vertex that has `inputs` inputs and is shown as `name`.
    ///
    /// # Errors
    /// [`NoSuchInput`], [`keys::KeyError`].
    pub fn new(
        op: &pb::DiffOp,
        inputs: usize,
        name: &str,
        engine: &Arc<Engine>,
    ) -> Result<Self, OperationError> {
        let key = keys::diff(op)?;
        let side = |input: Option<i64>| -> Result<Option<usize>, NoSuchInput> {
            let input = input.filter(|&input| input != pb::EMPTY);
            Ok(checked(input.into_iter(), inputs)?.first().copied())
        };
        let lower = side(op.lower.as_ref().map(|lower| lower.input))?;
        let upper = side(op.upper.as_ref().map(|upper| upper.input))?;
        Ok(Self {
            key,
            lower,
            upper,
            name: name.into(),
            engine: engine.clone(),
        })
    }
}

#[async_trait]
impl Operation<Ref> for DiffOperation {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        Ok(self.key.cache_map())
    }

    async fn run(&self, inputs: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let side = |at: Option<usize>| {
            at.and_then(|at| inputs.get(at))
                .cloned()
                .unwrap_or_else(Ref::scratch)
        };
        let (lower, upper) = (side(self.lower), side(self.upper));
        let (engine, name) = (self.engine.clone(), self.name.clone());
        unblock(&context.cancel, move |cancel| {
            let lower = lower.stack(&cancel)?;
            let upper = upper.stack(&cancel)?;
            Ok(vec![Ref::from(difference(
                &lower, &upper, &engine, &name, &cancel,
            )?)])
        })
        .await
    }

    fn takes_permit(&self) -> bool {
        false
    }
}

/// If `upper` grew from `lower`, the layers it grew by; otherwise one new layer. Blocks.
///
/// A single layer that a merge put there, and that was made on something else, may state what
/// `lower` has already. As in BuildKit it is compared; several are taken as they are.
fn difference(
    lower: &Stack,
    upper: &Stack,
    engine: &Engine,
    name: &str,
    cancel: &Cancel,
) -> Result<Stack, OperationError> {
    if upper.layer_ids().starts_with(&lower.layer_ids()) && !is_merged(lower, upper)? {
        let more = upper.layers().into_iter().skip(lower.depth());
        return Ok(Stack::scratch().push_all(more));
    }
    let (below, above) = (lower.view()?, upper.view()?);
    let changes = diff(&below, &above, cancel).map_err(|error| match error {
        DiffError::Compare(ChecksumError::Cancelled(_)) => OperationError::Cancelled,
        error => error.into(),
    })?;
    let layer = engine.layers.new_layer()?;
    let now = Timestamp::from(engine.clock.now());
    let options = WriterOptions {
        privileged: engine.is_privileged(),
        now,
    };
    let writer = LayerWriter::new(layer.fs_handle()?, layer.files(), below, options)?;
    let index = write(writer, &changes, &above, cancel).map_err(written)?;
    let description = LayerDescription {
        text: name.to_owned(),
        created: now,
    };
    Ok(Stack::scratch().push(layer.commit(index, &description)?))
}

/// Whether `upper` is one layer more than `lower`, which was made on other layers.
fn is_merged(lower: &Stack, upper: &Stack) -> Result<bool, SnapshotError> {
    let (Some(below), Some(top)) = (lower.top(), upper.top()) else {
        return Ok(false);
    };
    Ok(upper.depth() == lower.depth() + 1 && top.base()? != Some(below.id()))
}

/// An error of the writer, cancellation apart.
pub(super) fn written(error: WriteError) -> OperationError {
    match error {
        WriteError::Cancelled(_) => OperationError::Cancelled,
        error => error.into(),
    }
}

fn write(
    mut writer: LayerWriter,
    changes: &Index,
    above: &View,
    cancel: &Cancel,
) -> Result<Index, WriteError> {
    let below = writer.view().clone();
    let (mut items, mut kept) = (Vec::new(), Vec::new());
    for (path, entry) in changes.entries() {
        let old = below.lookup(path).map(|node| node.entry().is_directory());
        if old == Some(true) && entry.is_directory() {
            kept.push((path, entry.attributes.clone()));
            continue;
        }
        // What lies below something that was just removed is gone already.
        if old.is_some() && writer.view().lookup(path).is_some() {
            writer.remove(path)?;
        }
        if entry.kind == Kind::Whiteout {
            continue;
        }
        if let Some(source) = above.lookup(path) {
            items.push(CopyItem {
                source: source.clone(),
                source_path: path.clone(),
                destination: path.clone(),
                attributes: entry.attributes.clone(),
                link_group: (entry.link_group != 0).then(|| entry.link_group.into()),
            });
        }
    }
    writer.copy(items, cancel)?;
    for (path, attributes) in kept {
        writer.set_attributes(path, attributes)?;
    }
    writer.finish()
}
