//! Where a path of an action leads: through the links of its tree, to something that may not
//! exist.

use std::sync::Arc;

use super::wildcard::{Wildcard, has_wildcard};
use crate::tree::view::ResolveError;
use crate::tree::{Kind, Node, TreePath, View};

/// Links that are followed before a path counts as a loop.
const MAX_LINKS: usize = 255;

/// The physical path that `path` leads to. Links are followed in all components but the last, and
/// in the last if `follow`; `..` stops at the root; what does not exist is taken as it is written.
///
/// # Errors
/// A component that is not a directory has others behind it, or there are too many links.
pub(super) fn root_path(view: &View, path: &[u8], follow: bool) -> Result<TreePath, ResolveError> {
    let asked = || TreePath::clean(path).unwrap_or_default();
    let mut todo: Vec<Vec<u8>> = Vec::new();
    let push = |todo: &mut Vec<Vec<u8>>, path: &[u8]| {
        let parts = path.split(|&byte| byte == b'/').rev();
        todo.extend(
            parts
                .filter(|part| !matches!(*part, b"" | b"."))
                .map(<[u8]>::to_vec),
        );
    };
    push(&mut todo, path);
    let mut at = TreePath::root();
    // The nodes on the way, the root first; `None` where nothing exists.
    let mut nodes: Vec<Option<&Arc<Node>>> = vec![Some(view.root())];
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == b".." {
            if let Some(parent) = at.parent() {
                at = parent;
                nodes.pop();
            }
            continue;
        }
        let here = nodes.last().copied().flatten();
        if here.is_some_and(|node| !node.entry().is_directory()) {
            return Err(ResolveError::NotADirectory { path: at });
        }
        let next = at
            .join(&part)
            .map_err(|_| ResolveError::NotFound { path: asked() })?;
        let node = here.and_then(|node| node.child(&part));
        if let Some(link) = node.filter(|node| node.entry().kind == Kind::Symlink)
            && (follow || !todo.is_empty())
        {
            links += 1;
            if links > MAX_LINKS {
                return Err(ResolveError::TooManyLinks { path: asked() });
            }
            let target = &link.entry().target;
            if target.starts_with(b"/") {
                at = TreePath::root();
                nodes.truncate(1);
            }
            push(&mut todo, target);
            continue;
        }
        at = next;
        nodes.push(node);
    }
    Ok(at)
}

/// The paths that match `pattern`, in the order of a walk; the path itself if it has no wildcard.
///
/// # Errors
/// The part of the pattern before its first wildcard leads nowhere.
pub(super) fn matches(
    view: &View,
    pattern: &[u8],
    follow: bool,
) -> Result<Vec<TreePath>, ResolveError> {
    let clean = TreePath::clean(pattern).unwrap_or_default();
    let parts: Vec<&[u8]> = clean.components().collect();
    let Some(first) = parts.iter().position(|part| has_wildcard(part)) else {
        return Ok(vec![clean]);
    };
    let base = root_path(view, &parts[..first].join(&b'/'), follow)?;
    let node = view
        .lookup(&base)
        .ok_or_else(|| ResolveError::NotFound { path: base.clone() })?;
    let mut found = Vec::new();
    let rest = parts[first..].join(&b'/');
    if rest.contains(&b'[') {
        collect_by_path(
            &base,
            node,
            &mut Vec::new(),
            &Wildcard::new(&rest),
            &mut found,
        );
        return Ok(found);
    }
    let components: Vec<_> = parts[first..]
        .iter()
        .map(|part| Wildcard::new(part))
        .collect();
    collect(&base, node, &components, &mut found);
    Ok(found)
}

fn collect(at: &TreePath, node: &Node, parts: &[Wildcard], found: &mut Vec<TreePath>) {
    let Some((pattern, rest)) = parts.split_first() else {
        found.push(at.clone());
        return;
    };
    for (name, child) in node.children() {
        if pattern.matches(name)
            && let Ok(path) = at.join(name)
        {
            collect(&path, child, rest, found);
        }
    }
}

/// As [`collect`], for a pattern with a class, which may match a slash: in BuildKit patterns match
/// whole paths. `below` is the path from where the pattern begins.
fn collect_by_path(
    at: &TreePath,
    node: &Node,
    below: &mut Vec<u8>,
    pattern: &Wildcard,
    found: &mut Vec<TreePath>,
) {
    let length = below.len();
    for (name, child) in node.children() {
        let Ok(path) = at.join(name) else { continue };
        if length > 0 {
            below.push(b'/');
        }
        below.extend_from_slice(name);
        if pattern.matches(below) {
            found.push(path);
        } else {
            collect_by_path(&path, child, below, pattern, found);
        }
        below.truncate(length);
    }
}

/// Names near `path` that exist, best first: what the user may have meant.
pub(super) fn nearest(view: &View, path: &TreePath) -> Vec<String> {
    /// More are no help.
    const MOST: usize = 3;
    let mut parent = TreePath::root();
    let mut node = view.root();
    let mut missing = None;
    for part in path.components() {
        match node.child(part) {
            Some(child) => {
                node = child;
                parent = parent.join(part).unwrap_or_default();
            }
            None => {
                missing = Some(part);
                break;
            }
        }
    }
    let Some(missing) = missing else {
        return Vec::new();
    };
    let mut near: Vec<(usize, TreePath)> = node
        .children()
        .iter()
        .filter_map(|(name, _)| {
            let distance = distance(missing, name);
            let limit = match missing.len().max(name.len()) {
                0..=2 => 1,
                3..=8 => 2,
                length => length / 3,
            };
            (distance <= limit).then(|| Some((distance, parent.join(name).ok()?)))?
        })
        .collect();
    near.sort();
    near.into_iter()
        .take(MOST)
        .map(|(_, path)| path.to_string())
        .collect()
}

/// How many letters must be changed, added or removed, whatever the case. Long names are far.
fn distance(a: &[u8], b: &[u8]) -> usize {
    /// Longer names are not compared: the work grows with the product.
    const LONGEST: usize = 64;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = corner + usize::from(!from.eq_ignore_ascii_case(to));
            corner = row[j + 1];
            row[j + 1] = change.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::file::tests::{directory, file, link, path, view};

    #[test]
    fn paths_lead_through_links_to_what_may_not_exist() {
        let view = view([
            ("d", directory()),
            ("d/f", file()),
            ("up", link("../../d")),
            ("abs", link("/d/new")),
            ("loop", link("loop")),
        ]);
        let at = |text: &str, follow| root_path(&view, text.as_bytes(), follow);
        assert_eq!(at("/up/f", true), Ok(path("d/f")));
        assert_eq!(at("/up", false), Ok(path("up")));
        assert_eq!(at("/up/", false), Ok(path("up")));
        assert_eq!(at("/abs/x/../y", true), Ok(path("d/new/y")));
        assert_eq!(at("/none/../d", true), Ok(path("d")));
        assert_eq!(at("../..", true), Ok(TreePath::root()));
        assert!(matches!(
            at("/d/f/x", true),
            Err(ResolveError::NotADirectory { .. })
        ));
        assert!(matches!(
            at("/loop", true),
            Err(ResolveError::TooManyLinks { .. })
        ));
    }

    #[test]
    fn wildcards_match_by_component() {
        let view = view([
            ("a", directory()),
            ("a/1.txt", file()),
            ("a/2.md", file()),
            ("b", directory()),
            ("b/1.txt", file()),
            ("c", link("a")),
        ]);
        let all = |pattern: &str, follow| {
            let found = matches(&view, pattern.as_bytes(), follow).unwrap();
            found
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(all("/*/1.txt", true), "/a/1.txt /b/1.txt");
        assert_eq!(all("/a/*", true), "/a/1.txt /a/2.md");
        assert_eq!(all("/c/*", true), "/a/1.txt /a/2.md");
        assert_eq!(all("/c/*", false), "");
        assert_eq!(all("/[ab]/*", true), "/a/1.txt /a/2.md /b/1.txt");
        assert_eq!(all("/a[^x]1.txt", true), "/a/1.txt");
        assert_eq!(all("/[ab]", true), "/a /b");
        assert_eq!(all("/no", true), "/no");
        assert!(matches(&view, b"/no/*", true).is_err());
    }

    #[test]
    fn near_names_are_offered() {
        let view = view([
            ("src", directory()),
            ("src/main.rs", file()),
            ("src/lib.rs", file()),
        ]);
        assert_eq!(nearest(&view, &path("src/mian.rs")), ["/src/main.rs"]);
        assert_eq!(nearest(&view, &path("scr/x")), ["/src"]);
        assert!(nearest(&view, &path("other")).is_empty());
    }
}
