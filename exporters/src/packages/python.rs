//! Python packages: lock files, pinned requirements, and what is installed.

use ashlar_solver::tree::{Kind as EntryKind, TreePath};

use super::findings::Party;
use super::npm::{Entries, json};
use super::tree::{DESCRIPTION, FIELD, text};
use super::{Findings, Kind, License, Package, Tree, toml_lock};
use crate::purl::Purl;
use crate::sbom::ScanError;

/// Largest metadata of an installed package that is read; most of it is a description.
const METADATA: u64 = 4 << 20;

/// `poetry.lock`, `uv.lock`, `pdm.lock`.
pub(super) fn toml_lock(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    for locked in toml_lock::read(tree, path, findings)? {
        // In a lock file of uv the project itself is there, too.
        let local = locked.source.as_ref().and_then(toml::Value::as_table);
        let is_local = |key| local.is_some_and(|source| source.contains_key(key));
        if ["editable", "virtual", "directory"]
            .into_iter()
            .any(is_local)
        {
            continue;
        }
        if let Some(package) = package(&locked.name, &locked.version, path) {
            findings.add(package)?;
        }
    }
    Ok(())
}

/// `Pipfile.lock`.
pub(super) fn pipfile_lock(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    #[derive(serde::Deserialize)]
    struct Locked {
        #[serde(default)]
        version: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Lock {
        #[serde(default)]
        default: Entries<Locked>,
        #[serde(default)]
        develop: Entries<Locked>,
    }
    let ceiling = tree.limits().lock_file_bytes;
    let Some(bytes) = tree.bytes(path, ceiling, findings)? else {
        return Ok(());
    };
    let Some(lock) = json::<Lock>(&bytes, path, findings) else {
        return Ok(());
    };
    for (name, locked) in lock.default.0.into_iter().chain(lock.develop.0) {
        let version = locked.version.unwrap_or_default();
        if let Some(package) = package(&name, version.trim_start_matches('='), path) {
            findings.add(package)?;
        }
    }
    Ok(())
}

/// Whether a file of this name lists requirements.
pub(super) fn is_requirements(name: &[u8]) -> bool {
    let contains = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    name.ends_with(b".txt") && contains(b"requirements")
}

/// `requirements.txt`: what is pinned to one version.
pub(super) fn requirements(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let ceiling = tree.limits().lock_file_bytes;
    let Some(bytes) = tree.bytes(path, ceiling, findings)? else {
        return Ok(());
    };
    for line in String::from_utf8_lossy(&bytes).lines() {
        if let Some((name, version)) = pinned(line)
            && let Some(package) = package(name, version, path)
        {
            findings.add(package)?;
        }
    }
    Ok(())
}

/// Name and version of `name[extra]==1.0 ; marker --hash=…`.
fn pinned(line: &str) -> Option<(&str, &str)> {
    let line = line.split(" #").next()?.trim();
    if line.starts_with(['#', '-']) {
        return None;
    }
    let requirement = line.split([';', '\\']).next()?.split(" --").next()?;
    let (name, version) = requirement.split_once("==")?;
    let name = name.split('[').next()?.trim();
    let version = version.trim_start_matches('=').trim();
    let plain = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    (plain(name, b"-_.") && plain(version, b".+!-_")).then_some((name, version))
}

/// Whether this is the metadata of an installed package.
pub(super) fn is_installed(path: &TreePath) -> bool {
    let directory = path.components().rev().nth(1).unwrap_or_default();
    directory.ends_with(b".dist-info") || directory.ends_with(b".egg-info")
}

/// `METADATA` or `PKG-INFO`: a mail header, then a description.
pub(super) fn metadata(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let Some(bytes) = tree.bytes(path, METADATA, findings)? else {
        return Ok(());
    };
    let mut fields = Fields::default();
    for line in bytes.split(|&byte| byte == b'\n') {
        if line.trim_ascii().is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let value = line[colon + 1..].trim_ascii();
        match &line[..colon] {
            b"Name" => fields.name = value,
            b"Version" => fields.version = value,
            b"Summary" => fields.summary = value,
            b"License" => fields.license = value,
            b"License-Expression" => fields.expression = value,
            b"Author" => fields.author = value,
            b"Author-email" => fields.mail = value,
            b"Home-page" => fields.homepage = value,
            _ => {}
        }
    }
    let (name, version) = (text(fields.name, FIELD), text(fields.version, FIELD));
    let Some(mut package) = package(&name, &version, path) else {
        return Ok(());
    };
    let license = match fields.expression {
        b"" => fields.license,
        expression => expression,
    };
    package.license = License::parse(&text(license, FIELD));
    let (author, mail) = (text(fields.author, FIELD), text(fields.mail, FIELD));
    package.originator = match (&author[..], &mail[..]) {
        ("", "") => None,
        ("", mail) => Some(Party::Person(mail.to_owned())),
        (author, "") => Some(Party::Person(author.to_owned())),
        (author, mail) => Some(Party::Person(format!("{author} <{mail}>"))),
    };
    package.homepage = Some(text(fields.homepage, FIELD)).filter(|text| !text.is_empty());
    package.description = Some(text(fields.summary, DESCRIPTION)).filter(|text| !text.is_empty());
    record(tree, path, &mut package, findings)?;
    findings.add(package)
}

#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    version: &'a [u8],
    summary: &'a [u8],
    license: &'a [u8],
    expression: &'a [u8],
    author: &'a [u8],
    mail: &'a [u8],
    homepage: &'a [u8],
}

/// Reads `RECORD`: which files belong to the package, relative to the directory that the metadata
/// is in.
fn record(
    tree: &Tree<'_>,
    metadata: &TreePath,
    package: &mut Package,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let Some(directory) = metadata.parent() else {
        return Ok(());
    };
    let record = directory.join(b"RECORD").ok();
    let Some(record) = record.filter(|record| {
        let node = tree.view().lookup(record);
        node.is_some_and(|node| node.entry().kind == EntryKind::File)
    }) else {
        return Ok(());
    };
    let ceiling = tree.limits().text_bytes;
    let Some(bytes) = tree.bytes(&record, ceiling, findings)? else {
        return Ok(());
    };
    let site = directory.parent().unwrap_or_default();
    for line in bytes.split(|&byte| byte == b'\n') {
        // Path, digest and size; a path with a comma or a quote is in quotes.
        let line = line.trim_ascii();
        let path = match line.strip_prefix(b"\"") {
            Some(rest) => rest.split(|&byte| byte == b'"').next(),
            None => line.split(|&byte| byte == b',').next(),
        };
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            continue;
        };
        let full = match path.starts_with(b"/") {
            true => path.to_vec(),
            false => [site.as_bytes(), path].join(&b'/'),
        };
        findings.own(&full, &mut package.files)?;
    }
    Ok(())
}

/// A package with its URL, in which names are in normal form.
fn package(name: &str, version: &str, found: &TreePath) -> Option<Package> {
    let (name, version) = (
        text(name.as_bytes(), FIELD),
        text(version.as_bytes(), FIELD),
    );
    if name.is_empty() || version.is_empty() {
        return None;
    }
    let normal = name.to_lowercase().replace(['_', '.'], "-");
    let purl = Purl::new("pypi", &normal, &version).to_string();
    let mut package = Package::new(Kind::Python, name, version, found);
    package.purl = purl;
    Some(package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_that_are_pinned() {
        for (line, expected) in [
            ("Django==4.2.1", Some(("Django", "4.2.1"))),
            ("a[b,c] == 1.0 ; python_version < '3'", Some(("a", "1.0"))),
            ("a==1.0 --hash=sha256:00", Some(("a", "1.0"))),
            ("a==1.0 \\", Some(("a", "1.0"))),
            ("a==1.0 # why", Some(("a", "1.0"))),
            ("a===1.0+local", Some(("a", "1.0+local"))),
            ("a>=1.0", None),
            ("a==1.*", None),
            ("# a==1", None),
            ("-r other==1.txt", None),
            ("a @ https://h/x==1", None),
            ("", None),
        ] {
            assert_eq!(pinned(line), expected, "{line}");
        }
    }

    #[test]
    fn names_of_files() {
        assert!(is_requirements(b"requirements.txt"));
        assert!(is_requirements(b"dev-requirements-3.txt"));
        assert!(!is_requirements(b"requirements.in"));
        let is = |path: &str| is_installed(&TreePath::new(path).unwrap());
        assert!(is("usr/lib/python3/dist-packages/x-1.dist-info/METADATA"));
        assert!(is("x.egg-info/PKG-INFO"));
        assert!(!is("x/METADATA"));
    }
}
