//! What a solve returns, and the stores in which it lies.
//!
//! Owns [`BuildResult`] and [`Store`], the handle through which exporters reach layers and blobs.

mod attestation;
mod blobs;
pub(crate) mod chains;
mod originals;

use std::collections::BTreeMap;
use std::sync::Arc;

use ashlar_llb::Platform;

use crate::clock::Clock;
use crate::content::BlobStore;
use crate::error::{Blame, Failure, Fault};
use crate::images::Images;
use crate::limits::Limits;
use crate::meta::{LayerBlob, Meta};
use crate::provenance::Provenance;
use crate::refs::Ref;
use crate::snapshot::{Layer, LayerStore};
use crate::turns::Turns;

pub(crate) use blobs::put_repository;

pub use attestation::{
    Attestation, AttestationContent, AttestationKind, MakeAttestation, MakeContext, Subject,
};

pub use originals::{Original, Originals};

/// The key of [`BuildResult::metadata`] under which an image config (JSON) stands; as in BuildKit.
pub const IMAGE_CONFIG_KEY: &str = "containerimage.config";

/// The key under which the config (JSON) of the image that a result started from stands; as in
/// BuildKit. Exporters leave the layers and the history in it alone where they would rewrite times.
pub const BASE_CONFIG_KEY: &str = "containerimage.base.config";

/// The key under which `SOURCE_DATE_EPOCH` stands, in seconds since 1970; as in BuildKit.
pub const EPOCH_KEY: &str = "source.date.epoch";

/// The key under which a frontend says what it would call the image; as in BuildKit.
pub const IMAGE_NAME_KEY: &str = "image.name";

/// The key under which records of the cache stand that an image config is to carry
/// (`moby.buildkit.cache.v0`); as in BuildKit.
pub const INLINE_CACHE_KEY: &str = "containerimage.inlinecache";

/// The `compression` of a [`LayerBlob`] that the layer was made from: the original blob of an image.
/// Exports use it as it is.
pub const SOURCE_BLOB: &str = "source";

/// The key of [`LayerBlob::annotations`] under which the addresses stand where its owner offers a
/// blob, separated by spaces. Manifests have them in another place.
pub const BLOB_URLS: &str = "ashlar/urls";

/// The stores of a state root, as exporters use them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    layers: LayerStore,
    blobs: BlobStore,
    meta: Arc<dyn Meta>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    /// Blobs that are being made, by what they are made of and how.
    making: Arc<Turns<String>>,
}

impl Store {
    /// Puts the stores of one root together, with the default [`Limits`].
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
            limits: Limits::default(),
            making: Arc::default(),
        }
    }

    /// Sets what is taken from layers that are converted.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
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

    /// The limits of the solver.
    pub fn limits(&self) -> &Limits {
        &self.limits
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

/// A tree and whom it is for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlatformRef {
    /// The name under which metadata and attestations speak of it, such as `linux/arm64`. Empty
    /// in a result for one platform to which nobody gave a name.
    pub id: String,
    /// For whom it is.
    pub platform: Platform,
    /// The tree; [`Ref::scratch`] where a frontend gave none.
    pub reference: Ref,
    /// What it was made of, and how; `None` if no solve gave it.
    pub provenance: Option<Arc<Provenance>>,
    /// The images that it was built on: their layers are exported as they are there. None if no
    /// solve gave it; then a layer is exported as the image that brought it into the store has it.
    pub images: Vec<Ref>,
}

impl PlatformRef {
    /// A tree whose id is the text of its platform.
    pub fn new(platform: Platform, reference: Ref) -> Self {
        Self {
            id: platform.to_string(),
            platform,
            reference,
            provenance: None,
            images: Vec::new(),
        }
    }

    /// Gives it the text of its platform as id, if it has none.
    #[must_use]
    pub fn named(mut self) -> Self {
        if self.id.is_empty() {
            self.id = self.platform.to_string();
        }
        self
    }

    /// Gives it another id.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }
}

/// Trees cannot be put together to a result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildResultError {
    /// There are none.
    #[error("a result for several platforms has no platform")]
    Empty,
    /// A platform has no id.
    #[error("platform {platform} of the result has no id")]
    NoId {
        /// The platform.
        platform: String,
    },
    /// Two have one id.
    #[error("two platforms of the result are called `{id}`")]
    Twice {
        /// The id.
        id: String,
    },
    /// A platform does not say what it is.
    #[error("platform `{id}` of the result needs operating system and architecture")]
    Platform {
        /// Its id.
        id: String,
    },
}

impl Blame for BuildResultError {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<String> {
        None
    }
}

/// The outcome of a solve: a tree, or one for each of several platforms, and what is said of them.
///
/// There are two forms, which exporters tell apart as BuildKit's do: the *single* one, of which an
/// image manifest is made, and the *map*, of which an index is made even if it has one platform.
///
/// ```
/// # fn example(amd64: ashlar_solver::solver::Solved, arm64: ashlar_solver::solver::Solved)
/// # -> Result<(), ashlar_solver::result::BuildResultError> {
/// use ashlar_solver::result::BuildResult;
///
/// let store = amd64.result.store.clone();
/// let both = [&amd64, &arm64].map(|solved| solved.result.refs()[0].clone().named());
/// let result = BuildResult::of_platforms(both, store)?;
/// assert_eq!(result.refs()[1].id, "linux/arm64");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildResult {
    /// At least one; exactly one unless `is_map`.
    refs: Vec<PlatformRef>,
    is_map: bool,
    /// What frontends and callers say of the result, by BuildKit's keys, for example
    /// [`IMAGE_CONFIG_KEY`]. A key followed by `/` and the id of a platform speaks of that one.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// What is attested of each tree, by the id of its platform; of a result to which nobody gave
    /// an id, by the text of its platform. Default: nothing.
    pub attestations: BTreeMap<String, Vec<Attestation>>,
    /// Where it lies.
    pub store: Store,
}

impl BuildResult {
    /// A tree for one platform, without metadata.
    pub fn new(reference: Ref, platform: Platform, store: Store) -> Self {
        let only = PlatformRef {
            id: String::new(),
            platform,
            reference,
            provenance: None,
            images: Vec::new(),
        };
        Self {
            refs: vec![only],
            is_map: false,
            metadata: BTreeMap::new(),
            attestations: BTreeMap::new(),
            store,
        }
    }

    /// Trees for several platforms, or one, as a map: in this order they stand in an index.
    /// Platforms are brought to their normal form.
    ///
    /// # Errors
    /// [`BuildResultError`]: there are none, an id is empty or twice there, or a platform lacks
    /// operating system or architecture.
    pub fn of_platforms(
        refs: impl IntoIterator<Item = PlatformRef>,
        store: Store,
    ) -> Result<Self, BuildResultError> {
        let mut checked: Vec<PlatformRef> = Vec::new();
        for mut each in refs {
            let platform = &each.platform;
            if each.id.is_empty() {
                let platform = platform.to_string();
                return Err(BuildResultError::NoId { platform });
            }
            if platform.os.is_empty() || platform.architecture.is_empty() {
                return Err(BuildResultError::Platform { id: each.id });
            }
            if checked.iter().any(|earlier| earlier.id == each.id) {
                return Err(BuildResultError::Twice { id: each.id });
            }
            each.platform = each.platform.normalised();
            checked.push(each);
        }
        if checked.is_empty() {
            return Err(BuildResultError::Empty);
        }
        Ok(Self {
            refs: checked,
            is_map: true,
            metadata: BTreeMap::new(),
            attestations: BTreeMap::new(),
            store,
        })
    }

    /// Gives the tree of a result in single form the id under which metadata and attestations
    /// speak of it, and says that its platform is the one given here whatever an image config
    /// tells. In the map form nothing happens.
    #[must_use]
    pub fn with_platform(mut self, id: impl Into<String>, platform: Platform) -> Self {
        if !self.is_map {
            self.refs[0].id = id.into();
            self.refs[0].platform = platform.normalised();
        }
        self
    }

    /// Says what the tree of a result in single form was made of. In the map form nothing happens.
    #[must_use]
    pub fn with_provenance(mut self, provenance: Arc<Provenance>) -> Self {
        if !self.is_map {
            self.refs[0].provenance = Some(provenance);
        }
        self
    }

    /// Says which images the tree of a result in single form was built on, see
    /// [`PlatformRef::images`]. In the map form nothing happens.
    #[must_use]
    pub fn with_images(mut self, images: Vec<Ref>) -> Self {
        if !self.is_map {
            self.refs[0].images = images;
        }
        self
    }

    /// The trees; at least one.
    pub fn refs(&self) -> &[PlatformRef] {
        &self.refs
    }

    /// Whether it is in map form.
    pub fn is_map(&self) -> bool {
        self.is_map
    }

    /// The tree; of several the first one.
    pub fn reference(&self) -> &Ref {
        &self.refs[0].reference
    }

    /// For whom the tree of [`BuildResult::reference`] is.
    pub fn platform(&self) -> &Platform {
        &self.refs[0].platform
    }

    /// What the metadata says under `key` of the platform with this id, or else of the whole
    /// result.
    pub fn metadata_of(&self, key: &str, id: &str) -> Option<&[u8]> {
        let own = (!id.is_empty()).then(|| self.metadata.get(&format!("{key}/{id}")));
        let found = own.flatten().or_else(|| self.metadata.get(key));
        found.map(Vec::as_slice)
    }

    /// The same result with an image config: the JSON object of the OCI image specification.
    /// Members that exporters do not know are kept.
    #[must_use]
    pub fn with_image_config(mut self, json: impl Into<Vec<u8>>) -> Self {
        self.metadata
            .insert(IMAGE_CONFIG_KEY.to_owned(), json.into());
        self
    }

    /// The same result with an image config for the platform with this id.
    #[must_use]
    pub fn with_image_config_of(mut self, id: &str, json: impl Into<Vec<u8>>) -> Self {
        let key = format!("{IMAGE_CONFIG_KEY}/{id}");
        self.metadata.insert(key, json.into());
        self
    }

    /// The same result with one thing more that is attested of the tree with this id.
    #[must_use]
    pub fn with_attestation(mut self, id: impl Into<String>, attestation: Attestation) -> Self {
        let all = self.attestations.entry(id.into()).or_default();
        all.push(attestation);
        self
    }
}
