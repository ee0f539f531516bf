//! Where in source files a vertex comes from.

use std::borrow::Cow;

use crate::{OpDigest, pb};

/// Ranges of one source file that a vertex was made from.
#[derive(Clone, Copy, Debug)]
pub struct SourceLocation<'a> {
    info: &'a pb::SourceInfo,
    ranges: &'a [pb::Range],
}

/// The locations of one vertex; places in files that are not there are left out.
pub(crate) fn of(
    source: Option<&pb::Source>,
    digest: OpDigest,
) -> impl Iterator<Item = SourceLocation<'_>> {
    let locations =
        source.and_then(|source| Some((source, source.locations.get(&digest.to_string())?)));
    locations.into_iter().flat_map(|(source, locations)| {
        locations.locations.iter().filter_map(|location| {
            let info = source
                .infos
                .get(usize::try_from(location.source_index).ok()?)?;
            Some(SourceLocation {
                info,
                ranges: &location.ranges,
            })
        })
    })
}

impl<'a> SourceLocation<'a> {
    /// Returns the file's name.
    #[must_use]
    pub fn file_name(&self) -> &'a str {
        &self.info.filename
    }

    /// Returns the file's language, such as `Dockerfile`; empty if unknown.
    #[must_use]
    pub fn language(&self) -> &'a str {
        &self.info.language
    }

    /// Returns the file and all that is known about it.
    #[must_use]
    pub fn info(&self) -> &'a pb::SourceInfo {
        self.info
    }

    /// Returns the ranges as they came; nothing says that the file has such lines.
    #[must_use]
    pub fn ranges(&self) -> &'a [pb::Range] {
        self.ranges
    }

    /// Returns the first and last line that the ranges touch, counted from 1.
    #[must_use]
    pub fn lines(&self) -> Option<(u32, u32)> {
        let line = |position: Option<pb::Position>| {
            position.map(|position| position.line.max(0).cast_unsigned())
        };
        let starts = self.ranges.iter().filter_map(|range| line(range.start));
        let first = starts.clone().min()?.max(1);
        let ends = self.ranges.iter().filter_map(|range| line(range.end));
        Some((first, starts.chain(ends).max()?.max(first)))
    }

    /// Returns the lines that the ranges span, and `context` lines on each side, with their
    /// numbers. Only lines that the file has are returned, without their line ends.
    pub fn excerpt(&self, context: u32) -> impl Iterator<Item = (u32, Cow<'a, str>)> + use<'a> {
        let (first, last) = self.lines().unwrap_or((1, 0));
        let first = first.saturating_sub(context).max(1);
        let last = if last == 0 {
            0
        } else {
            last.saturating_add(context)
        };
        let lines = self.info.data.split(|&byte| byte == b'\n');
        (1_u32..)
            .zip(lines)
            .skip_while(move |(number, _)| *number < first)
            .map_while(move |(number, line)| {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                (number <= last).then(|| (number, String::from_utf8_lossy(line)))
            })
    }
}
