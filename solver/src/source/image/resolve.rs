//! From a descriptor to the image of one platform.

use std::future::Future;

use ashlar_llb::digest::{BlobDigest, ChainId, DiffId};
use ashlar_llb::platform::{Platform, PlatformMatcher};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::ImageError;
use crate::content::Compression;
use crate::limits::Limits;
use crate::oci::{Descriptor, ImageConfig, Index, Manifest, chain_ids, media_type};
use crate::tree::Timestamp;

/// Indexes that may lead to each other before there must be a manifest.
const MAX_DEPTH: usize = 4;

/// Where the documents of images are read from.
pub trait Documents: Sync {
    /// Why a document cannot be had.
    type Error: From<ImageError> + Send;

    /// The bytes of a manifest, index or config, verified against the descriptor. May be called
    /// again for the same one. `limit`: bytes above which it is refused, unread if possible.
    fn document(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> impl Future<Output = Result<Vec<u8>, Self::Error>> + Send;
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
    /// When the image says that it was made; 1970 if it does not say. Its layers count as made
    /// then, so that what is made of them does not depend on when they were fetched.
    pub fn created(&self) -> Timestamp {
        let created = self.config.extra.get("created");
        let created = created.and_then(|created| created.as_str());
        created
            .and_then(|created| created.parse().ok())
            .unwrap_or_default()
    }

    /// Keeps the lowest `limit` layers.
    ///
    /// # Errors
    /// [`ImageError::Image`] if there are fewer.
    pub fn limit_layers(mut self, limit: usize) -> Result<Self, ImageError> {
        let count = self.layers.len();
        if limit > count {
            let problem = format!("it has {count} layers, the limit is {limit}");
            return Err(ImageError::Image {
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

/// Finds the image for `platform` below `root` and reads all its documents; no layer is opened.
///
/// An index gives the manifest that fits best, as containerd chooses; a manifest that is itself
/// the root is taken whatever its platform.
///
/// # Errors
/// [`ImageError`], or what `documents` says.
///
/// # Cancellation
/// Dropping the future stops it; nothing was changed.
pub async fn resolve<D: Documents>(
    documents: &D,
    root: Descriptor,
    platform: &Platform,
    limits: &Limits,
) -> Result<ResolvedImage, D::Error> {
    let search = Search {
        documents,
        matcher: PlatformMatcher::only(platform),
        limits,
    };
    let Some(chosen) = search.choose(&root, 0).await? else {
        return Err(ImageError::NoPlatform {
            digest: root.digest,
            platform: platform.format_all(),
            available: search.platforms(&root).await,
        }
        .into());
    };
    search.image(root, chosen).await
}

struct Search<'a, D> {
    documents: &'a D,
    matcher: PlatformMatcher,
    limits: &'a Limits,
}

impl<D: Documents> Search<'_, D> {
    async fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, D::Error> {
        let limit = self.limits.manifest_bytes;
        if descriptor.size > limit {
            return Err(ImageError::DocumentTooLarge {
                name: descriptor.digest.to_string(),
                size: descriptor.size,
                limit,
            }
            .into());
        }
        self.documents.document(descriptor, limit).await
    }

    /// The best manifest below `descriptor`; `None` if none fits.
    fn choose<'a>(
        &'a self,
        descriptor: &'a Descriptor,
        depth: usize,
    ) -> BoxFuture<'a, Result<Option<Chosen>, D::Error>> {
        self.choose_here(descriptor, depth).boxed()
    }

    async fn choose_here(
        &self,
        descriptor: &Descriptor,
        depth: usize,
    ) -> Result<Option<Chosen>, D::Error> {
        let bytes = self.read(descriptor).await?;
        let index = match document(descriptor, &bytes)? {
            Document::Manifest(manifest) => {
                // A manifest in an index that does not say its platform is known by its config.
                if depth > 0 && descriptor.platform.is_none() {
                    let config = self.read(&manifest.config).await?;
                    let config: ImageConfig = parse(&manifest.config.digest, &config)?;
                    if !self.matcher.matches(&Platform::from(&config.platform)) {
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
            return Err(ImageError::Confusing {
                name: descriptor.digest.to_string(),
                problem: "too many indexes are inside each other".to_owned(),
            }
            .into());
        }
        let mut fitting: Vec<(usize, &Descriptor)> = index
            .manifests
            .iter()
            .filter_map(|image| match &image.platform {
                Some(platform) => Some((self.matcher.rank(&platform.into())?, image)),
                None => Some((usize::MAX, image)),
            })
            .collect();
        fitting.sort_by_key(|(rank, _)| *rank);
        for (_, image) in fitting {
            if let Some(found) = self.choose(image, depth + 1).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The platforms that an index tells, for an error message.
    async fn platforms(&self, root: &Descriptor) -> Vec<String> {
        let bytes = self.read(root).await.unwrap_or_default();
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

    async fn image(&self, root: Descriptor, chosen: Chosen) -> Result<ResolvedImage, D::Error> {
        let config = self.read(&chosen.manifest.config).await?;
        Ok(image(root, chosen, config, self.limits)?)
    }
}

/// Puts the documents of one image together.
fn image(
    root: Descriptor,
    chosen: Chosen,
    config_bytes: Vec<u8>,
    limits: &Limits,
) -> Result<ResolvedImage, ImageError> {
    let Chosen {
        descriptor,
        bytes,
        manifest,
    } = chosen;
    let refused = |problem: String| ImageError::Image {
        digest: descriptor.digest,
        problem,
    };
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
        .collect::<Result<Vec<_>, ImageError>>()?;
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

fn parse<T: serde::de::DeserializeOwned>(
    digest: &BlobDigest,
    bytes: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document {
        name: digest.to_string(),
        source,
    })
}

/// Decides what a document is, and refuses what could be two things.
fn document(descriptor: &Descriptor, bytes: &[u8]) -> Result<Document, ImageError> {
    let confusing = |problem: String| ImageError::Confusing {
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
