//! Vertices: the `Op` envelope, its inputs, the platform it runs on and the worker filter.

use crate::encode::{Encode, Writer};

/// One vertex of the build graph. Its serialised bytes are its identity.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Op {
    /// Results this op consumes, addressed from inside the op by position.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<Input>,
    /// What the op does; absent only in the terminal op of a definition.
    #[prost(oneof = "op::Op", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub op: Option<op::Op>,
    /// Platform the op runs on or resolves for; absent for ops that have none.
    #[prost(message, optional, tag = "10")]
    pub platform: Option<Platform>,
    /// Worker filter; present, if only empty, on all ops but the terminal one.
    #[prost(message, optional, tag = "11")]
    pub constraints: Option<WorkerConstraints>,
}

impl Encode for Op {
    fn write_fields(&self, out: &mut Writer) {
        let fields = OpFields {
            inputs: self.inputs.iter(),
            platform: self.platform.as_ref(),
            constraints: self.constraints.as_ref(),
        };
        fields.write(out);
        if let Some(op) = &self.op {
            op.write_fields(out);
        }
    }
}

/// The fields of an [`Op`] but what it does, wherever they are. What it does is written next.
pub(crate) struct OpFields<I, P, C> {
    pub(crate) inputs: I,
    pub(crate) platform: Option<P>,
    pub(crate) constraints: Option<C>,
}

impl<I, P, C> OpFields<I, P, C>
where
    I: Iterator<Item: Encode>,
    P: Encode,
    C: Encode,
{
    pub(crate) fn write(self, out: &mut Writer) {
        out.messages(1, self.inputs);
        out.optional(10, self.platform.as_ref());
        out.optional(11, self.constraints.as_ref());
    }
}

/// An operating system and a processor, as in the OCI image specification.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Platform {
    /// Processor architecture in Go's words, such as `amd64`.
    #[prost(string, tag = "1")]
    pub architecture: String,
    /// Operating system in Go's words, such as `linux`.
    #[prost(string, tag = "2")]
    pub os: String,
    /// Variant of the architecture, such as `v7` of `arm`.
    #[prost(string, tag = "3")]
    pub variant: String,
    /// Version of the operating system; of use on Windows only.
    #[prost(string, tag = "4")]
    pub os_version: String,
    /// Features of the operating system that are required.
    #[prost(string, repeated, tag = "5")]
    pub os_features: Vec<String>,
}

impl Encode for Platform {
    fn write_fields(&self, out: &mut Writer) {
        let fields = PlatformFields {
            architecture: &self.architecture,
            os: &self.os,
            variant: &self.variant,
            os_version: &self.os_version,
            os_features: &self.os_features,
        };
        fields.write_fields(out);
    }
}

/// The fields of a [`Platform`], wherever they are.
pub(crate) struct PlatformFields<'a> {
    pub(crate) architecture: &'a str,
    pub(crate) os: &'a str,
    pub(crate) variant: &'a str,
    pub(crate) os_version: &'a str,
    pub(crate) os_features: &'a [String],
}

impl Encode for PlatformFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, self.architecture);
        out.string(2, self.os);
        out.string(3, self.variant);
        out.string(4, self.os_version);
        out.strings(5, self.os_features.iter());
    }
}

/// An edge of the graph: one output of another op.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Input {
    /// Digest of the op that makes the result, `sha256:<hex>`.
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Which of that op's outputs is meant.
    #[prost(int64, tag = "2")]
    pub index: i64,
}

impl Encode for Input {
    fn write_fields(&self, out: &mut Writer) {
        let fields = InputFields {
            digest: self.digest.as_bytes(),
            index: self.index,
        };
        fields.write_fields(out);
    }
}

/// The fields of an [`Input`], wherever they are.
pub(crate) struct InputFields<D> {
    pub(crate) digest: D,
    pub(crate) index: i64,
}

impl<D: AsRef<[u8]>> Encode for InputFields<D> {
    fn write_fields(&self, out: &mut Writer) {
        out.bytes(1, self.digest.as_ref());
        out.int64(2, self.index);
    }
}

/// Conditions a worker has to meet to run the op.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WorkerConstraints {
    /// Filters in containerd's syntax, all of which have to match.
    #[prost(string, repeated, tag = "1")]
    pub filter: Vec<String>,
}

impl Encode for WorkerConstraints {
    fn write_fields(&self, out: &mut Writer) {
        ConstraintsFields(&[&self.filter]).write_fields(out);
    }
}

/// The fields of [`WorkerConstraints`], wherever they are: filters, one list after the other.
pub(crate) struct ConstraintsFields<'a>(pub(crate) &'a [&'a [String]]);

impl Encode for ConstraintsFields<'_> {
    fn write_fields(&self, out: &mut Writer) {
        out.strings(1, self.0.iter().copied().flatten());
    }
}

/// Stacks its inputs, the first at the bottom.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct MergeOp {
    /// Inputs from the lowest to the highest.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<MergeInput>,
}

impl Encode for MergeOp {
    fn write_fields(&self, out: &mut Writer) {
        out.messages(1, &self.inputs);
    }
}

/// One input of a merge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct MergeInput {
    /// Position in the op's inputs; always the same as in the merge.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

impl Encode for MergeInput {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.input);
    }
}

/// Yields what `upper` changes with respect to `lower`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DiffOp {
    /// The side that is taken away.
    #[prost(message, optional, tag = "1")]
    pub lower: Option<LowerDiffInput>,
    /// The side that is kept.
    #[prost(message, optional, tag = "2")]
    pub upper: Option<UpperDiffInput>,
}

impl Encode for DiffOp {
    fn write_fields(&self, out: &mut Writer) {
        out.optional(1, self.lower.as_ref());
        out.optional(2, self.upper.as_ref());
    }
}

/// The lower side of a diff.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct LowerDiffInput {
    /// Position in the op's inputs, or [`EMPTY`](super::EMPTY) for scratch.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

impl Encode for LowerDiffInput {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.input);
    }
}

/// The upper side of a diff.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct UpperDiffInput {
    /// Position in the op's inputs, or [`EMPTY`](super::EMPTY) for scratch.
    #[prost(int64, tag = "1")]
    pub input: i64,
}

impl Encode for UpperDiffInput {
    fn write_fields(&self, out: &mut Writer) {
        out.int64(1, self.input);
    }
}

/// Hands inputs on unchanged, once all of its inputs are done.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PassthroughOp {
    /// Distinguishes passthroughs that have the same inputs.
    #[prost(string, tag = "1")]
    pub id: String,
    /// For each output, the position of the input it hands on.
    #[prost(int64, repeated, tag = "2")]
    pub outputs: Vec<i64>,
}

impl Encode for PassthroughOp {
    fn write_fields(&self, out: &mut Writer) {
        out.string(1, &self.id);
        out.packed(2, self.outputs.iter().copied());
    }
}

/// The kinds of op.
pub mod op {
    use super::super::{BuildOp, ExecOp, FileOp, SourceOp};
    use super::{DiffOp, MergeOp, PassthroughOp};
    use crate::encode::{Encode, Writer};

    /// What an op does.
    #[allow(
        clippy::exhaustive_enums,
        clippy::large_enum_variant,
        reason = "an engine has to handle every kind of op; ops are held one per vertex and never moved in bulk"
    )]
    #[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
    pub enum Op {
        /// Runs a process.
        #[prost(message, tag = "2")]
        Exec(ExecOp),
        /// Brings in a tree from outside.
        #[prost(message, tag = "3")]
        Source(SourceOp),
        /// Changes trees without a process.
        #[prost(message, tag = "4")]
        File(FileOp),
        /// Builds a definition that an input holds.
        #[prost(message, tag = "5")]
        Build(BuildOp),
        /// Stacks inputs.
        #[prost(message, tag = "6")]
        Merge(MergeOp),
        /// Takes one input away from another.
        #[prost(message, tag = "7")]
        Diff(DiffOp),
        /// Hands inputs on.
        #[prost(message, tag = "8")]
        Passthrough(PassthroughOp),
    }

    /// The field numbers.
    pub(crate) const EXEC: u32 = 2;
    pub(crate) const SOURCE: u32 = 3;
    pub(crate) const FILE: u32 = 4;
    pub(crate) const BUILD: u32 = 5;
    pub(crate) const MERGE: u32 = 6;
    pub(crate) const DIFF: u32 = 7;
    pub(crate) const PASSTHROUGH: u32 = 8;

    impl Encode for Op {
        fn write_fields(&self, out: &mut Writer) {
            match self {
                Self::Exec(op) => out.message(EXEC, op),
                Self::Source(op) => out.message(SOURCE, op),
                Self::File(op) => out.message(FILE, op),
                Self::Build(op) => out.message(BUILD, op),
                Self::Merge(op) => out.message(MERGE, op),
                Self::Diff(op) => out.message(DIFF, op),
                Self::Passthrough(op) => out.message(PASSTHROUGH, op),
            }
        }
    }
}
