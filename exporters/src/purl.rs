//! Package URLs.
//!
//! Owns [`Purl`], which writes the canonical form of the package URL specification, as in SBOMs, and
//! [`image_purl`], which writes images as BuildKit does in provenance: there names are escaped as in
//! queries and versions as in paths, which is not the same.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use ashlar_llb::{Platform, Reference};

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

/// What Go's `url.QueryEscape` leaves as it is. It writes spaces as `+`, which no reference has.
const QUERY: &[u8] = b".-_~";

/// What Go's `url.PathEscape` leaves as it is.
const PATH: &[u8] = b".-_~$&+:=@";

/// An image as BuildKit names it: the name as people write it, the tag as version, and digest and
/// platform as qualifiers. `kind` is `docker`, or `oci` for images of layouts. `platform` must be
/// normalised.
pub(crate) fn image_purl(kind: &str, image: &Reference, platform: Option<&Platform>) -> String {
    let digest = image.digest();
    let image = match digest {
        Some(_) => image.clone(),
        None => image.clone().with_default_tag(),
    };
    let named = Reference::parse(&image.name()).expect("BUG: the name of a reference is one");
    let name = named.familiar();
    let mut out = format!("pkg:{kind}/");
    let mut write = || -> fmt::Result {
        for (position, part) in name.split('/').enumerate() {
            if position > 0 {
                out.write_char('/')?;
            }
            escape(&mut out, part, QUERY)?;
        }
        if let Some(tag) = image.tag() {
            out.write_char('@')?;
            escape(&mut out, tag, PATH)?;
        }
        let mut separator = '?';
        let platform = platform.map(Platform::format);
        let qualifiers = [("digest", digest), ("platform", platform.as_deref())];
        for (key, value) in qualifiers {
            if let Some(value) = value {
                write!(out, "{separator}{key}=")?;
                escape(&mut out, value, PATH)?;
                separator = '&';
            }
        }
        Ok(())
    };
    write().expect("BUG: writing to a string cannot fail");
    out
}

/// The package URL with one more qualifier at its end.
pub(crate) fn with_qualifier(purl: &str, key: &str, value: &str) -> String {
    let separator = if purl.contains('?') { '&' } else { '?' };
    format!("{purl}{separator}{key}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_in_canonical_form() {
        let mut purl = Purl::new("deb", "libstdc++6", "1:12.2.0-14+deb12u1").namespace("debian");
        purl.qualifier("upstream", "gcc-12@12");
        purl.qualifier("arch", "amd64");
        purl.qualifier("empty", "");
        assert_eq!(
            purl.to_string(),
            "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1?arch=amd64&upstream=gcc-12%4012"
        );
    }

    #[test]
    fn images_as_in_provenance() {
        let purl = |text: &str| {
            let platform = Platform::linux_amd64();
            image_purl("docker", &Reference::parse(text).unwrap(), Some(&platform))
        };
        let digest = "sha256:e8275b2b76280af67e26f068e5d585eb905f8dfd2f1918b3229db98133cb4862";
        assert_eq!(
            purl("alpine"),
            "pkg:docker/alpine@latest?platform=linux%2Famd64"
        );
        assert_eq!(
            purl("127.0.0.1:5003/golden/base:v1"),
            "pkg:docker/127.0.0.1%3A5003/golden/base@v1?platform=linux%2Famd64"
        );
        assert_eq!(
            purl(&format!("docker.io/me/app@{digest}")),
            format!("pkg:docker/me/app?digest={digest}&platform=linux%2Famd64")
        );
    }
}
