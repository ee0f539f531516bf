//! The metadata of all ops of a definition.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Metadata, OpDigest, pb};

/// What is said about ops, by their digests, in the order of the digests.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Constraints, OpDigest, Platform};
///
/// let base = llb::image("alpine").custom_name("the base");
/// let definition = base.marshal(&Constraints::new(Platform::linux_amd64()))?;
/// let digest = OpDigest::of(&definition.ops()[0]);
/// let said = definition.metadata().get(&digest).expect("each op has some");
/// assert_eq!(said.description["llb.customname"], "the base");
/// # Ok::<(), llb::MarshalError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MetadataMap(Vec<(OpDigest, Metadata)>);

impl MetadataMap {
    /// Returns what is said about an op.
    #[must_use]
    pub fn get(&self, digest: &OpDigest) -> Option<&Metadata> {
        let found = self.0.binary_search_by(|(known, _)| known.cmp(digest));
        Some(&self.0[found.ok()?].1)
    }

    /// Returns all of it, in the order of the digests.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (OpDigest, &Metadata)> {
        self.0.iter().map(|(digest, said)| (*digest, said))
    }

    /// Returns of how many ops something is said.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether nothing is said of any op.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Later entries replace earlier ones of the same op.
impl FromIterator<(OpDigest, Metadata)> for MetadataMap {
    fn from_iter<I: IntoIterator<Item = (OpDigest, Metadata)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        if !entries.is_sorted_by(|(one, _), (next, _)| one < next) {
            let last: BTreeMap<OpDigest, Metadata> = entries.into_iter().collect();
            entries = last.into_iter().collect();
        }
        Self(entries)
    }
}

impl FromIterator<(OpDigest, pb::OpMetadata)> for MetadataMap {
    fn from_iter<I: IntoIterator<Item = (OpDigest, pb::OpMetadata)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        let written = entries.map(|(digest, said)| (digest, Metadata::from(&said)));
        written.collect()
    }
}

impl fmt::Debug for MetadataMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
