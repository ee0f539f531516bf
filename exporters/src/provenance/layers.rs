//! Which layers the steps made.

use std::collections::{BTreeMap, HashMap};

use ashlar_llb::OpDigest;
use ashlar_solver::error::{Failure, OperationError};
use ashlar_solver::id::{LayerId, StackId};
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::provenance::{OutputProvenance, Provenance, ResolvedSource, VertexProvenance};
use ashlar_solver::refs::Ref;
use ashlar_solver::result::{MakeContext, SOURCE_BLOB, Store};
use serde::Serialize;

use crate::image::layer_annotations;

/// A layer as a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// By step and output: chains of layers, the lowest first.
pub(super) type StepLayers = BTreeMap<String, Vec<Vec<LayerDescriptor>>>;

/// The layers of all steps whose blobs are known. As in BuildKit, blobs are made of the result
/// alone, `tree`, and not of what the result does not contain.
pub(super) fn layers(
    provenance: &Provenance,
    numbers: &HashMap<OpDigest, usize>,
    tree: &Ref,
    store: &Store,
    context: &MakeContext<'_>,
) -> Result<StepLayers, OperationError> {
    let mut all = StepLayers::new();
    let mut known = Known::new();
    if let (Some(layers), Some(stack)) = (context.layers, tree.known_stack()) {
        let ids = stack.layer_ids().into_iter();
        known.extend(ids.zip(layers()?.into_iter().map(Some)));
    }
    for vertex in &provenance.vertices {
        let Some(number) = numbers.get(&vertex.digest) else {
            continue;
        };
        for (output, blobs) in outputs(vertex, store, &mut known)? {
            if !blobs.is_empty() {
                let blobs = blobs.into_iter().map(LayerDescriptor::from).collect();
                all.insert(format!("step{number}:{output}"), vec![blobs]);
            }
        }
    }
    Ok(all)
}

/// The blob of each layer that was looked up.
type Known = HashMap<LayerId, Option<LayerBlob>>;

fn outputs(
    vertex: &VertexProvenance,
    store: &Store,
    known: &mut Known,
) -> Result<Vec<(u32, Vec<LayerBlob>)>, Failure> {
    if let Some(ResolvedSource::Image { layers, .. }) = &vertex.source {
        return Ok(vec![(0, layers.clone())]);
    }
    let mut all = Vec::new();
    for output in &vertex.outputs {
        let Some(layers) = layers_of(output, store)? else {
            continue;
        };
        let mut blobs = Vec::with_capacity(layers.len());
        for layer in &layers {
            if !known.contains_key(layer) {
                known.insert(*layer, blob_of(*layer, store)?);
            }
            blobs.extend(known[layer].clone());
        }
        // A part of the layers would be taken for all.
        if blobs.len() == layers.len() {
            all.push((output.index, blobs));
        }
    }
    Ok(all)
}

/// The layers of an output: those noted by the solve, or those of the newest result that is
/// stored under its key. `None` if they are not known, or not there any more.
fn layers_of(output: &OutputProvenance, store: &Store) -> Result<Option<Vec<LayerId>>, Failure> {
    if output.layers.is_some() {
        return Ok(output.layers.clone());
    }
    let Some(key) = output.key else {
        return Ok(None);
    };
    let mut rows = None;
    let meta = store.meta();
    meta.read(&mut |reader| rows = Some(reader.results(key)))?;
    let Some(row) = rows.transpose()?.and_then(|rows| rows.into_iter().next()) else {
        return Ok(None);
    };
    let chain = meta.stack_chain(StackId(row.result.0))?;
    Ok((!chain.is_empty()).then_some(chain))
}

/// A blob that a layer was made from, or else one that was made of it.
fn blob_of(layer: LayerId, store: &Store) -> Result<Option<LayerBlob>, Failure> {
    let mut blobs = store.meta().layer_blobs(layer)?;
    blobs.sort_by_key(|blob| (blob.compression != SOURCE_BLOB, blob.compression.clone()));
    Ok(blobs.into_iter().next())
}

impl From<LayerBlob> for LayerDescriptor {
    fn from(blob: LayerBlob) -> Self {
        // As in BuildKit, without the mark that others may not distribute it.
        let media_type = blob.media_type.replace(".nondistributable.", ".");
        Self {
            media_type: media_type.replace(".foreign.", "."),
            digest: blob.digest.to_string(),
            size: blob.size,
            annotations: layer_annotations(&blob),
        }
    }
}

#[cfg(test)]
mod tests {
    use ashlar_llb::{BlobDigest, DiffId};
    use ashlar_solver::result::BLOB_URLS;

    use super::*;

    #[test]
    fn layers_are_told_as_anyone_may_have_them() {
        for (of_blob, told) in [
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
            (
                "application/vnd.oci.image.layer.v1.tar",
                "application/vnd.oci.image.layer.v1.tar",
            ),
        ] {
            let blob = LayerBlob {
                compression: SOURCE_BLOB.to_owned(),
                digest: BlobDigest::of(b""),
                diff_id: DiffId::of(b""),
                size: 0,
                media_type: of_blob.to_owned(),
                annotations: BTreeMap::new(),
            };
            assert_eq!(LayerDescriptor::from(blob).media_type, told);
        }
    }

    #[test]
    fn layers_are_told_with_what_snapshotters_read() {
        let told = |compression: &str| {
            let names = [
                "io.containers.estargz.uncompressed-size",
                "of.its.maker",
                BLOB_URLS,
            ];
            let annotations = names.map(|name| (name.to_owned(), "1".to_owned()));
            let blob = LayerBlob {
                compression: compression.to_owned(),
                digest: BlobDigest::of(b""),
                diff_id: DiffId::of(b""),
                size: 0,
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
                annotations: annotations.into(),
            };
            let told = serde_json::to_value(LayerDescriptor::from(blob)).unwrap();
            let names = told["annotations"].as_object().unwrap().keys().cloned();
            names.collect::<Vec<String>>()
        };
        let read = "io.containers.estargz.uncompressed-size";
        assert_eq!(told(SOURCE_BLOB), [read]);
        assert_eq!(told("estargz"), [read, "of.its.maker"]);
    }
}
