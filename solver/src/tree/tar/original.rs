//! Entries as their archive has them, to be written again with other times.
//!
//! Owns what a [`Header`](super::Header) leaves out: the format of the entry, names of owners, all
//! PAX records, further times, global headers. Written as Go's `archive/tar` writes a header that
//! it has read: in the format of the entry, which a time may raise from USTAR to PAX.

use std::collections::BTreeMap;

use super::BLOCK;
use super::block::{Block, Format, number};
use super::pax;
use super::writer::{
    extended, fits, is_ascii, put_number, put_text, round, seal, split, text_time, to_ascii,
};
use crate::tree::Timestamp;

/// PAX records, sorted.
pub(super) type AllRecords = BTreeMap<Vec<u8>, Vec<u8>>;

/// Formats that an entry may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Formats {
    pub(super) ustar: bool,
    pub(super) pax: bool,
    pub(super) gnu: bool,
}

impl Formats {
    pub(super) const ALL: Self = Self {
        ustar: true,
        pax: true,
        gnu: true,
    };
    pub(super) const PAX: Self = Self {
        pax: true,
        ..Self::NONE
    };
    pub(super) const GNU: Self = Self {
        gnu: true,
        ..Self::NONE
    };
    const NONE: Self = Self {
        ustar: false,
        pax: false,
        gnu: false,
    };

    /// Those that a block can be in. A block that is not quite as its format says is in none.
    pub(super) fn of(block: &Block<'_>) -> Self {
        match block.format() {
            Format::Gnu if times(block).is_some() => Self::GNU,
            Format::Ustar => {
                let ends = [107, 115, 123, 135, 147, 336, 344];
                let strict =
                    block.0.is_ascii() && ends.iter().all(|&last: &usize| block.0[last] == 0);
                Self {
                    ustar: strict,
                    pax: strict,
                    gnu: false,
                }
            }
            _ => Self::NONE,
        }
    }

    pub(super) fn only(self, other: Self) -> Self {
        Self {
            ustar: self.ustar && other.ustar,
            pax: self.pax && other.pax,
            gnu: self.gnu && other.gnu,
        }
    }
}

/// Time of access and of change of a GNU block; `None` if they are not numbers.
fn times(block: &Block<'_>) -> Option<[Option<Timestamp>; 2]> {
    let time = |at: usize| {
        if block.0[at] == 0 {
            return Some(None);
        }
        let seconds = number(&block.0[at..at + 12]).ok()?;
        Some(Some(Timestamp {
            seconds,
            nanoseconds: 0,
        }))
    };
    Some([time(345)?, time(357)?])
}

/// An entry as its archive has it.
#[derive(Debug)]
pub(super) struct Original {
    /// Global headers before it: name and records.
    pub(super) globals: Vec<(Vec<u8>, AllRecords)>,
    path: Vec<u8>,
    link: Vec<u8>,
    kind: u8,
    mode: i64,
    owners: [i64; 2],
    names: [Vec<u8>; 2],
    size: i64,
    device: [i64; 2],
    mtime: Timestamp,
    /// Of access and of change.
    times: [Option<Timestamp>; 2],
    records: AllRecords,
    formats: Formats,
}

/// What stands in the headers of the entry whose fields `header` has.
pub(super) fn original(
    block: &Block<'_>,
    header: &super::Header,
    size: u64,
    link: Vec<u8>,
    records: AllRecords,
    formats: Formats,
) -> Original {
    let old = block.format() == Format::V7;
    let text = |from: usize, to: usize| match old {
        true => Vec::new(),
        false => super::block::text(&block.0[from..to]).to_vec(),
    };
    let named = |key: &[u8], own: Vec<u8>| match records.get(key) {
        Some(value) if !value.is_empty() => value.clone(),
        _ => own,
    };
    let own = match block.format() {
        Format::Gnu => times(block).unwrap_or_default(),
        _ => [None; 2],
    };
    let time = |key: &[u8], own| {
        let told = records.get(key).filter(|value| !value.is_empty());
        told.and_then(|value| pax::time(value)).or(own)
    };
    let device = block.device().unwrap_or_default();
    Original {
        globals: Vec::new(),
        path: header.path.clone(),
        link,
        kind: match (block.kind(), header.kind) {
            (0, super::TarKind::Directory) => b'5',
            // Sparse files are written with their holes.
            (0 | b'S', _) => b'0',
            (kind, _) => kind,
        },
        mode: block.mode().unwrap_or_default(),
        owners: [header.uid.into(), header.gid.into()],
        names: [
            named(b"uname", text(265, 297)),
            named(b"gname", text(297, 329)),
        ],
        size: i64::try_from(size).unwrap_or(i64::MAX),
        device: [device.0, device.1],
        mtime: header.mtime,
        times: [time(b"atime", own[0]), time(b"ctime", own[1])],
        records,
        formats,
    }
}

/// What decides about the format while the fields are looked at.
struct Choice<'a> {
    original: &'a AllRecords,
    formats: Formats,
    /// Records that the entry needs, or has for what it needs.
    records: AllRecords,
    /// Whether USTAR would cut something off.
    cut: bool,
}

impl Choice<'_> {
    fn text(&mut self, text: &[u8], size: usize, key: &[u8]) {
        let long = text.len() > size;
        if long && !matches!(key, b"path" | b"linkpath") {
            self.formats.gnu = false;
        }
        if !is_ascii(text) || long {
            if key != b"path" || split(text).is_none() {
                self.formats.ustar = false;
            }
            self.records.insert(key.to_vec(), text.to_vec());
        }
        self.kept(key, text);
    }

    fn number(&mut self, value: i64, size: usize, key: &[u8]) {
        if !fits(value, size) {
            self.formats.ustar = false;
            if key.is_empty() {
                self.formats.pax = false;
            } else {
                self.needs(key, value.to_string().into_bytes());
            }
        }
        self.kept(key, value.to_string().as_bytes());
    }

    fn time(&mut self, time: Timestamp, key: &[u8]) {
        let (fits, modified) = (fits(time.seconds, 12), key == b"mtime");
        let text = text_time(time).into_bytes();
        if !modified || !fits {
            self.formats.ustar = false;
        }
        if !modified || !fits || time.nanoseconds != 0 {
            self.cut = true;
            self.needs(key, text.clone());
        }
        self.kept(key, &text);
    }

    fn needs(&mut self, key: &[u8], value: Vec<u8>) {
        self.records.insert(key.to_vec(), value);
    }

    /// A record that says what the field says stays.
    fn kept(&mut self, key: &[u8], value: &[u8]) {
        if self.original.get(key).is_some_and(|told| told == value) {
            self.needs(key, value.to_vec());
        }
    }
}

/// Records that fields of the header stand for.
const FIELDS: [&[u8]; 10] = [
    b"path",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"uname",
    b"gname",
    b"mtime",
    b"atime",
    b"ctime",
];

impl Original {
    /// Makes it a file of that many bytes.
    pub(super) fn set_size(&mut self, size: u64) {
        self.size = i64::try_from(size).unwrap_or(i64::MAX);
    }

    /// Sets every time after `latest` to `latest`.
    pub(super) fn not_after(&mut self, latest: Timestamp) {
        self.mtime = self.mtime.min(latest);
        for time in self.times.iter_mut().flatten() {
            *time = (*time).min(latest);
        }
    }

    /// The headers, global ones included. `None` if no format can express them.
    pub(super) fn encode(mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (name, records) in &self.globals {
            let name = match &name[..] {
                b"" => b"GlobalHead.0.0",
                name => name,
            };
            extended(&mut out, b'g', name, records).ok()?;
        }
        if self.formats == Formats::NONE {
            self.mtime = round(self.mtime);
            self.times = [None; 2];
        }
        let (formats, records) = self.choose();
        if formats.ustar {
            let (prefix, name) = split(&self.path).unwrap_or((b"", &self.path));
            let mut block = self.block(name, to_ascii, put_number);
            put_text(&mut block[345..500], prefix);
            seal(&mut block, USTAR);
            out.extend_from_slice(&block);
        } else if formats.pax {
            if !records.is_empty() {
                let name = super::writer::extended_name(&self.path);
                extended(&mut out, b'x', &name, &records).ok()?;
            }
            let mut block = self.block(&self.path, to_ascii, put_number);
            seal(&mut block, USTAR);
            out.extend_from_slice(&block);
        } else if formats.gnu {
            self.gnu(&mut out);
        } else {
            return None;
        }
        Some(out)
    }

    /// Which formats can express the entry, and its records if that is PAX.
    fn choose(&self) -> (Formats, AllRecords) {
        let mut choice = Choice {
            original: &self.records,
            formats: Formats::ALL,
            records: AllRecords::new(),
            cut: false,
        };
        choice.text(&self.path, 100, b"path");
        choice.text(&self.link, 100, b"linkpath");
        choice.text(&self.names[0], 32, b"uname");
        choice.text(&self.names[1], 32, b"gname");
        choice.number(self.mode, 8, b"");
        choice.number(self.owners[0], 8, b"uid");
        choice.number(self.owners[1], 8, b"gid");
        choice.number(self.size, 12, b"size");
        choice.number(self.device[0], 8, b"");
        choice.number(self.device[1], 8, b"");
        choice.time(self.mtime, b"mtime");
        for (time, key) in self.times.iter().zip([b"atime", b"ctime"]) {
            if let Some(time) = time {
                choice.time(*time, key);
            }
        }
        if !self.records.is_empty() {
            choice.formats = choice.formats.only(Formats::PAX);
            for (key, value) in &self.records {
                let known = FIELDS.contains(&&key[..]) || key.starts_with(b"GNU.sparse.");
                if !known && !choice.records.contains_key(key) {
                    choice.records.insert(key.clone(), value.clone());
                }
            }
        }
        let mut wanted = self.formats;
        // What stands for both is USTAR.
        wanted.pax &= !wanted.ustar;
        if wanted != Formats::NONE {
            wanted.ustar |= wanted.pax && !choice.cut;
            choice.formats = choice.formats.only(wanted);
        }
        (choice.formats, choice.records)
    }

    fn gnu(&self, out: &mut Vec<u8>) {
        for (kind, name) in [(b'L', &self.path), (b'K', &self.link)] {
            if name.len() > 100 {
                let mut block = [0; BLOCK];
                put_text(&mut block[..100], b"././@LongLink");
                for field in [100..108, 108..116, 116..124, 136..148] {
                    put_number(&mut block[field], 0);
                }
                let size = name.len() + 1;
                put_number(&mut block[124..136], i64::try_from(size).unwrap_or(0));
                block[156] = kind;
                seal(&mut block, GNU);
                out.extend_from_slice(&block);
                out.extend_from_slice(name);
                out.resize(out.len() + 1 + (BLOCK - size % BLOCK) % BLOCK, 0);
            }
        }
        let mut block = self.block(&self.path, <[u8]>::to_vec, put_binary);
        for (time, field) in self.times.iter().zip([345..357, 357..369]) {
            if let Some(time) = time {
                put_binary(&mut block[field], time.seconds);
            }
        }
        seal(&mut block, GNU);
        out.extend_from_slice(&block);
    }

    fn block(
        &self,
        name: &[u8],
        text: fn(&[u8]) -> Vec<u8>,
        number: fn(&mut [u8], i64),
    ) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let texts = [
            (0..100, name),
            (157..257, &self.link),
            (265..297, &self.names[0]),
            (297..329, &self.names[1]),
        ];
        for (field, value) in texts {
            put_text(&mut block[field], &text(value));
        }
        let numbers = [
            (100..108, self.mode),
            (108..116, self.owners[0]),
            (116..124, self.owners[1]),
            (124..136, self.size),
            (136..148, self.mtime.seconds),
            (329..337, self.device[0]),
            (337..345, self.device[1]),
        ];
        for (field, value) in numbers {
            number(&mut block[field], value);
        }
        block[156] = self.kind;
        block
    }
}

/// Magic and version.
pub(super) const USTAR: &[u8; 8] = b"ustar\x0000";
const GNU: &[u8; 8] = b"ustar  \0";

/// Octal digits if they suffice, else a number in base 256.
fn put_binary(field: &mut [u8], value: i64) {
    if fits(value, field.len()) {
        return put_number(field, value);
    }
    field.fill(if value < 0 { 0xff } else { 0 });
    let bytes = value.to_be_bytes();
    let length = bytes.len().min(field.len());
    let at = field.len() - length;
    field[at..].copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] |= 0x80;
}
