//! Image references, such as `alpine:3.20` and `ghcr.io/a/b@sha256:…`.
//!
//! The grammar and the normal form are those of `github.com/distribution/reference`. Invariant:
//! a [`Reference`] is fully qualified and valid. Nothing is looked up.

use std::fmt;
use std::str::FromStr;

use crate::digest::{BlobDigest, Checksum, excerpt};

/// Registry of references that name none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// Tag of references that are meant to have one and name none.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
/// Longest path of a repository, a limit of registries.
const PATH_LIMIT: usize = 255;
/// Longest tag.
const TAG_LIMIT: usize = 128;

/// A valid, fully qualified image reference: where, which repository, which image of it.
///
/// ```
/// use ashlar_llb::reference::Reference;
///
/// let reference: Reference = "alpine".parse()?;
/// assert_eq!(reference.to_string(), "docker.io/library/alpine");
/// assert_eq!(reference.with_default_tag().to_string(), "docker.io/library/alpine:latest");
/// # Ok::<(), ashlar_llb::reference::ParseReferenceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Tells why a text is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseReferenceError {
    /// The text does not follow the grammar.
    #[error("invalid image reference {text:?}")]
    Format {
        /// The text, cut to a readable length.
        text: String,
    },
    /// The repository has upper-case letters.
    #[error("invalid image reference {text:?}: the repository name must be lower-case")]
    UpperCase {
        /// The text, cut to a readable length.
        text: String,
    },
    /// The text could be mistaken for an image id.
    #[error("invalid image reference {text:?}: 64 hexadecimal digits are an image id")]
    ImageId {
        /// The text.
        text: String,
    },
    /// The repository's path is longer than 255 characters.
    #[error("invalid image reference {text:?}: the repository name is longer than 255 characters")]
    TooLong {
        /// The text, cut to a readable length.
        text: String,
    },
    /// The digest's algorithm is not one of sha256, sha384 and sha512.
    #[error("invalid image reference {text:?}: the digest algorithm is not supported")]
    DigestAlgorithm {
        /// The text, cut to a readable length.
        text: String,
    },
    /// The digest does not have as many lower-case digits as its algorithm needs.
    #[error("invalid image reference {text:?}: the digest has the wrong length or digits")]
    Digest {
        /// The text, cut to a readable length.
        text: String,
    },
}

impl Reference {
    /// Parses a reference as users write it: without a registry it means Docker Hub, and without
    /// a slash one of its official images.
    ///
    /// # Errors
    /// See [`ParseReferenceError`].
    pub fn parse(input: &str) -> Result<Self, ParseReferenceError> {
        let text = || excerpt(input);
        if input.len() == 64 && input.bytes().all(is_lower_hex) {
            return Err(ParseReferenceError::ImageId { text: text() });
        }
        let (domain, remainder) = split_domain(input);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(ParseReferenceError::UpperCase { text: text() });
        }
        let format = || ParseReferenceError::Format { text: text() };
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (&*remainder, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_path(path) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest_shaped) {
            return Err(format());
        }
        // What does not look like a registry may still be the first part of a path.
        let (domain, path) = if is_domain(domain) {
            (domain.to_owned(), path.to_owned())
        } else if is_path(domain) {
            (String::new(), format!("{domain}/{path}"))
        } else {
            return Err(format());
        };
        if path.len() > PATH_LIMIT {
            return Err(ParseReferenceError::TooLong { text: text() });
        }
        if let Some(digest) = digest {
            check_digest(digest, text)?;
        }
        let (tag, digest) = (tag.map(str::to_owned), digest.map(str::to_owned));
        Ok(Self {
            domain,
            path,
            tag,
            digest,
        })
    }

    /// Returns the registry's host, with its port if there is one.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the repository's path in the registry, such as `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns domain and path, such as `docker.io/library/alpine`.
    #[must_use]
    pub fn name(&self) -> String {
        if self.domain.is_empty() {
            return self.path.clone();
        }
        format!("{}/{}", self.domain, self.path)
    }

    /// Returns the tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest with its algorithm, which is sha256, sha384 or sha512.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns the digest if its algorithm is sha256.
    #[must_use]
    pub fn blob_digest(&self) -> Option<BlobDigest> {
        self.digest()?.parse().ok()
    }

    /// Tells whether there is neither tag nor digest.
    #[must_use]
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Adds the tag `latest` if there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Replaces the tag.
    ///
    /// # Errors
    /// [`ParseReferenceError::Format`] if it is not a valid tag.
    pub fn with_tag(mut self, tag: &str) -> Result<Self, ParseReferenceError> {
        if !is_tag(tag) {
            return Err(ParseReferenceError::Format { text: excerpt(tag) });
        }
        self.tag = Some(tag.to_owned());
        Ok(self)
    }

    /// Replaces the digest.
    #[must_use]
    pub fn with_digest(mut self, digest: impl Into<Checksum>) -> Self {
        self.digest = Some(digest.into().to_string());
        self
    }

    /// Returns the form Docker resolves: of tag and digest only the digest, and of neither the
    /// tag `latest`.
    #[must_use]
    pub fn to_docker(&self) -> Self {
        let mut reference = self.clone();
        if reference.digest.is_some() {
            reference.tag = None;
        }
        reference.with_default_tag()
    }

    /// Returns the short form users write, without what is the default. It is for people to
    /// read: as in Docker, that of `docker.io/a.b/c` is `a.b/c`, which means another registry.
    #[must_use]
    pub fn familiar(&self) -> String {
        let mut familiar = self.clone();
        if familiar.domain == DEFAULT_DOMAIN {
            familiar.domain.clear();
            let official = familiar.path.strip_prefix(OFFICIAL_PREFIX);
            if let Some(name) = official.filter(|name| !name.contains('/')) {
                familiar.path = name.to_owned();
            }
        }
        familiar.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, ParseReferenceError> {
        Self::parse(text)
    }
}

/// Splits off the registry, and puts in what is left out.
fn split_domain(input: &str) -> (&str, std::borrow::Cow<'_, str>) {
    let named = input.split_once('/').filter(|(first, _)| {
        first.contains(['.', ':']) || *first == "localhost" || first.to_lowercase() != *first
    });
    let (domain, remainder) = match named {
        None | Some((LEGACY_DEFAULT_DOMAIN, _)) => (
            DEFAULT_DOMAIN,
            named.map_or(input, |(_, remainder)| remainder),
        ),
        Some(named) => named,
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL_PREFIX}{remainder}").into());
    }
    (domain, remainder.into())
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// A host name or a bracketed IPv6 address, and maybe a port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(bracketed) => {
            let Some((address, port)) = bracketed.split_once(']') else {
                return false;
            };
            let valid = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if address.is_empty() || !address.bytes().all(valid) {
                return false;
            }
            (None, port)
        }
        None => {
            let colon = domain.find(':').unwrap_or(domain.len());
            (Some(&domain[..colon]), &domain[colon..])
        }
    };
    let labels = host.is_none_or(|host| host.split('.').all(is_label));
    let port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    labels && port
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Names of lower-case letters and digits, parted by one `.`, one or two `_`, or any `-`.
fn is_path(path: &str) -> bool {
    path.split('/').all(|name| {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let edges = name.bytes().next().is_some_and(is_word)
            && name.bytes().next_back().is_some_and(is_word);
        edges
            && name
                .as_bytes()
                .chunk_by(|a, b| is_word(*a) == is_word(*b))
                .all(|run| {
                    is_word(run[0])
                        || matches!(run, b"." | b"_" | b"__")
                        || run.iter().all(|byte| *byte == b'-')
                })
    })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.bytes().next().is_some_and(is_word)
        && tag.len() <= TAG_LIMIT
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// What the grammar calls a digest, whatever its algorithm.
fn is_digest_shaped(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let is_part = |part: &str| {
        part.bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn check_digest(digest: &str, text: impl FnOnce() -> String) -> Result<(), ParseReferenceError> {
    let (algorithm, hex) = digest.split_once(':').unwrap_or((digest, ""));
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ParseReferenceError::DigestAlgorithm { text: text() }),
    };
    if hex.len() != length || !hex.bytes().all(is_lower_hex) {
        return Err(ParseReferenceError::Digest { text: text() });
    }
    Ok(())
}
