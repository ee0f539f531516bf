//! Slash paths with the exact meaning of Go's `path` package.
//!
//! Everything here is text only: no file system is looked at and symlinks mean nothing. The
//! functions take bytes or text, because names on disk need not be UTF-8.

/// Returns the shortest path that means the same, by text alone.
///
/// Repeated slashes and `.` go away, `..` takes away the name before it, and at the root means
/// the root. The empty path becomes `.`.
///
/// ```
/// assert_eq!(ashlar_llb::path::clean("a//b/./../c/"), "a/c");
/// assert_eq!(ashlar_llb::path::clean("/../a"), "/a");
/// ```
#[must_use]
pub fn clean(path: &str) -> String {
    text(clean_bytes(path.as_bytes()))
}

/// Tells whether a path from the root is what [`clean`] would make of it.
pub(crate) fn is_clean_and_absolute(path: &str) -> bool {
    let Some(names) = path.strip_prefix('/') else {
        return false;
    };
    names.is_empty()
        || names
            .split('/')
            .all(|name| !matches!(name, "" | "." | ".."))
}

/// As [`clean`], for paths that need not be UTF-8.
#[must_use]
pub fn clean_bytes(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if names.last().is_some_and(|last| *last != b"..") => drop(names.pop()),
            b".." if rooted => {}
            _ => names.push(name),
        }
    }
    let mut cleaned = Vec::with_capacity(path.len().max(1));
    if rooted {
        cleaned.push(b'/');
    }
    for (position, name) in names.iter().enumerate() {
        if position > 0 {
            cleaned.push(b'/');
        }
        cleaned.extend_from_slice(name);
    }
    if cleaned.is_empty() {
        cleaned.push(b'.');
    }
    cleaned
}

/// Joins what is not empty with slashes and cleans the outcome; nothing at all stays empty.
#[must_use]
pub fn join(parts: &[&str]) -> String {
    let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    text(join_bytes(&parts))
}

/// As [`join`], for paths that need not be UTF-8.
#[must_use]
pub fn join_bytes(parts: &[&[u8]]) -> Vec<u8> {
    let parts: Vec<&[u8]> = parts
        .iter()
        .copied()
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        Vec::new()
    } else {
        clean_bytes(&parts.join(&b'/'))
    }
}

/// Returns all but the last name, cleaned; `.` if there is nothing else.
#[must_use]
pub fn dir(path: &str) -> String {
    text(dir_bytes(path.as_bytes()))
}

/// As [`dir`], for paths that need not be UTF-8.
#[must_use]
pub fn dir_bytes(path: &[u8]) -> Vec<u8> {
    let end = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    clean_bytes(&path[..end])
}

/// Returns the last name, without slashes after it; `.` for the empty path and `/` for a path
/// of slashes only.
#[must_use]
pub fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return "/";
    }
    path.rsplit('/').next().unwrap_or(path)
}

/// Tells whether the path starts at the root.
#[must_use]
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/')
}

/// Cleaning cuts at slashes only, so text stays text.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("BUG: text cut at slashes is text")
}

#[cfg(test)]
mod tests {
    use super::{base, clean, dir, is_clean_and_absolute, join};

    // The table of Go's own documentation and tests.
    #[test]
    fn cleans_as_go_does() {
        for (path, cleaned) in [
            ("", "."),
            ("abc", "abc"),
            ("abc/def", "abc/def"),
            (".", "."),
            ("..", ".."),
            ("../..", "../.."),
            ("../../abc", "../../abc"),
            ("/abc", "/abc"),
            ("/", "/"),
            ("abc/", "abc"),
            ("abc/def/", "abc/def"),
            ("./", "."),
            ("../", ".."),
            ("/abc/", "/abc"),
            ("abc//def//ghi", "abc/def/ghi"),
            ("//abc", "/abc"),
            ("///abc//", "/abc"),
            ("abc/./def", "abc/def"),
            ("/./abc/def", "/abc/def"),
            ("abc/.", "abc"),
            ("abc/def/ghi/../jkl", "abc/def/jkl"),
            ("abc/def/../ghi/../jkl", "abc/jkl"),
            ("abc/def/..", "abc"),
            ("abc/def/../..", "."),
            ("/abc/def/../..", "/"),
            ("abc/def/../../..", ".."),
            ("/abc/def/../../..", "/"),
            ("abc/def/../../../ghi/jkl/../../../mno", "../../mno"),
            ("abc/./../def", "def"),
            ("abc/../../././../def", "../../def"),
        ] {
            assert_eq!(clean(path), cleaned, "{path:?}");
            assert_eq!(clean(cleaned), cleaned);
            let as_it_is = path == cleaned && path.starts_with('/');
            assert_eq!(is_clean_and_absolute(path), as_it_is, "{path:?}");
        }
    }

    #[test]
    fn joins_and_splits_as_go_does() {
        assert_eq!(join(&[]), "");
        assert_eq!(join(&["", ""]), "");
        assert_eq!(join(&["a", ""]), "a");
        assert_eq!(join(&["a", "b", "../c"]), "a/c");
        assert_eq!(join(&["/", "a"]), "/a");
        assert_eq!(join(&["/a/", "/b"]), "/a/b");
        for (path, directory, last) in [
            ("", ".", "."),
            (".", ".", "."),
            ("/.", "/", "."),
            ("/", "/", "/"),
            ("/foo", "/", "foo"),
            ("x/", "x", "x"),
            ("abc", ".", "abc"),
            ("abc/def", "abc", "def"),
            ("a/b/c.x", "a/b", "c.x"),
            ("//a//b", "/a", "b"),
        ] {
            assert_eq!(dir(path), directory, "{path:?}");
            assert_eq!(base(path), last, "{path:?}");
        }
    }
}
