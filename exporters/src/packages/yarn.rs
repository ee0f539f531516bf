//! Node packages: `yarn.lock`, of the first version and of those that write YAML.
//!
//! Both are read line by line: a line without indentation that ends in a colon names what was
//! asked for, the indented lines below say what it led to.

use ashlar_solver::tree::TreePath;

use super::npm::{checksums, package};
use super::tree::{FIELD, text};
use super::{Findings, Tree};
use crate::sbom::ScanError;

pub(super) fn lock(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let ceiling = tree.limits().lock_file_bytes;
    let Some(bytes) = tree.bytes(path, ceiling, findings)? else {
        return Ok(());
    };
    let content = String::from_utf8_lossy(&bytes);
    for entry in entries(&content) {
        // What the project consists of itself.
        if entry.version == "0.0.0-use.local" || entry.resolution.contains("@workspace:") {
            continue;
        }
        let Some(mut package) = package(entry.name, entry.version, path) else {
            continue;
        };
        package.download = Some(text(entry.resolved.as_bytes(), FIELD)).filter(|at| !at.is_empty());
        package.checksums.extend(checksums(entry.integrity));
        findings.add(package)?;
    }
    Ok(())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Entry<'a> {
    name: &'a str,
    version: &'a str,
    resolved: &'a str,
    resolution: &'a str,
    integrity: &'a str,
}

fn entries(content: &str) -> impl Iterator<Item = Entry<'_>> {
    let mut lines = content.lines().peekable();
    std::iter::from_fn(move || {
        loop {
            let head = lines.next()?;
            let Some(head) = head.strip_suffix(':') else {
                continue;
            };
            if head.starts_with([' ', '\t', '#']) {
                continue;
            }
            let mut entry = Entry {
                name: name(head),
                ..Entry::default()
            };
            while let Some(line) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
                // Deeper lines list what the package depends on.
                let indented = line.trim_start();
                if line.len() - indented.len() > 2 {
                    continue;
                }
                let Some((key, value)) = indented.split_once([' ', ':']) else {
                    continue;
                };
                let value = value.trim().trim_matches('"');
                match key.trim_matches('"') {
                    "version" => entry.version = value,
                    "resolved" => entry.resolved = value,
                    "resolution" => entry.resolution = value,
                    "integrity" => entry.integrity = value,
                    _ => {}
                }
            }
            if !entry.name.is_empty() && !entry.version.is_empty() {
                return Some(entry);
            }
        }
    })
}

/// The name in `"@scope/name@^1.0.0, @scope/name@npm:^1.1"`.
fn name(head: &str) -> &str {
    let first = head.trim_matches('"').split(',').next().unwrap_or_default();
    let first = first.trim().trim_matches('"');
    match first
        .char_indices()
        .skip(1)
        .find(|(_, letter)| *letter == '@')
    {
        Some((at, _)) => &first[..at],
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions() {
        let classic = "# yarn lockfile v1\n\n\n\"@a/b@^1.0.0\", \"@a/b@^1.1\":\n  version \"1.2.3\"\n  resolved \"https://r/b.tgz#x\"\n  integrity sha1-xx\n  dependencies:\n    version \"9\"\n\nc@2:\n  version \"2.0.0\"\n";
        let found: Vec<_> = entries(classic).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].name, found[0].version, found[0].resolved),
            ("@a/b", "1.2.3", "https://r/b.tgz#x")
        );
        assert_eq!((found[1].name, found[1].version), ("c", "2.0.0"));
        let berry = "__metadata:\n  version: 6\n\n\"d@npm:^1.0.0, d@npm:^1.2.0\":\n  version: 1.2.0\n  resolution: \"d@npm:1.2.0\"\n  languageName: node\n\n\"me@workspace:.\":\n  version: 0.0.0-use.local\n  resolution: \"me@workspace:.\"\n";
        let found: Vec<_> = entries(berry).collect();
        assert_eq!((found[0].name, found[0].version), ("d", "1.2.0"));
        assert_eq!(found[1].resolution, "me@workspace:.");
        assert_eq!(entries(":\n:::\n@:\n@\n\"\":\n version\n").count(), 0);
    }
}
