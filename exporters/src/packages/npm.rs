//! Node packages: `package-lock.json` of all versions, and installed `package.json`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use ashlar_solver::tree::TreePath;
use base64::Engine as _;
use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

use super::findings::Party;
use super::tree::{DESCRIPTION, FIELD, text};
use super::{Findings, Kind, License, Package, Tree};
use crate::purl::Purl;
use crate::sbom::ScanError;

/// Most entries of one object that are read. The largest lock files have some ten thousand.
const ENTRIES: usize = 100_000;

/// Largest `package.json` that is read.
const MANIFEST: u64 = 1 << 20;

/// Whether this is the manifest of an installed package: `…/node_modules/[@scope/]name/…`.
pub(super) fn is_installed(path: &TreePath) -> bool {
    let mut parts = path.components().rev().skip(1);
    let (Some(_name), Some(parent)) = (parts.next(), parts.next()) else {
        return false;
    };
    match parent {
        b"node_modules" => true,
        scope if scope.starts_with(b"@") => parts.next() == Some(b"node_modules"),
        _ => false,
    }
}

/// Reads `package.json`.
pub(super) fn manifest(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    #[derive(serde::Deserialize)]
    struct Manifest {
        #[serde(default)]
        name: Option<String>,
        #[serde(default)]
        version: Option<String>,
        #[serde(default)]
        license: Option<Value>,
        #[serde(default)]
        author: Option<Value>,
        #[serde(default)]
        homepage: Option<Value>,
        #[serde(default)]
        description: Option<Value>,
    }
    let Some(bytes) = tree.bytes(path, MANIFEST, findings)? else {
        return Ok(());
    };
    let Some(manifest) = json::<Manifest>(&bytes, path, findings) else {
        return Ok(());
    };
    // Manifests without a version say which kind of modules a directory has.
    let (Some(name), Some(version)) = (manifest.name, manifest.version) else {
        return Ok(());
    };
    if let Some(mut package) = package(&name, &version, path) {
        package.license = license(manifest.license.as_ref());
        package.originator = manifest.author.as_ref().and_then(author);
        let plain = |value: Option<Value>, most| {
            let value = value?;
            Some(text(value.as_str()?.as_bytes(), most)).filter(|text| !text.is_empty())
        };
        package.homepage = plain(manifest.homepage, FIELD);
        package.description = plain(manifest.description, DESCRIPTION);
        findings.add(package)?;
    }
    Ok(())
}

/// Reads `package-lock.json`.
pub(super) fn lock(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    #[derive(serde::Deserialize)]
    struct Lock {
        /// Versions 2 and 3: by place in the tree.
        #[serde(default)]
        packages: Entries<Locked>,
        /// Version 1: by name, nested.
        #[serde(default)]
        dependencies: Entries<Dependency>,
    }
    let ceiling = tree.limits().lock_file_bytes;
    let Some(bytes) = tree.bytes(path, ceiling, findings)? else {
        return Ok(());
    };
    let Some(lock) = json::<Lock>(&bytes, path, findings) else {
        return Ok(());
    };
    if lock.packages.0.is_empty() {
        return nested(lock.dependencies, path, findings);
    }
    for (place, locked) in lock.packages.0 {
        // The project itself and its workspaces are not below node_modules.
        let Some((_, name)) = place.rsplit_once("node_modules/") else {
            continue;
        };
        let name = locked.name.0.clone().unwrap_or_else(|| name.to_owned());
        add(&name, locked, path, findings)?;
    }
    Ok(())
}

fn nested(
    dependencies: Entries<Dependency>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    // JSON of 128 levels is not read in the first place.
    for (name, dependency) in dependencies.0 {
        if let Dependency(Some(mut locked)) = dependency {
            nested(std::mem::take(&mut locked.dependencies), path, findings)?;
            add(&name, *locked, path, findings)?;
        }
    }
    Ok(())
}

fn add(
    name: &str,
    locked: Locked,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    if locked.link {
        return Ok(());
    }
    let Some(version) = locked.version.0.filter(|version| is_version(version)) else {
        return Ok(());
    };
    if let Some(mut package) = package(name, &version, path) {
        package.license = License::parse(&locked.license.0.unwrap_or_default());
        package.download = locked.resolved.0.map(|at| text(at.as_bytes(), FIELD));
        package
            .checksums
            .extend(checksums(&locked.integrity.0.unwrap_or_default()));
        findings.add(package)?;
    }
    Ok(())
}

/// Version 1 has addresses of archives and repositories as versions.
fn is_version(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_digit())
}

/// A package with its URL.
pub(super) fn package(name: &str, version: &str, found: &TreePath) -> Option<Package> {
    let (name, version) = (
        text(name.as_bytes(), FIELD),
        text(version.as_bytes(), FIELD),
    );
    if name.is_empty() || version.is_empty() {
        return None;
    }
    let (scope, bare) = name.split_once('/').unwrap_or(("", &name));
    let purl = Purl::new("npm", bare, &version).namespace(scope);
    let purl = purl.to_string();
    let mut package = Package::new(Kind::Npm, name, version, found);
    package.purl = purl;
    Some(package)
}

/// Checksums in the form of subresource integrity: `sha512-…= sha1-…=`.
pub(super) fn checksums(integrity: &str) -> Vec<(&'static str, String)> {
    let one = |part: &str| {
        let (algorithm, text) = part.split_once('-')?;
        let (algorithm, length) = match algorithm {
            "sha1" => ("SHA1", 20),
            "sha256" => ("SHA256", 32),
            "sha384" => ("SHA384", 48),
            "sha512" => ("SHA512", 64),
            _ => return None,
        };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()?;
        (bytes.len() == length).then(|| {
            let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (algorithm, hex)
        })
    };
    integrity
        .split_whitespace()
        .take(8)
        .filter_map(one)
        .collect()
}

/// `"MIT"`, `{"type": "MIT"}`, or, in old manifests, a list of these.
fn license(value: Option<&Value>) -> License {
    match value {
        Some(Value::String(text)) => License::parse(text),
        Some(Value::Object(object)) => object
            .get("type")
            .and_then(Value::as_str)
            .map_or_else(License::default, License::parse),
        Some(Value::Array(list)) => {
            let name = |value: &Value| {
                let value = value.get("type").unwrap_or(value);
                value.as_str().map(str::to_owned)
            };
            License::all(list.iter().take(100).filter_map(name))
        }
        _ => License::default(),
    }
}

/// `"Name <mail> (address)"`, or an object with these.
fn author(value: &Value) -> Option<Party> {
    let name = match value {
        Value::String(text) => text.clone(),
        Value::Object(object) => {
            let part = |key| object.get(key).and_then(Value::as_str);
            match (part("name")?, part("email")) {
                (name, Some(mail)) => format!("{name} <{mail}>"),
                (name, None) => name.to_owned(),
            }
        }
        _ => return None,
    };
    Some(text(name.as_bytes(), FIELD))
        .filter(|name| !name.is_empty())
        .map(Party::Person)
}

/// Parses JSON; remarks if it is broken.
pub(super) fn json<T: DeserializeOwned>(
    bytes: &[u8],
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Option<T> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match serde_json::from_slice(bytes) {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            findings.remark(path, format!("left out: {error}"));
            None
        }
    }
}

/// An entry of a lock file.
#[derive(Debug, serde::Deserialize)]
struct Locked {
    #[serde(default)]
    name: Text,
    #[serde(default)]
    version: Text,
    /// Not text but `false` in what some versions wrote for bundled packages.
    #[serde(default)]
    resolved: Text,
    #[serde(default)]
    integrity: Text,
    #[serde(default)]
    license: Text,
    #[serde(default)]
    link: bool,
    /// Packages in version 1, ranges in others.
    #[serde(default)]
    dependencies: Entries<Dependency>,
}

/// Text, or something else, which is not kept.
#[derive(Debug, Default)]
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let either = deserializer.deserialize_any(Either(PhantomData::<IgnoredAny>))?;
        Ok(Self(either.err()))
    }
}

/// An object, or something else, which is not kept.
#[derive(Debug)]
struct Dependency(Option<Box<Locked>>);

impl<'de> Deserialize<'de> for Dependency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let either = deserializer.deserialize_any(Either(PhantomData::<Box<Locked>>))?;
        Ok(Self(either.ok().flatten()))
    }
}

/// Takes any value: of an object what `T` takes from it, text as an error, nothing of the rest.
///
/// Unlike an untagged enum it does not keep the value in between, which would add up with the depth.
struct Either<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
    type Value = Result<Option<T>, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let object = T::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
        Ok(Ok(Some(object)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Err(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Ok(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Ok(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Ok(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Ok(None))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Ok(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Ok(None))
    }
}

/// An object with at most [`ENTRIES`] members.
#[derive(Debug)]
pub(super) struct Entries<T>(pub(super) BTreeMap<String, T>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object with at most {ENTRIES} members")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Entries::default();
                while let Some((name, value)) = map.next_entry()? {
                    if entries.0.len() == ENTRIES {
                        return Err(serde::de::Error::custom(format_args!(
                            "more than {ENTRIES} entries"
                        )));
                    }
                    entries.0.insert(name, value);
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installed_manifests_lie_directly_in_their_package() {
        for (path, is) in [
            ("app/node_modules/a/package.json", true),
            ("app/node_modules/@s/a/package.json", true),
            ("app/node_modules/a/dist/package.json", false),
            ("app/x/a/package.json", false),
            ("package.json", false),
        ] {
            assert_eq!(is_installed(&TreePath::new(path).unwrap()), is, "{path}");
        }
    }

    #[test]
    fn integrity_is_base64_of_known_digests() {
        let found = checksums("sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk= md5-xx== sha512-AAAA");
        assert_eq!(
            found,
            [(
                "SHA1",
                "da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned()
            )]
        );
    }

    #[test]
    fn old_ways_to_state_a_license() {
        for text in [
            "\"MIT\"",
            "{\"type\":\"MIT\"}",
            "[{\"type\":\"MIT\"}]",
            "[\"MIT\"]",
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(license(Some(&value)).expression(), "MIT", "{text}");
        }
    }
}
