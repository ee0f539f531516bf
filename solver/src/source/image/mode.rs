//! Whether to ask.

/// Whether registries are asked what a tag leads to. What was learnt is kept in the store, by
/// reference; a reference with a digest is never asked about once its manifest is in the store.
///
/// Images that the store has a name for ([`Images`](crate::images::Images)) are taken before anybody
/// is asked if the source op prefers them, and after a registry that was asked gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ResolveMode {
    /// Each solve asks, as BuildKit does.
    #[default]
    Always,
    /// Only for references that no earlier solve asked for and the store has no name for, and for
    /// those whose source op asks for it (`ResolveMode::ForcePull` of `ashlar-llb`).
    IfMissing,
    /// Never; nothing is downloaded either. What is not in the store is an error.
    Offline,
}
