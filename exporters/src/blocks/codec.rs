//! From a block to the bytes that stand for it.

use std::io;

use flate2::{Crc, FlushCompress, Status};
use libdeflater::{CompressionLvl, Compressor};
use zstd::zstd_safe::{CParameter, Strategy};

use super::runs::runs;
use super::text::is_text;
use crate::Compression;

/// What a compression cuts streams into, in bytes. Smaller ones cost ratio (0.1 % for gzip), larger
/// ones memory. Frames of zstd are such that most of their bytes have all of [`ZSTD_WINDOW`]
/// behind them that there was in a layer.
pub(super) fn block_size(compression: Compression) -> usize {
    match compression {
        Compression::Zstd { .. } => 10 << 20,
        _ => 1 << 20,
    }
}

/// The logarithm of how far back a frame of zstd refers: 8 MiB, which all decoders have to take.
const ZSTD_WINDOW: u32 = 23;

/// The level of zstd that is used unless another is asked for.
const ZSTD_DEFAULT: u8 = 3;

/// What the default level does with blocks that are not text. It looks every place up in two tables;
/// one, of four times as many entries as those of lower levels have, finds nearly as much of programs
/// and libraries (those of a `/usr` were 1 % larger, text would be 5 %) in a fifth less time.
const BINARY_HASH: u32 = 18;

/// The shortest match that is looked for there, in bytes.
const BINARY_MATCH: u32 = 6;

/// Bytes that a deflate stream may refer back to.
pub(super) const WINDOW: usize = 32 << 10;

/// A part of a stream.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    /// Where its members end, but for the last one; for those that have several.
    pub(super) cuts: Vec<usize>,
    /// What stood before it in the stream, for those that refer to it.
    pub(super) dictionary: Vec<u8>,
    /// Whether it is the end of the stream.
    pub(super) last: bool,
}

/// What became of a block.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    /// Where its members begin.
    pub(super) members: Vec<usize>,
    /// The checksum of the block, for those that have one for the whole stream.
    pub(super) crc: Option<Crc>,
}

/// The compressors of one thread, made when they are first needed.
#[derive(Default)]
pub(super) struct Codecs {
    gzip: Option<(u8, Compressor)>,
    stored: Option<(u8, Compressor)>,
    stream: Option<(u8, flate2::Compress)>,
    zstd: Option<(u8, zstd::bulk::Compressor<'static>)>,
    binary: Option<(u8, zstd::bulk::Compressor<'static>)>,
}

/// The compressor in `slot`, if it has this level, or else a new one.
fn at_level<C>(
    slot: &mut Option<(u8, C)>,
    level: u8,
    make: impl FnOnce() -> io::Result<C>,
) -> io::Result<&mut C> {
    let kept = slot.take().filter(|(kept, _)| *kept == level);
    let (_, codec) = slot.insert(match kept {
        Some(kept) => kept,
        None => (level, make()?),
    });
    Ok(codec)
}

impl Codecs {
    /// Compresses a block. Returns the block's buffer too, for the next one.
    pub(super) fn press(
        &mut self,
        compression: Compression,
        mut block: Block,
        spare: Vec<u8>,
    ) -> io::Result<(Piece, Vec<u8>)> {
        let mut piece = Piece {
            bytes: spare,
            members: Vec::new(),
            crc: None,
        };
        let level = compression.level();
        match compression {
            Compression::Uncompressed => std::mem::swap(&mut piece.bytes, &mut block.bytes),
            Compression::Gzip { .. } => {
                for run in runs(&block.bytes) {
                    let level = if run.compress { level } else { 0 };
                    self.member(level, &block.bytes[run.range], &mut piece.bytes)?;
                }
            }
            Compression::Estargz { .. } => self.members(level, &block, &mut piece)?,
            Compression::GzipStream { .. } => self.part(level, &block, &mut piece)?,
            Compression::Zstd { .. } => self.frame(level, &block.bytes, &mut piece.bytes)?,
        }
        Ok((piece, block.bytes))
    }

    fn members(&mut self, level: u8, block: &Block, piece: &mut Piece) -> io::Result<()> {
        let mut from = 0;
        for to in block.cuts.iter().copied().chain([block.bytes.len()]) {
            piece.members.push(piece.bytes.len());
            let bytes = &block.bytes[from..to];
            // A member cannot be cut, but stored.
            let compress = runs(bytes).iter().any(|run| run.compress);
            self.member(if compress { level } else { 0 }, bytes, &mut piece.bytes)?;
            from = to;
        }
        Ok(())
    }

    /// Appends a whole gzip member. It carries no time and no name.
    pub(super) fn member(&mut self, level: u8, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let slot = match level {
            0 => &mut self.stored,
            _ => &mut self.gzip,
        };
        let codec = at_level(slot, level, || {
            let level = CompressionLvl::new(i32::from(level));
            Ok(Compressor::new(level.map_err(|_| unknown_level())?))
        })?;
        let start = out.len();
        out.resize(start + codec.gzip_compress_bound(bytes.len()), 0);
        let length = codec
            .gzip_compress(bytes, &mut out[start..])
            .map_err(io::Error::other)?;
        out.truncate(start + length);
        Ok(())
    }

    /// A part of one deflate stream: it ends at a byte, and the last one ends the stream.
    fn part(&mut self, level: u8, block: &Block, piece: &mut Piece) -> io::Result<()> {
        let codec = at_level(&mut self.stream, level, || {
            let level = flate2::Compression::new(u32::from(level));
            Ok(flate2::Compress::new(level, false))
        })?;
        codec.reset();
        if !block.dictionary.is_empty() {
            codec
                .set_dictionary(&block.dictionary)
                .map_err(io::Error::other)?;
        }
        let flush = match block.last {
            true => FlushCompress::Finish,
            false => FlushCompress::Sync,
        };
        // Room for what does not compress: 5 bytes for each 16 KiB, and the end.
        piece
            .bytes
            .reserve(block.bytes.len() + block.bytes.len() / 1024 + 64);
        loop {
            let read = usize::try_from(codec.total_in()).unwrap_or(usize::MAX);
            let rest = block.bytes.get(read..).unwrap_or_default();
            let status = codec.compress_vec(rest, &mut piece.bytes, flush);
            let status = status.map_err(io::Error::other)?;
            // With room left, nothing is held back.
            let room = piece.bytes.len() < piece.bytes.capacity();
            let all = codec.total_in() == block.bytes.len() as u64;
            if status == Status::StreamEnd || (all && room && !block.last) {
                break;
            }
            piece.bytes.reserve(4096);
        }
        let mut crc = Crc::new();
        crc.update(&block.bytes);
        piece.crc = Some(crc);
        Ok(())
    }

    fn frame(&mut self, level: u8, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let binary = level == ZSTD_DEFAULT && !is_text(bytes);
        let slot = match binary {
            true => &mut self.binary,
            false => &mut self.zstd,
        };
        let codec = at_level(slot, level, || {
            let mut codec = zstd::bulk::Compressor::new(i32::from(level))?;
            codec.window_log(ZSTD_WINDOW)?;
            if binary {
                codec.set_parameter(CParameter::Strategy(Strategy::ZSTD_fast))?;
                codec.set_parameter(CParameter::HashLog(BINARY_HASH))?;
                codec.set_parameter(CParameter::MinMatch(BINARY_MATCH))?;
            }
            Ok(codec)
        })?;
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        codec.compress_to_buffer(bytes, out)?;
        Ok(())
    }
}

fn unknown_level() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "there is no such level")
}

/// The header of a gzip member without time and name; the system is told to be unknown.
pub(super) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
