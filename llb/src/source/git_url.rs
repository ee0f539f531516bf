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

/// Reads what follows `scheme://`, as Go's `net/url` does.
fn parse_url(scheme: &str, rest: &str) -> Option<GitUrl> {
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    unescape(fragment)?;
    if rest.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    // A question mark with nothing after it stays.
    let (rest, end) = match rest.strip_suffix('?') {
        Some(before) if !before.contains('?') => (before, "?"),
        _ => (rest.split('?').next().unwrap_or_default(), ""),
    };
    let (authority, raw_path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (user_info(user)? + "@", host),
        None => (String::new(), authority),
    };
    let host = host_name(host)?;
    let decoded = unescape(raw_path)?;
    let path = if raw_path.bytes().all(stays_in_path) {
        raw_path.to_owned()
    } else {
        escape(&decoded, b"-_.~$&+,/:;=@")
    };
    let shown = escape(&host, HOST);
    let nothing = user.is_empty() && host.is_empty() && decoded.is_empty();
    let slashes = if nothing { "" } else { "//" };
    Some(GitUrl {
        id: text(&host) + &path::join(&["/", &text(&decoded)]),
        remote: format!("{scheme}:{slashes}{user}{shown}{path}{end}"),
        ssh: scheme == "ssh",
    })
}

/// Bytes other than letters and digits that a host may have.
const HOST: &[u8] = b"-_.~!$&'()*+,;=:[]<>\"";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads user and password and writes them the way Go does.
fn user_info(info: &str) -> Option<String> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if !info.bytes().all(valid) {
        return None;
    }
    let written = |part: &str| Some(escape(&unescape(part)?, b"-_.~$&+,;="));
    match info.split_once(':') {
        Some((user, password)) => Some(format!("{}:{}", written(user)?, written(password)?)),
        None => written(info),
    }
}

/// Checks and decodes host and port.
fn host_name(host: &str) -> Option<Vec<u8>> {
    let port = if let Some(bracketed) = host.strip_prefix('[') {
        let (address, port) = bracketed.rsplit_once(']')?;
        let address = address.split("%25").next().unwrap_or_default();
        address.parse::<std::net::Ipv6Addr>().ok()?;
        port
    } else {
        host.rfind(':').map_or("", |colon| &host[colon..])
    };
    let digits = port.strip_prefix(':').unwrap_or_default();
    if !(port.is_empty() || port.starts_with(':')) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Escapes are for what is not ASCII, and for the sign before an IPv6 zone.
    let mut rest = host;
    while let Some(at) = rest.find('%') {
        let code = rest.get(at + 1..at + 3)?;
        let high = u8::from_str_radix(code, 16).ok()? >= 0x80;
        let zone = code == "25" && host.starts_with('[');
        if !high && !zone {
            return None;
        }
        rest = &rest[at + 3..];
    }
    let valid = |byte: u8| !byte.is_ascii() || byte.is_ascii_alphanumeric() || HOST.contains(&byte);
    if !host.bytes().all(|byte| byte == b'%' || valid(byte)) {
        return None;
    }
    unescape(host)
}

/// Reads `user@host:path`.
fn parse_scp(text: &str) -> Option<GitUrl> {
    let (user, rest) = text.split_once('@')?;
    let (host, rest) = rest.split_once(':')?;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let valid_user = !user.is_empty() && user.bytes().all(|byte| word(byte) || byte == b'_');
    let valid_host = !host.is_empty() && host.bytes().all(|byte| word(byte) || byte == b'.');
    if !valid_user || !valid_host || rest.contains('\n') {
        return None;
    }
    let before = rest.split('#').next().unwrap_or_default();
    let (path, query) = before.split_once('?').unwrap_or((before, ""));
    let mut parts = query.split('&');
    if parts.any(|part| part.contains(';') || unescape(part).is_none()) {
        return None;
    }
    Some(GitUrl {
        id: format!("{host}{}", path::join(&["/", path])),
        remote: format!("{user}@{host}:{path}"),
        ssh: true,
    })
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

/// Writes bytes with escapes for all but letters, digits and those in `kept`.
fn escape(bytes: &[u8], kept: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
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
            "https://example.com/a#%zz",
            "https://exa mple.com/a",
            "https://a^b@example.com/",
            "https://[::1/a",
            "https://[example]/a",
            "https://%41.example.com/a",
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

    #[test]
    fn hosts_users_and_ends_are_written_as_go_does() {
        for (text, id, remote) in [
            (
                "https://us%2fer:p!w@Example.com:8080/a",
                "Example.com:8080/a",
                "https://us%2Fer:p%21w@Example.com:8080/a",
            ),
            ("https://u:@h/a", "h/a", "https://u:@h/a"),
            ("https://h/a?", "h/a", "https://h/a?"),
            ("https://h/a??", "h/a", "https://h/a"),
            ("https://h/a?x=1#y", "h/a", "https://h/a"),
            ("https://[::1]:22/a", "[::1]:22/a", "https://[::1]:22/a"),
            ("https://h\u{fc}/a", "h\u{fc}/a", "https://h%C3%BC/a"),
            ("git://h/a/../b/", "h/b", "git://h/a/../b/"),
            ("https://", "/", "https:"),
            ("https:///a", "/a", "https:///a"),
        ] {
            let url = GitUrl::parse(text).expect(text);
            assert_eq!(
                (url.id.as_str(), url.remote.as_str()),
                (id, remote),
                "{text}"
            );
        }
        // A query that does not parse makes it no address of this kind.
        let odd = "git@example.com:a?x;y";
        assert_eq!(GitUrl::parse(odd), Err(format!("https://{odd}")));
    }
}
