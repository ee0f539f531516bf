//! Layers as blobs: found where they were made before, made where not.
//!
//! Owns [`layer_blobs`] and [`made_layers`]. A layer that an image brought stays as it came, unless another compression
//! is forced or its times are rewritten; one that a build made has the compression that was asked
//! for. What was made is noted in the store, by layer or by original blob, and the name of how.
//!
//! A plain tar is not kept as a blob where the caller can do without: the layer is read once for its
//! digest, which is noted, and packed straight into the output.

mod make;
mod packed;

use std::os::unix::fs::FileExt as _;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::content;
use ashlar_solver::error::Failure;
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::result::{SOURCE_BLOB, Store};
use ashlar_solver::snapshot::Layer;
use ashlar_solver::tree::Timestamp;

use crate::blocks::{self, table_offset};
use crate::{Compression, ExportError};
use make::{Making, Origin};

pub(crate) use packed::Packed;

/// Annotation with the digest of the table of contents of an eStargz layer.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// The annotation with the size of the tar of an eStargz layer, which containers/storage reads.
pub(crate) const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

/// How layers are to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LayerOptions {
    /// How those that a build made are compressed.
    pub(crate) compression: Compression,
    /// Whether those of a base image are converted to that kind too.
    pub(crate) force: bool,
    /// Whether plain tars need not be in the store: the caller packs them.
    pub(crate) packs: bool,
}

/// A layer as a blob.
#[derive(Debug, Clone)]
pub(crate) struct MadeLayer {
    pub(crate) blob: LayerBlob,
    /// What its bytes are made of, if they are not in the store.
    pub(crate) packed: Option<Packed>,
}

impl From<LayerBlob> for MadeLayer {
    fn from(blob: LayerBlob) -> Self {
        let packed = None;
        Self { blob, packed }
    }
}

/// What a blob is wanted of.
#[derive(Debug, Clone)]
pub(crate) enum LayerSource {
    /// A layer of the store.
    Stored(Layer),
    /// A layer of an image, as it is there.
    Blob(LayerBlob),
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct LayerRequest {
    pub(crate) source: LayerSource,
    /// No time in it is later than this.
    pub(crate) latest: Option<Timestamp>,
}

/// Finds or makes the blobs of layers in the store, in their order. Blocks.
pub(crate) fn layer_blobs(
    store: &Store,
    options: LayerOptions,
    requests: &[LayerRequest],
    cancel: &Cancel,
) -> Result<Vec<LayerBlob>, ExportError> {
    let packs = false;
    let made = made_layers(store, LayerOptions { packs, ..options }, requests, cancel)?;
    Ok(made.into_iter().map(|made| made.blob).collect())
}

/// Finds or makes layers as blobs, in their order. Those that are missing are made at the same
/// time. Blocks.
pub(crate) fn made_layers(
    store: &Store,
    options: LayerOptions,
    requests: &[LayerRequest],
    cancel: &Cancel,
) -> Result<Vec<MadeLayer>, ExportError> {
    let mut found = Vec::with_capacity(requests.len());
    let mut missing = Vec::new();
    for request in requests {
        let planned = plan(store, options, request, cancel)?;
        found.push(match planned {
            Planned::Known(known) => Some(known),
            Planned::Make(making) => {
                missing.push(*making);
                None
            }
        });
    }
    let mut made = match missing.is_empty() {
        true => Vec::new(),
        false => blocks::run(&missing, cancel)?,
    }
    .into_iter();
    let all = found.into_iter().map(|known| known.or_else(|| made.next()));
    Ok(all
        .map(|made| made.expect("BUG: every work makes one"))
        .collect())
}

enum Planned<'a> {
    Known(MadeLayer),
    Make(Box<Making<'a>>),
}

fn plan<'a>(
    store: &'a Store,
    options: LayerOptions,
    request: &LayerRequest,
    cancel: &'a Cancel,
) -> Result<Planned<'a>, ExportError> {
    let origin = match &request.source {
        LayerSource::Blob(blob) => Origin::Blob(blob.clone()),
        LayerSource::Stored(layer) => {
            let known = store.layer_blobs(layer)?;
            let original = known.into_iter().find(|b| b.compression == SOURCE_BLOB);
            original.map_or_else(|| Origin::Layer(layer.clone()), Origin::Blob)
        }
    };
    if let Origin::Blob(original) = &origin
        && request.latest.is_none()
        && (!options.force || is_of_kind(store, original, options.compression)?)
    {
        return Ok(Planned::Known(original.clone().into()));
    }
    let making = Making::new(store, origin, options, request.latest, cancel);
    Ok(match making.known()? {
        Some(known) => Planned::Known(known),
        None => Planned::Make(Box::new(making)),
    })
}

/// Whether a blob is compressed as asked for, whatever the level.
fn is_of_kind(
    store: &Store,
    blob: &LayerBlob,
    compression: Compression,
) -> Result<bool, ExportError> {
    let kind = content::Compression::of_media_type(&blob.media_type);
    Ok(match compression {
        Compression::Uncompressed => kind == Some(content::Compression::Uncompressed),
        Compression::Zstd { .. } => kind == Some(content::Compression::Zstd),
        _ if kind != Some(content::Compression::Gzip) => false,
        Compression::Estargz { .. } => table_of(store, blob)?.is_some(),
        _ => table_of(store, blob)?.is_none(),
    })
}

/// Where the table of contents of a blob begins, if it is eStargz.
fn table_of(store: &Store, blob: &LayerBlob) -> Result<Option<u64>, ExportError> {
    let mut footer = [0; 51];
    let file = store.blobs().open(&blob.digest).map_err(Failure::from)?;
    let (Some(file), Some(at)) = (file, blob.size.checked_sub(51)) else {
        return Ok(None);
    };
    // What is too short is found out when it is read.
    Ok(match file.read_exact_at(&mut footer, at) {
        Ok(()) => table_offset(&footer).filter(|table| *table < at),
        Err(_) => None,
    })
}

#[cfg(test)]
mod tests;
