//! Images as values: documents and the blobs they name.
//!
//! Owns [`Image`], which `assemble` makes of a result and which archives, layouts, the store and
//! registries are filled from. The bytes of documents are BuildKit's: members of the config sorted
//! by name with unknown ones kept, manifests and indexes indented by two spaces.
//!
//! Invariants:
//! - **Children first.** A blob stands in [`Image::blobs`] after all that it names, so that who
//!   writes them in this order never has a document without what it is about.
//! - **Each blob once.**
//!
//! Leaves to others: where images go (`oci`, `docker`, …) and how layers become blobs (`layer`).

mod assemble;
mod attest;
mod config;
mod manifest;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;

use ashlar_llb::{BlobDigest, DiffId, Reference};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{ContentError, Verify};
use ashlar_solver::error::Failure;
use ashlar_solver::oci::Descriptor;
#[cfg(feature = "registry")]
use ashlar_solver::refs::LazyLayer;
use ashlar_solver::refs::Ref;
use ashlar_solver::result::Store;
use ashlar_solver::tree::Timestamp;
use base64::Engine as _;

use crate::destination::Sink;
use crate::exporter::Exported;
use crate::layer::Packed;
use crate::{ExportError, json, spans};

pub(crate) use assemble::{Defaults, assemble, layer_annotations};
pub(crate) use manifest::Index;

/// A complete image.
#[derive(Debug)]
pub(crate) struct Image {
    /// What leads to everything: a manifest, or an index.
    pub(crate) root: Descriptor,
    /// The config, if there is just one image.
    pub(crate) config: Option<BlobDigest>,
    /// When it was created, in the text of its configs: of several the last.
    pub(crate) created: Option<String>,
    /// The layers in their order, if there is just one image. One may be there twice.
    pub(crate) layers: Vec<BlobDigest>,
    /// The diff ids of the layers of each platform.
    pub(crate) diff_ids: Vec<Vec<DiffId>>,
    /// All blobs: layers, configs, manifests, the index.
    pub(crate) blobs: Vec<ImageBlob>,
    /// What it is called, complete with registry and tag.
    pub(crate) names: Vec<Reference>,
    /// The names as they were given.
    pub(crate) told: Vec<String>,
    /// Where the bytes of layers are.
    pub(crate) store: Store,
    /// Images that nothing changed, whose layers may not be in the store yet.
    lazy: Vec<Ref>,
}

/// A blob of an image.
#[derive(Debug, Clone)]
pub(crate) struct ImageBlob {
    /// What names it.
    pub(crate) descriptor: Descriptor,
    /// Its bytes.
    pub(crate) content: BlobContent,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub(crate) enum BlobContent {
    /// Here: documents and attestations.
    Text(Arc<[u8]>),
    /// In the store, or in a registry until [`Image::fetch`] was called: layers.
    Stored,
    /// Nowhere: they are what this packs. For those who write archives and layouts.
    Packed(Packed),
}

impl Image {
    fn new(store: Store, told: Vec<String>, names: Vec<Reference>) -> Self {
        Self {
            root: Descriptor::new("", BlobDigest::of(b""), 0),
            config: None,
            created: None,
            layers: Vec::new(),
            diff_ids: Vec::new(),
            blobs: Vec::new(),
            names,
            told,
            store,
            lazy: Vec::new(),
        }
    }

    /// Adds a document and gives what names it.
    fn add_text(&mut self, media_type: &str, text: Vec<u8>) -> Descriptor {
        let digest = BlobDigest::of(&text);
        let descriptor = Descriptor::new(media_type, digest, text.len() as u64);
        self.blobs.push(ImageBlob {
            descriptor: descriptor.clone(),
            content: BlobContent::Text(text.into()),
        });
        descriptor
    }

    /// Notes when one of its images was created.
    fn dated(&mut self, created: Option<String>) {
        let parse = |text: &String| text.parse::<Timestamp>().ok();
        if created.as_ref().and_then(parse) > self.created.as_ref().and_then(parse) {
            self.created = created;
        }
    }

    /// Leaves out what is there already.
    fn each_once(&mut self) {
        let mut seen = HashSet::new();
        self.blobs
            .retain(|blob| seen.insert(blob.descriptor.digest));
    }

    /// What is known of layers that may not be in the store yet.
    #[cfg(feature = "registry")]
    pub(crate) fn lazy_layers(&self) -> impl Iterator<Item = LazyLayer> {
        let trees = self.lazy.iter().filter_map(Ref::lazy_layers);
        trees.flatten()
    }

    /// Brings all layers into the store. Blocks.
    pub(crate) fn fetch(&self, cancel: &Cancel) -> Result<(), ExportError> {
        for tree in &self.lazy {
            tree.fetch(cancel)?;
        }
        Ok(())
    }

    /// Opens a blob of the store.
    pub(crate) fn open(&self, digest: &BlobDigest) -> Result<File, ExportError> {
        let opened = self.store.blobs().open(digest).map_err(Failure::from)?;
        opened.ok_or_else(|| {
            let path = self.store.layers().root().path().join("blobs");
            ExportError::io("find a blob below", path)(io::ErrorKind::NotFound.into())
        })
    }

    /// Writes the bytes of a blob.
    pub(crate) fn write_blob(
        &self,
        blob: &ImageBlob,
        sink: &mut Sink<'_>,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let Descriptor { digest, size, .. } = blob.descriptor;
        let _written = spans::blob(&digest, size).entered();
        match &blob.content {
            BlobContent::Text(text) => sink.put(text),
            BlobContent::Stored => {
                let copied = sink.append(&mut self.open(&digest)?, size, cancel)?;
                copied.map_err(|source| self.damaged(&digest, source))
            }
            BlobContent::Packed(packed) => match sink.pack(packed, cancel)? == size {
                true => Ok(()),
                false => Err(sink.damaged(digest)),
            },
        }
    }

    /// The error of a blob of the store that is not what it was.
    pub(crate) fn damaged(&self, digest: &BlobDigest, source: io::Error) -> ExportError {
        let blobs = self.store.layers().root().path().join("blobs");
        let path = blobs.join(digest.to_string().replace(':', "/"));
        ExportError::io("read", path)(source)
    }

    /// What an export of it gives, if its root is described by `root` at the destination.
    pub(crate) fn exported(&self, root: &Descriptor) -> Result<Exported, ExportError> {
        let descriptor = json::compact(root).map_err(ExportError::json)?;
        let descriptor = base64::engine::general_purpose::STANDARD.encode(descriptor);
        let mut response = BTreeMap::from([
            ("containerimage.digest".to_owned(), root.digest.to_string()),
            ("containerimage.descriptor".to_owned(), descriptor),
        ]);
        if let Some(config) = self.config {
            response.insert(
                "containerimage.config.digest".to_owned(),
                config.to_string(),
            );
        }
        if !self.names.is_empty() {
            let names: Vec<String> = self.names.iter().map(ToString::to_string).collect();
            response.insert("image.name".to_owned(), names.join(","));
        }
        Ok(Exported {
            digest: Some(root.digest),
            references: Vec::new(),
            response,
        })
    }
}

/// Reads a blob to its end: whether it has the bytes that its descriptor names.
pub(crate) fn is_intact(
    file: File,
    descriptor: &Descriptor,
    cancel: &Cancel,
) -> Result<io::Result<bool>, ExportError> {
    let mut verified = Verify::new(file, descriptor.digest, descriptor.size);
    let mut buffer = vec![0; 1 << 20];
    loop {
        cancel.check()?;
        match verified.read(&mut buffer) {
            Ok(0) => return Ok(Ok(true)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.get_ref().is_some_and(|e| e.is::<ContentError>()) => {
                return Ok(Ok(false));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}
