use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::tree::{Attributes, Entry, Files, Index, Kind};

/// Files in memory that count how often they are opened.
#[derive(Debug, Default)]
struct Memory {
    bytes: HashMap<TreePath, Vec<u8>>,
    opened: AtomicUsize,
    computed: Mutex<Vec<TreePath>>,
}

impl Files for Memory {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let bytes = self.bytes.get(path).ok_or(io::ErrorKind::NotFound)?;
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }

    fn computed(&self, path: &TreePath, _: &Entry, _: ContentDigest) {
        self.computed.lock().unwrap().push(path.clone());
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn tree(names: &[&str]) -> (View, Arc<Memory>) {
    let mut memory = Memory::default();
    let mut entries = Vec::new();
    for name in names {
        if let Some(name) = name.strip_suffix('/') {
            entries.push((
                path(name),
                Entry::new(Kind::Directory, Attributes::default()),
            ));
        } else {
            let mut entry = Entry::new(Kind::File, Attributes::default());
            entry.size = name.len() as u64;
            memory.bytes.insert(path(name), name.as_bytes().to_vec());
            entries.push((path(name), entry));
        }
    }
    let memory = Arc::new(memory);
    (
        Index::sorted(entries)
            .unwrap()
            .onto(&View::empty(), memory.clone()),
        memory,
    )
}

fn all(view: &View) -> Result<ContentDigest, ChecksumError> {
    checksum(view, b"/", &ChecksumOptions::default(), &Cancel::new())
}

#[test]
fn files_are_read_once_and_unchanged_parts_never_again() {
    let names: Vec<String> = (0..100).map(|n| format!("a/{n}")).collect();
    let mut all_names: Vec<&str> = names.iter().map(String::as_str).collect();
    all_names.extend(["a/", "b/", "b/x"]);
    let (view, memory) = tree(&all_names);
    let first = all(&view).unwrap();
    assert_eq!(memory.opened.load(Ordering::Relaxed), 101);
    assert_eq!(memory.computed.lock().unwrap().len(), 101);
    assert_eq!(all(&view).unwrap(), first);
    let edited = view.without(&path("b/x"));
    assert_ne!(all(&edited).unwrap(), first);
    assert_eq!(memory.opened.load(Ordering::Relaxed), 101);
    let filtered = ChecksumOptions {
        include: vec!["a".to_owned()].into(),
        ..Default::default()
    };
    checksum(&view, b"/", &filtered, &Cancel::new()).unwrap();
    assert_eq!(memory.opened.load(Ordering::Relaxed), 101);
}

#[test]
fn only_what_is_selected_is_read() {
    let (view, memory) = tree(&["a", "b", "c/", "c/d"]);
    let options = ChecksumOptions {
        exclude: vec!["c".to_owned()].into(),
        ..Default::default()
    };
    checksum(&view, b"/", &options, &Cancel::new()).unwrap();
    assert_eq!(memory.opened.load(Ordering::Relaxed), 2);
}

#[test]
fn a_file_of_another_size_is_an_error() {
    let (view, _) = tree(&["a"]);
    let mut entry = view.lookup(&path("a")).unwrap().entry().clone();
    for size in [0, 2] {
        entry.size = size;
        let files = view.lookup(&path("a")).unwrap().files().cloned();
        let changed = view.with(&path("a"), Node::leaf(entry.clone(), files));
        // An empty file is not opened at all.
        assert_eq!(all(&changed).is_ok(), size == 0);
    }
    let missing = view.with(&path("b"), Node::leaf(entry, None));
    assert!(matches!(all(&missing), Err(ChecksumError::Read { .. })));
}

#[test]
fn cancellation_is_heard() {
    let (view, _) = tree(&["a"]);
    let cancel = Cancel::new();
    cancel.cancel();
    let options = ChecksumOptions::default();
    assert!(matches!(
        checksum(&view, b"/", &options, &cancel),
        Err(ChecksumError::Cancelled(_))
    ));
}

#[test]
fn deep_trees_need_no_deep_stack() {
    let deep = ["d"; 2000].join("/");
    let (view, _) = tree(&[&deep]);
    all(&view).unwrap();
    let options = ChecksumOptions {
        include: vec!["d/**".to_owned()].into(),
        ..Default::default()
    };
    checksum(&view, b"/", &options, &Cancel::new()).unwrap();
    checksum(
        &view,
        deep.as_bytes(),
        &ChecksumOptions::default(),
        &Cancel::new(),
    )
    .unwrap();
}

#[test]
fn the_header_of_a_local_root_is_that_of_nothing() {
    let (view, _) = tree(&["a"]);
    let mut root = view.root().entry().clone();
    root.digest = Some(ContentDigest::of(b""));
    let local = view.with_entry(&TreePath::root(), root, None);
    assert_ne!(all(&local).unwrap(), all(&view).unwrap());
    let options = ChecksumOptions {
        include: vec!["a".to_owned()].into(),
        ..Default::default()
    };
    let content = |view: &View| checksum(view, b"/", &options, &Cancel::new()).unwrap();
    assert_eq!(content(&local), content(&view));
    let with_root = |view: &View| checksum(view, b"", &options, &Cancel::new()).unwrap();
    assert_ne!(with_root(&local), with_root(&view));
}

#[test]
fn bad_patterns_are_errors() {
    let (view, _) = tree(&["a"]);
    let ask = |path: &[u8], options| checksum(&view, path, &options, &Cancel::new());
    let include = || ChecksumOptions {
        include: vec!["[".to_owned()].into(),
        ..Default::default()
    };
    let exclude = || ChecksumOptions {
        exclude: vec!["[".to_owned()].into(),
        ..Default::default()
    };
    let wildcard = || ChecksumOptions {
        wildcard: true,
        ..Default::default()
    };
    assert!(matches!(
        ask(b"/a", include()),
        Err(ChecksumError::Pattern(_))
    ));
    assert!(matches!(
        ask(b"/missing", exclude()),
        Err(ChecksumError::Pattern(_))
    ));
    assert!(matches!(
        ask(b"/[", wildcard()),
        Err(ChecksumError::Pattern(_))
    ));
    assert_eq!(
        ask(b"/missing/[", wildcard()).unwrap(),
        ContentDigest::of(b"")
    );
}

proptest::proptest! {
    /// A list tells a difference exactly if the checksums differ, however short it is.
    #[test]
    fn lists_differ_as_checksums_do(
        old in proptest::collection::btree_map("[ab]/[abc]/[ab]|[abc]", 0_u32..3, 0..8),
        new in proptest::collection::btree_map("[ab]/[abc]/[ab]|[abc]", 0_u32..3, 0..8),
        most in 1_usize..12,
        filtered in proptest::bool::ANY,
    ) {
        // Names of one file and of a directory would be in each other's way.
        let view = |files: &std::collections::BTreeMap<String, u32>| {
            let mut view = View::empty();
            for (name, mode) in files {
                let name = if name.contains('/') { name.clone() } else { format!("top-{name}") };
                let mut parents: Vec<TreePath> = Vec::new();
                let mut at = path(&name);
                while let Some(parent) = at.parent().filter(|parent| !parent.is_root()) {
                    parents.push(parent.clone());
                    at = parent;
                }
                for parent in parents.into_iter().rev() {
                    if view.lookup(&parent).is_none() {
                        let entry = Entry::new(Kind::Directory, Attributes::default());
                        view = view.with(&parent, Node::directory(entry, None, Vec::new()));
                    }
                }
                let attributes = Attributes { mode: *mode, ..Attributes::default() };
                view = view.with(&path(&name), Node::leaf(Entry::new(Kind::File, attributes), None));
            }
            view
        };
        let options = ChecksumOptions {
            include: if filtered { ["a".to_owned(), "top-*".to_owned()].into() } else { Arc::default() },
            ..ChecksumOptions::default()
        };
        let cancel = Cancel::new();
        let (old, new) = (view(&old), view(&new));
        let sum = |view: &View| checksum(view, b"/", &options, &cancel).unwrap();
        let Some(listed) = list(&old, b"/", &options, most, &cancel).unwrap() else {
            return Ok(());
        };
        proptest::prop_assert!(listed.len() <= most);
        let tests: Vec<_> = listed
            .iter()
            .map(|part| (part, move |digest: ContentDigest| digest == part.digest))
            .collect();
        let parts = tests.iter().map(|(part, was)| {
            let was: &dyn Fn(ContentDigest) -> bool = was;
            (&part.path[..], part.whole, was)
        });
        let mut told = Vec::new();
        let tell = |path: &[u8], difference| told.push((path.to_vec(), difference));
        compare(&new, b"/", &options, parts, &cancel, tell).unwrap();
        proptest::prop_assert_eq!(told.is_empty(), sum(&old) == sum(&new), "{:?}", told);
    }
}
