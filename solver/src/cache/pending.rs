//! Records that are stored together with the next ones.
//!
//! A transaction costs as much as a small file op. What a solve learns is therefore kept here for a
//! moment and stored many at a time; [`Cache`](super::Cache) says when.
//!
//! Invariants: who reads by way of the same cache cannot tell, because what something pending might
//! answer is stored before it is read; a result has no id before the transaction that stored it is
//! done.

use std::fmt::Debug;

use hashbrown::HashSet;

use crate::id::{CacheDigest, CacheKey, ResultId};
use crate::meta::{Link, MetaError, RecordBatch, RecordWriter, WriteBody};

/// So many do not wait for more.
const MOST: usize = 256;

/// A result that gets its id when it is stored.
pub trait NewResult: Send + Debug {
    /// Adds what it consists of and returns the id to load it by. Called once.
    ///
    /// # Errors
    /// [`MetaError::NoParent`] costs this result, any other error all of its transaction.
    fn store(&mut self, writer: &mut dyn RecordWriter) -> Result<ResultId, MetaError>;

    /// Called when the transaction of a [`store`](Self::store) that succeeded is done: from now on
    /// the id is good.
    fn stored(&mut self);
}

/// What a vertex that ran adds to the records.
#[derive(Debug, Default)]
pub struct NewRecords {
    /// Its links, and results that are stored already.
    pub batch: RecordBatch,
    /// Its results, each with its keys.
    pub results: Vec<(Box<dyn NewResult>, Vec<CacheKey>)>,
}

impl NewRecords {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        let RecordBatch { links, results, .. } = &self.batch;
        links.is_empty() && results.is_empty() && self.results.is_empty()
    }
}

impl From<RecordBatch> for NewRecords {
    fn from(batch: RecordBatch) -> Self {
        let results = Vec::new();
        Self { batch, results }
    }
}

/// What is to be stored.
#[derive(Debug, Default)]
pub(super) struct Pending {
    records: Vec<NewRecords>,
    links: HashSet<Link>,
    /// Digest, output and input of the links.
    ops: HashSet<(CacheDigest, u32, u32)>,
    /// Keys that links lead to, that results have, or that listings describe.
    keys: HashSet<CacheKey>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= MOST
    }

    pub(super) fn push(&mut self, new: NewRecords) {
        let batch = &new.batch;
        for (link, target) in &batch.links {
            self.links.insert(*link);
            self.ops.insert((link.digest, link.output, link.input));
            self.keys.insert(*target);
        }
        let stored = batch.results.iter().map(|(key, _)| *key);
        let listed = batch.listings.iter().map(|(key, _)| *key);
        let to_store = new
            .results
            .iter()
            .flat_map(|(_, keys)| keys.iter().copied());
        self.keys.extend(stored.chain(listed).chain(to_store));
        self.records.push(new);
    }

    pub(super) fn has_link(&self, link: &Link) -> bool {
        self.links.contains(link)
    }

    pub(super) fn has_op(&self, digest: CacheDigest, output: u32, input: u32) -> bool {
        self.ops.contains(&(digest, output, input))
    }

    pub(super) fn has_key(&self, key: CacheKey) -> bool {
        self.keys.contains(&key)
    }

    /// Stores everything by one call of `write`. Whatever comes of it, nothing is pending then.
    pub(super) fn store(
        &mut self,
        write: impl FnOnce(WriteBody<'_>) -> Result<(), MetaError>,
    ) -> Result<(), MetaError> {
        if self.is_empty() {
            return Ok(());
        }
        let Self { mut records, .. } = std::mem::take(self);
        let mut lost = None;
        write(&mut |writer| {
            for new in &mut records {
                lost = add(new, writer)?.or(lost.take());
            }
            Ok(())
        })?;
        for (result, _) in records.iter_mut().flat_map(|new| &mut new.results) {
            result.stored();
        }
        lost.map_or(Ok(()), Err)
    }
}

/// Adds the rows of `new`. Leaves out results that cannot be kept, and returns why.
fn add(
    new: &mut NewRecords,
    writer: &mut dyn RecordWriter,
) -> Result<Option<MetaError>, MetaError> {
    let mut lost = None;
    new.results
        .retain_mut(|(result, keys)| match result.store(writer) {
            Ok(id) => {
                let rows = keys.iter().map(|&key| (key, id));
                new.batch.results.extend(rows);
                true
            }
            Err(error) => {
                lost = Some(error);
                false
            }
        });
    match lost {
        None | Some(MetaError::NoParent { .. }) => {}
        Some(error) => return Err(error),
    }
    writer.save(&new.batch)?;
    Ok(lost)
}

#[cfg(test)]
mod tests;
