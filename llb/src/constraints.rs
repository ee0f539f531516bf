//! What is asked of a whole definition, and of one op in it.
//!
//! This module owns [`Constraints`], the parameters of a marshal, and the options that every
//! op takes (`ignore_cache`, `custom_name`, `require` and so on; the methods are the same on
//! every builder). Invariant: of all these only the platform and the worker filters are part
//! of an op's bytes, and so of its digest; the rest is metadata. Joining the two levels is
//! done here; writing the op is left to [`marshal`](crate::State::marshal).

mod source_map;
mod texts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use source_map::{SourceMap, SourceRange};

pub(crate) use source_map::{SourceLocation, SourceMapCollector};
pub(crate) use texts::Texts;

use crate::caps::{Cap, Caps};
use crate::encode::{Encode as _, Writer};
use crate::{Platform, pb};

/// Options of one op, or defaults for all ops.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpConstraints {
    /// Capabilities that an engine needs to run the op.
    pub(crate) caps: Caps,
    pub(crate) description: Texts,
    pub(crate) ignore_cache: bool,
    more: Option<Box<MoreConstraints>>,
}

/// Options that few ops have.
#[derive(Clone, Debug, Default)]
pub(crate) struct MoreConstraints {
    /// Replaces the marshal's platform for this op.
    pub(crate) platform: Option<Arc<Platform>>,
    /// Worker filters; those of the definition come first.
    pub(crate) filters: Vec<String>,
    pub(crate) export_cache: Option<pb::ExportCache>,
    /// Capabilities that the caller named.
    pub(crate) caps: BTreeSet<String>,
    pub(crate) progress_group: Option<pb::ProgressGroup>,
    pub(crate) linux_resources: Option<pb::LinuxResources>,
    /// Replaces the marshal's unique id for this local source.
    pub(crate) local_unique_id: Option<String>,
    /// Places in source files that the op came from.
    pub(crate) locations: Vec<SourceLocation>,
}

static NO_MORE: MoreConstraints = MoreConstraints {
    platform: None,
    filters: Vec::new(),
    export_cache: None,
    caps: BTreeSet::new(),
    progress_group: None,
    linux_resources: None,
    local_unique_id: None,
    locations: Vec::new(),
};

impl OpConstraints {
    /// Constraints of an op that always needs this capability.
    pub(crate) fn needing(cap: Cap) -> Self {
        let mut constraints = Self::default();
        constraints.need(cap);
        constraints
    }

    /// Records that an engine needs this capability to run the op.
    pub(crate) fn need(&mut self, cap: Cap) {
        self.caps.insert(cap);
    }

    /// Takes [`need`](Self::need) back.
    pub(crate) fn need_not(&mut self, cap: Cap) {
        self.caps.remove(cap);
    }

    /// The options that few ops have.
    pub(crate) fn more(&self) -> &MoreConstraints {
        self.more.as_deref().unwrap_or(&NO_MORE)
    }

    pub(crate) fn more_mut(&mut self) -> &mut MoreConstraints {
        self.more.get_or_insert_default()
    }

    /// Tells whether nothing is said that is metadata.
    pub(crate) fn says_nothing(&self) -> bool {
        self.to_metadata(Caps::default()) == pb::OpMetadata::default()
    }

    /// What is said of an op that needs `caps`.
    pub(crate) fn to_metadata(&self, caps: Caps) -> pb::OpMetadata {
        let more = self.more();
        let named = more.caps.iter().cloned();
        let all = caps.names().map(str::to_owned).chain(named);
        let texts = self.description.iter();
        pb::OpMetadata {
            ignore_cache: self.ignore_cache,
            description: texts.map(|(key, text)| (key.into(), text.into())).collect(),
            export_cache: more.export_cache,
            caps: all.map(|cap| (cap, true)).collect(),
            progress_group: more.progress_group.clone(),
            linux_resources: more.linux_resources.clone(),
        }
    }

    /// Writes what [`to_metadata`](Self::to_metadata) makes, without making it.
    pub(crate) fn write_metadata(&self, caps: Caps, out: &mut Writer) {
        let more = self.more();
        if !more.caps.is_empty() {
            return self.to_metadata(caps).write_fields(out);
        }
        let fields = pb::MetadataFields {
            ignore_cache: self.ignore_cache,
            description: self.description.iter(),
            export_cache: more.export_cache.as_ref(),
            caps: caps.names().map(|cap| (cap, true)),
            progress_group: more.progress_group.as_ref(),
            linux_resources: more.linux_resources.as_ref(),
        };
        fields.write(out);
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
                self.options_mut().ignore_cache = true;
                self
            }

            /// Sets the name that progress shows for the op.
            #[must_use]
            pub fn custom_name(self, name: impl AsRef<str>) -> Self {
                self.description($crate::pb::CUSTOM_NAME_KEY, name)
            }

            /// Adds free text under `key`; the text that was there is replaced.
            #[must_use]
            pub fn description(
                mut self,
                key: impl AsRef<str>,
                text: impl AsRef<str>,
            ) -> Self {
                self.options_mut().description.insert(key.as_ref(), text.as_ref());
                self
            }

            /// Decides whether the result takes part in cache export, whatever the build says.
            #[must_use]
            pub fn export_cache(mut self, export: bool) -> Self {
                let wish = $crate::pb::ExportCache { value: export };
                self.options_mut().more_mut().export_cache = Some(wish);
                self
            }

            /// Leaves it to the build whether the result takes part in cache export. This is
            /// the default.
            #[must_use]
            pub fn default_export_cache(mut self) -> Self {
                self.options_mut().more_mut().export_cache = None;
                self
            }

            /// Shows the op as a member of the progress group `id`, which is called `name`.
            #[must_use]
            pub fn progress_group(
                mut self,
                id: impl Into<String>,
                name: impl Into<String>,
            ) -> Self {
                self.options_mut().more_mut().progress_group = Some($crate::pb::ProgressGroup {
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
                self.options_mut().more_mut().progress_group = Some($crate::pb::ProgressGroup {
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
                self.options_mut().more_mut().filters.extend(filters);
                self
            }

            /// Limits memory and processor time of the op's process. Metadata only: the
            /// result does not depend on it.
            #[must_use]
            pub fn linux_resources(mut self, resources: $crate::pb::LinuxResources) -> Self {
                self.options_mut().more_mut().linux_resources = Some(resources);
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
                self.options_mut().more_mut().locations.push(map.location(ranges));
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
