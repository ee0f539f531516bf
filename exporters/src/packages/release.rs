//! Which distribution a tree is of, by `os-release`.

use super::tree::text;
use super::{Findings, Tree};
use crate::purl::Purl;
use crate::sbom::ScanError;

/// Largest `os-release` that is read. Real ones have some hundred bytes.
const CEILING: u64 = 64 << 10;

/// Longest id or version of a distribution, which stand in each of its packages.
const LONGEST: usize = 128;

/// What `os-release` says; empty where it says nothing.
#[derive(Debug, Default)]
pub(super) struct Release {
    /// `debian`, `fedora`.
    pub(super) id: String,
    version: String,
}

impl Release {
    pub(super) fn of(tree: &Tree<'_>) -> Result<Self, ScanError> {
        let mut unused = Findings::new(tree);
        for place in ["/etc/os-release", "/usr/lib/os-release"] {
            if let Some((path, _)) = tree.file(place)
                && let Some(bytes) = tree.bytes(&path, CEILING, &mut unused)?
            {
                return Ok(Self::parse(&String::from_utf8_lossy(&bytes)));
            }
        }
        Ok(Self::default())
    }

    fn parse(file: &str) -> Self {
        let mut release = Self::default();
        for line in file.lines() {
            let Some((key, value)) = line.trim().split_once('=') else {
                continue;
            };
            let value = unquoted(value);
            match key {
                "ID" => release.id = text(value.to_lowercase().as_bytes(), LONGEST),
                "VERSION_ID" => release.version = text(value.as_bytes(), LONGEST),
                _ => {}
            }
        }
        release
    }

    /// Says in a package URL which distribution the package is from.
    pub(super) fn qualify(&self, purl: &mut Purl) {
        match (&self.id[..], &self.version[..]) {
            ("", _) => {}
            (id, "") => purl.qualifier("distro", id),
            (id, version) => purl.qualifier("distro", format!("{id}-{version}")),
        }
    }
}

/// A value as a shell reads it: without quotes and the backslashes inside them.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    let inner = ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    let mut out = String::new();
    let mut letters = inner.unwrap_or(value).chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out.extend(letters.next()),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_distributions_use() {
        let release =
            Release::parse("# comment\nID=\"CentOS\"\nVERSION_ID='9'\nNAME=\"a \\\"b\\\"\"\n");
        assert_eq!((&release.id[..], &release.version[..]), ("centos", "9"));
        assert_eq!(unquoted("\"a \\\"b\\\"\""), "a \"b\"");
        assert_eq!(unquoted("plain"), "plain");
        assert_eq!(unquoted("\""), "\"");
    }
}
