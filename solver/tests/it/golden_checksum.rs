//! Content checksums that BuildKit computed.

use std::collections::BTreeMap;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::id::ContentDigest;
use ashlar_solver::tree::checksum::{
    ChecksumError, ChecksumOptions, checksum, checksum_of_nothing,
};
use ashlar_solver::tree::{Entry, TreePath, View};
use serde_json::Value;

use crate::golden;
use crate::tar_tree::{MemoryFiles, read, view};

fn tree(case: &Value) -> Option<View> {
    let tars = case["tars"].as_array()?;
    let (mut entries, mut files) = (BTreeMap::new(), MemoryFiles::default());
    for (number, tar) in tars.iter().enumerate() {
        if number + 1 == tars.len() {
            let removed = case["removed_before_last_tar"].as_array();
            for path in removed.into_iter().flatten() {
                remove(&mut entries, path.as_str().unwrap());
            }
        }
        let bytes = golden::read(&format!("checksum/{}", tar.as_str().unwrap()));
        read(&bytes, &mut entries, &mut files);
    }
    Some(view(entries, files))
}

/// Removes a path and all below it.
fn remove(entries: &mut BTreeMap<TreePath, Entry>, path: &str) {
    let path = path.trim_matches('/');
    let below = format!("{path}/");
    let before = entries.len();
    entries.retain(|entry, _| {
        let entry = entry.as_bytes();
        entry != path.as_bytes() && !entry.starts_with(below.as_bytes())
    });
    assert_ne!(entries.len(), before, "{path} is not there");
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

/// Says what is wrong with an outcome, if anything is.
fn check(
    tree: &str,
    query: &Value,
    outcome: &Result<ContentDigest, ChecksumError>,
) -> Option<String> {
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
    (actual != expected).then(|| format!("{tree}: {query}: {actual}"))
}

#[test]
fn golden_checksums_are_buildkits() {
    let directory = golden::directory().join("checksum");
    let (mut count, mut wrong) = (0, Vec::new());
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
            wrong.extend(check(&name, query, &ask(tree(&case).as_ref(), query)));
        }
        let warm = tree(&case);
        for query in queries.iter().chain(queries.iter().rev()) {
            wrong.extend(check(&name, query, &ask(warm.as_ref(), query)));
        }
        count += queries.len();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 0, "{}: no queries", directory.display());
}
