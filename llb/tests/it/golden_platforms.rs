//! Platforms read and match as `github.com/containerd/platforms` says.

use ashlar_llb::platform::{ParsePlatformError, Platform, PlatformMatcher};
use serde_json::Value;

use crate::golden;

fn platform(value: &Value) -> Platform {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut platform =
        Platform::new(text("os"), text("architecture")).with_variant(text("variant"));
    platform.os_version = text("os_version");
    let features = value
        .get("os_features")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    platform.os_features = features
        .map(|feature| feature.as_str().expect("feature").to_owned())
        .collect();
    platform
}

fn parse(text: &str) -> Result<Platform, ParsePlatformError> {
    Platform::parse_on(text, &Platform::linux_amd64())
}

#[test]
fn golden_platforms() {
    let Some(table) = golden::json("platforms.json") else {
        return;
    };
    for row in table["parse"].as_array().expect("parse") {
        let input = row["input"].as_str().expect("input");
        let parsed = match parse(input) {
            Ok(parsed) => parsed,
            Err(error) => {
                assert!(row.get("error").is_some(), "{input}: {error}");
                continue;
            }
        };
        assert_eq!(row.get("error"), None, "{input}: {parsed}");
        assert_eq!(platform(&row["parsed"]), parsed, "{input}");
        assert_eq!(row["format"], parsed.format(), "{input}");
        assert_eq!(row["format_all"], parsed.format_all(), "{input}");
        let normalised = parsed.normalised();
        assert_eq!(platform(&row["normalised"]), normalised, "{input}");
        assert_eq!(
            row["format_all_normalised"],
            normalised.format_all(),
            "{input}"
        );
    }
    for row in table["normalise"].as_array().expect("normalise") {
        let input = platform(&row["input"]);
        assert_eq!(row["format"], input.format(), "{row}");
        assert_eq!(row["format_all"], input.format_all(), "{row}");
        assert_eq!(platform(&row["normalised"]), input.normalised(), "{row}");
    }
    for row in table["match"].as_array().expect("match") {
        let wanted = parse(row["matcher_for"].as_str().expect("wanted")).unwrap();
        let candidate = parse(row["candidate"].as_str().expect("candidate")).unwrap();
        let only = PlatformMatcher::only(&wanted).matches(&candidate);
        let strict = PlatformMatcher::strict(&wanted).matches(&candidate);
        assert_eq!(row["match_only"], only, "{row}");
        assert_eq!(row["match_strict"], strict, "{row}");
        assert_eq!(row["match_new_matcher"], strict, "{row}");
    }
}

#[test]
fn the_best_match_ranks_first() {
    let rank = |wanted: &str, candidate: &str| {
        PlatformMatcher::only(&parse(wanted).unwrap()).rank(&parse(candidate).unwrap())
    };
    assert_eq!(rank("linux/arm64", "linux/arm64"), Some(0));
    assert!(rank("linux/arm64", "linux/arm/v7") < rank("linux/arm64", "linux/arm/v6"));
    assert_eq!(rank("linux/arm64", "linux/amd64"), None);
    assert_eq!(rank("linux/arm64/v9.1", "linux/arm64/v9"), Some(1));
    assert_eq!(rank("linux/arm64/v9.1", "linux/arm64/v8.6"), Some(2));
    assert_eq!(rank("linux/arm64/v9.1", "linux/arm/v7"), Some(10));
    assert_eq!(
        rank("windows(10.0.17763)/amd64", "windows(10.0.17763.1)/amd64"),
        Some(0)
    );
    assert_eq!(
        rank("windows(10.0.17763)/amd64", "windows(10.0.20348)/amd64"),
        None
    );
    assert_eq!(
        rank("linux/amd64/v4000000000", "linux/386"),
        Some(1),
        "no long list"
    );
}

/// What `containerd/platforms` answers, asked where its rules have corners.
#[test]
fn corners_of_what_runs_where() {
    for (wanted, candidate, expected) in [
        ("linux/arm64/v8.0", "linux/arm64", true),
        ("linux/arm64/9.0", "linux/arm64/v8.5", true),
        ("linux/arm64/v9", "linux/arm64/v8.6", false),
        ("linux/arm64/v9.7", "linux/arm64/v8.9", true),
        ("linux/arm64/v9.8", "linux/arm64", false),
        ("linux/arm64/v8.10", "linux/arm64/v8.10", false),
        ("windows/amd64", "windows(10.0+win32k)/386", true),
        (
            "windows(10.0.26100)/amd64",
            "windows(10.0.20348)/amd64",
            true,
        ),
        (
            "windows(10.0.26100)/amd64",
            "windows(10.0.20347)/amd64",
            false,
        ),
        (
            "windows(10.0.26101)/amd64",
            "windows(10.0.20348)/amd64",
            false,
        ),
        (
            "windows(10.0.25398)/amd64",
            "windows(10.0.20348.7)/amd64",
            true,
        ),
        ("windows(10.0.17763)/amd64", "windows(10.0)/amd64", false),
        ("windows(10.0)/amd64", "windows(10.0.17763)/amd64", true),
    ] {
        let matcher = PlatformMatcher::only(&parse(wanted).unwrap());
        let candidate = parse(candidate).unwrap();
        assert_eq!(
            matcher.matches(&candidate),
            expected,
            "{wanted} {candidate}"
        );
    }
}

#[test]
fn malformed_escapes_are_refused() {
    for text in [
        "windows(%)/amd64",
        "windows(%2)/amd64",
        "windows(+%zz)/amd64",
        "windows(%ff)/a",
    ] {
        assert!(
            matches!(parse(text), Err(ParsePlatformError::Escape { .. })),
            "{text}"
        );
    }
    for text in [
        "windows(+)/amd64",
        "windows(1/amd64",
        "windows(1))/amd64",
        "(1)/amd64",
        "li*x",
    ] {
        assert!(
            matches!(parse(text), Err(ParsePlatformError::Part { .. })),
            "{text}"
        );
    }
}
