//! Reading an archive.

use std::io::{self, Read, Seek, SeekFrom};

use super::block::{Block, Format};
use super::original::{AllRecords, Formats, Original, original};
use super::pax::{self, Records};
use super::sparse::{self, SparseMap};
use super::{BLOCK, Header, MAX_METADATA, TarError, TarKind};
use crate::tree::Timestamp;
use crate::tree::entry::Device;

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// The largest size that a header has room for in eleven octal digits.
const LARGEST: u64 = 0o77_777_777_777;

/// Reads an archive entry by entry.
///
/// Call [`TarReader::next_entry`]; read the bytes of a file with [`TarReader::data`] until it gives
/// none, or go on to the next entry, which skips them. After the end, [`TarReader::drain`] reads
/// what follows the archive in its stream.
#[derive(Debug)]
pub struct TarReader<R> {
    input: R,
    buffer: Box<[u8]>,
    /// What is in the buffer and was not taken yet.
    start: usize,
    end: usize,
    /// Bytes of the stream before `start`.
    offset: u64,
    /// Bytes of the current entry that were not taken yet, and of its padding.
    remaining: u64,
    padding: u64,
    /// Where the data of the current entry belongs, for a sparse file.
    sparse: Option<SparseMap>,
    finished: bool,
    /// Whether entries are kept as they are in the archive, and the last one.
    keeps: bool,
    original: Option<Original>,
}

/// What stands before an entry.
struct Pending {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Records>,
    bytes: u64,
    formats: Formats,
    /// All PAX records, and global headers, if entries are kept.
    records: AllRecords,
    globals: Vec<(Vec<u8>, AllRecords)>,
    global_bytes: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            long_name: None,
            long_link: None,
            pax: None,
            bytes: 0,
            formats: Formats::ALL,
            records: AllRecords::new(),
            globals: Vec::new(),
            global_bytes: 0,
        }
    }
}

impl Pending {
    fn any(&self) -> bool {
        self.long_name.is_some() || self.long_link.is_some() || self.pax.is_some()
    }
}

impl<R: Read + Seek> TarReader<R> {
    /// Goes to the end of the current file without reading it. Whether the input is long enough is
    /// for the caller to know.
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn seek_over_data(&mut self) -> Result<(), TarError> {
        let left = self.remaining;
        let buffered = (self.end - self.start) as u64;
        if left > buffered {
            let by = i64::try_from(left - buffered).unwrap_or(i64::MAX);
            let moved = self.input.seek(SeekFrom::Current(by));
            moved.map_err(|source| TarError::Read { source })?;
            (self.start, self.end) = (0, 0);
            self.offset += left;
            self.remaining = 0;
        }
        Ok(())
    }
}

impl<R: Read> TarReader<R> {
    /// Where in the archive the reader is: after [`TarReader::next_entry`] where the bytes of that
    /// entry begin.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads the archive in `input`.
    pub fn new(input: R) -> Self {
        Self::with_buffer(input, BUFFER)
    }

    /// Reads at most `size` bytes at once, which are one block or more.
    pub(super) fn with_buffer(input: R, size: usize) -> Self {
        Self {
            input,
            buffer: vec![0; size].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            remaining: 0,
            padding: 0,
            sparse: None,
            finished: false,
            keeps: false,
            original: None,
        }
    }

    /// Keeps each entry as it is in the archive, for [`TarReader::original`].
    pub(super) fn keeping(mut self) -> Self {
        self.keeps = true;
        self
    }

    /// The entry that was read last as it is in the archive, once.
    pub(super) fn original(&mut self) -> Option<Original> {
        self.original.take()
    }

    /// The next entry; `None` after the last.
    ///
    /// # Errors
    /// [`TarError`]; the reader is of no use after one.
    pub fn next_entry(&mut self) -> Result<Option<Header>, TarError> {
        self.skip_data()?;
        if self.finished {
            return Ok(None);
        }
        let mut pending = Pending::default();
        loop {
            let offset = self.offset;
            let malformed = |problem| TarError::Malformed { offset, problem };
            let Some(bytes) = self.block()? else {
                if pending.any() {
                    return Err(TarError::Truncated { place: "an entry" });
                }
                self.finished = true;
                return Ok(None);
            };
            let block = Block(&bytes);
            if block.is_zero() {
                self.finished = true;
                let second = self.block()?;
                if pending.any() || second.is_some_and(|second| !Block(&second).is_zero()) {
                    return Err(malformed(
                        "a block of zeros is in the middle of the archive",
                    ));
                }
                return Ok(None);
            }
            if !block.checksum_holds() {
                return Err(malformed("the checksum of a header is wrong"));
            }
            let size = block.size().ok().and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or(malformed("a size is not a number"))?;
            // Some readers take such a header for a file unless the format is told.
            if matches!(block.kind(), b'x' | b'g' | b'L' | b'K') && !block.tells_format() {
                return Err(malformed("a header about an entry is in no format"));
            }
            if self.keeps && block.kind() != b'g' {
                pending.formats = pending.formats.only(Formats::of(&block));
            }
            let twice = || Err(malformed("one entry has two headers of the same kind"));
            match block.kind() {
                b'x' if pending.pax.is_some() => return twice(),
                b'L' if pending.long_name.is_some() => return twice(),
                b'K' if pending.long_link.is_some() => return twice(),
                b'g' if pending.any() => {
                    return Err(malformed("a global header is between an entry and its own"));
                }
                b'x' => {
                    let data = self.metadata(size, &mut pending.bytes)?;
                    pending.pax = Some(pax::parse(&data).map_err(malformed)?);
                    if self.keeps {
                        pending.records = pax::all(&data).map_err(malformed)?;
                        pending.formats = pending.formats.only(Formats::PAX);
                    }
                }
                b'g' => {
                    // What is read over may be any number of them.
                    let mut before = if self.keeps { pending.global_bytes } else { 0 };
                    let data = self.metadata(size, &mut before)?;
                    pending.global_bytes = before;
                    pax::check_global(&data).map_err(malformed)?;
                    if self.keeps {
                        let records = pax::all(&data).map_err(malformed)?;
                        pending.globals.push((block.name(), records));
                    }
                }
                b'L' | b'K' => {
                    let data = self.metadata(size, &mut pending.bytes)?;
                    let name = super::block::text(&data).to_vec();
                    // Some readers go on after it, and would see another name.
                    if data[name.len()..].iter().any(|&byte| byte != 0) {
                        return Err(malformed("a NUL byte is in the middle of a long name"));
                    }
                    if block.kind() == b'L' {
                        pending.long_name = Some(name);
                    } else {
                        pending.long_link = Some(name);
                    }
                    pending.formats = pending.formats.only(Formats::GNU);
                }
                _ => return self.entry(&block, size, pending, offset).map(Some),
            }
        }
    }

    /// Puts a header together from its block and what stood before it.
    fn entry(
        &mut self,
        block: &Block<'_>,
        size: u64,
        pending: Pending,
        offset: u64,
    ) -> Result<Header, TarError> {
        let malformed = |problem| TarError::Malformed { offset, problem };
        let number = |_| malformed("a field of a header is not a number");
        let Pending {
            long_name,
            long_link,
            pax,
            formats,
            records,
            globals,
            ..
        } = pending;
        let pax = pax.unwrap_or_default();
        if (long_name.is_some() && (pax.path.is_some() || pax.sparse.name.is_some()))
            || (long_link.is_some() && pax.link.is_some())
        {
            return Err(malformed("an entry has both a GNU and a PAX name"));
        }
        let owner = |pax: Option<i64>, own: i64| {
            u32::try_from(pax.unwrap_or(own)).map_err(|_| malformed("an owner is out of range"))
        };
        let path = pax.sparse.name.clone().or(pax.path).or(long_name);
        if path.is_none() && block.0[345] != 0 && block.format() != Format::Gnu {
            // Some readers take the prefix for part of the name even so, others do not.
            let known = block.format() == Format::V7 || block.tells_format();
            if !known {
                return Err(malformed(
                    "a name has a prefix, and its format an unknown version",
                ));
            }
        }
        let path = path.unwrap_or_else(|| block.name());
        let kind = kind(block.kind(), &path, offset)?;
        let link = pax
            .link
            .or(long_link)
            .unwrap_or_else(|| block.link().to_vec());
        let stored = pax.size.unwrap_or(size);
        if stored != size && stored <= LARGEST {
            // A size that the header has room for stands there too, in what anybody writes. Readers
            // disagree about which one counts.
            return Err(malformed("an entry has two sizes"));
        }
        if i64::try_from(stored).is_err() {
            return Err(malformed("a size is too large"));
        }
        let (major, minor) = block.device().map_err(number)?;
        let device = if matches!(kind, TarKind::CharDevice | TarKind::BlockDevice) {
            let part = |value| u32::try_from(value).map_err(|_| malformed("a device is too large"));
            Device {
                major: part(major)?,
                minor: part(minor)?,
            }
        } else {
            Device::default()
        };
        let seconds = block.mtime().map_err(number)?;
        let mut header = Header {
            path,
            kind,
            link: Vec::new(),
            mode: u32::try_from(block.mode().map_err(number)? & 0o7777).unwrap_or(0),
            uid: owner(pax.uid, block.uid().map_err(number)?)?,
            gid: owner(pax.gid, block.gid().map_err(number)?)?,
            size: 0,
            mtime: pax.mtime.unwrap_or(Timestamp {
                seconds,
                nanoseconds: 0,
            }),
            device,
            xattrs: pax.xattrs,
            sparse: false,
        };
        if self.keeps {
            let link = link.clone();
            let mut entry = original(block, &header, stored, link, records, formats);
            entry.globals = globals;
            self.original = Some(entry);
        }
        match kind {
            TarKind::File => {
                self.remaining = stored;
                self.padding = stored.next_multiple_of(BLOCK as u64) - stored;
                header.size = stored;
                let old = block.kind() == b'S';
                if old || pax.sparse.any {
                    if old && pax.sparse.any {
                        return Err(malformed("a sparse file is so in two ways"));
                    }
                    let map = if old {
                        self.old_sparse(block, offset)?
                    } else {
                        self.pax_sparse(pax.sparse, offset)?
                    };
                    header.size = map.size;
                    header.sparse = true;
                    self.sparse = Some(map);
                }
            }
            // Some writers tell the size of the file that a hard link leads to.
            TarKind::HardLink | TarKind::Symlink => {
                if kind == TarKind::Symlink && stored != 0 {
                    return Err(malformed("a symbolic link has data"));
                }
                if link.is_empty() {
                    return Err(malformed("a link has no target"));
                }
                header.link = link;
            }
            _ if stored != 0 => return Err(malformed("something that is not a file has data")),
            _ => {}
        }
        Ok(header)
    }

    fn old_sparse(&mut self, block: &Block<'_>, offset: u64) -> Result<SparseMap, TarError> {
        let malformed = |problem| TarError::Malformed { offset, problem };
        if block.format() != Format::Gnu {
            return Err(malformed(
                "a sparse file of GNU is not in the format of GNU",
            ));
        }
        let size = super::block::number(&block.0[483..495]).ok();
        let size = size.and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or(malformed("a size is not a number"))?;
        let mut parts = Vec::new();
        sparse::old_gnu(&block.0[386..482], &mut parts).map_err(malformed)?;
        let mut more = block.0[482] != 0;
        let mut bytes = 0;
        while more {
            bytes += BLOCK as u64;
            if bytes > MAX_METADATA {
                return Err(malformed("the map of a sparse file is too long"));
            }
            let next = self
                .block()?
                .ok_or(TarError::Truncated { place: "a header" })?;
            sparse::old_gnu(&next[..504], &mut parts).map_err(malformed)?;
            more = next[504] != 0;
        }
        SparseMap::new(parts, size, self.remaining).map_err(malformed)
    }

    fn pax_sparse(
        &mut self,
        records: pax::SparseRecords,
        offset: u64,
    ) -> Result<SparseMap, TarError> {
        let malformed = |problem| TarError::Malformed { offset, problem };
        let size = records
            .real_size
            .ok_or(malformed("a sparse file has no size"))?;
        let parts = match records.version {
            (None, None) | (Some(0), Some(0 | 1)) => {
                sparse::pairs(&records.map).map_err(malformed)?
            }
            (Some(1), Some(0)) if records.map.is_empty() => {
                let mut text = Vec::new();
                loop {
                    if self.remaining < BLOCK as u64 || text.len() as u64 >= MAX_METADATA {
                        return Err(malformed("the map of a sparse file is malformed"));
                    }
                    let block = self
                        .block()?
                        .ok_or(TarError::Truncated { place: "a file" })?;
                    self.remaining -= BLOCK as u64;
                    text.extend_from_slice(&block);
                    if let Some(parts) = sparse::lines(&text).map_err(malformed)? {
                        break parts;
                    }
                }
            }
            _ => {
                let feature = "an unknown version of sparse files";
                return Err(TarError::Unsupported { offset, feature });
            }
        };
        SparseMap::new(parts, size, self.remaining).map_err(malformed)
    }

    /// The parts of the current file that have data, in order; `None` if it is not sparse.
    pub fn parts(&self) -> Option<&[(u64, u64)]> {
        self.sparse.as_ref().map(|map| &map.parts[..])
    }

    /// More bytes of the current file, at most `limit`; empty at its end. Of a sparse file the
    /// bytes of its parts follow each other.
    ///
    /// # Errors
    /// [`TarError::Truncated`], [`TarError::Read`].
    pub fn data(&mut self, limit: u64) -> Result<&[u8], TarError> {
        let wanted = self.remaining.min(limit);
        if wanted == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill()? {
            return Err(TarError::Truncated { place: "a file" });
        }
        let here = (self.end - self.start).min(usize::try_from(wanted).unwrap_or(usize::MAX));
        self.remaining -= here as u64;
        Ok(self.take(here))
    }

    /// Goes to the next header. Some programs leave out what follows the data of the last file: an
    /// archive that ends there is complete, as it is for Go.
    fn skip_data(&mut self) -> Result<(), TarError> {
        self.sparse = None;
        let padding = std::mem::take(&mut self.padding);
        let mut left = self.remaining.saturating_add(padding);
        self.remaining = 0;
        while left > 0 {
            if self.start == self.end && !self.fill()? {
                if left > padding {
                    return Err(TarError::Truncated { place: "a file" });
                }
                self.finished = true;
                return Ok(());
            }
            let here = (self.end - self.start).min(usize::try_from(left).unwrap_or(usize::MAX));
            self.take(here);
            left -= here as u64;
        }
        Ok(())
    }

    /// Reads over a piece of what is left of the stream, and tells whether there may be more. Called
    /// until it says no, whoever hashes the stream has seen all of it.
    ///
    /// # Errors
    /// [`TarError::Read`].
    pub fn drain(&mut self) -> Result<bool, TarError> {
        self.take(self.end - self.start);
        self.fill()
    }

    /// The next block; `None` if the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        while self.end - self.start < BLOCK {
            if !self.fill()? {
                return if self.start == self.end {
                    Ok(None)
                } else {
                    Err(TarError::Truncated { place: "a header" })
                };
            }
        }
        let mut block = [0; BLOCK];
        block.copy_from_slice(self.take(BLOCK));
        Ok(Some(block))
    }

    /// The data of a header that is about another one.
    fn metadata(&mut self, size: u64, before: &mut u64) -> Result<Vec<u8>, TarError> {
        *before = before.saturating_add(size);
        if *before > MAX_METADATA {
            let problem = "the metadata of an entry is too long";
            return Err(TarError::Malformed {
                offset: self.offset,
                problem,
            });
        }
        let length = usize::try_from(size).unwrap_or(0);
        let mut data = Vec::with_capacity(length);
        while data.len() < length {
            let block = self
                .block()?
                .ok_or(TarError::Truncated { place: "a header" })?;
            data.extend_from_slice(&block[..BLOCK.min(length - data.len())]);
        }
        Ok(data)
    }

    fn take(&mut self, length: usize) -> &[u8] {
        let from = self.start;
        self.start += length;
        self.offset += length as u64;
        &self.buffer[from..from + length]
    }

    /// Reads more; false at the end of the stream.
    fn fill(&mut self) -> Result<bool, TarError> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(length) => {
                    self.end += length;
                    return Ok(length > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(TarError::Read { source }),
            }
        }
    }
}

fn kind(kind: u8, path: &[u8], offset: u64) -> Result<TarKind, TarError> {
    let slash = path.ends_with(b"/");
    Ok(match kind {
        // V7 has no other way to write a directory.
        0 if slash => TarKind::Directory,
        b'0' | b'7' | b'S' if slash => {
            let problem = "a regular file has the name of a directory";
            return Err(TarError::Malformed { offset, problem });
        }
        0 | b'0' | b'7' | b'S' => TarKind::File,
        b'1' => TarKind::HardLink,
        b'2' => TarKind::Symlink,
        b'3' => TarKind::CharDevice,
        b'4' => TarKind::BlockDevice,
        b'5' => TarKind::Directory,
        b'6' => TarKind::Fifo,
        b'D' => {
            return Err(TarError::Unsupported {
                offset,
                feature: "incremental dumps",
            });
        }
        b'M' | b'V' => {
            return Err(TarError::Unsupported {
                offset,
                feature: "volumes",
            });
        }
        _ => {
            return Err(TarError::Unsupported {
                offset,
                feature: "an unknown kind of entry",
            });
        }
    })
}
