//! Ceilings on what a definition from outside may cost.

/// How large a definition may be. The defaults are far above what real builds use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a serialised definition. 64 MiB: a thousand times a large build's.
    pub definition_bytes: usize,
    /// Ops of a definition, the terminal one included. 1,000,000.
    pub ops: usize,
    /// Bytes of memory that the decoded messages may take, roughly. 512 MiB: a message of two
    /// bytes can decode to a structure a hundred times its size. Whatever is said here, they may take
    /// no more than 16 MiB and eight bytes for each byte of the ops; real ones take fewer.
    pub decoded_bytes: usize,
}

impl Limits {
    /// Memory that messages may take for each byte of the ops.
    pub(crate) const DECODED_PER_BYTE: usize = 8;
    /// Memory that messages may take beside.
    pub(crate) const DECODED_BESIDE: usize = 16 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            definition_bytes: 64 << 20,
            ops: 1_000_000,
            decoded_bytes: 512 << 20,
        }
    }
}
