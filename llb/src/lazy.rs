//! Messages that are kept as the bytes they came in, and decoded when somebody asks.
//!
//! Owns [`Lazy`] and its two uses, [`Metadata`] and [`SourceMaps`]. Invariant: the bytes were
//! checked, so that decoding cannot fail.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost::Message;

use crate::encode::{self, Encode};
use crate::wire::{WireError, schema};
use crate::{OpDigest, pb};

/// What is said about an op. Dereferences to the decoded message; the bytes are kept as they
/// came, with fields that are not known here. Cloning is cheap.
pub type Metadata = Lazy<pb::OpMetadata>;

/// The source maps of a definition. Dereferences to the decoded message; the bytes are kept as
/// they came, with fields that are not known here. Cloning is cheap.
pub type SourceMaps = Lazy<pb::Source>;

/// A message that is decoded on first use. Two are equal if their bytes are.
#[derive(Clone)]
pub struct Lazy<M> {
    raw: Bytes,
    decoded: OnceLock<Arc<M>>,
}

impl<M> Lazy<M> {
    /// Takes bytes that decode.
    pub(crate) fn checked(raw: Bytes) -> Self {
        Self {
            raw,
            decoded: OnceLock::new(),
        }
    }

    /// Returns the serialised message.
    #[must_use]
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }
}

impl Metadata {
    /// Takes serialised metadata, and from `budget` the memory that it takes decoded.
    pub(crate) fn read(raw: Bytes, budget: &mut usize) -> Result<Self, WireError> {
        schema::check(&raw, &schema::OP_METADATA, budget)?;
        Ok(Self::checked(raw))
    }
}

impl SourceMaps {
    /// Serialises places, which are sorted by digest, and files.
    pub(crate) fn written<'a>(
        locations: impl ExactSizeIterator<Item = (OpDigest, &'a pb::Locations)>,
        infos: &[pb::SourceInfo],
    ) -> Self {
        Self::checked(encode::source_of(locations, infos).into())
    }

    /// Takes serialised source maps, and from `budget` the memory that they take decoded.
    pub(crate) fn read(raw: Bytes, budget: &mut usize) -> Result<Self, WireError> {
        schema::check(&raw, &schema::SOURCE, budget)?;
        Ok(Self::checked(raw))
    }
}

impl<M: Message + Default> Deref for Lazy<M> {
    type Target = M;

    fn deref(&self) -> &M {
        self.decoded.get_or_init(|| {
            let decoded = M::decode(self.raw.clone());
            Arc::new(decoded.expect("BUG: the bytes were checked"))
        })
    }
}

impl<M: Encode> From<&M> for Lazy<M> {
    fn from(message: &M) -> Self {
        Self::checked(encode::message_bytes(message).into())
    }
}

impl<M> PartialEq for Lazy<M> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl<M> Eq for Lazy<M> {}

impl<M: Message + Default + fmt::Debug> fmt::Debug for Lazy<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
