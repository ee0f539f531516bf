//! Metadata only: what a source is when its files are wanted in name alone.
//!
//! The tree has the excepted files and a file `.fsutil-metadata` that lists everything. Each record
//! of it is a length (u32, little-endian) and a message `fsutil.types.Stat`, as BuildKit's client
//! sends it; in the order of a walk.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::Arc;

use ashlar_llb::patterns::{BadPattern, PatternMatcher};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};

/// Where the list is; a file of the directory with this name is left out.
const LIST: &[u8] = b".fsutil-metadata";

/// What is in a directory, by name.
type Children = Vec<(Arc<[u8]>, Arc<Node>)>;

/// The list, whose bytes are in memory alone.
#[derive(Debug)]
struct List(Vec<u8>);

impl Files for List {
    fn open(&self, _: &TreePath) -> io::Result<File> {
        let mut file = File::from(memfd_create("ashlar-metadata", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.0)?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// What is left of `view` if only what matches `exceptions` is there with its bytes.
pub(super) fn only(view: &View, exceptions: &[String]) -> Result<View, BadPattern> {
    let matcher = PatternMatcher::new(exceptions)?;
    let mut list = Vec::new();
    let mut first_names = HashMap::new();
    let mut all = Vec::new();
    for (path, node) in view.walk() {
        if path.as_bytes() == LIST {
            continue;
        }
        let message = stat(&path, node.entry(), &mut first_names);
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        list.extend_from_slice(&length.to_le_bytes());
        list.extend_from_slice(&message);
        let keep = !matcher.is_empty() && matcher.matches_or_parent_matches(path.as_bytes())?;
        all.push((path, node, keep));
    }
    // From the end: what is in a directory before the directory.
    let mut inside: HashMap<TreePath, Children> = HashMap::new();
    for (path, node, keep) in all.into_iter().rev() {
        let mut children = inside.remove(&path).unwrap_or_default();
        children.reverse();
        if !keep && children.is_empty() {
            continue;
        }
        let node = if node.entry().is_directory() {
            Node::directory(node.entry().clone(), node.files().cloned(), children)
        } else {
            node.clone()
        };
        if let (Some(parent), Some(name)) = (path.parent(), path.name()) {
            inside.entry(parent).or_default().push((name.into(), node));
        }
    }
    let mut children = inside.remove(&TreePath::root()).unwrap_or_default();
    let attributes = Attributes {
        mode: 0o644,
        ..Attributes::default()
    };
    let entry = Entry {
        size: list.len() as u64,
        ..Entry::new(Kind::File, attributes)
    };
    children.push((LIST.into(), Node::leaf(entry, Some(Arc::new(List(list))))));
    let root = view.root();
    let files = root.files().cloned();
    Ok(View::new(Node::directory(
        root.entry().clone(),
        files,
        children,
    )))
}

/// The message of one object. `first_names`: the first name of each group of hard links.
fn stat(path: &TreePath, entry: &Entry, first_names: &mut HashMap<u32, TreePath>) -> Vec<u8> {
    let mut size = entry.size;
    let mut link = entry.target.to_vec();
    if entry.kind == Kind::Symlink {
        size = link.len() as u64;
    } else if entry.link_group != 0 {
        let first = first_names
            .entry(entry.link_group)
            .or_insert_with(|| path.clone());
        if first != path {
            link = first.as_bytes().to_vec();
        }
    }
    let time = entry.attributes.mtime;
    let nanoseconds = time.seconds.saturating_mul(1_000_000_000);
    let nanoseconds = nanoseconds.saturating_add(time.nanoseconds.into());
    let mut out = Vec::new();
    bytes(&mut out, 1, path.as_bytes());
    number(&mut out, 2, go_mode(entry).into());
    number(&mut out, 3, entry.attributes.uid.into());
    number(&mut out, 4, entry.attributes.gid.into());
    number(&mut out, 5, size);
    number(&mut out, 6, nanoseconds.cast_unsigned());
    bytes(&mut out, 7, &link);
    number(&mut out, 8, entry.device.major.into());
    number(&mut out, 9, entry.device.minor.into());
    for (name, value) in entry.attributes.xattrs.iter() {
        let mut pair = Vec::new();
        bytes(&mut pair, 1, name);
        bytes(&mut pair, 2, value);
        bytes(&mut out, 10, &pair);
    }
    out
}

/// Kind and permissions as Go's `os.FileMode` has them.
fn go_mode(entry: &Entry) -> u32 {
    let kind = match entry.kind {
        Kind::Directory => 1 << 31,
        Kind::Symlink => 1 << 27,
        Kind::BlockDevice => 1 << 26,
        Kind::CharDevice => 1 << 26 | 1 << 21,
        Kind::Fifo => 1 << 25,
        Kind::File | Kind::Whiteout => 0,
    };
    let mode = entry.attributes.mode;
    let special = [(0o4000, 23), (0o2000, 22), (0o1000, 20)];
    let special = special.map(|(bit, to)| u32::from(mode & bit != 0) << to);
    kind | special.iter().sum::<u32>() | mode & 0o777
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// A field with a number; left out if it is 0.
fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        varint(out, field << 3);
        varint(out, value);
    }
}

/// A field with bytes; left out if there are none.
fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    if !value.is_empty() {
        varint(out, field << 3 | 2);
        varint(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}
