//! How the key of an op follows from its digest and its inputs.
//!
//! ```text
//! no inputs    sha256("<digest>@<output>")                        BuildKit's root key
//! content      sha256("<content digest>@-1")                      BuildKit's slow key
//! otherwise    sha256("ashlar.key.v1\0" digest output:u32 { key has-selector:u8 selector }*)
//! ```
//! All integers are little-endian; an absent selector is 32 zero bytes. The third form names
//! new keys only; matching goes by links.

use sha2::{Digest as _, Sha256};

use crate::id::{CacheDigest, CacheKey, ContentDigest, Selector};

/// What one input contributes to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct InputPart {
    /// The input's content key if the op is keyed by content, else its own key.
    pub key: CacheKey,
    /// The selector that goes with a definition key; `None` with a content key.
    pub selector: Option<Selector>,
}

impl InputPart {
    /// Puts a part together.
    pub const fn new(key: CacheKey, selector: Option<Selector>) -> Self {
        Self { key, selector }
    }

    /// The part of an input that is keyed by content.
    pub fn by_content(digest: ContentDigest) -> Self {
        Self::new(CacheKey::content(digest), None)
    }
}

/// Names a run of an op on given inputs, whatever the output: runs of equal keys are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunKey([u8; 32]);

impl RunKey {
    /// The run of an op on inputs.
    pub fn new(digest: CacheDigest, inputs: &[InputPart]) -> Self {
        Self(
            hash(b"ashlar.run.v1\0", digest, 0, inputs)
                .finalize()
                .into(),
        )
    }
}

impl std::fmt::Display for RunKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl RunKey {
    /// The first run of an op that no record knows, on inputs whose content is not known yet.
    pub fn first(digest: CacheDigest) -> Self {
        Self(hash(b"ashlar.first.v1\0", digest, 0, &[]).finalize().into())
    }
}

impl CacheKey {
    /// The key of one output of an op on inputs.
    pub fn derive(digest: CacheDigest, output: u32, inputs: &[InputPart]) -> Self {
        if inputs.is_empty() {
            return Self::root(digest, output);
        }
        Self::from_bytes(
            hash(b"ashlar.key.v1\0", digest, output, inputs)
                .finalize()
                .into(),
        )
    }
}

fn hash(domain: &[u8], digest: CacheDigest, output: u32, inputs: &[InputPart]) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update(domain);
    hasher.update(digest.as_bytes());
    hasher.update(output.to_le_bytes());
    for input in inputs {
        hasher.update(input.key.as_bytes());
        hasher.update([u8::from(input.selector.is_some())]);
        hasher.update(
            input
                .selector
                .map_or([0; 32], |selector| *selector.as_bytes()),
        );
    }
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_written_down() {
        let digest = CacheDigest::of(b"op");
        assert_eq!(CacheKey::derive(digest, 1, &[]), CacheKey::root(digest, 1));
        let part = InputPart::new(CacheKey::of(b"input"), None);
        let preimage = [
            b"ashlar.key.v1\0".as_slice(),
            digest.as_bytes(),
            &[2, 0, 0, 0],
            part.key.as_bytes(),
            &[0; 33],
        ]
        .concat();
        assert_eq!(
            CacheKey::derive(digest, 2, &[part]),
            CacheKey::of(&preimage)
        );
    }

    #[test]
    fn every_part_counts() {
        let part = InputPart::new(CacheKey::of(b"input"), None);
        let with = InputPart::new(part.key, Some(Selector::from_bytes([0; 32])));
        let digest = CacheDigest::of(b"op");
        let keys = [
            CacheKey::derive(digest, 0, &[part]),
            CacheKey::derive(digest, 1, &[part]),
            CacheKey::derive(CacheDigest::of(b"other"), 0, &[part]),
            CacheKey::derive(digest, 0, &[with]),
            CacheKey::derive(digest, 0, &[part, part]),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
        assert_ne!(RunKey::new(digest, &[part]), RunKey::new(digest, &[with]));
        assert_ne!(RunKey::new(digest, &[]), RunKey::first(digest));
    }
}
