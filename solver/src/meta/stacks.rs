//! Stacks of layers, and the blobs made from layers.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ashlar_llb::{BlobDigest, DiffId};

use super::MetaError;
use crate::id::{LayerId, StackId};

/// A stack: its top layer and the stack below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StackRow {
    /// The top layer.
    pub layer: LayerId,
    /// The stack below; `None` for a stack of one layer.
    pub parent: Option<StackId>,
}

/// Which stacks of layers there are.
pub trait Stacks: Send + Sync + Debug {
    /// One stack; `None` if there is none of that id (any more).
    ///
    /// # Errors
    /// The database cannot be read.
    fn stack(&self, id: StackId) -> Result<Option<StackRow>, MetaError>;

    /// Adds `layer` on top of `parent` and returns the stack; the same pair always gives the same
    /// id while the stack exists. Ids are positive and never used for another stack.
    ///
    /// # Errors
    /// There is no such parent, or the database cannot be written.
    fn add_stack(&self, layer: LayerId, parent: Option<StackId>) -> Result<StackId, MetaError>;

    /// The layers of a stack, bottom first; empty if there is no such stack.
    ///
    /// # Errors
    /// The database cannot be read.
    fn stack_chain(&self, id: StackId) -> Result<Vec<LayerId>, MetaError>;

    /// Whether any stack stands on one whose top layer is `layer`.
    ///
    /// # Errors
    /// The database cannot be read.
    fn is_below(&self, layer: LayerId) -> Result<bool, MetaError>;

    /// Forgets a layer: its blobs, every stack that contains it and every cache result that is
    /// one of these stacks. Returns how many stacks went.
    ///
    /// # Errors
    /// The database cannot be written.
    fn remove_layer(&self, layer: LayerId) -> Result<usize, MetaError>;
}

/// A blob that was made from a layer, or that a layer was made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LayerBlob {
    /// How it is compressed, for example `gzip`; free text that tells the variants of one layer
    /// apart.
    pub compression: String,
    /// Its digest.
    pub digest: BlobDigest,
    /// The digest of the uncompressed archive.
    pub diff_id: DiffId,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// What a manifest says about it beside that.
    pub annotations: BTreeMap<String, String>,
}

/// Which blobs belong to which layers: one per layer and compression.
pub trait LayerBlobs: Send + Sync + Debug {
    /// The blobs of a layer, ordered by compression.
    ///
    /// # Errors
    /// The database cannot be read.
    fn layer_blobs(&self, layer: LayerId) -> Result<Vec<LayerBlob>, MetaError>;

    /// Records a blob of a layer, replacing the one of the same compression.
    ///
    /// # Errors
    /// The database cannot be written.
    fn put_layer_blob(&self, layer: LayerId, blob: &LayerBlob) -> Result<(), MetaError>;
}
