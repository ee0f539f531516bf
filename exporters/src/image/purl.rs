//! Package URLs of images, as in-toto statements name them.

use ashlar_llb::{Platform, Reference};

/// `pkg:docker/NAME@TAG?platform=…`, as BuildKit writes it.
pub(crate) fn image(name: &Reference, platform: &Platform) -> String {
    let mut qualifiers = String::new();
    if let Some(digest) = name.digest() {
        qualifiers = format!("digest={}&", query(digest));
    }
    qualifiers += &format!("platform={}", query(&platform.format()));
    // What people write instead of `docker.io/library/`.
    let whole = name.name();
    let docker = whole.strip_prefix("docker.io/");
    let docker = docker.map(|path| path.strip_prefix("library/").unwrap_or(path));
    let familiar = docker.unwrap_or(&whole);
    let parts: Vec<String> = familiar.split('/').map(query).collect();
    // A tag has no character that a path would not have.
    let version = name.tag().map(|tag| format!("@{tag}")).unwrap_or_default();
    format!("pkg:docker/{}{version}?{qualifiers}", parts.join("/"))
}

/// Escapes what may not stand in a query.
fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_package_urls() {
        let url = |name: &str, platform: &Platform| {
            image(
                &Reference::parse(name).unwrap().with_default_tag(),
                platform,
            )
        };
        assert_eq!(
            url("app", &Platform::linux_amd64()),
            "pkg:docker/app@latest?platform=linux%2Famd64"
        );
        assert_eq!(
            url("127.0.0.1:5003/golden/base:v1", &Platform::linux_armhf()),
            "pkg:docker/127.0.0.1%3A5003/golden/base@v1?platform=linux%2Farm%2Fv7"
        );
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            url(&format!("a/b@{digest}"), &Platform::linux_amd64()),
            format!(
                "pkg:docker/a/b?digest=sha256%3A{}&platform=linux%2Famd64",
                "0".repeat(64)
            )
        );
    }
}
