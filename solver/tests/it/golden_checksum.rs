//! Content checksums that BuildKit computed.

use std::collections::BTreeMap;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::id::ContentDigest;
use ashlar_solver::tree::View;
use ashlar_solver::tree::checksum::{
    ChecksumError, ChecksumOptions, checksum, checksum_of_nothing,
};
use serde_json::Value;

use crate::golden;
use crate::tar_tree::{MemoryFiles, read, view};

fn tree(case: &Value) -> Option<View> {
    let tars = case["tars"].as_array()?;
    let (mut entries, mut files) = (BTreeMap::new(), MemoryFiles::default());
    for tar in tars {
        let bytes = golden::read(&format!("checksum/{}", tar.as_str().unwrap()));
        read(&bytes, &mut entries, &mut files);
    }
    assert_eq!(case["removed_before_last_tar"], Value::Null);
    Some(view(entries, files))
}

fn options(query: &Value) -> ChecksumOptions {
    let flag = |name: &str| query[name].as_bool().unwrap_or(false);
    let list = |name: &str| {
        let list = query[name]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        list.iter()
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    ChecksumOptions {
        follow_links: flag("follow_links"),
        wildcard: flag("wildcard"),
        include: list("include"),
        exclude: list("exclude"),
        required: list("required"),
    }
}

fn ask(view: Option<&View>, query: &Value) -> Result<ContentDigest, ChecksumError> {
    let path = query["path"].as_str().unwrap().as_bytes();
    match view {
        Some(view) => checksum(view, path, &options(query), &Cancel::new()),
        None => checksum_of_nothing(path),
    }
}

fn check(tree: &str, query: &Value, outcome: &Result<ContentDigest, ChecksumError>) {
    let actual = match outcome {
        Ok(digest) => digest.to_string(),
        Err(ChecksumError::NotFound { .. }) => "not_found".to_owned(),
        Err(ChecksumError::NotADirectory { .. }) => "not_a_directory".to_owned(),
        Err(ChecksumError::TooManyLinks { .. }) => "too_many_links".to_owned(),
        Err(other) => format!("{other:?}"),
    };
    let expected = query["digest"]
        .as_str()
        .or(query["error"].as_str())
        .unwrap();
    assert_eq!(actual, expected, "{tree}: {query}");
}

#[test]
fn golden_checksums_are_buildkits() {
    let directory = golden::directory().join("checksum");
    let mut count = 0;
    let mut names: Vec<_> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    names.sort();
    for name in names {
        let name = name.file_stem().unwrap().to_string_lossy().into_owned();
        let case = golden::json(&format!("checksum/{name}.json"));
        let queries = case["queries"].as_array().unwrap();
        // On a view of its own, then again on one view in order and in reverse order.
        for query in queries {
            check(&name, query, &ask(tree(&case).as_ref(), query));
        }
        let warm = tree(&case);
        for query in queries.iter().chain(queries.iter().rev()) {
            check(&name, query, &ask(warm.as_ref(), query));
        }
        count += queries.len();
    }
    assert!(count > 0, "{}: no queries", directory.display());
}
