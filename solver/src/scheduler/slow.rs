//! The slow stage: final keys, by content where definitions do not match.

use super::build::{Action, Build, Step};
use super::state::{Content, Level, SlowStage};
use crate::cache::{Lookup, RecordBatch};
use crate::id::ContentDigest;

impl<T: Clone> Build<T> {
    /// Begins the slow stage of a vertex, unless it began or is over.
    pub(super) fn want_slow(&mut self, vertex: usize) {
        let state = &mut self.vertices[vertex];
        state.slow_wanted = true;
        if state.level != Level::Fast || state.slow.is_some() {
            return;
        }
        state.slow = Some(SlowStage {
            keys: state.inputs.len(),
            contents: 0,
            thorough: false,
        });
        let state = &self.vertices[vertex];
        if state.inputs.is_empty() {
            self.actions.push(Action::CacheMap {
                vertex,
                index: state.digests.len(),
            });
            return;
        }
        for (number, input) in state.inputs.iter().enumerate() {
            self.queue
                .push_back(if self.vertices[input.vertex].is_final(input.slot) {
                    Step::InputSettled(vertex, number)
                } else {
                    Step::WantSlow(input.vertex)
                });
        }
    }

    /// The keys of an input are final: looks where they lead.
    pub(super) fn input_settled(&mut self, vertex: usize, input: usize, lookup: &mut Lookup<'_>) {
        let state = &mut self.vertices[vertex];
        let Some(slow) = &mut state.slow else { return };
        if std::mem::replace(&mut state.inputs[input].settled, true) {
            return;
        }
        slow.keys -= 1;
        if !self.look_up_input(vertex, input, lookup) {
            let state = &self.vertices[vertex];
            if !state.by_content(input) || state.never_seen(input, lookup) {
                // Nothing that this input could still show would match.
                self.finish_slow(vertex);
                return;
            }
            self.want_content(vertex, input);
        }
        self.check_slow(vertex, lookup);
    }

    /// Asks for the content digest of an input, once.
    pub(super) fn want_content(&mut self, vertex: usize, input: usize) {
        let state = &mut self.vertices[vertex];
        if state.inputs[input].content != Content::NotAsked {
            return;
        }
        state.inputs[input].content = Content::Wanted;
        if let Some(slow) = &mut state.slow {
            slow.contents += 1;
            state.inputs[input].counted = true;
        }
        let (from, slot) = (state.inputs[input].vertex, state.inputs[input].slot);
        self.want_value(from, slot);
        self.queue.push_back(Step::InputValue(vertex, input));
    }

    /// Takes the content digest of an input.
    pub(super) fn content(
        &mut self,
        vertex: usize,
        input: usize,
        digest: ContentDigest,
        lookup: &mut Lookup<'_>,
    ) {
        let state = &mut self.vertices[vertex];
        state.inputs[input].content = Content::Known(digest);
        self.queue.push_back(Step::InputValue(vertex, input));
        if let Some(slow) = &mut state.slow
            && std::mem::take(&mut state.inputs[input].counted)
        {
            slow.contents -= 1;
            self.look_up_input(vertex, input, lookup);
            self.check_slow(vertex, lookup);
        }
    }

    /// Ends the slow stage if nothing is left to wait for, or asks for what is left.
    fn check_slow(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let state = &mut self.vertices[vertex];
        let Some(slow) = &mut state.slow else { return };
        if slow.keys > 0 || slow.contents > 0 {
            return;
        }
        let first_time = !std::mem::replace(&mut slow.thorough, true);
        if self.match_edges(vertex, lookup) {
            self.learn_links(vertex, lookup);
        } else if first_time {
            // Content of inputs that are known by definition comes last: it may need loading.
            let state = &self.vertices[vertex];
            let left: Vec<_> = (0..state.inputs.len())
                .filter(|&input| {
                    state.by_content(input)
                        && state.inputs[input].content == Content::NotAsked
                        && !state.never_seen(input, lookup)
                })
                .collect();
            if !left.is_empty() {
                for input in left {
                    self.want_content(vertex, input);
                }
                return;
            }
        }
        self.finish_slow(vertex);
    }

    /// Ends the slow stage.
    pub(super) fn finish_slow(&mut self, vertex: usize) {
        self.vertices[vertex].slow = None;
        self.reach(vertex, Level::Slow);
    }

    /// Stores links from definition keys to what was matched by content, so that the next solve
    /// need not compute the content.
    fn learn_links(&mut self, vertex: usize, lookup: &mut Lookup<'_>) {
        let state = &self.vertices[vertex];
        let mut batch = RecordBatch::default();
        for edge in &state.edges {
            let Some(target) = edge.keys.last() else {
                continue;
            };
            for input in 0..state.inputs.len() {
                if !matches!(state.inputs[input].content, Content::Known(_)) {
                    continue;
                }
                for link in self.links(vertex, input, edge.output) {
                    if !lookup.leads_to(&link, target.id) {
                        batch.links.push((link, target.id));
                    }
                }
            }
        }
        if !batch.links.is_empty() {
            self.actions.push(Action::Learn(batch));
        }
    }
}
