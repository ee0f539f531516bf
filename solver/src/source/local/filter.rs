//! Which objects of a directory belong to a local source: include and exclude patterns, as the
//! file sync of BuildKit's client applies them.

use ashlar_llb::patterns::{BadPattern, ParentMatches, PatternMatcher};

/// Include and exclude patterns, ready to be matched.
#[derive(Debug, Default)]
pub(super) struct Filter {
    include: Option<Side>,
    exclude: Option<Side>,
}

#[derive(Debug)]
struct Side {
    matcher: PatternMatcher,
    /// What the deciding patterns begin with, followed by `/`, if all of them are plain paths.
    /// Directories that are not the beginning of one need not be looked into.
    prefixes: Option<Vec<Vec<u8>>>,
}

/// Which patterns a directory matched.
#[derive(Debug, Clone, Default)]
pub(super) struct Matches {
    include: ParentMatches,
    exclude: ParentMatches,
}

/// What is to be done with an object.
#[derive(Debug)]
pub(super) struct Verdict {
    /// It belongs to the source. A directory that does not is there only if something in it does.
    pub(super) keep: bool,
    /// If it is a directory: something in it may belong to the source.
    pub(super) enter: bool,
    /// To be handed on to what is in it.
    pub(super) matches: Matches,
}

impl Side {
    /// `exceptions`: whether the patterns that make something belong are those with `!`.
    fn new(patterns: &[String], exceptions: bool) -> Result<Option<Self>, BadPattern> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let matcher = PatternMatcher::new(patterns)?;
        let deciding: Vec<&str> = matcher
            .patterns()
            .filter(|(_, exception)| *exception == exceptions)
            .map(|(pattern, _)| without_trailing_glob(pattern))
            .collect();
        let plain = |pattern: &&str| !pattern.contains(['*', '[', ']', '?', '^', '\\']);
        let prefixes = deciding.iter().all(plain).then(|| {
            deciding
                .iter()
                .map(|pattern| [pattern.as_bytes(), b"/"].concat())
                .collect()
        });
        Ok(Some(Self { matcher, prefixes }))
    }

    /// Whether a deciding pattern can match something in the directory.
    fn reaches(&self, directory: &[u8]) -> bool {
        let Some(prefixes) = &self.prefixes else {
            return true;
        };
        prefixes.iter().any(|prefix| {
            prefix
                .strip_prefix(directory)
                .is_some_and(|rest| rest.starts_with(b"/"))
        })
    }
}

fn without_trailing_glob(pattern: &str) -> &str {
    let pattern = pattern.strip_suffix("/**").unwrap_or(pattern);
    pattern.strip_suffix("/*").unwrap_or(pattern)
}

impl Filter {
    pub(super) fn new(include: &[String], exclude: &[String]) -> Result<Self, BadPattern> {
        let include = Side::new(include, false)?;
        let exclude = Side::new(exclude, true)?;
        Ok(Self { include, exclude })
    }

    /// Whether everything belongs to the source.
    pub(super) fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Judges an object, whose parent directory had `parent`.
    pub(super) fn judge(&self, path: &[u8], parent: &Matches) -> Result<Verdict, BadPattern> {
        let mut verdict = Verdict {
            keep: true,
            enter: true,
            matches: Matches::default(),
        };
        if let Some(side) = &self.include {
            let (matched, matches) = side.matcher.matches_with_parent(path, &parent.include)?;
            verdict.matches.include = matches;
            if !matched {
                verdict.keep = false;
                verdict.enter = side.reaches(path);
            }
        }
        // What the include patterns leave out for good is not matched any further.
        if let (Some(side), true) = (&self.exclude, verdict.enter) {
            let (matched, matches) = side.matcher.matches_with_parent(path, &parent.exclude)?;
            verdict.matches.exclude = matches;
            if matched {
                verdict.keep = false;
                verdict.enter = side.reaches(path);
            }
        }
        Ok(verdict)
    }
}
