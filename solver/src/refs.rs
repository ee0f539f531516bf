//! What a vertex yields: a reference to a tree.
//!
//! Owns [`Ref`], the value that travels along the edges of a graph, and [`Lazy`], through which a
//! tree that is not (yet) a stack of layers takes part.
//!
//! Invariant: the view of a ref never changes while anybody holds the ref. The *bytes* behind a
//! local directory may; whoever copies them compares them with the checksum their key was made
//! of ([`crate::tree::Files::immutable`]).

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::snapshot::Stack;
use crate::tree::View;

/// A tree that is read where it is until something needs it as layers.
pub trait Lazy: Send + Sync + fmt::Debug {
    /// The tree. Blocks. Always the same one.
    ///
    /// # Errors
    /// As its source says.
    fn view(&self) -> Result<View, OperationError>;

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

    /// The tree. Blocks.
    ///
    /// # Errors
    /// Stored data is gone, or a lazy tree cannot be read.
    pub fn view(&self) -> Result<View, OperationError> {
        match &*self.0 {
            Inner::Stack(stack) => Ok(stack.view()?),
            Inner::Lazy { tree, .. } => tree.view(),
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
