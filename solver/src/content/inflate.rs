//! The tar stream inside a layer blob.

use std::io::{self, BufReader, Read};

use ashlar_llb::digest::DiffId;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::ContentError;

/// The largest window of a zstd stream that is accepted: 2^27 bytes, what decoders take without
/// being told otherwise. It bounds the memory of a decoder.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Bytes of a blob that are read at once.
const BUFFER: usize = 128 << 10;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// gzip, possibly of several members (as eStargz is).
    Gzip,
    /// zstd, possibly of several frames.
    Zstd,
}

impl Compression {
    /// The compression that a media type of a layer tells; `None` for other media types.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let foreign = media_type
            .strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.")
            .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.v1."));
        let docker = media_type
            .strip_prefix("application/vnd.docker.image.rootfs.diff.")
            .or_else(|| {
                media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.")
            });
        match (foreign, docker) {
            (Some("tar"), _) | (_, Some("tar")) => Some(Self::Uncompressed),
            (Some("tar+gzip"), _) | (_, Some("tar.gzip")) => Some(Self::Gzip),
            (Some("tar+zstd"), _) | (_, Some("tar.zstd")) => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The compression that the first bytes of a blob tell.
    pub fn of_magic(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b, 0x08]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::Uncompressed
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Uncompressed => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

enum Decoder<R: Read> {
    Plain(BufReader<Below<R>>),
    Gzip(Box<MultiGzDecoder<BufReader<Below<R>>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<Below<R>>>>),
}

/// The reader of the blob, which remembers that it failed: its errors are not the decoder's.
struct Below<R> {
    reader: R,
    failed: bool,
}

impl<R: Read> Read for Below<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer);
        let failed = |error: &io::Error| error.kind() != io::ErrorKind::Interrupted;
        self.failed |= read.as_ref().is_err_and(failed);
        read
    }
}

impl<R: Read> Decoder<R> {
    fn below(&mut self) -> &mut BufReader<Below<R>> {
        match self {
            Self::Plain(plain) => plain,
            Self::Gzip(gzip) => gzip.get_mut(),
            Self::Zstd(zstd) => zstd.get_mut(),
        }
    }
}

/// Inflates a layer as it is read, hashes the tar stream for its diff id, and fails when it
/// becomes larger than a limit. Reads the blob to its end, so that a [`super::Verify`] below has
/// seen every byte once this reader is at its end.
pub struct Inflate<R: Read> {
    decoder: Decoder<R>,
    compression: Compression,
    hash: Sha256,
    read: u64,
    limit: u64,
    ended: bool,
}

impl<R: Read> std::fmt::Debug for Inflate<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate")
            .field("compression", &self.compression)
            .field("read", &self.read)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<R: Read> Inflate<R> {
    /// Wraps the bytes of a blob. `limit`: how many bytes it may inflate to.
    ///
    /// # Errors
    /// [`ContentError::Inflate`] if a decoder cannot be made.
    pub fn new(blob: R, compression: Compression, limit: u64) -> Result<Self, ContentError> {
        let below = Below {
            reader: blob,
            failed: false,
        };
        let input = BufReader::with_capacity(BUFFER, below);
        let decoder = match compression {
            Compression::Uncompressed => Decoder::Plain(input),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let failed = |source| ContentError::Inflate {
                    compression: "zstd",
                    source,
                };
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(Self {
            decoder,
            compression,
            hash: Sha256::new(),
            read: 0,
            limit,
            ended: false,
        })
    }

    /// Bytes of the tar stream so far.
    pub fn size(&self) -> u64 {
        self.read
    }

    /// The diff id of what was read; only after the end it is that of the layer.
    pub fn diff_id(&self) -> DiffId {
        DiffId::from_bytes(self.hash.clone().finalize().into())
    }

    /// Whether the end was reached.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Errors of a decoder are about the stream; those of the blob below pass through.
    fn failed(&mut self, source: io::Error) -> io::Error {
        if self.decoder.below().get_ref().failed || self.compression == Compression::Uncompressed {
            return source;
        }
        ContentError::Inflate {
            compression: self.compression.name(),
            source,
        }
        .into()
    }
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.ended {
            return Ok(0);
        }
        let length = match &mut self.decoder {
            Decoder::Plain(plain) => plain.read(buffer),
            Decoder::Gzip(gzip) => gzip.read(buffer),
            Decoder::Zstd(zstd) => zstd.read(buffer),
        };
        let length = length.map_err(|error| self.failed(error))?;
        if length == 0 {
            // A decoder may stop before the end of the blob; what follows counts for its digest.
            io::copy(self.decoder.below(), &mut io::sink())?;
            self.ended = true;
            return Ok(0);
        }
        self.read += length as u64;
        if self.read > self.limit {
            return Err(ContentError::TooLarge { limit: self.limit }.into());
        }
        self.hash.update(&buffer[..length]);
        Ok(length)
    }
}
