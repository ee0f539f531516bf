//! Packages of Fedora, Red Hat, SUSE and what is made of them: the database of rpm.

use std::fs::File;

use ashlar_solver::tree::TreePath;

use super::findings::Party;
use super::release::Release;
use super::tree::{DESCRIPTION, FIELD, text};
use super::{Findings, Kind, License, Package, Tree};
use crate::purl::Purl;
use crate::rpm::{DatabaseError, Format, Header, headers};
use crate::sbom::ScanError;

/// Where distributions keep it; one place may be a link to another.
const PLACES: [&str; 3] = ["/usr/lib/sysimage/rpm", "/var/lib/rpm", "/usr/share/rpm"];

/// Names of the file, in the order in which rpm came to them, newest first.
const FILES: [(&str, Format); 3] = [
    ("rpmdb.sqlite", Format::Sqlite),
    ("Packages.db", Format::Ndb),
    ("Packages", Format::Bdb),
];

pub(super) fn scan(
    tree: &Tree<'_>,
    release: &Release,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let mut seen: Vec<TreePath> = Vec::new();
    for place in PLACES {
        for (name, format) in FILES {
            let Some((path, node)) = tree.file(&format!("{place}/{name}")) else {
                continue;
            };
            if seen.contains(&path) {
                continue;
            }
            seen.push(path.clone());
            let size = node.entry().size;
            if size == 0 {
                continue;
            }
            if size > tree.limits().rpm_bytes {
                let reason = format!("left out, larger than {} bytes", tree.limits().rpm_bytes);
                findings.remark(&path, reason);
                continue;
            }
            tree.charge(size)?;
            let file = tree.open(&path)?;
            let log = log(tree, &path, format)?;
            let read = headers(format, file, log, &mut |bytes| {
                tree.check().map_err(Box::new)?;
                let header = Header::parse(bytes)?;
                let added = add(release, &path, &header, findings);
                Ok(added.map_err(Box::new)?)
            });
            match read {
                Ok(()) => {}
                Err(DatabaseError::Stopped(error)) => return Err(*error),
                Err(DatabaseError::Read(source)) => {
                    let path = path.to_string();
                    return Err(ScanError::Read { path, source });
                }
                Err(error @ DatabaseError::Malformed(_)) => {
                    findings.remark(&path, format!("the rest was left out: {error}"));
                }
            }
        }
    }
    Ok(())
}

/// The write-ahead log beside an SQLite file.
fn log(tree: &Tree<'_>, path: &TreePath, format: Format) -> Result<Option<File>, ScanError> {
    if format != Format::Sqlite {
        return Ok(None);
    }
    let Some((log, node)) = tree.file(&format!("{path}-wal")) else {
        return Ok(None);
    };
    let size = node.entry().size;
    if size == 0 || size > tree.limits().rpm_bytes {
        return Ok(None);
    }
    tree.charge(size)?;
    tree.open(&log).map(Some)
}

/// Adds the package of a header.
fn add(
    release: &Release,
    found: &TreePath,
    header: &Header<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), ScanError> {
    let name = text(header.name, FIELD);
    let version = format!(
        "{}-{}",
        text(header.version, FIELD),
        text(header.release, FIELD)
    );
    // Keys that rpm trusts are kept as packages; they are none.
    if name.is_empty() || name == "gpg-pubkey" {
        return Ok(());
    }
    let mut purl = Purl::new("rpm", &name, &version).namespace(match &release.id[..] {
        "rhel" => "redhat",
        id if id.starts_with("opensuse") => "opensuse",
        id => id,
    });
    purl.qualifier("arch", text(header.architecture, FIELD));
    purl.qualifier("upstream", text(header.source, FIELD));
    if let Some(epoch) = header.epoch {
        purl.qualifier("epoch", epoch.to_string());
    }
    release.qualify(&mut purl);
    let shown = match header.epoch {
        Some(epoch) => format!("{epoch}:{version}"),
        None => version,
    };
    let some = |field: &[u8], most| Some(text(field, most)).filter(|text| !text.is_empty());
    let mut package = Package::new(Kind::Rpm, name, shown, found);
    package.purl = purl.to_string();
    package.license = License::parse(&text(header.license, FIELD));
    package.originator = some(header.vendor, FIELD).map(Party::Organization);
    package.homepage = some(header.address, FIELD);
    package.description = some(header.summary, DESCRIPTION);
    for file in header.files() {
        findings.own(&file, &mut package.files)?;
    }
    findings.add(package)
}
