//! Layers of the store as the images have them that were asked for.
//!
//! A layer is known by what is in it: images that have it in different compressions share it. Which
//! blob it is exported as is up to the image that a build started from, and not to which of them was
//! pulled first.

use std::collections::HashMap;

use ashlar_llb::DiffId;

use super::{Store, chains};
use crate::error::Failure;
use crate::id::LayerId;
use crate::oci::chain_ids;
use crate::refs::{LazyLayer, Ref};

/// A layer as an image has it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Original {
    /// What the image says of it. Its blob need not be in the store.
    pub layer: LazyLayer,
    /// The image; [`Ref::fetch`] brings its blobs into the store.
    pub image: Ref,
}

/// Which layers of a store are those of some images.
#[derive(Debug, Clone, Default)]
pub struct Originals(HashMap<LayerId, Original>);

impl Originals {
    /// The layer as an image has it; `None` if it is in none.
    pub fn of(&self, layer: LayerId) -> Option<&Original> {
        self.0.get(&layer)
    }
}

impl Store {
    /// Finds the layers of these images that are in the store as files. A layer that is in several
    /// is that of the first. Asks nobody; blocks.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn originals(&self, images: &[Ref]) -> Result<Originals, Failure> {
        let mut all = HashMap::new();
        for image in images {
            let layers = image.lazy_layers().unwrap_or_default();
            let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.blob.diff_id).collect();
            for (layer, id) in layers.into_iter().zip(self.known_layers(&diff_ids)?) {
                let image = image.clone();
                all.entry(id).or_insert(Original { layer, image });
            }
        }
        Ok(Originals(all))
    }

    /// The layers with these diff ids on top of each other, as far up as they are known.
    fn known_layers(&self, diff_ids: &[DiffId]) -> Result<Vec<LayerId>, Failure> {
        for (below, chain) in chain_ids(diff_ids).iter().enumerate().rev() {
            if let Some(row) = chains::find(&*self.meta, chain)? {
                let layers = self.meta.stack_chain(row)?;
                if layers.len() == below + 1 {
                    return Ok(layers);
                }
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ashlar_llb::BlobDigest;

    use super::*;
    use crate::cancel::Cancel;
    use crate::clock::SystemClock;
    use crate::content::BlobStore;
    use crate::error::OperationError;
    use crate::meta::{LayerBlob, Memory};
    use crate::refs::Lazy;
    use crate::result::SOURCE_BLOB;
    use crate::root::StateRoot;
    use crate::snapshot::{LayerStore, Stack};
    use crate::tree::{Timestamp, View};

    /// An image with one letter for each layer.
    #[derive(Debug)]
    struct Image(&'static str, &'static str);

    fn diff_id(letter: char) -> DiffId {
        DiffId::of(letter.to_string().as_bytes())
    }

    impl Lazy for Image {
        fn view(&self) -> Result<Option<View>, OperationError> {
            unreachable!("nobody reads it")
        }

        fn layers(&self) -> Option<Vec<LazyLayer>> {
            let layer = |letter| LazyLayer {
                blob: LayerBlob {
                    compression: SOURCE_BLOB.to_owned(),
                    digest: BlobDigest::of(self.0.as_bytes()),
                    diff_id: diff_id(letter),
                    size: 1,
                    media_type: String::new(),
                    annotations: Default::default(),
                },
                text: self.0.to_owned(),
                created: Timestamp::default(),
                repository: None,
            };
            Some(self.1.chars().map(layer).collect())
        }

        fn materialize(&self, _: &Cancel) -> Result<Stack, OperationError> {
            unreachable!("nobody reads it")
        }
    }

    #[test]
    fn a_layer_is_that_of_the_first_image_that_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = Arc::new(StateRoot::open(folder.path()).unwrap());
        let meta = Arc::new(Memory::new());
        let store = Store::new(
            LayerStore::new(root.clone(), meta.clone()),
            BlobStore::of_root(root.dir()).unwrap(),
            meta,
            Arc::new(SystemClock),
        );
        let id = LayerId::from_bits;
        let note = |letters: &str, layer, parent| {
            let diff_ids: Vec<_> = letters.chars().map(diff_id).collect();
            let row = store.meta.add_stack(id(layer), parent).unwrap();
            let chain = *chain_ids(&diff_ids).last().unwrap();
            chains::put(&*store.meta, &chain, row).unwrap();
            Some(row)
        };
        let bottom = note("a", 1, None);
        let middle = note("ab", 2, bottom);
        note("abc", 3, middle);
        note("ad", 4, bottom);
        let images = |images: &[(&'static str, &'static str)]| {
            let images = images
                .iter()
                .map(|(name, layers)| Ref::lazy(Arc::new(Image(name, layers))));
            store.originals(&images.collect::<Vec<_>>()).unwrap()
        };
        let told = |all: &Originals| {
            let text = |bits| {
                all.of(id(bits))
                    .map_or("-", |found| &found.layer.text)
                    .to_owned()
            };
            [1, 2, 3, 4].map(text).concat()
        };
        assert_eq!(told(&images(&[])), "----");
        assert_eq!(told(&images(&[("x", "abc")])), "xxx-");
        assert_eq!(told(&images(&[("y", "ad"), ("x", "abc")])), "yxxy");
        // What was never unpacked is no layer, and what is below is; what is in another place is not.
        assert_eq!(told(&images(&[("x", "abe"), ("z", "zab")])), "xx--");
        // A layer that is gone takes those with it that stood on it.
        store.meta.remove_layer(id(2)).unwrap();
        assert_eq!(told(&images(&[("x", "abc")])), "x---");
    }
}
