//! References read as `github.com/distribution/reference` reads them.

use ashlar_llb::reference::{ParseReferenceError, Reference};

use crate::golden;

#[test]
fn golden_refs() {
    let Some(table) = golden::json("refs.json") else {
        return;
    };
    let rows = table["rows"].as_array().expect("rows");
    assert_eq!(table["count"], rows.len());
    for row in rows {
        let input = row["input"].as_str().expect("input");
        let reference = match Reference::parse(input) {
            Ok(reference) => reference,
            Err(error) => {
                assert!(row.get("error").is_some(), "{input}: {error}");
                continue;
            }
        };
        assert_eq!(row.get("error"), None, "{input}: {reference}");
        assert_eq!(row["normalised"], reference.to_string(), "{input}");
        assert_eq!(
            row["with_default_tag"],
            reference.clone().with_default_tag().to_string(),
            "{input}"
        );
        assert_eq!(row["familiar"], reference.familiar(), "{input}");
        assert_eq!(row["domain"], reference.domain(), "{input}");
        assert_eq!(row["path"], reference.path(), "{input}");
        assert_eq!(
            row.get("tag").and_then(|tag| tag.as_str()),
            reference.tag(),
            "{input}"
        );
        assert_eq!(
            row.get("digest").and_then(|text| text.as_str()),
            reference.digest(),
            "{input}"
        );
        assert_eq!(
            row["docker_ref"],
            reference.to_docker().to_string(),
            "{input}"
        );
        assert_eq!(
            row["kind"] == "name-only",
            reference.is_name_only(),
            "{input}"
        );
        assert_eq!(
            Reference::parse(&reference.to_string()),
            Ok(reference.clone()),
            "{input}"
        );
        // The short name of a repository of Docker Hub that is called like a host means that host.
        if reference.domain() != "docker.io" || !reference.path().contains('.') {
            assert_eq!(
                Reference::parse(&reference.familiar()),
                Ok(reference),
                "{input}"
            );
        }
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let error = |text: &str| Reference::parse(text).expect_err(text);
    let hex = "ab".repeat(32);
    assert!(matches!(error(&hex), ParseReferenceError::ImageId { .. }));
    assert!(matches!(
        error("a/B"),
        ParseReferenceError::UpperCase { .. }
    ));
    assert!(matches!(error("a b"), ParseReferenceError::Format { .. }));
    assert!(matches!(
        error(&"a".repeat(300)),
        ParseReferenceError::TooLong { .. }
    ));
    let algorithm = error(&format!("a@sha1:{hex}"));
    assert!(matches!(
        algorithm,
        ParseReferenceError::DigestAlgorithm { .. }
    ));
    assert!(matches!(
        error(&format!("a@sha256:{hex}0")),
        ParseReferenceError::Digest { .. }
    ));
    let upper = error(&format!("a@sha256:{}", hex.to_uppercase()));
    assert!(matches!(upper, ParseReferenceError::Digest { .. }));
    let reference = Reference::parse("a").unwrap();
    assert!(reference.clone().with_tag("-").is_err());
    assert_eq!(
        reference.with_tag("1").unwrap().to_string(),
        "docker.io/library/a:1"
    );
    // Something like a registry that cannot be one is a path without a registry.
    assert_eq!(Reference::parse("a_b.c/d").unwrap().domain(), "");
}
