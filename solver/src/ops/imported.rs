//! Results of imported records: layers that are fetched when something reads them.
//!
//! Owns `ImportedLayers`. A result is found by what a cache from elsewhere claims; its layers are
//! compared with their digests and diff ids before anything of them is of use, and only then is the
//! result stored.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_llb::digest::BlobDigest;
use async_trait::async_trait;

use super::Engine;
use super::engine::unblock;
use super::source::image_layers::{ImageLayers, LayerBytes};
use crate::cache::records::{BlobLayer, CacheRecords};
use crate::cache::{Cache, RecordBatch};
use crate::cancel::Cancel;
use crate::content::{BlobProvider, Compression};
use crate::error::{Blame, Failure, FailureSource, Fault, OperationError};
use crate::id::{CacheKey, ResultId};
use crate::oci::{Descriptor, chain_ids};
use crate::operation::ImportedResults;
use crate::progress::Reporter;
use crate::refs::{Lazy, LazyLayer, Ref};
use crate::snapshot::{LayerDescription, Stack};
use crate::source::image::{ImageError, ImageLayer};
use crate::tree::View;

/// A result of an imported cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The blob of a layer cannot be had.
    #[error("cannot read layer {digest} of an imported cache")]
    Read {
        /// The layer.
        digest: BlobDigest,
        /// Why not.
        #[source]
        source: FailureSource,
    },
    /// The blob of a layer is not what the cache says.
    #[error("a layer of an imported cache is not what the cache says")]
    Layer {
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// A layer is of a kind that is not known here.
    #[error("layer {digest} of an imported cache has the unknown media type `{media_type}`")]
    MediaType {
        /// The layer.
        digest: BlobDigest,
        /// What the cache says it is.
        media_type: String,
    },
    /// A result has too many layers.
    #[error("a result of an imported cache has {count} layers, more than {limit}")]
    TooManyLayers {
        /// How many it has.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

impl Blame for ImportError {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { source, .. } => source.0.fault(),
            Self::Layer { source } => source.fault(),
            Self::MediaType { .. } | Self::TooManyLayers { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        Some("build without importing this cache".to_owned())
    }

    fn is_personal(&self) -> bool {
        true
    }
}

/// The results of imported records.
#[derive(Debug)]
pub(crate) struct ImportedLayers {
    pub(crate) records: Arc<CacheRecords<BlobLayer>>,
    pub(crate) blobs: Arc<dyn BlobProvider>,
    pub(crate) engine: Arc<Engine>,
    /// Where results are stored once they are layers.
    pub(crate) cache: Cache,
    /// Raised when a layer turns out not to be had, or not to be what the records say.
    pub(crate) broken: Arc<AtomicBool>,
}

#[async_trait]
impl ImportedResults<Ref> for ImportedLayers {
    async fn load(
        &self,
        key: CacheKey,
        layer: usize,
        created_at: i64,
        reporter: &Reporter,
    ) -> Result<Option<Ref>, Failure> {
        let result = ImportedResult {
            layers: self.layers(layer, reporter)?,
            key,
            created_at,
            cache: self.cache.clone(),
        };
        let blobs = self.blobs.clone();
        let never = Cancel::new();
        let found = unblock(&never, move |_| {
            let (stack, known) = result.layers.known()?;
            let missing = &result.layers.layers[known..];
            if missing.is_empty() {
                result.store(&stack);
                return Ok(Some(Ref::from(stack)));
            }
            let engine = &result.layers.engine;
            let there = missing
                .iter()
                .all(|layer| engine.blobs.has(&layer.descriptor) || blobs.has(&layer.descriptor));
            Ok(there.then(|| Ref::lazy(Arc::new(result))))
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(OperationError::Failed(failure)) => Err(failure),
            Err(OperationError::Cancelled) => Ok(None),
        }
    }
}

impl ImportedLayers {
    /// The layers of a result.
    fn layers(&self, top: usize, reporter: &Reporter) -> Result<ImageLayers, ImportError> {
        let chain = self.records.chain(top);
        let (count, limit) = (chain.len(), self.engine.limits.image_layers);
        if count > limit {
            return Err(ImportError::TooManyLayers { count, limit });
        }
        let told: Vec<&BlobLayer> = chain
            .iter()
            .map(|&at| &self.records.layers()[at].layer)
            .collect();
        let diff_ids: Vec<_> = told.iter().map(|layer| layer.blob.diff_id).collect();
        let mut layers = Vec::with_capacity(count);
        let mut descriptions = Vec::with_capacity(count);
        for (layer, chain_id) in told.into_iter().zip(chain_ids(&diff_ids)) {
            let (digest, media_type) = (layer.blob.digest, &layer.blob.media_type);
            let compression =
                Compression::of_media_type(media_type).ok_or_else(|| ImportError::MediaType {
                    digest,
                    media_type: media_type.clone(),
                })?;
            let mut descriptor = Descriptor::new(media_type, digest, layer.blob.size);
            descriptor.annotations.clone_from(&layer.blob.annotations);
            layers.push(ImageLayer {
                descriptor,
                diff_id: layer.blob.diff_id,
                chain_id,
                compression,
            });
            let text = match &layer.text[..] {
                "" => format!("imported {digest}"),
                text => text.to_owned(),
            };
            let created = layer
                .created
                .unwrap_or_else(|| self.engine.clock.now().into());
            descriptions.push(LayerDescription { text, created });
        }
        Ok(ImageLayers {
            layers,
            descriptions,
            bytes: Arc::new(ProvidedBytes {
                blobs: self.blobs.clone(),
                broken: self.broken.clone(),
            }),
            reporter: reporter.clone(),
            engine: self.engine.clone(),
        })
    }
}

/// The blobs of a provider.
#[derive(Debug)]
struct ProvidedBytes {
    blobs: Arc<dyn BlobProvider>,
    broken: Arc<AtomicBool>,
}

impl ProvidedBytes {
    fn failure(&self, error: ImportError) -> OperationError {
        self.broken.store(true, Ordering::Relaxed);
        error.into()
    }
}

impl LayerBytes for ProvidedBytes {
    fn open(
        &self,
        layer: &ImageLayer,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send>, OperationError> {
        let opened = self.blobs.open(&layer.descriptor, cancel);
        opened.map_err(|failure| {
            self.failure(ImportError::Read {
                digest: layer.descriptor.digest,
                source: FailureSource(failure),
            })
        })
    }

    fn failed(&self, source: ImageError) -> OperationError {
        self.failure(ImportError::Layer { source })
    }
}

/// A result whose layers are not all in the store.
#[derive(Debug)]
struct ImportedResult {
    layers: ImageLayers,
    key: CacheKey,
    created_at: i64,
    cache: Cache,
}

impl ImportedResult {
    /// Stores the result under the key that it was found by, so that it is found without the
    /// import. If that fails, it is found by the import again.
    fn store(&self, stack: &Stack) {
        let Ok(row) = self.layers.engine.layers.save(stack) else {
            return;
        };
        let batch = RecordBatch {
            results: vec![(self.key, ResultId(row.0))],
            created_at: self.created_at,
            ..RecordBatch::default()
        };
        let _found_again = self.cache.save(batch);
    }
}

impl Lazy for ImportedResult {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(None)
    }

    fn layers(&self) -> Option<Vec<LazyLayer>> {
        self.layers.layers()
    }

    fn fetch(&self, cancel: &Cancel) -> Result<(), OperationError> {
        self.layers.fetch(cancel)
    }

    fn materialize(&self, cancel: &Cancel) -> Result<Stack, OperationError> {
        let stack = self.layers.stack(cancel)?;
        self.store(&stack);
        Ok(stack)
    }
}
