//! What is asked of a whole definition, and of one op in it.
//!
//! This module owns [`Constraints`], the parameters of a marshal, and the options that every
//! op takes (`ignore_cache`, `custom_name`, `require` and so on; the methods are the same on
//! every builder). Invariant: of all these only the platform and the worker filters are part
//! of an op's bytes, and so of its digest; the rest is metadata. Joining the two levels is
//! done here; writing the op is left to [`marshal`](crate::State::marshal).

mod source_map;

use std::collections::{BTreeMap, BTreeSet};

pub use source_map::{SourceMap, SourceRange};

pub(crate) use source_map::{SourceLocation, SourceMapCollector};

use crate::{Platform, pb};

/// Options of one op, or defaults for all ops.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpConstraints {
    /// Replaces the marshal's platform for this op.
    pub(crate) platform: Option<Platform>,
    /// Worker filters; those of the definition come first.
    pub(crate) filters: Vec<String>,
    /// Everything that is not part of the op's bytes, but capabilities that are known here.
    pub(crate) metadata: pb::OpMetadata,
    /// Capabilities that an engine needs to run the op, sorted.
    pub(crate) caps: Vec<&'static str>,
    /// Replaces the marshal's unique id for this local source.
    pub(crate) local_unique_id: Option<String>,
    /// Places in source files that the op came from.
    pub(crate) locations: Vec<SourceLocation>,
}

impl OpConstraints {
    /// Constraints of an op that always needs this capability.
    pub(crate) fn needing(cap: &'static str) -> Self {
        let mut constraints = Self::default();
        constraints.need(cap);
        constraints
    }

    /// Records that an engine needs this capability to run the op.
    pub(crate) fn need(&mut self, cap: &'static str) {
        if let Err(place) = self.caps.binary_search(&cap) {
            self.caps.insert(place, cap);
        }
    }

    /// Takes [`need`](Self::need) back.
    pub(crate) fn need_not(&mut self, cap: &str) {
        self.caps.retain(|needed| *needed != cap);
    }
}

/// Writes the options every op takes as methods of a builder, which has to have a method
/// `options_mut(&mut self) -> &mut OpConstraints`.
macro_rules! op_options {
    ($($header:tt)*) => {
        $($header)* {
            /// Runs the op even if its result is cached.
            #[must_use]
            pub fn ignore_cache(mut self) -> Self {
                self.options_mut().metadata.ignore_cache = true;
                self
            }

            /// Sets the name that progress shows for the op.
            #[must_use]
            pub fn custom_name(self, name: impl Into<String>) -> Self {
                self.description($crate::pb::CUSTOM_NAME_KEY, name)
            }

            /// Adds free text under `key`; the text that was there is replaced.
            #[must_use]
            pub fn description(
                mut self,
                key: impl Into<String>,
                text: impl Into<String>,
            ) -> Self {
                self.options_mut().metadata.description.insert(key.into(), text.into());
                self
            }

            /// Decides whether the result takes part in cache export, whatever the build says.
            #[must_use]
            pub fn export_cache(mut self, export: bool) -> Self {
                self.options_mut().metadata.export_cache =
                    Some($crate::pb::ExportCache { value: export });
                self
            }

            /// Leaves it to the build whether the result takes part in cache export. This is
            /// the default.
            #[must_use]
            pub fn default_export_cache(mut self) -> Self {
                self.options_mut().metadata.export_cache = None;
                self
            }

            /// Shows the op as a member of the progress group `id`, which is called `name`.
            #[must_use]
            pub fn progress_group(
                mut self,
                id: impl Into<String>,
                name: impl Into<String>,
            ) -> Self {
                self.options_mut().metadata.progress_group = Some($crate::pb::ProgressGroup {
                    id: id.into(),
                    name: name.into(),
                    weak: false,
                });
                self
            }

            /// Like `progress_group`, but the op counts as a member only if all others ran too.
            #[must_use]
            pub fn weak_progress_group(
                mut self,
                id: impl Into<String>,
                name: impl Into<String>,
            ) -> Self {
                self.options_mut().metadata.progress_group = Some($crate::pb::ProgressGroup {
                    id: id.into(),
                    name: name.into(),
                    weak: true,
                });
                self
            }

            /// Admits only workers that match all these filters (containerd's filter syntax).
            /// Repeated calls add up. Filters are part of the op's digest.
            #[must_use]
            pub fn require<T: Into<String>>(
                mut self,
                filters: impl IntoIterator<Item = T>,
            ) -> Self {
                let filters = filters.into_iter().map(Into::into);
                self.options_mut().filters.extend(filters);
                self
            }

            /// Limits memory and processor time of the op's process. Metadata only: the
            /// result does not depend on it.
            #[must_use]
            pub fn linux_resources(mut self, resources: $crate::pb::LinuxResources) -> Self {
                self.options_mut().metadata.linux_resources = Some(resources);
                self
            }

            /// Tells which ranges of a source file the op came from, for error messages.
            /// Repeated calls add up.
            #[must_use]
            pub fn location(
                mut self,
                map: &$crate::SourceMap,
                ranges: impl IntoIterator<Item = $crate::SourceRange>,
            ) -> Self {
                self.options_mut().locations.push(map.location(ranges));
                self
            }
        }
    };
}

pub(crate) use op_options;

/// The parameters of [`State::marshal`](crate::State::marshal).
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Constraints, Platform};
///
/// let constraints = Constraints::new(Platform::linux_amd64()).local_unique_id("a1b2");
/// let definition = llb::local("context").marshal(&constraints)?;
/// assert_eq!(definition.ops().len(), 2);
/// # Ok::<(), llb::MarshalError>(())
/// ```
///
/// The option methods that ops have too set defaults for all ops: what an op says wins, and
/// worker filters add up.
#[derive(Clone, Debug)]
pub struct Constraints {
    pub(crate) platform: Platform,
    pub(crate) local_unique_id: Option<String>,
    pub(crate) supported: Option<BTreeSet<String>>,
    pub(crate) defaults: OpConstraints,
}

impl Constraints {
    /// Constraints under which ops without a platform of their own are for `platform`, which
    /// is written as it is, not normalised.
    #[must_use]
    pub fn new(platform: Platform) -> Self {
        Self {
            platform,
            local_unique_id: None,
            supported: None,
            defaults: OpConstraints::default(),
        }
    }

    /// Marks local sources that name no session with this id (`local.unique`). Builds that
    /// must not share what their clients sent have to differ in it. Unset by default: local
    /// sources are then told apart by name and options only.
    #[must_use]
    pub fn local_unique_id(mut self, id: impl Into<String>) -> Self {
        self.local_unique_id = Some(id.into());
        self
    }

    /// Tells which capabilities the engine has. If they lack `exec.meta.setsdefaultpath`, run
    /// steps get a `PATH`. Unknown by default, which is not the same as none.
    #[must_use]
    pub fn supported_caps<T: Into<String>>(mut self, caps: impl IntoIterator<Item = T>) -> Self {
        self.supported = Some(caps.into_iter().map(Into::into).collect());
        self
    }

    /// Returns the platform of ops without one of their own.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// Tells whether the engine has a capability; nothing if that is not known.
    #[must_use]
    pub fn supports(&self, cap: &str) -> Option<bool> {
        self.supported.as_ref().map(|caps| caps.contains(cap))
    }

    fn options_mut(&mut self) -> &mut OpConstraints {
        &mut self.defaults
    }
}

op_options!(impl Constraints);

/// Merges what `newer` says into `metadata`, as for two vertices of one digest.
pub(crate) fn merge_metadata(metadata: &mut pb::OpMetadata, newer: &pb::OpMetadata) {
    metadata.ignore_cache |= newer.ignore_cache;
    extend(&mut metadata.description, &newer.description);
    if newer.export_cache.is_some() {
        metadata.export_cache = newer.export_cache;
    }
    for cap in newer.caps.keys() {
        metadata.caps.insert(cap.clone(), true);
    }
    if newer.progress_group.is_some() {
        metadata.progress_group.clone_from(&newer.progress_group);
    }
    if newer.linux_resources.is_some() {
        metadata.linux_resources.clone_from(&newer.linux_resources);
    }
}

/// Copies the entries of `from` over those of `into`.
pub(crate) fn extend(into: &mut BTreeMap<String, String>, from: &BTreeMap<String, String>) {
    for (key, value) in from {
        into.insert(key.clone(), value.clone());
    }
}
