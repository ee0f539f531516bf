//! Results of vertices as rows of the store, and the locks of their runs.

use std::sync::Arc;

use async_trait::async_trait;

use crate::cache::{NewResult, RunKey};
use crate::error::Failure;
use crate::id::{ResultId, StackId};
use crate::meta::{MetaError, RecordWriter};
use crate::operation::{Results, RunLock, RunLocks};
use crate::refs::Ref;
use crate::root::{RootError, StateRoot};
use crate::snapshot::{LayerStore, Stack};

/// Keeps refs as stacks of layers.
#[derive(Debug)]
pub(super) struct StackResults(pub(super) LayerStore);

#[async_trait]
impl Results<Ref> for StackResults {
    /// A tree that is read in place has no layers and is not kept.
    fn keep(&self, value: &Ref) -> Option<Box<dyn NewResult>> {
        let stack = value.known_stack()?;
        Some(Box::new(NewStack {
            stack,
            rows: Vec::new(),
        }))
    }

    async fn load(&self, id: ResultId) -> Result<Option<Ref>, Failure> {
        match self.0.stack(StackId(id.0)) {
            Ok(stack) => Ok(stack.map(Ref::from)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// A stack that gets its rows together with the records of which it is a result.
#[derive(Debug)]
struct NewStack {
    stack: Stack,
    /// Those that were added, bottom first.
    rows: Vec<StackId>,
}

impl NewResult for NewStack {
    fn store(&mut self, writer: &mut dyn RecordWriter) -> Result<ResultId, MetaError> {
        self.rows = self
            .stack
            .add_rows(|layer, parent| writer.add_stack(layer, parent))?;
        let top = self.rows.last().copied().unwrap_or(self.stack.row());
        Ok(ResultId(top.0))
    }

    fn stored(&mut self) {
        self.stack.set_rows(&self.rows);
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
