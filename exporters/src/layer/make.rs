//! One blob that is made.

use std::fs::File;
use std::io::{self, Read, Write};

use ashlar_llb::{BlobDigest, DiffId};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{self, Blob, BlobWriter, ContentError, Inflate, Verify};
use ashlar_solver::error::Failure;
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::result::Store;
use ashlar_solver::snapshot::Layer;
use ashlar_solver::tree::tar::{RewriteError, TarError, rewrite_times};
use ashlar_solver::tree::{Room, Timestamp};
use ashlar_solver::turns::Turn;
use sha2::{Digest as _, Sha256};
use tracing::Span;

use super::{LayerOptions, MadeLayer, Packed, TOC_DIGEST, UNCOMPRESSED_SIZE, table_of};
use crate::blocks::{Opened, Told, Work};
use crate::spans::Scope;
use crate::{Compression, ExportError};

/// Annotation with the moment after which no time in a layer is, in seconds since 1970.
const REWRITTEN: &str = "buildkit/rewritten-timestamp";

/// Bytes that are copied between two looks at the cancel flag.
const STEP: usize = 256 << 10;

/// What a blob is made of.
#[derive(Debug)]
pub(super) enum Origin {
    Layer(Layer),
    Blob(LayerBlob),
}

/// A blob that is to be made.
#[derive(Debug)]
pub(super) struct Making<'a> {
    store: &'a Store,
    origin: Origin,
    compression: Compression,
    latest: Option<Timestamp>,
    /// The name of how it is made.
    variant: String,
    /// Whether its bytes are to be in the store.
    keep: bool,
    cancel: &'a Cancel,
    scope: Scope,
}

/// A blob that is being written.
#[derive(Debug)]
pub(super) struct BlobOutput {
    to: To,
    /// Nobody else makes the same meanwhile.
    _turn: Turn<String>,
    /// It is over when the blob is made.
    _span: Span,
}

#[derive(Debug)]
enum To {
    Store(BlobWriter),
    /// Nowhere: only digest and size are wanted.
    Digest(Sha256, u64),
}

impl Write for BlobOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.to {
            To::Store(writer) => writer.write(bytes),
            To::Digest(hash, size) => {
                hash.update(bytes);
                *size += bytes.len() as u64;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Store(writer) => writer.flush(),
            To::Digest(..) => Ok(()),
        }
    }
}

/// A file whose bytes end with an error once the work is cancelled.
struct UntilCancelled<'a>(File, &'a Cancel);

impl Read for UntilCancelled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1.check().map_err(io::Error::other)?;
        self.0.read(buffer)
    }
}

/// Why a blob could not be made.
#[derive(Debug)]
pub(super) enum MakeError {
    Export(ExportError),
    Io(io::Error),
}

impl<'a> Making<'a> {
    pub(super) fn new(
        store: &'a Store,
        origin: Origin,
        options: LayerOptions,
        latest: Option<Timestamp>,
        cancel: &'a Cancel,
    ) -> Self {
        let LayerOptions {
            compression, packs, ..
        } = options;
        let plain = compression == Compression::Uncompressed;
        let variant = match latest {
            None => compression.to_string(),
            Some(latest) => format!("{compression}@{}", latest.seconds),
        };
        Self {
            store,
            compression,
            latest,
            variant,
            keep: !(packs && plain && matches!(origin, Origin::Layer(_))),
            origin,
            cancel,
            scope: Scope::current(),
        }
    }

    /// The blob, if it was made before.
    pub(super) fn known(&self) -> Result<Option<MadeLayer>, ExportError> {
        let found = match &self.origin {
            Origin::Blob(blob) => self.store.variant(&blob.digest, &self.variant)?,
            Origin::Layer(layer) => {
                let known = match self.keep {
                    true => self.store.layer_blobs(layer)?,
                    false => {
                        let noted = self.store.meta().layer_blobs(layer.id());
                        noted.map_err(Failure::from)?
                    }
                };
                known.into_iter().find(|b| b.compression == self.variant)
            }
        };
        found.map(|blob| self.made(blob)).transpose()
    }

    /// The layer as this blob, which may not be in the store.
    fn made(&self, blob: LayerBlob) -> Result<MadeLayer, ExportError> {
        let packed = match &self.origin {
            Origin::Layer(layer) if !self.keep => {
                let stored = self.store.blobs().contains(&blob.digest);
                let stored = stored.map_err(Failure::from)?;
                (!stored).then(|| self.packed(layer))
            }
            _ => None,
        };
        Ok(MadeLayer { blob, packed })
    }

    fn packed(&self, layer: &Layer) -> Packed {
        Packed {
            layer: layer.clone(),
            latest: self.latest,
        }
    }

    fn failed(&self, error: io::Error) -> ExportError {
        if error.kind() == io::ErrorKind::Interrupted && self.cancel.is_cancelled() {
            return ExportError::Cancelled;
        }
        let path = self.store.layers().root().path();
        ExportError::io("write a blob below", path)(error)
    }

    /// Writes the tar of a blob. A table of contents and what belongs to it is left out.
    fn convert(&self, blob: &LayerBlob, stream: &mut dyn Room) -> Result<(), ExportError> {
        let bad = |source| match self.cancel.is_cancelled() {
            true => ExportError::Cancelled,
            false => ExportError::Convert {
                digest: blob.digest,
                source,
            },
        };
        let file = self.store.blobs().open(&blob.digest);
        let file = file.map_err(Failure::from)?;
        let mut file = file.ok_or_else(|| bad(io::ErrorKind::NotFound.into()))?;
        let table = table_of(self.store, blob)?;
        let mut kind = content::Compression::of_media_type(&blob.media_type);
        if kind.is_none() {
            let mut start = [0; 4];
            let length = file.read(&mut start).map_err(bad)?;
            io::Seek::rewind(&mut file).map_err(bad)?;
            kind = Some(content::Compression::of_magic(&start[..length]));
        }
        let kind = kind.unwrap_or(content::Compression::Uncompressed);
        let file = UntilCancelled(file, self.cancel);
        let mut verified = Verify::new(file, blob.digest, blob.size);
        let mut diff_id = None;
        {
            let tar = Read::take(&mut verified, table.unwrap_or(u64::MAX));
            let limit = self.store.limits().layer_bytes;
            let mut tar = Inflate::new(tar, kind, limit).map_err(Failure::from)?;
            match self.latest {
                None => {
                    self.copy(&mut tar, stream, &bad)?;
                    diff_id = table.is_none().then(|| tar.diff_id());
                }
                Some(latest) => {
                    let rewritten = rewrite_times(&mut tar, stream, latest, limit, self.cancel);
                    rewritten.map_err(|error| match error {
                        RewriteError::Cancelled(_) => ExportError::Cancelled,
                        RewriteError::Write { source } => self.failed(source),
                        RewriteError::Tar(TarError::Read { source }) => bad(source),
                        RewriteError::TooLarge { limit } => {
                            bad(ContentError::TooLarge { limit }.into())
                        }
                        error => bad(io::Error::new(io::ErrorKind::InvalidData, error)),
                    })?;
                }
            }
        }
        io::copy(&mut verified, &mut io::sink()).map_err(bad)?;
        match diff_id {
            Some(found) if found != blob.diff_id => {
                let text = format!("its diff id is {found}, not {}", blob.diff_id);
                Err(bad(io::Error::new(io::ErrorKind::InvalidData, text)))
            }
            _ => Ok(()),
        }
    }

    fn copy(
        &self,
        from: &mut dyn Read,
        to: &mut dyn Room,
        bad: &dyn Fn(io::Error) -> ExportError,
    ) -> Result<(), ExportError> {
        let full = |error: io::Error| match error.kind() {
            // The layer is not what it takes to be made into eStargz.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => bad(error),
            _ => self.failed(error),
        };
        loop {
            self.cancel.check()?;
            let room = to.room().map_err(full)?;
            let wanted = room.len().min(STEP);
            match from.read(&mut room[..wanted]) {
                Ok(0) => return Ok(()),
                Ok(length) => to.filled(length).map_err(full)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(bad(error)),
            }
        }
    }
}

impl Work for Making<'_> {
    type Output = BlobOutput;
    type Made = MadeLayer;
    type Error = MakeError;

    fn compression(&self) -> Compression {
        self.compression
    }

    fn open(&self) -> Result<Opened<BlobOutput, MadeLayer>, MakeError> {
        let what = match &self.origin {
            Origin::Layer(layer) => layer.id().to_string(),
            Origin::Blob(blob) => blob.digest.to_string(),
        };
        let turn = self
            .store
            .turn(format!("{what} {}", self.variant), self.cancel)?;
        if let Some(made) = self.known()? {
            return Ok(Opened::Made(made));
        }
        let to = match self.keep {
            true => {
                let writer = self.store.blobs().writer().map_err(Failure::from);
                To::Store(writer.map_err(ExportError::from)?)
            }
            false => To::Digest(Sha256::new(), 0),
        };
        let compression = self.compression;
        let span = || tracing::debug_span!("layer", of = what, %compression);
        Ok(Opened::Output(BlobOutput {
            to,
            _turn: turn,
            _span: self.scope.within(span),
        }))
    }

    fn produce(&self, stream: &mut dyn Room) -> Result<(), MakeError> {
        let produced = match &self.origin {
            Origin::Layer(layer) => {
                let packed = self.packed(layer);
                let written = packed.write(stream, |error| self.failed(error), self.cancel);
                written.map(drop)
            }
            Origin::Blob(blob) => self.convert(blob, stream),
        };
        produced.map_err(MakeError::from)
    }

    fn finish(&self, output: BlobOutput, told: Told) -> Result<MadeLayer, MakeError> {
        let blob = match output.to {
            To::Store(writer) => {
                let blob = writer.finish(None).map_err(Failure::from);
                blob.map_err(ExportError::from)?
            }
            To::Digest(hash, size) => Blob {
                digest: BlobDigest::from_bytes(hash.finalize().into()),
                size,
            },
        };
        let mut made = LayerBlob {
            compression: self.variant.clone(),
            digest: blob.digest,
            diff_id: match told.diff_id {
                Some(diff_id) => diff_id,
                None => DiffId::from_bytes(*blob.digest.as_bytes()),
            },
            size: blob.size,
            media_type: self.compression.media_type().to_owned(),
            annotations: Default::default(),
        };
        if let Some(digest) = told.contents {
            let size = told.size.to_string();
            made.annotations
                .insert(TOC_DIGEST.to_owned(), digest.to_string());
            made.annotations.insert(UNCOMPRESSED_SIZE.to_owned(), size);
        }
        if let Some(latest) = self.latest {
            made.annotations
                .insert(REWRITTEN.to_owned(), latest.seconds.to_string());
        }
        let noted = match &self.origin {
            Origin::Blob(original) => self.store.put_variant(&original.digest, &made),
            Origin::Layer(layer) => self
                .store
                .meta()
                .put_layer_blob(layer.id(), &made)
                .map_err(Failure::from),
        };
        noted.map_err(ExportError::from)?;
        Ok(self.made(made)?)
    }
}

impl From<io::Error> for MakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ExportError> for MakeError {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

impl From<ashlar_solver::cancel::Cancelled> for MakeError {
    fn from(_: ashlar_solver::cancel::Cancelled) -> Self {
        Self::Export(ExportError::Cancelled)
    }
}

impl From<MakeError> for ExportError {
    fn from(error: MakeError) -> Self {
        match error {
            MakeError::Export(error) => error,
            MakeError::Io(source) => Self::Blob { source },
        }
    }
}
