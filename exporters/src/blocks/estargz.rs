//! Layers whose files can be read one by one.
//!
//! ```text
//! members: heads | file | … | file, heads, end of tar, head of landmark | landmark | table | footer
//! ```
//!
//! Every file that has bytes begins a gzip member, and so does each 4 MiB of a large one; what
//! stands between files belongs to the member of the file before. The format is that of
//! `docs/estargz.md` of the stargz snapshotter. As BuildKit does, the tar is kept byte for byte, its
//! end included: who unpacks the layer stops there and sees neither landmark nor table.

use std::io;

use ashlar_llb::BlobDigest;
use ashlar_solver::tree::Timestamp;
use ashlar_solver::tree::tar::{Header, TarFormat, TarKind, TarPart, TarScanner, TarWriter};
use sha2::{Digest as _, Sha256};

use super::cut::Filling;
use super::toc::{Contents, Entry, unsupported};

/// The file that holds the table.
pub(super) const TABLE: &str = "stargz.index.json";

/// The file that tells that nothing is to be fetched before it is asked for.
const LANDMARK: &str = ".no.prefetch.landmark";

/// Bytes of a file in one member: what others take too.
const CHUNK: usize = 4 << 20;

/// Bytes after which a block is not begun to be filled with another file.
const TARGET: usize = 1 << 20;

/// The most bytes of a block: one more chunk, and heads.
pub(super) const LARGEST: usize = TARGET + CHUNK;

/// A file whose bytes pass.
struct File {
    /// Which entry of the table it is.
    entry: usize,
    /// The entry of the current chunk.
    chunk: usize,
    left: u64,
    chunk_left: u64,
    hash: Sha256,
    /// The hash of the current chunk, if that is not the whole file.
    chunk_hash: Option<Sha256>,
}

/// Cuts a tar at its files, and notes what is in it.
#[derive(Default)]
pub(super) struct TocCutter {
    scanner: TarScanner,
    contents: Contents,
    file: Option<File>,
    landmark: bool,
}

impl TocCutter {
    pub(super) fn write(&mut self, mut data: &[u8], blocks: &mut Filling<'_>) -> io::Result<()> {
        while !data.is_empty() {
            let (length, part) = self.scanner.next(data)?;
            let (now, later) = data.split_at(length);
            match part {
                TarPart::Data => self.data(now, blocks)?,
                TarPart::Entry(header) => {
                    between(now, blocks)?;
                    self.entry(&header, blocks)?;
                }
                TarPart::Head | TarPart::Filler => between(now, blocks)?,
            }
            data = later;
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, blocks: &mut Filling<'_>) -> io::Result<()> {
        let entry = Entry::of(header)?;
        if entry.is_called(TABLE) {
            return Err(unsupported("it has a table of contents already"));
        }
        self.landmark |= entry.is_called(LANDMARK) || entry.is_called(".prefetch.landmark");
        let at = self.contents.add(entry)?;
        if header.kind == TarKind::File && header.size == 0 {
            self.contents.entries[at].digest = Some(BlobDigest::of(b"").to_string());
        } else if header.kind == TarKind::File {
            self.file = Some(File {
                entry: at,
                chunk: at,
                left: header.size,
                chunk_left: 0,
                hash: Sha256::new(),
                chunk_hash: None,
            });
            self.chunk(blocks, 0)?;
        }
        Ok(())
    }

    /// Begins a chunk of the current file, `offset` bytes from its start.
    fn chunk(&mut self, blocks: &mut Filling<'_>, offset: u64) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let length = file.left.min(CHUNK as u64);
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        if blocks.length() > 0 && blocks.length().saturating_add(wanted) > TARGET {
            blocks.submit(false);
        }
        if offset > 0 {
            let name = self.contents.entries[file.entry].name.clone();
            file.chunk = self.contents.add(Entry::chunk(name, offset))?;
        }
        let _room = blocks.room()?;
        let entry = &mut self.contents.entries[file.chunk];
        entry.place = Some(blocks.cut());
        file.chunk_left = length;
        let whole = offset == 0 && length == file.left;
        if length < file.left {
            entry.chunk_size = length;
        }
        file.chunk_hash = (!whole).then(Sha256::new);
        Ok(())
    }

    fn data(&mut self, mut data: &[u8], blocks: &mut Filling<'_>) -> io::Result<()> {
        while !data.is_empty() {
            let Some(file) = &mut self.file else {
                return Err(unsupported("it has bytes outside of its files"));
            };
            let most = usize::try_from(file.chunk_left).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(most.min(data.len()));
            data = later;
            between(now, blocks)?;
            file.hash.update(now);
            if let Some(hash) = &mut file.chunk_hash {
                hash.update(now);
            }
            file.chunk_left -= now.len() as u64;
            file.left -= now.len() as u64;
            if file.chunk_left > 0 {
                continue;
            }
            let digest = |hash: Sha256| BlobDigest::from_bytes(hash.finalize().into()).to_string();
            let chunk = file.chunk_hash.take().map(digest);
            if file.left > 0 {
                self.contents.entries[file.chunk].chunk_digest = chunk;
                let offset = self.contents.entries[file.entry].size - file.left;
                self.chunk(blocks, offset)?;
            } else if let Some(file) = self.file.take() {
                let whole = digest(file.hash);
                self.contents.entries[file.chunk].chunk_digest =
                    Some(chunk.unwrap_or_else(|| whole.clone()));
                self.contents.entries[file.entry].digest = Some(whole);
            }
        }
        Ok(())
    }

    /// Ends the layer. Returns what was added to it, and the table.
    pub(super) fn finish(mut self, blocks: &mut Filling<'_>) -> io::Result<(Vec<u8>, Contents)> {
        if !self.scanner.complete() {
            return Err(unsupported("it ends in the middle of an entry"));
        }
        if self.landmark {
            return Ok((Vec::new(), self.contents));
        }
        let header = plain(LANDMARK, 1);
        let mut added = Vec::new();
        TarWriter::new(&mut added).header(&header, TarFormat::Any)?;
        between(&added, blocks)?;
        let mut entry = Entry::of(&header)?;
        let (mark, length) = ([0xf], added.len() + 512);
        if blocks.room()? < 512 {
            blocks.submit(false);
            let _room = blocks.room()?;
        }
        entry.place = Some(blocks.cut());
        entry.digest = Some(BlobDigest::of(&mark).to_string());
        entry.chunk_digest.clone_from(&entry.digest);
        self.contents.add(entry)?;
        let head = added.len();
        added.extend_from_slice(&mark);
        added.resize(length, 0);
        blocks.append(&added[head..]);
        Ok((added, self.contents))
    }
}

/// Adds bytes to the current member; a member of the largest size is ended.
fn between(mut bytes: &[u8], blocks: &mut Filling<'_>) -> io::Result<()> {
    while !bytes.is_empty() {
        let room = blocks.room()?;
        if room == 0 {
            blocks.submit(false);
            continue;
        }
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        blocks.append(now);
        bytes = later;
    }
    Ok(())
}

/// The header of a small file of nobody in particular.
pub(super) fn plain(name: &str, size: u64) -> Header {
    Header {
        path: name.as_bytes().to_vec(),
        kind: TarKind::File,
        link: Vec::new(),
        mode: 0o444,
        uid: 0,
        gid: 0,
        size,
        mtime: Timestamp::default(),
        device: ashlar_solver::tree::entry::Device::default(),
        xattrs: Vec::new(),
        sparse: false,
    }
}

/// The end of the blob: an empty gzip member that tells where the table begins.
pub(super) fn footer(table: u64) -> Vec<u8> {
    let field = format!("{table:016x}STARGZ");
    // No compression, an extra field, no time, an unknown system.
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    let length = |length: usize| u16::try_from(length).unwrap_or(0).to_le_bytes();
    footer.extend_from_slice(&length(4 + field.len()));
    footer.extend_from_slice(b"SG");
    footer.extend_from_slice(&length(field.len()));
    footer.extend_from_slice(field.as_bytes());
    // A last block of nothing, stored as it is.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer.extend_from_slice(&[0; 8]);
    footer
}

/// Where the table of an eStargz blob begins, by the last 51 bytes of it.
pub(crate) fn table_offset(footer: &[u8; 51]) -> Option<u64> {
    let digits = std::str::from_utf8(&footer[16..32]).ok()?;
    let offset = u64::from_str_radix(digits, 16).ok()?;
    // The system and the hints of the writer may be others.
    let same = |at: usize, own: &u8| (4..10).contains(&at) || footer[at] == *own;
    let expected = self::footer(offset);
    let equal = expected.iter().enumerate().all(|(at, own)| same(at, own));
    equal.then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footer_has_51_bytes_and_tells_the_offset() {
        let mut bytes: [u8; 51] = footer(0x1234).try_into().unwrap();
        assert_eq!(table_offset(&bytes), Some(0x1234));
        bytes[9] = 3;
        assert_eq!(table_offset(&bytes), Some(0x1234));
        bytes[33] = b'x';
        assert_eq!(table_offset(&bytes), None);
        assert_eq!(table_offset(&[0; 51]), None);
    }
}
