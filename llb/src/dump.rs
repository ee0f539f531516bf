//! Definitions as text, JSON and DOT.
//!
//! Owns [`Dump`]. A definition need not be a valid graph to be dumped: its ops only have to
//! decode. Invariants: nothing in a definition can put a control character into the text or
//! leave a string of the JSON or DOT; the JSON is that of `buildctl debug dump-llb`.

mod dot;
mod json;
mod text;

use std::fmt;

pub(crate) use text::write_plain;

use crate::value::Message as _;
use crate::wire::decode::decode;
use crate::{Definition, Limits, LoadError, OpDigest, pb};

/// The decoded ops of a definition, ready to be written out.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Constraints, Dump, Platform};
///
/// let made = llb::scratch().file(llb::mkdir("/a"));
/// let definition = made.marshal(&Constraints::new(Platform::linux_amd64()))?;
/// let dump = Dump::of(&definition)?;
/// assert!(dump.text().to_string().contains("file mkdir /a"));
/// assert_eq!(dump.json().to_string().lines().count(), 2);
/// assert!(dump.dot().to_string().starts_with("digraph {"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Dump {
    definition: Definition,
    /// In definition order, with their digests.
    ops: Vec<(OpDigest, pb::Op)>,
}

impl Dump {
    /// Decodes all ops of a definition, within the default limits.
    ///
    /// # Errors
    /// [`LoadError::Wire`] if an op is malformed.
    pub fn of(definition: &Definition) -> Result<Self, LoadError> {
        let mut budget = Limits::default().decoded_bytes;
        let ops = definition.ops().iter().map(|raw| {
            let vertex = OpDigest::of(raw);
            let op = decode(raw, &mut budget, |_| true);
            Ok((
                vertex,
                op.map_err(|source| LoadError::Wire { vertex, source })?,
            ))
        });
        Ok(Self {
            ops: ops.collect::<Result<_, LoadError>>()?,
            definition: definition.clone(),
        })
    }

    /// The ops with their digests, in the order of the definition.
    #[must_use]
    pub fn ops(&self) -> &[(OpDigest, pb::Op)] {
        &self.ops
    }

    /// The ops as text for people: one paragraph each, in the order of the definition, with
    /// name, inputs, every field that is set, metadata, and the place in the source.
    pub fn text(&self) -> impl fmt::Display + '_ {
        Writer(self, text::write)
    }

    /// The ops as `buildctl debug dump-llb` writes them: one JSON object a line, with the keys
    /// `Op`, `Digest` and `OpMetadata`.
    ///
    /// As there, what a symlink action does and a numeric owner of 0 are not in it.
    pub fn json(&self) -> impl fmt::Display + '_ {
        Writer(self, json::write)
    }

    /// The graph as `buildctl debug dump-llb --dot` writes it, for Graphviz.
    pub fn dot(&self) -> impl fmt::Display + '_ {
        Writer(self, dot::write)
    }

    /// Decodes nothing: what is said about an op in the definition.
    fn metadata(&self, digest: &OpDigest) -> Option<&pb::OpMetadata> {
        self.definition
            .metadata()
            .get(digest)
            .map(|metadata| &**metadata)
    }

    /// The fields of an op.
    fn value(op: &pb::Op) -> crate::Value {
        op.to_value()
    }
}

/// One way of writing a dump.
struct Writer<'a>(&'a Dump, fn(&Dump, &mut fmt::Formatter<'_>) -> fmt::Result);

impl fmt::Display for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1(self.0, f)
    }
}
