//! What differs between two definitions.
//!
//! Owns [`Comparison`]. A changed vertex changes the digests of all that use it, so digests
//! alone tell little; vertices are matched by digest, then by equal content, then by their
//! place below users that match. Invariants: a vertex is in at most one match; definitions with
//! equal ops, metadata and source maps have no changes; the order is that of the graphs.

mod fields;
mod matching;

use std::fmt;

use crate::dump::write_plain;
use crate::{Definition, Graph, LoadError, OpDigest, Value};

/// The differences between two definitions.
///
/// Shown as text, one paragraph for each vertex that differs.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Comparison, Constraints, Platform};
///
/// let definition = |tag: &str| {
///     let made = llb::image(tag).run(["make"]).root();
///     made.marshal(&Constraints::new(Platform::linux_amd64()))
/// };
/// let found = Comparison::of(&definition("alpine:3.20")?, &definition("alpine:3.21")?)?;
/// let text = found.to_string();
/// assert!(text.contains("source.identifier: \"docker-image://docker.io/library/alpine:3.20\""));
/// assert!(text.contains("only its inputs changed"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    changes: Vec<VertexChange>,
}

/// A vertex, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VertexName {
    /// Its digest.
    pub digest: OpDigest,
    /// The kind of its op, such as `exec`.
    pub kind: &'static str,
    /// Its display name.
    pub name: String,
}

/// How a vertex differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VertexChange {
    /// Only the first definition has it.
    Removed {
        /// The vertex.
        vertex: VertexName,
    },
    /// Only the second definition has it.
    Added {
        /// The vertex.
        vertex: VertexName,
    },
    /// It says something else.
    Changed {
        /// The vertex in the first definition.
        before: VertexName,
        /// The vertex in the second definition.
        after: VertexName,
        /// The fields that differ; never empty.
        fields: Vec<FieldChange>,
    },
    /// It says the same, but vertices below it differ, and so does its digest.
    InputsChanged {
        /// The vertex in the first definition.
        before: VertexName,
        /// The vertex in the second definition.
        after: VertexName,
    },
    /// The result is another output, or that of a vertex that does not match.
    Result {
        /// The vertex and output in the first definition; `None` means scratch.
        before: Option<(VertexName, u32)>,
        /// The vertex and output in the second definition; `None` means scratch.
        after: Option<(VertexName, u32)>,
    },
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldChange {
    /// The path, such as `exec.mounts[1].dest`, `metadata.ignore_cache` or `inputs[0]`.
    pub path: String,
    /// What the first definition says; `None` if it says nothing.
    pub before: Option<Value>,
    /// What the second definition says; `None` if it says nothing.
    pub after: Option<Value>,
}

impl Comparison {
    /// Compares two definitions, within the default limits.
    ///
    /// Takes time in proportion to the size of both.
    ///
    /// # Errors
    /// If one of them does not load as a [`Graph`].
    pub fn of(before: &Definition, after: &Definition) -> Result<Self, LoadError> {
        Ok(Self::of_graphs(&Graph::load(before)?, &Graph::load(after)?))
    }

    /// Compares two graphs.
    #[must_use]
    pub fn of_graphs(before: &Graph, after: &Graph) -> Self {
        let matches = matching::matches(before, after);
        let changes = fields::changes(before, after, &matches);
        Self { changes }
    }

    /// Tells whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the differences: removed vertices, then those of the second definition in their
    /// order, then the result.
    #[must_use]
    pub fn changes(&self) -> &[VertexChange] {
        &self.changes
    }
}

/// Digits of a digest in text.
const SHORT: usize = "sha256:".len() + 12;

impl fmt::Display for VertexName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        write_plain(f, self.name.lines().next().unwrap_or_default())?;
        write!(f, " ({:.SHORT$})", self.digest)
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |f: &mut fmt::Formatter<'_>, value: &Option<Value>| match value {
            Some(value) => write!(f, "{value}"),
            None => f.write_str("unset"),
        };
        write!(f, "{}: ", self.path)?;
        show(f, &self.before)?;
        f.write_str(" -> ")?;
        show(f, &self.after)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            match change {
                VertexChange::Removed { vertex } => writeln!(f, "- {vertex}")?,
                VertexChange::Added { vertex } => writeln!(f, "+ {vertex}")?,
                VertexChange::Changed {
                    before,
                    after,
                    fields,
                } => {
                    writeln!(f, "~ {after}, was {:.SHORT$}", before.digest)?;
                    for field in fields {
                        writeln!(f, "    {field}")?;
                    }
                }
                VertexChange::InputsChanged { before, after } => {
                    writeln!(f, "  {after}, was {:.SHORT$}", before.digest)?;
                    writeln!(f, "    only its inputs changed")?;
                }
                VertexChange::Result { before, after } => {
                    let show =
                        |f: &mut fmt::Formatter<'_>, side: &Option<(VertexName, u32)>| match side {
                            Some((vertex, output)) => write!(f, "output {output} of {vertex}"),
                            None => f.write_str("scratch"),
                        };
                    f.write_str("~ result: ")?;
                    show(f, before)?;
                    f.write_str(" -> ")?;
                    show(f, after)?;
                    f.write_str("\n")?;
                }
            }
        }
        Ok(())
    }
}
