//! Large inputs, of kinds that were made to cost much, are read or refused in seconds.
//!
//! In a build with optimisation and with `ASHLAR_SOAK=1` they have 64 MiB, the default limit of a
//! definition (`ASHLAR_SOAK=1 cargo test --release -p ashlar-llb hostile_size`, a minute), and
//! 256 KiB otherwise: what takes the square of that would still take minutes.

use std::time::{Duration, Instant};

use ashlar_llb::patterns::{Glob, PatternMatcher, PatternProblem, read_ignore_file};
use ashlar_llb::{Checksum, Definition, Graph, OpDigest, Platform, Reference, path, shlex};

fn soak() -> bool {
    !cfg!(debug_assertions) && std::env::var_os("ASHLAR_SOAK").is_some()
}

fn size() -> usize {
    if soak() { 64 << 20 } else { 256 << 10 }
}

/// Fails if `work` takes much longer than a busy machine needs for work in proportion.
#[expect(clippy::disallowed_methods, reason = "the test measures")]
fn soon(what: &str, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(20), "{what} took {took:?}");
}

fn repeat(unit: &[u8]) -> Vec<u8> {
    unit.repeat(size() / unit.len())
}

#[test]
fn large_definitions_are_read_or_refused_soon() {
    let field = |number: u8, length: usize| {
        let mut bytes = vec![number << 3 | 2];
        let mut rest = length;
        while rest > 0x7f {
            bytes.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
            rest >>= 7;
        }
        bytes.push(u8::try_from(rest).expect("seven bits"));
        bytes
    };
    // One field that is as long as all that follows.
    let whole = |number: u8, unit: &[u8]| {
        let content = repeat(unit);
        let mut bytes = field(number, content.len() - 8);
        bytes.extend(&content[8..]);
        bytes
    };
    for (what, bytes) in [
        ("empty ops", repeat(&[0x0a, 0])),
        ("ops of one field", repeat(&[0x0a, 2, 0x5a, 0])),
        ("empty metadata", repeat(&[0x12, 0])),
        ("empty sources", repeat(&[0x1a, 0])),
        ("one op of empty inputs", whole(1, &[0x0a, 0])),
        (
            "one op of nested fields",
            whole(1, &[0x0a, 0x80, 0x80, 0x80, 0x10]),
        ),
        ("one source of empty files", whole(3, &[0x12, 0])),
        (
            "files in files",
            whole(3, &[0x12, 0x80, 0x80, 0x80, 0x10, 0x1a]),
        ),
        ("a number without end", repeat(&[0x80])),
        ("group starts", repeat(&[0x0b])),
        ("zeros", repeat(&[0])),
    ] {
        soon(what, || {
            if let Ok(definition) = Definition::decode(bytes) {
                drop(Graph::load(&definition));
            }
        });
    }
}

#[test]
fn large_texts_are_read_or_refused_soon() {
    for unit in [
        "a", "a/", "a.", ":", "@", "[", "-", "é", "%41", "\\", "\"", "a ", "../", "\n",
    ] {
        let bytes = repeat(unit.as_bytes());
        let text = String::from_utf8_lossy(&bytes);
        soon(unit, || {
            drop(Reference::parse(&text).map(|reference| reference.familiar()));
            drop(text.parse::<OpDigest>());
            drop(text.parse::<Checksum>());
            drop(Platform::parse_on(&text, &Platform::linux_amd64()));
            let _ = (shlex(&text).len(), path::clean(&text).len());
            drop(ashlar_llb::git(&text));
        });
    }
}

#[test]
fn large_patterns_are_refused_soon() {
    for unit in [
        "a",
        "a\n",
        "/\n",
        "a/",
        "*",
        "**\n",
        "**/",
        "**/*a\n",
        "[",
        "[a",
        "[[:",
        "]",
        "!",
        "?",
        "\\",
        "\\d\n",
        "é",
        "[[:^word:]]\n",
    ] {
        let text = unit.repeat(size() / unit.len());
        soon(unit, || {
            let error = PatternMatcher::new([&text]).expect_err("too long");
            assert_eq!(error.problem(), PatternProblem::TooLong);
            assert!(error.to_string().len() < 1_000);
            assert!(Glob::new(&text).is_err());
            if let Ok(matcher) = PatternMatcher::new(read_ignore_file(&text)) {
                let path = "a/".repeat(2_000);
                drop(matcher.matches(&path));
                drop(matcher.matches_or_parent_matches(&path));
            }
        });
    }
}

/// The costliest lists that are taken, on the longest path that Linux takes.
#[test]
fn the_largest_patterns_match_in_bounded_time() {
    let scale = if soak() { 1 } else { 32 };
    let path = "a/".repeat(2_048);
    for unit in [
        "**/",
        "**/*a",
        "*a",
        "?",
        "*?",
        "a/**/",
        "[a-z]",
        "[^a][^/]",
        "[[:^word:]/a]*",
        "\\W*",
        "a/",
    ] {
        let pattern = unit.repeat((64 << 10) / scale / unit.len());
        let matcher = PatternMatcher::new([&pattern; 4]).expect("within the ceilings");
        soon(unit, || {
            drop(matcher.matches(&path));
            drop(matcher.matches_or_parent_matches(&path));
        });
        soon(unit, || {
            let _ = Glob::new(&pattern).expect("well formed").matches(&path);
        });
    }
    let names: Vec<_> = (0..(256 << 10) / scale)
        .map(|name| format!("a/{name}"))
        .collect();
    let matcher = PatternMatcher::new(&names).expect("within the ceilings");
    soon("names", || {
        assert_eq!(matcher.matches_or_parent_matches(&path), Ok(false));
        assert_eq!(matcher.matches_or_parent_matches("a/77/x/y"), Ok(true));
    });
}

#[test]
fn ceilings_of_patterns_are_exact() {
    let problem = |patterns: &[&str]| {
        let error = PatternMatcher::new(patterns).err();
        error.map(|error| error.problem())
    };
    let long = "a".repeat(64 << 10);
    assert_eq!(problem(&[long.as_str(); 5]), None);
    assert_eq!(
        problem(&[&format!("{long}a")]),
        Some(PatternProblem::TooLong)
    );
    // Patterns without wildcards leave all of the room to those with some.
    for wildcard in [long.replacen('a', "?", 1), format!("**/{}", &long[3..])] {
        let four = [&long, &wildcard, &wildcard, &wildcard, &wildcard, "a"];
        assert_eq!(problem(&four), None);
        let more = [four.as_slice(), &["?"]].concat();
        assert_eq!(problem(&more), Some(PatternProblem::ListTooLarge));
    }
}
