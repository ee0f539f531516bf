//! SPDX documents, version 2.3, as JSON.
//!
//! The members, their order and what stands in them are those of documents that BuildKit's scanner
//! writes. Ids follow from what they stand for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use ashlar_solver::tree::TreePath;
use serde::Serialize;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::error::DOCUMENT;
use super::files::{Hashed, hex};
use super::{ScanError, ScanTarget};
use crate::packages::{Package, Party};

const NO_ASSERTION: &str = "NOASSERTION";

/// What tells a reader how a package is known, in the words of BuildKit's scanner.
const EVIDENT: &str = "evident-by: indicates the package's existence is evident by the given file";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    comment: String,
    creation_info: CreationInfo,
    packages: Vec<PackageJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<FileJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<LicenseJson>,
    relationships: Vec<Relationship>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationInfo {
    license_list_version: &'static str,
    creators: Vec<String>,
    created: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct PackageJson {
    name: String,
    #[serde(rename = "SPDXID")]
    id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version_info: String,
    supplier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    originator: Option<String>,
    download_location: String,
    files_analyzed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    package_verification_code: Option<VerificationCode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    homepage: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    source_info: String,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VerificationCode {
    package_verification_code_value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: &'static str,
    checksum_value: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileJson {
    file_name: String,
    #[serde(rename = "SPDXID")]
    id: String,
    file_types: &'static [&'static str],
    checksums: [Checksum; 2],
    license_concluded: &'static str,
    license_info_in_files: [&'static str; 1],
    copyright_text: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LicenseJson {
    license_id: String,
    extracted_text: &'static str,
    name: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    related_spdx_element: String,
    relationship_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'static str>,
}

impl Document {
    pub(super) fn new(
        target: &ScanTarget,
        found: &[Package],
        files: &[Hashed],
        remarks: &[String],
    ) -> Self {
        let mut ids = Ids::default();
        let root = ids.unique(
            format!("DocumentRoot-Directory-{}", target.name),
            &target.name,
        );
        let file_ids: HashMap<&TreePath, (String, &str)> = files
            .iter()
            .map(|file| (&file.path, (ids.of_file(&file.path), &file.sha1[..])))
            .collect();
        let mut packages = Vec::with_capacity(found.len() + 1);
        let mut relationships = Vec::new();
        let mut licenses = BTreeMap::new();
        for package in found {
            let id = ids.of_package(package);
            let related = |file: &TreePath, kind, comment| {
                let (file, _) = file_ids.get(file)?;
                Some(Relationship {
                    spdx_element_id: id.clone(),
                    related_spdx_element: file.clone(),
                    relationship_type: kind,
                    comment,
                })
            };
            let contained = package.files.iter();
            relationships.extend(contained.filter_map(|file| related(file, "CONTAINS", None)));
            let evidence = package.found.iter();
            relationships.extend(evidence.filter_map(|file| related(file, "OTHER", Some(EVIDENT))));
            licenses.extend(package.license.references().clone());
            let sums: Vec<&str> = package
                .files
                .iter()
                .filter_map(|file| file_ids.get(file).map(|(_, sum)| *sum))
                .collect();
            packages.push(PackageJson::of(package, id, sums));
        }
        relationships.extend(packages.iter().map(|package| Relationship {
            spdx_element_id: root.clone(),
            related_spdx_element: package.id.clone(),
            relationship_type: "CONTAINS",
            comment: None,
        }));
        relationships.push(Relationship {
            spdx_element_id: "SPDXRef-DOCUMENT".to_owned(),
            related_spdx_element: root.clone(),
            relationship_type: "DESCRIBES",
            comment: None,
        });
        packages.push(PackageJson::root(&target.name, root));
        let licenses = licenses.into_iter().map(|(license_id, name)| LicenseJson {
            license_id,
            extracted_text: NO_ASSERTION,
            name,
        });
        let mut document = Self {
            spdx_version: "SPDX-2.3",
            data_license: "CC0-1.0",
            id: "SPDXRef-DOCUMENT",
            name: target.name.clone(),
            document_namespace: String::new(),
            comment: remarks.join("\n"),
            creation_info: CreationInfo {
                license_list_version: license_list(),
                creators: vec![creator()],
                // SPDX has no fractions of seconds.
                created: ashlar_solver::tree::Timestamp {
                    nanoseconds: 0,
                    ..target.created
                }
                .to_string(),
            },
            packages,
            files: files
                .iter()
                .map(|file| FileJson::of(file, &file_ids))
                .collect(),
            has_extracted_licensing_infos: licenses.collect(),
            relationships,
        };
        document.document_namespace = document.namespace();
        document
    }

    /// An address that stands for this document alone. The specification has this form for those
    /// who have no site of their own; the UUID follows from what the document says.
    fn namespace(&self) -> String {
        let mut hasher = Hasher(Sha256::new());
        serde_json::to_writer(&mut hasher, self).expect("BUG: a document is JSON");
        let digest = hasher.0.finalize();
        let mut bytes: [u8; 16] = *digest.first_chunk().expect("BUG: a digest has 32 bytes");
        // Version 8, which leaves the rest to whoever makes it, and the variant of RFC 9562.
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let text = hex(&bytes);
        let (a, b, c, d, e) = (
            &text[..8],
            &text[8..12],
            &text[12..16],
            &text[16..20],
            &text[20..],
        );
        let name = sanitize(&self.name);
        format!("https://spdx.org/spdxdocs/{name}-{a}-{b}-{c}-{d}-{e}")
    }

    /// The document as JSON without white space.
    ///
    /// # Errors
    /// It has more than `most` bytes.
    pub(super) fn write(&self, most: u64) -> Result<Vec<u8>, ScanError> {
        let mut out = Bounded {
            bytes: Vec::new(),
            most: usize::try_from(most).unwrap_or(usize::MAX),
        };
        match serde_json::to_writer(&mut out, self) {
            Ok(()) => Ok(out.bytes),
            Err(_) => Err(ScanError::Limit {
                what: DOCUMENT,
                limit: most,
            }),
        }
    }
}

/// Who writes documents.
pub(super) fn creator() -> String {
    format!("Tool: ashlar-{}", env!("CARGO_PKG_VERSION"))
}

/// The version of the list of licenses, as documents have it.
fn license_list() -> &'static str {
    let version = spdx::license_version();
    let end = version
        .match_indices('.')
        .nth(1)
        .map_or(version.len(), |(at, _)| at);
    &version[..end]
}

impl PackageJson {
    fn of(package: &Package, id: String, mut sums: Vec<&str>) -> Self {
        let originator = package.originator.as_ref().and_then(party);
        // SHA-1 of the sorted sums, as the specification has it.
        sums.sort_unstable();
        let code = (!sums.is_empty()).then(|| VerificationCode {
            package_verification_code_value: hex(&Sha1::digest(sums.concat())),
        });
        let found: Vec<String> = package.found.iter().map(ToString::to_string).collect();
        let origin = package.kind.origin();
        Self {
            name: package.name.clone(),
            id,
            version_info: package.version.clone(),
            supplier: originator
                .clone()
                .unwrap_or_else(|| NO_ASSERTION.to_owned()),
            originator,
            download_location: address(package.download.as_deref())
                .unwrap_or_else(|| NO_ASSERTION.to_owned()),
            files_analyzed: code.is_some(),
            package_verification_code: code,
            checksums: package
                .checksums
                .iter()
                .map(|(algorithm, value)| Checksum {
                    algorithm,
                    checksum_value: value.clone(),
                })
                .collect(),
            homepage: address(package.homepage.as_deref()),
            source_info: format!("acquired package info from {origin}: {}", found.join(", ")),
            license_concluded: NO_ASSERTION,
            license_declared: package.license.expression().to_owned(),
            copyright_text: NO_ASSERTION,
            description: package.description.clone(),
            external_refs: vec![ExternalRef {
                reference_category: "PACKAGE-MANAGER",
                reference_type: "purl",
                reference_locator: package.purl.clone(),
            }],
            primary_package_purpose: None,
        }
    }

    /// The package that stands for the tree.
    fn root(name: &str, id: String) -> Self {
        Self {
            name: name.to_owned(),
            id,
            supplier: NO_ASSERTION.to_owned(),
            download_location: NO_ASSERTION.to_owned(),
            license_concluded: NO_ASSERTION,
            license_declared: NO_ASSERTION.to_owned(),
            copyright_text: NO_ASSERTION,
            primary_package_purpose: Some("FILE"),
            ..Self::default()
        }
    }
}

impl FileJson {
    fn of(file: &Hashed, ids: &HashMap<&TreePath, (String, &str)>) -> Self {
        let sum = |algorithm, value: &String| Checksum {
            algorithm,
            checksum_value: value.clone(),
        };
        Self {
            file_name: String::from_utf8_lossy(file.path.as_bytes()).into_owned(),
            id: ids[&file.path].0.clone(),
            file_types: file.types,
            checksums: [sum("SHA1", &file.sha1), sum("SHA256", &file.sha256)],
            license_concluded: NO_ASSERTION,
            license_info_in_files: [NO_ASSERTION],
            copyright_text: NO_ASSERTION,
        }
    }
}

/// `Person: Name (mail)`, from `Name <mail>`.
fn party(party: &Party) -> Option<String> {
    let (kind, text) = match party {
        Party::Person(text) => ("Person", text),
        Party::Organization(text) => ("Organization", text),
    };
    // What follows the name in parentheses would be taken for an address.
    let text = text.replace(['(', ')', '\n', '\r'], " ");
    let (name, rest) = text.split_once('<').unwrap_or((&text, ""));
    let (name, mail) = (
        name.trim(),
        rest.split('>').next().unwrap_or_default().trim(),
    );
    match (name, mail) {
        ("", "") => None,
        ("", mail) => Some(format!("{kind}: {mail}")),
        (name, "") => Some(format!("{kind}: {name}")),
        (name, mail) => Some(format!("{kind}: {name} ({mail})")),
    }
}

/// An address that is one, without credentials.
fn address(text: Option<&str>) -> Option<String> {
    let text = text?;
    let (scheme, rest) = text.split_once("://")?;
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte);
    let is_scheme = matches!(
        scheme,
        "http" | "https" | "ftp" | "git" | "ssh" | "git+https" | "git+ssh" | "git+http"
    );
    if !is_scheme || rest.is_empty() || !rest.bytes().all(plain) {
        return None;
    }
    Some(crate::redact::credentials(text))
}

/// What may stand in an id.
fn sanitize(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-');
    text.chars()
        .map(|letter| if plain(letter) { letter } else { '-' })
        .collect()
}

/// Longest part of an id that shows a name.
const SHOWN: usize = 80;

/// The ids that were given.
#[derive(Default)]
struct Ids(HashSet<String>);

impl Ids {
    fn of_package(&mut self, package: &Package) -> String {
        let found: BTreeSet<_> = package.found.iter().map(TreePath::as_bytes).collect();
        let shown = format!("Package-{}-{}", package.kind.name(), package.name);
        let key = format!("{}\0{found:?}", package.purl);
        self.unique(shown, &key)
    }

    fn of_file(&mut self, path: &TreePath) -> String {
        let text = String::from_utf8_lossy(path.as_bytes());
        // The last components, as many as fit.
        let mut from = text.len();
        for (at, _) in text.rmatch_indices('/') {
            if text.len() - at > 40 {
                break;
            }
            from = at + 1;
        }
        let shown = match text.len() <= 40 {
            true => format!("File-{text}"),
            false => format!("File-...{}", &text[from.min(text.len())..]),
        };
        self.unique(shown, &format!("{:?}", path.as_bytes()))
    }

    /// An id that shows a text and ends in a digest of `key`. Whoever finds two keys with equal
    /// digests gets two ids all the same.
    fn unique(&mut self, shown: String, key: &str) -> String {
        let mut shown = sanitize(&shown);
        shown.truncate(SHOWN);
        let digest = hex(&Sha256::digest(key)[..8]);
        let mut id = format!("SPDXRef-{shown}-{digest}");
        let mut more = 1;
        while !self.0.insert(id.clone()) {
            more += 1;
            id = format!("SPDXRef-{shown}-{digest}-{more}");
        }
        id
    }
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes up to a ceiling.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_organizations() {
        let person = |text: &str| party(&Party::Person(text.to_owned()));
        assert_eq!(
            person("A B <a@b.c>").as_deref(),
            Some("Person: A B (a@b.c)")
        );
        assert_eq!(person("A (x) B").as_deref(), Some("Person: A  x  B"));
        assert_eq!(person("<a@b.c>").as_deref(), Some("Person: a@b.c"));
        assert_eq!(person(" <>"), None);
    }

    #[test]
    fn class_8_addresses_lose_credentials() {
        let of = |text| address(Some(text));
        assert_eq!(
            of("https://user:hunter2@host/x").as_deref(),
            Some("https://xxxxx:xxxxx@host/x")
        );
        assert_eq!(of("https://host/x").as_deref(), Some("https://host/x"));
        for bad in [
            "javascript:x",
            "https://",
            "https://a b",
            "file:///etc/passwd",
            "",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_are_never_the_same() {
        let mut ids = Ids::default();
        let first = ids.unique("a/b c".to_owned(), "key");
        let second = ids.unique("a/b c".to_owned(), "key");
        assert!(first.starts_with("SPDXRef-a-b-c-"), "{first}");
        assert_eq!(second, format!("{first}-2"));
        let long = "d/".repeat(100) + "ä.txt";
        let id = ids.of_file(&TreePath::new(long).unwrap());
        assert!(id.starts_with("SPDXRef-File-...") && id.len() < 80, "{id}");
    }
}
