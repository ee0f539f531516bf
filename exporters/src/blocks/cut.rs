//! A stream cut into blocks.

use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::codec::{Block, WINDOW, block_size};
use super::estargz::{LARGEST, TocCutter};
use super::ordered::End;
use super::pool::Blocks;
use crate::Compression;

/// Cuts what is written to it into blocks, and hashes it.
pub(super) struct Cutter<'a> {
    blocks: Filling<'a>,
    compression: Compression,
    hash: Option<Sha256>,
    size: u64,
    toc: Option<TocCutter>,
}

/// The block that is being filled.
pub(super) struct Filling<'a> {
    pool: &'a mut dyn Blocks,
    work: usize,
    number: u64,
    block: Block,
    /// What the block counts in the budget; 0 before it was begun.
    reserved: usize,
    /// What a block of this stream may have at most.
    largest: usize,
}

impl<'a> Cutter<'a> {
    /// Cuts the stream of the work with this number.
    pub(super) fn new(compression: Compression, work: usize, pool: &'a mut dyn Blocks) -> Self {
        let estargz = matches!(compression, Compression::Estargz { .. });
        Self {
            blocks: Filling {
                pool,
                work,
                number: 0,
                block: Block::default(),
                reserved: 0,
                largest: match estargz {
                    true => LARGEST,
                    false => block_size(compression),
                },
            },
            compression,
            // The digest of a plain tar is that of its blob.
            hash: (compression != Compression::Uncompressed).then(Sha256::new),
            size: 0,
            toc: estargz.then(TocCutter::default),
        }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<End> {
        let mut contents = None;
        if let Some(toc) = self.toc.take() {
            let (added, done) = toc.finish(&mut self.blocks)?;
            self.size += added.len() as u64;
            if let Some(hash) = &mut self.hash {
                hash.update(&added);
            }
            contents = Some(done);
        }
        let blocks = self.blocks.finish()?;
        Ok(End {
            blocks,
            size: self.size,
            hash: self.hash,
            contents,
        })
    }
}

impl Write for Cutter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Some(hash) = &mut self.hash {
            hash.update(data);
        }
        self.size += data.len() as u64;
        if let Some(toc) = &mut self.toc {
            toc.write(data, &mut self.blocks)?;
            return Ok(data.len());
        }
        let refers = matches!(self.compression, Compression::GzipStream { .. });
        let mut rest = data;
        while !rest.is_empty() {
            let room = self.blocks.room()?;
            if room == 0 {
                self.blocks.submit(refers);
                continue;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.blocks.append(now);
            rest = later;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Filling<'_> {
    /// Bytes that fit into the block. Begins it, which may take a while.
    pub(super) fn room(&mut self) -> io::Result<usize> {
        if self.reserved == 0 {
            self.block.bytes = self.pool.reserve(self.largest)?;
            // The buffer is used again for what a block is compressed to, which can be larger.
            self.block
                .bytes
                .reserve_exact(self.largest + self.largest / 64);
            self.reserved = self.largest;
        }
        Ok(self.largest - self.block.bytes.len())
    }

    /// Bytes in the block.
    pub(super) fn length(&self) -> usize {
        self.block.bytes.len()
    }

    /// Adds bytes for which there is room.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.block.bytes.extend_from_slice(bytes);
    }

    /// Begins a member, if the last one has bytes. Returns the number of the block, and that of
    /// the member in it.
    pub(super) fn cut(&mut self) -> (u64, usize) {
        let (length, cuts) = (self.length(), &mut self.block.cuts);
        if length > cuts.last().copied().unwrap_or(0) {
            cuts.push(length);
        }
        (self.number, cuts.len())
    }

    /// Ends the block; there is more to come. `refers`: the next one may refer to its end.
    pub(super) fn submit(&mut self, refers: bool) {
        let dictionary = match refers {
            true => self.block.bytes[self.length().saturating_sub(WINDOW)..].to_vec(),
            false => Vec::new(),
        };
        let next = Block {
            dictionary,
            ..Block::default()
        };
        let block = std::mem::replace(&mut self.block, next);
        self.send(block, true);
    }

    fn send(&mut self, mut block: Block, full: bool) {
        // A member of nothing would be one too many.
        block.cuts.pop_if(|cut| *cut == block.bytes.len());
        let reserved = std::mem::take(&mut self.reserved);
        self.pool
            .submit(self.work, self.number, block, reserved, full);
        self.number += 1;
    }

    /// Ends the stream; returns how many blocks it had, one at least.
    fn finish(&mut self) -> io::Result<u64> {
        let _room = self.room()?;
        let mut block = std::mem::take(&mut self.block);
        block.last = true;
        self.send(block, false);
        Ok(self.number)
    }
}
