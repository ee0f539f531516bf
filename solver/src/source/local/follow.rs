//! Follow paths: include patterns that symbolic links are resolved in.
//!
//! As in BuildKit's client, a link on the way is included itself and the walk goes on where it
//! leads, inside the directory; a component may be a wildcard, and then each link it matches is
//! followed. Unlike there, a second path through a link that another one went through is followed
//! as well.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;

use ashlar_llb::patterns::Glob;
use rustix::fs::{Dir, readlinkat};

use crate::dir;
use crate::tree::TreePath;

/// Links that are followed before the rest is given up; real trees have a handful.
const MAX_LINKS: usize = 10_000;

/// How often one link is followed on the way of one path: what Linux allows for all of them.
const MAX_TIMES: usize = 40;

/// Adds what `paths` lead to, to the include patterns. An empty result means everything.
pub(super) fn follow(
    root: BorrowedFd<'_>,
    include: &[String],
    paths: &[String],
) -> io::Result<Vec<String>> {
    let mut resolved = BTreeSet::new();
    for path in paths {
        follow_one(root, path.as_bytes(), &mut resolved)?;
    }
    let Some(targets) = without_nested(resolved) else {
        return Ok(include.to_vec());
    };
    if targets.is_empty() {
        return Ok(include.to_vec());
    }
    let all = include.iter().cloned().chain(targets);
    Ok(without_nested(all).unwrap_or_default())
}

fn follow_one(
    root: BorrowedFd<'_>,
    path: &[u8],
    resolved: &mut BTreeSet<String>,
) -> io::Result<()> {
    let clean = |path: &[u8]| TreePath::clean(path).map_err(io::Error::other);
    let mut todo = vec![clean(path)?];
    let mut links = 0;
    let mut followed: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let mut here = TreePath::root();
        let mut parts = path.components().peekable();
        loop {
            let Some(part) = parts.next() else {
                // Only the root has no components.
                resolved.insert(".".to_owned());
                break;
            };
            here = here.join(part).map_err(io::Error::other)?;
            let targets = links_at(root, &here)?;
            let text = String::from_utf8_lossy(here.as_bytes()).into_owned();
            let last = parts.peek().is_none();
            if targets.is_empty() && !last {
                continue;
            }
            // Links that lead to each other make ever longer paths.
            let times = followed.entry(text.clone()).or_default();
            *times += 1;
            resolved.insert(text);
            if *times > MAX_TIMES {
                break;
            }
            links += targets.len();
            if links > MAX_LINKS {
                return Err(io::Error::other("too many symbolic links to follow"));
            }
            let rest: Vec<&[u8]> = parts.collect();
            for target in targets.into_iter().rev() {
                todo.push(clean(&[&target, &b"/"[..], &rest.join(&b'/')].concat())?);
            }
            break;
        }
    }
    Ok(())
}

/// Where the links at `path` lead, whose last component may be a wildcard.
fn links_at(root: BorrowedFd<'_>, path: &TreePath) -> io::Result<Vec<Vec<u8>>> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Ok(Vec::new());
    };
    let directory = match dir::open_directory(root, parent.as_bytes()) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        // A wildcard on the way, or nothing there.
        Err(_) => return Ok(Vec::new()),
    };
    let absolute = |target: Vec<u8>| {
        if target.starts_with(b"/") {
            target
        } else {
            [parent.as_bytes(), b"/", &target].concat()
        }
    };
    let link = |name: &[u8]| {
        let target = readlinkat(&directory, dir::name(name), Vec::new()).ok()?;
        Some(absolute(target.into_bytes()))
    };
    if !has_wildcard(name) {
        return Ok(link(name).into_iter().collect());
    }
    let text = String::from_utf8_lossy(name);
    // A malformed pattern matches nothing.
    let Ok(glob) = Glob::new(&text) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") && glob.matches(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.iter().filter_map(|name| link(name)).collect())
}

fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Drops paths below the one before them. `None` if one is the root: then nothing is filtered.
fn without_nested(paths: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let mut kept: Vec<String> = Vec::new();
    for path in paths {
        if path == "." {
            return None;
        }
        let last = kept.last().map_or("", |last| last);
        if !path
            .strip_prefix(last)
            .is_some_and(|rest| rest.starts_with('/'))
        {
            kept.push(path);
        }
    }
    Some(kept)
}
