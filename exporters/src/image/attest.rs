//! Attestation manifests: statements beside the image that they are about.

use std::collections::BTreeMap;

use ashlar_solver::oci::{Descriptor, Platform, media_type};
use base64::Engine as _;
use serde::Serialize;

use super::manifest::Manifest;
use super::{Image, manifest};
use crate::statement::{Predicate, StatementSubject};
use crate::{ExportError, json};

/// Media type of an in-toto statement.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// Annotation with the kind of predicate.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// What kind of artifact an attestation manifest is.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// Media type of the config of an artifact.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Annotation that tells attestations from images.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
/// Annotation with the digest of the image.
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// The config of attestations that are written as an image.
#[derive(Serialize)]
struct Config {
    architecture: &'static str,
    os: &'static str,
    config: BTreeMap<String, String>,
    rootfs: RootFs,
}

#[derive(Serialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(serialize_with = "manifest::list")]
    diff_ids: Vec<String>,
}

/// Adds what is attested of the image that `target` names, and gives what names it in the index.
pub(super) fn attest(
    image: &mut Image,
    target: &Descriptor,
    predicates: &[Predicate],
    subjects: &[StatementSubject],
    as_artifact: bool,
) -> Result<Descriptor, ExportError> {
    let mut layers = Vec::new();
    for predicate in predicates {
        let mut layer = image.add_text(STATEMENT, predicate.compact(subjects)?);
        let kind = predicate.predicate_type.clone();
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), kind);
        layers.push(layer);
    }
    let config = if as_artifact {
        let mut config = image.add_text(EMPTY, b"{}".to_vec());
        config.data = base64::engine::general_purpose::STANDARD.encode("{}");
        config
    } else {
        let config = Config {
            architecture: "unknown",
            os: "unknown",
            config: BTreeMap::new(),
            rootfs: RootFs {
                kind: "layers",
                diff_ids: layers
                    .iter()
                    .map(|layer| layer.digest.to_string())
                    .collect(),
            },
        };
        let text = json::compact(&config).map_err(ExportError::json)?;
        image.add_text(media_type::OCI_CONFIG, text)
    };
    let subject = Descriptor::new(&target.media_type, target.digest, target.size);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST,
        artifact_type: if as_artifact { ARTIFACT } else { "" },
        config,
        layers,
        subject: as_artifact.then_some(subject),
        annotations: BTreeMap::new(),
    };
    let text = json::indented(&manifest).map_err(ExportError::json)?;
    let mut described = image.add_text(media_type::OCI_MANIFEST, text);
    described.annotations = BTreeMap::from([
        (REFERENCE_DIGEST.to_owned(), target.digest.to_string()),
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
    ]);
    described.platform = Some(Platform {
        architecture: "unknown".to_owned(),
        os: "unknown".to_owned(),
        ..Platform::default()
    });
    Ok(described)
}
