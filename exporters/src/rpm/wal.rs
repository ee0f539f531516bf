//! The write-ahead log of an SQLite file.
//!
//! Frames of a page each, in the order in which they were written. Those up to the last frame that
//! ends a transaction count, as long as their salts are those of the log and their checksums, which
//! go on from frame to frame, are right. rpm leaves a log with frames behind only if it was killed.

use std::collections::HashMap;
use std::fs::File;

use super::pages::{big_u32, little_u32};
use super::{DatabaseError, Pages};

/// The header of a log and of a frame.
const HEADER: usize = 32;
const FRAME: usize = 24;

/// A log that has frames.
#[derive(Debug)]
pub(super) struct Log {
    file: Pages,
    page_size: usize,
    /// Where the newest version of a page is.
    newest: HashMap<u32, u64>,
    /// Pages of the database after the last transaction.
    pages: u32,
}

impl Log {
    /// Opens a log; `None` if nothing in it counts.
    pub(super) fn open(file: File, page_size: usize) -> Result<Option<Self>, DatabaseError> {
        let mut file = Pages::new(file)?;
        if file.size() < HEADER as u64 {
            return Ok(None);
        }
        let header = file.bytes(0, HEADER)?;
        let word = |at| big_u32(&header, at).unwrap_or_default();
        let sum: fn(&[u8], [u32; 2]) -> [u32; 2] = match word(0) {
            0x377f_0682 => |bytes, sums| checksum(bytes, sums, little_u32),
            0x377f_0683 => |bytes, sums| checksum(bytes, sums, big_u32),
            _ => return Ok(None),
        };
        let mut sums = sum(&header[..24], [0, 0]);
        if word(8) as usize != page_size || sums != [word(24), word(28)] {
            return Ok(None);
        }
        let mut log = Self {
            file,
            page_size,
            newest: HashMap::new(),
            pages: 0,
        };
        let mut open = Vec::new();
        let mut at = HEADER as u64;
        let length = FRAME + page_size;
        while at + length as u64 <= log.file.size() {
            let frame = log.file.bytes(at, length)?;
            let field = |at| big_u32(&frame, at).unwrap_or_default();
            sums = sum(&frame[FRAME..], sum(&frame[..8], sums));
            if [field(8), field(12)] != [word(16), word(20)] || [field(16), field(20)] != sums {
                break;
            }
            open.push((field(0), at + FRAME as u64));
            if field(4) > 0 {
                log.pages = field(4);
                log.newest.extend(open.drain(..));
            }
            at += length as u64;
        }
        Ok((log.pages > 0).then_some(log))
    }

    /// Pages of the database after the last transaction, if the file has `in_file` of them: a log
    /// cannot say more than it has frames for.
    pub(super) fn pages(&self, in_file: u32) -> u32 {
        let frames = u32::try_from(self.newest.len()).unwrap_or(u32::MAX);
        self.pages.min(in_file.saturating_add(frames))
    }

    /// The page as the log has it.
    pub(super) fn page(&mut self, number: u32) -> Result<Option<Vec<u8>>, DatabaseError> {
        let Some(&at) = self.newest.get(&number) else {
            return Ok(None);
        };
        self.file.bytes(at, self.page_size).map(Some)
    }
}

fn checksum(bytes: &[u8], sums: [u32; 2], word: fn(&[u8], usize) -> Option<u32>) -> [u32; 2] {
    let [mut first, mut second] = sums;
    for pair in bytes.chunks_exact(8) {
        let word = |at| word(pair, at).unwrap_or_default();
        first = first.wrapping_add(word(0)).wrapping_add(second);
        second = second.wrapping_add(word(4)).wrapping_add(first);
    }
    [first, second]
}
