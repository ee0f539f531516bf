//! Lookup of keys and results, many at a time.
//!
//! Owns [`Cache`]: the stored records behind a front that remembers links read before, as long as
//! nobody changed the records. A solve that finds everything reads one version number and its
//! results; the rest is memory. A [`Lookup`] may also look at records that were imported.
//! What solves add is stored many at a time ([`pending`](super::pending)).
//!
//! Invariant: a database that cannot be read costs hits, never a solve. Errors are remembered by
//! the [`Lookup`] for a warning, and the answer is "not found".

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;

use super::import::ImportedRecords;
use super::listing::ContentListing;
use super::pending::{NewRecords, Pending};
use crate::id::{CacheDigest, CacheKey, RecordDigest, ResultId, Selector};
use crate::meta::{Link, MetaError, RecordReader, Records};

/// Links kept in memory: at most about 30 MB, far more than a solve has.
const FRONT_LINKS: usize = 200_000;

/// Keys of one link that are enumerated. An op on a much used input has a key for each state of
/// its other inputs; those are checked one by one instead.
pub const LINK_TARGETS: usize = 32;

/// Links to one key that are exported. A key has as many as there were ways to make it.
const BACKLINKS: usize = 4096;

/// The cache records of one store. Clones share everything.
#[derive(Debug, Clone)]
pub struct Cache {
    records: Arc<dyn Records>,
    /// Locked before the records are.
    memory: Arc<Mutex<Memory>>,
}

/// What the mutex in [`Cache`] guards.
#[derive(Debug, Default)]
struct Memory {
    front: Front,
    pending: Pending,
}

/// Where a result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever loads a result has to know each place"
)]
pub enum ResultSource {
    /// In the store.
    Stored(ResultId),
    /// Elsewhere.
    Imported {
        /// By which of the imports of the solve it is known.
        import: usize,
        /// The place of its topmost layer in the imported records.
        layer: usize,
    },
}

/// A result that a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownResult {
    /// Where it is.
    pub source: ResultSource,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
}

/// What a key may be made of: one alternative for one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Backlink {
    /// The op and its output.
    pub record: RecordDigest,
    /// Which of the op's inputs.
    pub input: u32,
    /// A key of that input.
    pub dependency: CacheKey,
    /// The part of the input that counts.
    pub selector: Option<Selector>,
}

/// Links as they were at a version of the records.
#[derive(Debug, Default)]
struct Front {
    version: Option<u64>,
    links: HashMap<Link, Targets>,
}

/// The keys a link leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Targets {
    /// None.
    #[default]
    None,
    /// One.
    One(CacheKey),
    /// These.
    Few(Arc<[CacheKey]>),
    /// More than are worth enumerating: ask [`Lookup::leads_to`].
    Many,
}

impl Targets {
    /// The keys, if they were enumerated.
    pub fn as_slice(&self) -> Option<&[CacheKey]> {
        match self {
            Self::None => Some(&[]),
            Self::One(key) => Some(std::slice::from_ref(key)),
            Self::Few(keys) => Some(keys),
            Self::Many => None,
        }
    }

    fn of(keys: Vec<CacheKey>) -> Self {
        match *keys.as_slice() {
            [] => Self::None,
            [key] => Self::One(key),
            _ if keys.len() > LINK_TARGETS => Self::Many,
            _ => Self::Few(keys.into()),
        }
    }
}

impl Cache {
    /// Puts a front before `records`.
    pub fn new(records: Arc<dyn Records>) -> Self {
        Self {
            records,
            memory: Arc::default(),
        }
    }

    /// Calls `body` with a lookup that sees one state of the records throughout. `body` must not
    /// use the cache or its database otherwise.
    pub fn read<R>(&self, body: impl FnOnce(&mut Lookup<'_>) -> R) -> R {
        self.read_with(&[], body)
    }

    /// As [`Cache::read`], with imported records beside those of the store.
    pub fn read_with<R>(
        &self,
        imports: &[Arc<ImportedRecords>],
        body: impl FnOnce(&mut Lookup<'_>) -> R,
    ) -> R {
        let mut body = Some(body);
        let mut result = None;
        let mut memory = self.memory();
        let started = self.records.read(&mut |reader| {
            let mut lookup = Lookup {
                reader: Some(reader),
                memory: &mut memory,
                imports,
                error: None,
            };
            lookup.refresh();
            result = body.take().map(|body| body(&mut lookup));
        });
        if let Some(body) = body.take() {
            let mut empty = Memory::default();
            let error = started.err();
            result = Some(body(&mut Lookup {
                reader: None,
                memory: &mut empty,
                imports,
                error,
            }));
        }
        result.expect("BUG: the body was called")
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds records.
    ///
    /// # Errors
    /// The database cannot be written; hits are lost.
    pub fn save(&self, new: impl Into<NewRecords>) -> Result<(), MetaError> {
        let mut memory = self.memory();
        memory.pending.push(new.into());
        self.store(&mut memory.pending)
    }

    /// Adds records, which other processes may see no sooner than at the next
    /// [`store_deferred`](Self::store_deferred) or [`save`](Self::save).
    ///
    /// # Errors
    /// The database cannot be written; hits are lost, of these records or of others that were
    /// deferred.
    pub fn defer(&self, new: impl Into<NewRecords>) -> Result<(), MetaError> {
        let mut memory = self.memory();
        memory.pending.push(new.into());
        if !memory.pending.is_full() {
            return Ok(());
        }
        self.store(&mut memory.pending)
    }

    /// Stores what was deferred.
    ///
    /// # Errors
    /// The database cannot be written; hits are lost.
    pub fn store_deferred(&self) -> Result<(), MetaError> {
        self.store(&mut self.memory().pending)
    }

    /// Whether anything is deferred.
    pub fn has_deferred(&self) -> bool {
        !self.memory().pending.is_empty()
    }

    fn store(&self, pending: &mut Pending) -> Result<(), MetaError> {
        pending.store(|body| self.records.write(body))
    }

    /// Drops a result whose data is gone.
    ///
    /// # Errors
    /// The database cannot be written; the result is found again.
    pub fn drop_result(&self, key: CacheKey, result: ResultId) -> Result<(), MetaError> {
        // Who drops it has read it, so it is not pending.
        self.records.drop_result(key, result)
    }
}

/// One read of the cache.
#[derive(Debug)]
pub struct Lookup<'a> {
    reader: Option<&'a mut dyn RecordReader>,
    memory: &'a mut Memory,
    imports: &'a [Arc<ImportedRecords>],
    error: Option<MetaError>,
}

impl Lookup<'_> {
    fn refresh(&mut self) {
        let version = self.ask(|reader| reader.version());
        let front = &mut self.memory.front;
        if version.is_none() || front.version != version {
            front.links.clear();
            front.version = version;
        }
    }

    /// Stores what is pending, if it may be what is asked for.
    fn store_if(&mut self, concerned: impl FnOnce(&Pending) -> bool) {
        let Some(reader) = self.reader.as_deref_mut() else {
            return;
        };
        let pending = &mut self.memory.pending;
        if pending.is_empty() || !concerned(pending) {
            return;
        }
        if let Err(error) = pending.store(|body| reader.write(body)) {
            self.error.get_or_insert(error);
        }
        self.refresh();
    }

    fn ask<R>(
        &mut self,
        question: impl FnOnce(&mut dyn RecordReader) -> Result<R, MetaError>,
    ) -> Option<R> {
        match question(&mut **self.reader.as_mut()?) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// The keys that `link` leads to in the store.
    pub fn targets(&mut self, link: &Link) -> Targets {
        self.store_if(|pending| pending.has_link(link));
        if let Some(known) = self.memory.front.links.get(link) {
            return known.clone();
        }
        let mut keys = Vec::new();
        let Some(()) = self.ask(|reader| reader.targets(link, LINK_TARGETS + 1, &mut keys)) else {
            return Targets::None;
        };
        let targets = Targets::of(keys);
        if self.memory.front.links.len() >= FRONT_LINKS {
            self.memory.front.links.clear();
        }
        self.memory.front.links.insert(*link, targets.clone());
        targets
    }

    /// Adds the keys that `link` leads to in imported records.
    pub fn imported_targets(&self, link: &Link, targets: &mut Vec<CacheKey>) {
        if self.imports.is_empty() {
            return;
        }
        let record = RecordDigest::new(link.digest, link.output);
        for import in self.imports {
            targets.extend(import.targets(record, link.input, link.dependency, link.selector));
        }
    }

    /// Whether `link` leads to `target` in the store.
    pub fn leads_to(&mut self, link: &Link, target: CacheKey) -> bool {
        self.store_if(|pending| pending.has_link(link));
        if let Some(known) = self
            .memory
            .front
            .links
            .get(link)
            .and_then(Targets::as_slice)
        {
            return known.contains(&target);
        }
        self.ask(|reader| reader.leads_to(link, target))
            .unwrap_or(false)
    }

    /// Whether any import has a record of `target`.
    pub fn is_imported(&self, target: CacheKey) -> bool {
        let mut imports = self.imports.iter();
        imports.any(|import| import.has(target))
    }

    /// The results of `key`: those of the store, the newest first, then imported ones, the newest
    /// first.
    pub fn results(&mut self, key: CacheKey) -> Vec<KnownResult> {
        self.store_if(|pending| pending.has_key(key));
        let stored = self.ask(|reader| reader.results(key)).unwrap_or_default();
        let stored = stored.into_iter().map(|row| KnownResult {
            source: ResultSource::Stored(row.result),
            created_at: row.created_at,
        });
        let mut results: Vec<KnownResult> = stored.collect();
        let first = results.len();
        for (number, import) in self.imports.iter().enumerate() {
            results.extend(import.results(key).map(|result| KnownResult {
                source: ResultSource::Imported {
                    import: number,
                    layer: result.layer,
                },
                created_at: result.created_at,
            }));
        }
        results[first..].sort_by_key(|result| std::cmp::Reverse(result.created_at));
        results
    }

    /// What `key` may be made of, as far as the store and the imports know; for each way the
    /// first few thousand.
    pub fn sources(&mut self, key: CacheKey) -> Vec<Backlink> {
        self.store_if(|pending| pending.has_key(key));
        let mut links = Vec::new();
        let _error_is_kept = self.ask(|reader| reader.sources(key, BACKLINKS, &mut links));
        let of_store = |link: Link| Backlink {
            record: RecordDigest::new(link.digest, link.output),
            input: link.input,
            dependency: link.dependency,
            selector: link.selector,
        };
        let mut sources: Vec<Backlink> = links.into_iter().map(of_store).collect();
        for import in self.imports {
            sources.extend(import.sources(key));
        }
        sources
    }

    /// Whether the op was seen before, with whatever is its `input`th input.
    pub fn seen(&mut self, digest: CacheDigest, output: u32, input: u32) -> bool {
        self.store_if(|pending| pending.has_op(digest, output, input));
        let stored = self.ask(|reader| reader.seen(digest, output, input));
        stored.unwrap_or(false)
            || !self.imports.is_empty() && {
                let record = RecordDigest::new(digest, output);
                let mut imports = self.imports.iter();
                imports.any(|import| import.seen(record, input))
            }
    }

    /// Of the newest stored result of an op the links of its `input`th input.
    pub fn latest(&mut self, digest: CacheDigest, output: u32, input: u32) -> Vec<Link> {
        self.store_if(|pending| pending.has_op(digest, output, input));
        self.ask(|reader| reader.latest(digest, output, input))
            .unwrap_or_default()
    }

    /// What is remembered of the content that a key stands for.
    pub fn listing(&mut self, content: CacheKey) -> Option<ContentListing> {
        self.store_if(|pending| pending.has_key(content));
        let bytes = self.ask(|reader| reader.listing(content))??;
        ContentListing::decode(&bytes)
    }

    /// The first error since the lookup began, once.
    pub fn take_error(&mut self) -> Option<MetaError> {
        self.error.take()
    }
}
