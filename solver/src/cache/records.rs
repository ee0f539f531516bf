//! Cache records as a value: what an export gives, an import takes, and a cache config says.
//!
//! Owns [`CacheRecords`], its JSON (`CacheConfig` in BuildKit: [`CacheRecords::to_json`],
//! [`CacheRecords::from_json`]; for the config of an image [`CacheRecords::to_inline_json`]), and
//! [`Draft`], from which records are put together in any order. Transports move these values and
//! nothing else.
//!
//! A record stands for one output of an op on certain inputs. For each input it has *links*:
//! alternatives, any of which will do. Its *results* are chains of layers. What names a layer is
//! the type parameter: a layer of the store while records are exported ([`map_layers`]), a blob
//! when they travel ([`BlobLayer`], [`ConfigLayer`]).
//!
//! Invariants: links lead to records that stand before the record, and parents of layers before
//! the layer, so there are no loops; every input has a link; every layer is part of a result.
//!
//! Leaves to others: which records a solve exports ([`export`](super::export)), how records are
//! matched ([`import`](super::import)), where the bytes of layers come from.
//!
//! [`map_layers`]: CacheRecords::map_layers

mod config;
mod draft;
mod inline;
mod order;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::Hash;

pub use config::{CACHE_CONFIG_MEDIA_TYPE, ConfigError, ConfigLayer, LayerAnnotations, MAX_CONFIG};
pub use draft::{Draft, DraftRecord};

use crate::clock::Timestamp;
use crate::id::{CacheKey, RecordDigest, Selector};
use crate::meta::LayerBlob;

/// One output of an op on certain inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a record of BuildKit has these parts"
)]
pub struct CacheRecord {
    /// What the op does, and which output it is. Of content: the key of the content.
    pub digest: RecordDigest,
    /// For each input of the op the records that may be that input, any of them. Empty for ops
    /// without inputs and for content.
    pub inputs: Vec<Vec<RecordLink>>,
    /// What is known to come out of it.
    pub results: Vec<RecordResult>,
}

/// A record that may be an input of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a link of BuildKit has these parts"
)]
pub struct RecordLink {
    /// Which part of it counts.
    pub selector: Option<Selector>,
    /// Its place in [`CacheRecords::records`].
    pub record: usize,
}

/// A stored result of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a result of BuildKit has these parts"
)]
pub struct RecordResult {
    /// The place of its topmost layer in [`CacheRecords::layers`].
    pub layer: usize,
    /// When it was made.
    pub created: Timestamp,
}

/// A layer on top of others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_structs,
    reason = "a layer of BuildKit has these parts"
)]
pub struct RecordLayer<L> {
    /// What names it.
    pub layer: L,
    /// The place of the layer below it in [`CacheRecords::layers`].
    pub parent: Option<usize>,
}

/// A layer by its blob, with what the history of an image says of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BlobLayer {
    /// The blob.
    pub blob: LayerBlob,
    /// What made it; empty if that is not known.
    pub text: String,
    /// When it was made, if that is known.
    pub created: Option<Timestamp>,
}

impl BlobLayer {
    /// A layer of which only the blob is known.
    pub fn new(blob: LayerBlob) -> Self {
        Self {
            blob,
            text: String::new(),
            created: None,
        }
    }
}

/// Records that belong together, and the layers of their results.
///
/// ```
/// use ashlar_solver::cache::records::{CacheRecords, ConfigLayer};
///
/// let json = br#"{"layers":[{"blob":"sha256:1111111111111111111111111111111111111111111111111111111111111111","parent":-1}],
///   "records":[{"layers":[{"layer":0,"createdAt":"2026-01-02T03:04:05Z"}],
///               "digest":"sha256:2222222222222222222222222222222222222222222222222222222222222222",
///               "inputs":[[{"link":1}]]},
///              {"digest":"sha256:3333333333333333333333333333333333333333333333333333333333333333"}]}"#;
/// let records = CacheRecords::<ConfigLayer>::from_json(json)?;
/// assert_eq!(records.records().len(), 2);
/// assert_eq!(records.layers().len(), 1);
/// // As BuildKit writes it.
/// let text = String::from_utf8(records.to_json()).unwrap();
/// assert_eq!(text, std::str::from_utf8(json).unwrap().replace(['\n', ' '], ""));
/// # Ok::<(), ashlar_solver::cache::records::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecords<L> {
    layers: Vec<RecordLayer<L>>,
    records: Vec<CacheRecord>,
}

impl<L> Default for CacheRecords<L> {
    fn default() -> Self {
        Self {
            layers: Vec::new(),
            records: Vec::new(),
        }
    }
}

impl<L> CacheRecords<L> {
    /// The records, inputs first.
    pub fn records(&self) -> &[CacheRecord] {
        &self.records
    }

    /// The layers of all results, lower ones first.
    pub fn layers(&self) -> &[RecordLayer<L>] {
        &self.layers
    }

    /// Whether no record has a result: there is nothing that an import could find. BuildKit
    /// exports nothing then.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The places of a layer and all below it in [`CacheRecords::layers`], the lowest first.
    ///
    /// # Panics
    /// If `layer` is no place of it.
    pub fn chain(&self, layer: usize) -> Vec<usize> {
        let below = |&at: &usize| self.layers[at].parent;
        let mut chain: Vec<usize> = std::iter::successors(Some(layer), below).collect();
        chain.reverse();
        chain
    }

    /// A digest of each record and all it depends on.
    pub(crate) fn ids(&self) -> Vec<CacheKey> {
        order::ids(&self.records)
    }
}

impl<L: Eq + Hash + Clone> CacheRecords<L> {
    /// The same records with other names of layers. A result goes if any of its layers has none;
    /// the record stays. Each name is asked for once.
    ///
    /// # Errors
    /// What `name` returns.
    pub fn map_layers<M: Eq + Hash + Clone, E>(
        &self,
        mut name: impl FnMut(&L) -> Result<Option<M>, E>,
    ) -> Result<CacheRecords<M>, E> {
        let mut names: HashMap<&L, Option<M>> = HashMap::new();
        let mut layers = Layers::default();
        let mut places: Vec<Option<usize>> = Vec::with_capacity(self.layers.len());
        for RecordLayer { layer, parent } in &self.layers {
            let name = match names.get(layer) {
                Some(known) => known.clone(),
                None => {
                    let new = name(layer)?;
                    names.insert(layer, new.clone());
                    new
                }
            };
            let parent = match parent {
                None => Some(None),
                Some(parent) => places[*parent].map(Some),
            };
            let place = name.zip(parent);
            places.push(place.map(|(name, parent)| layers.add(parent, name)));
        }
        let mut records = self.records.clone();
        for record in &mut records {
            record.results.retain_mut(|result| {
                let place = places[result.layer];
                result.layer = place.unwrap_or_default();
                place.is_some()
            });
        }
        Ok(CacheRecords::of(records, layers.0))
    }

    /// Several sets of records as one, in which equal records are one record.
    #[must_use]
    pub fn merge(all: impl IntoIterator<Item = Self>) -> Self {
        let mut draft = Draft::new();
        for set in all {
            let mut places = Vec::with_capacity(set.layers.len());
            for RecordLayer { layer, parent } in set.layers {
                let parent = parent.map(|parent: usize| places[parent]);
                places.push(draft.add_layer(parent, layer));
            }
            let first = draft.len();
            for mut record in set.records {
                for link in record.inputs.iter_mut().flatten() {
                    link.record += first;
                }
                for result in &mut record.results {
                    result.layer = places[result.layer];
                }
                draft.add_record(DraftRecord {
                    digest: record.digest,
                    inputs: record.inputs,
                    results: record.results,
                });
            }
        }
        draft.finish()
    }

    /// Puts records together whose links and results are right, without the layers that no
    /// result has.
    fn of(mut records: Vec<CacheRecord>, layers: Vec<RecordLayer<L>>) -> Self {
        let mut used = vec![false; layers.len()];
        for result in records.iter().flat_map(|record| &record.results) {
            used[result.layer] = true;
        }
        for at in (0..layers.len()).rev() {
            if let (true, Some(parent)) = (used[at], layers[at].parent) {
                used[parent] = true;
            }
        }
        let mut places = vec![0; layers.len()];
        let mut kept = Vec::with_capacity(layers.len());
        for (at, mut layer) in layers.into_iter().enumerate() {
            if used[at] {
                layer.parent = layer.parent.map(|parent| places[parent]);
                places[at] = kept.len();
                kept.push(layer);
            }
        }
        for result in records.iter_mut().flat_map(|record| &mut record.results) {
            result.layer = places[result.layer];
        }
        Self {
            layers: kept,
            records,
        }
    }
}

/// Layers that are being gathered; the same one on the same parent is there once.
#[derive(Debug)]
struct Layers<L>(Vec<RecordLayer<L>>, HashMap<RecordLayer<L>, usize>);

impl<L> Default for Layers<L> {
    fn default() -> Self {
        Self(Vec::new(), HashMap::new())
    }
}

impl<L: Eq + Hash + Clone> Layers<L> {
    fn add(&mut self, parent: Option<usize>, layer: L) -> usize {
        let layer = RecordLayer { layer, parent };
        if let Some(&known) = self.1.get(&layer) {
            return known;
        }
        self.1.insert(layer.clone(), self.0.len());
        self.0.push(layer);
        self.0.len() - 1
    }
}
