//! The state of one solve, and the rules by which it moves: no I/O, no waiting.
//!
//! Owns every decision: what a vertex's keys are, whether it is in the cache, which values are
//! needed, what runs. [`Build::settle`] works off a queue of small steps until nothing more
//! follows from what is known; what has to be done outside comes out as [`Action`]s, and what was
//! done comes back as an [`Event`].
//!
//! The stages of a vertex:
//! 1. *Fast* (this file): once its cache map is known and all inputs passed this stage, its keys
//!    are looked up by the inputs' definition keys. It goes over the whole graph at once.
//! 2. *Slow* (`slow.rs`): only where somebody needs better keys. Inputs' keys are made final, and
//!    content digests are computed, those of inputs that did not match first.
//! 3. *Value* (`value.rs`): only where somebody needs the result. A stored result is loaded, or
//!    the inputs' values are collected and the vertex runs.
//!
//! Invariants: a step touches one vertex and queues the rest, so depth is no concern; counters
//! say when a stage ends, so no step looks at all inputs each time one changes.

use std::collections::{HashMap, VecDeque};

use super::graph::{Edge, Graph};
use super::report::{Output, SolveError};
use super::state::{
    Content, EdgeState, Fate, Found, InputState, Key, Level, MOST_KEYS, VertexState,
};
use super::{VertexReport, VertexStatus};
use crate::cache::{
    ContentChanges, InputPart, KnownResult, Link, Lookup, MissReason, RecordBatch, SolvedEdge,
    SolvedKeys, SolvedValue, SolvedVertex,
};
use crate::id::{CacheDigest, CacheKey, ContentDigest, Selector};
use crate::operation::CacheMap;

/// One small piece of deciding.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// All that the fast stage of a vertex waits for is there.
    Fast(usize),
    /// Somebody needs better keys of a vertex.
    WantSlow(usize),
    /// The keys of an input of a vertex are final.
    InputSettled(usize, usize),
    /// Some output of a vertex is wanted, or may be had now.
    Value(usize),
    /// An input of a vertex has its value.
    InputValue(usize, usize),
    /// All inputs of a vertex that is to run are there.
    Ready(usize),
}

/// What is to be done outside.
#[derive(Debug)]
pub(super) enum Action<T> {
    /// Ask for a cache map.
    CacheMap { vertex: usize, index: usize },
    /// Load a stored result.
    Load {
        vertex: usize,
        slot: usize,
        key: CacheKey,
        result: KnownResult,
    },
    /// Compute the content digest of an input.
    Content {
        vertex: usize,
        input: usize,
        value: T,
    },
    /// Run a vertex.
    Run(RunRequest<T>),
    /// Store records that were learnt without a run.
    Learn(RecordBatch),
}

/// A vertex with all it needs to run.
#[derive(Debug)]
pub(super) struct RunRequest<T> {
    pub vertex: usize,
    pub digest: CacheDigest,
    pub inputs: Vec<T>,
    /// What the key is made of; `None` for an input whose content is told after the run.
    pub parts: Vec<Option<InputPart>>,
    /// All keys of all inputs that may be stored: input, key, selector.
    pub dependencies: Vec<(u32, CacheKey, Option<Selector>)>,
    /// The digests of all cache maps, if there are no inputs.
    pub digests: Vec<CacheDigest>,
    /// The outputs, one per edge.
    pub outputs: Vec<u32>,
    /// Which of them are wanted.
    pub wanted: Vec<bool>,
    /// The key is not good beyond this solve.
    pub volatile: bool,
    /// Run even if another solve just did.
    pub forced: bool,
    /// The inputs that the op is keyed by the content of.
    pub by_content: Vec<usize>,
    /// An input whose content is another, and the key of what it was.
    pub changed: Option<(usize, CacheKey)>,
}

/// What was done outside.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// A cache map; `None` if there is no further one.
    CacheMap {
        vertex: usize,
        map: Option<CacheMap>,
    },
    /// A stored result, or that it is gone.
    Loaded {
        vertex: usize,
        slot: usize,
        key: CacheKey,
        result: KnownResult,
        value: Option<T>,
    },
    /// The content digest of an input.
    Content {
        vertex: usize,
        input: usize,
        digest: ContentDigest,
    },
    /// The values of a vertex, one per edge, those that were wanted present.
    Ran {
        vertex: usize,
        values: Vec<Option<T>>,
        /// The contents of inputs that were not known before.
        contents: Vec<(usize, ContentDigest)>,
        /// How the content that is another differs.
        changes: Option<ContentChanges>,
        shared: bool,
        /// The values are good for this solve only.
        confined: bool,
    },
}

/// The state of one solve.
#[derive(Debug)]
pub(super) struct Build<T> {
    pub(super) vertices: Vec<VertexState<T>>,
    /// The reachable vertices, inputs first.
    pub(super) order: Vec<usize>,
    /// Vertex and slot of each requested output.
    pub(super) outputs: Vec<(usize, usize)>,
    /// Edges that the caller asked for and that have no value.
    pub(super) outstanding: usize,
    pub(super) queue: VecDeque<Step>,
    pub(super) actions: Vec<Action<T>>,
}

impl<T: Clone> Build<T> {
    /// Takes the part of `graph` that `outputs` need.
    pub(super) fn new(graph: &Graph<T>, outputs: &[Edge]) -> Result<Self, SolveError> {
        let order = graph.reachable(outputs)?;
        let mut vertices: Vec<VertexState<T>> = graph
            .vertices
            .iter()
            .map(|vertex| VertexState::new(vertex.ignore_cache))
            .collect();
        let mut slots = HashMap::with_capacity(order.len());
        let mut slot = |vertices: &mut Vec<VertexState<T>>, edge: Edge| {
            *slots.entry(edge).or_insert_with(|| {
                vertices[edge.vertex]
                    .edges
                    .push(EdgeState::new(edge.output));
                vertices[edge.vertex].edges.len() - 1
            })
        };
        for &at in &order {
            let inputs = &graph.vertices[at].inputs;
            vertices[at].reachable = true;
            vertices[at].pending = inputs.len() + 1;
            vertices[at].inputs.reserve_exact(inputs.len());
            for (input, &edge) in inputs.iter().enumerate() {
                let slot = slot(&mut vertices, edge);
                vertices[edge.vertex].consumers.push((at, input));
                vertices[at].inputs.push(InputState {
                    vertex: edge.vertex,
                    slot,
                    found: Vec::new(),
                    settled: false,
                    content: Content::NotAsked,
                    counted: false,
                    supplied: false,
                });
            }
        }
        let outputs: Vec<_> = outputs
            .iter()
            .map(|&edge| (edge.vertex, slot(&mut vertices, edge)))
            .collect();
        let actions = order
            .iter()
            .map(|&vertex| Action::CacheMap { vertex, index: 0 })
            .collect();
        let mut build = Self {
            vertices,
            order,
            outputs,
            outstanding: 0,
            queue: VecDeque::new(),
            actions,
        };
        for at in 0..build.outputs.len() {
            let (vertex, slot) = build.outputs[at];
            let edge = &mut build.vertices[vertex].edges[slot];
            if !edge.requested {
                edge.requested = true;
                build.outstanding += 1;
            }
            build.want_value(vertex, slot);
        }
        Ok(build)
    }

    /// Decides all that follows from what is known.
    pub(super) fn settle(&mut self, lookup: &mut Lookup<'_>) {
        while let Some(step) = self.queue.pop_front() {
            match step {
                Step::Fast(vertex) => self.fast(vertex, lookup),
                Step::WantSlow(vertex) => self.want_slow(vertex),
                Step::InputSettled(vertex, input) => self.input_settled(vertex, input, lookup),
                Step::Value(vertex) => self.value(vertex, lookup),
                Step::InputValue(vertex, input) => self.input_value(vertex, input),
                Step::Ready(vertex) => self.ready(vertex, lookup),
            }
        }
    }

    /// Takes in what was done outside. Deciding what follows is left to [`settle`](Self::settle),
    /// except for what needs `lookup` at once.
    pub(super) fn apply(&mut self, event: Event<T>, lookup: &mut Lookup<'_>) {
        match event {
            Event::CacheMap { vertex, map } => self.cache_map(vertex, map),
            Event::Loaded {
                vertex,
                slot,
                key,
                value,
                result,
            } => {
                self.loaded(vertex, slot, key, result, value, lookup);
            }
            Event::Content {
                vertex,
                input,
                digest,
            } => {
                self.content(vertex, input, digest, lookup);
            }
            Event::Ran {
                vertex,
                values,
                contents,
                changes,
                shared,
                confined,
            } => {
                let fate = match (shared, confined) {
                    (true, _) => Fate::Shared,
                    (false, true) => Fate::Looked,
                    (false, false) => Fate::Ran,
                };
                self.ran(vertex, values, &contents, changes, fate);
            }
        }
    }

    /// Takes a cache map: the first one, or a further one of a vertex without inputs.
    fn cache_map(&mut self, vertex: usize, map: Option<CacheMap>) {
        let state = &mut self.vertices[vertex];
        if state.map.is_none() {
            if let Some(map) = map {
                if map.inputs.is_empty() {
                    state.digests.push(map.digest);
                }
                state.map = Some(map);
                self.less_pending(vertex);
            }
            return;
        }
        let mut further = false;
        if let Some(map) = map {
            further = map.further && state.digests.len() < MOST_KEYS;
            state.digests.push(map.digest);
            for edge in &mut state.edges {
                let id = CacheKey::root(map.digest, edge.output);
                edge.add_key(Key {
                    id,
                    volatile: map.volatile,
                });
            }
        }
        if further {
            self.actions.push(Action::CacheMap {
                vertex,
                index: self.vertices[vertex].digests.len(),
            });
        } else {
            self.finish_slow(vertex);
        }
    }

    fn less_pending(&mut self, vertex: usize) {
        let state = &mut self.vertices[vertex];
        state.pending -= 1;
        if state.pending == 0 {
            self.queue.push_back(Step::Fast(vertex));
        }
    }

    /// The fast stage: keys by definition.
    fn fast(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let state = &mut self.vertices[vertex];
        let map = state
            .map
            .as_ref()
            .expect("BUG: the fast stage waits for the cache map");
        let (digest, volatile, further) = (map.digest, map.volatile, map.further);
        let by_content = map.inputs.iter().any(|input| input.content);
        if state.ignore_cache {
            state.forced = true;
            self.reach(vertex, Level::Slow);
        } else if state.inputs.is_empty() {
            for edge in &mut state.edges {
                edge.add_key(Key {
                    id: CacheKey::root(digest, edge.output),
                    volatile,
                });
            }
            self.reach(vertex, if further { Level::Fast } else { Level::Slow });
        } else if volatile || self.match_by_definition(vertex, lookup) {
            self.reach(vertex, Level::Slow);
        } else {
            let inputs = &self.vertices[vertex].inputs;
            let all_final = inputs
                .iter()
                .all(|input| self.vertices[input.vertex].is_final(input.slot));
            let hopeless = all_final && !by_content;
            self.reach(vertex, if hopeless { Level::Slow } else { Level::Fast });
        }
    }

    /// Looks up all edges by the keys of all inputs; true if every edge was found.
    fn match_by_definition(&mut self, vertex: usize, lookup: &mut Lookup<'_>) -> bool {
        let state = &self.vertices[vertex];
        let usable = |input: &InputState| {
            let keys = &self.vertices[input.vertex].edges[input.slot].keys;
            keys.iter().any(|key| !key.volatile)
        };
        // One input without a key spoils it for all; then the others need no lookup yet.
        if !state.inputs.iter().all(usable) {
            return false;
        }
        for input in 0..state.inputs.len() {
            if !self.look_up_input(vertex, input, lookup) {
                return false;
            }
        }
        self.match_edges(vertex, lookup)
    }

    /// Follows the links from all known keys of an input; true if they lead anywhere.
    pub(super) fn look_up_input(
        &mut self,
        vertex: usize,
        input: usize,
        lookup: &mut Lookup<'_>,
    ) -> bool {
        let state = &self.vertices[vertex];
        let mut any = false;
        let mut all = Vec::with_capacity(state.edges.len());
        for edge in &state.edges {
            let mut found = Found::default();
            for link in self.links(vertex, input, edge.output) {
                match lookup.targets(&link).as_slice() {
                    None => found.many = true,
                    Some(keys) => {
                        found.keys.extend(keys);
                    }
                }
                lookup.imported_targets(&link, &mut found.keys);
            }
            any |= found.many || !found.keys.is_empty();
            all.push(found);
        }
        self.vertices[vertex].inputs[input].found = all;
        any
    }

    /// The links from all storable keys of an input to an output of the vertex.
    pub(super) fn links(
        &self,
        vertex: usize,
        input: usize,
        output: u32,
    ) -> impl Iterator<Item = Link> + '_ {
        let state = &self.vertices[vertex];
        let map = state
            .map
            .as_ref()
            .expect("BUG: links are followed with a cache map");
        let digest = map.digest;
        self.dependencies(vertex, input)
            .map(move |(input, dependency, selector)| Link {
                digest,
                output,
                input,
                dependency,
                selector,
            })
    }

    /// All keys of an input that may be stored, with their selectors.
    pub(super) fn dependencies(
        &self,
        vertex: usize,
        input: usize,
    ) -> impl Iterator<Item = (u32, CacheKey, Option<Selector>)> + '_ {
        let state = &self.vertices[vertex];
        let map = state
            .map
            .as_ref()
            .expect("BUG: links are followed with a cache map");
        let selector = map.inputs[input].selector;
        let from = &state.inputs[input];
        let content = match from.content {
            Content::Known(digest) => Some((CacheKey::content(digest), None)),
            _ => None,
        };
        let number = u32::try_from(input).unwrap_or(u32::MAX);
        let edge = &self.vertices[from.vertex].edges[from.slot];
        let by_definition = edge.keys.iter().filter(|key| !key.volatile);
        by_definition
            .map(move |key| (key.id, selector))
            .chain(content)
            .map(move |(key, selector)| (number, key, selector))
    }

    /// Matches the edges that are not matched; true if none is left. Every input was looked up.
    pub(super) fn match_edges(&mut self, vertex: usize, lookup: &mut Lookup<'_>) -> bool {
        let mut all = true;
        for slot in 0..self.vertices[vertex].edges.len() {
            if self.vertices[vertex].edges[slot].matched {
                continue;
            }
            let keys = self.common_targets(vertex, slot, lookup);
            let edge = &mut self.vertices[vertex].edges[slot];
            edge.matched = !keys.is_empty();
            all &= edge.matched;
            for id in keys {
                edge.add_key(Key {
                    id,
                    volatile: false,
                });
            }
        }
        all
    }

    /// The keys that links from every input lead to.
    fn common_targets(&self, vertex: usize, slot: usize, lookup: &mut Lookup<'_>) -> Vec<CacheKey> {
        let state = &self.vertices[vertex];
        let found = |input: usize| state.inputs[input].found.get(slot);
        let enumerated = (0..state.inputs.len())
            .filter_map(|input| found(input).filter(|found| !found.many))
            .min_by_key(|found| found.keys.len());
        let mut keys = match enumerated {
            Some(found) => found.keys.clone(),
            // Every input has more links than are worth reading. The key that we would give to
            // these very inputs is the one to expect, beside imported ones.
            None => {
                let imported = found(0)
                    .into_iter()
                    .flat_map(|found| found.keys.iter().copied());
                imported.chain(self.expected_key(vertex, slot)).collect()
            }
        };
        keys.retain(|&key| {
            (0..state.inputs.len()).all(|input| {
                found(input).is_some_and(|found| {
                    found.keys.contains(&key)
                        || found.many
                            && self
                                .links(vertex, input, state.edges[slot].output)
                                .any(|link| lookup.leads_to(&link, key))
                })
            })
        });
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn expected_key(&self, vertex: usize, slot: usize) -> Option<CacheKey> {
        let state = &self.vertices[vertex];
        let parts: Option<Vec<_>> = (0..state.inputs.len())
            .map(|input| {
                let mut all = self.dependencies(vertex, input);
                let (_, key, selector) = if state.by_content(input) {
                    all.last()
                } else {
                    all.next()
                }?;
                Some(InputPart::new(key, selector))
            })
            .collect();
        let digest = state.map.as_ref()?.digest;
        Some(CacheKey::derive(digest, state.edges[slot].output, &parts?))
    }

    /// Raises the level of a vertex and tells those who wait for it.
    pub(super) fn reach(&mut self, vertex: usize, level: Level) {
        let state = &mut self.vertices[vertex];
        let before = std::mem::replace(&mut state.level, level);
        if before == Level::None {
            let consumers = std::mem::take(&mut self.vertices[vertex].consumers);
            for &(consumer, _) in &consumers {
                self.less_pending(consumer);
            }
            self.vertices[vertex].consumers = consumers;
        }
        let state = &self.vertices[vertex];
        if level == Level::Slow && before < level {
            for &(consumer, input) in &state.consumers {
                if self.vertices[consumer].slow.is_some() {
                    self.queue.push_back(Step::InputSettled(consumer, input));
                }
            }
        }
        if state.slow_wanted && level < Level::Slow {
            self.queue.push_back(Step::WantSlow(vertex));
        }
        if state.edges.iter().any(|edge| edge.wanted) {
            self.queue.push_back(Step::Value(vertex));
        }
    }

    /// Whether the key of a vertex is its op's alone and good for this solve only.
    pub(super) fn is_volatile(&self, vertex: usize) -> bool {
        self.vertices[vertex]
            .map
            .as_ref()
            .is_some_and(|map| map.volatile)
    }

    /// What became of each vertex.
    pub(super) fn report(&self) -> Vec<VertexReport> {
        let report = |state: &VertexState<T>| {
            let status = match state.fate {
                _ if !state.reachable => VertexStatus::Unreachable,
                Fate::Open | Fate::Loaded => VertexStatus::Cached,
                Fate::Shared => VertexStatus::Shared,
                Fate::Looked => VertexStatus::Looked,
                Fate::Ran if state.map.as_ref().is_some_and(|map| map.volatile) => {
                    VertexStatus::Looked
                }
                Fate::Ran => {
                    let miss = state.miss.clone();
                    VertexStatus::Ran(miss.unwrap_or(MissReason::NeverSeen))
                }
            };
            let key = state
                .edges
                .iter()
                .find_map(|edge| edge.canonical.or_else(|| edge.keys.first().copied()));
            VertexReport {
                status,
                key: key.map(|key| key.id),
                volatile: key.is_some_and(|key| key.volatile),
            }
        };
        self.vertices.iter().map(report).collect()
    }

    /// What is known of the outputs of all vertices.
    pub(super) fn known_outputs(&self) -> Vec<Output<T>>
    where
        T: Clone,
    {
        let of = |(vertex, state): (usize, &VertexState<T>)| {
            let known = state.edges.iter().map(move |edge| {
                let key = edge.canonical.or_else(|| edge.keys.first().copied());
                Output {
                    vertex,
                    output: edge.output,
                    key: key.filter(|key| !key.volatile).map(|key| key.id),
                    value: edge.value.clone(),
                }
            });
            known.collect::<Vec<_>>()
        };
        let outputs = self.vertices.iter().enumerate().flat_map(of);
        outputs
            .filter(|output| output.key.is_some() || output.value.is_some())
            .collect()
    }

    /// Lets go of results that are never exported: those of vertices without inputs.
    pub(super) fn forget_sources(&mut self) {
        let sources = self.vertices.iter_mut();
        let sources = sources.filter(|state| state.inputs.is_empty());
        for edge in sources.flat_map(|state| &mut state.edges) {
            edge.value = None;
        }
    }

    /// The keys and values of all vertices.
    pub(super) fn keys(&self) -> SolvedKeys<T> {
        let edge = |edge: &EdgeState<T>| {
            let good = edge.keys.iter().filter(|key| !key.volatile);
            let canonical = edge.canonical.filter(|key| !key.volatile);
            SolvedEdge {
                keys: good.map(|key| key.id).collect(),
                value: edge.value.as_ref().map(|value| SolvedValue {
                    key: canonical.map(|key| key.id),
                    value: value.clone(),
                    created_at: edge.created_at,
                }),
            }
        };
        let content = |input: &InputState| match input.content {
            Content::Known(digest) => Some(CacheKey::content(digest)),
            _ => None,
        };
        let vertex = |state: &VertexState<T>| SolvedVertex {
            inputs: state
                .inputs
                .iter()
                .map(|input| (input.vertex, input.slot))
                .collect(),
            contents: state.inputs.iter().filter_map(content).collect(),
            edges: state.edges.iter().map(edge).collect(),
            export: None,
        };
        SolvedKeys {
            vertices: self.vertices.iter().map(vertex).collect(),
            outputs: self.outputs.clone(),
            imports: Vec::new(),
        }
    }
}
