//! Ceilings on patterns, whose numbers [`super`] explains.

use super::{BadPattern, PatternProblem};

/// Bytes of one pattern.
const PATTERN: usize = 64 << 10;
/// Patterns of a list.
const PATTERNS: usize = 256 << 10;
/// Bytes of a list.
const LIST: usize = 16 << 20;
/// Bytes of those patterns of a list whose cost grows with the path.
const WILDCARDS: usize = 256 << 10;

/// Fails if the pattern is longer than any that is compiled.
pub(super) fn check_length(pattern: &str) -> Result<(), BadPattern> {
    if pattern.len() > PATTERN {
        return Err(BadPattern::new(pattern, PatternProblem::TooLong));
    }
    Ok(())
}

/// What a list of patterns may still grow by.
#[derive(Debug)]
pub(super) struct Budget {
    patterns: usize,
    bytes: usize,
    wildcards: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            patterns: PATTERNS,
            bytes: LIST,
            wildcards: WILDCARDS,
        }
    }

    /// Takes the pattern off, as one that is compared only.
    pub(super) fn take(&mut self, pattern: &str) -> Result<(), BadPattern> {
        spend(&mut self.patterns, 1, pattern)?;
        spend(&mut self.bytes, pattern.len(), pattern)
    }

    /// Takes the pattern off the budget of those that cost more than that.
    pub(super) fn take_wildcards(&mut self, pattern: &str) -> Result<(), BadPattern> {
        spend(&mut self.wildcards, pattern.len(), pattern)
    }
}

fn spend(left: &mut usize, cost: usize, pattern: &str) -> Result<(), BadPattern> {
    *left = left
        .checked_sub(cost)
        .ok_or_else(|| BadPattern::new(pattern, PatternProblem::ListTooLarge))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Budget, LIST, PATTERN, PATTERNS};

    #[test]
    fn a_list_may_have_so_many_patterns_and_no_more() {
        for (pattern, most) in [
            (String::new(), PATTERNS),
            ("a".repeat(PATTERN), LIST / PATTERN),
        ] {
            let mut budget = Budget::new();
            for _ in 0..most {
                budget.take(&pattern).expect("within the ceiling");
            }
            assert!(budget.take(&pattern).is_err());
        }
    }
}
