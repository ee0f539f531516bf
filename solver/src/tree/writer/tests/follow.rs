//! Copies that follow what an earlier one made.

use std::os::unix::fs::symlink;

use super::*;
use crate::id::ContentDigest;
use crate::tree::writer::{Origins, Previous};

/// Files of a directory that may change.
#[derive(Debug)]
struct Mutable(OwnedFd);

impl Files for Mutable {
    fn open(&self, path: &TreePath) -> io::Result<fs::File> {
        crate::dir::open_file(&self.0, path.as_bytes())
    }

    fn immutable(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Layer {
    index: Index,
    origins: Origins,
    files: Arc<dyn Files>,
}

impl Previous for Layer {
    fn file(&self, path: &TreePath) -> Option<(&Entry, ContentDigest)> {
        self.origins.file(&self.index, path)
    }

    fn directory(&self, path: &TreePath) -> io::Result<OwnedFd> {
        Ok(self.files.directory(path)?.unwrap())
    }
}

/// What a scan would know of a file of the source.
fn scanned(source: &std::path::Path, name: &str, known: bool) -> Arc<Node> {
    let bytes = fs::read(source.join(name)).unwrap();
    let mut entry = Entry::new(Kind::File, attributes(0o644));
    entry.size = bytes.len() as u64;
    entry.digest = known.then(|| file_digest(&entry, Some(&mut &bytes[..])).unwrap());
    Node::leaf(entry, Some(Arc::new(Mutable(open(source)))))
}

fn item(node: &Arc<Node>, name: &str, attributes: &Attributes) -> CopyItem {
    CopyItem {
        source: node.clone(),
        source_path: path(name),
        destination: path(name),
        attributes: attributes.clone(),
        link_group: None,
    }
}

/// Copies all files of `source` into a layer in `to`.
fn copied(
    source: &std::path::Path,
    to: &std::path::Path,
    wanted: &Attributes,
    previous: Option<Arc<dyn Previous>>,
) -> (Layer, Index) {
    fs::create_dir(to).unwrap();
    let (mut writer, files) = writer(to, &View::empty());
    writer.follow(previous);
    let mut names: Vec<_> = fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let items = names.iter().map(|name| {
        let known = name != "unknown";
        item(&scanned(source, name, known), name, wanted)
    });
    writer.copy(items.collect(), &Cancel::new()).unwrap();
    let (index, origins) = writer.finish_with_origins().unwrap();
    let origins = Origins::decode(&origins.encode()).unwrap();
    let layer = Layer {
        index: index.clone(),
        origins,
        files,
    };
    (layer, index)
}

#[test]
fn only_what_is_known_to_be_the_same_is_linked() {
    for wanted in [attributes(0o644), attributes(0o4755)] {
        let temp = tempfile::tempdir().unwrap();
        let (source, at) = (temp.path().join("source"), |name: &str| {
            temp.path().join(name)
        });
        fs::create_dir(&source).unwrap();
        for name in ["same", "bytes", "length", "unknown", "kind", "gone"] {
            fs::write(source.join(name), format!("the {name}")).unwrap();
        }
        fs::write(source.join("empty"), "").unwrap();
        let (first, _) = copied(&source, &at("first"), &wanted, None);
        let before = fs::metadata(at("first/fs/same")).unwrap();
        fs::write(source.join("bytes"), "THE bytes").unwrap();
        fs::write(source.join("length"), "longer than before").unwrap();
        fs::write(source.join("new"), "the new").unwrap();
        // What is in the store counts, not what its name says.
        fs::remove_file(at("first/fs/kind")).unwrap();
        symlink("same", at("first/fs/kind")).unwrap();
        fs::remove_file(at("first/fs/gone")).unwrap();

        let (_, index) = copied(&source, &at("second"), &wanted, Some(Arc::new(first)));
        let same = |name: &str| {
            let of = |layer: &str| {
                fs::symlink_metadata(at(layer).join("fs").join(name)).map(|data| data.ino())
            };
            of("first").ok() == of("second").ok()
        };
        let linked: Vec<_> = ["same", "empty", "bytes", "length", "unknown", "new", "gone"]
            .into_iter()
            .filter(|name| same(name))
            .collect();
        assert_eq!(linked, ["same", "empty"]);
        for (name, entry) in index.entries().iter().skip(1) {
            let name = name.to_string();
            let name = name.trim_start_matches('/');
            let bytes = fs::read(source.join(name)).unwrap();
            if name != "kind" {
                assert_eq!(fs::read(at("second/fs").join(name)).unwrap(), bytes);
            }
            let digest = file_digest(entry, Some(&mut &bytes[..])).unwrap();
            assert_eq!(entry.digest, Some(digest), "{name}");
            assert_eq!(entry.attributes, wanted);
        }
        let after = fs::metadata(at("first/fs/same")).unwrap();
        assert_eq!(
            (after.mode(), after.mtime_nsec(), after.len(), after.nlink()),
            (before.mode(), before.mtime_nsec(), before.len(), 2)
        );
    }
}

#[test]
fn other_attributes_are_not_linked() {
    let temp = tempfile::tempdir().unwrap();
    let (source, at) = (temp.path().join("source"), |name: &str| {
        temp.path().join(name)
    });
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "bytes").unwrap();
    let (first, _) = copied(&source, &at("first"), &attributes(0o600), None);
    let first: Arc<dyn Previous> = Arc::new(first);
    let later = Timestamp {
        seconds: 1_000_000_001,
        nanoseconds: 5,
    };
    let xattrs = Xattrs::new([(b"user.a"[..].into(), b"1"[..].into())]);
    let others = [
        attributes(0o644),
        Attributes {
            uid: 7,
            ..attributes(0o600)
        },
        Attributes {
            mtime: later,
            ..attributes(0o600)
        },
        Attributes {
            xattrs,
            ..attributes(0o600)
        },
    ];
    for (number, wanted) in others.iter().enumerate() {
        let to = at(&format!("other{number}"));
        copied(&source, &to, wanted, Some(first.clone()));
        let data = fs::metadata(to.join("fs/file")).unwrap();
        assert_eq!(data.nlink(), 1, "{wanted:?}");
    }
}

#[test]
fn a_linked_file_gets_an_inode_of_its_own_before_it_changes() {
    let temp = tempfile::tempdir().unwrap();
    let (source, at) = (temp.path().join("source"), |name: &str| {
        temp.path().join(name)
    });
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "bytes").unwrap();
    let plain = attributes(0o644);
    let (first, _) = copied(&source, &at("first"), &plain, None);
    let second = at("second");
    fs::create_dir(&second).unwrap();
    let (mut writer, files) = writer(&second, &View::empty());
    writer.follow(Some(Arc::new(first)));
    let node = scanned(&source, "file", true);
    writer
        .copy(vec![item(&node, "file", &plain)], &Cancel::new())
        .unwrap();
    let links = |layer: &str| {
        let data = fs::metadata(at(layer).join("fs/file")).unwrap();
        (data.nlink(), data.mode() & 0o777)
    };
    assert_eq!(links("second"), (2, 0o644));
    writer
        .set_attributes(&path("file"), attributes(0o600))
        .unwrap();
    assert_eq!(
        (links("first"), links("second")),
        ((1, 0o644), (1, 0o600)),
        "what is committed never changes"
    );
    let (_, view) = finish(writer, &View::empty(), &files);
    let mode = view.lookup(&path("file")).unwrap().entry().attributes.mode;
    assert_eq!(mode, 0o600);
}

#[test]
fn files_that_were_one_inode_and_are_apart_now_are_copied() {
    let temp = tempfile::tempdir().unwrap();
    let (source, at) = (temp.path().join("source"), |name: &str| {
        temp.path().join(name)
    });
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "bytes").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    let plain = attributes(0o644);
    let first = at("first");
    fs::create_dir(&first).unwrap();
    let (mut linking, files) = writer(&first, &View::empty());
    let items = ["a", "b"].map(|name| CopyItem {
        link_group: Some(1),
        ..item(&scanned(&source, name, true), name, &plain)
    });
    linking.copy(items.to_vec(), &Cancel::new()).unwrap();
    let (index, origins) = linking.finish_with_origins().unwrap();
    let previous = Layer {
        index,
        origins,
        files,
    };
    copied(&source, &at("second"), &plain, Some(Arc::new(previous)));
    let links = |name: &str| fs::metadata(at("second/fs").join(name)).unwrap().nlink();
    assert_eq!((links("a"), links("b")), (1, 1));
}
