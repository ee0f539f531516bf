//! Crates: `Cargo.lock`.

use ashlar_solver::tree::TreePath;

use super::tree::{FIELD, text};
use super::{Findings, Kind, Package, Tree, toml_lock};
use crate::purl::Purl;
use crate::sbom::ScanError;

pub(super) fn lock(
    tree: &Tree<'_>,
    path: &TreePath,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    for locked in toml_lock::read(tree, path, findings)? {
        let name = text(locked.name.as_bytes(), FIELD);
        let version = text(locked.version.as_bytes(), FIELD);
        let mut package = Package::new(Kind::Cargo, name, version, path);
        package.purl = Purl::new("cargo", &package.name, &package.version).to_string();
        let is_digest =
            |text: &String| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(checksum) = locked.checksum.filter(is_digest) {
            package
                .checksums
                .insert(("SHA256", checksum.to_ascii_lowercase()));
        }
        findings.add(package)?;
    }
    Ok(())
}
