//! Records in the config of an image (`moby.buildkit.cache.v0`): those whose layers are the
//! image's. They name layers by their number in the image.

use std::collections::HashMap;
use std::hash::Hash;

use ashlar_llb::BlobDigest;

use super::config::{self, NO_TIME, Results};
use super::{CacheRecords, ConfigError, ConfigLayer};

impl CacheRecords<ConfigLayer> {
    /// Writes the list of records that BuildKit keeps in the config of an image with these
    /// layers, the lowest first. Results with other layers are left out. `None` if no result is
    /// left.
    ///
    /// A result whose layers lie in the image as they lie in the result is told by the topmost
    /// one; of others all layers are listed, and when they were made is not told.
    pub fn to_inline_json(&self, image: &[BlobDigest]) -> Option<Vec<u8>> {
        // Of blobs that are there more than once the last counts, as for BuildKit.
        let numbers: HashMap<BlobDigest, usize> = image.iter().copied().zip(0..).collect();
        let kept = self.map_layers(|layer| {
            let known = numbers.contains_key(&layer.blob);
            Ok::<_, std::convert::Infallible>(known.then_some(layer.blob))
        });
        let Ok(kept) = kept;
        let newest = kept.newest(|blob| *blob);
        if newest.is_empty() {
            return None;
        }
        let mut out = String::new();
        newest.write_records(&mut out, |result| {
            let chain = newest.chain(result.layer);
            let blobs: Vec<BlobDigest> = chain
                .into_iter()
                .map(|at| newest.layers[at].layer)
                .collect();
            if image.starts_with(&blobs) {
                Results::One(blobs.len() - 1, result.created)
            } else {
                let all = blobs.iter().map(|blob| numbers[blob]);
                Results::Chain(all.collect(), NO_TIME)
            }
        });
        Some(out.into_bytes())
    }
}

impl<L: Eq + Hash + Clone> CacheRecords<L> {
    /// Reads the list of records in the config of an image with these layers, the lowest first.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_inline_json(
        json: &[u8],
        image: impl IntoIterator<Item = L>,
    ) -> Result<Self, ConfigError> {
        config::check_size(json)?;
        let records = config::records(json)?;
        let layers: Vec<(L, i64)> = image.into_iter().zip(-1..).collect();
        config::assemble(&layers, records)
    }
}
