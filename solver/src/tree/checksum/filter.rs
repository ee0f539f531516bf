//! Checksums of what patterns select.
//!
//! BuildKit keeps a tree as a sorted list of keys and goes along it; the result depends on that
//! order, on which directory headers have been passed, and on paths as the caller wrote them and
//! not as links resolve them. [`Selector`] goes along the tree in the same order.

use std::collections::BTreeMap;
use std::sync::Arc;

use ashlar_llb::patterns::{Glob, ParentMatches, PatternMatcher};
use sha2::{Digest as _, Sha256};

use super::fill::{fill, known};
use super::follow::{Place, follow};
use super::list::{Difference, ListedPart};
use super::{ChecksumError, ChecksumOptions, Located, digest_text, directory_header};
use crate::cancel::Cancel;
use crate::id::ContentDigest;
use crate::tree::{Kind, Node, TreePath, View};

/// Objects between two looks at the flag.
const BETWEEN_CHECKS: usize = 1024;

/// What patterns select, in the order in which it counts, and the literal beginning of the path.
fn select(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    cancel: &Cancel,
) -> Result<(Vec<Selected>, TreePath), ChecksumError> {
    let not_found = |path: &[u8]| ChecksumError::NotFound {
        path: path.to_vec(),
    };
    let too_many = |_| ChecksumError::TooManyLinks {
        path: path.to_vec(),
    };
    let clean = TreePath::clean(path).map_err(|_| not_found(path))?;
    let (prefix, follow_prefix) = if options.wildcard {
        literal_prefix(&clean)
    } else {
        (clean.clone(), false)
    };
    let mut selector = Selector::new(&clean, path, options)?;
    if let (at, Place::Node(node)) = follow(view, &prefix, follow_prefix).map_err(too_many)? {
        selector.walk(&prefix, &at, node, cancel)?;
    }
    Ok((selector.selected, prefix))
}

pub(super) fn checksum(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    cancel: &Cancel,
) -> Result<ContentDigest, ChecksumError> {
    let not_found = |path: &[u8]| ChecksumError::NotFound {
        path: path.to_vec(),
    };
    let (selected, prefix) = select(view, path, options, cancel)?;
    for required in options.required.iter() {
        if !selected
            .iter()
            .any(|item| item.path.starts_with(required.as_bytes()))
        {
            return Err(not_found(required.as_bytes()));
        }
    }
    let digests = digests(view, &selected, cancel)?;
    if let ([item], [digest]) = (&selected[..], &digests[..])
        && base(path) == base(&item.path)
    {
        return Ok(*digest);
    }
    let mut hash = Sha256::new();
    let prefix = written(&prefix);
    for (item, digest) in selected.iter().zip(digests) {
        let path = item.path.strip_prefix(&prefix[..]).unwrap_or(&item.path);
        let mut key: Vec<u8> = path
            .iter()
            .map(|byte| if *byte == b'/' { 0 } else { *byte })
            .collect();
        if key.is_empty() {
            key.push(0);
        }
        hash.update(key);
        hash.update(digest_text(digest));
    }
    Ok(ContentDigest::from_bytes(hash.finalize().into()))
}

pub(super) fn list(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    most: usize,
    cancel: &Cancel,
) -> Result<Option<Vec<ListedPart>>, ChecksumError> {
    let (selected, _) = select(view, path, options, cancel)?;
    if selected.len() > most {
        return Ok(None);
    }
    let digests = digests(view, &selected, cancel)?;
    let parts = selected.into_iter().zip(digests);
    let parts = parts.map(|(item, digest)| ListedPart {
        path: item.path,
        whole: false,
        digest,
    });
    Ok(Some(parts.collect()))
}

pub(super) fn compare<'a>(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    old: impl Iterator<Item = (&'a [u8], bool, &'a dyn Fn(ContentDigest) -> bool)>,
    cancel: &Cancel,
    mut tell: impl FnMut(&[u8], Difference),
) -> Result<(), ChecksumError> {
    let (selected, _) = select(view, path, options, cancel)?;
    let digests = digests(view, &selected, cancel)?;
    let mut now: BTreeMap<&[u8], ContentDigest> = BTreeMap::new();
    now.extend(selected.iter().map(|item| &item.path[..]).zip(digests));
    for (path, _, was) in old {
        match now.remove(path) {
            None => tell(path, Difference::Removed),
            Some(digest) if !was(digest) => tell(path, Difference::Changed),
            Some(_) => {}
        }
    }
    for path in now.into_keys() {
        tell(path, Difference::Added);
    }
    Ok(())
}

/// The digest of each selected object: for a directory of its header, for a link at the top that
/// is to be followed of what it leads to.
fn digests(
    view: &View,
    selected: &[Selected],
    cancel: &Cancel,
) -> Result<Vec<ContentDigest>, ChecksumError> {
    let mut places: Vec<Located> = Vec::with_capacity(selected.len());
    for Selected {
        path,
        at,
        node,
        follow_links,
    } in selected
    {
        if !*follow_links || node.entry().kind != Kind::Symlink {
            places.push((at.clone(), node.clone()));
            continue;
        }
        let asked = || path.clone();
        let clean = TreePath::clean(path).map_err(|_| ChecksumError::NotFound { path: asked() })?;
        match follow(view, &clean, true)
            .map_err(|_| ChecksumError::TooManyLinks { path: asked() })?
        {
            (at, Place::Node(node)) => places.push((at, node.clone())),
            _ => return Err(ChecksumError::NotFound { path: asked() }),
        }
    }
    let header = |at: usize| {
        let node = &selected[at].node;
        node.entry().is_directory().then(|| directory_header(node))
    };
    let needed = places
        .iter()
        .enumerate()
        .filter(|(at, _)| header(*at).is_none());
    fill(needed.map(|(_, place)| place.clone()).collect(), cancel)?;
    places
        .iter()
        .enumerate()
        .map(|(at, (path, node))| header(at).map_or_else(|| known(node, path.as_bytes()), Ok))
        .collect()
}

/// The path as BuildKit writes it: with a leading `/`, and empty for the root.
fn written(path: &TreePath) -> Vec<u8> {
    if path.is_root() {
        Vec::new()
    } else {
        [b"/", path.as_bytes()].concat()
    }
}

/// The components before the first with a wildcard, and whether any follow; then a link at the
/// end of the prefix is followed.
fn literal_prefix(path: &TreePath) -> (TreePath, bool) {
    let mut prefix = TreePath::root();
    for part in path.components() {
        if has_wildcard(part) {
            return (prefix, true);
        }
        let Ok(next) = prefix.join(part) else { break };
        prefix = next;
    }
    (prefix, false)
}

fn has_wildcard(part: &[u8]) -> bool {
    let mut bytes = part.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// Go's `path.Base`.
fn base(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    match (path.is_empty(), end) {
        (true, _) => b".",
        (false, 0) => b"/",
        (false, end) => path[..end]
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or_default(),
    }
}

/// One object that counts.
struct Selected {
    /// With the beginning as the caller wrote it.
    path: Vec<u8>,
    /// Where it is.
    at: TreePath,
    node: Arc<Node>,
    follow_links: bool,
}

/// A directory whose header has been passed and which is still open.
struct Parent {
    /// Taken when it is selected.
    item: Option<Selected>,
    /// Directories between it and where the walk began.
    depth: usize,
    include: ParentMatches,
    exclude: ParentMatches,
}

struct Selector<'a> {
    options: &'a ChecksumOptions,
    include: Option<PatternMatcher>,
    exclude: Option<PatternMatcher>,
    /// The wildcard; a wildcard for the root matches everything.
    glob: Option<Glob>,
    /// The path or pattern, with a leading `/`; empty for the root.
    pattern: Vec<u8>,
    /// The path ended with `/`.
    content_only: bool,
    /// What matched the wildcard last. Everything below it matches too.
    matched: Option<Vec<u8>>,
    parents: Vec<Parent>,
    selected: Vec<Selected>,
}

impl<'a> Selector<'a> {
    fn new(
        clean: &TreePath,
        path: &[u8],
        options: &'a ChecksumOptions,
    ) -> Result<Self, ChecksumError> {
        let matcher = |patterns: &[String]| {
            let some = !patterns.is_empty();
            some.then(|| PatternMatcher::new(patterns))
                .transpose()
                .map_err(ChecksumError::Pattern)
        };
        Ok(Self {
            options,
            glob: None,
            pattern: written(clean),
            include: matcher(&options.include)?,
            exclude: matcher(&options.exclude)?,
            content_only: path.ends_with(b"/"),
            matched: None,
            parents: Vec::new(),
            selected: Vec::new(),
        })
    }

    /// Goes through `top` and all below it. `prefix` is its path as the caller wrote it, `at`
    /// where it is.
    fn walk(
        &mut self,
        prefix: &TreePath,
        at: &TreePath,
        top: &Arc<Node>,
        cancel: &Cancel,
    ) -> Result<(), ChecksumError> {
        // Only here: a malformed wildcard below a prefix that does not exist is no error.
        let wildcard = self.options.wildcard && !self.pattern.is_empty();
        self.glob = wildcard
            .then(|| Glob::new(&String::from_utf8_lossy(&self.pattern)))
            .transpose()
            .map_err(ChecksumError::Pattern)?;
        let mut path = written(prefix);
        let translation = Translation {
            prefix: path.len(),
            at: written(at),
        };
        self.visit(&path, 0, &translation, top)?;
        let mut stack = vec![(path.len(), top.children().iter())];
        let mut count = 0_usize;
        while let Some((length, children)) = stack.last_mut() {
            path.truncate(*length);
            let Some((name, child)) = children.next() else {
                stack.pop();
                continue;
            };
            count += 1;
            if count.is_multiple_of(BETWEEN_CHECKS) {
                cancel.check()?;
            }
            path.push(b'/');
            path.extend_from_slice(name);
            self.visit(&path, stack.len(), &translation, child)?;
            if !child.children().is_empty() {
                stack.push((path.len(), child.children().iter()));
            }
        }
        Ok(())
    }

    fn visit(
        &mut self,
        path: &[u8],
        depth: usize,
        translation: &Translation,
        node: &Arc<Node>,
    ) -> Result<(), ChecksumError> {
        while self
            .parents
            .last()
            .is_some_and(|parent| depth <= parent.depth)
        {
            self.parents.pop();
        }
        let directory = node.entry().is_directory();
        let Some(candidate) = self.candidate(path) else {
            return Ok(());
        };
        if directory && self.content_only && path == self.pattern {
            return Ok(());
        }
        let (included, include, exclude) = self.included(candidate)?;
        if !included && !directory {
            return Ok(());
        }
        let item = Selected {
            path: path.to_vec(),
            at: translation.locate(path),
            node: node.clone(),
            follow_links: self.parents.is_empty() && self.options.follow_links,
        };
        let mut item = Some(item);
        if included {
            self.selected.extend(
                self.parents
                    .iter_mut()
                    .filter_map(|parent| parent.item.take()),
            );
            self.selected.extend(item.take());
        }
        if directory {
            self.parents.push(Parent {
                item,
                depth,
                include,
                exclude,
            });
        }
        Ok(())
    }

    /// The path that the patterns of `.dockerignore` see; `None` if the wildcard does not match.
    fn candidate<'p>(&mut self, path: &'p [u8]) -> Option<&'p [u8]> {
        let Some(glob) = &self.glob else {
            return Some(relative(path, &self.pattern));
        };
        let below = |top: &Vec<u8>| {
            path.strip_prefix(&top[..])
                .is_some_and(|rest| rest.starts_with(b"/"))
        };
        if !self.matched.as_ref().is_some_and(below) {
            if !glob.matches(path) {
                return None;
            }
            self.matched = Some(path.to_vec());
        }
        Some(relative(path, self.matched.as_deref().unwrap_or_default()))
    }

    /// Whether the patterns of `.dockerignore` let it in, and what they say to those below it.
    fn included(
        &self,
        candidate: &[u8],
    ) -> Result<(bool, ParentMatches, ParentMatches), ChecksumError> {
        let unknown = ParentMatches::default();
        let (mut include, mut exclude) = (ParentMatches::default(), ParentMatches::default());
        if let Some(matcher) = &self.include {
            let before = self
                .parents
                .last()
                .map_or(&unknown, |parent| &parent.include);
            let matched;
            (matched, include) = matcher
                .matches_with_parent(candidate, before)
                .map_err(ChecksumError::Pattern)?;
            if !matched {
                return Ok((false, include, exclude));
            }
        }
        if let Some(matcher) = &self.exclude {
            let before = self
                .parents
                .last()
                .map_or(&unknown, |parent| &parent.exclude);
            let matched;
            (matched, exclude) = matcher
                .matches_with_parent(candidate, before)
                .map_err(ChecksumError::Pattern)?;
            if matched {
                return Ok((false, include, exclude));
            }
        }
        Ok((true, include, exclude))
    }
}

/// `path` without `top` and the separator after it.
fn relative<'p>(path: &'p [u8], top: &[u8]) -> &'p [u8] {
    let rest = path.strip_prefix(top).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// How written paths become places in the tree.
struct Translation {
    /// Bytes of a written path that stand for `at`.
    prefix: usize,
    /// Where the prefix leads, with a leading `/`.
    at: Vec<u8>,
}

impl Translation {
    fn locate(&self, path: &[u8]) -> TreePath {
        let rest = path.get(self.prefix..).unwrap_or_default();
        TreePath::clean(&[&self.at[..], rest].concat()).unwrap_or_default()
    }
}
