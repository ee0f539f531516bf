//! Parts of a tree that an op looks at.

use std::collections::BTreeSet;
use std::sync::Arc;

/// One path, or the paths that match, whose content decides whether an op has to run again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Selector {
    /// The path as the op gives it, taken as absolute.
    pub path: String,
    /// Whether `path` is a pattern.
    pub wildcard: bool,
    /// Whether a symbolic link at `path` is followed.
    pub follow_links: bool,
    /// Only paths below that match one of these count; empty means all.
    pub include: Arc<[String]>,
    /// Paths below that match one of these do not count.
    pub exclude: Arc<[String]>,
    /// Paths that must exist.
    pub required: Arc<[String]>,
}

impl Selector {
    /// `path` alone, links followed.
    pub(super) fn followed(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            follow_links: true,
            ..Self::default()
        }
    }

    pub(super) fn is_filtered(&self) -> bool {
        self.wildcard || !self.include.is_empty() || !self.exclude.is_empty()
    }
}

/// Sorts selectors by path and drops plain ones that another plain one of the same kind covers.
pub(super) fn deduplicate(selectors: &[Selector]) -> Vec<Selector> {
    let plain = |follow: bool| {
        let paths = selectors
            .iter()
            .filter(|selector| !selector.is_filtered() && selector.follow_links == follow)
            .map(|selector| selector.path.as_str());
        deduplicate_paths(paths)
            .into_iter()
            .map(move |path| Selector {
                path: path.to_owned(),
                follow_links: follow,
                ..Selector::default()
            })
    };
    let filtered = selectors
        .iter()
        .filter(|selector| selector.is_filtered())
        .cloned();
    let mut out: Vec<_> = plain(false).chain(plain(true)).chain(filtered).collect();
    out.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

/// Sorts paths and drops those that are below another. A single path is left alone.
pub(super) fn deduplicate_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let all: BTreeSet<&str> = paths.collect();
    let below = |path: &str, other: &str| {
        path.strip_prefix(other)
            .is_some_and(|rest| !rest.is_empty() && (other.ends_with('/') || rest.starts_with('/')))
    };
    all.iter()
        .filter(|path| !all.iter().any(|other| *path != other && below(path, other)))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_what_another_covers() {
        let paths = ["/foo/bar", "/foobar", "/foo", "/foo"];
        assert_eq!(deduplicate_paths(paths.into_iter()), ["/foo", "/foobar"]);
        assert_eq!(deduplicate_paths(["/a", "/"].into_iter()), ["/"]);
        let plain = Selector {
            path: "/foo/x".into(),
            ..Selector::default()
        };
        let filtered = Selector {
            path: "/foo".into(),
            wildcard: true,
            ..Selector::default()
        };
        let all = [Selector::followed("/foo"), plain.clone(), filtered.clone()];
        assert_eq!(
            deduplicate(&all),
            [Selector::followed("/foo"), filtered, plain]
        );
    }
}
