//! What a scan found.

use std::collections::{BTreeSet, HashMap};

use ashlar_solver::tree::TreePath;

use super::License;
use crate::sbom::{ScanError, ScanLimits};

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

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Findings {
    limits: ScanLimits,
    packages: Vec<Package>,
    /// Where the package of a URL is in `packages`.
    known: HashMap<String, usize>,
    /// Files that belong to packages.
    files: usize,
    remarks: Vec<Remark>,
    more_remarks: usize,
}

impl Findings {
    pub(crate) fn new(limits: ScanLimits) -> Self {
        Self {
            limits,
            packages: Vec::new(),
            known: HashMap::new(),
            files: 0,
            remarks: Vec::new(),
            more_remarks: 0,
        }
    }

    /// Adds a package, or what is said of it to the one that is known.
    ///
    /// # Errors
    /// There are more packages, or files of them, than a scan may find.
    pub(crate) fn add(&mut self, package: Package) -> Result<(), ScanError> {
        self.files += package.files.len() + package.found.len();
        if self.files > self.limits.files {
            return Err(ScanError::Limit {
                what: "files of packages",
                limit: self.limits.files as u64,
            });
        }
        if let Some(&at) = self.known.get(&package.purl) {
            self.packages[at].merge(package);
            return Ok(());
        }
        if self.packages.len() >= self.limits.packages {
            return Err(ScanError::Limit {
                what: "packages",
                limit: self.limits.packages as u64,
            });
        }
        self.known.insert(package.purl.clone(), self.packages.len());
        self.packages.push(package);
        Ok(())
    }

    /// Notes that something was left out.
    pub(crate) fn remark(&mut self, path: &TreePath, reason: impl Into<String>) {
        if self.remarks.len() == MOST_REMARKS {
            self.more_remarks += 1;
            return;
        }
        let (path, reason) = (path.to_string(), reason.into());
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
