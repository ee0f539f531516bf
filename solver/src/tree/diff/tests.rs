use std::fs::File;
use std::io::{self, Seek as _, Write as _};

use proptest::prelude::*;

use super::*;
use crate::tree::index::tests::{NoFiles, index, listing};
use crate::tree::{Attributes, Timestamp};

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

/// Directories in which nothing else changed keep their time.
fn without_directory_times(view: &View) -> Vec<(TreePath, Entry)> {
    let mut listing = listing(view);
    for (_, entry) in &mut listing {
        // Groups get other numbers; a directory is opaque in its layer, not in itself.
        entry.link_group = 0;
        entry.opaque = false;
        if entry.is_directory() {
            entry.attributes.mtime = Timestamp::default();
        }
    }
    listing
}

proptest! {
    #[test]
    fn stacking_the_difference_gives_the_upper_tree(a in index(), b in index(), c in index()) {
        let files: Arc<dyn Files> = Arc::new(NoFiles);
        let lower = b.onto(&a.onto(&View::empty(), files.clone()), files.clone());
        let upper = c.onto(&a.onto(&View::empty(), files.clone()), files.clone());
        let index = diff(&lower, &upper, &Cancel::new()).unwrap();
        let made = index.onto(&lower, files);
        prop_assert_eq!(without_directory_times(&made), without_directory_times(&upper));
        for (path, entry) in index.entries() {
            let below = lower.lookup(path);
            prop_assert!(entry.kind != Kind::Whiteout || below.is_some());
            let file = below.is_some_and(|below| !below.entry().is_directory());
            prop_assert!(!entry.opaque || file);
        }
        // The diff of equal trees is empty, whether they share anything or not.
        prop_assert!(diff(&upper, &upper.clone(), &Cancel::new()).unwrap().is_empty());
    }
}

/// One file with one content everywhere.
#[derive(Debug)]
struct Same(&'static [u8]);

impl Files for Same {
    fn open(&self, _: &TreePath) -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(self.0)?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

fn file(content: &'static [u8], nanoseconds: u32, link_group: u32) -> Arc<Node> {
    let mtime = Timestamp {
        seconds: 5,
        nanoseconds,
    };
    let mut entry = Entry::new(
        Kind::File,
        Attributes {
            mtime,
            ..Attributes::default()
        },
    );
    (entry.size, entry.link_group) = (content.len() as u64, link_group);
    Node::leaf(entry, Some(Arc::new(Same(content))))
}

#[test]
fn bytes_are_compared_only_where_times_were_cut() {
    for (nanoseconds, expected) in [(0, 2), (7, 0)] {
        let lower = View::empty().with(&path("f"), file(b"one", nanoseconds, 0));
        let equal = View::empty().with(&path("f"), file(b"one", nanoseconds, 0));
        let other = View::empty().with(&path("f"), file(b"two", nanoseconds, 0));
        assert!(diff(&lower, &equal, &Cancel::new()).unwrap().is_empty());
        // The root and the file.
        let entries = diff(&lower, &other, &Cancel::new()).unwrap().into_entries();
        assert_eq!(entries.len(), expected);
    }
}

#[test]
fn link_groups_are_those_of_one_layer() {
    let one = file(b"x", 1, 9);
    let upper = View::empty()
        .with(&path("a"), one.clone())
        .with(&path("b"), one)
        .with(&path("c"), file(b"x", 1, 9));
    let index = diff(&View::empty(), &upper, &Cancel::new()).unwrap();
    let group = |name| index.lookup(&path(name)).unwrap().link_group;
    assert_eq!((group("a"), group("b"), group("c")), (1, 1, 0));
}

#[test]
fn unchanged_directories_on_the_way_are_entries() {
    let directory = || {
        Node::directory(
            Entry::new(Kind::Directory, Attributes::default()),
            None,
            vec![],
        )
    };
    let lower = View::empty()
        .with(&path("d"), directory())
        .with(&path("d/e"), directory());
    let upper = lower.with(&path("d/e/f"), file(b"x", 1, 0));
    let paths = |a, b| -> Vec<String> {
        let index = diff(a, b, &Cancel::new()).unwrap();
        index
            .entries()
            .iter()
            .map(|(path, _)| path.to_string())
            .collect()
    };
    assert_eq!(paths(&lower, &upper), ["/", "/d", "/d/e", "/d/e/f"]);
    assert_eq!(paths(&upper, &lower), ["/", "/d", "/d/e", "/d/e/f"]);
    assert_eq!(paths(&lower, &View::empty()), ["/", "/d"]);
}
