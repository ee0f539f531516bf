//! Manifest, index and descriptor, in the member order of the Go types.

use std::collections::BTreeMap;

use ashlar_llb::{BlobDigest, Platform};
use serde::{Serialize, Serializer};

/// Media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image config.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What points at a blob.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    #[serde(serialize_with = "text")]
    pub(crate) digest: BlobDigest,
    pub(crate) size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<PlatformJson>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: BlobDigest, size: u64) -> Self {
        let annotations = BTreeMap::new();
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations,
            platform: None,
        }
    }
}

fn text<S: Serializer>(digest: &BlobDigest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

/// A platform as descriptors write it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PlatformJson {
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    os_version: String,
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    os_features: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

impl From<&Platform> for PlatformJson {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.clone(),
        }
    }
}

/// One image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Manifest {
    pub(crate) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: MANIFEST,
            config,
            layers,
        }
    }
}

/// A list of images.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index<D> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<D>,
}

impl<D> Index<D> {
    pub(crate) fn new(manifests: Vec<D>) -> Self {
        Self {
            schema_version: 2,
            media_type: INDEX,
            manifests,
        }
    }
}
