//! The bytes of an archive in a tree: inflated as they are read, and checked to be those that the
//! key of the copy was made of.
//!
//! Invariants: no more comes out than the limit says, whatever the bytes promise; a decoder's
//! memory is bounded; a file that changes while it is read is an error.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::FileProblem;
use crate::cancel::Cancel;
use crate::tree::checksum::FileHasher;
use crate::tree::tar::is_header;
use crate::tree::{Node, TreePath};

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// Memory that a decoder of xz may take: four times what `xz -9` makes it take. An archive may ask
/// for 4 GiB.
const XZ_MEMORY: u64 = 256 << 20;

/// The largest window of zstd, as a power of two: what `zstd` itself takes without being asked to
/// take more.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A tar is told by its first block.
const BLOCK: usize = 512;

/// The file as it is in its tree.
struct Source<'a> {
    file: File,
    path: &'a TreePath,
    /// Of a file that may change: what is computed of what was read.
    hasher: Option<FileHasher>,
    /// The first error of the file itself, which is not the decoder's.
    failed: Option<io::Error>,
    cancel: &'a Cancel,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        match self.file.read(buffer) {
            Ok(length) => {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(&buffer[..length]);
                }
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed.get_or_insert(error);
                Err(kind.into())
            }
        }
    }
}

/// What was read to find out what the file is, and the rest.
type Input<'a> = BufReader<io::Chain<Cursor<Vec<u8>>, Source<'a>>>;

enum Decoder<'a> {
    Plain(Box<Input<'a>>),
    Gzip(Box<MultiGzDecoder<Input<'a>>>),
    Bzip2(Box<MultiBzDecoder<Input<'a>>>),
    Xz(Box<XzDecoder<Input<'a>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<'a>>>),
}

impl<'a> Decoder<'a> {
    fn new(start: &[u8], input: Input<'a>) -> io::Result<Self> {
        Ok(match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            [b'B', b'Z', b'h', ..] => Self::Bzip2(Box::new(MultiBzDecoder::new(input))),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
                let concatenated = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, concatenated)?;
                Self::Xz(Box::new(XzDecoder::new_stream(input, stream)))
            }
            // A frame, or one that is to be skipped before the first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Self::Zstd(Box::new(decoder))
            }
            _ => Self::Plain(Box::new(input)),
        })
    }

    fn into_source(self) -> Source<'a> {
        let input = match self {
            Self::Plain(input) => *input,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Bzip2(decoder) => decoder.into_inner(),
            Self::Xz(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        input.into_inner().into_inner().1
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Bzip2(decoder) => decoder.read(buffer),
            Self::Xz(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// A file of a tree, inflated.
pub(super) struct Archive<'a> {
    decoder: Decoder<'a>,
    node: &'a Arc<Node>,
    path: &'a TreePath,
    /// Bytes that may still come out.
    left: u64,
    /// More came out than may.
    pub(super) too_large: bool,
}

impl<'a> Archive<'a> {
    /// Opens a regular file. Of one that may change the checksum must be known. At most `limit`
    /// bytes come out of it.
    pub(super) fn open(
        node: &'a Arc<Node>,
        path: &'a TreePath,
        limit: u64,
        cancel: &'a Cancel,
    ) -> Result<Self, FileProblem> {
        let unreadable = |source| FileProblem::Read {
            path: path.clone(),
            source,
        };
        let none = || io::Error::from(io::ErrorKind::NotFound);
        let files = node.files().ok_or_else(none).map_err(unreadable)?;
        let mut source = Source {
            file: files.open(path).map_err(unreadable)?,
            path,
            hasher: (!files.immutable()).then(|| FileHasher::new(node.entry())),
            failed: None,
            cancel,
        };
        let mut start = Vec::new();
        let read = (&mut source).take(BLOCK as u64).read_to_end(&mut start);
        read.map_err(unreadable)?;
        let input = Cursor::new(start.clone()).chain(source);
        let input = BufReader::with_capacity(BUFFER, input);
        Ok(Self {
            decoder: Decoder::new(&start, input).map_err(unreadable)?,
            node,
            path,
            left: limit,
            too_large: false,
        })
    }

    /// Whether a tar comes out of it. Damaged compressed data is none.
    pub(super) fn holds_tar(mut self) -> bool {
        let mut first = Vec::with_capacity(BLOCK);
        let read = (&mut self).take(BLOCK as u64).read_to_end(&mut first);
        read.is_ok() && <[u8; BLOCK]>::try_from(first).is_ok_and(|first| is_header(&first))
    }

    /// Reads the file to its end, and makes sure that it is what its checksum was computed from.
    /// Gives the error that the file itself made.
    pub(super) fn finish(self) -> Result<(), FileProblem> {
        let (node, path) = (self.node, self.path);
        let mut source = self.decoder.into_source();
        let rest = match source.failed.take() {
            Some(error) => Err(error),
            None => io::copy(&mut source, &mut io::sink()),
        };
        rest.map_err(|error| FileProblem::Read {
            path: source.path.clone(),
            source: source.failed.take().unwrap_or(error),
        })?;
        let read = source.hasher.map(FileHasher::finish);
        let known = node.digest_memo().get().copied();
        if read.is_some() && read != known {
            let path = path.clone();
            return Err(FileProblem::Write(
                crate::tree::writer::WriteError::InputChanged { path },
            ));
        }
        Ok(())
    }
}

impl Read for Archive<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.decoder.read(buffer)?;
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => {
                self.too_large = true;
                return Err(io::Error::other("the archive is too large"));
            }
        }
        Ok(length)
    }
}
