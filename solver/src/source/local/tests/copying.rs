//! Local trees copied into layers.

use std::fs::File;

use super::*;
use crate::tree::{Attributes, Files, Index, Timestamp, WriterOptions};

#[derive(Debug)]
struct Fixed(OwnedFd);

impl Files for Fixed {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        crate::dir::open_file(&self.0, path.as_bytes())
    }

    fn immutable(&self) -> bool {
        true
    }
}

fn copy(tree: &LocalTree, fs: &Path, privileged: bool) -> Result<(Index, View), WriteError> {
    let files: Arc<dyn Files> = Arc::new(Fixed(open(fs)));
    let options = WriterOptions {
        privileged,
        now: Timestamp::default(),
    };
    let base = View::empty();
    let mut writer = LayerWriter::new(open(fs), files.clone(), base.clone(), options)?;
    materialize(tree, &mut writer, &Cancel::new())?;
    let index = writer.finish()?;
    let view = index.onto(&base, files);
    Ok((index, view))
}

fn below_root(view: &View) -> ContentDigest {
    let options = ChecksumOptions::default();
    checksum(view, b"/d", &options, &Cancel::new()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_copy_has_the_checksums_of_the_original() {
    let temp = make(&[("d/a", "1"), ("d/sub/b", "22"), ("d/empty", "")]);
    let at = |name: &str| temp.path().join("d").join(name);
    fs::write(at("big"), vec![7; (3 << 20) + 1]).unwrap();
    let holes = File::create(at("holes")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"end", 8 << 20).unwrap();
    drop(holes);
    for number in 0..300 {
        fs::write(at(&format!("sub/{number}")), format!("{number}")).unwrap();
    }
    fs::hard_link(at("a"), at("sub/a2")).unwrap();
    symlink("nowhere", at("link")).unwrap();
    fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(at("a"), fs::Permissions::from_mode(0o4700)).unwrap();
    let tree = scan(temp.path(), &LocalCache::default()).unwrap();
    let fs = tempfile::tempdir().unwrap();
    let (index, view) = copy(&tree, fs.path(), is_root()).unwrap();
    assert!(
        index
            .entries()
            .iter()
            .all(|(_, entry)| { entry.is_directory() || entry.digest.is_some() })
    );
    // As computed by the copy, by reading the source, and by reading the copy.
    let copied = below_root(&view);
    let other = scan(temp.path(), &LocalCache::default()).unwrap();
    assert_eq!(below_root(other.view()), copied);
    // Without privileges some modes are in the index alone.
    if is_root() {
        let copy_tree = scan(fs.path(), &LocalCache::default()).unwrap();
        assert_eq!(below_root(copy_tree.view()), copied);
    }
    let meta = |name: &str| fs::metadata(fs.path().join("d").join(name)).unwrap();
    assert_eq!(meta("a").ino(), meta("sub/a2").ino());
    assert_ne!(
        meta("a").ino(),
        fs::metadata(at("a")).unwrap().ino(),
        "never the caller's inode"
    );
    assert!(meta("holes").blocks() * 512 < 1 << 20, "holes stay holes");
    assert_eq!(
        meta("sub").mtime_nsec(),
        fs::metadata(at("sub")).unwrap().mtime_nsec()
    );
    fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_rewritten_between_key_and_copy_is_noticed() {
    let rewrite: [&dyn Fn(&Path); 5] = [
        &|path| fs::write(path, "B").unwrap(),
        &|path| fs::write(path, "longer").unwrap(),
        &|path| fs::write(path, "").unwrap(),
        &|path| fs::remove_file(path).unwrap(),
        &|path| {
            fs::remove_file(path).unwrap();
            symlink("/etc/hostname", path).unwrap();
        },
    ];
    for (at, rewrite) in rewrite.iter().enumerate() {
        let temp = make(&[("d/f", "A"), ("d/g", "A")]);
        let tree = scan(temp.path(), &LocalCache::default()).unwrap();
        sum(&tree);
        rewrite(&temp.path().join("d/f"));
        let fs = tempfile::tempdir().unwrap();
        let error = copy(&tree, fs.path(), is_root()).unwrap_err();
        let changed =
            matches!(&error, WriteError::InputChanged { path } if path.as_bytes() == b"d/f");
        assert!(changed, "rewrite {at}: {error:?}");
    }
}

#[test]
fn a_rewritten_file_is_noticed_when_it_gets_another_mode() {
    let temp = make(&[("f", "A")]);
    let tree = scan(temp.path(), &LocalCache::default()).unwrap();
    sum(&tree);
    let path = TreePath::new("f").unwrap();
    let node = tree.view().lookup(&path).unwrap().clone();
    let run = |text: &str| {
        fs::write(temp.path().join("f"), text).unwrap();
        let fs = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(Fixed(open(fs.path())));
        let options = WriterOptions {
            privileged: is_root(),
            now: Timestamp::default(),
        };
        let mut writer = LayerWriter::new(open(fs.path()), files, View::empty(), options).unwrap();
        let attributes = Attributes {
            mode: 0o700,
            ..node.entry().attributes.clone()
        };
        let item = CopyItem {
            source: node.clone(),
            source_path: path.clone(),
            destination: path.clone(),
            attributes,
            link_group: None,
        };
        writer
            .copy(vec![item], &Cancel::new())
            .map(|()| writer.finish().unwrap())
    };
    assert!(run("A").is_ok(), "the bytes count, not the time");
    assert!(matches!(run("B"), Err(WriteError::InputChanged { .. })));
}

#[test]
fn an_ordinary_user_keeps_in_the_index_what_cannot_be_on_disk() {
    let temp = make(&[("d/closed", "1"), ("d/suid", "2"), ("d/sub/x", "3")]);
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| temp.path().join("d").join(name);
    if is_root() {
        std::os::unix::fs::chown(at("sub/x"), Some(77), Some(88)).unwrap();
    }
    let test = "source::local::tests::copying::as_user_keeps_in_the_index";
    as_user(test, "ASHLAR_TEST_DIRECTORY", temp.path());
}

#[test]
#[ignore = "started by an_ordinary_user_keeps_in_the_index_what_cannot_be_on_disk as another user"]
#[expect(
    clippy::disallowed_methods,
    reason = "the test that starts this one says where"
)]
fn as_user_keeps_in_the_index() {
    let directory = PathBuf::from(std::env::var("ASHLAR_TEST_DIRECTORY").unwrap());
    let options = ScanOptions {
        keep_owners: true,
        ..ScanOptions::default()
    };
    let cache = LocalCache::default();
    let tree = LocalTree::scan("ctx", &directory, &options, &cache, &Cancel::new()).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (index, _) = copy(&tree, temp.path(), false).unwrap();
    let path = |text: &str| TreePath::new(text).unwrap();
    let owner = &index.lookup(&path("d/sub/x")).unwrap().attributes;
    assert_eq!((owner.uid, owner.gid), (77, 88));

    let fs = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(Fixed(open(fs.path())));
    let options = WriterOptions {
        privileged: false,
        now: Timestamp::default(),
    };
    let view = View::empty();
    let mut writer = LayerWriter::new(open(fs.path()), files.clone(), view, options).unwrap();
    let mode = |mode| Attributes {
        mode,
        uid: 5,
        ..Attributes::default()
    };
    let trusted = crate::tree::Xattrs::new([(b"trusted.x"[..].into(), b"1"[..].into())]);
    writer.make_directory(&path("d"), mode(0o000)).unwrap();
    let closed = Attributes {
        xattrs: trusted.clone(),
        ..mode(0o000)
    };
    writer
        .write_file(&path("d/f"), closed, &mut &b"bytes"[..])
        .unwrap();
    let null = crate::tree::entry::Device { major: 1, minor: 3 };
    writer
        .make_node(&path("d/null"), Kind::CharDevice, null, mode(0o666))
        .unwrap();
    writer
        .set_attributes(
            &path("d/f"),
            Attributes {
                xattrs: trusted,
                ..mode(0o100)
            },
        )
        .unwrap();
    let index = writer.finish().unwrap();
    let entry = |name: &str| index.lookup(&path(name)).unwrap();
    assert_eq!(entry("d").attributes.mode, 0);
    assert_eq!(
        (entry("d/f").attributes.mode, entry("d/f").attributes.uid),
        (0o100, 5)
    );
    assert_eq!(
        entry("d/f").attributes.xattrs.value(b"trusted.x"),
        Some(&b"1"[..])
    );
    assert_eq!(
        (entry("d/null").kind, entry("d/null").device),
        (Kind::CharDevice, null)
    );
    let mut text = String::new();
    io::Read::read_to_string(&mut files.open(&path("d/f")).unwrap(), &mut text).unwrap();
    assert_eq!(text, "bytes", "the engine itself can read everything");

    // A whiteout needs no privilege.
    let base = index.onto(&View::empty(), files);
    let fs = tempfile::tempdir().unwrap();
    let files: Arc<dyn Files> = Arc::new(Fixed(open(fs.path())));
    let options = WriterOptions {
        privileged: false,
        now: Timestamp::default(),
    };
    let mut writer = LayerWriter::new(open(fs.path()), files, base, options).unwrap();
    writer.remove(&path("d/f")).unwrap();
    writer.make_directory(&path("d/null"), mode(0o755)).unwrap();
    let index = writer.finish().unwrap();
    assert_eq!(index.lookup(&path("d/f")).unwrap().kind, Kind::Whiteout);
    assert!(index.lookup(&path("d/null")).unwrap().opaque);
    let found = crate::dir::xattrs(
        crate::dir::open_directory(open(fs.path()), b"d").unwrap(),
        b"null",
    );
    assert!(
        found
            .unwrap()
            .iter()
            .any(|(key, _)| **key == *b"user.overlay.opaque")
    );
}

#[test]
fn what_a_copy_reads_need_not_be_read_again() {
    let temp = make(&[("d/a", "1"), ("d/b", "22")]);
    settle();
    let cache = LocalCache::default();
    let tree = scan(temp.path(), &cache).unwrap();
    let fs = tempfile::tempdir().unwrap();
    copy(&tree, fs.path(), is_root()).unwrap();
    assert_eq!(tree.files_read(), 2);
    let again = scan(temp.path(), &cache).unwrap();
    sum(&again);
    assert_eq!(again.files_read(), 0);
}
