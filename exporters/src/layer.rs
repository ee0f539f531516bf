//! Layers as blobs: found where they were made before, made where not.

use std::io;
use std::num::NonZero;

use ashlar_llb::DiffId;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::Failure;
use ashlar_solver::meta::LayerBlob;
use ashlar_solver::result::{SOURCE_BLOB, Store};
use ashlar_solver::snapshot::Layer;
use ashlar_solver::tree::pack::{PackError, PackOptions, pack};
use libdeflater::CompressionLvl;
use sha2::{Digest as _, Sha256};

use crate::image::{LAYER, LAYER_GZIP};
use crate::{ExportError, parallel_gzip};

/// How the layers that a build made are compressed. Layers of a base image stay as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// A plain tar.
    Uncompressed,
    /// Gzip, by libdeflate, in members of 1 MiB that are compressed on all processors. The bytes
    /// depend on level and input alone.
    Gzip {
        /// 0 (stored) to 9. Default 4, which is both smaller and faster than level 6 of Go's
        /// library, BuildKit's default.
        level: u8,
    },
}

impl Default for Compression {
    fn default() -> Self {
        Self::Gzip { level: 4 }
    }
}

impl Compression {
    /// The name under which the store keeps a blob of this kind.
    fn variant(self) -> String {
        match self {
            Self::Uncompressed => "uncompressed".to_owned(),
            Self::Gzip { level } => format!("gzip-{}", level.min(9)),
        }
    }
}

/// Finds or makes the blob of a layer. Blocks.
pub(crate) fn layer_blob(
    store: &Store,
    layer: &Layer,
    compression: Compression,
    cancel: &Cancel,
) -> Result<LayerBlob, ExportError> {
    let wanted = compression.variant();
    let mut known = store.layer_blobs(layer)?;
    let choice = known
        .iter()
        .position(|blob| blob.compression == SOURCE_BLOB)
        .or_else(|| known.iter().position(|blob| blob.compression == wanted));
    if let Some(at) = choice {
        return Ok(known.swap_remove(at));
    }
    let blob = make(store, layer, compression, cancel)?;
    store
        .meta()
        .put_layer_blob(layer.id(), &blob)
        .map_err(Failure::from)?;
    Ok(blob)
}

/// What interrupts the way from a layer to a blob.
enum MakeError {
    Pack(PackError),
    Io(io::Error),
}

impl From<io::Error> for MakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn make(
    store: &Store,
    layer: &Layer,
    compression: Compression,
    cancel: &Cancel,
) -> Result<LayerBlob, ExportError> {
    let content = layer.content().map_err(Failure::from)?;
    let files = layer.files();
    let mut writer = store.blobs().writer().map_err(Failure::from)?;
    let produce = |out: &mut dyn io::Write| {
        let mut hashed = Hashed {
            out,
            hasher: Sha256::new(),
        };
        pack(
            &content.0,
            &*files,
            &mut hashed,
            &PackOptions::default(),
            cancel,
        )
        .map_err(MakeError::Pack)?;
        let bytes: [u8; 32] = hashed.hasher.finalize().into();
        Ok::<_, MakeError>(DiffId::from_bytes(bytes))
    };
    let packed = match compression {
        Compression::Uncompressed => {
            let mut buffered = io::BufWriter::with_capacity(1 << 16, &mut writer);
            produce(&mut buffered).and_then(|diff_id| {
                io::Write::flush(&mut buffered)?;
                Ok(diff_id)
            })
        }
        Compression::Gzip { level } => {
            let level = CompressionLvl::new(i32::from(level.min(9)))
                .expect("BUG: libdeflate has levels 0 to 12");
            let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
            parallel_gzip::compress(level, threads, &mut writer, produce)
        }
    };
    let diff_id = match packed {
        Ok(diff_id) => diff_id,
        Err(MakeError::Pack(PackError::Cancelled(_))) => return Err(ExportError::Cancelled),
        Err(MakeError::Pack(error)) => return Err(Failure::from(error).into()),
        Err(MakeError::Io(error)) => {
            return Err(ExportError::io(
                "write a blob below",
                store.layers().root().path(),
            )(error));
        }
    };
    let blob = writer.finish(None).map_err(Failure::from)?;
    let media_type = match compression {
        Compression::Uncompressed => LAYER,
        Compression::Gzip { .. } => LAYER_GZIP,
    };
    Ok(LayerBlob {
        compression: compression.variant(),
        digest: blob.digest,
        diff_id,
        size: blob.size,
        media_type: media_type.to_owned(),
        annotations: Default::default(),
    })
}

/// Hashes what passes through.
struct Hashed<'a> {
    out: &'a mut dyn io::Write,
    hasher: Sha256,
}

impl io::Write for Hashed<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.hasher.update(&data[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
