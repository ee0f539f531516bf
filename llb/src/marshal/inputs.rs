//! The inputs of an op, while it is written.

use std::collections::HashMap;

use crate::{OpDigest, pb};

type Input = (OpDigest, i64);

/// A list of inputs, to be used for one op after the other.
#[derive(Debug, Default)]
pub(super) struct InputList {
    inputs: Vec<Input>,
    /// Kept only for lists that take long to search.
    positions: HashMap<Input, i64>,
}

/// From this length on, a list is searched through a map.
const LONG: usize = 16;

fn position(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

impl InputList {
    pub(super) fn clear(&mut self) {
        self.inputs.clear();
        self.positions.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.len()
    }

    /// Adds an input, whether it is there or not, and returns its position.
    pub(super) fn push(&mut self, input: Input) -> i64 {
        self.inputs.push(input);
        position(self.inputs.len() - 1)
    }

    /// Adds an input, or finds it, and returns its position.
    pub(super) fn add(&mut self, input: Input) -> i64 {
        if self.inputs.len() < LONG {
            let known = self.inputs.iter().position(|known| *known == input);
            return known.map_or_else(|| self.push(input), position);
        }
        if self.positions.is_empty() {
            let known = self.inputs.iter().copied();
            self.positions = known.zip(0..).collect();
        }
        let next = position(self.inputs.len());
        *self.positions.entry(input).or_insert_with(|| {
            self.inputs.push(input);
            next
        })
    }

    /// The inputs as they are written.
    pub(super) fn fields(&self) -> impl Iterator<Item = pb::InputFields<[u8; OpDigest::TEXT]>> {
        self.inputs.iter().map(|(digest, index)| pb::InputFields {
            digest: digest.text(),
            index: *index,
        })
    }
}
