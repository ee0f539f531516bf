//! Patterns: the first line is a path, the others are patterns to match it with.
#![no_main]

use ashlar_llb::patterns::{Glob, PatternMatcher, path_match, read_ignore_file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (path, rest) = text.split_once('\n').unwrap_or(("a/b", text));
    let patterns = read_ignore_file(rest);
    if let Ok(matcher) = PatternMatcher::new(patterns) {
        let _ = matcher.matches(path);
        let _ = matcher.matches_or_parent_matches(path);
        let _ = matcher.matches_exactly(path);
    }
    for pattern in rest.lines() {
        let found = path_match(pattern, path);
        if let Ok(glob) = Glob::new(pattern) {
            assert_eq!(found, Ok(glob.matches(path)), "{pattern:?} {path:?}");
        }
    }
});
