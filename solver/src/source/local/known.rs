//! What is known of files from earlier reading: their checksums, as long as they do not change.
//!
//! ```text
//! "ashlar stat 1\n"  records, in the order of device and inode  sha256 of all before
//! record = device u64, inode u64, size u64, mtime i64 u32, ctime i64 u32, mode u32, age u8,
//!          digest [32], number of xattrs u16, each: name length u16, name, value length u32, value
//! ```
//! Numbers are little-endian. A file that is not exactly this is ignored.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::id::ContentDigest;
use crate::tree::{Timestamp, Xattrs};

const MAGIC: &[u8] = b"ashlar stat 1\n";

/// Times that a record is written again without its file having been seen. Sources of one
/// directory with different patterns share the records.
const MAX_AGE: u8 = 8;

/// Device and inode.
pub(super) type Inode = (u64, u64);

/// What changes when a file is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
    pub(super) ctime: Timestamp,
    /// Kind and permissions, as `st_mode` has them.
    pub(super) mode: u32,
}

/// What is known of one file.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) stamp: Stamp,
    pub(super) digest: ContentDigest,
    pub(super) xattrs: Xattrs,
    pub(super) age: u8,
}

/// Files by inode.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) records: HashMap<Inode, Record>,
    /// Whether there is something that is not in the stored file.
    pub(super) new: bool,
}

impl Known {
    /// What is known of a file, if it did not change.
    pub(super) fn lookup(&self, inode: Inode, stamp: &Stamp) -> Option<&Record> {
        self.records
            .get(&inode)
            .filter(|record| record.stamp == *stamp)
    }

    /// Reads what [`Known::encode`] wrote; nothing if it is anything else.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let records = Self::checked(bytes).unwrap_or_default();
        Self {
            records,
            new: false,
        }
    }

    fn checked(bytes: &[u8]) -> Option<HashMap<Inode, Record>> {
        let (body, sum) = bytes.split_last_chunk::<32>()?;
        if Sha256::digest(body)[..] != sum[..] {
            return None;
        }
        let mut reader = Reader(body.strip_prefix(MAGIC)?);
        let mut records = HashMap::with_capacity(reader.0.len() / 96);
        while !reader.0.is_empty() {
            let (inode, record) = reader.record()?;
            records.insert(inode, record);
        }
        Some(records)
    }

    /// Writes all records. Those that `seen` does not know grow older; the oldest are left out.
    pub(super) fn encode(&mut self, seen: &dyn Fn(Inode) -> bool) -> Vec<u8> {
        for (inode, record) in &mut self.records {
            record.age = if seen(*inode) {
                0
            } else {
                record.age.saturating_add(1)
            };
        }
        self.records.retain(|_, record| record.age <= MAX_AGE);
        let mut order: Vec<_> = self.records.iter().collect();
        order.sort_unstable_by_key(|(inode, _)| **inode);
        let mut out = Vec::with_capacity(MAGIC.len() + order.len() * 100 + 32);
        out.extend_from_slice(MAGIC);
        for (inode, record) in order {
            write_record(&mut out, *inode, record);
        }
        let sum = Sha256::digest(&out);
        out.extend_from_slice(&sum);
        out
    }
}

fn write_record(out: &mut Vec<u8>, inode: Inode, record: &Record) {
    let Record {
        stamp,
        digest,
        xattrs,
        age,
    } = record;
    out.extend_from_slice(&inode.0.to_le_bytes());
    out.extend_from_slice(&inode.1.to_le_bytes());
    out.extend_from_slice(&stamp.size.to_le_bytes());
    for time in [stamp.mtime, stamp.ctime] {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanoseconds.to_le_bytes());
    }
    out.extend_from_slice(&stamp.mode.to_le_bytes());
    out.push(*age);
    out.extend_from_slice(digest.as_bytes());
    // Linux has at most 64 KiB of attributes per object, and names of 255 bytes.
    let count = u16::try_from(xattrs.iter().len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in xattrs.iter().take(count.into()) {
        let length = u16::try_from(name.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&name[..length.into()]);
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(value);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        let seconds = i64::from_le_bytes(self.array()?);
        let nanoseconds = u32::from_le_bytes(self.array()?);
        Some(Timestamp {
            seconds,
            nanoseconds,
        })
    }

    fn record(&mut self) -> Option<(Inode, Record)> {
        let inode = (self.number()?, self.number()?);
        let size = self.number()?;
        let (mtime, ctime) = (self.time()?, self.time()?);
        let mode = u32::from_le_bytes(self.array()?);
        let [age] = self.array()?;
        let digest = ContentDigest::from_bytes(self.array()?);
        let count = u16::from_le_bytes(self.array()?);
        let mut xattrs = Vec::new();
        for _ in 0..count {
            let length = u16::from_le_bytes(self.array()?);
            let name = self.bytes(length.into())?;
            let length = u32::from_le_bytes(self.array()?);
            let value = self.bytes(usize::try_from(length).ok()?)?;
            xattrs.push((name.into(), value.into()));
        }
        let stamp = Stamp {
            size,
            mtime,
            ctime,
            mode,
        };
        let xattrs = if xattrs.is_empty() {
            Xattrs::default()
        } else {
            Xattrs::new(xattrs)
        };
        Some((
            inode,
            Record {
                stamp,
                digest,
                xattrs,
                age,
            },
        ))
    }
}
