//! Ops that only arrange layers: merge and passthrough.

use ashlar_llb::pb;
use async_trait::async_trait;

use super::engine::unblock;
use super::keys::{self, OpKey};
use crate::error::{Blame, Fault, OperationError};
use crate::operation::{CacheMap, Context, Operation};
use crate::refs::Ref;
use crate::snapshot::Stack;

/// An input that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the op uses input {input}, but it has {count}")]
#[non_exhaustive]
pub struct NoSuchInput {
    /// The number it gives.
    pub input: i64,
    /// Inputs of the op.
    pub count: usize,
}

impl Blame for NoSuchInput {
    fn fault(&self) -> Fault {
        Fault::Input
    }
}

pub(super) fn checked(
    inputs: impl Iterator<Item = i64>,
    count: usize,
) -> Result<Vec<usize>, NoSuchInput> {
    inputs
        .map(|input| {
            let at = usize::try_from(input).ok().filter(|&at| at < count);
            at.ok_or(NoSuchInput { input, count })
        })
        .collect()
}

/// Puts the layers of its inputs on top of each other.
#[derive(Debug)]
pub struct MergeOperation {
    key: OpKey,
    inputs: Vec<usize>,
}

impl MergeOperation {
    /// Checks the op of a vertex that has `inputs` inputs.
    ///
    /// # Errors
    /// [`NoSuchInput`].
    pub fn new(op: &pb::MergeOp, inputs: usize) -> Result<Self, OperationError> {
        let key = keys::merge(op);
        let chosen = op
            .inputs
            .iter()
            .map(|input| input.input)
            .filter(|&input| input != pb::EMPTY);
        Ok(Self {
            key,
            inputs: checked(chosen, inputs)?,
        })
    }
}

#[async_trait]
impl Operation<Ref> for MergeOperation {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        Ok(self.key.cache_map())
    }

    async fn run(&self, inputs: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let chosen: Vec<Ref> = self
            .inputs
            .iter()
            .filter_map(|&at| inputs.get(at).cloned())
            .collect();
        unblock(&context.cancel, move |cancel| {
            let stacks = chosen.iter().map(|input| input.stack(&cancel));
            let stacks = stacks.collect::<Result<Vec<_>, _>>()?;
            Ok(vec![Ref::from(Stack::merge(&stacks))])
        })
        .await
    }

    fn takes_permit(&self) -> bool {
        false
    }
}

/// Hands on some of its inputs, once all of them are done.
#[derive(Debug)]
pub struct PassthroughOperation {
    key: OpKey,
    outputs: Vec<usize>,
}

impl PassthroughOperation {
    /// Checks the op of a vertex that has `inputs` inputs.
    ///
    /// # Errors
    /// [`NoSuchInput`].
    pub fn new(op: &pb::PassthroughOp, inputs: usize) -> Result<Self, OperationError> {
        let key = keys::passthrough(op, inputs);
        Ok(Self {
            key,
            outputs: checked(op.outputs.iter().copied(), inputs)?,
        })
    }
}

#[async_trait]
impl Operation<Ref> for PassthroughOperation {
    async fn cache_map(&self, _: &Context) -> Result<CacheMap, OperationError> {
        Ok(self.key.cache_map())
    }

    async fn run(&self, inputs: Vec<Ref>, _: &Context) -> Result<Vec<Ref>, OperationError> {
        Ok(self
            .outputs
            .iter()
            .filter_map(|&at| inputs.get(at).cloned())
            .collect())
    }

    fn takes_permit(&self) -> bool {
        false
    }
}
