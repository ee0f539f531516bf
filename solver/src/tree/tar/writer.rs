//! Writing an archive, byte for byte as Go's `archive/tar` does.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::original::USTAR;
use super::pax::XATTR;
use super::{BLOCK, Header, MAX_METADATA, TarKind};
use crate::tree::{Room, Timestamp};

/// Which formats a header may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the two ways in which BuildKit writes headers"
)]
pub enum TarFormat {
    /// USTAR where it suffices, PAX otherwise; times are rounded to seconds (Go's
    /// `FormatUnknown`).
    Any,
    /// The same, with PAX where times have nanoseconds, which are kept (Go's `FormatPAX`).
    Pax,
}

/// Writes an archive.
///
/// For each entry: [`TarWriter::header`], then as many bytes as it tells through
/// [`TarWriter::data`]; at last [`TarWriter::finish`].
#[derive(Debug)]
pub struct TarWriter<W> {
    output: W,
    written: u64,
    /// Bytes of the current file that are missing.
    remaining: u64,
    /// Padding after them.
    padding: usize,
}

const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

impl<W: Write> TarWriter<W> {
    /// Writes to `output`, in pieces of at least a block; buffering is the caller's.
    pub fn new(output: W) -> Self {
        Self {
            output,
            written: 0,
            remaining: 0,
            padding: 0,
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Starts the next entry. Names of directories must end in `/`.
    ///
    /// # Errors
    /// What the output says; [`io::ErrorKind::InvalidInput`] if the entry before lacks bytes or
    /// the header cannot be expressed (a name with a NUL byte, an extended attribute whose name
    /// contains `=`, more than a megabyte of metadata, a device number above 2^21 - 1).
    pub fn header(&mut self, header: &Header, format: TarFormat) -> io::Result<()> {
        self.end_file()?;
        let mut header = header.clone();
        if format == TarFormat::Any {
            header.mtime = round(header.mtime);
        }
        let numbers = [
            fits(header.mode.into(), 8),
            fits(header.device.major.into(), 8),
            fits(header.device.minor.into(), 8),
        ];
        if numbers.contains(&false) {
            return Err(invalid(
                "a mode or device number does not fit into a tar header",
            ));
        }
        if header.path.contains(&0) || header.link.contains(&0) {
            return Err(invalid("a name in a tar contains a NUL byte"));
        }
        let split = split(&header.path);
        let records = records(&header, split.is_some())?;
        if records.is_empty() {
            let (prefix, name) = split.unwrap_or_default();
            let name = if name.is_empty() {
                &header.path[..]
            } else {
                name
            };
            let block = block(&header, name, prefix);
            self.put(&block)?;
        } else {
            let mut headers = Vec::new();
            extended(&mut headers, b'x', &extended_name(&header.path), &records)?;
            self.put(&headers)?;
            let block = block(&header, &header.path, b"");
            self.put(&block)?;
        }
        self.begin_file(if header.kind == TarKind::File {
            header.size
        } else {
            0
        });
        Ok(())
    }

    /// Starts the next entry with headers as they are, and a file of `size` bytes.
    ///
    /// # Errors
    /// What the output says; [`io::ErrorKind::InvalidInput`] if the entry before lacks bytes.
    pub(super) fn encoded(&mut self, headers: &[u8], size: u64) -> io::Result<()> {
        self.end_file()?;
        self.put(headers)?;
        self.begin_file(size);
        Ok(())
    }

    fn begin_file(&mut self, size: u64) {
        self.remaining = size;
        self.padding = padding(size);
    }

    /// Writes bytes of the current file.
    ///
    /// # Errors
    /// What the output says; [`io::ErrorKind::InvalidInput`] for more bytes than the header told.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len())?;
        self.put(bytes)
    }

    /// Counts bytes of the current file.
    fn count(&mut self, length: usize) -> io::Result<()> {
        let left = self.remaining.checked_sub(length as u64);
        self.remaining =
            left.ok_or_else(|| invalid("a file in a tar has more bytes than its header tells"))?;
        Ok(())
    }

    /// Ends the archive and tells how many bytes it has.
    ///
    /// # Errors
    /// As [`TarWriter::header`].
    pub fn finish(mut self) -> io::Result<u64> {
        self.end_file()?;
        self.put(&ZEROS)?;
        Ok(self.written)
    }

    fn end_file(&mut self) -> io::Result<()> {
        if self.remaining > 0 {
            return Err(invalid(
                "a file in a tar has fewer bytes than its header tells",
            ));
        }
        let padding = std::mem::take(&mut self.padding);
        self.put(&ZEROS[..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl<W: Room> TarWriter<W> {
    /// Room for the next bytes of the current file, and perhaps more than it has.
    ///
    /// # Errors
    /// What the output says.
    pub fn room(&mut self) -> io::Result<&mut [u8]> {
        self.output.room()
    }

    /// Takes the first `length` bytes of the room that was lent last as bytes of the current file.
    ///
    /// # Errors
    /// As [`TarWriter::data`].
    ///
    /// # Panics
    /// If there was less room.
    pub fn filled(&mut self, length: usize) -> io::Result<()> {
        self.count(length)?;
        self.output.filled(length)?;
        self.written += length as u64;
        Ok(())
    }
}

fn padding(size: u64) -> usize {
    let block = BLOCK as u64;
    usize::try_from((block - size % block) % block).unwrap_or(0)
}

/// Whole seconds.
pub(super) fn round(time: Timestamp) -> Timestamp {
    let up = i64::from(time.nanoseconds >= 500_000_000);
    Timestamp {
        seconds: time.seconds.saturating_add(up),
        nanoseconds: 0,
    }
}

/// What the header with the PAX records of an entry is called, without `.` and `..`.
pub(super) fn extended_name(path: &[u8]) -> Vec<u8> {
    let at = path.iter().rposition(|&byte| byte == b'/');
    let (folder, file) = path.split_at(at.map_or(0, |slash| slash + 1));
    let whole = [folder, b"PaxHeaders.0/", file].concat();
    let rooted = whole.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in whole.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => _ = parts.pop(),
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let name = parts.join(&b'/');
    if rooted {
        [b"/", &name[..]].concat()
    } else {
        name
    }
}

/// A header with PAX records, of one entry (`x`) or of all that follow (`g`).
pub(super) fn extended(
    out: &mut Vec<u8>,
    kind: u8,
    name: &[u8],
    records: &BTreeMap<Vec<u8>, Vec<u8>>,
) -> io::Result<()> {
    let mut data = Vec::new();
    for (key, value) in records {
        if key.contains(&b'=') || key.contains(&0) {
            return Err(invalid(
                "the name of an extended attribute does not fit into a tar",
            ));
        }
        put_record(&mut data, key, value);
    }
    if data.len() as u64 > MAX_METADATA {
        return Err(invalid("the metadata of a file is too long for a tar"));
    }
    let mut name = to_ascii(name);
    name.truncate(100);
    while name.last() == Some(&b'/') {
        name.pop();
    }
    let mut block = [0; BLOCK];
    put_text(&mut block[..100], &name);
    for field in [100..108, 108..116, 116..124] {
        put_number(&mut block[field], 0);
    }
    put_number(&mut block[124..136], i64::try_from(data.len()).unwrap_or(0));
    put_number(&mut block[136..148], 0);
    block[156] = kind;
    seal(&mut block, USTAR);
    out.extend_from_slice(&block);
    out.extend_from_slice(&data);
    out.extend_from_slice(&ZEROS[..padding(data.len() as u64)]);
    Ok(())
}

/// What a plain header cannot hold.
fn records(header: &Header, can_split: bool) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    // A name that can be split needs a record only if something else forces PAX.
    let mut weak = false;
    if !is_ascii(&header.path) || header.path.len() > 100 {
        weak = can_split;
        records.insert(b"path".to_vec(), header.path.clone());
    }
    if !is_ascii(&header.link) || header.link.len() > 100 {
        records.insert(b"linkpath".to_vec(), header.link.clone());
    }
    let numbers: [(&[u8], i64, usize); 3] = [
        (b"uid", header.uid.into(), 8),
        (b"gid", header.gid.into(), 8),
        (
            b"size",
            i64::try_from(header.size).map_err(|_| invalid("a file is too large"))?,
            12,
        ),
    ];
    for (key, value, width) in numbers {
        if !fits(value, width) {
            records.insert(key.to_vec(), value.to_string().into_bytes());
        }
    }
    if header.mtime.nanoseconds != 0 || !fits(header.mtime.seconds, 12) {
        records.insert(b"mtime".to_vec(), text_time(header.mtime).into_bytes());
    }
    for (name, value) in &header.xattrs {
        records.insert([XATTR, &name[..]].concat(), value.clone());
    }
    if weak && records.len() == 1 {
        records.clear();
    }
    Ok(records)
}

fn block(header: &Header, name: &[u8], prefix: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put_text(&mut block[..100], &to_ascii(name));
    put_number(&mut block[100..108], header.mode.into());
    put_number(&mut block[108..116], header.uid.into());
    put_number(&mut block[116..124], header.gid.into());
    put_number(
        &mut block[124..136],
        i64::try_from(header.size).unwrap_or(0),
    );
    put_number(&mut block[136..148], header.mtime.seconds);
    block[156] = match header.kind {
        TarKind::File => b'0',
        TarKind::HardLink => b'1',
        TarKind::Symlink => b'2',
        TarKind::CharDevice => b'3',
        TarKind::BlockDevice => b'4',
        TarKind::Directory => b'5',
        TarKind::Fifo => b'6',
    };
    put_text(&mut block[157..257], &to_ascii(&header.link));
    put_number(&mut block[329..337], header.device.major.into());
    put_number(&mut block[337..345], header.device.minor.into());
    put_text(&mut block[345..500], prefix);
    seal(&mut block, USTAR);
    block
}

/// Puts the magic and the checksum in.
pub(super) fn seal(block: &mut [u8; BLOCK], magic: &[u8; 8]) {
    block[257..265].copy_from_slice(magic);
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(|&byte| i64::from(byte)).sum();
    put_number(&mut block[148..155], sum);
}

/// Octal digits with leading zeros and a NUL; 0 for what does not fit.
pub(super) fn put_number(field: &mut [u8], value: i64) {
    let mut rest = if fits(value, field.len()) { value } else { 0 };
    if let [digits @ .., end] = field {
        *end = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest.to_le_bytes()[0] & 7);
            rest >>= 3;
        }
    }
}

pub(super) fn put_text(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if let Some(end) = field.get_mut(length) {
        *end = 0;
    }
    // A cut name must not look like a directory's.
    if text.len() > field.len() && field.last() == Some(&b'/') {
        let cut = field.len() - 1;
        let end = field[..cut]
            .iter()
            .rposition(|&byte| byte != b'/')
            .map_or(0, |last| last + 1);
        field[end] = 0;
    }
}

pub(super) fn fits(value: i64, width: usize) -> bool {
    value >= 0 && (width >= 22 || value < 1 << ((width - 1) * 3))
}

pub(super) fn is_ascii(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte < 0x80 && byte != 0)
}

pub(super) fn to_ascii(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|&byte| byte < 0x80 && byte != 0)
        .collect()
}

/// Splits a long name into prefix and name of USTAR.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 || !is_ascii(path) {
        return None;
    }
    let length = if path.len() > 156 {
        156
    } else {
        path.len() - usize::from(path.ends_with(b"/"))
    };
    let slash = path[..length].iter().rposition(|&byte| byte == b'/')?;
    let name = &path[slash + 1..];
    let fits = slash > 0 && slash <= 155 && !name.is_empty() && name.len() <= 100;
    fits.then(|| (&path[..slash], name))
}

/// A decimal number of seconds, without zeros at its end.
pub(super) fn text_time(time: Timestamp) -> String {
    let Timestamp {
        seconds,
        nanoseconds,
    } = time;
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, seconds, nanoseconds) = if seconds < 0 {
        ("-", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds, nanoseconds)
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').to_owned()
}

/// `length key=value\n`, the length counting itself.
fn put_record(data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    data.extend_from_slice(length.to_string().as_bytes());
    data.push(b' ');
    data.extend_from_slice(key);
    data.push(b'=');
    data.extend_from_slice(value);
    data.push(b'\n');
}
