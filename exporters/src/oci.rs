//! OCI images: an archive file or an image layout directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ashlar_llb::{BlobDigest, Platform, reference::Reference};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::result::{BuildResult, IMAGE_CONFIG_KEY, Store};
use ashlar_solver::tree::Timestamp;
use async_trait::async_trait;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::exporter::{Exported, Exporter};
use crate::image::{CONFIG, Descriptor, HistoryLayer, Index, MANIFEST, Manifest, image_config};
use crate::layer::{LayerOptions, LayerRequest, LayerSource, layer_blobs};
use crate::target::Target;
use crate::{Compression, ExportError, archive, json};

/// The file that marks an image layout.
const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Annotation with the creation time of an image.
const CREATED: &str = "org.opencontainers.image.created";
/// Annotation with the tag of an image.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the full name of an image.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// Largest `index.json` that is merged into; 8 MiB, far above what a layout of thousands of
/// images has.
const INDEX_LIMIT: u64 = 8 << 20;

#[derive(Debug, Clone)]
enum Destination {
    Archive(PathBuf),
    Directory(PathBuf),
}

/// Exports an OCI image (image specification 1.0).
///
/// The manifest is the one BuildKit makes for the same layers and config. Unlike BuildKit, the
/// creation time noted in `index.json` is that of the image and not that of the export, so that
/// exporting the same image twice gives the same bytes.
#[derive(Debug, Clone)]
pub struct Oci {
    destination: Destination,
    names: Vec<String>,
    layers: LayerOptions,
    epoch: Option<Timestamp>,
}

impl Oci {
    /// Writes one tar file, which `skopeo`, `podman load` and others take as `oci-archive`. An
    /// existing file is replaced once the new one is complete.
    pub fn archive(path: impl Into<PathBuf>) -> Self {
        Self::new(Destination::Archive(path.into()))
    }

    /// Writes into an image layout directory, which is made if it is missing. Blobs that are there
    /// are not written again; images of other names stay.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::new(Destination::Directory(path.into()))
    }

    fn new(destination: Destination) -> Self {
        Self {
            destination,
            names: Vec::new(),
            layers: LayerOptions::default(),
            epoch: None,
        }
    }

    /// Adds a name, for example `example.com/app:v1`; it is completed as Docker does
    /// (`app` is `docker.io/library/app:latest`).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Sets how layers made by the build are compressed. Default: gzip, level 4.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.layers.compression = compression;
        self
    }

    /// Sets whether layers of a base image are converted to that compression too, if they have
    /// another. Default: no.
    #[must_use]
    pub fn force_compression(mut self, force: bool) -> Self {
        self.layers.force = force;
        self
    }

    /// Sets `SOURCE_DATE_EPOCH`: no creation time in config and history is later than this many
    /// seconds since 1970. Times inside layers are left alone.
    #[must_use]
    pub fn source_date_epoch(mut self, seconds: i64) -> Self {
        self.epoch = Some(Timestamp {
            seconds,
            nanoseconds: 0,
        });
        self
    }
}

#[async_trait]
impl Exporter for Oci {
    async fn export(&self, result: &BuildResult, cancel: &Cancel) -> Result<Exported, ExportError> {
        let (this, result, cancel) = (self.clone(), result.clone(), cancel.clone());
        let task = tokio::task::spawn_blocking(move || this.run(&result, &cancel));
        match task.await {
            Ok(exported) => exported,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ExportError::Cancelled),
            },
        }
    }
}

/// A complete image: small blobs in memory, layers in the store.
struct Image {
    manifest: Descriptor,
    /// Manifest and config.
    texts: Vec<(BlobDigest, Vec<u8>)>,
    layers: Vec<LayerBlob>,
    config_digest: BlobDigest,
}

impl Oci {
    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Exported, ExportError> {
        let names: Vec<Reference> = self
            .names
            .iter()
            .map(|name| {
                Reference::parse(name)
                    .map(|reference| reference.with_default_tag())
                    .map_err(|source| ExportError::Name {
                        name: name.clone(),
                        source,
                    })
            })
            .collect::<Result<_, _>>()?;
        let image = self.image(result, cancel)?;
        let entries = index_entries(&image.manifest, &names);
        match &self.destination {
            Destination::Archive(path) => {
                write_archive(path, &result.store, &image, entries, cancel)?;
            }
            Destination::Directory(path) => {
                write_directory(path, &result.store, &image, entries, cancel)?;
            }
        }
        exported(&image, &names)
    }

    fn image(&self, result: &BuildResult, cancel: &Cancel) -> Result<Image, ExportError> {
        let store = &result.store;
        let (mut requests, mut made) = (Vec::new(), Vec::new());
        let mut request = |source| {
            requests.push(LayerRequest {
                source,
                latest: None,
            });
        };
        if let Some(lazy) = result.reference.lazy_layers() {
            // An image that nothing changed: its blobs are all it takes.
            result.reference.fetch(cancel)?;
            for layer in lazy {
                made.push((layer.text, layer.created));
                request(LayerSource::Blob(layer.blob));
            }
        } else {
            for layer in result.reference.stack(cancel)?.layers() {
                let content = layer.content().map_err(Failure::from)?;
                made.push((content.1.text.clone(), content.1.created));
                request(LayerSource::Stored(layer));
            }
        }
        let layers = layer_blobs(store, self.layers, &requests, cancel)?;
        let history: Vec<HistoryLayer> = made
            .into_iter()
            .zip(&layers)
            .map(|((description, created), blob)| HistoryLayer {
                diff_id: blob.diff_id,
                description,
                created,
            })
            .collect();
        let given = result.metadata.get(IMAGE_CONFIG_KEY).map(Vec::as_slice);
        let config = image_config(given, &result.platform, &history, self.epoch)?;
        let config_digest = BlobDigest::of(&config.bytes);
        let described = Descriptor::new(CONFIG, config_digest, config.bytes.len() as u64);
        let descriptors = layers
            .iter()
            .map(|blob| {
                let mut layer = Descriptor::new(&blob.media_type, blob.digest, blob.size);
                layer.annotations.clone_from(&blob.annotations);
                layer
            })
            .collect();
        let text = json::indented(&Manifest::new(described, descriptors)).map_err(|error| {
            ExportError::Config {
                reason: error.to_string(),
            }
        })?;
        let digest = BlobDigest::of(&text);
        let mut manifest = Descriptor::new(MANIFEST, digest, text.len() as u64);
        manifest.platform = Some((&platform_of(&config.bytes)).into());
        let created = self.epoch.map(|time| time.to_string()).or(config.created);
        manifest
            .annotations
            .extend(created.map(|time| (CREATED.to_owned(), time)));
        let texts = vec![(digest, text), (config_digest, config.bytes)];
        Ok(Image {
            manifest,
            texts,
            layers,
            config_digest,
        })
    }
}

/// The platform that an image config names.
fn platform_of(config: &[u8]) -> Platform {
    #[derive(Deserialize, Default)]
    struct Names {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        variant: String,
        #[serde(default, rename = "os.version")]
        os_version: String,
        #[serde(default, rename = "os.features")]
        os_features: Vec<String>,
    }
    let names: Names = serde_json::from_slice(config).unwrap_or_default();
    let mut platform = Platform::new(names.os, names.architecture).with_variant(names.variant);
    platform.os_version = names.os_version;
    platform.os_features = names.os_features;
    platform.normalised()
}

fn index_entries(manifest: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![manifest.clone()];
    }
    let named = |name: &Reference| {
        let mut entry = manifest.clone();
        entry
            .annotations
            .insert(IMAGE_NAME.to_owned(), name.to_string());
        if let Some(tag) = name.tag() {
            entry
                .annotations
                .insert(REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    };
    names.iter().map(named).collect()
}

fn exported(image: &Image, names: &[Reference]) -> Result<Exported, ExportError> {
    let descriptor = json::compact(&image.manifest).map_err(|error| ExportError::Config {
        reason: error.to_string(),
    })?;
    let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor);
    let mut response = BTreeMap::from([
        (
            "containerimage.digest".to_owned(),
            image.manifest.digest.to_string(),
        ),
        (
            "containerimage.config.digest".to_owned(),
            image.config_digest.to_string(),
        ),
        ("containerimage.descriptor".to_owned(), descriptor),
    ]);
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        response.insert("image.name".to_owned(), names.join(","));
    }
    Ok(Exported {
        digest: Some(image.manifest.digest),
        response,
    })
}

/// Where the bytes of a blob are.
enum Bytes<'a> {
    Text(&'a [u8]),
    Stored(u64),
}

impl Image {
    /// All blobs, each once, in the order of their digests.
    fn blobs(&self) -> BTreeMap<BlobDigest, Bytes<'_>> {
        let texts = self
            .texts
            .iter()
            .map(|(digest, text)| (*digest, Bytes::Text(text)));
        let layers = self
            .layers
            .iter()
            .map(|blob| (blob.digest, Bytes::Stored(blob.size)));
        texts.chain(layers).collect()
    }
}

fn open_blob(store: &Store, digest: &BlobDigest) -> Result<File, ExportError> {
    let opened = store.blobs().open(digest).map_err(Failure::from)?;
    opened.ok_or_else(|| {
        let path = store.layers().root().path().join("blobs");
        ExportError::io("find a blob below", path)(io::ErrorKind::NotFound.into())
    })
}

fn write_archive(
    path: &Path,
    store: &Store,
    image: &Image,
    entries: Vec<Descriptor>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let mut target = Target::create(path)?;
    let index = json::compact(&Index::new(entries)).map_err(|error| ExportError::Config {
        reason: error.to_string(),
    })?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted if cancel.is_cancelled() => ExportError::Cancelled,
        _ => ExportError::io("write", path)(error),
    };
    let out = target.file();
    archive::directory(out, "blobs/").map_err(failed)?;
    archive::directory(out, "blobs/sha256/").map_err(failed)?;
    for (digest, bytes) in image.blobs() {
        let name = format!("blobs/{}", digest.to_string().replace(':', "/"));
        match bytes {
            Bytes::Text(text) => archive::bytes(out, &name, text).map_err(failed)?,
            Bytes::Stored(size) => {
                let mut from = open_blob(store, &digest)?;
                archive::file(out, &name, &mut from, size, cancel).map_err(failed)?;
            }
        }
    }
    archive::bytes(out, "index.json", &index).map_err(failed)?;
    archive::bytes(out, "oci-layout", LAYOUT).map_err(failed)?;
    archive::end(out).map_err(failed)?;
    target.complete()
}

fn write_directory(
    path: &Path,
    store: &Store,
    image: &Image,
    entries: Vec<Descriptor>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(ExportError::io("make directory", &blobs))?;
    for (digest, bytes) in image.blobs() {
        cancel.check()?;
        let text = digest.to_string();
        let place = blobs.join(text.trim_start_matches("sha256:"));
        let size = match bytes {
            Bytes::Text(text) => text.len() as u64,
            Bytes::Stored(size) => size,
        };
        let there = std::fs::symlink_metadata(&place);
        if there.is_ok_and(|there| there.is_file() && there.len() == size) {
            continue;
        }
        match bytes {
            Bytes::Text(text) => Target::write(&place, text)?,
            Bytes::Stored(_) => {
                let mut target = Target::create(&place)?;
                io::copy(&mut open_blob(store, &digest)?, target.file())
                    .map_err(ExportError::io("write", &place))?;
                target.complete()?;
            }
        }
    }
    let layout = path.join("oci-layout");
    if !layout.exists() {
        Target::write(&layout, LAYOUT)?;
    }
    merge_index(&path.join("index.json"), entries)
}

/// An entry of an existing index: what is looked at, and all of it.
#[derive(Deserialize)]
struct Known {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An old entry as it stands, or a new one.
#[derive(Serialize)]
#[serde(untagged)]
enum IndexEntry {
    Old(Box<RawValue>),
    New(Descriptor),
}

/// Adds entries to an index; they replace those of the same name, and without a name those of the
/// same digest.
fn merge_index(path: &Path, entries: Vec<Descriptor>) -> Result<(), ExportError> {
    #[derive(Deserialize)]
    struct Old {
        #[serde(default)]
        manifests: Vec<Box<RawValue>>,
    }
    let invalid = |error: serde_json::Error| {
        ExportError::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let mut all = Vec::new();
    let old = match File::open(path) {
        Ok(file) => {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, INDEX_LIMIT), &mut text)
                .map_err(ExportError::io("read", path))?;
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ExportError::io("read", path)(error)),
    };
    if !old.is_empty() {
        let parsed: Old = serde_json::from_slice(&old).map_err(invalid)?;
        for entry in parsed.manifests {
            let known: Known = serde_json::from_str(entry.get()).map_err(invalid)?;
            let replaced = entries.iter().any(|new| {
                let name = |annotations: &BTreeMap<String, String>| {
                    annotations
                        .get(IMAGE_NAME)
                        .or_else(|| annotations.get(REF_NAME))
                        .cloned()
                };
                match name(&new.annotations) {
                    Some(name_of_new) => name(&known.annotations) == Some(name_of_new),
                    None => {
                        name(&known.annotations).is_none() && known.digest == new.digest.to_string()
                    }
                }
            });
            if !replaced {
                all.push(IndexEntry::Old(entry));
            }
        }
    }
    all.extend(entries.into_iter().map(IndexEntry::New));
    let text = json::compact(&Index::new(all)).map_err(invalid)?;
    if text == old {
        return Ok(());
    }
    let mut target = Target::create(path)?;
    target
        .file()
        .write_all(&text)
        .map_err(ExportError::io("write", path))?;
    target.complete()
}
