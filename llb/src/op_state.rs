//! States that an op has just made, while the op still takes options.
//!
//! Owns [`OpState`], the plainest of them, and the way all of them behave: they are states
//! (every method of [`State`] works on them and gives a plain state) and they are builders of
//! the op that made them. Invariant: an option changes this value's op, never one that was
//! copied from it before.

use std::sync::Arc;

use crate::constraints::{OpConstraints, op_options};
use crate::vertex::Vertex;
use crate::{Platform, State};

/// Makes a builder with a field `state` usable wherever a state is.
macro_rules! state_like {
    ($type:ident) => {
        impl std::ops::Deref for $type {
            type Target = $crate::State;

            fn deref(&self) -> &$crate::State {
                &self.state
            }
        }

        impl From<$type> for $crate::State {
            fn from(made: $type) -> Self {
                made.state
            }
        }

        impl From<&$type> for $crate::State {
            fn from(made: &$type) -> Self {
                made.state.clone()
            }
        }

        impl From<$type> for $crate::Mount {
            fn from(made: $type) -> Self {
                Self::bind(made.state)
            }
        }

        impl From<&$type> for $crate::Mount {
            fn from(made: &$type) -> Self {
                Self::bind(&made.state)
            }
        }

        impl From<$type> for $crate::CopyInput {
            fn from(made: $type) -> Self {
                made.state.into()
            }
        }

        impl From<&$type> for $crate::CopyInput {
            fn from(made: &$type) -> Self {
                (&made.state).into()
            }
        }
    };
}

pub(crate) use state_like;

/// A state whose op still takes the options that every op takes.
///
/// ```
/// use ashlar_llb as llb;
///
/// let tools = llb::merge([llb::image("alpine"), llb::image("busybox")])
///     .custom_name("join the tools");
/// let listed = tools.run(["ls"]).root();
/// # let _ = listed;
/// ```
#[derive(Clone, Debug)]
pub struct OpState {
    state: State,
    /// Takes the options if there was nothing to make and the state is someone else's.
    unused: Option<OpConstraints>,
}

impl OpState {
    /// The state of a vertex that was made just now.
    pub(crate) fn new(state: State) -> Self {
        Self {
            state,
            unused: None,
        }
    }

    /// A state that was there before. Options have no effect on it.
    pub(crate) fn existing(state: State) -> Self {
        Self {
            state,
            unused: Some(OpConstraints::default()),
        }
    }

    fn options_mut(&mut self) -> &mut OpConstraints {
        match (&mut self.unused, vertex_mut(&mut self.state)) {
            (None, Some(vertex)) => &mut vertex.constraints,
            (unused, _) => unused.get_or_insert_default(),
        }
    }

    /// Sets the platform of a build op. Ops without a platform ignore it.
    #[must_use]
    pub fn op_platform(mut self, platform: Platform) -> Self {
        self.options_mut().more_mut().platform = Some(platform.into());
        self
    }
}

op_options!(impl OpState);
state_like!(OpState);

/// The vertex that makes the state's tree, copied first if anything else refers to it.
pub(crate) fn vertex_mut(state: &mut State) -> Option<&mut Vertex> {
    let output = state.output.as_mut()?;
    Some(Arc::make_mut(&mut output.vertex))
}
