//! Layers on disk and stacks of them.
//!
//! Owns the directories below `layers/` and `flat/` of the state root, and the rows that say which
//! layer stands on which.
//!
//! ```text
//! layers/<id>/fs/     the files, as the overlay file system expects a lower directory
//! layers/<id>/index   length-prefixed description, creation time, the layer below it when it
//!                     was made, then the encoded `tree::Index`
//! layers/<id>/origins checksums of what files are copies of, where those had other attributes
//! layers/<id>/work    only while a step runs on it
//! flat/mount-points   places for mounts, below the layers of every root
//! ```
//!
//! Life stages: [`ActiveLayer`] is being filled and vanishes when dropped; [`ActiveLayer::commit`]
//! writes the index and gives a [`Layer`], which never changes; a [`Stack`] is layers on top of
//! each other.
//!
//! Invariants:
//! - **The index is the commit.** A layer directory without one is nobody's.
//! - **What is used stays.** The top layer of a loaded stack is pinned by a shared lock on its
//!   directory, those below by the rows above them, new ones by the session of their maker.
//! - **Merge is stacking**: an index never depends on layers below other than through its
//!   explicit whiteouts.
//! - **A lookup never costs the depth of the stack**: each stack has one merged [`View`](crate::tree::View), which
//!   shares with its parent's.
//!
//! Leaves to others: what goes into a layer (`tree`, `ops`), which results point at a stack
//! (`refs`, `cache`), mounting (the executor, inside the step's own mount namespace).

mod flatten;
mod layer;
mod mount_points;
mod previous;
mod stack;

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::fs::{FlockOperation, Mode, mkdirat};

pub use layer::{ActiveLayer, Layer, LayerDescription};
pub use mount_points::mount_points;
pub use stack::Stack;

use crate::error::{Blame, Fault};
use crate::id::{LayerId, StackId};
use crate::meta::{MetaError, Stacks};
use crate::root::StateRoot;
use crate::tree::index::IndexError;

/// A layer or stack cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The operating system refused.
    #[error("cannot {action} of layer {layer}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which layer, or `flat/…`.
        layer: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The data of a layer is gone or damaged. Whoever holds a record of it drops the record and
    /// runs again.
    #[error("the data of layer {layer} is gone")]
    Gone {
        /// Which layer.
        layer: LayerId,
    },
    /// An index cannot be read.
    #[error("the index of layer {layer} is damaged")]
    Index {
        /// Which layer.
        layer: LayerId,
        /// What is wrong with it.
        #[source]
        source: IndexError,
    },
    /// The database refused.
    #[error("the rows of a stack cannot be read or written")]
    Meta(#[source] MetaError),
}

impl SnapshotError {
    /// Whether the stored data is missing or damaged, so that running again is the answer.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Index { .. })
    }
}

impl Blame for SnapshotError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space below the state root".to_owned())
            }
            _ => None,
        }
    }
}

/// The layers of a state root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LayerStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: Arc<StateRoot>,
    meta: Arc<dyn Stacks>,
    /// Layers that somebody holds, so that each is read once.
    open: Mutex<HashMap<LayerId, Weak<layer::Inner>>>,
    /// Taken while a run of layers is being flattened: one at a time.
    flattening: Mutex<()>,
    /// Where they are, once they are made.
    mount_points: OnceLock<PathBuf>,
}

impl LayerStore {
    /// The layers of `root`, with their rows in `meta`.
    pub fn new(root: Arc<StateRoot>, meta: Arc<dyn Stacks>) -> Self {
        let open = Mutex::default();
        Self(Arc::new(Inner {
            root,
            meta,
            open,
            flattening: Mutex::default(),
            mount_points: OnceLock::new(),
        }))
    }

    /// The state root.
    pub fn root(&self) -> &Arc<StateRoot> {
        &self.0.root
    }

    /// Makes an empty layer directory to be filled. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn new_layer(&self) -> Result<ActiveLayer, SnapshotError> {
        loop {
            let id = self.0.root.next_layer_id();
            match mkdirat(self.0.root.layers(), id.to_string(), Mode::from(0o700)) {
                Ok(()) => return ActiveLayer::start(self.clone(), id),
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(io_error("make the directory", id)(error.into())),
            }
        }
    }

    /// Opens a committed layer, which stays while anybody holds it; what it contains is read when
    /// first asked for. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Gone`] if there is no such layer.
    pub fn layer(&self, id: LayerId) -> Result<Layer, SnapshotError> {
        let layer = self.unchecked(id);
        layer.hold()?;
        Ok(layer)
    }

    /// Opens the stack of that row. Checks that its top layer is there; the layers below are held
    /// by their rows. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Gone`] if the top layer is missing, [`SnapshotError::Meta`].
    pub fn stack(&self, id: StackId) -> Result<Option<Stack>, SnapshotError> {
        if id == Stack::SCRATCH {
            return Ok(Some(Stack::scratch()));
        }
        let chain = self.0.meta.stack_chain(id).map_err(SnapshotError::Meta)?;
        let Some(&top) = chain.last() else {
            return Ok(None);
        };
        let _held = self.layer(top)?;
        let layers = chain.into_iter().map(|layer| self.unchecked(layer));
        Ok(Some(Stack::scratch().push_all(layers).with_row(id)))
    }

    /// Writes the rows of a stack, if they are not there, and gives its id. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Meta`].
    pub fn save(&self, stack: &Stack) -> Result<StackId, SnapshotError> {
        stack.save(&*self.0.meta).map_err(SnapshotError::Meta)
    }

    /// Removes a layer that nobody uses: no stack stands on it, no process has pinned it, and the
    /// process that made it is gone. Its rows and the results that point at it go with it.
    /// Returns whether it was removed. Never waits for a lock. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError::Meta`], [`SnapshotError::Io`].
    pub fn remove_unused(&self, id: LayerId) -> Result<bool, SnapshotError> {
        if self.known(id).is_some() || self.0.root.is_in_session(id) {
            return Ok(false);
        }
        if self.0.meta.is_below(id).map_err(SnapshotError::Meta)? {
            return Ok(false);
        }
        let pin = match layer::pin(self, id, FlockOperation::NonBlockingLockExclusive) {
            Ok(pin) => pin,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(io_error("pin the directory", id)(error.into())),
        };
        // First out of reach, then the rows: a row without a layer is a miss, not an error.
        let grave = self
            .0
            .root
            .bury(self.0.root.layers(), &id.to_string())
            .map_err(io_error("remove the directory", id))?;
        self.0.meta.remove_layer(id).map_err(SnapshotError::Meta)?;
        drop(pin);
        self.0.root.clear(&grave);
        Ok(true)
    }

    /// The directories to mount for `stack`, top first: those of its layers, without the ones
    /// that change nothing, and with runs of small layers replaced by flattened copies where the
    /// stack is too deep to mount. Blocks.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn lower_paths(&self, stack: &Stack) -> Result<Vec<PathBuf>, SnapshotError> {
        flatten::lower_paths(self, stack)
    }

    fn known(&self, id: LayerId) -> Option<Layer> {
        let open = self
            .0
            .open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        open.get(&id).and_then(Weak::upgrade).map(Layer::from_inner)
    }

    /// A layer that is known to exist because a row above it does.
    fn unchecked(&self, id: LayerId) -> Layer {
        self.known(id)
            .unwrap_or_else(|| self.remember(Layer::unchecked(self.clone(), id)))
    }

    fn remember(&self, layer: Layer) -> Layer {
        let mut open = self
            .0
            .open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(first) = open.get(&layer.id()).and_then(Weak::upgrade) {
            return Layer::from_inner(first);
        }
        open.insert(layer.id(), layer.downgrade());
        layer
    }

    fn forget(&self, id: LayerId) {
        let mut open = self
            .0
            .open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if open.get(&id).is_some_and(|layer| layer.strong_count() == 0) {
            open.remove(&id);
        }
    }

    fn discard(&self, id: LayerId) {
        self.0
            .root
            .discard(self.0.root.layers().as_fd(), &id.to_string());
    }
}

fn io_error(action: &'static str, layer: LayerId) -> impl Fn(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io {
        action,
        layer: layer.to_string(),
        source,
    }
}
