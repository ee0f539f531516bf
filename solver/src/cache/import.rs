//! Imported records: looked up beside the store's own, and never changed.
//!
//! Owns [`ImportedRecords`], an index of [`CacheRecords`] by what a lookup knows: the key of an
//! input and the op that is made of it.
//!
//! A record without inputs has the key that its digest is. The key of any other record is a digest
//! of the record and all it depends on, in a domain of its own: no imported record can take the
//! place of a key of the store. What is loaded by an imported record counts as what the record
//! says it is. That is the trust that importing a cache asks for; the bytes of layers are compared
//! with their digests all the same.
//!
//! Invariant: results of records without inputs are not looked at. They would let a cache say what
//! is in an image or a local directory; BuildKit exports none.

use std::collections::{HashMap, HashSet};

use super::index::Backlink;
use super::records::{CacheRecord, CacheRecords};
use crate::clock::Timestamp;
use crate::id::{CacheKey, RecordDigest, Selector};

/// A result of an imported record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ImportedResult {
    /// The place of its topmost layer in the records.
    pub(crate) layer: usize,
    /// When it was made, in milliseconds since 1970.
    pub(crate) created_at: i64,
}

/// An index of records from elsewhere. Making it takes a few microseconds a record; then it may
/// serve any number of solves.
#[derive(Debug)]
pub struct ImportedRecords {
    records: Vec<CacheRecord>,
    keys: Vec<CacheKey>,
    /// Records by what is known of one of their inputs.
    links: HashMap<Way, Vec<usize>>,
    seen: HashSet<(RecordDigest, u32)>,
    by_key: HashMap<CacheKey, Vec<usize>>,
}

/// From the key of an input to records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    record: RecordDigest,
    input: u32,
    dependency: CacheKey,
    selector: Option<Selector>,
}

impl ImportedRecords {
    /// Indexes records.
    pub fn new<L>(records: &CacheRecords<L>) -> Self {
        let keys = records.ids();
        let mut links: HashMap<Way, Vec<usize>> = HashMap::new();
        let mut seen = HashSet::new();
        let mut by_key: HashMap<CacheKey, Vec<usize>> = HashMap::new();
        for (at, record) in records.records().iter().enumerate() {
            by_key.entry(keys[at]).or_default().push(at);
            for (input, alternatives) in (0..).zip(&record.inputs) {
                seen.insert((record.digest, input));
                for link in alternatives {
                    let way = Way {
                        record: record.digest,
                        input,
                        dependency: keys[link.record],
                        selector: link.selector,
                    };
                    links.entry(way).or_default().push(at);
                }
            }
        }
        Self {
            records: records.records().to_vec(),
            keys,
            links,
            seen,
            by_key,
        }
    }

    /// The keys of the records of an output of an op that have this input.
    pub(crate) fn targets(
        &self,
        record: RecordDigest,
        input: u32,
        dependency: CacheKey,
        selector: Option<Selector>,
    ) -> impl Iterator<Item = CacheKey> + '_ {
        let way = Way {
            record,
            input,
            dependency,
            selector,
        };
        let found = self.links.get(&way).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|&at| self.keys[at])
    }

    /// Whether there is any record of an output of an op with anything as this input.
    pub(crate) fn seen(&self, record: RecordDigest, input: u32) -> bool {
        self.seen.contains(&(record, input))
    }

    /// Whether there is a record of that key.
    pub(crate) fn has(&self, key: CacheKey) -> bool {
        self.by_key.contains_key(&key)
    }

    fn of_key(&self, key: CacheKey) -> impl Iterator<Item = &CacheRecord> {
        let found = self.by_key.get(&key).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|&at| &self.records[at])
    }

    /// The results of a key.
    pub(crate) fn results(&self, key: CacheKey) -> impl Iterator<Item = ImportedResult> + '_ {
        let made = self.of_key(key).filter(|record| !record.inputs.is_empty());
        made.flat_map(|record| &record.results)
            .map(|result| ImportedResult {
                layer: result.layer,
                created_at: milliseconds(result.created),
            })
    }

    /// What a key may be made of.
    pub(crate) fn sources(&self, key: CacheKey) -> impl Iterator<Item = Backlink> + '_ {
        self.of_key(key).flat_map(move |record| {
            (0..).zip(&record.inputs).flat_map(move |(input, links)| {
                links.iter().map(move |link| Backlink {
                    record: record.digest,
                    input,
                    dependency: self.keys[link.record],
                    selector: link.selector,
                })
            })
        })
    }
}

fn milliseconds(time: Timestamp) -> i64 {
    let fraction = i64::from(time.nanoseconds / 1_000_000);
    time.seconds.saturating_mul(1000).saturating_add(fraction)
}
