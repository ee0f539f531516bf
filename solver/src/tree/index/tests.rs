use proptest::prelude::*;

use super::*;
use crate::tree::entry::Device;
use crate::tree::{Attributes, Node, Timestamp, Xattrs};

#[derive(Debug)]
pub(in crate::tree) struct NoFiles;

impl Files for NoFiles {
    fn open(&self, _: &TreePath) -> std::io::Result<std::fs::File> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn immutable(&self) -> bool {
        true
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn directory() -> Entry {
    Entry::new(
        Kind::Directory,
        Attributes {
            mode: 0o755,
            ..Attributes::default()
        },
    )
}

fn file(size: u64) -> Entry {
    Entry {
        size,
        ..Entry::new(
            Kind::File,
            Attributes {
                mode: 0o644,
                ..Attributes::default()
            },
        )
    }
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..12).prop_map(Vec::into_boxed_slice);
    let pairs = prop::collection::vec((bytes(), bytes()), 0..3);
    (
        0..=0o7777_u32,
        any::<u32>(),
        any::<u32>(),
        any::<i64>(),
        0..1_000_000_000_u32,
        pairs,
    )
        .prop_map(|(mode, uid, gid, seconds, nanoseconds, pairs)| Attributes {
            mode,
            uid,
            gid,
            mtime: Timestamp {
                seconds,
                nanoseconds,
            },
            xattrs: Xattrs::new(pairs),
        })
}

fn entry() -> impl Strategy<Value = Entry> {
    let numbers = (
        any::<u64>(),
        any::<u64>(),
        any::<u32>(),
        1..u32::MAX,
        any::<u32>(),
    );
    (
        0..7_usize,
        attributes(),
        numbers,
        any::<Option<[u8; 32]>>(),
        any::<bool>(),
    )
        .prop_map(
            |(kind, attributes, (size, allocated, link_group, major, minor), digest, opaque)| {
                let kind = [
                    Kind::Directory,
                    Kind::File,
                    Kind::Symlink,
                    Kind::CharDevice,
                    Kind::BlockDevice,
                    Kind::Fifo,
                    Kind::Whiteout,
                ][kind];
                if kind == Kind::Whiteout {
                    return Entry::whiteout();
                }
                let mut entry = Entry::new(kind, attributes);
                match kind {
                    Kind::Directory => entry.opaque = opaque,
                    Kind::File => (entry.size, entry.allocated) = (size, allocated),
                    Kind::Symlink => entry.target = b"../x".as_slice().into(),
                    Kind::CharDevice | Kind::BlockDevice => entry.device = Device { major, minor },
                    Kind::Fifo | Kind::Whiteout => {}
                }
                if kind != Kind::Directory {
                    entry.link_group = link_group;
                    entry.digest = digest.map(ContentDigest::from_bytes);
                }
                entry
            },
        )
}

/// Entries that may contradict each other in their places; what does is left out.
pub(in crate::tree) fn index() -> impl Strategy<Value = Index> {
    prop::collection::btree_map("[a-c-]{1,2}(/[a-c]{1,2}){0,3}", entry(), 0..30).prop_map(|map| {
        let mut entries: Vec<_> = map.into_iter().map(|(name, e)| (path(&name), e)).collect();
        entries.sort_by(|a, b| walk_order(&a.0, &b.0));
        let mut kept: Vec<(TreePath, Entry)> = Vec::new();
        for (path, entry) in entries {
            let closed = kept
                .iter()
                .any(|(p, e)| path.starts_with(p) && !e.is_directory());
            if !closed {
                kept.push((path, entry));
            }
        }
        Index::new(kept).unwrap()
    })
}

proptest! {
    #[test]
    fn reads_what_it_writes(index in index()) {
        let bytes = index.encode();
        prop_assert_eq!(&Index::decode(&bytes).unwrap(), &index);
        for (path, entry) in index.entries() {
            prop_assert_eq!(index.lookup(path), Some(entry));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(body in prop::collection::vec(any::<u8>(), 0..200)) {
        // With a right checksum, so that the entries themselves are reached.
        if let Ok(index) = Index::decode(&seal(&body)) {
            let again = Index::decode(&index.encode()).unwrap();
            prop_assert_eq!(again, index);
        }
        prop_assert!(Index::decode(&body).is_err());
    }

    #[test]
    fn a_changed_byte_is_noticed(index in index(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = index.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(Index::decode(&bytes).is_err());
    }

    /// Stacking one by one with the edits of a view gives the same tree.
    #[test]
    fn onto_is_what_single_edits_give(lower in index(), upper in index()) {
        let files: Arc<dyn Files> = Arc::new(NoFiles);
        let base = edit(&View::empty(), &lower, &files);
        prop_assert_eq!(listing(&lower.onto(&View::empty(), files.clone())), listing(&base));
        let expected = listing(&edit(&base, &upper, &files));
        prop_assert_eq!(listing(&upper.onto(&base, files)), expected);
    }
}

fn seal(body: &[u8]) -> Vec<u8> {
    let checksum = ContentDigest::of(body);
    [b"ashlari\x01", &checksum.as_bytes()[..], body].concat()
}

pub(in crate::tree) fn listing(view: &View) -> Vec<(TreePath, Entry)> {
    let root = (TreePath::root(), view.root().entry().clone());
    let walk = view.walk().map(|(path, node)| (path, node.entry().clone()));
    std::iter::once(root).chain(walk).collect()
}

fn edit(base: &View, index: &Index, files: &Arc<dyn Files>) -> View {
    let mut view = base.clone();
    for (path, entry) in index.entries() {
        let mut parents: Vec<_> = std::iter::successors(path.parent(), TreePath::parent).collect();
        while let Some(parent) = parents.pop() {
            if view
                .lookup(&parent)
                .is_none_or(|node| !node.entry().is_directory())
            {
                // What an implied parent replaces goes away even if nothing comes of it.
                view = view.with_entry(&parent, directory(), None);
            }
        }
        let old = view
            .lookup(path)
            .is_some_and(|node| node.entry().is_directory());
        view = match entry.kind {
            Kind::Whiteout => view.without(path),
            Kind::Directory if old && !entry.opaque => {
                view.with_entry(path, entry.clone(), Some(files.clone()))
            }
            Kind::Directory => view.with(path, Node::directory(entry.clone(), None, Vec::new())),
            _ => view.with(path, Node::leaf(entry.clone(), Some(files.clone()))),
        };
    }
    view
}

#[test]
fn refuses_what_is_not_a_layer() {
    let new = |entries: &[(&str, Entry)]| {
        Index::new(
            entries
                .iter()
                .map(|(name, entry)| (path(name), entry.clone()))
                .collect(),
        )
    };
    assert!(
        new(&[
            ("", directory()),
            ("a", directory()),
            ("a/b", file(1)),
            ("a-b", file(2))
        ])
        .is_ok()
    );
    assert!(matches!(
        new(&[("b", file(0)), ("a", file(0))]),
        Err(IndexError::Order { .. })
    ));
    assert!(matches!(
        new(&[("a", file(0)), ("a", file(0))]),
        Err(IndexError::Order { .. })
    ));
    assert!(matches!(
        new(&[("a", file(0)), ("a/b", file(0))]),
        Err(IndexError::Below { .. })
    ));
    let whiteout = Entry::whiteout();
    assert!(matches!(
        new(&[("a", whiteout), ("a/b/c", file(0))]),
        Err(IndexError::Below { .. })
    ));
    assert!(matches!(
        new(&[("", file(0))]),
        Err(IndexError::Entry { .. })
    ));
    let zero = Entry::new(Kind::CharDevice, Attributes::default());
    assert!(matches!(new(&[("a", zero)]), Err(IndexError::Entry { .. })));
    let mut marked = directory();
    marked.attributes.xattrs =
        Xattrs::new([(b"trusted.overlay.redirect"[..].into(), b"/"[..].into())]);
    assert!(matches!(
        new(&[("a", marked)]),
        Err(IndexError::Entry { .. })
    ));
    let long = Index::new(vec![(TreePath::new(vec![b'a'; 5000]).unwrap(), file(0))]);
    assert!(matches!(long, Err(IndexError::PathTooLong { .. })));
}

#[test]
fn hostile_bytes_take_no_memory() {
    // A count and a length of almost 2^64.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert!(matches!(
        Index::decode(&seal(&huge)),
        Err(IndexError::Malformed { .. })
    ));
    let path = [&[1, 0][..], &huge].concat();
    assert!(matches!(
        Index::decode(&seal(&path)),
        Err(IndexError::Malformed { .. })
    ));
    // A path that leaves its tree.
    let up = [1, 0, 4, b'.', b'.', b'/', b'x', 1, 0, 0];
    assert!(matches!(
        Index::decode(&seal(&up)),
        Err(IndexError::Malformed { .. })
    ));
    assert_eq!(Index::decode(b""), Err(IndexError::NotAnIndex));
    assert_eq!(Index::decode(&[b'x'; 100]), Err(IndexError::NotAnIndex));
    let mut newer = Index::default().encode();
    newer[7] = 2;
    assert_eq!(
        Index::decode(&newer),
        Err(IndexError::Version { version: 2 })
    );
}

#[test]
fn deep_trees_need_no_deep_stack() {
    let deep = path(&["d"; 2000].join("/"));
    let index = Index::new(vec![(deep.clone(), file(1))]).unwrap();
    let view = index.onto(&View::empty(), Arc::new(NoFiles));
    assert_eq!(view.walk().count(), 2000);
    let gone = Index::new(vec![(path("d/d"), Entry::whiteout())]).unwrap();
    assert_eq!(gone.onto(&view, Arc::new(NoFiles)).walk().count(), 1);
}

#[test]
fn opaque_directories_hide_and_others_merge() {
    let files: Arc<dyn Files> = Arc::new(NoFiles);
    let lower = Index::new(vec![(path("a"), directory()), (path("a/x"), file(1))]).unwrap();
    let base = lower.onto(&View::empty(), files.clone());
    let merged = Index::new(vec![(path("a"), directory()), (path("a/y"), file(2))]).unwrap();
    assert_eq!(merged.onto(&base, files.clone()).walk().count(), 3);
    let opaque = Entry {
        opaque: true,
        ..directory()
    };
    let hiding = Index::new(vec![(path("a"), opaque), (path("a/y"), file(2))]).unwrap();
    let view = hiding.onto(&base, files.clone());
    assert_eq!(view.walk().count(), 2);
    let other = Index::new(vec![(path("b"), directory())]).unwrap();
    let shared = other.onto(&base, files);
    assert!(Arc::ptr_eq(
        shared.lookup(&path("a")).unwrap(),
        base.lookup(&path("a")).unwrap()
    ));
}

#[test]
fn sorts_and_counts() {
    let linked = |size| Entry {
        link_group: 1,
        allocated: size,
        ..file(size)
    };
    let index = Index::sorted(vec![
        (path("b"), linked(8)),
        (path("a-b"), file(1)),
        (path("a"), directory()),
        (path("a/z"), linked(8)),
        (
            path("a-b"),
            Entry {
                allocated: 4,
                ..file(2)
            },
        ),
    ])
    .unwrap();
    assert_eq!(index.entries().len(), 4);
    assert_eq!(index.lookup(&path("a-b")).unwrap().size, 2);
    assert_eq!(index.allocated(), 12);
}
