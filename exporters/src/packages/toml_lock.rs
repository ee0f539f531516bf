//! Lock files that are TOML with an array `package`: of Cargo, Poetry, uv and PDM.

use ashlar_solver::tree::TreePath;
use serde::Deserialize;

use super::{Findings, Tree};
use crate::sbom::ScanError;

/// Largest such file. TOML takes up to fifty times its size in memory while it is read; the lock
/// files of large projects have less than 1 MiB.
const CEILING: u64 = 4 << 20;

/// A package as such files list it.
#[derive(Debug, Deserialize)]
pub(super) struct Locked {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) version: String,
    /// Only Cargo's is text.
    #[serde(default)]
    pub(super) source: Option<toml::Value>,
    #[serde(default)]
    pub(super) checksum: Option<String>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default)]
    package: Vec<Locked>,
}

/// The packages of a lock file that have name and version; none if it is broken, which is
/// remarked.
pub(super) fn read(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<Vec<Locked>, ScanError> {
    let ceiling = tree.limits().lock_file_bytes.min(CEILING);
    let Some(bytes) = tree.bytes(path, ceiling, findings)? else {
        return Ok(Vec::new());
    };
    let parsed = match std::str::from_utf8(&bytes) {
        Ok(text) => toml::from_str::<File>(text).map_err(|error| error.message().to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match parsed {
        Ok(file) => Ok(file
            .package
            .into_iter()
            .filter(|package| !package.name.is_empty() && !package.version.is_empty())
            .collect()),
        Err(reason) => {
            findings.remark(path, format!("left out: {reason}"));
            Ok(Vec::new())
        }
    }
}
