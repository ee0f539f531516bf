//! OCI images: an archive file or an image layout directory.

use std::path::PathBuf;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::result::BuildResult;
use async_trait::async_trait;

use crate::exporter::{Exporter, Prepared, blocking};
use crate::image::{Defaults, Image, assemble};
use crate::options::image_options;
use crate::{ExportError, ImageOptions, MediaTypes, archive, layout};

/// Annotation with the creation time of an image.
const CREATED: &str = "org.opencontainers.image.created";
/// Annotation with the tag of an image.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the full name of an image.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

#[derive(Debug, Clone)]
enum Destination {
    Archive(PathBuf),
    Directory(PathBuf),
}

/// Exports an OCI image (image specification 1.1): a manifest, or an index if the result is for
/// several platforms.
///
/// Documents are those BuildKit makes for the same layers and config. Unlike BuildKit, the
/// creation time noted in `index.json` is that of the image and not that of the export, so that
/// exporting the same image twice gives the same bytes.
#[derive(Debug, Clone)]
pub struct Oci {
    destination: Destination,
    options: ImageOptions,
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
            options: ImageOptions::default(),
        }
    }

    image_options!();
}

#[async_trait]
impl Exporter for Oci {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        let (this, result, cancel) = (self.clone(), result.clone(), cancel.clone());
        blocking(move || this.run(&result, &cancel)).await
    }
}

impl Oci {
    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        let defaults = Defaults {
            media_types: Some(MediaTypes::Oci),
            inline_attestations: false,
        };
        let image = assemble(result, &self.options, defaults, cancel)?;
        image.fetch(cancel)?;
        let root = dated(&image);
        let exported = image.exported(&root)?;
        let entries = index_entries(&image, &root);
        match &self.destination {
            Destination::Archive(path) => {
                let target = archive::write(path, &image, entries, cancel)?;
                Ok(Prepared::new(exported, |_| {
                    blocking(move || target.complete())
                }))
            }
            Destination::Directory(path) => {
                layout::write_blobs(path, &image, cancel)?;
                let path = path.clone();
                Ok(Prepared::new(exported, move |_| {
                    blocking(move || layout::add(&path, entries))
                }))
            }
        }
    }
}

/// The root of an image as an index outside of it describes it: with a time of creation.
pub(crate) fn dated(image: &Image) -> Descriptor {
    let mut root = image.root.clone();
    if let Some(created) = &image.created {
        let annotations = &mut root.annotations;
        annotations
            .entry(CREATED.to_owned())
            .or_insert_with(|| created.clone());
    }
    root
}

/// What `index.json` says of an image: an entry for each name.
pub(crate) fn index_entries(image: &Image, root: &Descriptor) -> Vec<Descriptor> {
    if image.names.is_empty() {
        return vec![root.clone()];
    }
    let named = image.names.iter().map(|name| {
        let mut entry = root.clone();
        let annotations = &mut entry.annotations;
        annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        if let Some(tag) = name.tag() {
            annotations.insert(REF_NAME.to_owned(), tag.to_owned());
        }
        entry
    });
    named.collect()
}
