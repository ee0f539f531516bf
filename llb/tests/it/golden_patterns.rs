//! Patterns mean what `github.com/moby/patternmatcher` says.

use ashlar_llb::patterns::{ParentMatches, PatternMatcher, read_ignore_file};
use serde_json::Value;

use crate::golden;

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|text| text.as_str().expect("text"))
        .collect()
}

/// Visits the parents from the top and hands on each outcome.
fn walk(matcher: &PatternMatcher, path: &str) -> bool {
    let mut parent = ParentMatches::default();
    for (slash, _) in path.match_indices('/') {
        parent = matcher
            .matches_with_parent(&path[..slash], &parent)
            .expect("no error")
            .1;
    }
    matcher
        .matches_with_parent(path, &parent)
        .expect("no error")
        .0
}

#[test]
fn golden_patterns() {
    let Some(table) = golden::json("patterns.json") else {
        return;
    };
    let rows = table["rows"].as_array().expect("rows");
    assert_eq!(table["count"], rows.len());
    for row in rows {
        let patterns = strings(&row["patterns"]);
        let matcher = match PatternMatcher::new(&patterns) {
            Ok(matcher) => matcher,
            Err(error) => {
                assert!(row.get("error").is_some(), "{patterns:?}: {error}");
                continue;
            }
        };
        assert_eq!(row.get("error"), None, "{patterns:?}");
        assert_eq!(
            row["has_exclusions"],
            matcher.has_exclusions(),
            "{patterns:?}"
        );
        for check in row["checks"].as_array().expect("checks") {
            let path = check["path"].as_str().expect("path");
            let context = format!("{patterns:?} on {path:?}");
            if check.get("error").is_some() {
                let outcome = matcher.matches(path);
                let outcome = outcome.and_then(|_| matcher.matches_or_parent_matches(path));
                assert!(outcome.is_err(), "{context}");
                continue;
            }
            assert_eq!(
                check["matches"],
                matcher.matches(path).expect(&context),
                "{context}"
            );
            assert_eq!(
                check["matches_or_parent_matches"],
                matcher.matches_or_parent_matches(path).expect(&context),
                "{context}"
            );
            if let Some(walking) = check.get("matches_walking_parents") {
                assert_eq!(*walking, walk(&matcher, path), "{context}");
            }
        }
    }
}

#[test]
fn golden_ignore_files() {
    let Some(table) = golden::json("patterns.json") else {
        return;
    };
    for file in table["dockerignore_files"].as_array().expect("files") {
        let text = file["dockerignore"].as_str().expect("text");
        assert_eq!(
            read_ignore_file(text).collect::<Vec<_>>(),
            strings(&file["patterns"]),
            "{text:?}"
        );
    }
    assert_eq!(
        read_ignore_file("! a/b/ \n!\n!/x\r\n/").collect::<Vec<_>>(),
        ["!a/b", "!", "!x", "/"]
    );
}

#[test]
fn what_cannot_be_understood_is_an_error_when_tried() {
    let matcher = PatternMatcher::new(["a", "b\\q*", "!c"]).expect("it passes the first check");
    assert_eq!(
        matcher.matches_or_parent_matches("a"),
        Ok(true),
        "not tried"
    );
    let error = matcher.matches_or_parent_matches("b").expect_err("tried");
    assert_eq!(error.pattern(), "b\\q*");
}
