//! Identifiers of the solver: fixed-size, `Copy`, one type per meaning.
//!
//! Owns the digest newtypes that are not part of LLB itself ([`CacheDigest`], [`CacheKey`],
//! [`RecordDigest`], [`ContentDigest`], [`Selector`]) and the ids of stored things ([`LayerId`], [`StackId`]). Digests of ops and
//! blobs come from `ashlar_llb`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The text is not `sha256:` followed by 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a sha256 digest (sha256: and 64 lower-case hexadecimal digits)")]
pub struct ParseIdError {
    /// The text that was given, cut to 100 bytes.
    pub text: String,
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (out, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *out = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 bytes of a SHA-256 digest.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Hashes `data`.
            pub fn of(data: &[u8]) -> Self {
                Self(Sha256::digest(data).into())
            }

            /// The 32 bytes of the digest.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("sha256:")?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self).ok_or_else(|| ParseIdError {
                    text: text.chars().take(100).collect(),
                })
            }
        }
    };
}

digest_type! {
    /// The digest of an op for caching (`CacheMap.Digest` in BuildKit): what the op does, without
    /// where its inputs come from.
    CacheDigest
}
digest_type! {
    /// The id of a cache key: an op's [`CacheDigest`] and output together with the keys of its
    /// inputs. For an op without inputs it is BuildKit's record digest,
    /// `sha256("<cache digest>@<output>")`.
    CacheKey
}
digest_type! {
    /// A checksum of file system content, as `cache/contenthash` of BuildKit computes it.
    ContentDigest
}
digest_type! {
    /// A digest of the part of an input that an op looks at (`CacheMap.Deps[].Selector` in
    /// BuildKit): part of the link between the input's key and the op's key.
    Selector
}

digest_type! {
    /// What BuildKit's cache config calls the digest of a record: an op's [`CacheDigest`] and
    /// output, `sha256("<cache digest>@<output>")`. Of an op without inputs it is also the
    /// [`CacheKey`].
    RecordDigest
}

impl RecordDigest {
    /// The digest of the records of an output of an op.
    pub fn new(digest: CacheDigest, output: u32) -> Self {
        Self(*CacheKey::root(digest, output).as_bytes())
    }
}

impl CacheKey {
    /// The key of a vertex without inputs: `sha256("<digest>@<output>")`, as in BuildKit.
    pub fn root(digest: CacheDigest, output: u32) -> Self {
        Self::of(format!("{digest}@{output}").as_bytes())
    }

    /// The key of content: `sha256("<digest>@-1")`, as in BuildKit.
    pub fn content(digest: ContentDigest) -> Self {
        Self::of(format!("{digest}@-1").as_bytes())
    }
}

/// The id of a stored layer: 40 random bits, written as eight characters, which are the name of
/// the layer's directory below `layers/`.
///
/// Names are short because overlay mounts list them in one page of options.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(u64);

/// 32 letters and digits without those that look alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl LayerId {
    /// Makes an id from the low 40 bits of `bits`.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & 0xff_ffff_ffff)
    }

    /// The 40 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for shift in (0..8).rev() {
            let letter = ALPHABET[usize::try_from(self.0 >> (shift * 5) & 31).unwrap_or(0)];
            fmt::Write::write_char(f, char::from(letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LayerId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bits = (text.len() == 8)
            .then(|| {
                text.bytes().try_fold(0_u64, |bits, byte| {
                    let value = ALPHABET.iter().position(|&letter| letter == byte)?;
                    Some(bits << 5 | u64::try_from(value).ok()?)
                })
            })
            .flatten();
        bits.map(Self).ok_or_else(|| ParseIdError {
            text: text.chars().take(100).collect(),
        })
    }
}

/// The id of a stack of layers: its row in the store's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub i64);

/// Names a stored result. Positive ids are those of stacks; others are for whoever stores the
/// result to give a meaning, for example 0 for an empty one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResultId(pub i64);

impl From<StackId> for ResultId {
    fn from(stack: StackId) -> Self {
        Self(stack.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_what_they_write_and_refuse_the_rest() {
        let digest = CacheDigest::of(b"x");
        assert_eq!(digest.to_string().parse::<CacheDigest>().unwrap(), digest);
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &digest.to_string().to_uppercase(),
        ] {
            assert!(bad.parse::<CacheDigest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn layer_ids_read_what_they_write() {
        for bits in [0, 1, 31, 32, 0xff_ffff_ffff, 0x12_3456_789a] {
            let id = LayerId::from_bits(bits);
            assert_eq!(id.to_string().len(), 8);
            assert_eq!(id.to_string().parse::<LayerId>().unwrap(), id);
        }
        assert!("../../..".parse::<LayerId>().is_err());
    }
}
