//! Addresses of git repositories, read as BuildKit reads them.
//!
//! Owns the split into host, path and remote. What does not parse is not an error here: the
//! engine is told the text as it is, and reports it.

use crate::path;

/// The parts of a repository's address that a source op needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GitUrl {
    /// Host and path, the same for every transport.
    pub(super) id: String,
    /// What git is given: the address without fragment and query.
    pub(super) remote: String,
    /// Whether the transport is ssh.
    pub(super) ssh: bool,
}

enum Failure {
    /// There is no transport in front, and it is no `user@host:path` either.
    NoTransport,
    /// It is nothing git knows.
    Invalid,
}

impl GitUrl {
    /// Reads an address; one without transport is taken for https. The error is the
    /// text to give to the engine.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match parse(text) {
            Ok(url) => Ok(url),
            Err(Failure::Invalid) => Err(text.to_owned()),
            Err(Failure::NoTransport) => {
                let text = format!("https://{text}");
                parse(&text).map_err(|_| text)
            }
        }
    }
}

fn parse(text: &str) -> Result<GitUrl, Failure> {
    if let Some((scheme, rest)) = text.split_once("://")
        && !scheme.is_empty()
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    {
        let scheme = scheme.to_ascii_lowercase();
        if !["http", "https", "ssh", "git"].contains(&scheme.as_str()) {
            return Err(Failure::Invalid);
        }
        return parse_url(&scheme, rest).ok_or(Failure::Invalid);
    }
    parse_scp(text).ok_or(Failure::NoTransport)
}

fn parse_url(scheme: &str, rest: &str) -> Option<GitUrl> {
    if rest.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let rest = rest.split('?').next().unwrap_or_default();
    let (authority, raw_path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    if host.contains(' ') || !valid_port(host) {
        return None;
    }
    let decoded = unescape(raw_path)?;
    let path = if raw_path.bytes().all(stays_in_path) {
        raw_path.to_owned()
    } else {
        escape(&decoded)
    };
    Some(GitUrl {
        id: format!(
            "{host}{}",
            path::join(&["/", &String::from_utf8_lossy(&decoded)])
        ),
        remote: format!("{scheme}://{authority}{path}"),
        ssh: scheme == "ssh",
    })
}

/// Reads `user@host:path`.
fn parse_scp(text: &str) -> Option<GitUrl> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let valid_user = !user.is_empty() && user.bytes().all(|byte| word(byte) || byte == b'_');
    let valid_host = !host.is_empty() && host.bytes().all(|byte| word(byte) || byte == b'.');
    if !valid_user || !valid_host {
        return None;
    }
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    Some(GitUrl {
        id: format!("{host}{}", path::join(&["/", path])),
        remote: format!("{user}@{host}:{path}"),
        ssh: true,
    })
}

fn valid_port(host: &str) -> bool {
    let after = host.rsplit(']').next().unwrap_or_default();
    match after.rsplit_once(':') {
        Some((_, port)) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => true,
    }
}

/// Whether Go keeps this byte of a URL's path as it was written.
fn stays_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::GitUrl;

    #[test]
    fn all_transports_share_an_id() {
        let id = "github.com/moby/buildkit.git";
        for (text, remote, ssh) in [
            (
                "https://u:p@github.com/moby/buildkit.git#v1",
                "https://u:p@github.com/moby/buildkit.git",
                false,
            ),
            (
                "github.com/moby/buildkit.git",
                "https://github.com/moby/buildkit.git",
                false,
            ),
            (
                "git@github.com:moby/buildkit.git?x#y",
                "git@github.com:moby/buildkit.git",
                true,
            ),
            (
                "SSH://git@github.com/moby/buildkit.git",
                "ssh://git@github.com/moby/buildkit.git",
                true,
            ),
        ] {
            let url = GitUrl::parse(text).expect(text);
            assert_eq!(
                (url.id.as_str(), url.remote.as_str(), url.ssh),
                (id, remote, ssh)
            );
        }
    }

    #[test]
    fn what_git_does_not_know_is_left_alone() {
        for text in [
            "ftp://example.com/a",
            "https://example.com:x/a",
            "https://example.com/%zz",
        ] {
            assert_eq!(GitUrl::parse(text), Err(text.to_owned()));
        }
    }

    #[test]
    fn paths_are_escaped_as_go_does() {
        let url = GitUrl::parse("https://example.com/a b/ü").expect("parses");
        assert_eq!(url.remote, "https://example.com/a%20b/%C3%BC");
        assert_eq!(url.id, "example.com/a b/ü");
    }
}
