//! Archives of Docker before its version 25 and of `skopeo copy … docker-archive:`, which are not
//! layouts: `manifest.json` names a config and layers by their paths.
//!
//! They are read as the layout that has the same images: each gets a manifest that is made here.
//! Its digest depends on config and layers alone.

use std::collections::BTreeMap;
use std::io::{self, Read};

use ashlar_llb::Reference;
use ashlar_llb::digest::BlobDigest;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::OciLayoutError;
use super::archive::{Archive, Bytes, Place};
use super::layout::{io_error, read_document};
use crate::content::Compression;
use crate::oci::{ImageConfig, Index};
use crate::source::image::ImageError;

/// The file that lists the images.
const LIST: &str = "manifest.json";

/// Bytes of the list and of each config: what a layout may have by default.
const MAX_DOCUMENT: u64 = 8 << 20;

/// Images of one archive.
const MAX_IMAGES: usize = 1000;

/// Bytes of all configs and manifests of one archive: they are kept in memory.
const MAX_DOCUMENTS: usize = 64 << 20;

/// Layers of one image; the same as the default of [`crate::limits::Limits::image_layers`].
const MAX_LAYERS: usize = 4096;

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers", default)]
    layers: Vec<String>,
}

/// Where a blob is.
#[derive(Debug)]
enum Blob {
    Made(Vec<u8>),
    Entry(Place),
}

/// The layout that such an archive stands for.
#[derive(Debug)]
pub(super) struct Docker {
    archive: Archive,
    blobs: BTreeMap<BlobDigest, Blob>,
    pub(super) index: Index,
}

impl Docker {
    /// Whether an archive is one of these.
    pub(super) fn is(archive: &Archive) -> Result<bool, OciLayoutError> {
        Ok(archive.file(LIST.as_bytes())?.is_some())
    }

    /// Reads list and configs. Layers that are compressed are read for their digests.
    pub(super) fn read(archive: Archive) -> Result<Self, OciLayoutError> {
        let list = read(&archive, LIST)?;
        let images: Vec<Image> = parse(LIST, &list)?;
        let mut blobs = BTreeMap::new();
        let mut manifests = Vec::new();
        if images.len() > MAX_IMAGES {
            return Err(confusing(LIST, "it has too many images"));
        }
        // A layer that is in many images is hashed once.
        let mut hashed = BTreeMap::new();
        let mut documents = 0;
        for image in images {
            let bytes = read(&archive, &image.config)?;
            let config: ImageConfig = parse(&image.config, &bytes)?;
            let diff_ids = &config.rootfs.diff_ids;
            if diff_ids.len() != image.layers.len() || diff_ids.len() > MAX_LAYERS {
                return Err(confusing(LIST, "layers and diff ids are not as many"));
            }
            let mut layers = Vec::new();
            for (path, diff_id) in image.layers.into_iter().zip(diff_ids) {
                let place = archive.place(path.as_bytes())?;
                let place = place.ok_or_else(|| missing(&path))?;
                let compression = Compression::of_magic(&place.start);
                let digest = match hashed.get(&place) {
                    // Whether what the config tells is true shows when the layer is read.
                    None if compression == Compression::Uncompressed => {
                        BlobDigest::from_bytes(*diff_id.as_bytes())
                    }
                    None => hash(&archive, place, &path)?,
                    Some(digest) => *digest,
                };
                if compression != Compression::Uncompressed {
                    hashed.insert(place, digest);
                }
                let size = place.size;
                let suffix = match compression {
                    Compression::Gzip => "+gzip",
                    Compression::Zstd => "+zstd",
                    Compression::Uncompressed => "",
                };
                let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
                layers.push(
                    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size}),
                );
                blobs.insert(digest, Blob::Entry(place));
            }
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": BlobDigest::of(&bytes).to_string(),
                    "size": bytes.len(),
                },
                "layers": layers,
            });
            let manifest = manifest.to_string().into_bytes();
            let descriptor = json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": BlobDigest::of(&manifest).to_string(),
                "size": manifest.len(),
            });
            let tags = image.tags.unwrap_or_default();
            if tags.is_empty() {
                manifests.push(descriptor.clone());
            }
            for tag in tags {
                let mut descriptor = descriptor.clone();
                let short = tag.rsplit_once(':').map_or("", |(_, tag)| tag);
                let full = Reference::parse(&tag).map_or(tag.clone(), |name| name.to_string());
                descriptor["annotations"] = json!({
                    "org.opencontainers.image.ref.name": short,
                    "io.containerd.image.name": full,
                });
                manifests.push(descriptor);
            }
            documents += bytes.len() + manifest.len();
            if documents > MAX_DOCUMENTS {
                return Err(confusing(LIST, "its configs and manifests are too large"));
            }
            blobs.insert(BlobDigest::of(&bytes), Blob::Made(bytes));
            blobs.insert(BlobDigest::of(&manifest), Blob::Made(manifest));
        }
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        let index = parse(LIST, index.to_string().as_bytes())?;
        Ok(Self {
            archive,
            blobs,
            index,
        })
    }

    /// The bytes of a blob, and how many.
    pub(super) fn blob(&self, digest: &BlobDigest) -> Result<Option<(Bytes, u64)>, OciLayoutError> {
        match self.blobs.get(digest) {
            None => Ok(None),
            Some(Blob::Entry(place)) => Ok(Some((self.archive.part(*place)?, place.size))),
            Some(Blob::Made(bytes)) => {
                let size = bytes.len() as u64;
                Ok(Some((Bytes::Made(io::Cursor::new(bytes.clone())), size)))
            }
        }
    }
}

/// The digest of a layer that is compressed.
fn hash(archive: &Archive, place: Place, path: &str) -> Result<BlobDigest, OciLayoutError> {
    if archive.is_compressed() {
        // It would be inflated from its beginning for each of the layers.
        let problem = "a compressed layer is in a compressed archive; unpack the archive";
        return Err(confusing(path, problem));
    }
    let mut bytes = archive.part(place)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = bytes.read(&mut buffer);
        match read.map_err(|source| io_error(path.to_owned(), source))? {
            0 => return Ok(BlobDigest::from_bytes(hash.finalize().into())),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn missing(path: &str) -> OciLayoutError {
    confusing(path, "manifest.json names it, and it is not in the archive")
}

fn read(archive: &Archive, path: &str) -> Result<Vec<u8>, OciLayoutError> {
    let found = archive.file(path.as_bytes())?;
    let (bytes, size) = found.ok_or_else(|| missing(path))?;
    read_document(path, bytes, size, MAX_DOCUMENT)
}

fn parse<T: for<'a> Deserialize<'a>>(name: &str, bytes: &[u8]) -> Result<T, OciLayoutError> {
    serde_json::from_slice(bytes).map_err(|source| {
        let name = name.to_owned();
        ImageError::Document { name, source }.into()
    })
}

fn confusing(name: &str, problem: &str) -> OciLayoutError {
    let (name, problem) = (name.to_owned(), problem.to_owned());
    ImageError::Confusing { name, problem }.into()
}
