//! The JSON documents of OCI and Docker images.
//!
//! Owns [`Descriptor`], [`Manifest`], [`Index`] and [`ImageConfig`] as values: fields are written
//! in the order in which Go's `image-spec` writes them, and fields that are not known here are
//! kept where a document is written again.
//!
//! Leaves to others: which documents an image has (`source::oci_layout`, `registry`) and how new
//! ones are put together (the exporters).

use std::collections::BTreeMap;

use ashlar_llb::digest::{BlobDigest, ChainId, DiffId};
use ashlar_llb::platform::Platform as LlbPlatform;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Media types of the documents.
pub mod media_type {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    /// Whether it is a manifest of one image.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether it is a list of manifests.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }
}

/// Digests as JSON strings, for `#[serde(with = "digest_text")]`.
mod digest_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(
        digest: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A list of diff ids as JSON strings.
mod digest_list {
    use ashlar_llb::digest::DiffId;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        digests: &[DiffId],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(digests.iter().map(DiffId::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<DiffId>, D::Error> {
        // Docker writes null for an image without layers.
        let texts = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
        let parsed = texts
            .iter()
            .map(|text| text.parse().map_err(serde::de::Error::custom));
        parsed.collect()
    }
}

/// Takes null for an empty list, as Go writes it.
fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Descriptor>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// What a platform is called in a descriptor and in an image config.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the fields of the specification")]
pub struct Platform {
    /// Processor architecture, such as `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, such as `linux`.
    #[serde(default)]
    pub os: String,
    /// Version of the operating system.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features of the operating system.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl From<&Platform> for LlbPlatform {
    fn from(platform: &Platform) -> Self {
        let mut new = Self::new(&platform.os, &platform.architecture);
        new.variant.clone_from(&platform.variant);
        new.os_version.clone_from(&platform.os_version);
        new.os_features.clone_from(&platform.os_features);
        new
    }
}

impl From<&LlbPlatform> for Platform {
    fn from(platform: &LlbPlatform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.clone(),
        }
    }
}

/// What a document says about a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::exhaustive_structs, reason = "the fields of the specification")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// The digest of its bytes.
    #[serde(with = "digest_text")]
    pub digest: BlobDigest,
    /// How many bytes it has.
    pub size: u64,
    /// Where else it can be had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Notes, in the order of their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Its bytes in base64, where they are so few that they need not be fetched.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// For whom the manifest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact the manifest is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

impl Descriptor {
    /// A descriptor without notes.
    pub fn new(media_type: impl Into<String>, digest: BlobDigest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: String::new(),
            platform: None,
            artifact_type: String::new(),
        }
    }
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::exhaustive_structs, reason = "the fields of the specification")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The image config.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "list")]
    pub layers: Vec<Descriptor>,
    /// Another manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes, in the order of their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whatever else is in the document.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::exhaustive_structs, reason = "the fields of the specification")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What the document is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The manifests.
    #[serde(default, deserialize_with = "list")]
    pub manifests: Vec<Descriptor>,
    /// Another manifest that this one is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Notes, in the order of their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Whatever else is in the document.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The layers of an image by their tar streams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the fields of the specification")]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Diff ids, the lowest first.
    #[serde(default, with = "digest_list")]
    pub diff_ids: Vec<DiffId>,
}

/// The config of an image, as far as the engine looks into it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "everything else is in `extra`")]
pub struct ImageConfig {
    /// For whom the image is.
    #[serde(flatten)]
    pub platform: Platform,
    /// Its layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// Everything else, as it was.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The chain ids of a stack of layers: of the lowest alone, of the lowest two, and so on.
pub fn chain_ids(diff_ids: &[DiffId]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => ChainId::from_bytes(*diff_id.as_bytes()),
            Some(below) => ChainId::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_what_is_not_known() {
        let text = r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[],"annotations":{"a":"b"},"new":{"field":1}}"#;
        let manifest: Manifest = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&manifest).unwrap(), text);
        let text = r#"{"architecture":"arm","os":"linux","variant":"v7","rootfs":{"type":"layers","diff_ids":[]},"config":{"Env":["A=b"]},"history":[]}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.platform.variant, "v7");
        assert_eq!(serde_json::to_string(&config).unwrap(), text);
        let null: ImageConfig =
            serde_json::from_str(r#"{"rootfs":{"type":"layers","diff_ids":null}}"#).unwrap();
        assert!(null.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn class_11_digests_and_sizes_are_strict() {
        let descriptor = |digest: &str, size: &str| {
            let text = format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#);
            serde_json::from_str::<Descriptor>(&text).is_ok()
        };
        let good = BlobDigest::of(b"").to_string();
        assert!(descriptor(&good, "1"));
        assert!(!descriptor(&good, "-1"));
        assert!(!descriptor(&good.to_uppercase(), "1"));
        assert!(!descriptor("sha256:../../../../etc/passwd", "1"));
        let twice = format!(r#"{{"digest":"{good}","digest":"{good}","size":1}}"#);
        assert!(serde_json::from_str::<Descriptor>(&twice).is_err());
    }
}
