//! What each op is for the cache: the digest of what it does, and for each input what of it
//! matters.
//!
//! Owns BuildKit's preimages: the digests and selectors computed here are those of `CacheMap` in
//! BuildKit (`solver/llbsolver/ops`), so that a cache written by either is hit by the other.
//!
//! Invariants: pure functions of the op; nothing of the machine, the session or the time enters.
//!
//! Leaves to others: computing the checksums that the selectors ask for (`tree::checksum`), and
//! the keys of sources, which depend on what is on the other side (`source`).

use ashlar_llb::pb;
use ashlar_llb::pb::op::Op;
use sha2::{Digest as _, Sha256};

use crate::error::{Blame, Fault};
use crate::id::{self, CacheDigest};

mod exec;
mod file;
mod json;
mod known;
mod messages;
mod selector;

pub use known::KnownKeys;
pub use selector::Selector;

use json::{Fields, GoJson};

/// What the cache knows of an op before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpKey {
    digest: CacheDigest,
    /// One per input of the op, in order.
    pub inputs: Vec<InputPlan>,
}

/// What of one input matters to an op.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct InputPlan {
    /// Tells apart different uses of the same content; part of the key of the input.
    pub selector: Option<id::Selector>,
    /// The parts of the input's content that decide, in order. `None`: only how the input was made
    /// counts. An empty list: all of its content.
    pub content: Option<Vec<Selector>>,
}

/// An op that no key can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A mount names an input that the op does not have.
    #[error("mount {destination} uses input {input}, but the op has {count}")]
    MountInput {
        /// Destination of the mount.
        destination: String,
        /// The number it gives.
        input: i64,
        /// Inputs of the op.
        count: usize,
    },
    /// A mount asks for content caching where that would be unsafe: it is writable, an output,
    /// and shows only a part of its input.
    #[error(
        "mount {destination} cannot be cached by content: it is a writable output and shows only a part of its input"
    )]
    MountContentCache {
        /// Destination of the mount.
        destination: String,
    },
    /// A mount says about content caching what nobody knows.
    #[error("mount {destination} has the unknown content cache mode {mode}")]
    UnknownContentCache {
        /// Destination of the mount.
        destination: String,
        /// The number it gives.
        mode: i32,
    },
    /// A file action looks at an input that the op does not have.
    #[error("a file action looks at input {input}, but the op has {count}")]
    FileInput {
        /// The number it gives.
        input: i64,
        /// Inputs of the op.
        count: usize,
    },
    /// A diff op lacks one of its sides.
    #[error("the diff op has no {side} side")]
    DiffSide {
        /// `lower` or `upper`.
        side: &'static str,
    },
}

impl OpKey {
    /// The cache digest: SHA-256 of the [`preimage`].
    pub fn digest(&self) -> CacheDigest {
        self.digest
    }

    fn definition_only(preimage: &str, inputs: usize) -> Self {
        Self {
            digest: CacheDigest::of(preimage.as_bytes()),
            inputs: vec![InputPlan::default(); inputs],
        }
    }
}

/// The key of an exec op for `platform`, in its normal form.
///
/// # Errors
/// [`KeyError::MountInput`], [`KeyError::MountContentCache`] and
/// [`KeyError::UnknownContentCache`].
pub fn exec(op: &pb::ExecOp, platform: &pb::Platform, inputs: usize) -> Result<OpKey, KeyError> {
    Ok(OpKey {
        digest: CacheDigest::of(exec::preimage(op, platform).as_bytes()),
        inputs: exec::inputs(op, inputs)?,
    })
}

/// The key of a file op.
///
/// # Errors
/// [`KeyError::FileInput`].
pub fn file(op: &pb::FileOp, inputs: usize) -> Result<OpKey, KeyError> {
    file::key(op, inputs)
}

/// The key of a merge op. Only how its inputs were made counts.
pub fn merge(op: &pb::MergeOp) -> OpKey {
    OpKey::definition_only(&merge_text(op), op.inputs.len())
}

/// The key of a diff op. Only how its inputs were made counts.
///
/// # Errors
/// [`KeyError::DiffSide`].
pub fn diff(op: &pb::DiffOp) -> Result<OpKey, KeyError> {
    let lower = op
        .lower
        .as_ref()
        .ok_or(KeyError::DiffSide { side: "lower" })?;
    let upper = op
        .upper
        .as_ref()
        .ok_or(KeyError::DiffSide { side: "upper" })?;
    let inputs = [lower.input, upper.input]
        .into_iter()
        .filter(|&input| input != pb::EMPTY)
        .count();
    Ok(OpKey::definition_only(&diff_text(op), inputs))
}

/// The key of a build op. Only how its inputs were made counts.
pub fn build(op: &pb::BuildOp, inputs: usize) -> OpKey {
    OpKey::definition_only(&build_text(op), inputs)
}

/// The key of a passthrough op. Only how its inputs were made counts.
pub fn passthrough(op: &pb::PassthroughOp, inputs: usize) -> OpKey {
    OpKey::definition_only(&passthrough_text(op), inputs)
}

/// The text whose digest is the key of an op with `inputs` inputs; for explaining why two keys
/// differ. `None` for a source, whose key depends on what it leads to, and for an exec op without
/// `platform`.
pub fn preimage(op: &Op, platform: Option<&pb::Platform>, inputs: usize) -> Option<String> {
    Some(match op {
        Op::Exec(op) => exec::preimage(op, platform?),
        Op::File(op) => file::preimage(op, inputs),
        Op::Merge(op) => merge_text(op),
        Op::Diff(op) => diff_text(op),
        Op::Build(op) => build_text(op),
        Op::Passthrough(op) => passthrough_text(op),
        Op::Source(_) => return None,
    })
}

fn merge_text(op: &pb::MergeOp) -> String {
    tagged("buildkit.merge.v0", "Merge", op)
}

fn diff_text(op: &pb::DiffOp) -> String {
    tagged("buildkit.diff.v0", "Diff", op)
}

fn build_text(op: &pb::BuildOp) -> String {
    tagged("buildkit.build.v0", "Exec", op)
}

fn passthrough_text(op: &pb::PassthroughOp) -> String {
    tagged("buildkit.passthrough.v0", "Passthrough", op)
}

/// The cache digest of a source, from the key that the source computed for itself.
pub fn source(key: &str) -> CacheDigest {
    CacheDigest::of(format!("buildkit.source.v0:{key}").as_bytes())
}

/// `{"Type":kind,name:op}`.
fn tagged(kind: &'static str, name: &'static str, op: &dyn GoJson) -> String {
    struct Tagged<'a>(&'static str, &'static str, &'a dyn GoJson);

    impl GoJson for Tagged<'_> {
        fn fields(&self, out: &mut Fields<'_>) {
            out.string_always("Type", self.0);
            out.object_always(self.1, self.2);
        }
    }

    json::to_string(&Tagged(kind, name, op))
}

impl Blame for KeyError {
    fn fault(&self) -> Fault {
        Fault::Input
    }
}

/// SHA-256 of `parts`, joined by NUL bytes.
fn digest_joined<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> id::Selector {
    let mut hash = Sha256::new();
    for (at, part) in parts.into_iter().enumerate() {
        if at > 0 {
            hash.update([0]);
        }
        hash.update(part.as_ref());
    }
    id::Selector::from_bytes(hash.finalize().into())
}
