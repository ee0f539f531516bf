//! Source maps: which place of which file an op came from.
//!
//! Owns [`SourceMap`] and its ranges, and collects them while a definition is marshalled, each
//! file once. Invariant: two maps of equal name, language and text are one file. Reading such
//! files is the caller's.

use std::sync::Arc;

use crate::{Constraints, MarshalError, OpDigest, SourceMaps, State, pb};

/// A file that ops came from, such as a Dockerfile.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{SourceMap, SourceRange};
///
/// let file = SourceMap::new("Dockerfile", "Dockerfile", "FROM alpine\n");
/// let base = llb::image("alpine").location(&file, [SourceRange::new((1, 0), (1, 11))]);
/// # let _ = base;
/// ```
#[derive(Clone, Debug)]
pub struct SourceMap {
    file: Arc<File>,
}

#[derive(Clone, Debug)]
struct File {
    name: String,
    language: String,
    data: bytes::Bytes,
    origin: Option<State>,
}

impl SourceMap {
    /// A file with its name, its language (as GitHub's linguist calls it) and its text.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        language: impl Into<String>,
        data: impl Into<bytes::Bytes>,
    ) -> Self {
        let file = File {
            name: name.into(),
            language: language.into(),
            data: data.into(),
            origin: None,
        };
        Self {
            file: Arc::new(file),
        }
    }

    /// Tells which state the file was read from; its definition is embedded in the map.
    #[must_use]
    pub fn read_from(mut self, state: impl Into<State>) -> Self {
        Arc::make_mut(&mut self.file).origin = Some(state.into());
        self
    }

    pub(crate) fn location(&self, ranges: impl IntoIterator<Item = SourceRange>) -> SourceLocation {
        SourceLocation {
            map: self.clone(),
            ranges: ranges.into_iter().collect(),
        }
    }

    /// Whether both are the same file.
    fn equals(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            || (self.file.name == other.file.name
                && self.file.language == other.file.language
                && self.file.data == other.file.data)
    }

    fn info(&self, constraints: &Constraints) -> Result<pb::SourceInfo, MarshalError> {
        let definition = match &self.file.origin {
            Some(state) => Some(state.marshal(constraints)?.to_message()),
            None => None,
        };
        Ok(pb::SourceInfo {
            filename: self.file.name.clone(),
            data: self.file.data.clone(),
            definition,
            language: self.file.language.clone(),
        })
    }
}

/// A range of a source file, from a position to the position after it.
///
/// Positions are (line, character); lines count from 1, characters from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRange {
    start: (i32, i32),
    end: (i32, i32),
}

impl SourceRange {
    /// The range from `start` to `end`, each a line and a character.
    #[must_use]
    pub fn new(start: (i32, i32), end: (i32, i32)) -> Self {
        Self { start, end }
    }

    fn to_message(self) -> pb::Range {
        let position = |(line, character)| pb::Position { line, character };
        pb::Range {
            start: Some(position(self.start)),
            end: Some(position(self.end)),
        }
    }

    pub(crate) fn from_message(range: &pb::Range) -> Self {
        let position = |position: &Option<pb::Position>| {
            position
                .as_ref()
                .map_or((0, 0), |at| (at.line, at.character))
        };
        Self::new(position(&range.start), position(&range.end))
    }
}

/// Ranges of one file, attached to an op.
#[derive(Clone, Debug)]
pub(crate) struct SourceLocation {
    map: SourceMap,
    ranges: Vec<SourceRange>,
}

/// The files and places met while marshalling.
#[derive(Debug, Default)]
pub(crate) struct SourceMapCollector {
    maps: Vec<SourceMap>,
    /// The places of each op, by its position.
    locations: Vec<pb::Locations>,
}

impl SourceMapCollector {
    /// Notes the places of a vertex whose op is at this position, which is at most the next one.
    /// Each op gets an entry, even without places.
    pub(crate) fn add(&mut self, op: usize, locations: &[SourceLocation]) {
        if op == self.locations.len() {
            self.locations.push(pb::Locations::default());
        }
        for location in locations {
            let known = self.maps.iter().position(|map| map.equals(&location.map));
            let index = known.unwrap_or_else(|| {
                self.maps.push(location.map.clone());
                self.maps.len() - 1
            });
            self.locations[op].locations.push(pb::Location {
                source_index: i32::try_from(index).unwrap_or(i32::MAX),
                ranges: location
                    .ranges
                    .iter()
                    .map(|range| range.to_message())
                    .collect(),
            });
        }
    }

    /// Writes the source message. `sorted` has the positions of the ops, sorted by digest.
    pub(crate) fn finish(
        self,
        sorted: &[usize],
        digests: &[OpDigest],
        constraints: &Constraints,
    ) -> Result<SourceMaps, MarshalError> {
        let infos = self.maps.iter().map(|map| map.info(constraints));
        let infos = infos.collect::<Result<Vec<_>, _>>()?;
        let locations = sorted.iter();
        let locations = locations.map(|op| (digests[*op], &self.locations[*op]));
        Ok(SourceMaps::written(locations, &infos))
    }
}
