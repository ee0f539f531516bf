//! The merged tree of a stack of layers, in memory.
//!
//! A [`View`] is a persistent tree: an edit copies the directories on the way to the root and
//! shares everything else, so that a stack of a thousand small layers costs what its changes
//! cost, and a lookup never depends on the depth of the stack.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use super::{Attributes, Entry, Files, Kind, TreePath};
use crate::id::ContentDigest;

/// Links that are followed before a path counts as a loop, as in BuildKit and Linux (255).
const MAX_LINKS: usize = 255;

/// An object and its name in a directory.
pub(crate) type Child = (Arc<[u8]>, Arc<Node>);

/// One object of a view.
#[derive(Debug)]
pub struct Node {
    entry: Entry,
    /// Whose bytes they are.
    files: Option<Arc<dyn Files>>,
    /// Sorted by name; empty for all but directories.
    children: Vec<Child>,
    /// The checksum of a file or link once computed; of a directory: of all below it.
    digest: OnceLock<ContentDigest>,
}

impl Node {
    /// A node for anything but a directory. `files` is where the bytes of a regular file are.
    pub fn leaf(entry: Entry, files: Option<Arc<dyn Files>>) -> Arc<Self> {
        let digest = entry.digest.map(OnceLock::from).unwrap_or_default();
        Arc::new(Self {
            entry,
            files,
            children: Vec::new(),
            digest,
        })
    }

    /// A directory with these children, which are sorted here; names must be unique.
    pub fn directory(
        entry: Entry,
        files: Option<Arc<dyn Files>>,
        mut children: Vec<(Arc<[u8]>, Arc<Self>)>,
    ) -> Arc<Self> {
        if !children.is_sorted_by(|a, b| a.0 < b.0) {
            children.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Arc::new(Self {
            entry,
            files,
            children,
            digest: OnceLock::new(),
        })
    }

    /// What the object is.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Where the bytes of a regular file are read from: at the path of this node in the view. For
    /// a directory: the layer that its attributes come from.
    pub fn files(&self) -> Option<&Arc<dyn Files>> {
        self.files.as_ref()
    }

    /// The children of a directory, sorted by name.
    pub fn children(&self) -> &[(Arc<[u8]>, Arc<Self>)] {
        &self.children
    }

    /// The child of that name.
    pub fn child(&self, name: &[u8]) -> Option<&Arc<Self>> {
        self.position(name).ok().map(|at| &self.children[at].1)
    }

    /// The memo of the checksum: of the object itself, or for a directory of all below it.
    pub fn digest_memo(&self) -> &OnceLock<ContentDigest> {
        &self.digest
    }

    fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.children.binary_search_by(|(key, _)| (**key).cmp(name))
    }

    /// The same directory with one child set or removed.
    fn with_child(&self, name: &[u8], child: Option<Arc<Self>>) -> Arc<Self> {
        let mut children = self.children.clone();
        match (self.position(name), child) {
            (Ok(at), Some(child)) => children[at].1 = child,
            (Ok(at), None) => drop(children.remove(at)),
            (Err(at), Some(child)) => children.insert(at, (name.into(), child)),
            (Err(_), None) => {}
        }
        Arc::new(Self {
            entry: self.entry.clone(),
            files: self.files.clone(),
            children,
            digest: OnceLock::new(),
        })
    }
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Nothing is there.
    #[error("{path}: no such file or directory")]
    NotFound {
        /// The first path that does not exist.
        path: TreePath,
    },
    /// Something on the way is not a directory.
    #[error("{path}: not a directory")]
    NotADirectory {
        /// The object that is not one.
        path: TreePath,
    },
    /// More than 255 symbolic links were followed.
    #[error("{path}: too many levels of symbolic links")]
    TooManyLinks {
        /// The path that was asked for.
        path: TreePath,
    },
}

/// The merged tree of a stack of layers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct View(Arc<Node>);

impl Default for View {
    fn default() -> Self {
        Self::empty()
    }
}

impl View {
    /// The view of no layers: a root directory (mode 0755, owned by root, time 0) and nothing in
    /// it.
    pub fn empty() -> Self {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        Self(Node::directory(
            Entry::new(Kind::Directory, attributes),
            None,
            Vec::new(),
        ))
    }

    /// A view of this root, which must be a directory.
    pub fn new(root: Arc<Node>) -> Self {
        debug_assert!(root.entry().is_directory(), "a root is a directory");
        Self(root)
    }

    /// The root directory.
    pub fn root(&self) -> &Arc<Node> {
        &self.0
    }

    /// Whether both are the same tree in memory; true for clones.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The node at `path`; no symbolic link is followed.
    pub fn lookup(&self, path: &TreePath) -> Option<&Arc<Node>> {
        path.components()
            .try_fold(&self.0, |node, name| node.child(name))
    }

    /// Resolves any path as a process with this tree as its root would: links are followed in all
    /// components but the last, and in the last if `follow`; `..` stops at the root. Returns the
    /// physical path and its node; with `follow` the node is never a link.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve(
        &self,
        path: &[u8],
        follow: bool,
    ) -> Result<(TreePath, &Arc<Node>), ResolveError> {
        let (at, node) = self.resolve_missing(path, follow)?;
        node.map(|node| (at.clone(), node))
            .ok_or(ResolveError::NotFound { path: at })
    }

    /// As [`View::resolve`], but a last component that does not exist gives its physical path and
    /// no node. A directory on the way must exist.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub fn resolve_missing(
        &self,
        path: &[u8],
        follow: bool,
    ) -> Result<(TreePath, Option<&Arc<Node>>), ResolveError> {
        let asked = || TreePath::clean(path).unwrap_or_default();
        // Components still to be walked, last first.
        let mut todo: Vec<Vec<u8>> = Vec::new();
        let push = |todo: &mut Vec<Vec<u8>>, path: &[u8]| {
            todo.extend(path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
        };
        push(&mut todo, path);
        let mut nodes: Vec<&Arc<Node>> = vec![&self.0];
        let mut at = TreePath::root();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    if let Some(parent) = at.parent() {
                        at = parent;
                        nodes.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let here = nodes.last().copied().unwrap_or(&self.0);
            if !here.entry().is_directory() {
                return Err(ResolveError::NotADirectory { path: at });
            }
            let next = at
                .join(&part)
                .map_err(|_| ResolveError::NotFound { path: asked() })?;
            let last = todo.iter().all(|part| matches!(&part[..], b"" | b"."));
            let Some(node) = here.child(&part) else {
                return if last {
                    Ok((next, None))
                } else {
                    Err(ResolveError::NotFound { path: next })
                };
            };
            if node.entry().kind == Kind::Symlink && (follow || !last) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ResolveError::TooManyLinks { path: asked() });
                }
                let target = &node.entry().target;
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
        let node = nodes.last().copied().unwrap_or(&self.0);
        Ok((at, Some(node)))
    }

    /// The view with `node` at `path`, replacing what is there. The parent directory must exist;
    /// otherwise the view comes back unchanged. Setting the root replaces the whole view.
    #[must_use]
    pub fn with(&self, path: &TreePath, node: Arc<Node>) -> Self {
        self.edit(path, Some(node))
    }

    /// The view without `path` and all below it. The root cannot be removed.
    #[must_use]
    pub fn without(&self, path: &TreePath) -> Self {
        self.edit(path, None)
    }

    /// The view with other metadata for the object at `path`, children kept.
    #[must_use]
    pub fn with_entry(&self, path: &TreePath, entry: Entry, files: Option<Arc<dyn Files>>) -> Self {
        let children = self
            .lookup(path)
            .map(|node| node.children.clone())
            .unwrap_or_default();
        let node = if entry.is_directory() {
            Node::directory(entry, files, children)
        } else {
            Node::leaf(entry, files)
        };
        self.edit(path, Some(node))
    }

    fn edit(&self, path: &TreePath, node: Option<Arc<Node>>) -> Self {
        let Some(name) = path.name() else {
            return node.map_or_else(|| self.clone(), Self);
        };
        let mut way: Vec<(&Arc<Node>, &[u8])> = Vec::new();
        let mut here = &self.0;
        for part in path.components() {
            way.push((here, part));
            match here.child(part) {
                Some(child) => here = child,
                None => break,
            }
        }
        if way.len() != path.components().count() || way.last().is_none_or(|last| last.1 != name) {
            return self.clone();
        }
        let mut new = node;
        while let Some((parent, part)) = way.pop() {
            new = Some(parent.with_child(part, new));
        }
        new.map_or_else(|| self.clone(), Self)
    }

    /// All objects below the root in the order of a tar: a directory before its children,
    /// children sorted by name. The root itself is not among them.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            stack: vec![(TreePath::root(), self.0.children.iter())],
        }
    }
}

/// Iterator of [`View::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    stack: Vec<(TreePath, std::slice::Iter<'a, Child>)>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (TreePath, &'a Arc<Node>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (parent, children) = self.stack.last_mut()?;
            let Some((name, node)) = children.next() else {
                self.stack.pop();
                continue;
            };
            let path = parent
                .join(name)
                .expect("BUG: a child's name is not a name");
            if !node.children.is_empty() {
                self.stack.push((path.clone(), node.children.iter()));
            }
            return Some((path, node));
        }
    }
}

/// Compares two paths as their entries follow each other in a walk: by component.
pub fn walk_order(a: &TreePath, b: &TreePath) -> Ordering {
    // A separator sorts before every byte of a name, since no name contains NUL.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    let (a, b) = (a.as_bytes(), b.as_bytes());
    match a.iter().zip(b).position(|(a, b)| a != b) {
        Some(at) => key(&a[at]).cmp(&key(&b[at])),
        None => a.len().cmp(&b.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    fn directory() -> Arc<Node> {
        Node::directory(
            Entry::new(Kind::Directory, Attributes::default()),
            None,
            Vec::new(),
        )
    }

    fn link(target: &str) -> Arc<Node> {
        let mut entry = Entry::new(Kind::Symlink, Attributes::default());
        entry.target = target.as_bytes().into();
        Node::leaf(entry, None)
    }

    fn file() -> Arc<Node> {
        Node::leaf(Entry::new(Kind::File, Attributes::default()), None)
    }

    #[test]
    fn edits_share_and_never_change_the_old() {
        let old = View::empty()
            .with(&path("a"), directory())
            .with(&path("b"), directory());
        let new = old.with(&path("a/x"), file());
        assert!(old.lookup(&path("a/x")).is_none());
        assert!(new.lookup(&path("a/x")).is_some());
        assert!(Arc::ptr_eq(
            old.lookup(&path("b")).unwrap(),
            new.lookup(&path("b")).unwrap()
        ));
        assert!(new.with(&path("no/such/parent"), file()).same(&new));
        assert_eq!(new.without(&path("a")).walk().count(), 1);
    }

    #[test]
    fn resolving_stays_inside() {
        let view = View::empty()
            .with(&path("etc"), directory())
            .with(&path("etc/real"), file())
            .with(&path("up"), link("../../../etc/real"))
            .with(&path("abs"), link("/etc"))
            .with(&path("loop"), link("loop"))
            .with(&path("dangling"), link("etc/missing"));
        let at = |text: &str, follow| view.resolve(text.as_bytes(), follow).map(|(path, _)| path);
        assert_eq!(at("/up", true), Ok(path("etc/real")));
        assert_eq!(at("/up", false), Ok(path("up")));
        assert_eq!(at("/abs/../abs/real", true), Ok(path("etc/real")));
        assert_eq!(at("/../../..", true), Ok(TreePath::root()));
        assert!(matches!(
            at("/loop", true),
            Err(ResolveError::TooManyLinks { .. })
        ));
        assert_eq!(
            at("/dangling", true),
            Err(ResolveError::NotFound {
                path: path("etc/missing")
            })
        );
        assert!(matches!(
            at("/up/x", true),
            Err(ResolveError::NotADirectory { .. })
        ));
        let (missing, node) = view.resolve_missing(b"/dangling", true).unwrap();
        assert!(node.is_none());
        assert_eq!(missing, path("etc/missing"));
    }

    #[test]
    fn walk_gives_parents_first_in_order() {
        let view = View::empty()
            .with(&path("b"), directory())
            .with(&path("a"), file())
            .with(&path("b/z"), file())
            .with(&path("b-c"), file());
        let order: Vec<_> = view.walk().map(|(path, _)| path.to_string()).collect();
        assert_eq!(order, ["/a", "/b", "/b/z", "/b-c"]);
    }
}
