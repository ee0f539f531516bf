//! Packages of Debian and what is made of it: the database of dpkg.
//!
//! `/var/lib/dpkg/status` has a paragraph per package; images without dpkg have a file per package
//! in `/var/lib/dpkg/status.d`. Which files belong to a package stands in `info/*.list`, or beside
//! the paragraph in `*.md5sums`; licenses stand in `/usr/share/doc/*/copyright`.

use std::collections::{BTreeSet, HashMap};

use ashlar_solver::tree::TreePath;

use super::findings::Party;
use super::release::Release;
use super::tree::{DESCRIPTION, FIELD, text};
use super::{Findings, Kind, License, Package, Tree};
use crate::purl::Purl;
use crate::sbom::ScanError;

const STATUS: &str = "/var/lib/dpkg/status";
const STATUS_DIRECTORY: &str = "/var/lib/dpkg/status.d";
const INFO: &str = "/var/lib/dpkg/info";
const DIVERSIONS: &str = "/var/lib/dpkg/diversions";

/// Largest copyright file that is read; the largest in Debian has some hundred KiB.
const COPYRIGHT: u64 = 2 << 20;

/// Most licenses of one package that are kept.
const LICENSES: usize = 200;

pub(super) fn scan(
    tree: &Tree<'_>,
    release: &Release,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let mut database = Database {
        tree,
        release,
        diversions: HashMap::new(),
        findings,
    };
    database.read_diversions()?;
    let ceiling = tree.limits().text_bytes;
    if let Some((path, _)) = tree.file(STATUS)
        && let Some(bytes) = tree.bytes(&path, ceiling, database.findings)?
    {
        for paragraph in paragraphs(&bytes) {
            if paragraph.has_files() {
                database.add(&paragraph, &path, false)?;
            }
        }
    }
    for path in tree.files_in(STATUS_DIRECTORY) {
        if path.as_bytes().ends_with(b".md5sums") {
            continue;
        }
        if let Some(bytes) = tree.bytes(&path, ceiling, database.findings)? {
            for paragraph in paragraphs(&bytes) {
                database.add(&paragraph, &path, true)?;
            }
        }
    }
    Ok(())
}

struct Database<'a, 'b, 'c> {
    tree: &'a Tree<'a>,
    release: &'a Release,
    /// By path: where the files of all packages but one are, and which that one is.
    diversions: HashMap<Vec<u8>, (Vec<u8>, Vec<u8>)>,
    findings: &'b mut Findings<'c>,
}

impl Database<'_, '_, '_> {
    fn read_diversions(&mut self) -> Result<(), ScanError> {
        let Some((path, _)) = self.tree.file(DIVERSIONS) else {
            return Ok(());
        };
        let Some(bytes) = self.tree.bytes(&path, 1 << 20, self.findings)? else {
            return Ok(());
        };
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
        for lines in lines.chunks_exact(3) {
            let [from, to, package] = lines else { continue };
            self.diversions
                .insert(from.to_vec(), (to.to_vec(), package.to_vec()));
        }
        Ok(())
    }

    fn add(
        &mut self,
        paragraph: &Paragraph<'_>,
        found: &TreePath,
        alone: bool,
    ) -> Result<(), ScanError> {
        let name = text(paragraph.package, FIELD);
        let version = text(paragraph.version, FIELD);
        if name.is_empty() || version.is_empty() {
            return Ok(());
        }
        let architecture = text(paragraph.architecture, FIELD);
        let mut purl = Purl::new("deb", &name, &version).namespace(match &self.release.id[..] {
            "" => "debian",
            id => id,
        });
        purl.qualifier("arch", &architecture[..]);
        purl.qualifier("upstream", source(paragraph.source));
        self.release.qualify(&mut purl);
        let mut package = Package::new(Kind::Deb, name.clone(), version, found);
        package.purl = purl.to_string();
        package.originator = Some(text(paragraph.maintainer, FIELD))
            .filter(|text| !text.is_empty())
            .map(Party::Person);
        package.homepage = Some(text(paragraph.homepage, FIELD)).filter(|text| !text.is_empty());
        let description = text(&paragraph.description, DESCRIPTION);
        package.description = Some(description).filter(|text| !text.is_empty());
        let stated = text(paragraph.license, FIELD);
        package.license = if stated.is_empty() {
            self.license(&name, &mut package.found)?
        } else {
            License::parse(&stated)
        };
        let lists = if alone {
            let beside = format!("{found}.md5sums");
            self.sums(&beside, &mut package)?;
            false
        } else {
            let of_architecture = format!("{INFO}/{name}:{architecture}.list");
            self.list(&of_architecture, &mut package)?
        };
        if !alone && !lists {
            self.list(&format!("{INFO}/{name}.list"), &mut package)?;
        }
        self.findings.add(package)
    }

    /// Reads which files belong to a package; tells whether the list is there.
    fn list(&mut self, list: &str, package: &mut Package) -> Result<bool, ScanError> {
        let Some((path, _)) = self.tree.file(list) else {
            return Ok(false);
        };
        let ceiling = self.tree.limits().text_bytes;
        if let Some(bytes) = self.tree.bytes(&path, ceiling, self.findings)? {
            for line in bytes.split(|&byte| byte == b'\n') {
                self.own(line, package)?;
            }
        }
        package.found.insert(path);
        Ok(true)
    }

    fn sums(&mut self, sums: &str, package: &mut Package) -> Result<(), ScanError> {
        let Some((path, _)) = self.tree.file(sums) else {
            return Ok(());
        };
        let ceiling = self.tree.limits().text_bytes;
        if let Some(bytes) = self.tree.bytes(&path, ceiling, self.findings)? {
            for line in bytes.split(|&byte| byte == b'\n') {
                // A digest, two spaces, a path without a leading slash.
                let file = line.iter().position(|&byte| byte == b' ');
                self.own(file.map_or(&[][..], |at| line[at..].trim_ascii()), package)?;
            }
        }
        package.found.insert(path);
        Ok(())
    }

    /// Notes that a file belongs to a package, if it is a regular file of the tree.
    fn own(&mut self, path: &[u8], package: &mut Package) -> Result<(), ScanError> {
        let diverted = self.diversions.get(path);
        let path = match diverted {
            Some((to, by)) if by != package.name.as_bytes() => to,
            _ => path,
        };
        match path.is_empty() {
            true => Ok(()),
            false => self.findings.own(path, &mut package.files),
        }
    }

    /// The licenses in a copyright file, if it is a machine-readable one.
    fn license(
        &mut self,
        name: &str,
        found: &mut BTreeSet<TreePath>,
    ) -> Result<License, ScanError> {
        let Some((path, _)) = self.tree.file(&format!("/usr/share/doc/{name}/copyright")) else {
            return Ok(License::default());
        };
        let Some(bytes) = self.tree.bytes(&path, COPYRIGHT, self.findings)? else {
            return Ok(License::default());
        };
        let license = copyright(&bytes);
        if !license.is_unknown() {
            found.insert(path);
        }
        Ok(license)
    }
}

/// The name and version of the source package.
fn source(field: &[u8]) -> String {
    let field = text(field, FIELD);
    match field.split_once('(') {
        Some((name, version)) => {
            format!("{}@{}", name.trim(), version.trim_end_matches(')').trim())
        }
        None => field,
    }
}

/// The licenses of a machine-readable copyright file.
fn copyright(bytes: &[u8]) -> License {
    let mut lines = bytes
        .split(|&byte| byte == b'\n')
        .skip_while(|line| line.trim_ascii().is_empty());
    let first = lines.next().unwrap_or_default();
    let is_format = field(first).is_some_and(|(key, value)| {
        key.eq_ignore_ascii_case(b"Format")
            && value
                .windows(b"copyright-format/".len())
                .any(|part| part == b"copyright-format/")
    });
    if !is_format {
        return License::default();
    }
    let licenses: BTreeSet<String> = lines
        .filter_map(field)
        .filter(|(key, value)| key.eq_ignore_ascii_case(b"License") && !value.is_empty())
        .map(|(_, value)| text(value, FIELD))
        .take(LICENSES)
        .collect();
    License::all(licenses)
}

/// A line with a key at its beginning.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    if line.first().is_none_or(u8::is_ascii_whitespace) {
        return None;
    }
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// What is read of a paragraph.
#[derive(Debug, Default)]
struct Paragraph<'a> {
    package: &'a [u8],
    version: &'a [u8],
    architecture: &'a [u8],
    source: &'a [u8],
    maintainer: &'a [u8],
    homepage: &'a [u8],
    license: &'a [u8],
    status: &'a [u8],
    description: Vec<u8>,
}

impl Paragraph<'_> {
    /// Whether files of the package are in the tree.
    fn has_files(&self) -> bool {
        let state = self.status.rsplit(|&byte| byte == b' ').next();
        !matches!(state, Some(b"config-files" | b"not-installed"))
    }
}

/// The paragraphs of a control file that name a package.
fn paragraphs(bytes: &[u8]) -> impl Iterator<Item = Paragraph<'_>> {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    std::iter::from_fn(move || {
        loop {
            let mut any = false;
            let mut paragraph = Paragraph::default();
            let mut in_description = false;
            let mut ended = true;
            for line in lines.by_ref() {
                if line.trim_ascii().is_empty() {
                    ended = false;
                    break;
                }
                any = true;
                let Some((key, value)) = field(line) else {
                    if in_description && paragraph.description.len() < DESCRIPTION {
                        paragraph.description.push(b'\n');
                        paragraph.description.extend_from_slice(line);
                    }
                    continue;
                };
                in_description = false;
                match key {
                    b"Package" => paragraph.package = value,
                    b"Version" => paragraph.version = value,
                    b"Architecture" => paragraph.architecture = value,
                    b"Source" => paragraph.source = value,
                    b"Maintainer" => paragraph.maintainer = value,
                    b"Homepage" => paragraph.homepage = value,
                    b"License" => paragraph.license = value,
                    b"Status" => paragraph.status = value,
                    b"Description" => {
                        in_description = true;
                        paragraph.description = value.to_vec();
                    }
                    _ => {}
                }
            }
            if !paragraph.package.is_empty() {
                return Some(paragraph);
            }
            if ended && !any {
                return None;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_read_as_dpkg_does() {
        let status = b"Package: a\nStatus: install ok installed\nVersion: 1:2-3\nSource: src (4)\n\
            Description: short\n long\n .\n longer\nUnknown:x\n x\n\n\n\
            Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\nVersion: 9\n\nPackage: c\nVersion: 2";
        let found: Vec<_> = paragraphs(status).collect();
        let names: Vec<&[u8]> = found.iter().map(|paragraph| paragraph.package).collect();
        assert_eq!(names, [b"a", b"b", b"c"]);
        assert_eq!(found[0].version, b"1:2-3");
        assert_eq!(found[0].description, b"short\n long\n .\n longer");
        assert_eq!(source(found[0].source), "src@4");
        let files: Vec<bool> = found.iter().map(Paragraph::has_files).collect();
        assert_eq!(files, [true, false, true]);
    }

    #[test]
    fn copyright_files_count_only_if_they_say_their_format() {
        let file =
            b"\nFormat: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
            Files: *\nLicense: GPL-2+\n text\n License: not this\n\nFiles: x\nLicense: Expat\n";
        assert_eq!(copyright(file).expression(), "GPL-2.0-or-later AND MIT");
        assert!(copyright(b"License: MIT\n").is_unknown());
        assert!(copyright(b"").is_unknown());
    }
}
