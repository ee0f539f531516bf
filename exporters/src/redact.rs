//! Addresses without their credentials.

use std::borrow::Cow;

/// What stands in the place of a name or password, as in BuildKit.
const MASK: &str = "xxxxx";

/// The address with `xxxxx` for its user and password. Anything that is no address with a user
/// comes back as it is.
pub(crate) fn credentials(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let is_scheme = |text: &str| {
        text.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    if !is_scheme(scheme) {
        return address.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    // A password may contain an `@` that was not encoded.
    let Some(at) = rest[..end].rfind('@') else {
        return address.to_owned();
    };
    let (user, rest) = (&rest[..at], &rest[at..]);
    let masked = match user.split_once(':') {
        Some(("", _)) => format!(":{MASK}"),
        Some(_) => format!("{MASK}:{MASK}"),
        None if user.is_empty() => String::new(),
        None => MASK.to_owned(),
    };
    format!("{scheme}://{masked}{rest}")
}

/// The text with `xxxxx` for users and passwords of all addresses in it.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        // As far as an address without a path can go. A password may contain other marks.
        let end = after
            .find(|letter: char| {
                matches!(letter, '/' | '?' | '#' | '"' | '<' | '>') || letter.is_ascii_whitespace()
            })
            .unwrap_or(after.len());
        let of_scheme =
            |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.');
        let scheme = before[..at].rsplit(|letter| !of_scheme(letter)).next();
        let scheme = scheme.unwrap_or_default();
        let scheme = scheme.trim_start_matches(|letter: char| !letter.is_ascii_alphabetic());
        match after[..end].contains('@') && !scheme.is_empty() {
            true => {
                let masked = credentials(&format!("x://{}", &after[..end]));
                out.push_str(&masked["x://".len()..]);
            }
            false => out.push_str(&after[..end]),
        }
        rest = &after[end..];
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The same for bytes that need not be UTF-8.
pub(crate) fn bytes(bytes: &[u8]) -> Cow<'_, [u8]> {
    if let Ok(valid) = std::str::from_utf8(bytes) {
        return match text(valid) {
            Cow::Borrowed(same) => Cow::Borrowed(same.as_bytes()),
            Cow::Owned(masked) => Cow::Owned(masked.into_bytes()),
        };
    }
    // A letter for each byte, and back.
    let letters: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let masked = text(&letters)
        .chars()
        .filter_map(|letter| u8::try_from(letter).ok())
        .collect();
    Cow::Owned(masked)
}

#[cfg(test)]
mod tests {
    use super::{bytes, credentials, text};

    #[test]
    fn class_8_addresses_among_bytes_that_are_no_text_are_masked() {
        for (given, expected) in [
            (
                &b"\xff https://u:p@h/\xe9"[..],
                &b"\xff https://xxxxx:xxxxx@h/\xe9"[..],
            ),
            (b"https://u:p\xa0\x85\xff@h", b"https://xxxxx:xxxxx@h"),
            (
                "é https://u:p@h".as_bytes(),
                "é https://xxxxx:xxxxx@h".as_bytes(),
            ),
            (b"\xffplain\0", b"\xffplain\0"),
            (b"", b""),
        ] {
            assert_eq!(bytes(given), expected);
        }
    }

    #[test]
    fn class_8_addresses_inside_of_text_are_masked() {
        for (given, expected) in [
            (
                "a https://u:p@h/x and git+ssh://t@h b",
                "a https://xxxxx:xxxxx@h/x and git+ssh://xxxxx@h b",
            ),
            (
                "{\"a\":\"https://u:p@h\"}",
                "{\"a\":\"https://xxxxx:xxxxx@h\"}",
            ),
            ("http://h/a@b http://h", "http://h/a@b http://h"),
            ("PROXY=http://ü:p@h", "PROXY=http://xxxxx:xxxxx@h"),
            ("éhttp://u:p@h", "éhttp://xxxxx:xxxxx@h"),
            ("https://u:p\\'&@@h 'x'", "https://xxxxx:xxxxx@h 'x'"),
            ("://u:p@h", "://u:p@h"),
            ("plain", "plain"),
        ] {
            assert_eq!(text(given), expected, "{given}");
        }
    }

    #[test]
    fn class_8_users_and_passwords_are_masked() {
        for (address, expected) in [
            (
                "https://user:pass@host/x.git#ref",
                "https://xxxxx:xxxxx@host/x.git#ref",
            ),
            ("https://token@host/x", "https://xxxxx@host/x"),
            ("https://:pass@host/x", "https://:xxxxx@host/x"),
            ("https://user:@host", "https://xxxxx:xxxxx@host"),
            ("ssh://git:p@ss@host:22/x", "ssh://xxxxx:xxxxx@host:22/x"),
            ("https://host/path@1:2", "https://host/path@1:2"),
            ("https://host?q=a:b@c", "https://host?q=a:b@c"),
            ("git@host:path.git", "git@host:path.git"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(credentials(address), expected, "{address}");
        }
    }
}
