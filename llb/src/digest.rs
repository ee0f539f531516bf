//! Content digests: one `Copy` type per thing that is named by its SHA-256.
//!
//! A digest of one kind cannot be passed where another is wanted. Invariant: the text form is
//! `sha256:` and 64 lower-case hexadecimal digits, and nothing else parses. Other algorithms
//! are left out: BuildKit names ops, blobs and layers by SHA-256 only.

mod positions;

use std::fmt;

use sha2::{Digest as _, Sha256};

pub(crate) use positions::OpPositions;

/// What every digest's text form starts with.
const PREFIX: &str = "sha256:";

/// Length of the text form: the prefix and two digits per byte.
const TEXT_LENGTH: usize = PREFIX.len() + 64;

/// Tells why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDigestError {
    /// The text does not start with the name of an algorithm that is known here.
    #[error("digest {text:?} does not start with \"sha256:\" or what else is known")]
    Algorithm {
        /// The text, cut to a readable length.
        text: String,
    },
    /// There are not exactly as many digits as the algorithm yields.
    #[error("digest {text:?} does not have the hexadecimal digits of its algorithm")]
    Length {
        /// The text, cut to a readable length.
        text: String,
    },
    /// A digit is not one of `0-9a-f`.
    #[error("digest {text:?} has digits that are not lower-case hexadecimal")]
    Digit {
        /// The text, cut to a readable length.
        text: String,
    },
}

/// Cuts foreign text so that an error message stays readable.
pub(crate) fn excerpt(text: &str) -> String {
    const KEEP: usize = 100;
    if text.len() <= KEEP {
        return text.to_owned();
    }
    let mut end = KEEP;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// The value of each hexadecimal digit, and 255 for other bytes.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut digit = 0;
    while digit < 16 {
        values[DIGITS[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn parse(text: &[u8]) -> Result<[u8; 32], ParseDigestError> {
    let shown = || excerpt(&String::from_utf8_lossy(&text[..text.len().min(128)]));
    let Some(hex) = text.strip_prefix(PREFIX.as_bytes()) else {
        return Err(ParseDigestError::Algorithm { text: shown() });
    };
    if hex.len() != 64 {
        return Err(ParseDigestError::Length { text: shown() });
    }
    let mut bytes = [0; 32];
    let mut seen = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    if seen > 15 {
        return Err(ParseDigestError::Digit { text: shown() });
    }
    Ok(bytes)
}

/// The text form.
fn text(bytes: &[u8; 32]) -> [u8; TEXT_LENGTH] {
    let mut text = [0; TEXT_LENGTH];
    text[..PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
    for (pair, byte) in text[PREFIX.len()..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

fn write(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = text(bytes);
    f.pad(std::str::from_utf8(&text).expect("BUG: hexadecimal digits are ASCII"))
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Shown and parsed as `sha256:` and 64 lower-case hexadecimal digits. Ordered bytewise.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Makes a digest of its 32 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Parses the text form, which need not be known to be text.
            #[allow(dead_code, reason = "not every kind of digest is read from bytes")]
            pub(crate) fn parse_bytes(text: &[u8]) -> Result<Self, ParseDigestError> {
                parse(text).map(Self)
            }

            /// Hashes `data`.
            #[must_use]
            pub fn of(data: &[u8]) -> Self {
                Self(Sha256::digest(data).into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(&self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                parse(text.as_bytes()).map(Self)
            }
        }
    };
}

digest_type!(
    /// Names an op: the SHA-256 of its serialised bytes.
    OpDigest
);
impl OpDigest {
    /// Length of the text form.
    pub(crate) const TEXT: usize = TEXT_LENGTH;

    /// Returns the text form as bytes.
    pub(crate) fn text(&self) -> [u8; TEXT_LENGTH] {
        text(&self.0)
    }

    /// Returns the text form without the detour through a formatter.
    pub(crate) fn to_text(self) -> String {
        let text = self.text();
        let text = std::str::from_utf8(&text);
        text.expect("BUG: hexadecimal digits are ASCII").to_owned()
    }
}

digest_type!(
    /// Names a blob of a registry or content store by its bytes.
    BlobDigest
);
digest_type!(
    /// Names a layer by its uncompressed tar stream.
    DiffId
);
digest_type!(
    /// Names a stack of layers, as the OCI image specification's chain id.
    ChainId
);

/// A digest that downloads are checked against: sha256, sha384 or sha512.
///
/// Engines name what they store by SHA-256, but verify what they fetch by any of the three. The
/// text form is the algorithm, a colon and as many lower-case hexadecimal digits as it yields.
///
/// ```
/// use ashlar_llb::digest::{BlobDigest, Checksum};
///
/// let long: Checksum = format!("sha384:{}", "0".repeat(96)).parse()?;
/// assert_eq!(long.algorithm(), "sha384");
/// let usual = Checksum::from(BlobDigest::of(b""));
/// assert_eq!(usual.blob_digest(), Some(BlobDigest::of(b"")));
/// # Ok::<(), ashlar_llb::digest::ParseDigestError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(String);

impl Checksum {
    /// Returns the text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the algorithm.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// Returns the digest if its algorithm is sha256.
    #[must_use]
    pub fn blob_digest(&self) -> Option<BlobDigest> {
        self.0.parse().ok()
    }
}

impl std::str::FromStr for Checksum {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let (algorithm, hex) = text.split_once(':').unwrap_or((text, ""));
        let length = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => {
                return Err(ParseDigestError::Algorithm {
                    text: excerpt(text),
                });
            }
        };
        if hex.len() != length {
            return Err(ParseDigestError::Length {
                text: excerpt(text),
            });
        }
        if hex.bytes().any(|byte| VALUES[usize::from(byte)] == 255) {
            return Err(ParseDigestError::Digit {
                text: excerpt(text),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<BlobDigest> for Checksum {
    fn from(digest: BlobDigest) -> Self {
        Self(digest.to_string())
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_form_is_strict() {
        let digest = OpDigest::of(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(format!("{digest:?}"), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(digest));
        assert_eq!(OpDigest::from_bytes(*digest.as_bytes()), digest);
        let algorithm = EMPTY.replace("sha256", "sha512").parse::<BlobDigest>();
        assert!(matches!(algorithm, Err(ParseDigestError::Algorithm { .. })));
        assert!(matches!(
            EMPTY.to_uppercase().parse::<DiffId>(),
            Err(ParseDigestError::Algorithm { .. })
        ));
        let upper = EMPTY.replace('e', "E");
        assert!(matches!(
            upper.parse::<DiffId>(),
            Err(ParseDigestError::Digit { .. })
        ));
        assert!(matches!(
            EMPTY[..70].parse::<ChainId>(),
            Err(ParseDigestError::Length { .. })
        ));
        let long = format!("{EMPTY}{}", "é".repeat(1000));
        let Err(ParseDigestError::Length { text }) = long.parse::<OpDigest>() else {
            panic!("{long}")
        };
        assert!(text.len() < 110, "{text}");
    }
}
