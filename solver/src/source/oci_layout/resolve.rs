//! From a reference to one image.

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::platform::Platform;
use futures::FutureExt as _;

use super::{Layout, OciLayoutError};
use crate::limits::Limits;
use crate::oci::Descriptor;
use crate::source::image::{Documents, ResolvedImage, resolve};

/// Where tools write the name of an image in `index.json`.
const NAMES: [&str; 2] = [
    "org.opencontainers.image.ref.name",
    "io.containerd.image.name",
];

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LayoutReference {
    /// A tag or a full name, as `index.json` has it. With a digest it is not looked at.
    pub name: Option<String>,
    /// The digest of a manifest or index.
    pub digest: Option<BlobDigest>,
}

impl LayoutReference {
    /// The image of that digest, whether `index.json` names it or not.
    pub fn digest(digest: BlobDigest) -> Self {
        Self {
            name: None,
            digest: Some(digest),
        }
    }

    /// The image of that tag or full name.
    pub fn name(name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            digest: None,
        }
    }
}

impl Documents for Layout {
    type Error = OciLayoutError;

    async fn document(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, OciLayoutError> {
        self.verified(descriptor, limit)
    }
}

impl Layout {
    /// Finds an image and reads all its documents; no layer is opened.
    ///
    /// An index gives the manifest that fits `platform` best, as containerd chooses; a manifest
    /// that the reference leads to directly is taken whatever its platform.
    ///
    /// # Errors
    /// [`OciLayoutError`].
    pub fn resolve(
        &self,
        reference: &LayoutReference,
        platform: &Platform,
        limits: &Limits,
    ) -> Result<ResolvedImage, OciLayoutError> {
        let root = self.root(reference, limits)?;
        resolve(self, root, platform, limits)
            .now_or_never()
            .expect("BUG: reading a layout never waits")
    }

    fn root(
        &self,
        reference: &LayoutReference,
        limits: &Limits,
    ) -> Result<Descriptor, OciLayoutError> {
        let images = self.index(limits.manifest_bytes)?.manifests;
        if let Some(digest) = reference.digest {
            if let Some(found) = images.into_iter().find(|image| image.digest == digest) {
                return Ok(found);
            }
            return Ok(Descriptor::new("", digest, self.blob_size(&digest)?));
        }
        let names = |image: &Descriptor| -> Vec<String> {
            NAMES
                .iter()
                .filter_map(|key| image.annotations.get(*key).cloned())
                .collect()
        };
        if let Some(name) = &reference.name {
            let last = name.rsplit_once('/').map_or(&name[..], |(_, last)| last);
            let tag = last.rsplit_once(':').map(|(_, tag)| tag);
            let exact = images.iter().find(|image| names(image).contains(name));
            let by_tag = || {
                let tagged = |image: &&Descriptor| {
                    tag.is_some() && image.annotations.get(NAMES[0]).map(|name| &name[..]) == tag
                };
                images.iter().find(tagged)
            };
            return exact
                .or_else(by_tag)
                .cloned()
                .ok_or_else(|| OciLayoutError::UnknownName {
                    name: name.clone(),
                    available: images.iter().flat_map(names).collect(),
                });
        }
        match <[Descriptor; 1]>::try_from(images) {
            Ok([only]) => Ok(only),
            Err(images) => Err(OciLayoutError::Ambiguous {
                count: images.len(),
            }),
        }
    }
}
