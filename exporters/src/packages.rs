//! Which packages a tree of files contains, by the databases and lock files in it.
//!
//! Owns [`Package`] and how each kind of database is read: of dpkg, apk and rpm; lock files and
//! installed packages of Cargo, npm and Python.
//!
//! Every byte is an attacker's. Invariants:
//! - nothing is read but regular files of the view, each up to a ceiling; links are followed inside
//!   the view alone;
//! - what cannot be read as what its name promises is left out and said so ([`Findings::remark`]);
//!   it fails nothing, because trees of real images contain broken manifests;
//! - ceilings over all of a scan are errors, so that nobody takes the rest for the whole;
//! - the findings depend on the tree alone.
//!
//! Leaves to others: rpm's formats (`rpm`), and how findings are written down (`sbom`).

mod apk;
mod cargo;
mod dpkg;
mod findings;
mod license;
mod npm;
mod python;
mod release;
mod rpm;
#[cfg(test)]
mod tests;
mod toml_lock;
mod tree;
mod yarn;

pub(crate) use findings::{Findings, Kind, Package, Party};
pub(crate) use license::License;
pub(crate) use tree::Tree;

use ashlar_solver::tree::{Kind as EntryKind, TreePath};

use crate::sbom::ScanError;
use release::Release;

/// Reads one file that was found by its name.
type Reader = fn(&Tree<'_>, &TreePath, &mut Findings<'_>) -> Result<(), ScanError>;

/// Finds all packages. Blocks.
pub(crate) fn packages<'a>(tree: &'a Tree<'a>) -> Result<Findings<'a>, ScanError> {
    let release = Release::of(tree)?;
    let mut findings = Findings::new(tree);
    dpkg::scan(tree, &release, &mut findings)?;
    apk::scan(tree, &release, &mut findings)?;
    rpm::scan(tree, &release, &mut findings)?;
    for (count, (path, node)) in tree.view().walk().enumerate() {
        if count % 4096 == 0 {
            tree.check()?;
        }
        if node.entry().kind != EntryKind::File {
            continue;
        }
        if let Some(reader) = reader_of(&path) {
            reader(tree, &path, &mut findings)?;
        }
    }
    Ok(findings)
}

/// Who reads the file of this name, if anybody.
fn reader_of(path: &TreePath) -> Option<Reader> {
    let name = path.name()?;
    Some(match name {
        b"Cargo.lock" => cargo::lock,
        b"package-lock.json" | b"npm-shrinkwrap.json" => npm::lock,
        b"yarn.lock" => yarn::lock,
        b"package.json" if npm::is_installed(path) => npm::manifest,
        b"poetry.lock" | b"uv.lock" | b"pdm.lock" => python::toml_lock,
        b"Pipfile.lock" => python::pipfile_lock,
        b"METADATA" | b"PKG-INFO" if python::is_installed(path) => python::metadata,
        _ if python::is_requirements(name) => python::requirements,
        _ if name.ends_with(b".egg-info") => python::metadata,
        _ => return None,
    })
}
