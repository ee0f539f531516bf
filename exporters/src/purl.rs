//! Package URLs.
//!
//! Owns [`Purl`], which writes the canonical form of the package URL specification.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// A package URL in its parts.
#[derive(Debug, Clone)]
pub(crate) struct Purl {
    kind: &'static str,
    /// Joined by `/`.
    namespace: String,
    name: String,
    version: String,
    qualifiers: BTreeMap<&'static str, String>,
}

impl Purl {
    pub(crate) fn new(kind: &'static str, name: &str, version: &str) -> Self {
        Self {
            kind,
            namespace: String::new(),
            name: name.to_owned(),
            version: version.to_owned(),
            qualifiers: BTreeMap::new(),
        }
    }

    pub(crate) fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Adds a qualifier, unless it is empty.
    pub(crate) fn qualifier(&mut self, key: &'static str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.qualifiers.insert(key, value);
        }
    }
}

impl fmt::Display for Purl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}/", self.kind)?;
        for part in self.namespace.split('/').filter(|part| !part.is_empty()) {
            escape(f, part, b".-_~:")?;
            f.write_char('/')?;
        }
        escape(f, &self.name, b".-_~:")?;
        if !self.version.is_empty() {
            f.write_char('@')?;
            escape(f, &self.version, b".-_~:")?;
        }
        for (position, (key, value)) in self.qualifiers.iter().enumerate() {
            f.write_char(if position == 0 { '?' } else { '&' })?;
            write!(f, "{key}=")?;
            escape(f, value, b".-_~:")?;
        }
        Ok(())
    }
}

/// Percent-encodes all but letters, digits and `plain`.
fn escape(out: &mut impl fmt::Write, text: &str, plain: &[u8]) -> fmt::Result {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            out.write_char(byte.into())?;
        } else {
            write!(out, "%{byte:02X}")?;
        }
    }
    Ok(())
}
