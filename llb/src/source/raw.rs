//! Sources that have no builder of their own.

use crate::State;
use crate::source::{source_builder, source_state};

/// A source given by identifier and attributes; a [`State`] whose op still takes options.
#[derive(Clone, Debug)]
pub struct RawSource {
    state: State,
}

/// Starts from a source that this library has no builder for.
///
/// ```
/// use ashlar_llb as llb;
///
/// let tree = llb::raw_source("custom://thing").attribute("custom.depth", "3");
/// # let _ = tree;
/// ```
#[must_use]
pub fn raw_source(identifier: impl Into<String>) -> RawSource {
    RawSource {
        state: source_state(identifier.into(), None),
    }
}

source_builder!(RawSource);

impl RawSource {
    /// Sets an attribute.
    #[must_use]
    pub fn attribute(self, key: impl AsRef<str>, value: impl Into<String>) -> Self {
        self.attr(key.as_ref(), value, None)
    }

    /// Records that an engine needs this capability.
    #[must_use]
    pub fn capability(mut self, cap: impl AsRef<str>) -> Self {
        self.options_mut().need(cap.as_ref());
        self
    }
}
