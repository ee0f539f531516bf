//! Bundles: directories of whole statements, made by scanners and frontends.

use std::collections::BTreeMap;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, AttestationContent, Subject};
use serde::Deserialize;
use serde_json::Value;

use super::{Left, PROVENANCE, Predicate, invalid, read, view};
use crate::{ExportError, json};

/// A statement as it stands in a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundled {
    #[serde(default)]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<BundledSubject>>,
    #[serde(default)]
    predicate: Value,
}

#[derive(Deserialize)]
struct BundledSubject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: Option<BTreeMap<String, String>>,
}

/// The statements in the directory of a bundle, in the order of their names.
pub(super) fn open(
    attestation: &Attestation,
    left: &mut Left,
    cancel: &Cancel,
) -> Result<Vec<Predicate>, ExportError> {
    let AttestationContent::File(tree) = &attestation.content else {
        return Err(invalid(attestation, "a bundle is in a tree"));
    };
    let view = view(tree, cancel)?;
    let (at, directory) = view
        .resolve(attestation.path.as_bytes(), true)
        .map_err(|error| invalid(attestation, error.to_string()))?;
    if !directory.entry().is_directory() {
        return Err(invalid(attestation, "a bundle is a directory"));
    }
    let mut statements = Vec::new();
    for (name, _) in directory.children() {
        cancel.check()?;
        let mut path = at.as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(name);
        let text = read(attestation, &view, &path)?;
        let name = String::from_utf8_lossy(name);
        let wrong = |reason: String| invalid(attestation, format!("{name} in it {reason}"));
        let statement: Bundled = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("is no in-toto statement: {error}")))?;
        let wanted = &attestation.predicate_type;
        let found = statement.predicate_type;
        if !wanted.is_empty() && found != *wanted {
            return Err(wrong(format!(
                "has the predicate type {found}, not {wanted}"
            )));
        }
        if found.starts_with(PROVENANCE) {
            return Err(wrong(
                "attests provenance, which only the engine may".to_owned(),
            ));
        }
        let subjects = statement.subject.unwrap_or_default();
        let subjects = subjects.into_iter().map(|subject| Subject::Raw {
            name: subject.name,
            digests: subject.digest.unwrap_or_default(),
        });
        let content = json::go_value(&statement.predicate).into_bytes();
        left.take(attestation, &content)?;
        statements.push(Predicate {
            path: joined(&attestation.path, &name),
            predicate_type: found,
            subjects: subjects.collect(),
            content,
            is_core: false,
        });
    }
    Ok(statements)
}

/// Go's `path.Join` of the path of a bundle and the name of a file in it.
fn joined(path: &str, name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let is_absolute = path.starts_with('/');
    for part in path.split('/').chain([name]) {
        match (part, parts.last()) {
            ("" | ".", _) => {}
            ("..", None) if is_absolute => {}
            ("..", Some(&last)) if last != ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    let root = if is_absolute { "/" } else { "" };
    root.to_owned() + &parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn paths_are_joined_as_in_go() {
        for (path, expected) in [
            ("", "n"),
            (".", "n"),
            ("./", "n"),
            ("/", "/n"),
            ("a", "a/n"),
            ("/a//b/", "/a/b/n"),
            ("a/..", "n"),
            ("/..", "/n"),
            ("../a", "../a/n"),
        ] {
            assert_eq!(joined(path, "n"), expected, "{path}");
        }
    }
}
