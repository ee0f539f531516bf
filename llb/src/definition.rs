//! Definitions: build graphs in the form in which they travel.
//!
//! A [`Definition`] holds serialised ops, what is said about each, and the source maps. Its
//! bytes are kept exactly as they came, because they are the ops' identities. Invariant: it is
//! well-formed protobuf within its [`Limits`], nothing more; whether the ops make sense is for
//! [`Graph::load`](crate::Graph::load) to tell.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::digest::excerpt;
use crate::wire::{self, Fields, WireError};
use crate::{Limits, Metadata, OpDigest, SourceMaps, digest, encode, pb};

fn malformed_source(source: WireError) -> DecodeError {
    let part = "source map";
    DecodeError::Wire { part, source }
}

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
    metadata: BTreeMap<OpDigest, Metadata>,
    source: Option<SourceMaps>,
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
        let metadata = metadata.iter();
        let metadata = metadata.map(|(digest, said)| (*digest, Metadata::from(said)));
        Self::from_parts(ops, metadata.collect(), source.as_ref().map(Into::into))
    }

    pub(crate) fn from_parts(
        ops: Vec<Bytes>,
        metadata: BTreeMap<OpDigest, Metadata>,
        source: Option<SourceMaps>,
    ) -> Self {
        Self {
            ops,
            metadata,
            source,
        }
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
        let mut definition = Self::default();
        let mut source: Option<Bytes> = None;
        let mut budget = limits.decoded_bytes;
        let mut fields = Fields::new(&bytes);
        let outer = |source| DecodeError::Wire {
            part: "outer message",
            source,
        };
        while let Some(field) = fields.next().map_err(outer)? {
            let Some(content) = field.content else {
                continue;
            };
            match field.number {
                1 if definition.ops.len() == limits.ops => {
                    return Err(DecodeError::TooManyOps { limit: limits.ops });
                }
                1 => definition.ops.push(bytes.slice(content)),
                2 => definition.decode_metadata(&bytes.slice(content), &mut budget)?,
                3 => {
                    wire::charge(&bytes[content.clone()], &wire::SOURCE, &mut budget)
                        .map_err(malformed_source)?;
                    // Messages one behind the other are one message.
                    source = Some(match source {
                        None => bytes.slice(content),
                        Some(before) => [&before, &bytes[content]].concat().into(),
                    });
                }
                _ => {}
            }
        }
        let source = source.map(SourceMaps::read).transpose();
        definition.source = source.map_err(malformed_source)?;
        Ok(definition)
    }

    /// Decodes one entry of the metadata map.
    fn decode_metadata(&mut self, entry: &Bytes, budget: &mut usize) -> Result<(), DecodeError> {
        let part = "metadata";
        let malformed = |source| DecodeError::Wire { part, source };
        let (mut key, mut value) = (0..0, 0..0);
        let mut fields = Fields::new(entry);
        while let Some(field) = fields.next().map_err(malformed)? {
            match (field.number, field.content) {
                (1, Some(content)) => key = content,
                (2, Some(content)) => value = content,
                _ => {}
            }
        }
        let key = String::from_utf8_lossy(&entry[key]);
        let digest = key.parse().map_err(|source| DecodeError::MetadataKey {
            key: excerpt(&key),
            source,
        })?;
        wire::charge(&entry[value.clone()], &wire::OP_METADATA, budget).map_err(malformed)?;
        let metadata = Metadata::read(entry.slice(value)).map_err(malformed)?;
        self.metadata.insert(digest, metadata);
        Ok(())
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
            source: message.source.as_ref().map(Into::into),
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
            source: self.source.as_deref().cloned(),
        }
    }

    /// Serialises the definition canonically: equal definitions give equal bytes. Ops, metadata
    /// and source maps that were read are written as they came.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode::definition_of(&self.ops, &self.metadata, self.source.as_ref())
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
    pub fn metadata(&self) -> &BTreeMap<OpDigest, Metadata> {
        &self.metadata
    }

    /// Returns the source maps, if there are any.
    #[must_use]
    pub fn source(&self) -> Option<&SourceMaps> {
        self.source.as_ref()
    }
}
