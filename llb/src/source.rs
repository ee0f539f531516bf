//! Sources: where trees come from.
//!
//! Owns the source vertex and what all sources share; each kind has a module of its own with
//! its builder. Invariants: attributes are written as the Go client writes them, and an option
//! that needs a capability records it. Fetching anything is the engine's.

mod blob;
mod git;
mod git_url;
mod http;
mod image;
mod local;
mod oci_layout;
mod raw;
mod resolver;

use std::collections::BTreeMap;

pub use blob::{Blob, OciBlob, image_blob, oci_layout_blob};
pub use git::{Git, GitModifiedTime, git};
pub use http::{Http, http};
pub use image::{Image, ResolveMode, image};
pub use local::{Differ, Local, local};
pub use oci_layout::{OciLayout, oci_layout};
pub use raw::{RawSource, raw_source};
pub use resolver::{ImageRequest, ImageResolver, ResolvedImage};

use crate::caps::Cap;
use crate::constraints::OpConstraints;
use crate::encode::texts;
use crate::marshal::OpWriter;
use crate::vertex::{Output, Vertex, VertexOp};
use crate::{MarshalError, Mode, State, pb};

/// A source op in the making.
#[derive(Clone, Debug)]
pub(crate) struct SourceVertex {
    pub(crate) identifier: String,
    pub(crate) attrs: BTreeMap<String, String>,
    /// Why the reference cannot be used, found when the source was described.
    pub(crate) invalid: Option<InvalidSource>,
}

/// Tells why a source cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSource {
    /// The image reference does not parse.
    #[error("image reference {reference:?} is not valid")]
    Reference {
        /// The reference as it was given.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: crate::reference::ParseReferenceError,
    },
    /// A blob is named by its digest.
    #[error("blob reference {reference:?} has no digest")]
    NoDigest {
        /// The reference as it was given.
        reference: String,
    },
    /// A blob is named by its digest alone.
    #[error("blob reference {reference:?} has a tag")]
    Tagged {
        /// The reference as it was given.
        reference: String,
    },
    /// The file's mode has bits that are no permissions.
    #[error("mode {mode} has bits that are no permissions; numbers of modes are octal, as 0o644")]
    Mode {
        /// The mode.
        mode: Mode,
    },
    /// The identifier is empty.
    #[error("the source identifier is empty")]
    NoIdentifier,
}

/// Makes the state of a new source.
pub(crate) fn source_state(identifier: String, cap: Option<Cap>) -> State {
    let constraints = cap.map_or_else(OpConstraints::default, OpConstraints::needing);
    let vertex = Vertex {
        op: VertexOp::Source(Box::new(SourceVertex {
            identifier,
            attrs: BTreeMap::new(),
            invalid: None,
        })),
        constraints,
    };
    State::new(Some(Output::first(vertex)))
}

/// Writes what all source builders have: `state`, op options and platform.
macro_rules! source_builder {
    ($type:ident) => {
        impl $type {
            fn vertex_mut(&mut self) -> &mut $crate::vertex::Vertex {
                $crate::op_state::vertex_mut(&mut self.state)
                    .expect("BUG: a source builder's state has a vertex")
            }

            #[allow(dead_code, reason = "not every source has attributes")]
            fn source_mut(&mut self) -> &mut $crate::source::SourceVertex {
                match &mut self.vertex_mut().op {
                    $crate::vertex::VertexOp::Source(source) => source,
                    _ => unreachable!("BUG: a source builder's vertex is a source"),
                }
            }

            fn options_mut(&mut self) -> &mut $crate::constraints::OpConstraints {
                &mut self.vertex_mut().constraints
            }

            /// Sets an attribute and, if there is one, the capability it needs.
            #[allow(dead_code, reason = "not every source has attributes")]
            fn attr(
                mut self,
                key: &str,
                value: impl Into<String>,
                cap: Option<$crate::caps::Cap>,
            ) -> Self {
                self.source_mut().attrs.insert(key.to_owned(), value.into());
                if let Some(cap) = cap {
                    self.options_mut().need(cap);
                }
                self
            }

            /// Sets or, with an empty value, removes an attribute; with it the capability.
            #[allow(dead_code, reason = "not every source has such attributes")]
            fn text(
                mut self,
                key: &str,
                value: impl Into<String>,
                cap: Option<$crate::caps::Cap>,
            ) -> Self {
                let value = value.into();
                if !value.is_empty() {
                    return self.attr(key, value, cap);
                }
                self.source_mut().attrs.remove(key);
                if let Some(cap) = cap {
                    self.options_mut().need_not(cap);
                }
                self
            }

            /// Sets an attribute by its name in the protocol: for those that there is no
            /// method for.
            #[must_use]
            pub fn attribute(self, key: impl AsRef<str>, value: impl Into<String>) -> Self {
                self.attr(key.as_ref(), value, None)
            }

            /// Records that an engine needs this capability.
            #[must_use]
            pub fn capability(mut self, cap: impl AsRef<str>) -> Self {
                let caps = &mut self.options_mut().more_mut().caps;
                caps.insert(cap.as_ref().to_owned());
                self
            }

            /// Sets the platform of this source, as it is written, in place of the marshal's.
            /// Steps on its tree inherit it.
            #[must_use]
            pub fn platform(mut self, platform: $crate::Platform) -> Self {
                let platform = std::sync::Arc::new(platform);
                self.options_mut().more_mut().platform = Some(std::sync::Arc::clone(&platform));
                if let Some(mut output) = self.state.output.take() {
                    output.platform = Some(platform);
                    self.state = self.state.with_output(Some(output));
                }
                self
            }
        }

        $crate::constraints::op_options!(impl $type);
        $crate::op_state::state_like!($type);
    };
}

pub(crate) use source_builder;

impl SourceVertex {
    /// Has the marshal fail if the mode has bits that are no permissions, and no longer if the
    /// last mode had.
    fn check_mode(&mut self, mode: Mode) {
        if !mode.is_plain() {
            self.invalid.get_or_insert(InvalidSource::Mode { mode });
        } else if matches!(self.invalid, Some(InvalidSource::Mode { .. })) {
            self.invalid = None;
        }
    }

    /// Name in error messages.
    pub(crate) fn name(&self) -> String {
        if self.identifier.is_empty() {
            return "source without identifier".to_owned();
        }
        self.identifier.clone()
    }

    pub(crate) fn write(&self, op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
        let invalid = |source: InvalidSource| MarshalError::InvalidSource {
            step: op.step(),
            source,
        };
        if let Some(reason) = &self.invalid {
            return Err(invalid(reason.clone()));
        }
        if self.identifier.is_empty() {
            return Err(invalid(InvalidSource::NoIdentifier));
        }
        let mut unique = None;
        if self.identifier.starts_with("local://") && !self.attrs.contains_key("local.session") {
            let own = op.options().more().local_unique_id.as_deref();
            let own = own.filter(|id| !id.is_empty());
            unique = own.or(op.constraints().local_unique_id.as_deref());
        }
        let specific = ["docker-image://", "oci-layout://"];
        let has_platform = specific
            .iter()
            .any(|scheme| self.identifier.starts_with(scheme));
        let platform = has_platform.then(|| op.platform());
        let fields = pb::SourceFields {
            identifier: &self.identifier,
            attrs: with_unique(&self.attrs, unique),
        };
        if unique.is_some() {
            op.need(Cap::SourceLocalUnique);
        }
        op.write(platform, pb::op::SOURCE, |out| fields.write(out));
        Ok(())
    }
}

/// The attributes with the id that tells local sources apart, if there is one.
fn with_unique<'a>(
    attrs: &'a BTreeMap<String, String>,
    unique: Option<&'a str>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    const KEY: &str = "local.unique";
    let key = if unique.is_some() { KEY } else { "" };
    let before = texts(attrs).take_while(move |(known, _)| *known < key);
    let after = texts(attrs).skip_while(move |(known, _)| *known <= key && !key.is_empty());
    before.chain(unique.map(|id| (KEY, id))).chain(after)
}
