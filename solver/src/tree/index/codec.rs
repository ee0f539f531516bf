//! How an index is written.
//!
//! Eight bytes of magic with the version in the last, 32 bytes of SHA-256 over all that follows,
//! the number of entries, then the entries. Numbers are LEB128. Each entry: bytes shared with the
//! path before, rest of the path, kind, flags, mode, and what the flags announce.

use sha2::{Digest as _, Sha256};

use super::IndexError;
use crate::id::ContentDigest;
use crate::tree::entry::{Device, Xattr};
use crate::tree::{Attributes, Entry, Kind, Timestamp, TreePath, Xattrs};

const MAGIC: &[u8; 7] = b"ashlari";
const VERSION: u8 = 1;
const HEADER: usize = 8 + 32;

/// An entry takes at least this many bytes.
const LEAST: usize = 5;

const DIGEST: u8 = 1;
const OPAQUE: u8 = 2;
const XATTRS: u8 = 4;
const LINK_GROUP: u8 = 8;
const OWNER: u8 = 16;
const MTIME: u8 = 32;
const SIZE: u8 = 64;

const KINDS: [Kind; 7] = [
    Kind::Directory,
    Kind::File,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::BlockDevice,
    Kind::Fifo,
    Kind::Whiteout,
];

pub(super) fn encode(entries: &[(TreePath, Entry)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 8 + entries.len() * 80);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&[0; 32]);
    put_length(&mut out, entries.len());
    let mut previous: &[u8] = b"";
    let mut mtime = Timestamp::default();
    for (path, entry) in entries {
        let path = path.as_bytes();
        let shared = path
            .iter()
            .zip(previous)
            .take_while(|(a, b)| a == b)
            .count();
        put_length(&mut out, shared);
        put_bytes(&mut out, &path[shared..]);
        put_entry(&mut out, entry, mtime);
        previous = path;
        mtime = entry.attributes.mtime;
    }
    let checksum = Sha256::digest(&out[HEADER..]);
    out[8..HEADER].copy_from_slice(&checksum);
    out
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry, previous_mtime: Timestamp) {
    let Attributes {
        mode,
        uid,
        gid,
        mtime,
        xattrs,
    } = &entry.attributes;
    let flag = |on: bool, flag: u8| if on { flag } else { 0 };
    let kind = KINDS
        .iter()
        .position(|kind| *kind == entry.kind)
        .unwrap_or_default();
    out.push(u8::try_from(kind).unwrap_or_default());
    out.push(
        flag(entry.digest.is_some(), DIGEST)
            | flag(entry.opaque, OPAQUE)
            | flag(!xattrs.is_empty(), XATTRS)
            | flag(entry.link_group != 0, LINK_GROUP)
            | flag((*uid, *gid) != (0, 0), OWNER)
            | flag(*mtime != previous_mtime, MTIME)
            | flag(entry.size != 0 || entry.allocated != 0, SIZE),
    );
    put(out, u64::from(*mode));
    if (*uid, *gid) != (0, 0) {
        put(out, u64::from(*uid));
        put(out, u64::from(*gid));
    }
    if *mtime != previous_mtime {
        put(out, zigzag(mtime.seconds));
        put(out, u64::from(mtime.nanoseconds));
    }
    if entry.size != 0 || entry.allocated != 0 {
        put(out, entry.size);
        put(out, entry.allocated);
    }
    if entry.link_group != 0 {
        put(out, u64::from(entry.link_group));
    }
    match entry.kind {
        Kind::CharDevice | Kind::BlockDevice => {
            put(out, u64::from(entry.device.major));
            put(out, u64::from(entry.device.minor));
        }
        Kind::Symlink => put_bytes(out, &entry.target),
        _ => {}
    }
    if !xattrs.is_empty() {
        put_length(out, xattrs.iter().len());
        for (name, value) in xattrs.iter() {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
    if let Some(digest) = entry.digest {
        out.extend_from_slice(digest.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    put(out, length as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn zigzag(value: i64) -> u64 {
    (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<(TreePath, Entry)>, IndexError> {
    if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
        return Err(IndexError::NotAnIndex);
    }
    if bytes[7] != VERSION {
        return Err(IndexError::Version { version: bytes[7] });
    }
    if bytes[8..HEADER] != Sha256::digest(&bytes[HEADER..])[..] {
        return Err(IndexError::Checksum);
    }
    let mut input = Input { bytes, at: HEADER };
    let count = input.length()?;
    // Every entry takes some bytes, so a huge number cannot reserve more than the input is worth.
    let mut entries = Vec::with_capacity(count.min(input.left() / LEAST));
    let mut path = Vec::new();
    let mut mtime = Timestamp::default();
    for _ in 0..count {
        let shared = input.length()?;
        if shared > path.len() {
            return Err(input.malformed("more is shared than there is"));
        }
        path.truncate(shared);
        path.extend_from_slice(input.byte_string()?);
        if path.len() > super::MAX_PATH {
            return Err(input.malformed("a path is too long"));
        }
        let tree_path = TreePath::new(path.clone())
            .map_err(|_| input.malformed("a path leaves its tree or is not normal"))?;
        let entry = input.entry(mtime)?;
        mtime = entry.attributes.mtime;
        entries.push((tree_path, entry));
    }
    if input.left() != 0 {
        return Err(input.malformed("something follows the last entry"));
    }
    Ok(entries)
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn malformed(&self, problem: &'static str) -> IndexError {
        IndexError::Malformed {
            offset: self.at,
            problem,
        }
    }

    fn byte(&mut self) -> Result<u8, IndexError> {
        let byte = *self
            .bytes
            .get(self.at)
            .ok_or(self.malformed("it ends too early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, IndexError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number is too large"))
    }

    fn small(&mut self) -> Result<u32, IndexError> {
        u32::try_from(self.number()?).map_err(|_| self.malformed("a number is too large"))
    }

    fn length(&mut self) -> Result<usize, IndexError> {
        usize::try_from(self.number()?).map_err(|_| self.malformed("a length is too large"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], IndexError> {
        if length > self.left() {
            return Err(self.malformed("it ends too early"));
        }
        let bytes = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(bytes)
    }

    fn byte_string(&mut self) -> Result<&'a [u8], IndexError> {
        let length = self.length()?;
        self.take(length)
    }

    fn entry(&mut self, previous_mtime: Timestamp) -> Result<Entry, IndexError> {
        let kind = *KINDS
            .get(usize::from(self.byte()?))
            .ok_or_else(|| self.malformed("an entry of unknown kind"))?;
        let flags = self.byte()?;
        if flags >= 0x80 {
            return Err(self.malformed("an unknown flag"));
        }
        let mut entry = Entry::new(kind, Attributes::default());
        entry.attributes.mode = self.small()?;
        if flags & OWNER != 0 {
            entry.attributes.uid = self.small()?;
            entry.attributes.gid = self.small()?;
        }
        entry.attributes.mtime = previous_mtime;
        if flags & MTIME != 0 {
            let seconds = unzigzag(self.number()?);
            entry.attributes.mtime = Timestamp {
                seconds,
                nanoseconds: self.small()?,
            };
        }
        if flags & SIZE != 0 {
            entry.size = self.number()?;
            entry.allocated = self.number()?;
        }
        if flags & LINK_GROUP != 0 {
            entry.link_group = self.small()?;
        }
        match kind {
            Kind::CharDevice | Kind::BlockDevice => {
                entry.device = Device {
                    major: self.small()?,
                    minor: self.small()?,
                };
            }
            Kind::Symlink => entry.target = self.byte_string()?.into(),
            _ => {}
        }
        if flags & XATTRS != 0 {
            entry.attributes.xattrs = self.xattrs()?;
        }
        if flags & DIGEST != 0 {
            let bytes = self.take(32)?.try_into();
            entry.digest = Some(ContentDigest::from_bytes(
                bytes.expect("BUG: 32 bytes are 32 bytes"),
            ));
        }
        entry.opaque = flags & OPAQUE != 0;
        Ok(entry)
    }

    fn xattrs(&mut self) -> Result<Xattrs, IndexError> {
        let count = self.length()?;
        let mut pairs: Vec<Xattr> = Vec::new();
        for _ in 0..count {
            let name: Box<[u8]> = self.byte_string()?.into();
            if pairs.last().is_some_and(|(last, _)| *last >= name) {
                return Err(self.malformed("extended attributes are out of order"));
            }
            pairs.push((name, self.byte_string()?.into()));
        }
        Ok(Xattrs::new(pairs))
    }
}
