//! What is known of files from earlier reading: their checksums, as long as they do not change.
//!
//! ```text
//! "ashlar stat 2\n"  number of records u64  records, in the order of device and inode
//! attributes         crc32 of all before, u32
//! record = device u64, inode u64, size u64, mtime i64 u32, ctime i64 u32, mode u32, age u8,
//!          digest [32], attributes u32: where theirs begin, counted from 1; 0 if there are none
//! attributes of a file = number u16, each: name length u16, name, value length u32, value
//! ```
//! Numbers are little-endian. A file that is not exactly this is ignored. It is read in one go and
//! looked up as it is: nothing is made for a record that nobody asks for.

use std::cmp::Ordering;
use std::collections::HashMap;

use flate2::Crc;

use crate::id::ContentDigest;
use crate::tree::{Timestamp, Xattrs};

const MAGIC: &[u8] = b"ashlar stat 2\n";

/// Bytes of the magic and the number of records.
const HEAD: usize = MAGIC.len() + 8;

/// Bytes of one record.
const RECORD: usize = 89;

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
    /// The file that was read, as it is; empty if there was none.
    stored: Vec<u8>,
    /// Records in it.
    count: usize,
    /// What was learnt since; it counts before what is stored.
    learnt: HashMap<Inode, Record>,
    /// Whether there is something that is not in the stored file.
    pub(super) new: bool,
}

/// Where the last record was found: the next one asked for is mostly near it.
#[derive(Debug, Default)]
pub(super) struct Near(usize);

impl Known {
    /// Checksum and attributes of a file, if it did not change.
    pub(super) fn lookup(
        &self,
        inode: Inode,
        stamp: &Stamp,
        near: &mut Near,
    ) -> Option<(ContentDigest, Xattrs)> {
        if !self.learnt.is_empty()
            && let Some(record) = self.learnt.get(&inode)
        {
            return (record.stamp == *stamp).then(|| (record.digest, record.xattrs.clone()));
        }
        let at = self.position(inode, near)?;
        let mut reader = self.reader(at);
        let found = reader.inode() == Some(inode) && reader.stamp()? == *stamp;
        if !found {
            return None;
        }
        let (_, digest, xattrs) = reader.rest()?;
        Some((digest, self.xattrs(xattrs)?))
    }

    /// Notes what was found out about a file.
    pub(super) fn learn(&mut self, inode: Inode, record: Record) {
        self.learnt.insert(inode, record);
        self.new = true;
    }

    /// The stored record of an inode.
    fn position(&self, inode: Inode, near: &mut Near) -> Option<usize> {
        let compare = |at: usize| self.inode(at).cmp(&inode);
        // Away from where the last one was in steps that double, then by halves.
        let (mut low, mut high) = (near.0.min(self.count), self.count);
        let mut step = 1;
        if low == self.count || compare(low) == Ordering::Greater {
            high = low;
            loop {
                low = high.saturating_sub(step);
                if low == 0 || compare(low) != Ordering::Greater {
                    break;
                }
                (high, step) = (low, step * 2);
            }
        } else {
            while low + step < self.count && compare(low + step) == Ordering::Less {
                (low, step) = (low + step, step * 2);
            }
            high = high.min(low.saturating_add(step).saturating_add(1));
        }
        while low < high {
            let middle = low.midpoint(high);
            match compare(middle) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => {
                    near.0 = middle;
                    return Some(middle);
                }
            }
        }
        near.0 = low;
        None
    }

    fn reader(&self, at: usize) -> Reader<'_> {
        let start = HEAD + at * RECORD;
        Reader(self.stored.get(start..start + RECORD).unwrap_or_default())
    }

    fn inode(&self, at: usize) -> Inode {
        self.reader(at).inode().unwrap_or_default()
    }

    /// The attributes that a record points at.
    fn xattrs(&self, at: u32) -> Option<Xattrs> {
        let Some(at) = at.checked_sub(1) else {
            return Some(Xattrs::default());
        };
        let start = HEAD + self.count * RECORD + usize::try_from(at).ok()?;
        Reader(self.stored.get(start..)?).xattrs()
    }

    /// Takes what [`Known::encode`] wrote; nothing if it is anything else.
    pub(super) fn decode(bytes: Vec<u8>) -> Self {
        Self::checked(bytes).unwrap_or_default()
    }

    fn checked(mut bytes: Vec<u8>) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let count = body.strip_prefix(MAGIC)?.first_chunk::<8>()?;
        let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
        let records = count.checked_mul(RECORD)?.checked_add(HEAD)?;
        // The file is our own: this tells a write that a power cut left unfinished.
        if records > body.len() || crc(body) != *sum {
            return None;
        }
        bytes.truncate(bytes.len() - 4);
        Some(Self {
            stored: bytes,
            count,
            ..Self::default()
        })
    }

    /// Writes all records. Those that `seen` does not know grow older; the oldest are left out.
    pub(super) fn encode(&mut self, seen: &dyn Fn(Inode) -> bool) -> Vec<u8> {
        self.new = false;
        let aged = |inode, age: u8| {
            let age = if seen(inode) {
                0
            } else {
                age.saturating_add(1)
            };
            (age <= MAX_AGE).then_some(age)
        };
        let mut learnt: Vec<Inode> = self.learnt.keys().copied().collect();
        learnt.sort_unstable();
        let mut learnt = learnt.into_iter().peekable();
        let mut out = Packed::new(self.count + self.learnt.len());
        for at in 0..self.count {
            let inode = self.inode(at);
            while let Some(earlier) = learnt.next_if(|learnt| *learnt < inode) {
                self.put_learnt(earlier, &aged, &mut out);
            }
            if learnt.peek() == Some(&inode) {
                continue;
            }
            let mut reader = self.reader(at);
            let stamp = reader.inode().and_then(|_| reader.stamp());
            if let (Some(stamp), Some((age, digest, xattrs))) = (stamp, reader.rest())
                && let (Some(age), Some(xattrs)) = (aged(inode, age), self.xattrs(xattrs))
            {
                let record = Record {
                    stamp,
                    digest,
                    xattrs,
                    age,
                };
                out.put(inode, &record);
            }
        }
        for inode in learnt {
            self.put_learnt(inode, &aged, &mut out);
        }
        out.finish()
    }

    fn put_learnt(&self, inode: Inode, aged: &dyn Fn(Inode, u8) -> Option<u8>, out: &mut Packed) {
        if let Some(record) = self.learnt.get(&inode)
            && let Some(age) = aged(inode, record.age)
        {
            let record = Record {
                age,
                ..record.clone()
            };
            out.put(inode, &record);
        }
    }
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

/// A file that is being made.
struct Packed {
    records: Vec<u8>,
    count: u64,
    attributes: Vec<u8>,
}

impl Packed {
    fn new(expected: usize) -> Self {
        let mut records = Vec::with_capacity(HEAD + expected * RECORD + 4);
        records.extend_from_slice(MAGIC);
        records.extend_from_slice(&[0; 8]);
        Self {
            records,
            count: 0,
            attributes: Vec::new(),
        }
    }

    fn put(&mut self, inode: Inode, record: &Record) {
        let Record {
            stamp,
            digest,
            xattrs,
            age,
        } = record;
        let Some(xattrs) = self.put_xattrs(xattrs) else {
            return;
        };
        let out = &mut self.records;
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
        out.extend_from_slice(&xattrs.to_le_bytes());
        self.count += 1;
    }

    /// Where the attributes are; `None` if there is no room for more, and the file is read again.
    fn put_xattrs(&mut self, xattrs: &Xattrs) -> Option<u32> {
        if xattrs.is_empty() {
            return Some(0);
        }
        let out = &mut self.attributes;
        let at = u32::try_from(out.len() + 1).ok()?;
        // Linux has at most 64 KiB of attributes per object, and names of 255 bytes.
        out.extend_from_slice(&u16::try_from(xattrs.iter().len()).ok()?.to_le_bytes());
        for (name, value) in xattrs.iter() {
            out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(&name[..name.len().min(u16::MAX.into())]);
            out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
            out.extend_from_slice(value);
        }
        Some(at)
    }

    fn finish(mut self) -> Vec<u8> {
        self.records[MAGIC.len()..HEAD].copy_from_slice(&self.count.to_le_bytes());
        self.records.append(&mut self.attributes);
        let sum = crc(&self.records);
        self.records.extend_from_slice(&sum);
        self.records
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

    fn inode(&mut self) -> Option<Inode> {
        Some((self.number()?, self.number()?))
    }

    /// What follows the inode.
    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp {
            size: self.number()?,
            mtime: self.time()?,
            ctime: self.time()?,
            mode: u32::from_le_bytes(self.array()?),
        })
    }

    /// What follows the stamp: age, checksum, where the attributes are.
    fn rest(&mut self) -> Option<(u8, ContentDigest, u32)> {
        let [age] = self.array()?;
        let digest = ContentDigest::from_bytes(self.array()?);
        Some((age, digest, u32::from_le_bytes(self.array()?)))
    }

    fn xattrs(&mut self) -> Option<Xattrs> {
        let count = u16::from_le_bytes(self.array()?);
        let mut xattrs = Vec::new();
        for _ in 0..count {
            let length = u16::from_le_bytes(self.array()?);
            let name = self.bytes(length.into())?;
            let length = u32::from_le_bytes(self.array()?);
            let value = self.bytes(usize::try_from(length).ok()?)?;
            xattrs.push((name.into(), value.into()));
        }
        Some(Xattrs::new(xattrs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(size: u64, xattrs: &[(&[u8], &[u8])]) -> Record {
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 7,
        };
        let pairs = xattrs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        Record {
            stamp: Stamp {
                size,
                mtime: time,
                ctime: time,
                mode: 0o100_644,
            },
            digest: ContentDigest::of(&size.to_le_bytes()),
            xattrs: Xattrs::new(pairs),
            age: 0,
        }
    }

    #[test]
    fn every_record_is_found_from_everywhere() {
        for count in [0, 1, 2, 3, 40] {
            let mut known = Known::default();
            for at in 0..count {
                known.learn((at % 2, at * 3), record(at, &[]));
            }
            let stored = Known::decode(known.encode(&|_| true));
            for start in 0..=count + 1 {
                for at in 0..count {
                    let stamp = record(at, &[]).stamp;
                    let mut near = Near(usize::try_from(start).unwrap());
                    let found = stored.lookup((at % 2, at * 3), &stamp, &mut near);
                    assert_eq!(found.unwrap().0, record(at, &[]).digest);
                    let nothing = stored.lookup((at % 2, at * 3 + 1), &stamp, &mut near);
                    assert!(nothing.is_none());
                }
            }
        }
    }

    #[test]
    fn what_was_learnt_counts_and_what_nobody_saw_goes() {
        let xattrs: &[(&[u8], &[u8])] = &[(b"user.a", b"1"), (b"user.b", b"")];
        let mut known = Known::default();
        known.learn((1, 10), record(1, xattrs));
        known.learn((1, 20), record(2, &[]));
        let mut known = Known::decode(known.encode(&|_| true));
        known.learn((1, 20), record(3, xattrs));
        known.learn((1, 15), record(4, &[]));
        assert!(known.new);
        let mut known = Known::decode(known.encode(&|_| true));
        let near = &mut Near::default();
        for (inode, size, xattrs) in [(10, 1, xattrs), (15, 4, &[]), (20, 3, xattrs)] {
            let expected = record(size, xattrs);
            let found = known.lookup((1, inode), &expected.stamp, near).unwrap();
            assert_eq!(found, (expected.digest, expected.xattrs));
        }
        assert!(known.lookup((1, 20), &record(2, &[]).stamp, near).is_none());
        for round in 0..=MAX_AGE {
            assert_eq!(known.count, 3, "round {round}");
            known = Known::decode(known.encode(&|inode| inode == (1, 15)));
        }
        assert_eq!(known.count, 1);
    }
}
