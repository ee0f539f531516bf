//! Results of vertices as rows of the store, and the locks of their runs.

use std::sync::Arc;

use async_trait::async_trait;

use crate::cache::RunKey;
use crate::error::Failure;
use crate::id::{ResultId, StackId};
use crate::operation::{Results, RunLock, RunLocks};
use crate::refs::Ref;
use crate::root::{RootError, StateRoot};
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

/// Locks runs by files of the state root.
#[derive(Debug)]
pub(super) struct RootLocks(pub(super) Arc<StateRoot>);

impl RunLocks for RootLocks {
    fn try_lock(&self, run: RunKey) -> Result<Option<RunLock>, Failure> {
        let locked = self.0.try_lock(&run.to_string());
        let locked = locked.map_err(|source| RootError::Io {
            action: "lock a file in",
            path: self.0.path().join("locks"),
            source,
        })?;
        Ok(locked.map(|lock| Box::new(lock) as RunLock))
    }
}
