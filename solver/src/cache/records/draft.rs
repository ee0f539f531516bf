//! Records that are put together in any order, with links that may form loops.
//!
//! Loops arise where an op yields what it was made of: a copy that copies its own outcome has the
//! same content key again, and its record then links to itself. Alternatives that close a loop
//! say nothing that the others do not, and go.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::{CacheRecord, CacheRecords, Layers, RecordLink, RecordResult};
use crate::id::{RecordDigest, Selector};

/// Comparisons that are made to find equal records before the rest stays as it is. Foreign records
/// can be made so that they are many.
const COMPARISONS: usize = 10_000_000;

/// A record whose links may lead anywhere in the draft.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "as `CacheRecord`")]
pub struct DraftRecord {
    /// As [`CacheRecord::digest`].
    pub digest: RecordDigest,
    /// As [`CacheRecord::inputs`], with places in the draft, which need not be there yet.
    pub inputs: Vec<Vec<RecordLink>>,
    /// As [`CacheRecord::results`], with places of layers in the draft.
    pub results: Vec<RecordResult>,
}

/// Records and layers in the making.
#[derive(Debug)]
pub struct Draft<L> {
    layers: Layers<L>,
    records: Vec<DraftRecord>,
}

impl<L: Eq + Hash + Clone> Default for Draft<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: Eq + Hash + Clone> Draft<L> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            layers: Layers::default(),
            records: Vec::new(),
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds a layer on top of another one, unless it is there, and returns its place.
    ///
    /// # Panics
    /// If there is no such parent.
    pub fn add_layer(&mut self, parent: Option<usize>, layer: L) -> usize {
        assert!(
            parent.is_none_or(|parent| parent < self.layers.0.len()),
            "the layer below is not there"
        );
        self.layers.add(parent, layer)
    }

    /// Adds layers on top of each other, the lowest first, and returns the place of the topmost.
    pub fn add_layers(&mut self, layers: impl IntoIterator<Item = L>) -> Option<usize> {
        layers
            .into_iter()
            .fold(None, |parent, layer| Some(self.layers.add(parent, layer)))
    }

    /// Adds a record and returns its place.
    pub fn add_record(&mut self, record: DraftRecord) -> usize {
        self.records.push(record);
        self.records.len() - 1
    }

    /// Replaces a record.
    ///
    /// # Panics
    /// If there is no such record.
    pub fn set_record(&mut self, at: usize, record: DraftRecord) {
        self.records[at] = record;
    }

    /// The records, as BuildKit would have them:
    ///
    /// - a record goes if one of its inputs has no link, or none that can be followed to its end;
    /// - records of one op that have a link in common for each input become one;
    /// - links that close a loop go.
    ///
    /// # Panics
    /// If a link or result leads to no record or layer of the draft.
    pub fn finish(self) -> CacheRecords<L> {
        let order = derivation(&self.records);
        let classes = classes(&self.records, &order);
        let merged = merged(&self.records, &order, &classes);
        let merged = without_loops(merged);
        CacheRecords::of(inputs_first(merged), self.layers.0)
    }
}

/// The records that rest on records without inputs, in an order in which each has a link to an
/// earlier one for every input.
fn derivation(records: &[DraftRecord]) -> Vec<usize> {
    let mut users: Vec<Vec<(usize, usize)>> = vec![Vec::new(); records.len()];
    let mut open: Vec<Vec<bool>> = Vec::with_capacity(records.len());
    let mut missing: Vec<usize> = Vec::with_capacity(records.len());
    let mut order = Vec::with_capacity(records.len());
    for (at, record) in records.iter().enumerate() {
        for (input, links) in record.inputs.iter().enumerate() {
            for link in links {
                users[link.record].push((at, input));
            }
        }
        open.push(vec![true; record.inputs.len()]);
        missing.push(record.inputs.len());
        if record.inputs.is_empty() {
            order.push(at);
        }
    }
    let mut next = 0;
    while let Some(&from) = order.get(next) {
        next += 1;
        for &(user, input) in &users[from] {
            if std::mem::take(&mut open[user][input]) {
                missing[user] -= 1;
                if missing[user] == 0 {
                    order.push(user);
                }
            }
        }
    }
    order
}

/// A link as records that share it are found by.
type LinkKey = (usize, Option<Selector>, usize);

/// For each record the first one that is the same; `None` for those that are not in `order`.
fn classes(records: &[DraftRecord], order: &[usize]) -> Vec<Option<usize>> {
    let mut classes: Vec<Option<usize>> = vec![None; records.len()];
    let mut roots: HashMap<RecordDigest, usize> = HashMap::new();
    // By digest and link the classes that have the link, and the links of each class.
    let mut by_link: HashMap<(RecordDigest, LinkKey), Vec<usize>> = HashMap::new();
    let mut links: HashMap<usize, HashSet<LinkKey>> = HashMap::new();
    let mut comparisons = COMPARISONS;
    for &at in order {
        let record = &records[at];
        if record.inputs.is_empty() {
            classes[at] = Some(*roots.entry(record.digest).or_insert(at));
            continue;
        }
        let keys: Vec<Vec<LinkKey>> = record
            .inputs
            .iter()
            .enumerate()
            .map(|(input, links)| {
                let known = links.iter().filter_map(|link| {
                    let source = classes[link.record]?;
                    Some((input, link.selector, source))
                });
                known.collect()
            })
            .collect();
        let sharing = |key: &LinkKey| by_link.get(&(record.digest, *key)).map_or(0, Vec::len);
        let fewest = keys
            .iter()
            .min_by_key(|keys| keys.iter().map(sharing).sum::<usize>());
        let candidates = fewest.into_iter().flatten().flat_map(|key| {
            let of_key = by_link.get(&(record.digest, *key));
            of_key.map(Vec::as_slice).unwrap_or_default()
        });
        let mut same = None;
        for &class in candidates {
            if comparisons == 0 {
                break;
            }
            comparisons = comparisons.saturating_sub(keys.len());
            let of_class = &links[&class];
            if keys
                .iter()
                .all(|keys| keys.iter().any(|key| of_class.contains(key)))
                && records[class].inputs.len() == record.inputs.len()
            {
                same = Some(class);
                break;
            }
        }
        let class = same.unwrap_or(at);
        classes[at] = Some(class);
        let of_class = links.entry(class).or_default();
        for key in keys.into_iter().flatten() {
            if of_class.insert(key) {
                by_link.entry((record.digest, key)).or_default().push(class);
            }
        }
    }
    classes
}

/// A record, with the place in the derivation from which it is known.
#[derive(Debug)]
struct Merged {
    digest: RecordDigest,
    inputs: Vec<BTreeSet<RecordLink>>,
    results: Vec<RecordResult>,
}

/// One record for each class, in the order in which the classes are derived.
fn merged(records: &[DraftRecord], order: &[usize], classes: &[Option<usize>]) -> Vec<Merged> {
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut merged: Vec<Merged> = Vec::new();
    for &at in order {
        let Some(class) = classes[at] else { continue };
        places.entry(class).or_insert_with(|| {
            merged.push(Merged {
                digest: records[class].digest,
                inputs: vec![BTreeSet::new(); records[class].inputs.len()],
                results: Vec::new(),
            });
            merged.len() - 1
        });
    }
    for &at in order {
        let Some(place) = classes[at].map(|class| places[&class]) else {
            continue;
        };
        let record = &records[at];
        for (input, links) in record.inputs.iter().enumerate() {
            for link in links {
                if let Some(source) = classes[link.record] {
                    merged[place].inputs[input].insert(RecordLink {
                        selector: link.selector,
                        record: places[&source],
                    });
                }
            }
        }
        for result in &record.results {
            if !merged[place].results.contains(result) {
                merged[place].results.push(*result);
            }
        }
    }
    merged
}

/// Drops the links within a loop that lead from a record to one that is known before it; each
/// input keeps the links by which its record became known.
fn without_loops(mut merged: Vec<Merged>) -> Vec<Merged> {
    let count = merged.len();
    let is_ordered = merged.iter().enumerate().all(|(at, record)| {
        let mut links = record.inputs.iter().flatten();
        links.all(|link| link.record < at)
    });
    if is_ordered {
        return merged;
    }
    let mut graph = DiGraph::<(), ()>::with_capacity(count, count);
    for _ in 0..count {
        graph.add_node(());
    }
    for (at, record) in merged.iter().enumerate() {
        for link in record.inputs.iter().flatten() {
            graph.add_edge(NodeIndex::new(link.record), NodeIndex::new(at), ());
        }
    }
    let mut loops = vec![0; count];
    for (number, component) in kosaraju_scc(&graph).into_iter().enumerate() {
        for node in component {
            loops[node.index()] = number;
        }
    }
    for (at, record) in merged.iter_mut().enumerate() {
        for links in &mut record.inputs {
            links.retain(|link| link.record < at || loops[link.record] != loops[at]);
        }
    }
    merged
}

/// Brings records without loops into an order in which links lead backwards.
fn inputs_first(merged: Vec<Merged>) -> Vec<CacheRecord> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); merged.len()];
    let mut missing = vec![0_usize; merged.len()];
    for (at, record) in merged.iter().enumerate() {
        for link in record.inputs.iter().flatten() {
            users[link.record].push(at);
            missing[at] += 1;
        }
    }
    let mut order: Vec<usize> = (0..merged.len()).filter(|&at| missing[at] == 0).collect();
    let mut next = 0;
    while let Some(&from) = order.get(next) {
        next += 1;
        for &user in &users[from] {
            missing[user] -= 1;
            if missing[user] == 0 {
                order.push(user);
            }
        }
    }
    let mut places = vec![0; merged.len()];
    for (place, &at) in order.iter().enumerate() {
        places[at] = place;
    }
    let mut merged: Vec<Option<Merged>> = merged.into_iter().map(Some).collect();
    let ordered = order.into_iter().filter_map(|at| merged[at].take());
    ordered
        .map(|record| CacheRecord {
            digest: record.digest,
            inputs: record
                .inputs
                .into_iter()
                .map(|links| {
                    let moved = links.into_iter().map(|link| RecordLink {
                        record: places[link.record],
                        ..link
                    });
                    moved.collect()
                })
                .collect(),
            results: record.results,
        })
        .collect()
}
