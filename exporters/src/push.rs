//! Images into registries.
//!
//! Invariants:
//! - **A name leads to what is complete**: blobs first, then the manifests of platforms, and the
//!   tag last, with what it leads to. No tag is moved before each registry has all the rest.
//! - **What a registry has is not sent**: it is asked for each blob, and for those that it has in
//!   another repository it is asked to take them from there. Blobs of an untouched base that it has
//!   are not even downloaded.
//!
//! Leaves to others: the protocol (`registry` of the solver).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ashlar_llb::{BlobDigest, Reference};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::oci::media_type::{is_index, is_manifest};
use ashlar_solver::registry::{HostConfig, Pushed, Registry, RegistryError, Repository, Upload};
use ashlar_solver::result::BuildResult;
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, TryStreamExt as _};
use tokio::sync::OnceCell;
use tracing::{Instrument as _, Span};

use crate::exporter::{Exporter, Prepared, blocking};
use crate::image::{BlobContent, Defaults, Image, ImageBlob, assemble};
use crate::options::image_options;
use crate::{ExportError, ImageOptions, spans};

/// Blobs of one repository that are worked on at the same time. How many requests that makes is
/// for the client to say.
const BLOBS: usize = 8;

/// Bytes of a manifest or an index that are read to verify it; there are none above that in registries.
const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Pushes an image to registries, under each of its names.
///
/// The image is made first; it is pushed when the export is finalized: everything to every registry,
/// and then the names. Each name then leads to it, or to what it led to before. [`Exported::references`](crate::Exported::references) has the names
/// with the digest.
///
/// ```no_run
/// # async fn example(solver: ashlar_solver::solver::Solver, result: ashlar_solver::result::BuildResult)
/// # -> Result<(), ashlar_exporters::ExportError> {
/// use ashlar_exporters::{Exporter as _, Push};
/// use ashlar_solver::cancel::Cancel;
///
/// let push = Push::new(solver.registry()).name("registry.example.com/app:v1");
/// let exported = push.export(&result, &Cancel::new()).await?;
/// println!("{}", exported.references[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Push {
    registry: Registry,
    push: PushOptions,
    options: ImageOptions,
}

/// How an image is pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PushOptions {
    /// Under its digest alone; no tag is moved.
    pub(crate) by_digest: bool,
    /// With any certificate, or in plain text.
    pub(crate) insecure: bool,
    /// Registries are asked for it afterwards.
    pub(crate) verify: bool,
}

impl Push {
    /// Pushes through a client, which has the settings of hosts and the credentials: that of the
    /// solver ([`Solver::registry`](ashlar_solver::solver::Solver::registry)), or another.
    pub fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            push: PushOptions::default(),
            options: ImageOptions::default(),
        }
    }

    /// Sets whether the image is pushed under its digest alone, so that no tag is moved
    /// (`push-by-digest`). Names must not have tags then. Default: no.
    #[must_use]
    pub fn by_digest(mut self, by_digest: bool) -> Self {
        self.push.by_digest = by_digest;
        self
    }

    /// Sets whether the registries may have any certificate, or speak plain text
    /// (`registry.insecure`), whatever the settings of the client say. Default: no.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.push.insecure = insecure;
        self
    }

    /// Sets whether the registries are asked afterwards for what each name leads to, for every
    /// document, which is compared with its digest, and whether they have every blob. Default: no.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.push.verify = verify;
        self
    }

    image_options!();
}

#[async_trait]
impl Exporter for Push {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        let (this, result, cancel) = (self.clone(), result.clone(), cancel.clone());
        let prepared = blocking(move || {
            let defaults = Defaults {
                inline_attestations: true,
                ..Defaults::default()
            };
            // Before the work.
            check_names(&this.options, &result, this.push)?;
            let image = assemble(&result, &this.options, defaults, &cancel)?;
            let mut exported = image.exported(&image.root)?;
            exported.references = references(&image, this.push);
            let image = Arc::new(image);
            let (registry, options) = (this.registry, this.push);
            Ok(Prepared::new(exported, move |cancel| {
                push(image, registry, options, cancel)
            }))
        });
        spans::export("push", prepared).await
    }
}

/// Refuses names that cannot be pushed.
pub(crate) fn check_names(
    options: &ImageOptions,
    result: &BuildResult,
    push: PushOptions,
) -> Result<(), ExportError> {
    let invalid = |reason: String| Err(ExportError::Option { reason });
    let told = options.told_names(result);
    if told.is_empty() {
        return invalid("pushing an image needs a name".to_owned());
    }
    for name in told.iter().filter_map(|name| Reference::parse(name).ok()) {
        if name.digest().is_some() {
            return invalid(format!("{name} has a digest; only a tag can be pushed"));
        }
        if push.by_digest && name.tag().is_some() {
            return invalid(format!(
                "{name} has a tag, and the image is to be pushed by its digest alone"
            ));
        }
    }
    Ok(())
}

/// What the image is called where it was pushed: with its digest, and with its tag if it got one.
pub(crate) fn references(image: &Image, push: PushOptions) -> Vec<Reference> {
    let named = image.names.iter().map(|tagged| {
        let untagged = Reference::parse(&tagged.name()).ok();
        let name = untagged.filter(|_| push.by_digest);
        let name = name.unwrap_or_else(|| tagged.clone());
        name.with_digest(image.root.digest)
    });
    named.collect()
}

/// Pushes an image under all its names.
///
/// # Cancellation
/// Raising `cancel` ends it at once, and so does dropping it. What was uploaded completely stays in the registry, without a
/// name.
pub(crate) async fn push(
    image: Arc<Image>,
    registry: Registry,
    options: PushOptions,
    cancel: Cancel,
) -> Result<(), ExportError> {
    let mut tags: BTreeMap<String, (Reference, Vec<Option<String>>)> = BTreeMap::new();
    for name in &image.names {
        let tag = name.tag().filter(|_| !options.by_digest);
        let entry = tags.entry(name.name());
        let (_, tags) = entry.or_insert_with(|| (name.clone(), Vec::new()));
        tags.push(tag.map(str::to_owned));
    }
    let fetched = OnceCell::new();
    // Threads have nobody to work for once this is over, however it ended.
    let others = Ending(cancel.child());
    let all = tags.into_values().map(|(name, tags)| {
        let registry = match options.insecure {
            true => registry.with_host(name.domain(), HostConfig::insecure()),
            false => registry.clone(),
        };
        let repository = name.name();
        Pushing {
            image: image.clone(),
            repository: registry.repository(&name).writable(),
            name,
            tags,
            fetched: &fetched,
            cancel: &others.0,
            span: tracing::info_span!("push", repository),
        }
    });
    let all: Vec<Pushing<'_>> = all.collect();
    let work = async {
        let sent = all.iter().map(|each| each.within(each.send()));
        let sent = try_join_all(sent).await?;
        let named = all.iter().zip(sent);
        let named = named.map(|(each, blobs)| each.within(each.name(blobs)));
        try_join_all(named).await?;
        if options.verify {
            let verified = all.iter().map(|each| each.within(each.verify()));
            try_join_all(verified).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = work => done,
        () = cancel.cancelled() => Err(ExportError::Cancelled),
    }
}

/// Raises the flag when it is dropped.
struct Ending(Cancel);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// An image on its way into one repository.
struct Pushing<'a> {
    image: Arc<Image>,
    repository: Repository,
    name: Reference,
    /// Those that it gets there; none is its digest alone.
    tags: Vec<Option<String>>,
    /// Whether layers that were not in the store were brought there.
    fetched: &'a OnceCell<()>,
    cancel: &'a Cancel,
    span: Span,
}

/// A blob that is to be in the repository.
struct Wanted {
    blob: ImageBlob,
    /// Another repository of the registry that may have it.
    from: Option<String>,
}

impl Pushing<'_> {
    async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        work.instrument(self.span.clone()).await
    }

    /// Sends all but what the names lead to; gives the blobs that the repository has then.
    async fn send(&self) -> Result<Vec<BlobDigest>, ExportError> {
        let wanted = self.wanted().await?;
        let blobs: Vec<BlobDigest> = wanted.iter().map(|w| w.blob.descriptor.digest).collect();
        stream::iter(wanted.into_iter().map(Ok))
            .try_for_each_concurrent(BLOBS, |wanted| async move {
                let Descriptor { digest, size, .. } = &wanted.blob.descriptor;
                let span = spans::blob(digest, *size);
                self.blob(&wanted).instrument(span).await.map(drop)
            })
            .await?;
        let root = self.image.root.digest;
        for blob in &self.image.blobs {
            if blob.descriptor.digest != root {
                self.document(blob, None).await?;
            }
        }
        Ok(blobs)
    }

    /// Makes the names lead to the image, of which the repository has these blobs.
    async fn name(&self, blobs: Vec<BlobDigest>) -> Result<(), ExportError> {
        let root = self.image.root.digest;
        let blob = |blob: &&ImageBlob| blob.descriptor.digest == root;
        for blob in self.image.blobs.iter().filter(blob) {
            for tag in &self.tags {
                self.document(blob, tag.as_deref()).await?;
            }
        }
        self.note(blobs).await
    }

    /// Sends a manifest or an index; nothing happens if it is another blob.
    async fn document(&self, blob: &ImageBlob, tag: Option<&str>) -> Result<(), ExportError> {
        let Descriptor {
            digest, media_type, ..
        } = &blob.descriptor;
        let BlobContent::Text(text) = &blob.content else {
            return Ok(());
        };
        if !is_document(media_type) {
            return Ok(());
        }
        let text = Bytes::copy_from_slice(text);
        let pushed = self.repository.push_manifest(media_type, text, tag);
        let span = tracing::debug_span!("manifest", %digest, tag);
        let pushed = pushed.instrument(span).await;
        pushed.map(drop).map_err(|error| self.failed(error))
    }

    /// Asks the registry for all of the image.
    async fn verify(&self) -> Result<(), ExportError> {
        let wrong = |what: String| ExportError::verify(what, self.name.name());
        let root = self.image.root.digest;
        for tag in self.tags.iter().flatten() {
            let found = self.repository.manifest(tag, DOCUMENT_LIMIT).await;
            if found.map_err(|error| self.failed(error))?.0.digest != root {
                return Err(wrong(format!("tag {tag}")));
            }
        }
        let blobs = self.image.blobs.iter().map(|blob| Ok(&blob.descriptor));
        let asked = stream::iter(blobs).try_for_each_concurrent(BLOBS, |descriptor| async move {
            let there = match &descriptor.media_type[..] {
                kind if is_document(kind) => {
                    let read = self.repository.document(descriptor, DOCUMENT_LIMIT).await;
                    read.map(|_| true)
                }
                kind if is_nondistributable(kind) => Ok(true),
                _ => self.repository.contains(&descriptor.digest).await,
            };
            match there.map_err(|error| self.failed(error))? {
                true => Ok(()),
                false => Err(wrong(descriptor.digest.to_string())),
            }
        });
        asked.await
    }

    /// The blobs that are to be pushed, and where they may be already.
    async fn wanted(&self) -> Result<Vec<Wanted>, ExportError> {
        let (image, name) = (self.image.clone(), self.name.clone());
        blocking(move || {
            let mut origins: HashMap<BlobDigest, (String, String)> = HashMap::new();
            for layer in image.lazy_layers() {
                origins.extend(layer.repository.map(|from| (layer.blob.digest, from)));
            }
            let pushed = |blob: &&ImageBlob| {
                let kind = &blob.descriptor.media_type;
                !is_document(kind) && !is_nondistributable(kind)
            };
            let wanted = image.blobs.iter().filter(pushed).map(|blob| {
                let digest = &blob.descriptor.digest;
                let noted = match blob.content {
                    BlobContent::Text(_) => Vec::new(),
                    _ => image.store.repositories(digest, name.domain())?,
                };
                let origin = origins
                    .get(digest)
                    .filter(|(host, _)| host == name.domain());
                let origin = origin.map(|(_, path)| path.clone());
                let mut known = noted.into_iter().chain(origin);
                Ok(Wanted {
                    blob: blob.clone(),
                    from: known.find(|path| path != name.path()),
                })
            });
            wanted
                .collect::<Result<_, Failure>>()
                .map_err(ExportError::from)
        })
        .await
    }

    async fn blob(&self, wanted: &Wanted) -> Result<Pushed, ExportError> {
        let failed = |error| self.failed(error);
        let (descriptor, from) = (&wanted.blob.descriptor, wanted.from.as_deref());
        let digest = descriptor.digest;
        if let BlobContent::Text(text) = &wanted.blob.content {
            let upload = Upload::bytes(Bytes::copy_from_slice(text));
            let pushed = self.repository.push_blob(&upload, None);
            return pushed.await.map_err(failed);
        }
        let opened = || self.image.store.blobs().open(&digest);
        let mut file = opened().map_err(Failure::from)?;
        if file.is_none() {
            // It may not be needed here at all.
            if self.repository.contains(&digest).await.map_err(failed)? {
                return Ok(Pushed::There);
            }
            if let Some(from) = from
                && self.repository.mount(&digest, from).await.map_err(failed)?
            {
                return Ok(Pushed::Mounted);
            }
            self.fetched.get_or_try_init(|| self.fetch()).await?;
            file = Some(self.image.open(&digest)?);
        }
        let file = file.expect("BUG: it was opened just now");
        let upload = Upload::file(file, digest, descriptor.size);
        let pushed = self.repository.push_blob(&upload, from);
        pushed.await.map_err(failed)
    }

    async fn fetch(&self) -> Result<(), ExportError> {
        let (image, cancel) = (self.image.clone(), self.cancel.clone());
        blocking(move || image.fetch(&cancel)).await
    }

    /// Remembers that the repository has the layers, so that others can take them from there.
    async fn note(&self, blobs: Vec<BlobDigest>) -> Result<(), ExportError> {
        let (image, name) = (self.image.clone(), self.name.clone());
        blocking(move || {
            let stored = |digest: &&BlobDigest| {
                let mut blobs = image.blobs.iter();
                blobs.any(|blob| {
                    blob.descriptor.digest == **digest
                        && matches!(blob.content, BlobContent::Stored)
                })
            };
            for digest in blobs.iter().filter(stored) {
                let noted = image
                    .store
                    .put_repository(digest, name.domain(), name.path());
                noted?;
            }
            Ok(())
        })
        .await
    }

    fn failed(&self, error: RegistryError) -> ExportError {
        ExportError::Push {
            reference: self.name.to_string(),
            failure: error.into(),
        }
    }
}

fn is_document(media_type: &str) -> bool {
    is_manifest(media_type) || is_index(media_type)
}

/// Whether the owner of a layer does not let others distribute it.
fn is_nondistributable(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}
