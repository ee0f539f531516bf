//! The text form of platforms and the many names of processors.

use super::Platform;
use crate::digest::excerpt;

/// Tells why a text is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePlatformError {
    /// A part has characters that it must not have, or none at all.
    #[error("invalid platform {text:?}: {part:?} is not a valid part")]
    Part {
        /// The text, cut to a readable length.
        text: String,
        /// The part, cut to a readable length.
        part: String,
    },
    /// There are more than three parts.
    #[error("invalid platform {text:?}: it has more than three parts")]
    TooManyParts {
        /// The text, cut to a readable length.
        text: String,
    },
    /// A single word is neither an operating system nor an architecture.
    #[error("invalid platform {text:?}: it is neither an operating system nor an architecture")]
    Unknown {
        /// The text.
        text: String,
    },
    /// A version or feature of the operating system has a malformed `%` escape.
    #[error("invalid platform {text:?}: {option:?} has a malformed escape")]
    Escape {
        /// The text, cut to a readable length.
        text: String,
        /// The version or feature, cut to a readable length.
        option: String,
    },
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

pub(super) fn parse(text: &str, host: &Platform) -> Result<Platform, ParsePlatformError> {
    // A fourth part holds all that follows, as in the original.
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    let mut platform = system(text, parts[0])?;
    for part in &parts[1..] {
        if !is_word(part, b"_.-") {
            return Err(ParsePlatformError::Part {
                text: excerpt(text),
                part: excerpt(part),
            });
        }
    }
    match parts[..] {
        [only] if SYSTEMS.contains(&platform.os.as_str()) => {
            debug_assert!(!only.is_empty());
            platform.architecture.clone_from(&host.architecture);
            if platform.architecture == "arm" && host.variant != "v7" {
                platform.variant.clone_from(&host.variant);
            }
        }
        [only] => {
            let (name, variant) = architecture(only, "");
            if !ARCHITECTURES.contains(&name.as_str()) {
                return Err(ParsePlatformError::Unknown {
                    text: excerpt(text),
                });
            }
            platform.os.clone_from(&host.os);
            (platform.architecture, platform.variant) = without_default(name, variant);
        }
        [_, name] => {
            let (name, variant) = architecture(name, "");
            (platform.architecture, platform.variant) = without_default(name, variant);
        }
        [_, name, variant] => {
            (platform.architecture, platform.variant) = architecture(name, variant);
            if platform.architecture == "arm64" && platform.variant.is_empty() {
                "v8".clone_into(&mut platform.variant);
            }
        }
        _ => {
            return Err(ParsePlatformError::TooManyParts {
                text: excerpt(text),
            });
        }
    }
    Ok(platform)
}

/// A variant that was not written and is the default is left out.
fn without_default(name: String, variant: String) -> (String, String) {
    if name == "arm" && variant == "v7" {
        (name, String::new())
    } else {
        (name, variant)
    }
}

/// Reads `os[(version+feature…)]`.
fn system(text: &str, part: &str) -> Result<Platform, ParsePlatformError> {
    let invalid = || ParsePlatformError::Part {
        text: excerpt(text),
        part: excerpt(part),
    };
    let (name, options) = match part.split_once('(') {
        None => (part, None),
        Some((name, options)) => (name, Some(options.strip_suffix(')').ok_or_else(invalid)?)),
    };
    if !is_word(name, b"_-") {
        return Err(invalid());
    }
    let mut platform = Platform {
        os: os(name),
        ..Platform::default()
    };
    let mut options = options.unwrap_or_default().split('+');
    let version = options.next().unwrap_or_default();
    if !version.is_empty() && !is_word(version, b"_.%-") {
        return Err(invalid());
    }
    platform.os_version = decode_option(text, version)?;
    for feature in options {
        if !is_word(feature, b"_.%-") {
            return Err(invalid());
        }
        platform.os_features.push(decode_option(text, feature)?);
    }
    Ok(platform)
}

/// Letters, digits and `others`, at least one.
fn is_word(word: &str, others: &[u8]) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !word.is_empty() && word.bytes().all(valid)
}

/// Go's word for an operating system.
pub(super) fn os(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

/// Go's word for an architecture, and the variant without what is the default.
pub(super) fn architecture(name: &str, variant: &str) -> (String, String) {
    let (name, variant) = (name.to_lowercase(), variant.to_lowercase());
    let (name, variant) = match (name.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (name.to_owned(), variant.to_owned())
}

/// Escapes what has a meaning in the text form, and what the text form cannot hold as it is.
pub(super) fn encode_option(option: &str) -> String {
    let mut encoded = String::with_capacity(option.len());
    for byte in option.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn decode_option(text: &str, option: &str) -> Result<String, ParsePlatformError> {
    let malformed = || ParsePlatformError::Escape {
        text: excerpt(text),
        option: excerpt(option),
    };
    let mut decoded = Vec::with_capacity(option.len());
    let mut rest = option.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.ok_or_else(malformed)?);
        rest = &after[2..];
    }
    String::from_utf8(decoded).map_err(|_| malformed())
}
