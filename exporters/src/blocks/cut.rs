//! A stream cut into blocks.

use std::io::{self, Write};

use ashlar_solver::tree::Room;
use sha2::{Digest as _, Sha256};

use super::codec::{Block, WINDOW, block_size};
use super::estargz::{LARGEST, TocCutter};
use super::ordered::End;
use super::pool::Blocks;
use crate::Compression;

/// Bytes of room that are lent at least, unless a block ends before.
const STEP: usize = 256 << 10;

/// Cuts what is written to it into blocks, and hashes it.
pub(super) struct Cutter<'a> {
    blocks: Filling<'a>,
    compression: Compression,
    hash: Option<Sha256>,
    size: u64,
    toc: Option<TocCutter>,
    /// Room for what the table of contents looks at before it is in a block.
    aside: Vec<u8>,
}

/// The block that is being filled.
pub(super) struct Filling<'a> {
    pool: &'a mut dyn Blocks,
    work: usize,
    number: u64,
    block: Block,
    /// Bytes of the block that are filled: there may be more of it.
    length: usize,
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
                length: 0,
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
            aside: Vec::new(),
        }
    }

    /// Counts what is in a block.
    fn pass(&mut self, bytes: &[u8]) {
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    fn make_room(&mut self) -> io::Result<()> {
        if self.blocks.room()? == 0 {
            let refers = matches!(self.compression, Compression::GzipStream { .. });
            self.blocks.submit(refers);
            self.blocks.room()?;
        }
        Ok(())
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
        if let Some(toc) = &mut self.toc {
            toc.write(data, &mut self.blocks)?;
            self.pass(data);
            return Ok(data.len());
        }
        self.make_room()?;
        let (now, _) = data.split_at(self.blocks.room()?.min(data.len()));
        self.blocks.append(now);
        self.pass(now);
        Ok(now.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Room for Cutter<'_> {
    fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.toc.is_some() {
            self.aside.resize(STEP, 0);
            return Ok(&mut self.aside);
        }
        self.make_room()?;
        Ok(self.blocks.spare())
    }

    fn filled(&mut self, length: usize) -> io::Result<()> {
        if self.toc.is_some() {
            let aside = std::mem::take(&mut self.aside);
            let written = self.write_all(&aside[..length]);
            self.aside = aside;
            return written;
        }
        let filled = self.blocks.fill(length);
        if let Some(hash) = &mut self.hash {
            hash.update(filled);
        }
        self.size += length as u64;
        Ok(())
    }
}

impl Filling<'_> {
    /// Bytes that fit into the block. Begins it, which may take a while.
    pub(super) fn room(&mut self) -> io::Result<usize> {
        if self.reserved == 0 {
            self.block.bytes = self.pool.reserve(self.largest)?;
            // The buffer is used again for what a block is compressed to, which can be larger.
            let wanted = self.largest + self.largest / 64;
            let bytes = &mut self.block.bytes;
            bytes.reserve_exact(wanted.saturating_sub(bytes.len()));
            self.reserved = self.largest;
        }
        Ok(self.largest - self.length)
    }

    /// Room for the next bytes of the block, which was begun.
    fn spare(&mut self) -> &mut [u8] {
        let end = self.largest.min(self.length + STEP);
        if self.block.bytes.len() < end {
            self.block.bytes.resize(end, 0);
        }
        let end = self.largest.min(self.block.bytes.len());
        &mut self.block.bytes[self.length..end]
    }

    /// Adds the first bytes of the room, and tells them.
    fn fill(&mut self, length: usize) -> &[u8] {
        let from = self.length;
        self.length += length;
        &self.block.bytes[from..self.length]
    }

    /// Bytes in the block.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Adds bytes for which there is room.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let there = self.block.bytes.len() - self.length;
        let (over, behind) = bytes.split_at(there.min(bytes.len()));
        self.block.bytes[self.length..][..over.len()].copy_from_slice(over);
        self.block.bytes.extend_from_slice(behind);
        self.length += bytes.len();
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
            true => self.block.bytes[self.length.saturating_sub(WINDOW)..self.length].to_vec(),
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
        block.bytes.truncate(std::mem::take(&mut self.length));
        // A member of nothing would be one too many.
        block.cuts.pop_if(|cut| *cut == block.bytes.len());
        let reserved = std::mem::take(&mut self.reserved);
        self.pool
            .submit(self.work, self.number, block, reserved, full);
        self.number += 1;
    }

    /// Ends the stream; returns how many blocks it had, one at least.
    fn finish(&mut self) -> io::Result<u64> {
        self.room()?;
        let mut block = std::mem::take(&mut self.block);
        block.last = true;
        self.send(block, false);
        Ok(self.number)
    }
}
