//! Pattern languages: `.dockerignore` patterns and Go's `path.Match`.
//!
//! [`PatternMatcher`] has the meaning of `github.com/moby/patternmatcher`, which decides what is
//! in a build context and what a copy takes; [`path_match`] is Go's `path.Match`, which wildcards
//! in file ops use. Files are not looked at.
//!
//! Invariants: nothing is tried twice by going back, so that matching takes time proportional to
//! the lengths of pattern and path, multiplied, never more, whatever the pattern; the parents of a
//! path are judged in the same pass as the path. Lists from outside are bounded, each ceiling far
//! above what is written by hand or by a tool:
//!
//! | what | at most | because |
//! |---|---|---|
//! | a pattern | 64 KiB | sixteen times the longest path that Linux takes in one call |
//! | patterns of a list | 262,144 | each costs some hundred bytes, and a comparison per path |
//! | bytes of a list | 16 MiB | all of a definition that BuildKit takes in one message |
//! | of these, in patterns with wildcards | 256 KiB | each compiles to about 70 bytes, and may cost a step per character of a path |
//!
//! The last does not count what is compared without a program: names without wildcards, and names
//! that end in their only wildcard `**`. What is beyond a ceiling is a [`BadPattern`] like what has
//! no meaning. BuildKit itself has no ceilings but those of its messages.

mod glob;
mod ignore_file;
mod limits;
mod matcher;
mod program;

pub use glob::{Glob, path_match};
pub use ignore_file::read_ignore_file;
pub use matcher::{ParentMatches, PatternMatcher};

use crate::digest::excerpt;

/// A pattern that does not follow its language's syntax, or costs too much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} {pattern:?}")]
pub struct BadPattern {
    /// The pattern, cut to a readable length.
    pattern: String,
    problem: PatternProblem,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternProblem {
    /// It does not follow the syntax.
    #[error("syntax error in pattern")]
    Syntax,
    /// It is longer than 64 KiB.
    #[error("more than 64 KiB in pattern")]
    TooLong,
    /// The list is beyond one of its ceilings from this pattern on.
    #[error("too many patterns, or too costly ones, from")]
    ListTooLarge,
}

impl BadPattern {
    pub(crate) fn new(pattern: &str, problem: PatternProblem) -> Self {
        Self {
            pattern: excerpt(pattern),
            problem,
        }
    }

    pub(crate) fn syntax(pattern: &str) -> Self {
        Self::new(pattern, PatternProblem::Syntax)
    }

    /// Returns what is wrong with it.
    #[must_use]
    pub fn problem(&self) -> PatternProblem {
        self.problem
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
