//! Definitions: a whole graph, what is said about its vertices, and where they came from.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::encode::{Encode, Writer, texts};

/// A graph in its transport form.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Definition {
    /// Serialised ops; inputs come before use, the terminal op is last.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub def: Vec<Bytes>,
    /// Metadata by op digest.
    #[prost(btree_map = "string, message", tag = "2")]
    pub metadata: BTreeMap<String, OpMetadata>,
    /// Where in which files the vertices come from.
    #[prost(message, optional, tag = "3")]
    pub source: Option<Source>,
}

impl Encode for Definition {
    fn write_fields(&self, out: &mut Writer) {
        out.byte_strings(1, &self.def);
        out.message_map(2, &self.metadata);
        out.optional(3, self.source.as_ref());
    }
}

/// What is said about a vertex without being part of its identity.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct OpMetadata {
    /// Whether the op runs even if its result is cached.
    #[prost(bool, tag = "1")]
    pub ignore_cache: bool,
    /// Free text by key; `llb.customname` is the display name.
    #[prost(btree_map = "string, string", tag = "2")]
    pub description: BTreeMap<String, String>,
    /// Overrides whether the result takes part in cache export.
    #[prost(message, optional, tag = "4")]
    pub export_cache: Option<ExportCache>,
    /// Capabilities an engine needs for this op.
    #[prost(btree_map = "string, bool", tag = "5")]
    pub caps: BTreeMap<String, bool>,
    /// Group the vertex is shown under.
    #[prost(message, optional, tag = "6")]
    pub progress_group: Option<ProgressGroup>,
    /// Resource limits of the process of an exec op.
    #[prost(message, optional, tag = "7")]
    pub linux_resources: Option<LinuxResources>,
}

impl Encode for OpMetadata {
    fn write_fields(&self, out: &mut Writer) {
        let fields = MetadataFields {
            ignore_cache: self.ignore_cache,
            description: texts(&self.description),
            export_cache: self.export_cache.as_ref(),
            caps: self.caps.iter().map(|(cap, set)| (cap.as_str(), *set)),
            progress_group: self.progress_group.as_ref(),
            linux_resources: self.linux_resources.as_ref(),
        };
        fields.write(out);
    }
}

/// The fields of an [`OpMetadata`], wherever they are. Texts and capabilities are sorted.
pub(crate) struct MetadataFields<'a, D, C> {
    pub(crate) ignore_cache: bool,
    pub(crate) description: D,
    pub(crate) export_cache: Option<&'a ExportCache>,
    pub(crate) caps: C,
    pub(crate) progress_group: Option<&'a ProgressGroup>,
    pub(crate) linux_resources: Option<&'a LinuxResources>,
}

impl<'a, D, C> MetadataFields<'_, D, C>
where
    D: Iterator<Item = (&'a str, &'a str)>,
    C: Iterator<Item = (&'a str, bool)>,
{
    pub(crate) fn write(self, out: &mut Writer) {
        out.bool(1, self.ignore_cache);
        out.texts(2, self.description);
        out.optional(4, self.export_cache);
        out.flags(5, self.caps);
        out.optional(6, self.progress_group);
        out.optional(7, self.linux_resources);
    }
}

/// Whether a result takes part in cache export.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ExportCache {
    /// The wish.
    #[prost(bool, tag = "1")]
    pub value: bool,
}

impl Encode for ExportCache {
    fn write_fields(&self, out: &mut Writer) {
        out.bool(1, self.value);
    }
}

/// Vertices that are shown as one.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ProgressGroup {
    /// Identity of the group.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Display name of the group.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Whether the group's name is shown only if all vertices of it ran.
    #[prost(bool, tag = "3")]
    pub weak: bool,
}

impl Encode for ProgressGroup {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.id);
        out.string(2, &self.name);
        out.bool(3, self.weak);
    }
}

/// Resource limits in the words of the OCI runtime specification.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct LinuxResources {
    /// Memory limit in bytes.
    #[prost(int64, tag = "1")]
    pub memory: i64,
    /// Limit of memory and swap in bytes.
    #[prost(int64, tag = "2")]
    pub memory_swap: i64,
    /// Relative weight.
    #[prost(uint64, tag = "3")]
    pub cpu_shares: u64,
    /// Length of a scheduling period in microseconds.
    #[prost(uint64, tag = "4")]
    pub cpu_period: u64,
    /// Processor time per period in microseconds.
    #[prost(int64, tag = "5")]
    pub cpu_quota: i64,
    /// Processors that may be used, such as `0-3,7`.
    #[prost(string, tag = "6")]
    pub cpuset_cpus: String,
    /// Memory nodes that may be used.
    #[prost(string, tag = "7")]
    pub cpuset_mems: String,
}

impl Encode for LinuxResources {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.memory);
        out.int64(2, self.memory_swap);
        out.uint64(3, self.cpu_shares);
        out.uint64(4, self.cpu_period);
        out.int64(5, self.cpu_quota);
        out.string(6, &self.cpuset_cpus);
        out.string(7, &self.cpuset_mems);
    }
}

/// Source maps of a definition.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Source {
    /// Places by op digest.
    #[prost(btree_map = "string, message", tag = "1")]
    pub locations: BTreeMap<String, Locations>,
    /// The files the places are in.
    #[prost(message, repeated, tag = "2")]
    pub infos: Vec<SourceInfo>,
}

impl Encode for Source {
    fn write_fields(&self, out: &mut Writer) {
        out.message_map(1, &self.locations);
        out.messages(2, &self.infos);
    }
}

/// All places of one vertex.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Locations {
    /// The places, the most specific first.
    #[prost(message, repeated, tag = "1")]
    pub locations: Vec<Location>,
}

impl Encode for Locations {
    fn write_fields(&self, out: &mut Writer) {
        out.messages(1, &self.locations);
    }
}

/// A file that vertices were made from.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SourceInfo {
    /// Name of the file.
    #[prost(string, tag = "1")]
    pub filename: String,
    /// Content of the file.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// Definition of the state the file was read from.
    #[prost(message, optional, tag = "3")]
    pub definition: Option<Definition>,
    /// Language of the file, such as `Dockerfile`.
    #[prost(string, tag = "4")]
    pub language: String,
}

impl Encode for SourceInfo {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.filename);
        out.bytes(2, &self.data);
        out.optional(3, self.definition.as_ref());
        out.string(4, &self.language);
    }
}

/// Ranges in one file.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Location {
    /// Position in [`Source::infos`].
    #[prost(int32, tag = "1")]
    pub source_index: i32,
    /// The ranges.
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<Range>,
}

impl Encode for Location {
    fn write_fields(&self, out: &mut Writer) {
        out.int32(1, self.source_index);
        out.messages(2, &self.ranges);
    }
}

/// A stretch of text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Range {
    /// Where it starts.
    #[prost(message, optional, tag = "1")]
    pub start: Option<Position>,
    /// Where it ends; absent means at the start.
    #[prost(message, optional, tag = "2")]
    pub end: Option<Position>,
}

impl Encode for Range {
    fn write_fields(&self, out: &mut Writer) {
        out.optional(1, self.start.as_ref());
        out.optional(2, self.end.as_ref());
    }
}

/// A place in a text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Position {
    /// Line, the first is 1.
    #[prost(int32, tag = "1")]
    pub line: i32,
    /// Column in the line, the first is 0.
    #[prost(int32, tag = "2")]
    pub character: i32,
}

impl Encode for Position {
    fn write_fields(&self, out: &mut Writer) {
        out.int32(1, self.line);
        out.int32(2, self.character);
    }
}
