//! Definitions: build graphs in the form in which they travel.
//!
//! A [`Definition`] holds serialised ops, what is said about each, and the source maps. Its
//! bytes are kept exactly as they came, because they are the ops' identities. Invariant: it is
//! well-formed protobuf within its [`Limits`], nothing more; whether the ops make sense is for
//! [`Graph::load`](crate::Graph::load) to tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::digest::excerpt;
use crate::wire::{self, Fields, WireError};
use crate::{Limits, OpDigest, digest, encode, pb};

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
    metadata: BTreeMap<OpDigest, Arc<pb::OpMetadata>>,
    source: Option<Arc<pb::Source>>,
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
    /// A message has a field of the wrong type or text that is not UTF-8.
    #[error("malformed {part} of a definition")]
    Message {
        /// Which part of the definition it is.
        part: &'static str,
        /// What is wrong.
        source: prost::DecodeError,
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
        let metadata = metadata
            .into_iter()
            .map(|(digest, md)| (digest, Arc::new(md)))
            .collect();
        Self {
            ops,
            metadata,
            source: source.map(Arc::new),
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
        let mut source: Option<pb::Source> = None;
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
                    let part = "source map";
                    wire::charge(&bytes[content.clone()], &wire::SOURCE, &mut budget)
                        .map_err(|source| DecodeError::Wire { part, source })?;
                    source
                        .get_or_insert_default()
                        .merge(bytes.slice(content))
                        .map_err(|source| DecodeError::Message { part, source })?;
                }
                _ => {}
            }
        }
        definition.source = source.map(Arc::new);
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
        let metadata = pb::OpMetadata::decode(entry.slice(value))
            .map_err(|source| DecodeError::Message { part, source })?;
        self.metadata.insert(digest, Arc::new(metadata));
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
            Ok((digest, Arc::new(metadata)))
        });
        Ok(Self {
            metadata: metadata.collect::<Result<_, DecodeError>>()?,
            ops: message.def,
            source: message.source.map(Arc::new),
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

    /// Serialises the definition canonically: equal definitions give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode::definition_bytes(&self.to_message())
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
    pub fn metadata(&self) -> &BTreeMap<OpDigest, Arc<pb::OpMetadata>> {
        &self.metadata
    }

    /// Returns the source maps, if there are any.
    #[must_use]
    pub fn source(&self) -> Option<&Arc<pb::Source>> {
        self.source.as_ref()
    }
}
