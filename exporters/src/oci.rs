//! OCI images: an archive file or an image layout directory.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::Durability;
use ashlar_solver::tree::Timestamp;
use async_trait::async_trait;

use crate::archive::Archive;
use crate::destination::{Checks, Destination};
use crate::durable::durability_option;
use crate::exporter::{self, Exported, Exporter, Prepared, blocking};
use crate::image::{Defaults, Image, assemble};
use crate::layout::Adding;
use crate::options::image_options;
use crate::written::Written;
use crate::{ExportError, ImageOptions, MediaTypes};

/// Annotation with the creation time of an image.
const CREATED: &str = "org.opencontainers.image.created";
/// Annotation with the tag of an image.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the full name of an image.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// What is written.
#[derive(Debug, Clone)]
enum Form {
    Archive(Destination),
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
    form: Form,
    verify: bool,
    durability: Durability,
    pub(crate) options: ImageOptions,
}

impl Oci {
    /// Writes one tar file, which `skopeo`, `podman load` and others take as `oci-archive`. An
    /// existing file is replaced once the new one is complete, and stays if it is what an export from
    /// the same state directory wrote of the same, and nobody changed it since; a pipe or a device is
    /// written to.
    pub fn archive(path: impl Into<PathBuf>) -> Self {
        Self::new(Form::Archive(Destination::File(path.into())))
    }

    /// Writes the tar to a stream, which `open` opens once per export, when all else is done.
    pub fn writer(
        open: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Form::Archive(Destination::Writer(Arc::new(open))))
    }

    /// Writes into an image layout directory, which is made if it is missing. Blobs that are there
    /// are not written again; images of other names stay. After a failure or a cancel the index is
    /// as it was, and there is no layout where none was before. In one that was there may be more
    /// blobs, each of them whole, which the next export does not write again.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::new(Form::Directory(path.into()))
    }

    fn new(form: Form) -> Self {
        Self {
            form,
            verify: false,
            durability: Durability::default(),
            options: ImageOptions::default(),
        }
    }

    /// Sets whether blobs are read again and compared with their digests before the output is put
    /// in its place, those that a layout had already included; an archive is written in any case
    /// then. Streams are not read. Default: no.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    durability_option!();

    image_options!();
}

#[async_trait]
impl Exporter for Oci {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        exporter::prepare("oci", self, result, cancel, Self::run).await
    }
}

impl Oci {
    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        let media_types = Some(MediaTypes::Oci);
        let contents = Contents::new(result, &self.options, media_types, cancel)?;
        let checks = Checks {
            verify: self.verify,
            durability: self.durability,
        };
        match &self.form {
            Form::Archive(destination) => contents.write(destination, None, checks, cancel),
            Form::Directory(path) => contents.write_layout(path, checks, cancel),
        }
    }
}

/// What an archive or a layout has.
pub(crate) struct Contents {
    pub(crate) image: Arc<Image>,
    pub(crate) exported: Exported,
    /// Those of its index.
    pub(crate) entries: Vec<Descriptor>,
}

impl Contents {
    /// Makes the image of a result, with all that is needed of it here.
    pub(crate) fn new(
        result: &BuildResult,
        options: &ImageOptions,
        media_types: Option<MediaTypes>,
        cancel: &Cancel,
    ) -> Result<Self, ExportError> {
        let defaults = Defaults {
            media_types,
            inline_attestations: false,
            packs: true,
        };
        let image = Arc::new(assemble(result, options, defaults, cancel)?);
        image.fetch(cancel)?;
        let root = dated(&image);
        Ok(Self {
            exported: image.exported(&root)?,
            entries: index_entries(&image, &root),
            image,
        })
    }

    /// Writes an archive. `docker` is what Docker wants to know.
    pub(crate) fn write(
        self,
        destination: &Destination,
        docker: Option<Vec<u8>>,
        checks: Checks,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        let Self {
            image,
            exported,
            entries,
        } = self;
        let archive = Archive::new(image, entries, docker)?;
        let content = Written::new(&archive.image.store, Some(archive.content()));
        let written = archive.clone();
        destination.write(
            exported,
            checks,
            content,
            cancel,
            move |sink, cancel| written.write(sink, cancel),
            |file, path, cancel| archive.verify(file, path, cancel),
        )
    }

    /// Writes an image layout.
    pub(crate) fn write_layout(
        self,
        path: &Path,
        checks: Checks,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        let Self {
            image,
            exported,
            mut entries,
        } = self;
        if image.names.is_empty() {
            // As in BuildKit; the next one without a name takes its place.
            for entry in &mut entries {
                let latest = "latest".to_owned();
                entry.annotations.insert(REF_NAME.to_owned(), latest);
            }
        }
        let durability = checks.durability;
        let mut adding = Adding::new(path, image, durability, cancel)?;
        if checks.verify {
            adding.verify(cancel)?;
        }
        Ok(Prepared::new(exported, move |cancel| {
            blocking(move || adding.finish(entries, &cancel))
        }))
    }
}

/// The root of an image as an index outside of it describes it: with a time of creation.
fn dated(image: &Image) -> Descriptor {
    let mut root = image.root.clone();
    if let Some(created) = &image.created {
        let annotations = &mut root.annotations;
        annotations
            .entry(CREATED.to_owned())
            .or_insert_with(|| whole_seconds(created));
    }
    root
}

/// The text of a time without fractions of a second.
fn whole_seconds(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => Timestamp {
            nanoseconds: 0,
            ..time
        }
        .to_string(),
        Err(_) => text.to_owned(),
    }
}

/// What `index.json` says of an image: an entry for each name.
fn index_entries(image: &Image, root: &Descriptor) -> Vec<Descriptor> {
    if image.names.is_empty() {
        return vec![root.clone()];
    }
    let named = image.names.iter().map(|name| {
        let mut entry = root.clone();
        let annotations = &mut entry.annotations;
        annotations.insert(IMAGE_NAME.to_owned(), name.to_string());
        // As in containerd.
        let reference = match (name.tag(), name.digest()) {
            (Some(tag), None) => tag.to_owned(),
            (Some(tag), Some(digest)) => format!("{tag}@{digest}"),
            (None, _) => name.to_string(),
        };
        annotations.insert(REF_NAME.to_owned(), reference);
        entry
    });
    named.collect()
}
