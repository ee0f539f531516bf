//! Images into the store of the solver.

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
#[cfg(feature = "registry")]
use ashlar_solver::registry::Registry;
use ashlar_solver::result::{BuildResult, Store};
use ashlar_solver::solver::Durability;
use async_trait::async_trait;

use crate::durable::durability_option;
use crate::exporter::{self, Exporter, Prepared, blocking};
use crate::image::{BlobContent, Defaults, Image as Assembled, assemble, is_intact};
use crate::options::image_options;
#[cfg(feature = "registry")]
use crate::push::{self, PushOptions};
use crate::{ExportError, ImageOptions};

/// Exports an image into the store of the solver, under its names. `llb::image` finds it there
/// with `ResolveMode::IfMissing` or `Offline`, by name or by digest, and `Store::images` tells what a
/// name leads to.
///
/// Names that led elsewhere lead to the new image, all of them in one step, when all of it is there.
/// Blobs of the old one stay.
#[derive(Debug, Clone)]
pub struct Image {
    pub(crate) options: ImageOptions,
    dangling_prefix: Option<String>,
    dangling_only_if_unnamed: bool,
    store: bool,
    unpack: bool,
    incomplete: bool,
    verify: bool,
    durability: Durability,
    #[cfg(feature = "registry")]
    push: Push,
}

/// Whether and how the image is pushed too.
#[cfg(feature = "registry")]
#[derive(Debug, Clone, Default)]
struct Push {
    wanted: bool,
    registry: Option<Registry>,
    options: PushOptions,
}

impl Default for Image {
    fn default() -> Self {
        Self::new()
    }
}

impl Image {
    /// Stores an image.
    pub fn new() -> Self {
        Self {
            options: ImageOptions::default(),
            dangling_prefix: None,
            dangling_only_if_unnamed: false,
            store: true,
            unpack: false,
            incomplete: false,
            verify: false,
            durability: Durability::default(),
            #[cfg(feature = "registry")]
            push: Push::default(),
        }
    }

    /// Also calls the image by this prefix, `@` and its digest. Default: no.
    #[must_use]
    pub fn dangling_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.dangling_prefix = Some(prefix.into()).filter(|prefix| !prefix.is_empty());
        self
    }

    /// Sets whether the dangling name is used only if there is no other. Default: no.
    #[must_use]
    pub fn dangling_only_if_unnamed(mut self, only: bool) -> Self {
        self.dangling_only_if_unnamed = only;
        self
    }

    /// Sets whether names are written. Without them the image is there by its digest, unless it is
    /// pushed: nothing is downloaded or written for the store then. Default: yes.
    #[must_use]
    pub fn store(mut self, store: bool) -> Self {
        self.store = store;
        self
    }

    /// Sets whether layers that were not unpacked yet are unpacked, so that a build that starts
    /// from the image need not do so. Goes not together with rewritten times. Default: no.
    #[must_use]
    pub fn unpack(mut self, unpack: bool) -> Self {
        self.unpack = unpack;
        self
    }

    /// Sets whether names are written though layers are missing that nothing needed so far: whoever
    /// uses the image later has them from the registry that it is named after, or fails
    /// (`unsafe-internal-store-allow-incomplete`). Goes not together with [`Image::verify`].
    /// Default: no, all of a base that was not downloaded yet is.
    #[must_use]
    pub fn allow_incomplete(mut self, incomplete: bool) -> Self {
        self.incomplete = incomplete;
        self
    }

    /// Sets whether all blobs are read and compared with their digests before the names are
    /// written, and looked for in registries after they were pushed. Default: no.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Sets whether the image is pushed under its names, through the client given with
    /// [`Image::registry`] (feature `registry`). [`Push`](crate::Push) does that alone. Default: no.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn push(mut self, push: bool) -> Self {
        self.push.wanted = push;
        self
    }

    /// Sets whether it is pushed under its digest alone, so that no tag is moved. Default: no.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn push_by_digest(mut self, by_digest: bool) -> Self {
        self.push.options.by_digest = by_digest;
        self
    }

    /// Sets whether registries may have any certificate, or speak plain text. Default: no.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.push.options.insecure = insecure;
        self
    }

    /// Gives the client that pushes: that of the solver, or another.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn registry(mut self, registry: &Registry) -> Self {
        self.push.registry = Some(registry.clone());
        self
    }

    durability_option!();

    image_options!();

    /// How it is called besides its names.
    fn dangling_name(&self, digest: &BlobDigest) -> Option<String> {
        let prefix = self.dangling_prefix.as_ref()?;
        let wanted = !self.dangling_only_if_unnamed || self.options.names.is_empty();
        wanted.then(|| format!("{prefix}@{digest}"))
    }

    /// Whether the store gets the image: what is only pushed is not downloaded for it.
    fn is_kept(&self) -> bool {
        #[cfg(feature = "registry")]
        let is_pushed = self.push.wanted;
        #[cfg(not(feature = "registry"))]
        let is_pushed = false;
        self.store || !is_pushed
    }

    /// Brings all of an image into the store.
    fn keep(&self, image: &Assembled, cancel: &Cancel) -> Result<(), ExportError> {
        if !(self.store && self.incomplete) {
            image.fetch(cancel)?;
        }
        for blob in &image.blobs {
            if let BlobContent::Text(text) = &blob.content {
                cancel.check()?;
                image.store.blobs().put(text).map_err(Failure::from)?;
            }
        }
        match self.verify {
            true => verify(image, cancel),
            false => Ok(()),
        }
    }

    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        let invalid = |reason: &str| {
            Err(ExportError::Option {
                reason: reason.to_owned(),
            })
        };
        if self.unpack && self.options.rewrite_timestamp {
            return invalid("an image with rewritten times is not what is unpacked here");
        }
        if self.incomplete && self.verify {
            return invalid("an image that may lack layers cannot be verified");
        }
        #[cfg(feature = "registry")]
        let registry = self.pushed_through(result)?;
        let defaults = Defaults {
            media_types: None,
            inline_attestations: true,
            packs: false,
        };
        let image = assemble(result, &self.options, defaults, cancel)?;
        if self.is_kept() {
            self.keep(&image, cancel)?;
        }
        if self.unpack {
            for (tree, diff_ids) in result.refs().iter().zip(&image.diff_ids) {
                let stack = tree.reference.stack(cancel)?;
                image.store.note_chain(diff_ids, &stack)?;
            }
        }
        let root = image.root.clone();
        let mut exported = image.exported(&root)?;
        let mut names = image.told.clone();
        names.extend(self.dangling_name(&root.digest));
        exported.response.remove("image.name");
        if !names.is_empty() {
            let response = &mut exported.response;
            response.insert("image.name".to_owned(), names.join(","));
        }
        let (store, mut names) = (image.store.clone(), image.names.clone());
        let (images, durability) = (store.images(), self.durability);
        // A name with a digest needs no record.
        names.retain(|name| self.store && name.digest().is_none());
        let named = move || {
            images.set_all(&names, &root).map_err(Failure::from)?;
            match durability {
                Durability::Synced => sync(&store),
                _ => Ok(()),
            }
        };
        #[cfg(feature = "registry")]
        if let Some(registry) = registry {
            let mut options = self.push.options;
            options.verify = self.verify;
            exported.references = push::references(&image, options);
            let image = std::sync::Arc::new(image);
            return Ok(Prepared::new(exported, move |cancel| async move {
                push::push(image, registry, options, cancel).await?;
                blocking(named).await
            }));
        }
        Ok(Prepared::new(exported, move |_| blocking(named)))
    }

    /// The client, if the image is to be pushed.
    #[cfg(feature = "registry")]
    fn pushed_through(&self, result: &BuildResult) -> Result<Option<Registry>, ExportError> {
        if !self.push.wanted {
            return Ok(None);
        }
        push::check_names(&self.options, result, self.push.options)?;
        let registry = self.push.registry.clone();
        registry.map(Some).ok_or_else(|| ExportError::Option {
            reason: "pushing needs a client of registries, such as that of the solver".to_owned(),
        })
    }
}

/// Brings all of the store to disk.
fn sync(store: &Store) -> Result<(), ExportError> {
    let generation = store.meta().begin_sync().map_err(Failure::from)?;
    let root = store.layers().root();
    root.sync().map_err(ExportError::io("sync", root.path()))?;
    let finished = store.meta().finish_sync(generation);
    Ok(finished.map_err(Failure::from)?)
}

/// Reads all blobs of an image in the store.
fn verify(image: &Assembled, cancel: &Cancel) -> Result<(), ExportError> {
    for blob in &image.blobs {
        let digest = blob.descriptor.digest;
        let file = image.open(&digest)?;
        let intact = is_intact(file, &blob.descriptor, cancel)?;
        if !intact.map_err(|error| image.damaged(&digest, error))? {
            let root = image.store.layers().root().path();
            return Err(ExportError::verify(digest, root));
        }
    }
    Ok(())
}

#[async_trait]
impl Exporter for Image {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        exporter::prepare("image", self, result, cancel, Self::run).await
    }
}
