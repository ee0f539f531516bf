//! Results of vertices as rows of the store.

use async_trait::async_trait;

use crate::error::Failure;
use crate::id::{ResultId, StackId};
use crate::operation::Results;
use crate::refs::Ref;
use crate::snapshot::LayerStore;

/// Keeps refs as stacks of layers.
#[derive(Debug)]
pub(super) struct StackResults(pub(super) LayerStore);

#[async_trait]
impl Results<Ref> for StackResults {
    /// A tree that is read in place has no layers and is not kept.
    async fn save(&self, value: &Ref) -> Result<Option<ResultId>, Failure> {
        let Some(stack) = value.known_stack() else {
            return Ok(None);
        };
        Ok(Some(ResultId(self.0.save(&stack)?.0)))
    }

    async fn load(&self, id: ResultId) -> Result<Option<Ref>, Failure> {
        match self.0.stack(StackId(id.0)) {
            Ok(stack) => Ok(stack.map(Ref::from)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
