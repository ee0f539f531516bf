//! What an earlier run of the same copy made.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use crate::id::ContentDigest;
use crate::tree::{Entry, Index, TreePath};

/// A layer that an earlier run of the same copy made. A copy from files that may change links what
/// is still the same from there ([`LayerWriter::follow`](super::LayerWriter::follow)).
pub trait Previous: Send + Sync + fmt::Debug {
    /// What the layer has at that path, if it is a regular file that was copied, and the checksum
    /// of what it was copied from.
    fn file(&self, path: &TreePath) -> Option<(&Entry, ContentDigest)>;

    /// Opens a directory of the layer. The files in it never change.
    ///
    /// # Errors
    /// As the operating system says; it is then copied from the source as if there were no layer.
    fn directory(&self, path: &TreePath) -> io::Result<OwnedFd>;
}

/// The checksums of what files were copied from, where they are not those of the copies: a copy may
/// have another mode or owner, which a checksum tells as well as the bytes.
///
/// They belong to one index, by the places of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(Vec<(u32, ContentDigest)>);

/// Bytes of one origin.
const RECORD: usize = 4 + 32;

impl Origins {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes the origin of the entry at that place, which is behind those noted before.
    pub(super) fn push(&mut self, place: usize, digest: ContentDigest) {
        if let Ok(place) = u32::try_from(place) {
            self.0.push((place, digest));
        }
    }

    /// The regular file at a path of `index`, and the checksum of what it was copied from.
    pub fn file<'i>(
        &self,
        index: &'i Index,
        path: &TreePath,
    ) -> Option<(&'i Entry, ContentDigest)> {
        let (place, entry) = index.position(path)?;
        let noted = u32::try_from(place).ok().and_then(|place| {
            let at = self.0.binary_search_by_key(&place, |(other, _)| *other);
            at.ok().map(|at| self.0[at].1)
        });
        noted.or(entry.digest).map(|digest| (entry, digest))
    }

    /// Each as place (u32, little-endian) and digest.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * RECORD);
        for (place, digest) in &self.0 {
            out.extend_from_slice(&place.to_le_bytes());
            out.extend_from_slice(digest.as_bytes());
        }
        out
    }

    /// Reads what [`Origins::encode`] wrote; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (records, []) = bytes.as_chunks::<RECORD>() else {
            return None;
        };
        let record = |record: &[u8; RECORD]| {
            let (place, digest) = record.split_first_chunk()?;
            let digest = ContentDigest::from_bytes(digest.try_into().ok()?);
            Some((u32::from_le_bytes(*place), digest))
        };
        let origins: Vec<_> = records.iter().map(record).collect::<Option<_>>()?;
        origins
            .is_sorted_by(|a, b| a.0 < b.0)
            .then_some(Self(origins))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_read_what_they_write_and_refuse_the_rest() {
        let mut origins = Origins::default();
        assert_eq!(Origins::decode(&origins.encode()), Some(origins.clone()));
        for place in [1, 4, 300] {
            origins.push(place, ContentDigest::of(&[1]));
        }
        let bytes = origins.encode();
        assert_eq!(Origins::decode(&bytes), Some(origins));
        assert_eq!(Origins::decode(&bytes[1..]), None);
        let (first, second) = bytes.split_at(RECORD);
        assert_eq!(Origins::decode(&[second, first].concat()), None, "order");
    }
}
