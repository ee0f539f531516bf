//! Why a vertex ran.

/// The reason why a vertex was not taken from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// No record of this op with whatever inputs: the op itself is new, or changed.
    NeverSeen,
    /// The op was seen before, but never with this input.
    InputChanged {
        /// The first input that differs.
        input: usize,
    },
    /// The op was seen before, but never with this content of an input.
    ContentChanged {
        /// The first input that differs.
        input: usize,
    },
    /// Each input was seen before, but not together with the others.
    InputsNewTogether,
    /// The key is known, but its result is gone or was never kept.
    DataGone,
    /// The vertex, or one whose result it uses, was asked to ignore the cache.
    Ignored,
    /// The key stands for one solve only, as that of a local directory does.
    Volatile,
}
