//! `oci-layout://`: an image in a layout, a directory or an archive, that the caller lends.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_llb::{Platform, Reference, Vertex, pb};
use async_trait::async_trait;

use super::image_layers::{ImageLayers, LayerBytes};
use super::{SourceError, layer_limit, layers_map, manifest_map, platform_of};
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::operation::{CacheMap, Context, Operation};
use crate::ops::Engine;
use crate::ops::engine::unblock;
use crate::refs::Ref;
use crate::source::image::{ImageError, ImageLayer, ResolvedImage};
use crate::source::oci_layout::{Layout, LayoutReference, OciLayoutError};

/// An image source, ready to be resolved.
#[derive(Debug, Clone)]
pub(super) struct OciLayoutOperation(Arc<Source>);

#[derive(Debug)]
struct Source {
    /// As the identifier has it.
    reference: String,
    store: String,
    limit: Option<usize>,
    platform: Platform,
    engine: Arc<Engine>,
    /// Opened once: an archive is looked through for that.
    opened: Mutex<Option<Layout>>,
    /// Resolved once: what was keyed is what is unpacked.
    resolved: Mutex<Option<Arc<ResolvedImage>>>,
}

impl OciLayoutOperation {
    pub(super) fn new(
        reference: &str,
        op: &pb::SourceOp,
        vertex: &Vertex,
        engine: &Arc<Engine>,
    ) -> Result<Self, SourceError> {
        let limit = layer_limit(op, "oci.layerlimit")?;
        let platform = platform_of(vertex);
        Ok(Self(Arc::new(Source {
            reference: reference.to_owned(),
            store: op.attrs.get("oci.store").cloned().unwrap_or_default(),
            limit,
            platform,
            engine: engine.clone(),
            opened: Mutex::new(None),
            resolved: Mutex::new(None),
        })))
    }
}

#[async_trait]
impl Operation<Ref> for OciLayoutOperation {
    async fn cache_map(&self, context: &Context) -> Result<CacheMap, OperationError> {
        let source = self.0.clone();
        let image = unblock(&context.cancel, move |_| source.resolve()).await?;
        Ok(manifest_map(&image, &self.0.platform, self.0.limit))
    }

    async fn further_cache_map(
        &self,
        index: usize,
        context: &Context,
    ) -> Result<Option<CacheMap>, OperationError> {
        if index > 1 {
            return Ok(None);
        }
        let source = self.0.clone();
        let image = unblock(&context.cancel, move |_| source.resolve()).await?;
        Ok(layers_map(&image, self.0.limit))
    }

    async fn run(&self, _: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let (source, reporter) = (self.0.clone(), context.reporter.clone());
        let stack = unblock(&context.cancel, move |cancel| {
            let layers = ImageLayers {
                image: source.resolve()?,
                reference: source.reference.clone(),
                bytes: Arc::new(LayoutBytes(source.layout()?)),
                reporter,
                engine: source.engine.clone(),
            };
            layers.stack(&cancel)
        })
        .await?;
        Ok(vec![Ref::from(stack)])
    }
}

impl Source {
    fn layout(&self) -> Result<Layout, OperationError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = &*opened {
            return Ok(layout.clone());
        }
        let lent = self.engine.session.oci_layouts.get(&self.store);
        let path = lent.ok_or_else(|| SourceError::NotLent {
            what: "image layout",
            name: self.store.clone(),
        })?;
        Ok(opened.insert(Layout::open(path)?).clone())
    }

    fn resolve(&self) -> Result<Arc<ResolvedImage>, OperationError> {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = &*resolved {
            return Ok(image.clone());
        }
        let named = Reference::parse(&self.reference).ok();
        let reference = match named.and_then(|reference| reference.blob_digest()) {
            Some(digest) => LayoutReference::digest(digest),
            None => LayoutReference::name(&self.reference),
        };
        let layout = self.layout()?;
        let mut image = layout.resolve(&reference, &self.platform, &self.engine.limits)?;
        if let Some(limit) = self.limit {
            image = image.limit_layers(limit)?;
        }
        let image = Arc::new(image);
        *resolved = Some(image.clone());
        Ok(image)
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
