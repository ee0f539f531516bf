//! Lists of patterns with exceptions, as in `.dockerignore`.

use super::BadPattern;
use super::glob::check_with_dot;
use super::limits::{Budget, check_length};
use super::program::Program;
use crate::path;

/// A list of patterns in which later ones win and `!` makes exceptions.
///
/// `*` and `?` stop at slashes, `**` does not. A pattern also covers what is below a directory
/// it matches, except in [`matches`](Self::matches), which keeps an old quirk. Paths are
/// relative, with slashes; text and bytes are both fine.
///
/// ```
/// use ashlar_llb::patterns::PatternMatcher;
///
/// let ignored = PatternMatcher::new(["target", "!target/keep"])?;
/// assert!(ignored.matches_or_parent_matches("target/debug/x")?);
/// assert!(!ignored.matches_or_parent_matches("target/keep")?);
/// # Ok::<(), ashlar_llb::patterns::BadPattern>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct PatternMatcher {
    patterns: Vec<Pattern>,
    exclusions: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    cleaned: String,
    /// How many names the pattern has.
    names: usize,
    /// Whether it takes away instead of adding.
    exclusion: bool,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// The path is the pattern.
    Exact,
    /// The path starts with the pattern without its last two characters, `**`.
    Prefix,
    /// The path ends with the pattern without its first two characters, `**`.
    Suffix,
    /// Anything else. `None` if it passes the first check and still cannot be understood,
    /// which is an error each time the pattern is tried.
    Program(Option<Program>),
}

/// Which patterns a directory matched, to be handed on to what is in it.
///
/// The default value says nothing, and then parents are tried as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParentMatches {
    matched: Vec<bool>,
}

impl PatternMatcher {
    /// Reads patterns; empty ones are passed over.
    ///
    /// # Errors
    /// [`BadPattern`] for the first malformed one, and for the first that is beyond one of the
    /// [ceilings](super).
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, BadPattern> {
        let mut matcher = Self::default();
        let mut budget = Budget::new();
        for pattern in patterns {
            let pattern = pattern.as_ref().trim();
            if pattern.is_empty() {
                continue;
            }
            check_length(pattern)?;
            budget.take(pattern)?;
            let cleaned = path::clean(pattern);
            let stripped = cleaned.strip_prefix('!');
            if stripped == Some("") {
                return Err(BadPattern::syntax(&cleaned));
            }
            let exclusion = stripped.is_some();
            let cleaned = stripped.unwrap_or(&cleaned);
            check_with_dot(cleaned)?;
            let mut kind = kind(cleaned);
            if matches!(kind, Kind::Suffix | Kind::Program(_)) {
                budget.take_wildcards(cleaned)?;
            }
            if let Kind::Program(program) = &mut kind {
                *program = Program::new(cleaned);
            }
            matcher.exclusions |= exclusion;
            matcher.patterns.push(Pattern {
                names: cleaned.split('/').count(),
                kind,
                cleaned: cleaned.to_owned(),
                exclusion,
            });
        }
        Ok(matcher)
    }

    /// Tells whether there are exceptions, so that a directory that matches may hold something
    /// that does not.
    #[must_use]
    pub fn has_exclusions(&self) -> bool {
        self.exclusions
    }

    /// Tells whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns the cleaned patterns, and whether each is an exception.
    pub fn patterns(&self) -> impl ExactSizeIterator<Item = (&str, bool)> {
        self.patterns
            .iter()
            .map(|pattern| (pattern.cleaned.as_str(), pattern.exclusion))
    }

    /// Tells whether the path matches, with a quirk: of its parents only the one that has as
    /// many names as the pattern is tried. For what depends on the old behaviour.
    ///
    /// # Errors
    /// [`BadPattern`] if a pattern that has to be tried cannot be understood.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> Result<bool, BadPattern> {
        let path = path.as_ref();
        let parent = path::dir_bytes(path);
        self.fold(path, |pattern| {
            let prefix = prefixes(&parent).nth(pattern.names - 1);
            Ok(parent != b"." && prefix.is_some_and(|prefix| pattern.matches(prefix) == Ok(true)))
        })
    }

    /// Tells whether the path or one of its parents matches.
    ///
    /// # Errors
    /// [`BadPattern`] if a pattern that has to be tried cannot be understood.
    pub fn matches_or_parent_matches(&self, path: impl AsRef<[u8]>) -> Result<bool, BadPattern> {
        let path = path.as_ref();
        let parent = path::dir_bytes(path);
        self.fold(path, |pattern| Ok(pattern.matches_parent(&parent)))
    }

    /// Tells whether the path itself matches, whatever its parents.
    ///
    /// # Errors
    /// [`BadPattern`] if a pattern that has to be tried cannot be understood.
    pub fn matches_exactly(&self, path: impl AsRef<[u8]>) -> Result<bool, BadPattern> {
        self.fold(path.as_ref(), |_| Ok(false))
    }

    /// Tells whether the path or one of its parents matches, for a walk from the top that hands
    /// each directory's outcome on to what is in it.
    ///
    /// The answer is not always that of [`Self::matches_or_parent_matches`]: a pattern
    /// that a directory did not have to be tried against may be tried for what is in it.
    ///
    /// # Errors
    /// [`BadPattern`] if a pattern that has to be tried cannot be understood.
    ///
    /// # Panics
    /// If `parent` comes from a matcher with another number of patterns.
    pub fn matches_with_parent(
        &self,
        path: impl AsRef<[u8]>,
        parent: &ParentMatches,
    ) -> Result<(bool, ParentMatches), BadPattern> {
        let path = path.as_ref();
        let known = !parent.matched.is_empty();
        assert!(
            !known || parent.matched.len() == self.patterns.len(),
            "BUG: the parent's outcome is that of another matcher"
        );
        let parent_path = if known {
            Vec::new()
        } else {
            path::dir_bytes(path)
        };
        let mut matched = false;
        let mut outcome = ParentMatches {
            matched: vec![false; self.patterns.len()],
        };
        for (position, pattern) in self.patterns.iter().enumerate() {
            let mut found = known && parent.matched[position];
            if !found {
                if pattern.exclusion != matched {
                    continue;
                }
                found = pattern.matches(path)? || (!known && pattern.matches_parent(&parent_path));
            }
            outcome.matched[position] = found;
            if found {
                matched = !pattern.exclusion;
            }
        }
        Ok((matched, outcome))
    }

    /// Goes through the patterns that could change the outcome so far.
    fn fold(
        &self,
        path: &[u8],
        parent: impl Fn(&Pattern) -> Result<bool, BadPattern>,
    ) -> Result<bool, BadPattern> {
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.exclusion == matched && (pattern.matches(path)? || parent(pattern)?) {
                matched = !pattern.exclusion;
            }
        }
        Ok(matched)
    }
}

impl Pattern {
    fn matches(&self, path: &[u8]) -> Result<bool, BadPattern> {
        let cleaned = self.cleaned.as_bytes();
        match &self.kind {
            Kind::Exact => Ok(path == cleaned),
            Kind::Prefix => Ok(path.starts_with(&cleaned[..cleaned.len() - 2])),
            Kind::Suffix => {
                let suffix = &cleaned[2..];
                Ok(path.ends_with(suffix) || suffix.strip_prefix(b"/") == Some(path))
            }
            Kind::Program(Some(program)) => Ok(program.matches(path)),
            Kind::Program(None) => Err(BadPattern::syntax(&self.cleaned)),
        }
    }

    /// Tells whether `parent` or a directory that it is in matches.
    fn matches_parent(&self, parent: &[u8]) -> bool {
        let cleaned = self.cleaned.as_bytes();
        parent != b"."
            && match &self.kind {
                Kind::Exact => parent
                    .strip_prefix(cleaned)
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'/'),
                // What starts a directory's path starts the paths of all that is in it.
                Kind::Prefix => self.matches(parent) == Ok(true),
                Kind::Suffix => prefixes(parent).any(|prefix| self.matches(prefix) == Ok(true)),
                Kind::Program(Some(program)) => program.matches_prefix(parent),
                Kind::Program(None) => false,
            }
    }
}

/// The path cut at each of its slashes, then the whole path.
fn prefixes(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(position, _)| &path[..position]).chain([path])
}

/// Tells how a pattern is matched; the program is not made yet. Simple patterns need none, and
/// for some of them the meaning differs from what the program would be.
fn kind(cleaned: &str) -> Kind {
    let mut kind = Kind::Exact;
    let mut rest = cleaned.chars().peekable();
    let mut first = true;
    while let Some(character) = rest.next() {
        let program = match character {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                let last = rest.peek().is_none();
                if last && matches!(kind, Kind::Exact) {
                    kind = Kind::Prefix;
                } else {
                    kind = Kind::Program(None);
                }
                if first {
                    kind = Kind::Suffix;
                }
                false
            }
            '\\' => rest.next().is_some(),
            '*' | '?' | '[' | ']' => true,
            _ => false,
        };
        if program {
            kind = Kind::Program(None);
        }
        first = false;
    }
    kind
}
