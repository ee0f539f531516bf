//! The strict double of the database: the same promises, kept in memory.
//!
//! For tests, and for solves that are to leave nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::records::{LISTINGS, MORE_LISTINGS};
use super::{
    Durability, Generation, LayerBlob, LayerBlobs, Link, MetaError, NamedValue, Names, RecordBatch,
    RecordReader, RecordWriter, Records, ResultRow, StackRow, Stacks, WriteBody,
};
use crate::id::{CacheDigest, CacheKey, LayerId, ResultId, StackId};

/// A database in memory. Clones share what is in it.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    current: i64,
    synced: i64,
    written: Option<i64>,
    last_stack: i64,
    stacks: BTreeMap<i64, Stamped<(LayerId, i64)>>,
    blobs: BTreeMap<(LayerId, String), Stamped<LayerBlob>>,
    names: BTreeMap<(String, Vec<u8>), Stamped<Vec<u8>>>,
    links: BTreeSet<(Link, CacheKey)>,
    results: BTreeMap<(CacheKey, ResultId), Stamped<i64>>,
    /// The latest last.
    listings: Vec<(CacheKey, Vec<u8>)>,
}

#[derive(Debug, Clone)]
struct Stamped<V> {
    value: V,
    generation: i64,
}

impl State {
    fn stamp<V>(&mut self, value: V) -> Stamped<V> {
        self.written = Some(self.current);
        self.version += 1;
        Stamped {
            value,
            generation: self.current + 1,
        }
    }

    fn chain(&self, mut id: i64) -> Vec<LayerId> {
        let mut layers = Vec::new();
        while let Some(stack) = self.stacks.get(&id) {
            layers.push(stack.value.0);
            id = stack.value.1;
        }
        layers.reverse();
        layers
    }
}

impl Memory {
    /// Makes an empty database.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what was not synced, as if the machine had lost power, and returns how many
    /// records that were.
    pub fn restart(&self) -> usize {
        let state = &mut *self.lock();
        let synced = state.synced;
        let before = state.len();
        state.stacks.retain(|_, row| row.generation <= synced);
        state.blobs.retain(|_, row| row.generation <= synced);
        state.names.retain(|_, row| row.generation <= synced);
        let stacks = &state.stacks;
        state.results.retain(|(_, result), row| {
            row.generation <= synced && (result.0 <= 0 || stacks.contains_key(&result.0))
        });
        state.version += 1;
        state.current += 1;
        state.written = None;
        before - state.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn len(&self) -> usize {
        self.stacks.len() + self.blobs.len() + self.names.len() + self.results.len()
    }
}

impl Stacks for Memory {
    fn stack(&self, id: StackId) -> Result<Option<StackRow>, MetaError> {
        Ok(self.lock().stacks.get(&id.0).map(|row| StackRow {
            layer: row.value.0,
            parent: (row.value.1 > 0).then_some(StackId(row.value.1)),
        }))
    }

    fn add_stack(&self, layer: LayerId, parent: Option<StackId>) -> Result<StackId, MetaError> {
        let mut added = None;
        self.write(&mut |writer| {
            added = Some(writer.add_stack(layer, parent)?);
            Ok(())
        })?;
        Ok(added.expect("BUG: the body was called"))
    }

    fn stack_chain(&self, id: StackId) -> Result<Vec<LayerId>, MetaError> {
        Ok(self.lock().chain(id.0))
    }

    fn is_below(&self, layer: LayerId) -> Result<bool, MetaError> {
        let state = self.lock();
        let mut parents = state.stacks.values().map(|row| row.value.1);
        Ok(parents.any(|id| {
            state
                .stacks
                .get(&id)
                .is_some_and(|row| row.value.0 == layer)
        }))
    }

    fn remove_layer(&self, layer: LayerId) -> Result<usize, MetaError> {
        let mut state = self.lock();
        let doomed: BTreeSet<i64> = state
            .stacks
            .keys()
            .copied()
            .filter(|&id| state.chain(id).contains(&layer))
            .collect();
        state.stacks.retain(|id, _| !doomed.contains(id));
        state
            .results
            .retain(|(_, result), _| !doomed.contains(&result.0));
        state.blobs.retain(|(of, _), _| *of != layer);
        state.stamp(());
        Ok(doomed.len())
    }
}

impl LayerBlobs for Memory {
    fn layer_blobs(&self, layer: LayerId) -> Result<Vec<LayerBlob>, MetaError> {
        let state = self.lock();
        let blobs = state.blobs.iter().filter(|((of, _), _)| *of == layer);
        Ok(blobs.map(|(_, row)| row.value.clone()).collect())
    }

    fn put_layer_blob(&self, layer: LayerId, blob: &LayerBlob) -> Result<(), MetaError> {
        let mut state = self.lock();
        let row = state.stamp(blob.clone());
        state.blobs.insert((layer, blob.compression.clone()), row);
        Ok(())
    }
}

impl Names for Memory {
    fn name(&self, namespace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        let state = self.lock();
        Ok(state
            .names
            .get(&(namespace.to_owned(), key.to_owned()))
            .map(|row| row.value.clone()))
    }

    fn names(&self, namespace: &str) -> Result<Vec<NamedValue>, MetaError> {
        let state = self.lock();
        let of = state
            .names
            .iter()
            .filter(|((name, _), _)| name == namespace);
        Ok(of
            .map(|((_, key), row)| (key.clone(), row.value.clone()))
            .collect())
    }

    fn put_names(&self, namespace: &str, named: &[(&[u8], &[u8])]) -> Result<(), MetaError> {
        let mut state = self.lock();
        for &(key, value) in named {
            let row = state.stamp(value.to_owned());
            let key = (namespace.to_owned(), key.to_owned());
            state.names.insert(key, row);
        }
        Ok(())
    }

    fn remove_name(&self, namespace: &str, key: &[u8]) -> Result<(), MetaError> {
        let mut state = self.lock();
        state.names.remove(&(namespace.to_owned(), key.to_owned()));
        state.stamp(());
        Ok(())
    }
}

impl Durability for Memory {
    fn begin_sync(&self) -> Result<Generation, MetaError> {
        let mut state = self.lock();
        state.current += 1;
        Ok(Generation(state.current))
    }

    fn finish_sync(&self, generation: Generation) -> Result<(), MetaError> {
        let mut state = self.lock();
        state.synced = state.synced.max(generation.0);
        Ok(())
    }

    fn needs_sync(&self) -> Result<bool, MetaError> {
        let state = self.lock();
        Ok(state
            .written
            .is_some_and(|written| written + 1 > state.synced))
    }
}

impl Records for Memory {
    fn read(&self, body: &mut dyn FnMut(&mut dyn RecordReader)) -> Result<(), MetaError> {
        body(&mut *self.lock());
        Ok(())
    }

    fn write(&self, body: WriteBody<'_>) -> Result<(), MetaError> {
        self.lock().write(body)
    }

    fn drop_result(&self, key: CacheKey, result: ResultId) -> Result<(), MetaError> {
        let mut state = self.lock();
        state.results.remove(&(key, result));
        state.stamp(());
        Ok(())
    }
}

/// What one transaction adds.
#[derive(Debug)]
struct Draft<'a> {
    state: &'a State,
    stacks: Vec<(LayerId, i64)>,
    batches: Vec<RecordBatch>,
}

impl Draft<'_> {
    fn id_of(&self, at: usize) -> i64 {
        self.state.last_stack + 1 + i64::try_from(at).unwrap_or(i64::MAX)
    }

    fn find(&self, stack: (LayerId, i64)) -> Option<i64> {
        let mut known = self.state.stacks.iter();
        let known = known.find(|(_, row)| row.value == stack);
        known.map(|(&id, _)| id).or_else(|| {
            let added = self.stacks.iter().position(|added| *added == stack);
            added.map(|at| self.id_of(at))
        })
    }
}

impl RecordWriter for Draft<'_> {
    fn add_stack(&mut self, layer: LayerId, parent: Option<StackId>) -> Result<StackId, MetaError> {
        let parent = parent.map_or(0, |parent| parent.0);
        let added = self.state.last_stack < parent && parent < self.id_of(self.stacks.len());
        if parent != 0 && !added && !self.state.stacks.contains_key(&parent) {
            return Err(MetaError::NoParent { parent });
        }
        let id = self.find((layer, parent)).unwrap_or_else(|| {
            self.stacks.push((layer, parent));
            self.id_of(self.stacks.len() - 1)
        });
        Ok(StackId(id))
    }

    fn save(&mut self, batch: &RecordBatch) -> Result<(), MetaError> {
        self.batches.push(batch.clone());
        Ok(())
    }
}

impl State {
    fn save(&mut self, batch: RecordBatch) {
        self.links.extend(batch.links);
        for (key, result) in batch.results {
            let row = self.stamp(batch.created_at);
            self.results.insert((key, result), row);
        }
        for (key, listing) in batch.listings {
            self.listings.retain(|(known, _)| *known != key);
            self.listings.push((key, listing));
        }
        let surplus = self.listings.len().saturating_sub(LISTINGS);
        if surplus > MORE_LISTINGS {
            self.listings.drain(..surplus);
        }
        self.stamp(());
    }
}

impl RecordReader for State {
    fn write(&mut self, body: WriteBody<'_>) -> Result<(), MetaError> {
        let mut draft = Draft {
            state: self,
            stacks: Vec::new(),
            batches: Vec::new(),
        };
        body(&mut draft)?;
        let Draft {
            stacks, batches, ..
        } = draft;
        for stack in stacks {
            self.last_stack += 1;
            let row = self.stamp(stack);
            self.stacks.insert(self.last_stack, row);
        }
        for batch in batches {
            self.save(batch);
        }
        Ok(())
    }

    fn version(&mut self) -> Result<u64, MetaError> {
        Ok(self.version)
    }

    fn targets(
        &mut self,
        link: &Link,
        limit: usize,
        targets: &mut Vec<CacheKey>,
    ) -> Result<(), MetaError> {
        let from = (*link, CacheKey::from_bytes([0; 32]));
        let of_link = self.links.range(from..).take_while(|(of, _)| of == link);
        targets.extend(of_link.map(|(_, target)| *target).take(limit));
        Ok(())
    }

    fn leads_to(&mut self, link: &Link, target: CacheKey) -> Result<bool, MetaError> {
        Ok(self.links.contains(&(*link, target)))
    }

    fn results(&mut self, key: CacheKey) -> Result<Vec<ResultRow>, MetaError> {
        let from = (key, ResultId(i64::MIN));
        let mut rows: Vec<_> = self
            .results
            .range(from..=(key, ResultId(i64::MAX)))
            .map(|((_, result), row)| ResultRow {
                result: *result,
                created_at: row.value,
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.result)));
        Ok(rows)
    }

    fn seen(&mut self, digest: CacheDigest, output: u32, input: u32) -> Result<bool, MetaError> {
        let dependency = CacheKey::from_bytes([0; 32]);
        let from = Link {
            digest,
            output,
            input,
            dependency,
            selector: None,
        };
        let next = self.links.range((from, dependency)..).next();
        Ok(next.is_some_and(|(link, _)| {
            (link.digest, link.output, link.input) == (digest, output, input)
        }))
    }

    fn sources(
        &mut self,
        target: CacheKey,
        limit: usize,
        links: &mut Vec<Link>,
    ) -> Result<(), MetaError> {
        let to = self.links.iter().filter(|(_, to)| *to == target);
        links.extend(to.map(|(link, _)| *link).take(limit));
        Ok(())
    }

    fn latest(
        &mut self,
        digest: CacheDigest,
        output: u32,
        input: u32,
    ) -> Result<Vec<Link>, MetaError> {
        let of_op = |link: &Link| (link.digest, link.output, link.input) == (digest, output, input);
        let made = self.results.iter().filter(|((key, _), _)| {
            let mut links = self.links.iter();
            links.any(|(link, target)| target == key && of_op(link))
        });
        let newest = made.max_by_key(|((_, result), row)| (row.value, *result));
        let Some(((newest, _), _)) = newest else {
            return Ok(Vec::new());
        };
        let to = self.links.iter().filter(|(_, target)| target == newest);
        Ok(to.map(|(link, _)| *link).filter(of_op).collect())
    }

    fn listing(&mut self, content: CacheKey) -> Result<Option<Vec<u8>>, MetaError> {
        let known = self.listings.iter().find(|(key, _)| *key == content);
        Ok(known.map(|(_, listing)| listing.clone()))
    }
}
