//! From a reference to one image.

use ashlar_llb::digest::{BlobDigest, ChainId, DiffId};
use ashlar_llb::platform::{Platform, PlatformMatcher};
use serde_json::Value;

use super::{Layout, OciLayoutError};
use crate::content::Compression;
use crate::limits::Limits;
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, chain_ids, media_type};

/// Indexes that may lead to each other before there must be a manifest.
const MAX_DEPTH: usize = 4;

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

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// What it inflates to.
    pub diff_id: DiffId,
    /// The stack up to and with this layer.
    pub chain_id: ChainId,
    /// What the media type says of its compression.
    pub compression: Compression,
}

/// An image for one platform.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResolvedImage {
    /// What the reference led to: a manifest or an index. Its digest counts for the cache key.
    pub root: Descriptor,
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// The bytes of the manifest.
    pub manifest_bytes: Vec<u8>,
    /// The digest of the config.
    pub config_digest: BlobDigest,
    /// The bytes of the config.
    pub config_bytes: Vec<u8>,
    /// The config.
    pub config: ImageConfig,
    /// Layers, the lowest first.
    pub layers: Vec<ImageLayer>,
}

impl ResolvedImage {
    /// Keeps the lowest `limit` layers.
    ///
    /// # Errors
    /// [`OciLayoutError::Image`] if there are fewer.
    pub fn limit_layers(mut self, limit: usize) -> Result<Self, OciLayoutError> {
        let count = self.layers.len();
        if limit > count {
            let problem = format!("it has {count} layers, the limit is {limit}");
            return Err(OciLayoutError::Image {
                digest: self.manifest.digest,
                problem,
            });
        }
        self.layers.truncate(limit);
        Ok(self)
    }
}

/// A document of which it is clear what it is.
enum Document {
    Manifest(Box<Manifest>),
    Index(Box<Index>),
}

/// The manifest that was chosen.
struct Chosen {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    manifest: Box<Manifest>,
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
        let matcher = PlatformMatcher::only(platform);
        let Some(chosen) = self.choose(&root, &matcher, limits, 0)? else {
            let available = self.platforms(&root, limits);
            let platform = platform.format_all();
            return Err(OciLayoutError::NoPlatform {
                digest: root.digest,
                platform,
                available,
            });
        };
        self.image(root, chosen, limits)
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

    /// The best manifest below `descriptor`; `None` if none fits.
    fn choose(
        &self,
        descriptor: &Descriptor,
        matcher: &PlatformMatcher,
        limits: &Limits,
        depth: usize,
    ) -> Result<Option<Chosen>, OciLayoutError> {
        let bytes = self.verified(descriptor, limits.manifest_bytes)?;
        let index = match document(descriptor, &bytes)? {
            Document::Manifest(manifest) => {
                // A manifest in an index that does not say its platform is known by its config.
                if depth > 0 && descriptor.platform.is_none() {
                    let config = self.verified(&manifest.config, limits.manifest_bytes)?;
                    let config: ImageConfig = parse(&manifest.config.digest, &config)?;
                    if !matcher.matches(&Platform::from(&config.platform)) {
                        return Ok(None);
                    }
                }
                return Ok(Some(Chosen {
                    descriptor: descriptor.clone(),
                    bytes,
                    manifest,
                }));
            }
            Document::Index(index) => index,
        };
        if depth >= MAX_DEPTH {
            return Err(OciLayoutError::Confusing {
                name: descriptor.digest.to_string(),
                problem: "too many indexes are inside each other".to_owned(),
            });
        }
        let mut fitting: Vec<(usize, &Descriptor)> = index
            .manifests
            .iter()
            .filter_map(|image| match &image.platform {
                Some(platform) => Some((matcher.rank(&platform.into())?, image)),
                None => Some((usize::MAX, image)),
            })
            .collect();
        fitting.sort_by_key(|(rank, _)| *rank);
        for (_, image) in fitting {
            if let Some(found) = self.choose(image, matcher, limits, depth + 1)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The platforms that an index tells, for an error message.
    fn platforms(&self, root: &Descriptor, limits: &Limits) -> Vec<String> {
        let bytes = self
            .verified(root, limits.manifest_bytes)
            .unwrap_or_default();
        let Ok(Document::Index(index)) = document(root, &bytes) else {
            return Vec::new();
        };
        let platforms = index
            .manifests
            .iter()
            .filter_map(|image| image.platform.as_ref());
        platforms
            .take(20)
            .map(|platform| Platform::from(platform).format_all())
            .collect()
    }

    fn image(
        &self,
        root: Descriptor,
        chosen: Chosen,
        limits: &Limits,
    ) -> Result<ResolvedImage, OciLayoutError> {
        let Chosen {
            descriptor,
            bytes,
            manifest,
        } = chosen;
        let refused = |problem: String| OciLayoutError::Image {
            digest: descriptor.digest,
            problem,
        };
        let config_bytes = self.verified(&manifest.config, limits.manifest_bytes)?;
        let config: ImageConfig = parse(&manifest.config.digest, &config_bytes)?;
        let ids = &config.rootfs.diff_ids;
        let count = manifest.layers.len();
        if count > limits.image_layers {
            let limit = limits.image_layers;
            return Err(refused(format!("it has {count} layers, more than {limit}")));
        }
        if count != ids.len() {
            let ids = ids.len();
            return Err(refused(format!(
                "it has {count} layers, its config tells {ids}"
            )));
        }
        if count > 0 && config.rootfs.kind != "layers" {
            return Err(refused("its config does not tell layers".to_owned()));
        }
        let config_digest = manifest.config.digest;
        let layers = manifest.layers.into_iter().zip(ids).zip(chain_ids(ids));
        let layers = layers
            .map(|((descriptor, &diff_id), chain_id)| {
                let compression = Compression::of_media_type(&descriptor.media_type);
                let compression = compression.ok_or_else(|| {
                    let media_type = descriptor.media_type.escape_debug();
                    refused(format!("a layer has the media type `{media_type}`"))
                })?;
                Ok(ImageLayer {
                    descriptor,
                    diff_id,
                    chain_id,
                    compression,
                })
            })
            .collect::<Result<Vec<_>, OciLayoutError>>()?;
        Ok(ResolvedImage {
            root,
            manifest: descriptor,
            manifest_bytes: bytes,
            config_digest,
            config_bytes,
            config,
            layers,
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(
    digest: &BlobDigest,
    bytes: &[u8],
) -> Result<T, OciLayoutError> {
    serde_json::from_slice(bytes).map_err(|source| OciLayoutError::Document {
        name: digest.to_string(),
        source,
    })
}

/// Decides what a document is, and refuses what could be two things.
fn document(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document, OciLayoutError> {
    let confusing = |problem: String| OciLayoutError::Confusing {
        name: descriptor.digest.to_string(),
        problem,
    };
    let value: Value = parse(&descriptor.digest, bytes)?;
    let has = |key: &str| value.get(key).is_some();
    let own = value
        .get("mediaType")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let told = &descriptor.media_type[..];
    if !own.is_empty() && !told.is_empty() && own != told {
        return Err(confusing(
            "its descriptor tells another media type".to_owned(),
        ));
    }
    let listed = has("manifests");
    let single = has("layers") || has("config") || has("fsLayers");
    if listed && single {
        return Err(confusing("it is both a manifest and an index".to_owned()));
    }
    let kind = match (told, own) {
        ("", "") if listed => media_type::OCI_INDEX,
        ("", "") => media_type::OCI_MANIFEST,
        ("", own) => own,
        (told, _) => told,
    };
    if value.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err(confusing("its schema version is not 2".to_owned()));
    }
    if media_type::is_manifest(kind) && !listed {
        Ok(Document::Manifest(Box::new(parse(
            &descriptor.digest,
            bytes,
        )?)))
    } else if media_type::is_index(kind) && !single {
        Ok(Document::Index(Box::new(parse(&descriptor.digest, bytes)?)))
    } else {
        let kind = kind.escape_debug();
        Err(confusing(format!(
            "the media type `{kind}` is not what it contains"
        )))
    }
}
