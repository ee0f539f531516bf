//! What a vertex yields: a reference to a tree.
//!
//! Owns [`Ref`], the value that travels along the edges of a graph, and [`Lazy`], through which a
//! tree that is not (yet) a stack of layers takes part: a local directory, which is read in place,
//! or an image, which is downloaded when something reads it.
//!
//! Invariant: the view of a ref never changes while anybody holds the ref. The *bytes* behind a
//! local directory may; whoever copies them compares them with the checksum their key was made
//! of ([`crate::tree::Files::immutable`]).

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::meta::LayerBlob;
use crate::snapshot::Stack;
use crate::tree::{Timestamp, View};

/// One layer of a tree whose layers are not made yet.
#[derive(Debug, Clone)]
#[expect(
    clippy::exhaustive_structs,
    reason = "what there is to know without the layer"
)]
pub struct LazyLayer {
    /// The blob that it will be made from.
    pub blob: LayerBlob,
    /// What made it, for the history of an image.
    pub text: String,
    /// When it was made.
    pub created: Timestamp,
    /// The repository that the blob would come from: the host, and the name there.
    pub repository: Option<(String, String)>,
}

/// A tree that stays where it is until something needs it as layers.
pub trait Lazy: Send + Sync + fmt::Debug {
    /// The tree, if it can be read without its layers. Blocks. Always the same one.
    ///
    /// # Errors
    /// As its source says.
    fn view(&self) -> Result<Option<View>, OperationError>;

    /// The layers that [`Lazy::materialize`] will make, if they are known; the lowest first. Does
    /// not block.
    fn layers(&self) -> Option<Vec<LazyLayer>> {
        None
    }

    /// Brings the blobs of [`Lazy::layers`] into the store, without making layers. Blocks.
    ///
    /// # Errors
    /// As its source says, or [`OperationError::Cancelled`].
    fn fetch(&self, _cancel: &Cancel) -> Result<(), OperationError> {
        Ok(())
    }

    /// Makes the layers. Blocks; called once, and again after an error.
    ///
    /// # Errors
    /// As its source says, or [`OperationError::Cancelled`].
    fn materialize(&self, cancel: &Cancel) -> Result<Stack, OperationError>;
}

/// A reference to a tree. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ref(Arc<Inner>);

#[derive(Debug)]
enum Inner {
    Stack(Stack),
    Lazy {
        tree: Arc<dyn Lazy>,
        /// The layers, once somebody needed them. Held while they are made, so that they are made
        /// once.
        stack: Mutex<Option<Stack>>,
    },
}

impl Ref {
    /// The empty tree.
    pub fn scratch() -> Self {
        Self::from(Stack::scratch())
    }

    /// A tree that is read in place.
    pub fn lazy(tree: Arc<dyn Lazy>) -> Self {
        Self(Arc::new(Inner::Lazy {
            tree,
            stack: Mutex::new(None),
        }))
    }

    /// Whether it is known to be the empty tree.
    pub fn is_scratch(&self) -> bool {
        matches!(&*self.0, Inner::Stack(stack) if stack.is_scratch())
    }

    /// The layers, if it is made of layers already.
    pub fn known_stack(&self) -> Option<Stack> {
        match &*self.0 {
            Inner::Stack(stack) => Some(stack.clone()),
            Inner::Lazy { .. } => None,
        }
    }

    /// The layers, if they were made, also those of a lazy tree. Does not block.
    pub fn made_stack(&self) -> Option<Stack> {
        match &*self.0 {
            Inner::Stack(stack) => Some(stack.clone()),
            // Whoever makes the layers at this moment holds the lock for long.
            Inner::Lazy { stack, .. } => stack.try_lock().ok()?.clone(),
        }
    }

    /// The tree, if it is in memory and its bytes are in layers. Does not block.
    pub fn made_view(&self) -> Option<View> {
        self.made_stack()?.made_view()
    }

    /// The tree. Blocks.
    ///
    /// # Errors
    /// Stored data is gone, or a lazy tree cannot be read.
    ///
    /// # Cancellation
    /// None; see [`Ref::view_until`].
    pub fn view(&self) -> Result<View, OperationError> {
        self.view_until(&Cancel::new())
    }

    /// The tree. Blocks; a lazy tree may have to be downloaded, which `cancel` ends.
    ///
    /// # Errors
    /// Stored data is gone, a lazy tree cannot be read, or [`OperationError::Cancelled`].
    pub fn view_until(&self, cancel: &Cancel) -> Result<View, OperationError> {
        if let Inner::Lazy { tree, .. } = &*self.0
            && let Some(view) = tree.view()?
        {
            return Ok(view);
        }
        Ok(self.stack(cancel)?.view()?)
    }

    /// The layers of a lazy tree that were not made yet, if they are known. Their blobs need not
    /// be in the store: [`Ref::fetch`].
    pub fn lazy_layers(&self) -> Option<Vec<LazyLayer>> {
        let Inner::Lazy { tree, stack } = &*self.0 else {
            return None;
        };
        // Whoever makes the layers at this moment holds the lock for long.
        match stack.try_lock() {
            Ok(made) if made.is_none() => tree.layers(),
            _ => None,
        }
    }

    /// Brings the blobs of [`Ref::lazy_layers`] into the store, without making layers. Blocks.
    ///
    /// # Errors
    /// They cannot be had, or [`OperationError::Cancelled`].
    pub fn fetch(&self, cancel: &Cancel) -> Result<(), OperationError> {
        match &*self.0 {
            Inner::Stack(_) => Ok(()),
            Inner::Lazy { tree, .. } => tree.fetch(cancel),
        }
    }

    /// The layers, made now if need be. Blocks.
    ///
    /// # Errors
    /// A lazy tree cannot be read or stored, or [`OperationError::Cancelled`].
    pub fn stack(&self, cancel: &Cancel) -> Result<Stack, OperationError> {
        match &*self.0 {
            Inner::Stack(stack) => Ok(stack.clone()),
            Inner::Lazy { tree, stack } => {
                let mut made = stack
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                if let Some(stack) = &*made {
                    return Ok(stack.clone());
                }
                let stack = tree.materialize(cancel)?;
                *made = Some(stack.clone());
                Ok(stack)
            }
        }
    }
}

impl From<Stack> for Ref {
    fn from(stack: Stack) -> Self {
        Self(Arc::new(Inner::Stack(stack)))
    }
}
