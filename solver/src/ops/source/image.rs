//! `docker-image://`: an image of a registry.
//!
//! Resolving asks for what the reference leads to and reads the documents; layers are downloaded
//! when something reads the tree, or when an output has to contain them. Documents and what tags
//! led to are kept in the store. An image that is named in the store ([`Images`]) comes before the
//! registry if the op prefers that, and behind it if the registry cannot be asked.

use std::io::Read;
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::{Platform, Reference, Vertex, pb};
use async_trait::async_trait;

use super::image_layers::{ImageLayers, LayerBytes};
use super::{Source, SourceError, image_key, layer_limit, resolved_image};
use crate::cancel::Cancel;
use crate::content::ContentError;
use crate::error::OperationError;
use crate::images::Images;
use crate::oci::Descriptor;
use crate::operation::{CacheMap, Context};
use crate::ops::Engine;
use crate::ops::engine::unblock;
use crate::ops::platform_of;
use crate::progress::Reporter;
use crate::provenance::ResolvedSource;
use crate::refs::Ref;
use crate::registry::{RegistryError, Repository};
use crate::source::image::{
    Documents, ImageError, ImageLayer, ResolveMode, ResolvedImage, resolve,
};

/// Where the database notes what references led to, as descriptors in JSON.
const REFERENCES: &str = "reference";

/// An image source, ready to be resolved.
#[derive(Debug, Clone)]
pub(super) struct ImageSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reference: Reference,
    platform: Platform,
    limit: Option<usize>,
    /// What the reference has to lead to.
    checksum: Option<BlobDigest>,
    /// What the op itself says of asking the registry.
    wish: ashlar_llb::ResolveMode,
    repository: Repository,
    engine: Arc<Engine>,
}

impl ImageSource {
    pub(super) fn new(
        reference: &str,
        op: &pb::SourceOp,
        vertex: &Vertex,
        engine: &Arc<Engine>,
    ) -> Result<Self, SourceError> {
        let parsed = Reference::parse(reference).map_err(|_| SourceError::Identifier {
            identifier: op.identifier.clone(),
        })?;
        let invalid = |attribute, value: &str| SourceError::Attribute {
            attribute,
            value: value.to_owned(),
        };
        let checksum = "image.checksum";
        let checksum = match op.attrs.get(checksum) {
            None => None,
            Some(value) => Some(value.parse().map_err(|_| invalid(checksum, value))?),
        };
        let mode = "image.resolvemode";
        let wish = match op.attrs.get(mode).map(String::as_str) {
            None | Some("" | "default") => ashlar_llb::ResolveMode::Default,
            Some("local") => ashlar_llb::ResolveMode::PreferLocal,
            Some("pull") => ashlar_llb::ResolveMode::ForcePull,
            Some(value) => return Err(invalid(mode, value)),
        };
        let platform = platform_of(vertex);
        Ok(Self(Arc::new(Inner {
            repository: engine.registry.repository(&parsed),
            reference: parsed.with_default_tag(),
            platform,
            limit: layer_limit(op, "image.layerlimit")?,
            checksum,
            wish,
            engine: engine.clone(),
        })))
    }
}

#[async_trait]
impl Source for ImageSource {
    type Pin = Arc<ResolvedImage>;

    async fn pin(&self, context: &Context) -> Result<Self::Pin, OperationError> {
        self.0.resolve(&context.reporter).await
    }

    fn resolved(&self, pin: &Self::Pin) -> ResolvedSource {
        let reference = self.0.reference.to_string();
        resolved_image(reference, &self.0.platform, pin, false)
    }

    fn cache_key(&self, pin: &Self::Pin, index: usize) -> Option<CacheMap> {
        image_key(pin, &self.0.platform, self.0.limit, index)
    }

    async fn fetch(&self, pin: &Self::Pin, context: &Context) -> Result<Ref, OperationError> {
        let layers = self.layers(pin, context.reporter.clone());
        unblock(&context.cancel, move |_| {
            let (stack, known) = layers.known()?;
            Ok(match known == layers.layers.len() {
                true => Ref::from(stack),
                false => Ref::lazy(Arc::new(layers)),
            })
        })
        .await
    }

    fn origin(&self, pin: &Self::Pin, reporter: Reporter) -> Option<Ref> {
        let blobs = &self.0.engine.blobs;
        let stored = |layer: &ImageLayer| {
            let Descriptor { digest, size, .. } = layer.descriptor;
            matches!(blobs.size(&digest), Ok(Some(found)) if found == size)
        };
        // Where nobody may be asked, what the store has is taken.
        let can_be_had = self.0.may_ask() || pin.layers.iter().all(stored);
        can_be_had.then(|| Ref::lazy(Arc::new(self.layers(pin, reporter))))
    }
}

impl ImageSource {
    fn layers(&self, pin: &ResolvedImage, reporter: Reporter) -> ImageLayers {
        let source = &self.0;
        let reference = source.reference.to_string();
        let engine = source.engine.clone();
        ImageLayers::of_image(pin, &reference, source.clone(), reporter, engine)
    }
}

impl Inner {
    async fn resolve(&self, reporter: &Reporter) -> Result<Arc<ResolvedImage>, OperationError> {
        let root = self.root(reporter).await?;
        if let Some(expected) = self.checksum.filter(|expected| *expected != root.digest) {
            return Err(SourceError::Checksum {
                reference: self.reference.to_string(),
                expected,
                found: root.digest,
            }
            .into());
        }
        let documents = Stored(self);
        let image = resolve(&documents, root, &self.platform, &self.engine.limits).await;
        let mut image = image?;
        if let Some(limit) = self.limit {
            image = image.limit_layers(limit)?;
        }
        Ok(Arc::new(image))
    }

    fn may_ask(&self) -> bool {
        self.engine.resolve != ResolveMode::Offline
    }

    fn offline(&self) -> OperationError {
        let what = format!("`{}`", self.reference);
        SourceError::Offline { what }.into()
    }

    /// What the reference leads to.
    async fn root(&self, reporter: &Reporter) -> Result<Descriptor, OperationError> {
        let limit = self.engine.limits.manifest_bytes;
        if let Some(digest) = self.reference.blob_digest() {
            if let Some(size) = self.engine.blobs.size(&digest)? {
                return Ok(Descriptor::new("", digest, size));
            }
            if !self.may_ask() {
                return Err(self.offline());
            }
            let (root, bytes) = self.repository.manifest(&digest.to_string(), limit).await?;
            self.engine.blobs.put(&bytes)?;
            return Ok(root);
        }
        let name = self.reference.to_string();
        let known = self.engine.meta.name(REFERENCES, name.as_bytes())?;
        // What cannot be read is asked for again.
        let noted = known
            .as_ref()
            .and_then(|json| serde_json::from_slice::<Descriptor>(json).ok());
        let named = self.named()?;
        let pull = self.wish == ashlar_llb::ResolveMode::ForcePull;
        match (self.engine.resolve, named, noted) {
            (_, Some(named), _) if self.wish == ashlar_llb::ResolveMode::PreferLocal => {
                return Ok(named);
            }
            (ResolveMode::Offline, named, noted) => {
                return noted.or(named).ok_or_else(|| self.offline());
            }
            (ResolveMode::IfMissing, Some(found), None)
            | (ResolveMode::IfMissing, _, Some(found))
                if !pull =>
            {
                return Ok(found);
            }
            _ => {}
        }
        let tag = self.reference.tag().unwrap_or("latest");
        let root = match (self.repository.resolve(tag, limit).await, self.named()?) {
            (Ok(root), _) => root,
            (Err(error), Some(named)) if !pull => {
                reporter.warn(format!(
                    "{error}; the image that the store calls `{name}` is taken"
                ));
                return Ok(named);
            }
            (Err(error), _) => return Err(error.into()),
        };
        let json = serde_json::to_vec(&root).expect("BUG: a descriptor is JSON");
        // A solve in which nothing changed writes nothing.
        if known.as_ref() != Some(&json) {
            self.engine
                .meta
                .put_name(REFERENCES, name.as_bytes(), &json)?;
        }
        Ok(root)
    }

    /// The image of that name in the store, if its first document is there too.
    fn named(&self) -> Result<Option<Descriptor>, OperationError> {
        let images = Images::new(self.engine.meta.clone());
        let Some(image) = images.get(&self.reference)? else {
            return Ok(None);
        };
        let stored = self.engine.blobs.size(&image.digest)? == Some(image.size);
        Ok(stored.then_some(image))
    }
}

/// The documents of an image: from the store, or from the registry and then in the store.
struct Stored<'a>(&'a Inner);

impl Documents for Stored<'_> {
    type Error = OperationError;

    async fn document(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, OperationError> {
        let source = self.0;
        let blobs = &source.engine.blobs;
        let digest = descriptor.digest;
        if blobs.size(&digest)? == Some(descriptor.size)
            && let Some(file) = blobs.open(&digest)?
        {
            let mut bytes = Vec::new();
            let read = file.take(limit).read_to_end(&mut bytes);
            if read.is_ok() && BlobDigest::of(&bytes) == digest {
                return Ok(bytes);
            }
            // Damaged since it was stored.
            blobs.remove(&digest)?;
        }
        if !source.may_ask() {
            return Err(source.offline());
        }
        let bytes = source.repository.document(descriptor, limit).await?;
        blobs.put(&bytes)?;
        Ok(bytes)
    }
}

impl LayerBytes for Inner {
    fn open(
        &self,
        layer: &ImageLayer,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send>, OperationError> {
        if !self.may_ask() {
            let what = format!("layer {} of `{}`", layer.descriptor.digest, self.reference);
            return Err(SourceError::Offline { what }.into());
        }
        Ok(Box::new(self.repository.blob(&layer.descriptor, cancel)))
    }

    fn repository(&self) -> Option<(&str, &str)> {
        Some((self.reference.domain(), self.reference.path()))
    }

    fn failed(&self, error: ImageError) -> OperationError {
        match error {
            ImageError::Read { digest, source } => match source.downcast::<RegistryError>() {
                Ok(error) => error.into(),
                Err(source) => ImageError::Read { digest, source }.into(),
            },
            ImageError::Content(
                source @ (ContentError::Digest { .. } | ContentError::Size { .. }),
            ) => {
                let host = self.reference.domain().to_owned();
                RegistryError::Content { host, source }.into()
            }
            error => error.into(),
        }
    }
}
