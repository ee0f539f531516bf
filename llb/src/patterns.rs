//! Pattern languages: `.dockerignore` patterns and Go's `path.Match`.
//!
//! [`PatternMatcher`] has the meaning of `github.com/moby/patternmatcher`, which decides what is
//! in a build context and what a copy takes; [`path_match`] is Go's `path.Match`, which wildcards
//! in file ops use. Invariant: matching takes time proportional to the lengths of pattern
//! and path, multiplied, never more, whatever the pattern. Files are not looked at.

mod glob;
mod ignore_file;
mod matcher;
mod program;

pub use glob::{Glob, path_match};
pub use ignore_file::read_ignore_file;
pub use matcher::{ParentMatches, PatternMatcher};

use crate::digest::excerpt;

/// A pattern that does not follow its language's syntax.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {pattern:?}")]
pub struct BadPattern {
    /// The pattern, cut to a readable length.
    pub(crate) pattern: String,
}

impl BadPattern {
    pub(crate) fn new(pattern: &str) -> Self {
        Self {
            pattern: excerpt(pattern),
        }
    }

    /// Returns the pattern, cut to a readable length.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

/// Takes the first character off; a byte that is not UTF-8 counts as U+FFFD, as in Go.
pub(crate) fn first_char(bytes: &[u8]) -> Option<(char, usize)> {
    let &first = bytes.first()?;
    if first < 0x80 {
        return Some((char::from(first), 1));
    }
    let length = match first {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let character = bytes
        .get(..length)
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .and_then(|text| text.chars().next());
    Some(character.map_or((char::REPLACEMENT_CHARACTER, 1), |found| (found, length)))
}
