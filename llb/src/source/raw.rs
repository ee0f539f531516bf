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
    /// Marks a `local://` source with `id` instead of the marshal's unique id; see
    /// [`Local::unique_id`](crate::Local::unique_id).
    #[must_use]
    pub fn unique_id(mut self, id: impl Into<String>) -> Self {
        self.options_mut().more_mut().local_unique_id = Some(id.into());
        self
    }
}
