//! Where in a list an op is, by its digest.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::OpDigest;

/// Positions in a list, found by the digest of what is there. The digests are in the list alone.
///
/// Digests come from outside, so that they are hashed once more, with a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpPositions {
    positions: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl OpPositions {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self {
            positions: HashTable::with_capacity(count),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// Finds a digest; `at` tells the digests of the list.
    pub(crate) fn find(&self, digest: OpDigest, at: impl Fn(usize) -> OpDigest) -> Option<usize> {
        let hash = self.hasher.hash_one(digest);
        let found = self
            .positions
            .find(hash, |known| at(*known as usize) == digest);
        found.map(|position| *position as usize)
    }

    /// Adds a digest that is to be at the position `next`, unless it is there already; then that
    /// position is the error.
    pub(crate) fn add(
        &mut self,
        digest: OpDigest,
        next: usize,
        at: impl Fn(usize) -> OpDigest,
    ) -> Result<(), usize> {
        let hash = self.hasher.hash_one(digest);
        let same = |known: &u32| at(*known as usize) == digest;
        if let Some(known) = self.positions.find(hash, same) {
            return Err(*known as usize);
        }
        let next = u32::try_from(next).expect("BUG: there are less than 4 G of ops");
        let rehash = |known: &u32| self.hasher.hash_one(at(*known as usize));
        self.positions.insert_unique(hash, next, rehash);
        Ok(())
    }

    /// Moves what is in the list to new positions, and drops what gets none.
    pub(crate) fn move_to(&mut self, new: impl Fn(usize) -> Option<u32>) {
        self.positions.retain(|position| {
            let moved = new(*position as usize);
            *position = moved.unwrap_or_default();
            moved.is_some()
        });
    }
}
