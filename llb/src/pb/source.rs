//! Source and build ops: trees from outside, and builds inside builds.

use std::collections::BTreeMap;

use super::Definition;
use crate::encode::{Encode, Writer, texts};

/// Brings a tree in from outside the graph.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SourceOp {
    /// What to fetch, `scheme://rest`.
    #[prost(string, tag = "1")]
    pub identifier: String,
    /// How to fetch it; the keys depend on the scheme.
    #[prost(btree_map = "string, string", tag = "2")]
    pub attrs: BTreeMap<String, String>,
}

impl Encode for SourceOp {
    fn write_fields(&self, out: &mut Writer) {
        let fields = SourceFields {
            identifier: &self.identifier,
            attrs: texts(&self.attrs),
        };
        fields.write(out);
    }
}

/// The fields of a [`SourceOp`], wherever they are. Attributes are sorted.
pub(crate) struct SourceFields<'a, A> {
    pub(crate) identifier: &'a str,
    pub(crate) attrs: A,
}

impl<'a, A: Iterator<Item = (&'a str, &'a str)>> SourceFields<'a, A> {
    pub(crate) fn write(self, out: &mut Writer) {
        out.string(1, self.identifier);
        out.texts(2, self.attrs);
    }
}

/// Builds a definition that an earlier step produced.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct BuildOp {
    /// Position of the input that builds, or [`LLB_BUILDER`](super::LLB_BUILDER) for the engine itself.
    #[prost(int64, tag = "1")]
    pub builder: i64,
    /// Inputs of the nested build by name.
    #[prost(btree_map = "string, message", tag = "2")]
    pub inputs: BTreeMap<String, BuildInput>,
    /// Definition of the build, if it is not read from an input.
    #[prost(message, optional, tag = "3")]
    pub def: Option<Definition>,
    /// Options of the nested build.
    #[prost(btree_map = "string, string", tag = "4")]
    pub attrs: BTreeMap<String, String>,
}

impl Encode for BuildOp {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.builder);
        out.message_map(2, &self.inputs);
        out.optional(3, self.def.as_ref());
        out.texts(4, texts(&self.attrs));
    }
}

/// An input of a nested build.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct BuildInput {
    /// Position in the op's inputs.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

impl Encode for BuildInput {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.input);
    }
}
