//! What the scheduler knows of each vertex while a solve runs.

use crate::cache::{InputPart, KnownResult, Lookup, MissReason, ResultSource};
use crate::id::{CacheDigest, CacheKey, ContentDigest};
use crate::operation::CacheMap;

/// A key, and whether it is good for this solve only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub id: CacheKey,
    pub volatile: bool,
}

/// How much is known of a vertex's keys. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Level {
    /// Nothing.
    #[default]
    None,
    /// What follows from definitions alone.
    Fast,
    /// All that can be known without running the vertex. No keys: it has to run.
    Slow,
}

/// One output of a vertex that somebody may ask for.
#[derive(Debug)]
pub(super) struct EdgeState<T> {
    pub output: u32,
    /// Keys that stand for this output, best known last.
    pub keys: Vec<Key>,
    /// The keys were found in the cache.
    pub matched: bool,
    /// How many of `keys` were looked up for results.
    pub looked: usize,
    /// Results to try, the best one last.
    pub records: Vec<Record>,
    pub wanted: bool,
    pub loading: bool,
    /// The caller asked for this output.
    pub requested: bool,
    pub value: Option<T>,
    /// The key under which `value` was loaded or stored.
    pub canonical: Option<Key>,
    /// When `value` was made, if it was loaded.
    pub created_at: Option<i64>,
}

impl<T> EdgeState<T> {
    pub(super) fn new(output: u32) -> Self {
        Self {
            output,
            keys: Vec::new(),
            matched: false,
            looked: 0,
            records: Vec::new(),
            wanted: false,
            loading: false,
            requested: false,
            value: None,
            canonical: None,
            created_at: None,
        }
    }

    pub(super) fn add_key(&mut self, key: Key) {
        if self.keys.len() < MOST_KEYS && !self.keys.iter().any(|known| known.id == key.id) {
            self.keys.push(key);
        }
    }
}

/// Keys kept for one output. More than a few come only of ops that are not reproducible; each
/// key beyond the newest is one more chance of a hit, and one more lookup.
pub(super) const MOST_KEYS: usize = 16;

/// A result that may serve.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub key: CacheKey,
    pub result: KnownResult,
}

impl Record {
    /// The better of two is the greater: what the store has, then what is newer.
    pub(super) fn rank(&self) -> (bool, i64) {
        let stored = matches!(self.result.source, ResultSource::Stored(_));
        (stored, self.result.created_at)
    }
}

/// The content digest of an input, on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Content {
    #[default]
    NotAsked,
    /// Waiting for the input's value.
    Wanted,
    Computing,
    Known(ContentDigest),
    /// Computed after the run: no record knows the op, so nothing can be found by content.
    Deferred,
}

/// Keys that the links from one input lead to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub keys: Vec<CacheKey>,
    /// There are more than were enumerated.
    pub many: bool,
}

/// One input of a vertex.
#[derive(Debug)]
pub(super) struct InputState {
    /// The vertex it comes from, and which of that vertex's edges.
    pub vertex: usize,
    pub slot: usize,
    /// Where the links from its keys lead, per edge of this vertex.
    pub found: Vec<Found>,
    /// Its keys were looked up in the slow stage.
    pub settled: bool,
    pub content: Content,
    /// The slow stage waits for the content.
    pub counted: bool,
    /// The run stage has what it needs of it.
    pub supplied: bool,
}

/// The slow stage: everything is tried that could give a key without running the vertex.
#[derive(Debug)]
pub(super) struct SlowStage {
    /// Inputs whose keys are not settled.
    pub keys: usize,
    /// Content digests that were asked for and are not known.
    pub contents: usize,
    /// Content was asked for even of inputs whose definition keys are known.
    pub thorough: bool,
}

/// The run stage: the inputs' values are collected, then the vertex runs.
#[derive(Debug)]
pub(super) struct RunStage {
    /// Inputs not yet supplied.
    pub missing: usize,
    /// Set when all inputs are there.
    pub ready: Option<Ready>,
    pub started: bool,
}

/// What is known when all inputs are there.
#[derive(Debug)]
pub(super) struct Ready {
    /// `None` for an input whose content is told after the run.
    pub parts: Vec<Option<InputPart>>,
    pub volatile: bool,
}

/// What became of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Fate {
    #[default]
    Open,
    Loaded,
    Ran,
    /// It ran, and what it made is good for this solve only.
    Looked,
    Shared,
}

/// One vertex.
#[derive(Debug)]
pub(super) struct VertexState<T> {
    pub reachable: bool,
    pub ignore_cache: bool,
    pub map: Option<CacheMap>,
    /// The digests of all cache maps of a vertex without inputs.
    pub digests: Vec<CacheDigest>,
    pub inputs: Vec<InputState>,
    pub edges: Vec<EdgeState<T>>,
    /// Who uses it: vertex, and which of that vertex's inputs.
    pub consumers: Vec<(usize, usize)>,
    /// The own cache map and inputs that are not at [`Level::Fast`].
    pub pending: usize,
    pub level: Level,
    pub slow_wanted: bool,
    pub slow: Option<SlowStage>,
    pub run: Option<RunStage>,
    /// It must not be matched by definition: it, or what it is made of, ignores the cache.
    pub forced: bool,
    pub miss: Option<MissReason>,
    pub fate: Fate,
    /// The links to its keys are in the store, or on their way there.
    pub adopted: bool,
}

impl<T> VertexState<T> {
    pub(super) fn new(ignore_cache: bool) -> Self {
        Self {
            reachable: false,
            ignore_cache,
            map: None,
            digests: Vec::new(),
            inputs: Vec::new(),
            edges: Vec::new(),
            consumers: Vec::new(),
            pending: 0,
            level: Level::None,
            slow_wanted: false,
            slow: None,
            run: None,
            forced: false,
            miss: None,
            fate: Fate::Open,
            adopted: false,
        }
    }

    /// Whether the keys of an edge will not change any more.
    pub(super) fn is_final(&self, slot: usize) -> bool {
        self.level == Level::Slow || self.edges[slot].matched
    }

    /// Whether the op is keyed by the content of an input.
    pub(super) fn by_content(&self, input: usize) -> bool {
        self.map
            .as_ref()
            .is_some_and(|map| map.inputs[input].content)
    }

    /// Whether the content of an input may be told after the run instead of before.
    pub(super) fn may_defer(&self, input: usize) -> bool {
        let key = self.map.as_ref().map(|map| map.inputs[input]);
        key.is_some_and(|key| key.content && key.deferrable)
            && self.inputs[input].content == Content::NotAsked
    }

    /// Whether no record knows the op with anything as this input: its content finds nothing.
    pub(super) fn never_seen(&self, input: usize, lookup: &mut Lookup<'_>) -> bool {
        let (Some(map), Ok(input)) = (&self.map, u32::try_from(input)) else {
            return false;
        };
        let seen = |edge: &EdgeState<T>| lookup.seen(map.digest, edge.output, input);
        !self.edges.iter().any(seen)
    }
}
