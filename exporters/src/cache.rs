//! Cache records with the blobs of their layers: what every cache transport begins with.

use std::collections::HashMap;

use ashlar_solver::cache::records::{BlobLayer, CacheRecords};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::solver::{CacheExport, CacheLayer};
use ashlar_solver::tree::Timestamp;
use tracing::Instrument as _;

use crate::exporter::blocking;
use crate::layer::{LayerOptions, LayerRequest, LayerSource, layer_blobs};
use crate::{Compression, ExportError};

/// Finds or makes the blobs of all layers of exported records, in the store. Layers of a base
/// image stay as they are, as they do in an export of an image. Blobs that have to be fetched are not:
/// [`CacheExport::blobs`] fetches what is read.
///
/// ```no_run
/// # async fn example(solved: ashlar_solver::solver::Solved)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use ashlar_exporters::{Compression, cache_blobs};
/// use ashlar_solver::cache::{CacheMode, records::ConfigLayer};
/// use ashlar_solver::cancel::Cancel;
///
/// let export = solved.export_cache(CacheMode::Max).await?;
/// let records = cache_blobs(&export, Compression::default(), &Cancel::new()).await?;
/// // The config that BuildKit keeps beside the blobs.
/// let config = records.map_layers(|layer| {
///     Ok::<_, std::convert::Infallible>(Some(ConfigLayer::from(layer)))
/// })?;
/// std::fs::write("cacheconfig.json", config.to_json())?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ExportError`].
///
/// # Cancellation
/// Raising `cancel` ends it soon with [`ExportError::Cancelled`]. Blobs that were made stay in the
/// store.
pub async fn cache_blobs(
    export: &CacheExport,
    compression: Compression,
    cancel: &Cancel,
) -> Result<CacheRecords<BlobLayer>, ExportError> {
    let (export, cancel) = (export.clone(), cancel.clone());
    let described = blocking(move || describe(&export, compression, &cancel));
    described
        .instrument(tracing::info_span!("export cache"))
        .await
}

fn describe(
    export: &CacheExport,
    compression: Compression,
    cancel: &Cancel,
) -> Result<CacheRecords<BlobLayer>, ExportError> {
    let mut places = HashMap::new();
    let mut requests = Vec::new();
    let mut told: Vec<(String, Timestamp)> = Vec::new();
    for layer in export.records.layers() {
        let layer = &layer.layer;
        if places.contains_key(&layer.id()) {
            continue;
        }
        places.insert(layer.id(), requests.len());
        let source = match layer {
            CacheLayer::Stored(stored) => {
                let content = stored.content().map_err(Failure::from)?;
                told.push((content.1.text.clone(), content.1.created));
                LayerSource::Stored(stored.clone())
            }
            CacheLayer::Blob(lazy) => {
                told.push((lazy.layer.text.clone(), lazy.layer.created));
                LayerSource::Blob(lazy.layer.blob.clone())
            }
        };
        let latest = None;
        requests.push(LayerRequest { source, latest });
    }
    let options = LayerOptions {
        compression,
        ..LayerOptions::default()
    };
    let blobs = layer_blobs(&export.store, options, &requests, cancel)?;
    export.records.map_layers(|layer| {
        let at = places[&layer.id()];
        let mut described = BlobLayer::new(blobs[at].clone());
        described.text.clone_from(&told[at].0);
        described.created = Some(told[at].1);
        Ok(Some(described))
    })
}
