//! `oci-layout://`: an image in a layout, a directory or an archive, that the caller lends.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_llb::{Platform, Reference, Vertex, pb};
use async_trait::async_trait;

use super::{SourceError, digest};
use crate::cancel::Cancel;
use crate::error::OperationError;
use crate::id::{ContentDigest, StackId};
use crate::meta::LayerBlob;
use crate::operation::{CacheMap, Context, Operation};
use crate::ops::Engine;
use crate::ops::engine::unblock;
use crate::ops::merge::NotByContent;
use crate::progress::Reporter;
use crate::refs::Ref;
use crate::result::SOURCE_BLOB;
use crate::snapshot::{ActiveLayer, LayerDescription, Stack};
use crate::source::image::{ImageLayer, ResolvedImage};
use crate::source::oci_keys::{chain_key, manifest_key};
use crate::source::oci_layout::{Layout, LayoutReference};
use crate::tree::apply::{ApplyOptions, RawLayer};

/// Where the database notes which stack an image's layers were unpacked to, by chain id.
const CHAINS: &str = "chain";

/// Layers that are unpacked at the same time. Each uses two threads.
const WORKERS: usize = 2;

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
        let attribute = "oci.layerlimit";
        let limit = match op.attrs.get(attribute) {
            None => None,
            Some(value) => Some(value.parse::<NonZero<usize>>().map(NonZero::get).map_err(
                |_| SourceError::Attribute {
                    attribute,
                    value: value.clone(),
                },
            )?),
        };
        let platform = match vertex.platform() {
            Some(platform) => Platform::from(platform).normalised(),
            None => Platform::of_target(),
        };
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
        let key = manifest_key(&image.root.digest, &self.0.platform, self.0.limit);
        let mut map = CacheMap::leaf(digest(&key));
        map.further = true;
        Ok(map)
    }

    /// Images whose layers are equal match whatever their manifests and configs say.
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
        let key = chain_key(&image.config_bytes, self.0.limit);
        Ok(key.map(|key| CacheMap::leaf(digest(&key))))
    }

    async fn content_digest(
        &self,
        _: usize,
        _: &Ref,
        _: &Context,
    ) -> Result<ContentDigest, OperationError> {
        Err(NotByContent.into())
    }

    async fn run(&self, _: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let (source, reporter) = (self.0.clone(), context.reporter.clone());
        let stack = unblock(&context.cancel, move |cancel| {
            source.unpack(&reporter, &cancel)
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

    /// The stack of the image's layers; those that the store has are not read.
    fn unpack(&self, reporter: &Reporter, cancel: &Cancel) -> Result<Stack, OperationError> {
        let image = self.resolve()?;
        let (mut stack, known) = self.known(&image)?;
        let missing = &image.layers[known..];
        if missing.is_empty() {
            return Ok(stack);
        }
        let layout = self.layout()?;
        let unpacked = self.unpack_all(&layout, missing, reporter, cancel)?;
        for (layer, (active, raw)) in missing.iter().zip(unpacked) {
            cancel.check()?;
            let normalized = raw.normalize(&stack.view()?, active.fs())?;
            let description = LayerDescription {
                text: format!("pulled from {}", self.reference),
                created: self.engine.clock.now().into(),
            };
            let committed = active.commit(normalized.index, &description)?;
            let id = committed.id();
            stack = stack.push(committed);
            self.engine.meta.put_layer_blob(id, &blob_of(layer))?;
            let row = self.engine.layers.save(&stack)?;
            let chain = layer.chain_id.as_bytes();
            self.engine
                .meta
                .put_name(CHAINS, chain, &row.0.to_le_bytes())?;
        }
        Ok(stack)
    }

    /// The longest part of the image that is stored, and how many layers it has.
    fn known(&self, image: &ResolvedImage) -> Result<(Stack, usize), OperationError> {
        for (at, layer) in image.layers.iter().enumerate().rev() {
            let Some(row) = self.engine.meta.name(CHAINS, layer.chain_id.as_bytes())? else {
                continue;
            };
            let Ok(row) = <[u8; 8]>::try_from(&row[..]) else {
                continue;
            };
            match self.engine.layers.stack(StackId(i64::from_le_bytes(row))) {
                Ok(Some(stack)) if stack.depth() == at + 1 => return Ok((stack, at + 1)),
                Ok(_) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((Stack::scratch(), 0))
    }

    /// Unpacks layers into directories of their own, several at a time, and keeps their blobs.
    fn unpack_all(
        &self,
        layout: &Layout,
        layers: &[ImageLayer],
        reporter: &Reporter,
        cancel: &Cancel,
    ) -> Result<Vec<(ActiveLayer, RawLayer)>, OperationError> {
        let next = Mutex::new(0..layers.len());
        let done = Mutex::new(BTreeMap::new());
        let failed = Mutex::new(None);
        let work = || {
            loop {
                let at = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(at) = at else { return };
                match self.unpack_one(layout, &layers[at], reporter, cancel) {
                    Ok(layer) => {
                        done.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(at, layer);
                    }
                    Err(error) => {
                        *next.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..WORKERS.min(layers.len()) {
                let thread = std::thread::Builder::new().name("ashlar-unpack".to_owned());
                // Without a second thread the first does it all.
                if thread.spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
                .into_values()
                .collect()),
        }
    }

    fn unpack_one(
        &self,
        layout: &Layout,
        layer: &ImageLayer,
        reporter: &Reporter,
        cancel: &Cancel,
    ) -> Result<(ActiveLayer, RawLayer), OperationError> {
        let descriptor = &layer.descriptor;
        let id = format!("extracting {}", descriptor.digest);
        reporter.status(id.as_str(), 0, descriptor.size, false);
        let options = ApplyOptions {
            privileged: self.engine.is_privileged(),
        };
        let active = self.engine.layers.new_layer()?;
        let raw = layout.unpack(layer, active.fs(), options, &self.engine.limits, cancel)?;
        let mut blob = layout.blob(descriptor)?;
        self.engine
            .blobs
            .copy_in(&mut blob, descriptor.digest, descriptor.size)?;
        reporter.status(id, descriptor.size, descriptor.size, true);
        Ok((active, raw))
    }
}

fn blob_of(layer: &ImageLayer) -> LayerBlob {
    LayerBlob {
        compression: SOURCE_BLOB.to_owned(),
        digest: layer.descriptor.digest,
        diff_id: layer.diff_id,
        size: layer.descriptor.size,
        media_type: layer.descriptor.media_type.clone(),
    }
}
