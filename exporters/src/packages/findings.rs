//! What a scan found.

use std::collections::{BTreeSet, HashMap};

use ashlar_solver::tree::{Kind as EntryKind, TreePath};

use super::tree::text;
use super::{License, Tree};
use crate::sbom::{DOCUMENT, ScanError};

/// What kind of package it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Apk,
    Cargo,
    Deb,
    Npm,
    Python,
    Rpm,
}

impl Kind {
    /// As it stands in an SPDX id.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Cargo => "rust-crate",
            Self::Deb => "deb",
            Self::Npm => "npm",
            Self::Python => "python",
            Self::Rpm => "rpm",
        }
    }

    /// Where what is said of it comes from.
    pub(crate) fn origin(self) -> &'static str {
        match self {
            Self::Apk => "APK DB",
            Self::Cargo => "rust cargo manifest",
            Self::Deb => "DPKG DB",
            Self::Npm => "installed node module manifest file",
            Self::Python => "installed python package manifest file",
            Self::Rpm => "RPM DB",
        }
    }
}

/// Who made or supplies a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Party {
    Person(String),
    Organization(String),
}

impl Party {
    fn text(&self) -> &String {
        match self {
            Self::Person(text) | Self::Organization(text) => text,
        }
    }
}

/// A package that was found.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) version: String,
    /// Its package URL.
    pub(crate) purl: String,
    /// What its makers say.
    pub(crate) license: License,
    pub(crate) originator: Option<Party>,
    pub(crate) homepage: Option<String>,
    pub(crate) description: Option<String>,
    /// Where it was downloaded from.
    pub(crate) download: Option<String>,
    /// Checksums of the package as it was distributed: SPDX's name of the algorithm, and hex.
    pub(crate) checksums: BTreeSet<(&'static str, String)>,
    /// Databases and manifests that tell of it.
    pub(crate) found: BTreeSet<TreePath>,
    /// Regular files of the tree that belong to it.
    pub(crate) files: BTreeSet<TreePath>,
}

impl Package {
    pub(crate) fn new(kind: Kind, name: String, version: String, found: &TreePath) -> Self {
        Self {
            kind,
            name,
            version,
            purl: String::new(),
            license: License::default(),
            originator: None,
            homepage: None,
            description: None,
            download: None,
            checksums: BTreeSet::new(),
            found: BTreeSet::from([found.clone()]),
            files: BTreeSet::new(),
        }
    }

    /// Bytes of what is said of it.
    fn text_bytes(&self) -> usize {
        let optional = [&self.homepage, &self.description, &self.download];
        let texts = [&self.name, &self.version, &self.purl].into_iter();
        let texts = texts.chain(optional.into_iter().flatten());
        let texts = texts.chain(self.originator.as_ref().map(Party::text));
        let texts = texts.chain(self.checksums.iter().map(|(_, value)| value));
        let license = self.license.expression().len();
        texts.map(String::len).sum::<usize>() + license
    }

    /// Takes over what `other`, the same package found elsewhere, has more.
    fn merge(&mut self, other: Self) {
        self.found.extend(other.found);
        self.files.extend(other.files);
        self.checksums.extend(other.checksums);
        if self.license.is_unknown() {
            self.license = other.license;
        }
        self.originator = self.originator.take().or(other.originator);
        self.homepage = self.homepage.take().or(other.homepage);
        self.description = self.description.take().or(other.description);
        self.download = self.download.take().or(other.download);
    }
}

/// Something that was found and could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// Remarks that are kept; further ones are counted.
const MOST_REMARKS: usize = 50;

/// Longest reason of a remark. Parsers repeat what they could not read.
const REASON: usize = 256;

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    tree: &'a Tree<'a>,
    packages: Vec<Package>,
    /// Where the package of a URL is in `packages`.
    known: HashMap<String, usize>,
    /// Files that packages list.
    files: usize,
    /// Bytes of the paths of those that are there.
    paths: u64,
    /// Bytes of what is said of packages.
    texts: usize,
    remarks: Vec<Remark>,
    more_remarks: usize,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(tree: &'a Tree<'a>) -> Self {
        Self {
            tree,
            packages: Vec::new(),
            known: HashMap::new(),
            files: 0,
            paths: 0,
            texts: 0,
            remarks: Vec::new(),
            more_remarks: 0,
        }
    }

    /// Notes that a file belongs to a package, if it is a regular file of the tree.
    ///
    /// # Errors
    /// The scan was cancelled, or packages list more than a scan takes.
    pub(crate) fn own(
        &mut self,
        path: &[u8],
        files: &mut BTreeSet<TreePath>,
    ) -> Result<(), ScanError> {
        self.tree.check()?;
        // What is not there is counted, too: looking for it takes time.
        self.count_files(1)?;
        if let Ok((at, node)) = self.tree.view().resolve(path, false)
            && node.entry().kind == EntryKind::File
        {
            // A short name that leads through links can have a long path.
            self.paths += at.as_bytes().len() as u64;
            let limit = self.tree.limits().path_bytes;
            if self.paths > limit {
                let what = "bytes of paths of files of packages";
                return Err(ScanError::Limit { what, limit });
            }
            files.insert(at);
        }
        Ok(())
    }

    fn count_files(&mut self, more: usize) -> Result<(), ScanError> {
        self.files += more;
        let limit = self.tree.limits().files;
        within("files of packages", self.files, limit)
    }

    /// Adds a package, or what is said of it to the one that is known.
    ///
    /// # Errors
    /// The scan was cancelled, or there are more packages than a scan may find, or more is said of
    /// them than a document may have.
    pub(crate) fn add(&mut self, package: Package) -> Result<(), ScanError> {
        self.tree.check()?;
        self.count_files(package.found.len())?;
        let limits = self.tree.limits();
        if let Some(&at) = self.known.get(&package.purl) {
            let known = &mut self.packages[at];
            let before = known.text_bytes();
            known.merge(package);
            self.texts += known.text_bytes().saturating_sub(before);
        } else {
            within("packages", self.packages.len() + 1, limits.packages)?;
            self.texts += package.text_bytes();
            self.known.insert(package.purl.clone(), self.packages.len());
            self.packages.push(package);
        }
        let most = usize::try_from(limits.document_bytes).unwrap_or(usize::MAX);
        within(DOCUMENT, self.texts, most)
    }

    /// Notes that something was left out.
    pub(crate) fn remark(&mut self, path: &TreePath, reason: impl Into<String>) {
        if self.remarks.len() == MOST_REMARKS {
            self.more_remarks += 1;
            return;
        }
        let reason = text(reason.into().as_bytes(), REASON);
        let path = path.to_string();
        self.remarks.push(Remark { path, reason });
    }

    /// The packages, sorted, and what was left out.
    pub(crate) fn into_parts(mut self) -> (Vec<Package>, Vec<String>) {
        self.packages.sort_by(|a, b| {
            let key = |package: &Package| (package.kind, package.name.clone());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.version.cmp(&b.version))
                .then_with(|| a.purl.cmp(&b.purl))
        });
        let remark = |remark: Remark| format!("{}: {}", remark.path, remark.reason);
        let mut remarks: Vec<String> = self.remarks.into_iter().map(remark).collect();
        if self.more_remarks > 0 {
            remarks.push(format!(
                "{} more files could not be read",
                self.more_remarks
            ));
        }
        (self.packages, remarks)
    }
}

/// Nothing may be found that is more than `limit`.
fn within(what: &'static str, found: usize, limit: usize) -> Result<(), ScanError> {
    match found <= limit {
        true => Ok(()),
        false => Err(ScanError::Limit {
            what,
            limit: limit as u64,
        }),
    }
}
