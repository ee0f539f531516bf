//! `oci-layout://`: an image in a layout, a directory or an archive, that the caller lends.

use std::io::Read;
use std::sync::Arc;

use ashlar_llb::{Platform, Reference, Vertex, pb};
use async_trait::async_trait;

use super::image_layers::{ImageLayers, LayerBytes};
use super::{Source, SourceError, image_key, layer_limit, resolved_image};
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::operation::{CacheMap, Context};
use crate::ops::Engine;
use crate::ops::engine::unblock;
use crate::ops::platform_of;
use crate::progress::Reporter;
use crate::provenance::ResolvedSource;
use crate::refs::Ref;
use crate::source::image::{ImageError, ImageLayer, ResolvedImage};
use crate::source::oci_layout::{Layout, LayoutReference, OciLayoutError};

/// An image source, ready to be resolved.
#[derive(Debug)]
pub(super) struct OciLayoutSource {
    /// As the identifier has it.
    reference: String,
    store: String,
    limit: Option<usize>,
    platform: Platform,
    engine: Arc<Engine>,
}

/// An image that was found.
#[derive(Debug)]
pub(super) struct LayoutImage {
    /// Opened once: an archive is looked through for that.
    layout: Layout,
    image: Arc<ResolvedImage>,
}

impl OciLayoutSource {
    pub(super) fn new(
        reference: &str,
        op: &pb::SourceOp,
        vertex: &Vertex,
        engine: &Arc<Engine>,
    ) -> Result<Self, SourceError> {
        Ok(Self {
            reference: reference.to_owned(),
            store: op.attrs.get("oci.store").cloned().unwrap_or_default(),
            limit: layer_limit(op, "oci.layerlimit")?,
            platform: platform_of(vertex),
            engine: engine.clone(),
        })
    }
}

#[async_trait]
impl Source for OciLayoutSource {
    type Pin = LayoutImage;

    async fn pin(&self, context: &Context) -> Result<LayoutImage, OperationError> {
        let lent = self.engine.session.oci_layouts.get(&self.store);
        let path = lent.cloned().ok_or_else(|| SourceError::NotLent {
            what: "image layout",
            name: self.store.clone(),
        })?;
        let named = Reference::parse(&self.reference).ok();
        let reference = match named.and_then(|reference| reference.blob_digest()) {
            Some(digest) => LayoutReference::digest(digest),
            None => LayoutReference::name(&self.reference),
        };
        let (platform, limit) = (self.platform.clone(), self.limit);
        let limits = self.engine.limits.clone();
        unblock(&context.cancel, move |_| {
            let layout = Layout::open(&path)?;
            let mut image = layout.resolve(&reference, &platform, &limits)?;
            if let Some(limit) = limit {
                image = image.limit_layers(limit)?;
            }
            let image = Arc::new(image);
            Ok(LayoutImage { layout, image })
        })
        .await
    }

    fn resolved(&self, pin: &LayoutImage) -> ResolvedSource {
        resolved_image(self.reference.clone(), &self.platform, &pin.image, true)
    }

    fn cache_key(&self, pin: &LayoutImage, index: usize) -> Option<CacheMap> {
        image_key(&pin.image, &self.platform, self.limit, index)
    }

    async fn fetch(&self, pin: &LayoutImage, context: &Context) -> Result<Ref, OperationError> {
        let layers = self.layers(pin, context.reporter.clone());
        let stack = unblock(&context.cancel, move |cancel| layers.stack(&cancel));
        Ok(Ref::from(stack.await?))
    }

    fn origin(&self, pin: &LayoutImage, reporter: Reporter) -> Option<Ref> {
        Some(Ref::lazy(Arc::new(self.layers(pin, reporter))))
    }
}

impl OciLayoutSource {
    fn layers(&self, pin: &LayoutImage, reporter: Reporter) -> ImageLayers {
        let bytes = Arc::new(LayoutBytes(pin.layout.clone()));
        let engine = self.engine.clone();
        ImageLayers::of_image(&pin.image, &self.reference, bytes, reporter, engine)
    }
}

/// The blobs of a layout.
#[derive(Debug)]
struct LayoutBytes(Layout);

impl LayerBytes for LayoutBytes {
    fn open(&self, layer: &ImageLayer, _: &Cancel) -> Result<Box<dyn Read + Send>, OperationError> {
        Ok(Box::new(self.0.blob(&layer.descriptor)?))
    }

    fn failed(&self, error: ImageError) -> OperationError {
        OciLayoutError::from(error).into()
    }
}
