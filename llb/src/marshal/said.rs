//! What is said of the ops of a definition.
//!
//! Owns the metadata while a graph is written. Invariant: it is serialised when its op is
//! written; only where several vertices are one op it is taken apart again and merged.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message as _;

use crate::caps::{Cap, Caps};
use crate::constraints::{OpConstraints, extend, merge_metadata};
use crate::encode::{Encode as _, Writer};
use crate::{Metadata, MetadataMap, OpDigest, pb};

/// The metadata of the ops written so far, by their positions.
#[derive(Debug)]
pub(super) struct SaidList<'a> {
    defaults: &'a OpConstraints,
    /// Descriptions that hold for all ops. As in BuildKit, if there are any, those of ops
    /// written so far are among them.
    description: BTreeMap<String, String>,
    has_defaults: bool,
    /// What is said of each op, one behind the other.
    out: Writer,
    ends: Vec<usize>,
    /// What is said of ops that several vertices are.
    merged: HashMap<usize, pb::OpMetadata>,
    /// What capabilities of the definition depend on: whether any op has it.
    ignore_cache: bool,
    described: bool,
    export_cache: bool,
}

impl<'a> SaidList<'a> {
    pub(super) fn new(defaults: &'a OpConstraints) -> Self {
        Self {
            defaults,
            description: defaults.to_metadata(Caps::default()).description,
            has_defaults: !defaults.says_nothing(),
            out: Writer::default(),
            ends: Vec::new(),
            merged: HashMap::new(),
            ignore_cache: false,
            described: false,
            export_cache: false,
        }
    }

    /// Says something of the next op.
    pub(super) fn add(&mut self, own: &OpConstraints, caps: Caps) {
        if self.has_defaults {
            let metadata = self.joined(&own.to_metadata(caps));
            return self.add_message(&metadata);
        }
        self.ignore_cache |= own.ignore_cache;
        self.described |= !own.description.is_empty();
        self.export_cache |= own.more().export_cache.is_some();
        own.write_metadata(caps, &mut self.out);
        self.ends.push(self.out.len());
    }

    /// Says of the next op, which was read from a definition, what was said there.
    pub(super) fn add_as_it_is(&mut self, metadata: &Metadata) {
        self.note(metadata);
        self.out.raw(metadata.raw());
        self.ends.push(self.out.len());
    }

    fn add_message(&mut self, metadata: &pb::OpMetadata) {
        self.note(metadata);
        metadata.write_fields(&mut self.out);
        self.ends.push(self.out.len());
    }

    fn note(&mut self, metadata: &pb::OpMetadata) {
        self.ignore_cache |= metadata.ignore_cache;
        self.described |= !metadata.description.is_empty();
        self.export_cache |= metadata.export_cache.is_some();
    }

    /// Says something more of an op.
    pub(super) fn merge(&mut self, op: usize, own: &OpConstraints, caps: Caps) {
        let own = own.to_metadata(caps);
        let newer = if self.has_defaults {
            self.joined(&own)
        } else {
            own
        };
        self.merge_message(op, &newer);
    }

    /// Says more of an op that was read from a definition, if it is something else.
    pub(super) fn merge_as_it_is(&mut self, op: usize, metadata: &Metadata) {
        let known = self.merged.contains_key(&op);
        if known || self.serialised(op) != metadata.raw() {
            self.merge_message(op, metadata);
        }
    }

    fn merge_message(&mut self, op: usize, newer: &pb::OpMetadata) {
        self.note(newer);
        if !self.merged.contains_key(&op) {
            let before = pb::OpMetadata::decode(self.serialised(op));
            let before = before.expect("BUG: it was written here, or checked when it was read");
            self.merged.insert(op, before);
        }
        let metadata = self.merged.entry(op).or_default();
        merge_metadata(metadata, newer);
    }

    /// What was said of an op first.
    fn serialised(&self, op: usize) -> &[u8] {
        let start = start_of(op, &self.ends);
        &self.out.since(start)[..self.ends[op] - start]
    }

    /// The metadata of an op with the defaults of the definition.
    fn joined(&mut self, own: &pb::OpMetadata) -> pb::OpMetadata {
        let mut metadata = self.defaults.to_metadata(Caps::default());
        if !self.description.is_empty() {
            extend(&mut self.description, &own.description);
            metadata.description.clone_from(&self.description);
        }
        merge_metadata(&mut metadata, own);
        metadata
    }

    /// Says of the terminal op what the definition as a whole needs.
    pub(super) fn add_terminal(&mut self) {
        let mut caps: Caps = [Cap::Constraints, Cap::Platform].into_iter().collect();
        let asked = [
            (self.ignore_cache, Cap::MetaIgnorecache),
            (self.described, Cap::MetaDescription),
            (self.export_cache, Cap::MetaExportcache),
        ];
        for (asked, cap) in asked {
            if asked {
                caps.insert(cap);
            }
        }
        OpConstraints::default().write_metadata(caps, &mut self.out);
        self.ends.push(self.out.len());
    }

    /// What is said of each op. `sorted` has the positions of the ops, sorted by digest.
    pub(super) fn finish(self, sorted: &[usize], digests: &[OpDigest]) -> MetadataMap {
        let bytes = Bytes::from(self.out.into_bytes());
        let said = sorted.iter().map(|op| {
            let metadata = match self.merged.get(op) {
                Some(merged) => Metadata::from(merged),
                None => Metadata::checked(bytes.slice(start_of(*op, &self.ends)..self.ends[*op])),
            };
            (digests[*op], metadata)
        });
        said.collect()
    }
}

/// Where something starts of which the ends are known.
fn start_of(position: usize, ends: &[usize]) -> usize {
    position.checked_sub(1).map_or(0, |before| ends[before])
}
