//! The built-in scanner.

use ashlar_solver::cancel::Cancel;
use async_trait::async_trait;

use super::document::Document;
use super::files::{Hashed, hash};
use super::{ScanDocument, ScanError, ScanTarget, Scanner};
use crate::exporter::blocking;
use crate::packages::{Tree, packages};

/// How much a scan takes from a result. Every byte of it may have been written by an attacker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanLimits {
    /// Bytes of one package database or list of files, which is held in memory. 64 MiB: that of a
    /// full desktop has 10. A larger one is left out, and the document says so.
    pub text_bytes: u64,
    /// Bytes of one lock file. 16 MiB, of those in TOML 4 MiB; as above.
    pub lock_file_bytes: u64,
    /// Bytes of one database of rpm, which is read page by page. 1 GiB; as above.
    pub rpm_bytes: u64,
    /// Bytes of all these together. 4 GiB; more is an error.
    pub total_bytes: u64,
    /// Packages. 200,000; more is an error.
    pub packages: usize,
    /// Files that packages list, whether they are there or not. 2 million; more is an error.
    pub files: usize,
    /// Bytes of the paths of these files. 256 MiB; more is an error.
    pub path_bytes: u64,
    /// Bytes of the document. 40 MiB, which is what BuildKit attaches at most; more is an error.
    pub document_bytes: u64,
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self {
            text_bytes: 64 << 20,
            lock_file_bytes: 16 << 20,
            rpm_bytes: 1 << 30,
            total_bytes: 4 << 30,
            packages: 200_000,
            files: 2_000_000,
            path_bytes: 256 << 20,
            document_bytes: 40 << 20,
        }
    }
}

/// Finds the packages of distributions and languages and writes an SPDX 2.3 document.
///
/// It reads the databases of dpkg, apk and rpm (all three formats), `Cargo.lock`,
/// `package-lock.json`, `npm-shrinkwrap.json`, `yarn.lock`, installed Node packages,
/// `poetry.lock`, `uv.lock`, `pdm.lock`, `Pipfile.lock`, pinned lines of `requirements.txt`, and
/// installed Python packages. Programs without such a record of what they are made of are not
/// recognised.
///
/// ```
/// use ashlar_exporters::sbom::{PackageScanner, ScanTarget, Scanner as _};
/// use ashlar_llb::{self as llb, Constraints, Platform, mkfile};
/// use ashlar_solver::cancel::Cancel;
/// use ashlar_solver::solver::{SolveRequest, Solver};
/// use ashlar_solver::tree::Timestamp;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
/// # let folder = tempfile::tempdir()?;
/// let lock = "[[package]]\nname = \"libc\"\nversion = \"0.2.175\"\n";
/// let tree = llb::scratch().file(mkfile("/Cargo.lock", lock));
/// let definition = tree.marshal(&Constraints::new(Platform::linux_amd64()))?;
/// let solver = Solver::builder().root(folder.path()).build()?;
/// let solved = solver.solve(SolveRequest::new(definition)).result().await?;
///
/// let reference = solved.result.reference().clone();
/// let target = ScanTarget::new(reference, Platform::linux_amd64(), Timestamp::default());
/// let documents = PackageScanner::new().scan(&target, &Cancel::new()).await?;
/// let text = std::str::from_utf8(&documents[0].predicate)?;
/// assert!(text.contains("pkg:cargo/libc@0.2.175"));
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PackageScanner {
    limits: ScanLimits,
    files: bool,
}

impl Default for PackageScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl PackageScanner {
    /// A scanner with the default limits, which lists the files of packages.
    pub fn new() -> Self {
        Self {
            limits: ScanLimits::default(),
            files: true,
        }
    }

    /// Sets how much it takes.
    #[must_use]
    pub fn limits(mut self, limits: ScanLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets whether the document lists the regular files that belong to packages, with their
    /// checksums, for which all of them are read. Databases and lock files are listed in any case.
    /// Default: true.
    #[must_use]
    pub fn files(mut self, files: bool) -> Self {
        self.files = files;
        self
    }

    fn run(&self, target: &ScanTarget, cancel: &Cancel) -> Result<ScanDocument, ScanError> {
        let view = target.reference.view_until(cancel)?;
        let tree = Tree::new(&view, &self.limits, cancel);
        let (mut found, remarks) = packages(&tree)?.into_parts();
        if !self.files {
            for package in &mut found {
                package.files.clear();
            }
        }
        let paths = found
            .iter()
            .flat_map(|package| package.files.iter().chain(&package.found));
        let files: Vec<Hashed> = hash(&view, paths.cloned(), cancel)?;
        let document = Document::new(target, &found, &files, &remarks);
        let json = document.write(self.limits.document_bytes)?;
        let mut document = ScanDocument::spdx(&target.name, json);
        document.remarks = remarks;
        Ok(document)
    }
}

#[async_trait]
impl Scanner for PackageScanner {
    async fn scan(
        &self,
        target: &ScanTarget,
        cancel: &Cancel,
    ) -> Result<Vec<ScanDocument>, ScanError> {
        let (this, target, cancel) = (self.clone(), target.clone(), cancel.clone());
        let document = blocking(move || this.run(&target, &cancel));
        Ok(vec![document.await?])
    }
}
