//! Paths inside a tree.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A path from the root of a tree: components separated by `/`, no leading `/`, and none of them
/// empty, `.` or `..`. The root is the empty path. Any bytes but NUL are allowed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Box<[u8]>);

/// The bytes are not a path inside a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a path inside a tree", path.escape_ascii())]
pub struct TreePathError {
    /// The bytes that were given.
    pub path: Vec<u8>,
}

impl TreePath {
    /// The root of the tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Takes a path that is already in normal form.
    ///
    /// # Errors
    /// [`TreePathError`] for a leading or trailing `/`, a component that is empty, `.` or `..`,
    /// or a NUL byte.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self, TreePathError> {
        let path = path.into();
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
        if !path.is_empty() && path.split(|&byte| byte == b'/').any(bad) {
            return Err(TreePathError { path });
        }
        Ok(Self(path.into_boxed_slice()))
    }

    /// Brings any path to normal form as if it were absolute: empty and `.` components vanish,
    /// `..` removes the component before it and stops at the root. Symbolic links are not looked
    /// at.
    ///
    /// # Errors
    /// [`TreePathError`] for a NUL byte.
    pub fn clean(path: &[u8]) -> Result<Self, TreePathError> {
        if path.contains(&0) {
            return Err(TreePathError {
                path: path.to_vec(),
            });
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in path.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        Ok(Self(parts.join(&b'/').into_boxed_slice()))
    }

    /// Appends one component, which must be a name: not empty, `.` or `..`, without `/` and NUL.
    ///
    /// # Errors
    /// [`TreePathError`] if it is not a name.
    pub fn join(&self, name: &[u8]) -> Result<Self, TreePathError> {
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(TreePathError {
                path: name.to_vec(),
            });
        }
        Ok(self.append(name))
    }

    /// Appends a path.
    #[must_use]
    pub fn join_path(&self, path: &Self) -> Self {
        if path.is_root() {
            self.clone()
        } else {
            self.append(&path.0)
        }
    }

    fn append(&self, rest: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + rest.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(rest);
        Self(bytes.into_boxed_slice())
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the `*at` system calls: relative, and `.` for the root.
    pub fn as_relative(&self) -> &Path {
        if self.is_root() {
            Path::new(".")
        } else {
            Path::new(OsStr::from_bytes(&self.0))
        }
    }

    /// The components, from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0
            .split(|&byte| byte == b'/')
            .filter(|part| !part.is_empty())
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The path without its last component; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        Some(Self(self.0[..end].into()))
    }

    /// Whether `self` is `other` or below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        other.is_root()
            || self
                .0
                .strip_prefix(&*other.0)
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.escape_ascii())
    }
}

impl Borrow<[u8]> for TreePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_stays_inside() {
        for (given, expected) in [
            ("/", ""),
            ("../../a", "a"),
            ("/a/./b//c/..", "a/b"),
            ("a/../..", ""),
            ("", ""),
        ] {
            assert_eq!(
                TreePath::clean(given.as_bytes()).unwrap().as_bytes(),
                expected.as_bytes()
            );
        }
        assert!(TreePath::clean(b"a\0b").is_err());
    }

    #[test]
    fn new_refuses_what_is_not_normal() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a\0"] {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
        assert!(TreePath::new("").unwrap().is_root());
    }

    #[test]
    fn parents_and_names() {
        let path = TreePath::new("a/b/c").unwrap();
        assert_eq!(path.name(), Some(&b"c"[..]));
        assert_eq!(path.parent().unwrap().as_bytes(), b"a/b");
        assert_eq!(TreePath::new("a").unwrap().parent(), Some(TreePath::root()));
        assert_eq!(TreePath::root().parent(), None);
        assert!(path.starts_with(&TreePath::new("a/b").unwrap()));
        assert!(
            !TreePath::new("ab")
                .unwrap()
                .starts_with(&TreePath::new("a").unwrap())
        );
        assert!(TreePath::root().join(b"x/y").is_err());
    }
}
