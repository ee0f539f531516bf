//! Cache records of solves: taken along and brought in.
//!
//! Owns [`CacheExport`] and [`CacheImport`]. Both are values: how records travel is up to the
//! exporters.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_llb::{BlobDigest, OpDigest};
use async_trait::async_trait;

use super::{SolveError, Solved, Solver};
use crate::cache::records::{BlobLayer, CacheRecords};
use crate::cache::{CacheMode, ExportSource, ImportedRecords, ResultSource};
use crate::cancel::Cancel;
use crate::content::{BlobProvider, NoSuchBlob};
use crate::error::{Failure, OperationError};
use crate::id::{CacheKey, LayerId};
use crate::oci::Descriptor;
use crate::operation::{Import, Results};
use crate::ops::Engine;
use crate::ops::imported::ImportedLayers;
use crate::progress::{Ignore, Reporter};
use crate::refs::{LazyLayer, Ref};
use crate::result::{Original, Originals, Store};
use crate::scheduler::Trace;
use crate::snapshot::Layer;
use crate::tree::Timestamp;

/// Records from elsewhere that a solve may use, with the blobs of their layers. Cheap to clone;
/// one import may serve any number of solves.
///
/// Nothing is fetched for records that match: a layer is read when a step is mounted on it, when a
/// copy reads it, or when an export contains it. It is compared with its digests then. If a layer
/// cannot be had in the midst of a solve, or is not what the records say, the solve says so in a
/// warning and goes on without the import.
///
/// Whoever wrote the records is trusted to have told the truth about what came out of which op.
#[derive(Debug, Clone)]
pub struct CacheImport {
    records: Arc<CacheRecords<BlobLayer>>,
    index: Arc<ImportedRecords>,
    blobs: Arc<dyn BlobProvider>,
}

impl CacheImport {
    /// Takes records, and who has the blobs of their layers. Indexes them, which takes about ten
    /// microseconds a record.
    pub fn new(records: CacheRecords<BlobLayer>, blobs: Arc<dyn BlobProvider>) -> Self {
        Self {
            index: Arc::new(ImportedRecords::new(&records)),
            records: Arc::new(records),
            blobs,
        }
    }

    /// The records.
    pub fn records(&self) -> &CacheRecords<BlobLayer> {
        &self.records
    }

    /// The import for one solve.
    pub(super) fn for_solve(&self, engine: &Arc<Engine>, solver: &Solver) -> SolveImport {
        let broken = Arc::new(AtomicBool::new(false));
        let import = Import {
            records: self.index.clone(),
            results: Arc::new(ImportedLayers {
                records: self.records.clone(),
                blobs: self.blobs.clone(),
                engine: engine.clone(),
                cache: solver.0.scheduler.cache().clone(),
                broken: broken.clone(),
            }),
        };
        SolveImport { import, broken }
    }
}

/// An import of one solve.
#[derive(Debug)]
pub(super) struct SolveImport {
    pub(super) import: Import<Ref>,
    broken: Arc<AtomicBool>,
}

impl SolveImport {
    /// Whether a layer turned out not to be had, or not to be what the records say.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// A layer of an exported result.
#[derive(Debug, Clone)]
#[expect(
    clippy::exhaustive_enums,
    reason = "exporters have to take each kind in their own way"
)]
pub enum CacheLayer {
    /// It is in the store; it may be a blob already, or have to become one.
    Stored(Layer),
    /// It is that of an image, or of another cache, and may not be in the store.
    Blob(Arc<LazyBlob>),
}

/// A layer that is a blob already, which need not be in the store.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LazyBlob {
    /// What is known of it.
    pub layer: LazyLayer,
    /// What it is a layer of.
    pub reference: Ref,
}

/// What tells layers of results apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "as `CacheLayer`")]
pub enum CacheLayerId {
    /// A layer of the store.
    Stored(LayerId),
    /// A blob.
    Blob(BlobDigest),
}

impl CacheLayer {
    /// What tells it apart from other layers.
    pub fn id(&self) -> CacheLayerId {
        match self {
            Self::Stored(layer) => CacheLayerId::Stored(layer.id()),
            Self::Blob(lazy) => CacheLayerId::Blob(lazy.layer.blob.digest),
        }
    }
}

impl PartialEq for CacheLayer {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for CacheLayer {}

impl Hash for CacheLayer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

/// The cache records of a solve. Holds the layers that they name.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CacheExport {
    /// The records. Names of layers become those of blobs by
    /// [`map_layers`](CacheRecords::map_layers), which is what `ashlar_exporters::cache_blobs` does.
    pub records: CacheRecords<CacheLayer>,
    /// Where the layers are.
    pub store: Store,
}

impl CacheExport {
    /// The records of several solves of one solver as one export, for results of several
    /// platforms. `None` if there are none.
    pub fn merge(exports: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut store = None;
        let mut all = Vec::new();
        for export in exports {
            store.get_or_insert(export.store);
            all.push(export.records);
        }
        let records = CacheRecords::merge(all);
        Some(Self {
            records,
            store: store?,
        })
    }

    /// The blobs of the layers: those of the store, and those that have to be fetched for it.
    pub fn blobs(&self) -> Arc<dyn BlobProvider> {
        let lazy = self.records.layers().iter();
        let lazy = lazy.filter_map(|layer| match &layer.layer {
            CacheLayer::Stored(_) => None,
            CacheLayer::Blob(lazy) => Some(lazy.clone()),
        });
        Arc::new(ExportedBlobs {
            lazy: lazy.collect(),
            store: self.store.clone(),
        })
    }
}

/// The blobs of an export.
#[derive(Debug)]
struct ExportedBlobs {
    lazy: Vec<Arc<LazyBlob>>,
    store: Store,
}

impl ExportedBlobs {
    fn lazy(&self, blob: &Descriptor) -> Option<&Arc<LazyBlob>> {
        let mut lazy = self.lazy.iter();
        lazy.find(|lazy| lazy.layer.blob.digest == blob.digest)
    }
}

impl BlobProvider for ExportedBlobs {
    fn has(&self, blob: &Descriptor) -> bool {
        self.store.blobs().has(blob) || self.lazy(blob).is_some()
    }

    fn open(
        &self,
        blob: &Descriptor,
        cancel: &Cancel,
    ) -> Result<Box<dyn std::io::Read + Send>, Failure> {
        if !self.store.blobs().has(blob)
            && let Some(lazy) = self.lazy(blob)
        {
            lazy.reference.fetch(cancel).map_err(|error| match error {
                OperationError::Failed(failure) => failure,
                OperationError::Cancelled => NoSuchBlob::new(blob.digest).into(),
            })?;
        }
        BlobProvider::open(self.store.blobs(), blob, cancel)
    }
}

impl Solved {
    /// Gathers the cache records of the solve, as BuildKit exports them: all keys by which its
    /// ops can be found again, and the results that `mode` asks for. Makes no blobs.
    ///
    /// Blocks a thread of the runtime's for about ten microseconds a record.
    ///
    /// # Errors
    /// [`SolveError::Engine`] if the store cannot be read.
    pub async fn export_cache(&self, mode: CacheMode) -> Result<CacheExport, SolveError> {
        let this = self.clone();
        let runtime = tokio::runtime::Handle::current();
        let export = move || runtime.block_on(this.gather(mode));
        match tokio::task::spawn_blocking(export).await {
            Ok(export) => export.map_err(SolveError::Engine),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and nobody will see this.
                Err(_) => Ok(CacheExport {
                    records: CacheRecords::default(),
                    store: self.result.store.clone(),
                }),
            },
        }
    }

    async fn gather(&self, mode: CacheMode) -> Result<CacheExport, Failure> {
        let store = self.result.store.clone();
        let Some(trace) = &self.trace else {
            let records = CacheRecords::default();
            return Ok(CacheExport { records, store });
        };
        let scheduler = &self.solver.0.scheduler;
        let exports = &self.exports;
        let keys = trace.keys(|vertex| exports.get(vertex).copied().flatten());
        // Where images share layers, that of the result has them.
        let images = [&self.result.refs()[0].images[..], &self.origins].concat();
        let source = Layers {
            originals: store.originals(&images)?,
            store: store.clone(),
            results: scheduler.results().clone(),
            trace: trace.clone(),
        };
        let now = Timestamp::from(store.clock().now());
        let now = now.seconds * 1000 + i64::from(now.nanoseconds / 1_000_000);
        let records = keys.export(mode, scheduler.cache(), &source, now).await?;
        Ok(CacheExport { records, store })
    }
}

/// The layers of the results of a solve.
#[derive(Debug)]
struct Layers {
    store: Store,
    /// The layers of images, as they are there.
    originals: Originals,
    results: Arc<dyn Results<Ref>>,
    trace: Trace<Ref>,
}

#[async_trait]
impl ExportSource<Ref> for Layers {
    type Layer = CacheLayer;

    async fn load(&self, key: CacheKey, source: ResultSource) -> Option<Ref> {
        let loaded = match source {
            ResultSource::Stored(id) => self.results.load(id).await,
            ResultSource::Imported { import, layer } => {
                let clock = self.store.clock();
                let nobody = OpDigest::from_bytes([0; 32]);
                let reporter = Reporter::new(Arc::new(Ignore), nobody, clock.clone());
                let import = self.trace.imports().get(import)?;
                import.results.load(key, layer, 0, &reporter).await
            }
        };
        // What cannot be loaded is not exported.
        loaded.ok().flatten()
    }

    async fn layers(&self, value: &Ref) -> Result<Vec<CacheLayer>, Failure> {
        if let Some(lazy) = value.lazy_layers() {
            let layer = |layer: LazyLayer| {
                let reference = value.clone();
                CacheLayer::Blob(Arc::new(LazyBlob { layer, reference }))
            };
            return Ok(lazy.into_iter().map(layer).collect());
        }
        // A directory that is read in place has no layers.
        let stack = value.made_stack();
        let layers = stack.map(|stack| stack.layers()).unwrap_or_default();
        let layers = layers.into_iter().map(|layer| {
            let Some(Original { layer, image }) = self.originals.of(layer.id()).cloned() else {
                return CacheLayer::Stored(layer);
            };
            let reference = image;
            CacheLayer::Blob(Arc::new(LazyBlob { layer, reference }))
        });
        Ok(layers.collect())
    }

    fn is_blob(&self, layer: &CacheLayer) -> Result<bool, Failure> {
        match layer {
            CacheLayer::Stored(layer) => Ok(!self.store.layer_blobs(layer)?.is_empty()),
            CacheLayer::Blob(_) => Ok(true),
        }
    }
}
