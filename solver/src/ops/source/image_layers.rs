//! The layers of an image as a stack: those that the store has, and the others unpacked. Imported
//! results are layers in the same way.
//!
//! Invariant: **what is committed is verified**: a layer directory becomes a layer only after its
//! blob had the promised digest and size and inflated to the promised diff id.

use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_llb::digest::BlobDigest;

use crate::cancel::Cancel;
use crate::content::{BlobWriter, ContentError, Verify};
use crate::error::OperationError;
use crate::meta::LayerBlob;
use crate::ops::Engine;
use crate::progress::Reporter;
use crate::refs::{Lazy, LazyLayer};
use crate::result::{BLOB_URLS, SOURCE_BLOB, chains, put_repository};
use crate::snapshot::{ActiveLayer, LayerDescription, Stack};
use crate::source::image::{ImageError, ImageLayer, ResolvedImage, unpack};
use crate::tree::View;
use crate::tree::apply::{ApplyOptions, RawLayer};

/// Layers that are downloaded and unpacked at the same time. Each uses two threads.
const WORKERS: usize = 3;

/// Bytes between two reports of progress.
const STRIDE: u64 = 4 << 20;

/// Where the blobs of layers come from.
pub(in crate::ops) trait LayerBytes: Send + Sync + std::fmt::Debug {
    /// The bytes of a layer's blob, from its start; they are verified by who reads them. Blocks,
    /// as do reads of what it returns. Cancelling ends a read that waits.
    fn open(
        &self,
        layer: &ImageLayer,
        cancel: &Cancel,
    ) -> Result<Box<dyn Read + Send>, OperationError>;

    /// What an error in the bytes means, given where they come from.
    fn failed(&self, error: ImageError) -> OperationError;

    /// The repository that they come from: the host, and the name there.
    fn repository(&self) -> Option<(&str, &str)> {
        None
    }
}

/// Layers on top of each other, and what it takes to have them.
#[derive(Debug)]
pub(in crate::ops) struct ImageLayers {
    /// The lowest first.
    pub(in crate::ops) layers: Vec<ImageLayer>,
    /// What the history of an image says of each.
    pub(in crate::ops) descriptions: Vec<LayerDescription>,
    pub(in crate::ops) bytes: Arc<dyn LayerBytes>,
    pub(in crate::ops) reporter: Reporter,
    pub(in crate::ops) engine: Arc<Engine>,
}

impl ImageLayers {
    /// The layers of an image. `reference`: as the identifier of the source has it.
    pub(super) fn of_image(
        image: &ResolvedImage,
        reference: &str,
        bytes: Arc<dyn LayerBytes>,
        reporter: Reporter,
        engine: Arc<Engine>,
    ) -> Self {
        let description = LayerDescription {
            text: format!("pulled from {reference}"),
            created: image.created(),
        };
        Self {
            layers: image.layers.clone(),
            descriptions: vec![description; image.layers.len()],
            bytes,
            reporter,
            engine,
        }
    }

    /// The stack of the layers; those that the store has are not read. Blocks.
    pub(in crate::ops) fn stack(&self, cancel: &Cancel) -> Result<Stack, OperationError> {
        let Some(top) = self.layers.last() else {
            return Ok(Stack::scratch());
        };
        // Solves that need the same image at the same time unpack it once.
        let _turn = self.engine.unpacking.take(top.chain_id, cancel)?;
        let (mut stack, mut known) = self.known()?;
        // And so do processes.
        let mut _lock = None;
        if known < self.layers.len() {
            let name = format!("layer-{}", top.chain_id);
            _lock = self.engine.layers.root().lock(&name, cancel)?;
            (stack, known) = self.known()?;
        }
        let missing = &self.layers[known..];
        let unpacked = in_parallel(missing, |layer| self.unpack_one(layer, cancel))?;
        let described = missing.iter().zip(&self.descriptions[known..]);
        for ((layer, description), (active, raw)) in described.zip(unpacked) {
            cancel.check()?;
            let normalized = raw.normalize(&stack.view()?, active.fs())?;
            let committed = active.on(&stack).commit(normalized.index, description)?;
            let id = committed.id();
            stack = stack.push(committed);
            self.engine.meta.put_layer_blob(id, &blob_of(layer))?;
            self.note_repository(layer)?;
            let row = self.engine.layers.save(&stack)?;
            chains::put(&*self.engine.meta, &layer.chain_id, row)?;
        }
        Ok(stack)
    }

    /// The longest part that is stored, and how many layers it has.
    pub(in crate::ops) fn known(&self) -> Result<(Stack, usize), OperationError> {
        for (at, layer) in self.layers.iter().enumerate().rev() {
            let Some(row) = chains::find(&*self.engine.meta, &layer.chain_id)? else {
                continue;
            };
            match self.engine.layers.stack(row) {
                Ok(Some(stack)) if stack.depth() == at + 1 => return Ok((stack, at + 1)),
                Ok(_) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((Stack::scratch(), 0))
    }

    /// Unpacks a layer into a directory of its own, and keeps its blob.
    fn unpack_one(
        &self,
        layer: &ImageLayer,
        cancel: &Cancel,
    ) -> Result<(ActiveLayer, RawLayer), OperationError> {
        let Blob { digest, size } = Blob::of(layer);
        if self.engine.blobs.size(&digest)? == Some(size)
            && let Some(file) = self.engine.blobs.open(&digest)?
        {
            let mut kept = Verify::new(file, digest, size);
            match self.apply(layer, &mut kept, cancel) {
                // Damaged since it was stored: it is had anew.
                Err(_) if !cancel.is_cancelled() && !self.is_good(&digest, size)? => {
                    self.engine.blobs.remove(&digest)?;
                }
                Err(error) => return Err(self.told(error, cancel)),
                Ok(done) => return Ok(done),
            }
        }
        let mut tee = self.tee("extracting", layer, cancel)?;
        let applied = self.apply(layer, &mut tee, cancel);
        let applied = match applied {
            Ok(done) => {
                tee.finish()
                    .map_err(|error| self.told(error.into(), cancel))?;
                done
            }
            // Wrong bytes can look like many things: what they are is told by their digest.
            Err(error) => {
                let whole = io::copy(&mut tee, &mut io::sink()).is_ok();
                let digest = tee.finish();
                return Err(match digest {
                    Err(wrong) if whole => self.told(wrong.into(), cancel),
                    _ => self.told(error, cancel),
                });
            }
        };
        Ok(applied)
    }

    fn apply(
        &self,
        layer: &ImageLayer,
        blob: &mut (impl Read + Send),
        cancel: &Cancel,
    ) -> Result<(ActiveLayer, RawLayer), Broken> {
        let options = ApplyOptions {
            privileged: self.engine.is_privileged(),
        };
        let active = self
            .engine
            .layers
            .new_layer()
            .map_err(OperationError::from)?;
        let limits = &self.engine.limits;
        let raw = unpack(layer, blob, active.fs(), options, limits, cancel)?;
        Ok((active, raw))
    }

    fn told(&self, error: Broken, cancel: &Cancel) -> OperationError {
        if cancel.is_cancelled() {
            return OperationError::Cancelled;
        }
        match error {
            Broken::Image(error) => self.bytes.failed(error),
            Broken::Other(error) => error,
        }
    }

    /// Whether a blob of the store still has its digest.
    fn is_good(&self, digest: &BlobDigest, size: u64) -> Result<bool, OperationError> {
        let Some(file) = self.engine.blobs.open(digest)? else {
            return Ok(false);
        };
        let mut read = Verify::new(file, *digest, size);
        Ok(io::copy(&mut read, &mut io::sink()).is_ok())
    }

    fn tee(
        &self,
        action: &'static str,
        layer: &ImageLayer,
        cancel: &Cancel,
    ) -> Result<Tee<'_>, OperationError> {
        Ok(Tee {
            from: self.bytes.open(layer, cancel)?,
            writer: self.engine.blobs.writer()?,
            blob: Blob::of(layer),
            reporter: &self.reporter,
            id: format!("{action} {}", layer.descriptor.digest),
            told: 0,
        })
    }

    /// Remembers which repository has a layer, so that it can be mounted from there.
    fn note_repository(&self, layer: &ImageLayer) -> Result<(), OperationError> {
        if let Some((host, name)) = self.bytes.repository() {
            put_repository(&*self.engine.meta, &layer.descriptor.digest, host, name)?;
        }
        Ok(())
    }

    /// Brings the blob of a layer into the store.
    fn fetch_one(&self, layer: &ImageLayer, cancel: &Cancel) -> Result<(), OperationError> {
        self.note_repository(layer)?;
        let Blob { digest, size } = Blob::of(layer);
        if self.engine.blobs.size(&digest)? == Some(size) {
            return Ok(());
        }
        let mut tee = self.tee("downloading", layer, cancel)?;
        if let Err(source) = io::copy(&mut tee, &mut io::sink()) {
            let error = ImageError::reading(digest, source);
            return Err(self.told(error.into(), cancel));
        }
        tee.finish()
            .map_err(|error| self.told(error.into(), cancel))
    }
}

impl Lazy for ImageLayers {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(None)
    }

    fn layers(&self) -> Option<Vec<LazyLayer>> {
        let repository = self.bytes.repository();
        let described = self.layers.iter().zip(&self.descriptions);
        let layers = described.map(|(layer, description)| LazyLayer {
            blob: blob_of(layer),
            text: description.text.clone(),
            created: description.created,
            repository: repository.map(|(host, name)| (host.to_owned(), name.to_owned())),
        });
        Some(layers.collect())
    }

    fn fetch(&self, cancel: &Cancel) -> Result<(), OperationError> {
        in_parallel(&self.layers, |layer| self.fetch_one(layer, cancel)).map(drop)
    }

    fn materialize(&self, cancel: &Cancel) -> Result<Stack, OperationError> {
        self.stack(cancel)
    }
}

/// Why a layer could not be unpacked.
#[derive(Debug)]
enum Broken {
    Image(ImageError),
    Other(OperationError),
}

impl From<ImageError> for Broken {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<ContentError> for Broken {
    fn from(error: ContentError) -> Self {
        Self::Image(error.into())
    }
}

impl From<OperationError> for Broken {
    fn from(error: OperationError) -> Self {
        Self::Other(error)
    }
}

#[derive(Debug, Clone, Copy)]
struct Blob {
    digest: BlobDigest,
    size: u64,
}

impl Blob {
    fn of(layer: &ImageLayer) -> Self {
        let crate::oci::Descriptor { digest, size, .. } = layer.descriptor;
        Self { digest, size }
    }
}

/// Passes the bytes of a blob on, stores and hashes them on the way, and tells how far it is.
struct Tee<'a> {
    from: Box<dyn Read + Send>,
    writer: BlobWriter,
    blob: Blob,
    reporter: &'a Reporter,
    id: String,
    /// Bytes at the last report.
    told: u64,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Blob { digest, size } = self.blob;
        let length = self.from.read(buffer)?;
        let now = self.writer.size() + length as u64;
        if now > size {
            return Err(ContentError::Size {
                digest,
                expected: size,
                found: size.saturating_add(1),
            }
            .into());
        }
        self.writer
            .write_all(&buffer[..length])
            .map_err(|source| ContentError::Io {
                action: "write",
                name: digest.to_string(),
                source,
            })?;
        if self.told == 0 || now - self.told >= STRIDE {
            self.told = now.max(1);
            self.reporter.status(self.id.as_str(), now, size, false);
        }
        Ok(length)
    }
}

impl Tee<'_> {
    /// Gives the blob its name, if it is what was promised.
    fn finish(self) -> Result<(), ContentError> {
        let Blob { digest, size } = self.blob;
        self.writer.finish(Some((digest, size)))?;
        self.reporter.status(self.id, size, size, true);
        Ok(())
    }
}

/// Does the same with all layers, several at a time, each on a thread of its own. Stops at the
/// first error.
fn in_parallel<T: Send>(
    layers: &[ImageLayer],
    each: impl Fn(&ImageLayer) -> Result<T, OperationError> + Sync,
) -> Result<Vec<T>, OperationError> {
    let next = Mutex::new(0..layers.len());
    let done = Mutex::new(BTreeMap::new());
    let failed = Mutex::new(None);
    let work = || {
        loop {
            let at = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(at) = at else { return };
            match each(&layers[at]) {
                Ok(made) => {
                    done.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(at, made);
                }
                Err(error) => {
                    *next.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
                    failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..WORKERS.min(layers.len()) {
            let thread = std::thread::Builder::new().name("ashlar-unpack".to_owned());
            // Without a second thread the first does it all.
            if thread.spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .into_values()
            .collect()),
    }
}

pub(super) fn blob_of(layer: &ImageLayer) -> LayerBlob {
    let mut annotations = layer.descriptor.annotations.clone();
    annotations.remove(BLOB_URLS);
    if !layer.descriptor.urls.is_empty() {
        annotations.insert(BLOB_URLS.to_owned(), layer.descriptor.urls.join(" "));
    }
    LayerBlob {
        compression: SOURCE_BLOB.to_owned(),
        digest: layer.descriptor.digest,
        diff_id: layer.diff_id,
        size: layer.descriptor.size,
        media_type: layer.descriptor.media_type.clone(),
        annotations,
    }
}
