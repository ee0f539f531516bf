mod follow;
mod kernel;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;
use crate::tree::checksum::file_digest;

/// Files of a directory that never change.
#[derive(Debug)]
pub(super) struct Fixed(pub(super) OwnedFd);

impl Files for Fixed {
    fn open(&self, path: &TreePath) -> io::Result<fs::File> {
        crate::dir::open_file(&self.0, path.as_bytes())
    }

    fn immutable(&self) -> bool {
        true
    }

    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        crate::dir::open_directory(&self.0, path.as_bytes()).map(Some)
    }
}

pub(super) fn open(path: &std::path::Path) -> OwnedFd {
    OwnedFd::from(fs::File::open(path).unwrap())
}

pub(super) fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

pub(super) fn attributes(mode: u32) -> Attributes {
    let mtime = Timestamp {
        seconds: 1_000_000_000,
        nanoseconds: 5,
    };
    Attributes {
        mode,
        mtime,
        ..Attributes::default()
    }
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(super) const NOW: Timestamp = Timestamp {
    seconds: 2_000_000_000,
    nanoseconds: 7,
};

/// A writer into `fs` of a temporary directory.
pub(super) fn writer(temp: &std::path::Path, base: &View) -> (LayerWriter, Arc<dyn Files>) {
    fs::create_dir(temp.join("fs")).unwrap();
    let files: Arc<dyn Files> = Arc::new(Fixed(open(&temp.join("fs"))));
    let options = WriterOptions {
        privileged: is_root(),
        now: NOW,
    };
    let fs = open(&temp.join("fs"));
    (
        LayerWriter::new(fs, files.clone(), base.clone(), options).unwrap(),
        files,
    )
}

pub(super) fn dump(view: &View) -> Vec<(TreePath, Entry)> {
    let root = (TreePath::root(), view.root().entry().clone());
    let all = view.walk().map(|(path, node)| (path, node.entry().clone()));
    std::iter::once(root).chain(all).collect()
}

/// Finishes and checks that the index says what the view said.
pub(super) fn finish(writer: LayerWriter, base: &View, files: &Arc<dyn Files>) -> (Index, View) {
    let view = writer.view().clone();
    let index = writer.finish().unwrap();
    let stacked = index.onto(base, files.clone());
    assert_eq!(dump(&stacked), dump(&view));
    let again = Index::decode(&index.encode()).unwrap();
    assert_eq!(again, index);
    (index, view)
}

#[test]
fn what_is_written_is_on_disk_and_in_the_index() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, files) = writer(temp.path(), &View::empty());
    let big = vec![b'x'; 2 * BLOCK + 17];
    writer
        .make_directory(&path("d"), attributes(0o2751))
        .unwrap();
    writer
        .write_file(&path("d/big"), attributes(0o4755), &mut &big[..])
        .unwrap();
    writer
        .write_file(&path("d/exact"), attributes(0o644), &mut &big[..BLOCK])
        .unwrap();
    writer
        .write_file(&path("d/empty"), attributes(0o600), &mut &b""[..])
        .unwrap();
    writer
        .make_symlink(&path("link"), b"/etc/passwd", attributes(0o777))
        .unwrap();
    writer
        .make_node(
            &path("pipe"),
            Kind::Fifo,
            Device::default(),
            attributes(0o622),
        )
        .unwrap();
    writer
        .hard_link(&path("d/second"), &path("d/exact"))
        .unwrap();
    let (index, view) = finish(writer, &View::empty(), &files);
    for name in ["d/big", "d/exact", "d/empty", "d/second"] {
        let entry = index.lookup(&path(name)).unwrap();
        let bytes = fs::read(temp.path().join("fs").join(name)).unwrap();
        assert_eq!(entry.size, bytes.len() as u64);
        let expected = file_digest(entry, Some(&mut &bytes[..])).unwrap();
        assert_eq!(entry.digest, Some(expected), "{name}");
    }
    let stat = |name: &str| fs::symlink_metadata(temp.path().join("fs").join(name)).unwrap();
    assert_eq!(stat("d").permissions().mode() & 0o7777, 0o2751);
    assert_eq!(stat("d/big").permissions().mode() & 0o7777, 0o4755);
    assert_eq!(stat("d").mtime(), NOW.seconds, "something was made in it");
    assert_eq!(stat("d/big").mtime(), 1_000_000_000);
    assert_eq!(stat("d/big").mtime_nsec(), 5);
    assert_eq!(stat("link").mtime(), 1_000_000_000);
    assert_eq!(stat("d/exact").ino(), stat("d/second").ino());
    let group = index.lookup(&path("d/exact")).unwrap().link_group;
    assert_ne!(group, 0);
    assert_eq!(index.lookup(&path("d/second")).unwrap().link_group, group);
    assert_eq!(view.root().entry().attributes.mtime, NOW);
}

#[test]
fn wrong_calls_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, _) = writer(temp.path(), &View::empty());
    let plain = || attributes(0o644);
    writer
        .write_file(&path("f"), plain(), &mut &b"1"[..])
        .unwrap();
    writer.make_directory(&path("d"), plain()).unwrap();
    let file = |writer: &mut LayerWriter, at: &str| {
        writer
            .write_file(&path(at), plain(), &mut &b""[..])
            .unwrap_err()
    };
    assert!(matches!(
        file(&mut writer, "no/x"),
        WriteError::NotFound { .. }
    ));
    assert!(matches!(
        file(&mut writer, "f/x"),
        WriteError::NotADirectory { .. }
    ));
    assert!(matches!(
        file(&mut writer, "d"),
        WriteError::IsADirectory { .. }
    ));
    assert!(matches!(
        file(&mut writer, ""),
        WriteError::IsADirectory { .. } | WriteError::Entry { .. }
    ));
    assert!(matches!(
        writer.remove(&path("no")),
        Err(WriteError::NotFound { .. })
    ));
    assert!(matches!(
        writer.remove(&TreePath::root()),
        Err(WriteError::Entry { .. })
    ));
    let whiteout = writer.make_node(&path("w"), Kind::CharDevice, Device::default(), plain());
    assert!(matches!(whiteout, Err(WriteError::Entry { .. })));
    let owner = Attributes {
        uid: u32::MAX,
        ..plain()
    };
    assert!(matches!(
        writer.make_directory(&path("o"), owner),
        Err(WriteError::Entry { .. })
    ));
    assert!(matches!(
        writer.make_symlink(&path("l"), b"", plain()),
        Err(WriteError::Entry { .. })
    ));
    let long = path(&["x"; 2500].join("/"));
    assert!(matches!(
        writer.make_directory(&long, plain()),
        Err(WriteError::Entry { .. })
    ));
}

#[test]
fn attributes_of_the_overlay_are_dropped() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, files) = writer(temp.path(), &View::empty());
    let pair = |name: &str| -> (Box<[u8]>, Box<[u8]>) { (name.as_bytes().into(), b"y"[..].into()) };
    let names = [
        "user.overlay.opaque",
        "trusted.overlay.redirect",
        "user.kept",
    ];
    let xattrs = Xattrs::new(names.map(pair));
    writer
        .make_directory(
            &path("d"),
            Attributes {
                xattrs,
                ..attributes(0o755)
            },
        )
        .unwrap();
    let (index, _) = finish(writer, &View::empty(), &files);
    let kept: Vec<_> = index
        .lookup(&path("d"))
        .unwrap()
        .attributes
        .xattrs
        .iter()
        .collect();
    assert_eq!(kept, [(&b"user.kept"[..], &b"y"[..])]);
    let on_disk = crate::dir::xattrs(open(&temp.path().join("fs")), b"d").unwrap();
    assert!(on_disk.iter().any(|(name, _)| **name == *b"user.kept"));
    assert!(!on_disk.iter().any(|(name, _)| is_overlay_xattr(name)));
}

#[test]
fn a_removed_directory_that_comes_back_is_empty() {
    let base = tempfile::tempdir().unwrap();
    let (mut first, files) = writer(base.path(), &View::empty());
    first.make_directory(&path("d"), attributes(0o755)).unwrap();
    first
        .write_file(&path("d/a"), attributes(0o644), &mut &b"a"[..])
        .unwrap();
    first
        .make_directory(&path("d/sub"), attributes(0o755))
        .unwrap();
    first
        .write_file(&path("f"), attributes(0o644), &mut &b"f"[..])
        .unwrap();
    let (_, base) = finish(first, &View::empty(), &files);
    let temp = tempfile::tempdir().unwrap();
    let (mut second, files) = writer(temp.path(), &base);
    second.remove(&path("d")).unwrap();
    assert!(second.view().lookup(&path("d")).is_none());
    second
        .make_directory(&path("d"), attributes(0o700))
        .unwrap();
    second.remove(&path("f")).unwrap();
    second
        .make_directory(&path("f"), attributes(0o700))
        .unwrap();
    let (index, view) = finish(second, &base, &files);
    assert!(view.lookup(&path("d")).unwrap().children().is_empty());
    assert!(
        !index.lookup(&path("d")).unwrap().opaque,
        "its children are whiteouts"
    );
    assert_eq!(index.lookup(&path("d/sub")).unwrap().kind, Kind::Whiteout);
    assert!(
        index.lookup(&path("f")).unwrap().opaque,
        "it replaces a file"
    );
}

#[test]
fn inodes_shared_with_the_base_are_never_changed() {
    let base_dir = tempfile::tempdir().unwrap();
    let (mut first, files) = writer(base_dir.path(), &View::empty());
    first
        .write_file(&path("f"), attributes(0o644), &mut &b"bytes"[..])
        .unwrap();
    let (_, base) = finish(first, &View::empty(), &files);
    let temp = tempfile::tempdir_in(base_dir.path()).unwrap();
    let (mut second, files) = writer(temp.path(), &base);
    second.hard_link(&path("g"), &path("f")).unwrap();
    let inode = |path: std::path::PathBuf| fs::metadata(path).unwrap().ino();
    let old = inode(base_dir.path().join("fs/f"));
    assert_eq!(inode(temp.path().join("fs/g")), old, "linked, not copied");
    second
        .set_attributes(&path("g"), attributes(0o4711))
        .unwrap();
    let (index, _) = finish(second, &base, &files);
    assert_ne!(inode(temp.path().join("fs/g")), old);
    assert_eq!(
        inode(temp.path().join("fs/g")),
        inode(temp.path().join("fs/f"))
    );
    let mode = |path: std::path::PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(base_dir.path().join("fs/f")), 0o644);
    assert_eq!(
        mode(temp.path().join("fs/f")),
        0o4711,
        "both names are one file"
    );
    assert_eq!(index.lookup(&path("f")).unwrap().attributes.mode, 0o4711);
    assert_eq!(fs::read(temp.path().join("fs/f")).unwrap(), b"bytes");
}

#[test]
fn what_the_base_has_is_left_out() {
    let base_dir = tempfile::tempdir().unwrap();
    let (mut first, files) = writer(base_dir.path(), &View::empty());
    let later = |mode| Attributes {
        mtime: NOW,
        ..attributes(mode)
    };
    let whole = Attributes {
        mtime: Timestamp {
            seconds: 7,
            nanoseconds: 0,
        },
        ..attributes(0o644)
    };
    for directory in ["same", "same/inner", "moded", "has"] {
        first
            .make_directory(&path(directory), attributes(0o755))
            .unwrap();
    }
    for file in ["same/inner/f", "has/f", "timed", "bytes"] {
        first
            .write_file(&path(file), whole.clone(), &mut &b"one"[..])
            .unwrap();
    }
    for link in ["link", "has/link"] {
        first
            .make_symlink(&path(link), b"to", attributes(0o777))
            .unwrap();
    }
    let (_, base) = finish(first, &View::empty(), &files);
    let temp = tempfile::tempdir().unwrap();
    let (mut second, files) = writer(temp.path(), &base);
    for directory in ["same", "same/inner", "has"] {
        second
            .set_attributes(&path(directory), later(0o755))
            .unwrap();
    }
    second.set_attributes(&path("moded"), later(0o700)).unwrap();
    for (file, attributes, bytes) in [
        ("same/inner/f", whole.clone(), &b"one"[..]),
        ("has/f", whole.clone(), b"one"),
        ("timed", later(0o644), b"one"),
        ("bytes", whole.clone(), b"two"),
    ] {
        second.remove(&path(file)).unwrap();
        second
            .write_file(&path(file), attributes, &mut &bytes[..])
            .unwrap();
    }
    for (link, target) in [("link", &b"to"[..]), ("has/link", b"elsewhere")] {
        second.remove(&path(link)).unwrap();
        second
            .make_symlink(&path(link), target, attributes(0o777))
            .unwrap();
    }
    second.leave_out_unchanged(&Cancel::new()).unwrap();
    let (index, _) = finish(second, &base, &files);
    let paths: Vec<String> = index
        .entries()
        .iter()
        .map(|(path, _)| path.to_string())
        .collect();
    let expected = ["", "bytes", "has", "has/link", "moded", "timed"];
    assert_eq!(paths, expected.map(|path| format!("/{path}")));
    assert!(!temp.path().join("fs/same").exists());
    assert!(!temp.path().join("fs/has/f").exists());
}

#[test]
fn a_layer_without_a_change_is_empty() {
    let base_dir = tempfile::tempdir().unwrap();
    let (mut first, files) = writer(base_dir.path(), &View::empty());
    first
        .write_file(&path("f"), attributes(0o644), &mut &b"one"[..])
        .unwrap();
    first.hard_link(&path("g"), &path("f")).unwrap();
    let (_, base) = finish(first, &View::empty(), &files);
    let temp = tempfile::tempdir().unwrap();
    let (mut second, files) = writer(temp.path(), &base);
    second
        .set_attributes(&path("g"), attributes(0o644))
        .unwrap();
    second.leave_out_unchanged(&Cancel::new()).unwrap();
    let (index, view) = finish(second, &base, &files);
    assert!(index.entries().is_empty());
    assert_eq!(dump(&view), dump(&base));
}
