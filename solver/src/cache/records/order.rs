//! The order in which records and layers are written.

use std::cmp::Ordering;

use ashlar_llb::BlobDigest;
use sha2::{Digest as _, Sha256};

use super::{CacheRecord, RecordLayer, RecordLink};
use crate::id::CacheKey;

/// A digest of each record and all it depends on, whatever the order in which they stand:
///
/// ```text
/// no inputs    the digest of the record
/// otherwise    sha256("ashlar.record.v1\0" digest { links:u32 { id has-selector:u8 selector }* }*)
/// ```
/// The links of an input in ascending order; integers little-endian.
pub(super) fn ids(records: &[CacheRecord]) -> Vec<CacheKey> {
    let mut ids: Vec<CacheKey> = Vec::with_capacity(records.len());
    let mut links = Vec::new();
    for record in records {
        if record.inputs.is_empty() {
            ids.push(CacheKey::from_bytes(*record.digest.as_bytes()));
            continue;
        }
        let mut hasher = Sha256::new();
        hasher.update(b"ashlar.record.v1\0");
        hasher.update(record.digest.as_bytes());
        for input in &record.inputs {
            links.clear();
            links.extend(input.iter().map(|link| (ids[link.record], link.selector)));
            links.sort_unstable();
            hasher.update(u32::try_from(links.len()).unwrap_or(u32::MAX).to_le_bytes());
            for (id, selector) in &links {
                hasher.update(id.as_bytes());
                hasher.update([u8::from(selector.is_some())]);
                hasher.update(selector.map_or([0; 32], |selector| *selector.as_bytes()));
            }
        }
        ids.push(CacheKey::from_bytes(hasher.finalize().into()));
    }
    ids
}

/// The places of layers in the order in which they are written: by blob, then by what is below
/// them.
pub(super) fn layers<L>(layers: &[RecordLayer<L>], blob: impl Fn(&L) -> BlobDigest) -> Vec<usize> {
    // The deeper a layer is, the later its rank is known, and the later it comes among equals.
    let mut depths = Vec::with_capacity(layers.len());
    for layer in layers {
        let depth = layer.parent.map_or(0, |parent: usize| depths[parent] + 1);
        depths.push(depth);
    }
    let mut by_depth: Vec<usize> = (0..layers.len()).collect();
    by_depth.sort_by_key(|&at| depths[at]);
    let mut ranks = vec![0_usize; layers.len()];
    let mut rest = &by_depth[..];
    while let Some(&first) = rest.first() {
        let depth = depths[first];
        let (level, deeper) = rest.split_at(rest.partition_point(|&at| depths[at] == depth));
        rest = deeper;
        let key = |at: usize| {
            let below = layers[at].parent.map(|parent| ranks[parent]);
            (blob(&layers[at].layer), below)
        };
        let mut sorted: Vec<_> = level.iter().map(|&at| (key(at), at)).collect();
        sorted.sort_unstable();
        for (rank, (_, at)) in sorted.into_iter().enumerate() {
            ranks[at] = rank;
        }
    }
    let mut order: Vec<usize> = (0..layers.len()).collect();
    order.sort_by_key(|&at| (blob(&layers[at].layer), depths[at], ranks[at]));
    order
}

/// The places of records in the order in which they are written: by digest, the number of inputs,
/// and the inputs.
pub(super) fn records(records: &[CacheRecord]) -> Vec<usize> {
    let ids = ids(records);
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by(|&a, &b| {
        compare(records, &records[a], &records[b]).then_with(|| ids[a].cmp(&ids[b]))
    });
    order
}

fn compare(records: &[CacheRecord], a: &CacheRecord, b: &CacheRecord) -> Ordering {
    let head = |record: &CacheRecord| (record.digest, record.inputs.len());
    head(a).cmp(&head(b)).then_with(|| {
        let mut inputs = a.inputs.iter().zip(&b.inputs);
        inputs
            .find_map(|(a, b)| {
                let order = a.len().cmp(&b.len());
                let order = order.then_with(|| sorted(records, a).cmp(&sorted(records, b)));
                order.is_ne().then_some(order)
            })
            .unwrap_or(Ordering::Equal)
    })
}

type Sorted = Vec<(Option<crate::id::Selector>, crate::id::RecordDigest)>;

fn sorted(records: &[CacheRecord], links: &[RecordLink]) -> Sorted {
    let mut links: Sorted = links
        .iter()
        .map(|link| (link.selector, records[link.record].digest))
        .collect();
    links.sort_unstable();
    links
}
