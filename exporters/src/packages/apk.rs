//! Packages of Alpine: the database of apk.
//!
//! A paragraph per package, each line a letter, a colon and a value. `F:` names a directory and
//! `R:` a file in it. Newer versions keep the file below `/usr`.

use std::collections::BTreeSet;

use ashlar_solver::tree::TreePath;

use super::findings::Party;
use super::release::Release;
use super::tree::{DESCRIPTION, FIELD, text};
use super::{Findings, Kind, License, Package, Tree};
use crate::purl::Purl;
use crate::sbom::ScanError;

const INSTALLED: [&str; 2] = ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"];

pub(super) fn scan(
    tree: &Tree<'_>,
    release: &Release,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let mut seen = BTreeSet::new();
    for place in INSTALLED {
        // One may be a link to the other.
        let Some((path, _)) = tree.file(place) else {
            continue;
        };
        if !seen.insert(path.clone()) {
            continue;
        }
        let ceiling = tree.limits().text_bytes;
        let Some(bytes) = tree.bytes(&path, ceiling, findings)? else {
            continue;
        };
        read(release, &path, &bytes, findings)?;
    }
    Ok(())
}

fn read(
    release: &Release,
    found: &TreePath,
    bytes: &[u8],
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let mut record = Record::default();
    // One more empty line ends the last record.
    for line in bytes.split(|&byte| byte == b'\n').chain([&b""[..]]) {
        if line.trim_ascii().is_empty() {
            if let Some(package) = std::mem::take(&mut record).into_package(release, found) {
                findings.add(package)?;
            }
            continue;
        }
        let [key, b':', value @ ..] = line else {
            continue;
        };
        match key {
            b'P' => record.name = value,
            b'V' => record.version = value,
            b'A' => record.architecture = value,
            b'L' => record.license = value,
            b'o' => record.origin = value,
            b'm' => record.maintainer = value,
            b'U' => record.address = value,
            b'T' => record.description = value,
            b'F' => record.directory = value,
            b'R' => {
                let file = [record.directory, value].join(&b'/');
                findings.own(&file, &mut record.files)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Default)]
struct Record<'a> {
    name: &'a [u8],
    version: &'a [u8],
    architecture: &'a [u8],
    license: &'a [u8],
    origin: &'a [u8],
    maintainer: &'a [u8],
    address: &'a [u8],
    description: &'a [u8],
    directory: &'a [u8],
    files: BTreeSet<TreePath>,
}

impl Record<'_> {
    fn into_package(self, release: &Release, found: &TreePath) -> Option<Package> {
        let (name, version) = (text(self.name, FIELD), text(self.version, FIELD));
        if name.is_empty() || version.is_empty() {
            return None;
        }
        let some = |field: &[u8], most| Some(text(field, most)).filter(|text| !text.is_empty());
        let mut purl = Purl::new("apk", &name, &version).namespace(match &release.id[..] {
            "" => "alpine",
            id => id,
        });
        purl.qualifier("arch", text(self.architecture, FIELD));
        let origin = text(self.origin, FIELD);
        if origin != name {
            purl.qualifier("upstream", origin);
        }
        release.qualify(&mut purl);
        let mut package = Package::new(Kind::Apk, name, version, found);
        package.purl = purl.to_string();
        package.license = license(&text(self.license, FIELD));
        package.originator = some(self.maintainer, FIELD).map(Party::Person);
        package.homepage = some(self.address, FIELD);
        package.description = some(self.description, DESCRIPTION);
        package.files = self.files;
        Some(package)
    }
}

/// An expression, or names side by side, all of which count.
fn license(text: &str) -> License {
    let whole = License::parse(text);
    if whole.references().is_empty() || !text.contains(' ') {
        return whole;
    }
    License::all(text.split_whitespace().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licenses_side_by_side() {
        assert_eq!(license("GPL-2.0-only").expression(), "GPL-2.0-only");
        assert_eq!(
            license("MIT BSD-3-Clause").expression(),
            "BSD-3-Clause AND MIT"
        );
        assert_eq!(license("MIT OR ISC").expression(), "MIT OR ISC");
        assert_eq!(license("custom").expression(), "LicenseRef-custom");
    }
}
