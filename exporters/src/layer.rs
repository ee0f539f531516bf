//! Layers as blobs: found where they were made before, made where not.
//!
//! Owns [`layer_blobs`]. A layer that an image brought stays as it came, unless another compression
//! is forced or its times are rewritten; one that a build made has the compression that was asked
//! for. What was made is noted in the store, by layer or by original blob, and the name of how.

mod make;

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

/// Annotation with the digest of the table of contents of an eStargz layer.
pub(crate) const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";

/// How layers are to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LayerOptions {
    /// How those that a build made are compressed.
    pub(crate) compression: Compression,
    /// Whether those of a base image are converted to that kind too.
    pub(crate) force: bool,
}

/// What a blob is wanted of.
#[derive(Debug, Clone)]
pub(crate) enum LayerSource {
    /// A layer of the store.
    Stored(Layer),
    /// A layer of an image of which only the blob is in the store.
    Blob(LayerBlob),
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub(crate) struct LayerRequest {
    pub(crate) source: LayerSource,
    /// No time in it is later than this.
    pub(crate) latest: Option<Timestamp>,
}

/// Finds or makes the blobs of layers, in their order. Those that are missing are made at the same
/// time. Blocks.
pub(crate) fn layer_blobs(
    store: &Store,
    options: LayerOptions,
    requests: &[LayerRequest],
    cancel: &Cancel,
) -> Result<Vec<LayerBlob>, ExportError> {
    let mut found = Vec::with_capacity(requests.len());
    let mut missing = Vec::new();
    for request in requests {
        let planned = plan(store, options, request, cancel)?;
        found.push(match planned {
            Planned::Known(blob) => Some(blob),
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
    let all = found.into_iter().map(|blob| blob.or_else(|| made.next()));
    Ok(all
        .map(|blob| blob.expect("BUG: every work makes one"))
        .collect())
}

enum Planned<'a> {
    Known(LayerBlob),
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
        return Ok(Planned::Known(original.clone()));
    }
    let making = Making::new(store, origin, options.compression, request.latest, cancel);
    Ok(match making.known()? {
        Some(blob) => Planned::Known(blob),
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
