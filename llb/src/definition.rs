//! Definitions: build graphs in the form in which they travel.
//!
//! A [`Definition`] holds serialised ops, what is said about each, and the source maps. Its
//! bytes are kept exactly as they came, because they are the ops' identities. Invariant: it is
//! well-formed protobuf within its [`Limits`], nothing more; whether the ops make sense is for
//! [`Graph::load`](crate::Graph::load) to tell.

mod metadata_map;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

pub use metadata_map::MetadataMap;

use crate::digest::excerpt;
use crate::wire::{Fields, WireError};
use crate::{Limits, Metadata, OpDigest, SourceMaps, digest, encode, pb};

/// A build graph as it travels: serialised ops, metadata, source maps.
///
/// The last op is the terminal one, which only points at the result. A definition without ops
/// stands for scratch, the empty tree. Cloning is cheap except for the metadata's index.
///
/// ```
/// use ashlar_llb::Definition;
///
/// let scratch = Definition::decode(b"".as_slice())?;
/// assert!(scratch.is_empty());
/// assert_eq!(scratch.encode(), b"");
/// # Ok::<(), ashlar_llb::DecodeError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    ops: Vec<Bytes>,
    metadata: MetadataMap,
    /// Shared with the vertices of graphs.
    source: Option<Arc<SourceMaps>>,
    digests: Digests,
}

/// The digests of the ops, once somebody asked; clones of a definition share them.
#[derive(Clone, Default)]
struct Digests(Arc<OnceLock<Box<[OpDigest]>>>);

impl PartialEq for Digests {
    /// They follow from the ops.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Digests {}

impl fmt::Debug for Digests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digests")
    }
}

/// Tells why bytes are not a definition.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are more bytes than allowed.
    #[error("a definition of {size} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Size of the input in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// There are more ops than allowed.
    #[error("a definition has more than {limit} ops")]
    TooManyOps {
        /// The limit.
        limit: usize,
    },
    /// The bytes are not a protobuf message, or one that takes too much memory.
    #[error("malformed {part} of a definition")]
    Wire {
        /// Which part of the definition it is.
        part: &'static str,
        /// What is wrong.
        source: WireError,
    },
    /// Metadata is stored under something that is not an op digest.
    #[error("metadata of a definition is stored under {key:?}")]
    MetadataKey {
        /// The key, cut to a readable length.
        key: String,
        /// What is wrong with it.
        source: digest::ParseDigestError,
    },
}

impl Definition {
    /// Puts a definition together; `ops` are serialised, the terminal one last.
    #[must_use]
    pub fn new(
        ops: Vec<Bytes>,
        metadata: BTreeMap<OpDigest, pb::OpMetadata>,
        source: Option<pb::Source>,
    ) -> Self {
        let metadata = metadata.into_iter().collect();
        Self::from_parts(ops, metadata, source.as_ref().map(Into::into))
    }

    pub(crate) fn from_parts(
        ops: Vec<Bytes>,
        metadata: MetadataMap,
        source: Option<SourceMaps>,
    ) -> Self {
        Self {
            ops,
            metadata,
            source: source.map(Arc::new),
            digests: Digests::default(),
        }
    }

    /// Takes the digests of the ops from somebody who has just made these.
    pub(crate) fn with_digests(mut self, digests: Vec<OpDigest>) -> Self {
        debug_assert_eq!(digests.len(), self.ops.len(), "one per op");
        self.digests = Digests(Arc::new(OnceLock::from(digests.into_boxed_slice())));
        self
    }

    /// The digests of the ops, in their order.
    pub(crate) fn digests(&self) -> &[OpDigest] {
        let of_ops = || self.ops.iter().map(|op| OpDigest::of(op)).collect();
        self.digests.0.get_or_init(of_ops)
    }

    /// Decodes a definition within the default limits.
    ///
    /// # Errors
    /// See [`DecodeError`]; all of them are faults of the input.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self, DecodeError> {
        Self::decode_with(bytes, &Limits::default())
    }

    /// Decodes a definition within `limits`. The ops share memory with `bytes`.
    ///
    /// # Errors
    /// See [`DecodeError`]; all of them are faults of the input.
    pub fn decode_with(bytes: impl Into<Bytes>, limits: &Limits) -> Result<Self, DecodeError> {
        let bytes = bytes.into();
        if bytes.len() > limits.definition_bytes {
            return Err(DecodeError::TooLarge {
                size: bytes.len(),
                limit: limits.definition_bytes,
            });
        }
        let mut ops = Vec::new();
        let mut said = Vec::new();
        let mut source = Joined::Nothing;
        let mut budget = limits.decoded_bytes;
        let mut fields = Fields::new(&bytes);
        let outer = |source| DecodeError::Wire {
            part: "outer message",
            source,
        };
        while let Some(field) = fields.next().map_err(outer)? {
            let Some(content) = field.content() else {
                continue;
            };
            match field.number {
                1 if ops.len() == limits.ops => {
                    return Err(DecodeError::TooManyOps { limit: limits.ops });
                }
                1 => ops.push(bytes.slice_ref(content)),
                2 => said.push(metadata_entry(&bytes, content, &mut budget)?),
                3 => source = source.with(&bytes, content),
                _ => {}
            }
        }
        let source = source.into_bytes();
        let source = source.map(|source| SourceMaps::read(source, &mut budget));
        let source = source.transpose().map_err(|source| DecodeError::Wire {
            part: "source map",
            source,
        })?;
        Ok(Self::from_parts(ops, said.into_iter().collect(), source))
    }

    /// Takes over a wire message, such as the one nested in a build op.
    ///
    /// # Errors
    /// [`DecodeError::MetadataKey`] if a metadata key is not an op digest.
    pub fn from_message(message: pb::Definition) -> Result<Self, DecodeError> {
        let metadata = message.metadata.into_iter().map(|(key, metadata)| {
            let digest = key.parse().map_err(|source| DecodeError::MetadataKey {
                key: excerpt(&key),
                source,
            })?;
            Ok((digest, Metadata::from(&metadata)))
        });
        Ok(Self {
            metadata: metadata.collect::<Result<_, DecodeError>>()?,
            ops: message.def,
            source: message
                .source
                .as_ref()
                .map(|source| Arc::new(source.into())),
            digests: Digests::default(),
        })
    }

    /// Returns the wire message.
    #[must_use]
    pub fn to_message(&self) -> pb::Definition {
        let metadata = self.metadata.iter();
        pb::Definition {
            def: self.ops.clone(),
            metadata: metadata
                .map(|(digest, md)| (digest.to_string(), (**md).clone()))
                .collect(),
            source: self.source().map(|source| (**source).clone()),
        }
    }

    /// Serialises the definition canonically: equal definitions give equal bytes. Ops, metadata
    /// and source maps that were read are written as they came.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode::definition_of(&self.ops, &self.metadata, self.source())
    }

    /// Tells whether there are no ops, which stands for scratch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the serialised ops; the last one is the terminal op.
    #[must_use]
    pub fn ops(&self) -> &[Bytes] {
        &self.ops
    }

    /// Returns the metadata by op digest. Not every op has some.
    #[must_use]
    pub fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// Returns the source maps, if there are any.
    #[must_use]
    pub fn source(&self) -> Option<&SourceMaps> {
        self.source.as_deref()
    }

    /// The source maps, to be shared.
    pub(crate) fn shared_source(&self) -> Option<Arc<SourceMaps>> {
        self.source.clone()
    }
}

/// Decodes one entry of the metadata map.
fn metadata_entry(
    bytes: &Bytes,
    entry: &[u8],
    budget: &mut usize,
) -> Result<(OpDigest, Metadata), DecodeError> {
    let part = "metadata";
    let malformed = |source| DecodeError::Wire { part, source };
    let (mut key, mut value) = (&[][..], &entry[..0]);
    let mut fields = Fields::new(entry);
    while let Some(field) = fields.next().map_err(malformed)? {
        match (field.number, field.content()) {
            (1, Some(content)) => key = content,
            (2, Some(content)) => value = content,
            _ => {}
        }
    }
    let digest = OpDigest::parse_bytes(key).map_err(|source| DecodeError::MetadataKey {
        key: excerpt(&String::from_utf8_lossy(key)),
        source,
    })?;
    let metadata = Metadata::read(bytes.slice_ref(value), budget).map_err(malformed)?;
    Ok((digest, metadata))
}

/// The content of a field that may occur several times: messages one behind the other are one
/// message.
enum Joined {
    Nothing,
    Once(Bytes),
    More(Vec<u8>),
}

impl Joined {
    fn with(self, bytes: &Bytes, content: &[u8]) -> Self {
        match self {
            Self::Nothing => Self::Once(bytes.slice_ref(content)),
            Self::Once(first) => Self::More([&first, content].concat()),
            Self::More(mut all) => {
                all.extend_from_slice(content);
                Self::More(all)
            }
        }
    }

    fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Nothing => None,
            Self::Once(bytes) => Some(bytes),
            Self::More(bytes) => Some(bytes.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Constraints, Platform, State, image, merge, mkfile, scratch};

    #[test]
    fn the_digests_that_are_kept_are_those_of_the_ops() {
        let base = image("docker.io/library/alpine");
        let file = base.file(mkfile("/a", "x"));
        let both: State = merge([file.clone(), scratch().file(mkfile("/b", "y"))]).into();
        let top: State = both.run(["true"]).root();
        let marshalled = |state: &State| {
            let constraints = Constraints::new(Platform::linux_amd64());
            state.marshal(&constraints).unwrap()
        };
        let made = marshalled(&top);
        let imported = State::from_definition(&made).unwrap();
        let imported = marshalled(&imported.file(mkfile("/c", "z")));
        for definition in [made, imported, marshalled(&file)] {
            let digests: Vec<_> = definition.ops().iter().map(|op| OpDigest::of(op)).collect();
            assert_eq!(definition.digests(), digests);
            let decoded = Definition::decode(definition.encode()).unwrap();
            let clone = decoded.clone();
            assert_eq!(decoded.digests(), digests);
            assert_eq!(clone.digests().as_ptr(), decoded.digests().as_ptr());
            assert_eq!(clone, definition);
        }
    }
}
