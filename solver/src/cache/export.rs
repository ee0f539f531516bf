//! Which records a solve exports, as BuildKit chooses them.
//!
//! Owns the walk from the outputs of a solve ([`SolvedKeys::export`]) to [`CacheRecords`]. Generic over
//! the result type and over what names a layer.
//!
//! The *structure* of the export is everything that the store and the imports know to lead to the
//! keys of the outputs and of what they are made of: all keys by which an op can be found again, of
//! this solve and of earlier ones. *Results* are those of the solve itself, of vertices that have
//! inputs:
//!
//! - [`CacheMode::Max`]: of all vertices;
//! - [`CacheMode::Min`]: of the outputs, and of what they are made of where its layers are blobs
//!   anyway, or become blobs because they are part of an exported result;
//! - [`CacheMode::Known`]: only where the layers are blobs already.
//!
//! A vertex may forbid its results (`export_cache` in LLB). As in BuildKit that has an effect only
//! where the result was neither made nor loaded in this solve.
//!
//! Keys that are good for one solve only (volatile ones) are in no store, and so in no export. What
//! such a vertex is made of is exported all the same, and its layers are those of an exported result
//! as far as [`CacheMode::Min`] is concerned.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use async_trait::async_trait;

use super::import::ImportedRecords;
use super::index::{Backlink, Cache, KnownResult, ResultSource};
use super::records::{CacheRecords, Draft, DraftRecord, RecordLink, RecordResult};
use crate::clock::Timestamp;
use crate::error::Failure;
use crate::id::{CacheKey, RecordDigest};

/// Which results an export contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum CacheMode {
    /// Those of the outputs, and others where they cost nothing (`mode=min`).
    #[default]
    Min,
    /// All (`mode=max`).
    Max,
    /// Those whose layers are blobs already (`CacheExportModeRemoteOnly` in BuildKit).
    Known,
}

/// A result that a solve has at hand.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the scheduler alone")]
pub struct SolvedValue<T> {
    /// The key under which it was made or loaded; `None` if that is good for this solve only.
    pub key: Option<CacheKey>,
    /// The result.
    pub value: T,
    /// When it was made, in milliseconds since 1970; `None` if it was made by this solve.
    pub created_at: Option<i64>,
}

/// What a solve knows of one output of a vertex.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the scheduler alone")]
pub struct SolvedEdge<T> {
    /// The keys that are good beyond the solve.
    pub keys: Vec<CacheKey>,
    /// The result, if it was made or loaded.
    pub value: Option<SolvedValue<T>>,
}

/// What a solve knows of one vertex.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the scheduler alone")]
pub struct SolvedVertex<T> {
    /// Where its inputs come from: vertex, and which of the edges of that vertex.
    pub inputs: Vec<(usize, usize)>,
    /// The keys of its inputs by content, as far as their content was asked for.
    pub contents: Vec<CacheKey>,
    /// Its outputs, as far as somebody uses them.
    pub edges: Vec<SolvedEdge<T>>,
    /// Whether results are exported; `None`: not told.
    pub export: Option<bool>,
}

/// The keys of a solve.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the scheduler alone")]
pub struct SolvedKeys<T> {
    /// The vertices.
    pub vertices: Vec<SolvedVertex<T>>,
    /// The requested outputs: vertex, and which of its edges.
    pub outputs: Vec<(usize, usize)>,
    /// The records that the solve imported.
    pub imports: Vec<Arc<ImportedRecords>>,
}

/// What an export asks of results.
#[async_trait]
pub trait ExportSource<T>: Send + Sync + Debug {
    /// What names a layer.
    type Layer: Eq + Hash + Clone + Send + Sync;

    /// Loads a result; `None` if it is gone.
    async fn load(&self, key: CacheKey, source: ResultSource) -> Option<T>;

    /// The layers of a result, the lowest first; none if it has no layers.
    ///
    /// # Errors
    /// They cannot be told; ends the export.
    async fn layers(&self, value: &T) -> Result<Vec<Self::Layer>, Failure>;

    /// Whether a layer is a blob already.
    ///
    /// # Errors
    /// That cannot be told; ends the export.
    fn is_blob(&self, layer: &Self::Layer) -> Result<bool, Failure>;
}

/// The results to be exported, by key.
type Results<L> = HashMap<CacheKey, (Timestamp, Vec<L>)>;

impl<T: Clone + Send + Sync> SolvedKeys<T> {
    /// Gathers the records of the solve. `now`: the time, in milliseconds since 1970, of results
    /// that are not stored.
    ///
    /// # Errors
    /// What `source` says.
    pub async fn export<S: ExportSource<T>>(
        &self,
        mode: CacheMode,
        cache: &Cache,
        source: &S,
        now: i64,
    ) -> Result<CacheRecords<S::Layer>, Failure> {
        let mut walk = Walk {
            solved: self,
            cache,
            source,
            now,
            results: Results::new(),
            blobs: HashSet::new(),
        };
        walk.gather(mode).await?;
        let mut results = walk.results;
        // Not those of the outputs alone: no link leads through a vertex without such a key.
        let known = self.vertices.iter().flat_map(|vertex| {
            let of_edges = vertex.edges.iter().flat_map(|edge| &edge.keys);
            of_edges.chain(&vertex.contents).copied()
        });
        let structure = self.structure(cache, known);
        let mut draft = Draft::new();
        let mut places = HashMap::with_capacity(structure.len());
        for (key, records) in &structure {
            if records.is_empty() {
                continue;
            }
            places.insert(*key, draft.len());
            // A key stands for one op as a rule. If it is found as another too, that is a record
            // as well, and the links below lead to the first.
            for (digest, inputs) in records {
                draft.add_record(DraftRecord {
                    digest: *digest,
                    inputs: vec![Vec::new(); inputs.len()],
                    results: Vec::new(),
                });
            }
        }
        for (key, records) in structure {
            for (number, (digest, inputs)) in records.into_iter().enumerate() {
                let inputs = inputs.into_iter().map(|links| {
                    let link = |link: Backlink| {
                        Some(RecordLink {
                            selector: link.selector,
                            record: *places.get(&link.dependency)?,
                        })
                    };
                    links.into_iter().filter_map(link).collect()
                });
                let results = match results.remove(&key) {
                    Some((created, layers)) => draft
                        .add_layers(layers)
                        .map(|layer| RecordResult { layer, created })
                        .into_iter()
                        .collect(),
                    None => Vec::new(),
                };
                draft.set_record(
                    places[&key] + number,
                    DraftRecord {
                        digest,
                        inputs: inputs.collect(),
                        results,
                    },
                );
            }
        }
        Ok(draft.finish())
    }

    /// The keys `tops` and all that is known to lead to them: each key with the ops that it stands
    /// for, and their links by input.
    fn structure(&self, cache: &Cache, tops: impl Iterator<Item = CacheKey>) -> Structure {
        // Keys that were given here to what has inputs, in case their links could not be stored.
        let made = self
            .vertices
            .iter()
            .filter(|vertex| !vertex.inputs.is_empty());
        let made = made.flat_map(|vertex| vertex.edges.iter().flat_map(|edge| &edge.keys));
        let made: HashSet<CacheKey> = made.copied().collect();
        cache.read_with(&self.imports, |lookup| {
            let mut seen: HashSet<CacheKey> = HashSet::new();
            let mut todo: Vec<CacheKey> = Vec::new();
            let mut structure = Structure::new();
            for top in tops {
                if seen.insert(top) {
                    todo.push(top);
                }
            }
            while let Some(key) = todo.pop() {
                let mut ops: Vec<(RecordDigest, Vec<Vec<Backlink>>)> = Vec::new();
                for link in lookup.sources(key) {
                    let at = ops.iter().position(|(digest, _)| *digest == link.record);
                    let at = at.unwrap_or_else(|| {
                        ops.push((link.record, Vec::new()));
                        ops.len() - 1
                    });
                    let inputs = &mut ops[at].1;
                    // As many as an op may have: numbers in imported records are places in a list.
                    let input = usize::try_from(link.input).unwrap_or(usize::MAX);
                    if input >= MOST_INPUTS {
                        continue;
                    }
                    if inputs.len() <= input {
                        inputs.resize(input + 1, Vec::new());
                    }
                    inputs[input].push(link);
                    if seen.insert(link.dependency) {
                        todo.push(link.dependency);
                    }
                }
                if ops.is_empty() && !made.contains(&key) {
                    let root = RecordDigest::from_bytes(*key.as_bytes());
                    ops.push((root, Vec::new()));
                }
                structure.push((key, ops));
            }
            structure
        })
    }
}

/// Inputs of an op, far above what a definition can have.
const MOST_INPUTS: usize = 1 << 20;

type Structure = Vec<(CacheKey, Vec<(RecordDigest, Vec<Vec<Backlink>>)>)>;

/// The way through the vertices, from the outputs to what they are made of.
struct Walk<'a, T, S: ExportSource<T>> {
    solved: &'a SolvedKeys<T>,
    cache: &'a Cache,
    source: &'a S,
    now: i64,
    results: Results<S::Layer>,
    /// Layers that become blobs by this export.
    blobs: HashSet<S::Layer>,
}

impl<T: Clone + Send + Sync, S: ExportSource<T>> Walk<'_, T, S> {
    /// Visits each edge once, in the order in which a recursion over inputs would.
    async fn gather(&mut self, mode: CacheMode) -> Result<(), Failure> {
        let mut seen: HashSet<(usize, usize)> = HashSet::new();
        let mut todo: Vec<((usize, usize), CacheMode)> = Vec::new();
        todo.extend(self.solved.outputs.iter().rev().map(|&edge| (edge, mode)));
        while let Some((edge, mut mode)) = todo.pop() {
            if !seen.insert(edge) {
                continue;
            }
            if self.visit(edge, mode).await? && mode == CacheMode::Min {
                mode = CacheMode::Known;
            }
            let inputs = &self.solved.vertices[edge.0].inputs;
            todo.extend(inputs.iter().rev().map(|&input| (input, mode)));
        }
        Ok(())
    }

    /// Decides on the results of an edge; whether there are any.
    async fn visit(
        &mut self,
        (vertex, slot): (usize, usize),
        mode: CacheMode,
    ) -> Result<bool, Failure> {
        let vertex = &self.solved.vertices[vertex];
        if vertex.inputs.is_empty() {
            return Ok(false);
        }
        let edge = &vertex.edges[slot];
        if let Some(SolvedValue {
            key,
            value,
            created_at,
        }) = &edge.value
        {
            let newest = || {
                let stored = key.map(|key| self.stored(key)).unwrap_or_default();
                stored.first().map(|newest| newest.created_at)
            };
            let created_at = created_at.or_else(newest).unwrap_or(self.now);
            return self.take(*key, value, created_at, mode).await;
        }
        let mut any = false;
        if vertex.export != Some(false) {
            for &key in &edge.keys {
                for KnownResult { source, created_at } in self.stored(key) {
                    if let Some(value) = self.source.load(key, source).await {
                        any |= self.take(Some(key), &value, created_at, mode).await?;
                        break;
                    }
                }
            }
        }
        Ok(any)
    }

    /// The results of a key, the best first.
    fn stored(&self, key: CacheKey) -> Vec<KnownResult> {
        let imports = &self.solved.imports;
        self.cache.read_with(imports, |lookup| lookup.results(key))
    }

    /// Exports a result if the mode allows it and it has a key.
    async fn take(
        &mut self,
        key: Option<CacheKey>,
        value: &T,
        created_at: i64,
        mode: CacheMode,
    ) -> Result<bool, Failure> {
        let layers = self.source.layers(value).await?;
        if layers.is_empty() {
            return Ok(false);
        }
        if mode == CacheMode::Known {
            for layer in &layers {
                if !self.blobs.contains(layer) && !self.source.is_blob(layer)? {
                    return Ok(false);
                }
            }
        }
        self.blobs.extend(layers.iter().cloned());
        let created = Timestamp {
            seconds: created_at.div_euclid(1000),
            nanoseconds: u32::try_from(created_at.rem_euclid(1000) * 1_000_000).unwrap_or(0),
        };
        if let Some(key) = key {
            self.results.insert(key, (created, layers));
        }
        Ok(true)
    }
}
