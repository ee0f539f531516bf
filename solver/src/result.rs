//! What a solve returns, and the stores in which it lies.
//!
//! Owns [`BuildResult`] and [`Store`], the handle through which exporters reach layers and blobs.

mod blobs;

use std::collections::BTreeMap;
use std::sync::Arc;

use ashlar_llb::Platform;

use crate::clock::Clock;
use crate::content::BlobStore;
use crate::error::Failure;
use crate::images::Images;
use crate::meta::{LayerBlob, Meta};
use crate::refs::Ref;
use crate::snapshot::{Layer, LayerStore};
use crate::turns::Turns;

pub(crate) use blobs::put_repository;

/// The key of [`BuildResult::metadata`] under which an image config (JSON) stands; as in BuildKit.
pub const IMAGE_CONFIG_KEY: &str = "containerimage.config";

/// The `compression` of a [`LayerBlob`] that the layer was made from: the original blob of an image.
/// Exports use it as it is.
pub const SOURCE_BLOB: &str = "source";

/// The stores of a state root, as exporters use them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    layers: LayerStore,
    blobs: BlobStore,
    meta: Arc<dyn Meta>,
    clock: Arc<dyn Clock>,
    /// Blobs that are being made, by what they are made of and how.
    making: Arc<Turns<String>>,
}

impl Store {
    /// Puts the stores of one root together.
    pub fn new(
        layers: LayerStore,
        blobs: BlobStore,
        meta: Arc<dyn Meta>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            layers,
            blobs,
            meta,
            clock,
            making: Arc::default(),
        }
    }

    /// The layers.
    pub fn layers(&self) -> &LayerStore {
        &self.layers
    }

    /// The blobs.
    pub fn blobs(&self) -> &BlobStore {
        &self.blobs
    }

    /// The database.
    pub fn meta(&self) -> &Arc<dyn Meta> {
        &self.meta
    }

    /// The images named in the store.
    pub fn images(&self) -> Images {
        Images::new(self.meta.clone())
    }

    /// The clock of the solver.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The blobs known to be made from `layer`, or that it was made from, and still there.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn layer_blobs(&self, layer: &Layer) -> Result<Vec<LayerBlob>, Failure> {
        let mut there = Vec::new();
        for blob in self.meta.layer_blobs(layer.id())? {
            if self.blobs.contains(&blob.digest)? {
                there.push(blob);
            }
        }
        Ok(there)
    }
}

/// The outcome of a solve: a tree for one platform, and what is said of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildResult {
    /// The tree.
    pub reference: Ref,
    /// The platform it is for; goes into an image config that does not name one.
    pub platform: Platform,
    /// What frontends and callers say of the result, by BuildKit's keys, for example
    /// [`IMAGE_CONFIG_KEY`].
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Where it lies.
    pub store: Store,
}

impl BuildResult {
    /// A result without metadata.
    pub fn new(reference: Ref, platform: Platform, store: Store) -> Self {
        Self {
            reference,
            platform,
            metadata: BTreeMap::new(),
            store,
        }
    }

    /// The same result with an image config: the JSON object of the OCI image specification.
    /// Members that exporters do not know are kept.
    #[must_use]
    pub fn with_image_config(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.metadata
            .insert(IMAGE_CONFIG_KEY.to_owned(), json.into());
        self
    }
}
