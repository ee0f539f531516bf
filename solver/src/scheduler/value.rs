//! The value stage: stored results are loaded, other vertices run.

use super::build::{Action, Build, RunRequest, Step};
use super::state::{Content, Fate, Key, Level, Ready, Record, RunStage};
use crate::cache::{
    ContentChanges, InputPart, KnownResult, Lookup, MissReason, RecordBatch, ResultSource,
};
use crate::id::{CacheKey, ContentDigest};

impl<T: Clone> Build<T> {
    /// Asks for the value of an edge, once.
    pub(super) fn want_value(&mut self, vertex: usize, slot: usize) {
        let edge = &mut self.vertices[vertex].edges[slot];
        if !std::mem::replace(&mut edge.wanted, true) {
            self.queue.push_back(Step::Value(vertex));
        }
    }

    /// Takes the next step towards the wanted values of a vertex.
    pub(super) fn value(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let state = &mut self.vertices[vertex];
        if state.level == Level::None || state.run.as_ref().is_some_and(|run| run.started) {
            return;
        }
        let mut lacking = false;
        let mut hope = false;
        for (slot, edge) in state.edges.iter_mut().enumerate() {
            if !edge.wanted || edge.loading || edge.value.is_some() {
                continue;
            }
            let known = edge.looked;
            for key in edge.keys.iter().skip(known).filter(|key| !key.volatile) {
                let found = lookup.results(key.id).into_iter();
                edge.records.extend(found.map(|result| Record {
                    key: key.id,
                    result,
                }));
            }
            edge.looked = edge.keys.len();
            if edge.looked > known {
                edge.records.sort_by_key(Record::rank);
            }
            if let Some(Record { key, result }) = edge.records.pop() {
                edge.loading = true;
                self.actions.push(Action::Load {
                    vertex,
                    slot,
                    key,
                    result,
                });
            } else {
                lacking = true;
                hope |= !edge.matched;
            }
        }
        if !lacking {
            return;
        }
        if hope && state.level < Level::Slow {
            self.want_slow(vertex);
        } else if state.run.as_ref().is_some_and(|run| run.ready.is_some()) {
            self.launch(vertex);
        } else {
            self.begin_run(vertex, lookup);
        }
    }

    /// Takes a loaded value, or that it is gone.
    pub(super) fn loaded(
        &mut self,
        vertex: usize,
        slot: usize,
        key: CacheKey,
        result: KnownResult,
        value: Option<T>,
        lookup: &mut Lookup<'_>,
    ) {
        let state = &mut self.vertices[vertex];
        state.edges[slot].loading = false;
        let Some(value) = value else {
            state.miss = Some(MissReason::DataGone);
            self.queue.push_back(Step::Value(vertex));
            return;
        };
        if state.fate == Fate::Open {
            state.fate = Fate::Loaded;
        }
        state.edges[slot].created_at = Some(result.created_at);
        if state.inputs.is_empty()
            && let ResultSource::Stored(result) = result.source
            && state.edges[slot]
                .keys
                .first()
                .is_some_and(|first| first.id != key)
        {
            // Found under a further key: the next solve finds it under the first.
            let others = state.edges[slot]
                .keys
                .iter()
                .filter(|other| other.id != key);
            let results = others
                .filter(|key| !key.volatile)
                .map(|key| (key.id, result))
                .collect();
            self.actions.push(Action::Learn(RecordBatch {
                results,
                ..RecordBatch::default()
            }));
        }
        if matches!(result.source, ResultSource::Imported { .. }) {
            self.adopt(vertex, lookup);
        }
        self.supply(
            vertex,
            slot,
            Key {
                id: key,
                volatile: false,
            },
            value,
        );
    }

    /// Stores the links to the imported keys of a vertex and all that it is made of, so that what
    /// was loaded is found again without the import.
    fn adopt(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let mut batch = RecordBatch::default();
        let mut todo = vec![vertex];
        while let Some(vertex) = todo.pop() {
            if std::mem::replace(&mut self.vertices[vertex].adopted, true) {
                continue;
            }
            let state = &self.vertices[vertex];
            todo.extend(state.inputs.iter().map(|input| input.vertex));
            if state.inputs.is_empty() {
                continue;
            }
            for edge in &state.edges {
                let imported = |key: &&Key| !key.volatile && lookup.is_imported(key.id);
                let targets: Vec<CacheKey> = edge
                    .keys
                    .iter()
                    .filter(imported)
                    .map(|key| key.id)
                    .collect();
                for target in targets {
                    for input in 0..state.inputs.len() {
                        for link in self.links(vertex, input, edge.output) {
                            if !lookup.leads_to(&link, target) {
                                batch.links.push((link, target));
                            }
                        }
                    }
                }
            }
        }
        if !batch.links.is_empty() {
            self.actions.push(Action::Learn(batch));
        }
    }

    /// Sets the value of an edge and tells those who wait for it.
    fn supply(&mut self, vertex: usize, slot: usize, key: Key, value: T) {
        let edge = &mut self.vertices[vertex].edges[slot];
        if edge.value.is_some() {
            return;
        }
        edge.value = Some(value);
        edge.canonical = Some(key);
        if edge.requested {
            self.outstanding -= 1;
        }
        for &(consumer, input) in &self.vertices[vertex].consumers {
            let state = &self.vertices[consumer];
            let waits = state.run.is_some() || state.inputs[input].content == Content::Wanted;
            if waits && state.inputs[input].slot == slot {
                self.queue.push_back(Step::InputValue(consumer, input));
            }
        }
    }

    /// Begins to collect the inputs of a vertex that has to run.
    fn begin_run(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let state = &mut self.vertices[vertex];
        if state.run.is_some() {
            return;
        }
        let missing = state.inputs.len();
        state.run = Some(RunStage {
            missing,
            ready: None,
            started: false,
        });
        if missing == 0 {
            self.queue.push_back(Step::Ready(vertex));
        }
        for input in 0..missing {
            let state = &mut self.vertices[vertex];
            if state.may_defer(input) && state.never_seen(input, lookup) {
                state.inputs[input].content = Content::Deferred;
            }
            let state = &self.vertices[vertex].inputs[input];
            self.want_value(state.vertex, state.slot);
            self.queue.push_back(Step::InputValue(vertex, input));
        }
    }

    /// An input may have its value: asks for its content digest, or counts it as supplied.
    pub(super) fn input_value(&mut self, vertex: usize, input: usize) {
        let state = &self.vertices[vertex];
        let from = &state.inputs[input];
        let Some(value) = &self.vertices[from.vertex].edges[from.slot].value else {
            return;
        };
        let running = state.run.is_some();
        match from.content {
            Content::NotAsked if !(running && state.by_content(input)) => {}
            Content::NotAsked | Content::Wanted => {
                let value = value.clone();
                self.vertices[vertex].inputs[input].content = Content::Computing;
                self.actions.push(Action::Content {
                    vertex,
                    input,
                    value,
                });
                return;
            }
            Content::Computing => return,
            Content::Known(_) | Content::Deferred => {}
        }
        let state = &mut self.vertices[vertex];
        let Some(run) = &mut state.run else { return };
        if std::mem::replace(&mut state.inputs[input].supplied, true) {
            return;
        }
        run.missing -= 1;
        if run.missing == 0 {
            self.queue.push_back(Step::Ready(vertex));
        }
    }

    /// All inputs are there, so the final key is known. Someone else may have stored a result
    /// under it meanwhile.
    pub(super) fn ready(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let state = &self.vertices[vertex];
        let map = state
            .map
            .as_ref()
            .expect("BUG: a vertex runs with a cache map");
        let mut volatile = map.volatile;
        let mut forced = state.ignore_cache;
        let mut parts = Vec::with_capacity(state.inputs.len());
        for (input, part) in state.inputs.iter().zip(&map.inputs) {
            match input.content {
                Content::Known(digest) => {
                    parts.push(Some(InputPart::by_content(digest)));
                    continue;
                }
                Content::Deferred => {
                    parts.push(None);
                    continue;
                }
                _ => {}
            }
            let from = &self.vertices[input.vertex];
            let key = from.edges[input.slot]
                .canonical
                .expect("BUG: a value has a key");
            volatile |= key.volatile;
            forced |= from.forced && from.fate != Fate::Loaded;
            parts.push(Some(InputPart::new(key.id, part.selector)));
        }
        let miss = match &state.miss {
            _ if forced => MissReason::Ignored,
            Some(known) => known.clone(),
            None if map.volatile => MissReason::Volatile,
            None if state.edges.iter().any(|edge| edge.matched) => MissReason::DataGone,
            None => self.explain(vertex, lookup),
        };
        let state = &mut self.vertices[vertex];
        state.miss = Some(miss);
        state.forced = forced;
        let digest = state.map.as_ref().map(|map| map.digest);
        let all: Option<Vec<_>> = parts.iter().copied().collect();
        if !forced
            && !volatile
            && let (Some(digest), Some(all)) = (digest, all)
        {
            for edge in &mut state.edges {
                let id = CacheKey::derive(digest, edge.output, &all);
                edge.add_key(Key { id, volatile });
            }
        }
        if let Some(run) = &mut state.run {
            run.ready = Some(Ready { parts, volatile });
        }
        self.queue.push_back(Step::Value(vertex));
    }

    /// Finds out why the cache had nothing for a vertex.
    fn explain(&mut self, vertex: usize, lookup: &mut Lookup<'_>) -> MissReason {
        let state = &self.vertices[vertex];
        let (Some(map), Some(edge)) = (&state.map, state.edges.first()) else {
            return MissReason::NeverSeen;
        };
        let (digest, output) = (map.digest, edge.output);
        let inputs = state.inputs.len();
        if inputs == 0 || !lookup.seen(digest, output, 0) {
            return MissReason::NeverSeen;
        }
        for input in 0..inputs {
            if self.look_up_input(vertex, input, lookup) {
                continue;
            }
            let number = u32::try_from(input).unwrap_or(u32::MAX);
            let latest = lookup.latest(digest, output, number);
            let state = &self.vertices[vertex].inputs[input];
            if let Content::Known(content) = state.content {
                // A key by content goes without a selector, and is one that content is known of.
                let mut plain: Vec<_> = latest
                    .iter()
                    .filter(|link| link.selector.is_none())
                    .collect();
                plain.sort_by_key(|link| lookup.listing(link.dependency).is_none());
                let by_content = plain.first();
                return MissReason::ContentChanged {
                    input,
                    old: by_content.map(|link| link.dependency),
                    new: Some(CacheKey::content(content)),
                    changes: None,
                };
            }
            let new = self.vertices[state.vertex].edges[state.slot].canonical;
            return MissReason::InputChanged {
                input,
                old: latest.first().map(|link| link.dependency),
                new: new.filter(|key| !key.volatile).map(|key| key.id),
            };
        }
        MissReason::InputsNewTogether
    }

    /// Hands a vertex over to be run.
    fn launch(&mut self, vertex: usize) {
        let state = &mut self.vertices[vertex];
        let (Some(run), Some(map)) = (&mut state.run, &state.map) else {
            return;
        };
        let Some(ready) = &run.ready else { return };
        run.started = true;
        let digest = map.digest;
        let (parts, volatile) = (ready.parts.clone(), ready.volatile);
        let state = &self.vertices[vertex];
        let value = |from: &super::state::InputState| {
            let edge = &self.vertices[from.vertex].edges[from.slot];
            edge.value.clone().expect("BUG: all inputs are there")
        };
        let inputs = state.inputs.iter().map(value).collect();
        let dependencies = (0..state.inputs.len())
            .flat_map(|input| self.dependencies(vertex, input))
            .collect();
        let request = RunRequest {
            vertex,
            digest,
            inputs,
            parts,
            dependencies,
            digests: state.digests.clone(),
            outputs: state.edges.iter().map(|edge| edge.output).collect(),
            wanted: state
                .edges
                .iter()
                .map(|edge| edge.wanted && edge.value.is_none())
                .collect(),
            volatile,
            forced: state.forced,
            by_content: (0..state.inputs.len())
                .filter(|&input| state.by_content(input))
                .collect(),
            changed: match &state.miss {
                Some(MissReason::ContentChanged {
                    input,
                    old: Some(old),
                    ..
                }) => Some((*input, *old)),
                _ => None,
            },
        };
        self.actions.push(Action::Run(request));
    }

    /// Takes the values of a vertex that ran, here or elsewhere.
    pub(super) fn ran(
        &mut self,
        vertex: usize,
        values: Vec<Option<T>>,
        contents: &[(usize, ContentDigest)],
        found: Option<ContentChanges>,
        fate: Fate,
    ) {
        let state = &mut self.vertices[vertex];
        if let Some(MissReason::ContentChanged { changes, .. }) = &mut state.miss {
            *changes = found;
        }
        state.fate = fate;
        let Some(ready) = state.run.as_mut().and_then(|run| run.ready.as_mut()) else {
            return;
        };
        for &(input, digest) in contents {
            state.inputs[input].content = Content::Known(digest);
            ready.parts[input] = Some(InputPart::by_content(digest));
        }
        let volatile = ready.volatile || fate == Fate::Looked;
        let Some(parts) = ready.parts.iter().copied().collect::<Option<Vec<_>>>() else {
            return;
        };
        let Some(digest) = state.map.as_ref().map(|map| map.digest) else {
            return;
        };
        if volatile {
            // Keys that were good as long as the result seemed to follow from them.
            let keys = state.edges.iter_mut().flat_map(|edge| &mut edge.keys);
            keys.for_each(|key| key.volatile = true);
        }
        for (slot, value) in values.into_iter().enumerate() {
            let Some(value) = value else { continue };
            let edge = &mut self.vertices[vertex].edges[slot];
            edge.created_at = None;
            let id = CacheKey::derive(digest, edge.output, &parts);
            let key = Key { id, volatile };
            edge.add_key(key);
            self.supply(vertex, slot, key, value);
        }
        // An edge that nobody wanted when the run began may be wanted by now, or later.
        let state = &mut self.vertices[vertex];
        if let Some(run) = &mut state.run {
            run.started = false;
        }
        for edge in state.edges.iter_mut().filter(|edge| edge.value.is_none()) {
            edge.looked = 0;
            if edge.wanted {
                self.queue.push_back(Step::Value(vertex));
            }
        }
    }
}
