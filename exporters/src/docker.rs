//! Docker archives: image layouts that `docker load` understands, into files, streams or engines.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::Durability;
use async_trait::async_trait;
use serde::Serialize;

#[cfg(feature = "engine")]
use crate::archive::Archive;
#[cfg(feature = "engine")]
use crate::destination::Sink;
use crate::destination::{Checks, Destination};
use crate::durable::durability_option;
#[cfg(feature = "engine")]
use crate::engine::Engine;
use crate::exporter::{self, Exporter, Prepared};
use crate::image::Image;
use crate::oci::Contents;
use crate::options::image_options;
use crate::{ExportError, ImageOptions, json};

/// Exports an image as an archive for `docker load`: an image layout, and beside it what Docker
/// wants to know (`manifest.json`). [`Docker::engine`] loads it right away.
///
/// As in BuildKit, results in map form are refused, even those of one platform, and an image with
/// attestations is an index that only Docker's containerd image store takes. Docker wants names to
/// find the image again.
#[derive(Debug, Clone)]
pub struct Docker {
    form: Form,
    verify: bool,
    durability: Durability,
    pub(crate) options: ImageOptions,
}

/// What takes the archive.
#[derive(Debug, Clone)]
enum Form {
    Archive(Destination),
    Directory(PathBuf),
    #[cfg(feature = "engine")]
    Engine(Engine),
}

impl Docker {
    /// Writes one tar file. An existing file is replaced once the new one is complete, and stays if
    /// it is what an export from the same state directory wrote of the same, and nobody changed it since;
    /// a pipe or a device is written to.
    pub fn archive(path: impl Into<PathBuf>) -> Self {
        Self::new(Form::Archive(Destination::File(path.into())))
    }

    /// Writes the tar to a stream, which `open` opens once per export, when all else is done.
    pub fn writer(
        open: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Form::Archive(Destination::Writer(Arc::new(open))))
    }

    /// Writes into an image layout directory, as [`Oci::directory`](crate::Oci::directory) does: blobs
    /// and an index, without what is for Docker alone.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::new(Form::Directory(path.into()))
    }

    /// Loads the image into the engine that listens on `socket`: Docker (usually
    /// `/var/run/docker.sock`), or Podman, whose service speaks the same language. An engine that
    /// has the image under all its names is sent nothing. The feature `engine` can be left out.
    ///
    /// ```no_run
    /// # async fn example(result: ashlar_solver::result::BuildResult)
    /// # -> Result<(), ashlar_exporters::ExportError> {
    /// use ashlar_exporters::{Docker, Exporter as _};
    /// use ashlar_solver::cancel::Cancel;
    ///
    /// let engine = Docker::engine("/var/run/docker.sock").name("app:v1");
    /// engine.export(&result, &Cancel::new()).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "engine")]
    pub fn engine(socket: impl Into<PathBuf>) -> Self {
        Self::new(Form::Engine(Engine::new(socket.into())))
    }

    fn new(form: Form) -> Self {
        Self {
            form,
            verify: false,
            durability: Durability::default(),
            options: ImageOptions::default(),
        }
    }

    /// Sets whether the archive is read again, and its blobs compared with their digests, before it
    /// replaces an old one, which it does in any case then. Streams are not read; an engine is asked what it has under the names of
    /// the image. Default: no.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    durability_option!();

    image_options!();
}

#[async_trait]
impl Exporter for Docker {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        exporter::prepare("docker", self, result, cancel, Self::run).await
    }
}

impl Docker {
    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        if result.is_map() {
            return Err(ExportError::Option {
                reason: "a docker archive has one image, the result is for several platforms"
                    .to_owned(),
            });
        }
        let contents = Contents::new(result, &self.options, None, cancel)?;
        let manifest = docker_manifest(&contents.image)?;
        let checks = Checks {
            verify: self.verify,
            durability: self.durability,
        };
        match &self.form {
            Form::Archive(destination) => contents.write(destination, manifest, checks, cancel),
            Form::Directory(path) => contents.write_layout(path, checks, cancel),
            #[cfg(feature = "engine")]
            Form::Engine(engine) => {
                let engine = engine.clone();
                let Contents {
                    image,
                    exported,
                    entries,
                } = contents;
                let archive = Archive::new(image.clone(), entries, manifest)?;
                let write = move |sink: &mut Sink<'_>, cancel: &Cancel| archive.write(sink, cancel);
                Ok(Prepared::new(exported, move |cancel| async move {
                    engine.load(&image, write, checks.verify, &cancel).await
                }))
            }
        }
    }
}

/// An entry of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    /// Null if there are none.
    repo_tags: Option<Vec<String>>,
    /// The same.
    layers: Option<Vec<String>>,
}

/// The text of `manifest.json`; none for an index.
pub(crate) fn docker_manifest(image: &Image) -> Result<Option<Vec<u8>>, ExportError> {
    let Some(config) = image.config else {
        return Ok(None);
    };
    let path = |digest: String| format!("blobs/{}", digest.replace(':', "/"));
    let layers = image.layers.iter().map(|layer| path(layer.to_string()));
    let layers: Vec<String> = layers.collect();
    let tags: Vec<String> = image.names.iter().map(|name| name.familiar()).collect();
    let manifest = [DockerManifest {
        config: path(config.to_string()),
        repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
        layers: Some(layers).filter(|layers| !layers.is_empty()),
    }];
    json::compact(&manifest)
        .map(Some)
        .map_err(ExportError::json)
}
