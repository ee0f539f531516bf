//! Manifests and indexes, in the member order of the Go types.

use std::collections::BTreeMap;

use ashlar_solver::oci::{Descriptor, media_type};
use serde::{Serialize, Serializer};

/// Go writes null for a list that nothing was added to.
pub(super) fn list<T: Serialize, S: Serializer>(
    list: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_seq(list)
    }
}

/// One image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u8,
    pub(super) media_type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) artifact_type: &'static str,
    pub(super) config: Descriptor,
    #[serde(serialize_with = "list")]
    pub(super) layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A list of images; `D` is how they are described.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index<D> {
    schema_version: u8,
    media_type: &'static str,
    manifests: Vec<D>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl<D> Index<D> {
    pub(crate) fn new(manifests: Vec<D>) -> Self {
        Self {
            schema_version: 2,
            media_type: media_type::OCI_INDEX,
            manifests,
            annotations: BTreeMap::new(),
        }
    }

    /// The list of manifests that Docker knows.
    pub(super) fn of_docker(mut self) -> Self {
        self.media_type = media_type::DOCKER_LIST;
        self
    }

    pub(super) fn media_type(&self) -> &'static str {
        self.media_type
    }
}
