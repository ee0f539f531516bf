use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};

use super::*;
use crate::tree::{Attributes, Files, Kind, Timestamp};

/// The files of a directory of the test.
#[derive(Debug)]
struct Plain(std::path::PathBuf);

impl Files for Plain {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        File::open(self.0.join(path.as_relative()))
    }

    fn immutable(&self) -> bool {
        true
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

const OLD: Timestamp = Timestamp {
    seconds: 1000,
    nanoseconds: 0,
};

/// An upper directory over a base that has `names`: directories (with `/` at the end) and files
/// that contain their path.
struct Scene {
    temp: tempfile::TempDir,
    base: View,
}

impl Scene {
    fn new(names: &[&str]) -> Self {
        Self::with(names, |_, _| {})
    }

    /// The same with entries that are changed.
    fn with(names: &[&str], change: impl Fn(&str, &mut Entry)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let lower = temp.path().join("lower");
        fs::create_dir(&lower).unwrap();
        fs::create_dir(temp.path().join("upper")).unwrap();
        fs::set_permissions(temp.path().join("upper"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut entries = Vec::new();
        for name in names {
            let directory = name.ends_with('/');
            let name = name.trim_end_matches('/');
            let (kind, mode) = if directory {
                (Kind::Directory, 0o755)
            } else {
                (Kind::File, 0o644)
            };
            let attributes = Attributes {
                mode,
                mtime: OLD,
                ..Attributes::default()
            };
            let mut entry = Entry::new(kind, attributes);
            if directory {
                fs::create_dir_all(lower.join(name)).unwrap();
            } else {
                fs::write(lower.join(name), name).unwrap();
                entry.size = name.len() as u64;
            }
            change(name, &mut entry);
            entries.push((path(name), entry));
        }
        let base = Index::sorted(entries)
            .unwrap()
            .onto(&View::empty(), Arc::new(Plain(lower)));
        Self { temp, base }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.temp.path().join("upper").join(name)
    }

    fn directory(&self, name: &str) {
        fs::create_dir_all(self.at(name)).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn file(&self, name: &str, content: &str) {
        fs::write(self.at(name), content).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn try_capture(&self, options: &CaptureOptions) -> Result<Index, CaptureError> {
        // Owners on disk are those of the test; the base belongs to root.
        let options = CaptureOptions {
            single_id: options.single_id.or(Some((0, 0))),
            ..options.clone()
        };
        let upper = OwnedFd::from(File::open(self.at("")).unwrap());
        capture(upper, &self.base, &options)
    }

    /// The entries but the root: path and what it is.
    fn captured(&self, stubs: &[&str]) -> Vec<String> {
        let stubs = stubs.iter().map(|stub| path(stub)).collect();
        let index = self
            .try_capture(&CaptureOptions {
                stubs,
                ..Default::default()
            })
            .unwrap();
        let entries = index.entries().iter().filter(|(path, _)| !path.is_root());
        entries
            .map(|(path, entry)| {
                let kind = match entry.kind {
                    Kind::Directory if entry.opaque => "opaque",
                    Kind::Directory => "directory",
                    Kind::Whiteout => "whiteout",
                    _ => "other",
                };
                format!("{} {kind}", &path.to_string()[1..])
            })
            .collect()
    }
}

fn set_time(place: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mark_opaque(place: &Path) {
    lsetxattr(place, "user.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
}

fn names(place: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(place)
        .unwrap()
        .map(|item| item.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn nothing_changed_is_an_empty_layer() {
    let scene = Scene::new(&["d/", "d/e/", "d/e/f"]);
    scene.directory("d/e");
    scene.file("d/e/f", "d/e/f");
    set_time(&scene.at("d/e/f"), OLD.seconds);
    assert_eq!(scene.captured(&[]), [""; 0]);
    // The disk is as empty, so that the base shows.
    assert_eq!(names(&scene.at("")), [""; 0]);
}

#[test]
fn equal_times_in_whole_seconds_do_not_hide_other_bytes() {
    let scene = Scene::new(&["f"]);
    scene.file("f", "g");
    set_time(&scene.at("f"), OLD.seconds);
    assert_eq!(scene.captured(&[]), ["f other"]);
}

#[test]
fn opaque_directories_become_removals_on_disk_too() {
    let scene = Scene::new(&["d/", "d/kept/", "d/kept/x", "d/gone/", "d/gone/y", "f"]);
    scene.directory("d/kept");
    scene.directory("f");
    scene.directory("new");
    for name in ["d", "f", "new"] {
        mark_opaque(&scene.at(name));
    }
    set_time(&scene.at("d"), 5000);
    let expected = [
        "d directory",
        "d/gone whiteout",
        "d/kept directory",
        "d/kept/x whiteout",
        "f opaque",
        "new directory",
    ];
    assert_eq!(scene.captured(&[]), expected);
    for (name, marked) in [("d", false), ("f", true), ("new", false)] {
        let mark = crate::dir::xattrs(File::open(scene.at("")).unwrap().as_fd(), name.as_bytes());
        let mark = mark
            .unwrap()
            .iter()
            .any(|(key, _)| **key == *b"user.overlay.opaque");
        assert_eq!(mark, marked, "{name}");
    }
    let whiteout = fs::symlink_metadata(scene.at("d/gone")).unwrap();
    assert_eq!(whiteout.rdev(), 0);
    assert_eq!(scene.at("d").metadata().unwrap().mtime(), 5000);
}

#[test]
fn marks_of_the_other_kind_of_mount_are_content() {
    let scene = Scene::new(&["d/", "d/x"]);
    scene.directory("d");
    scene.file("d/new", "");
    mark_opaque(&scene.at("d"));
    let upper = OwnedFd::from(File::open(scene.at("")).unwrap());
    let index = capture(upper, &scene.base, &CaptureOptions::default()).unwrap();
    assert!(index.lookup(&path("d/x")).is_none());
    assert!(
        index
            .lookup(&path("d"))
            .unwrap()
            .attributes
            .xattrs
            .is_empty()
    );
}

#[test]
fn sockets_vanish() {
    let scene = Scene::new(&["s"]);
    for name in ["s", "t"] {
        drop(UnixListener::bind(scene.at(name)).unwrap());
    }
    assert_eq!(scene.captured(&[]), ["s whiteout"]);
    assert_eq!(names(&scene.at("")), ["s"]);
}

#[test]
fn names_of_one_inode_are_one_group() {
    let scene = Scene::new(&[]);
    scene.file("a", "1");
    scene.file("c", "2");
    scene.directory("d");
    fs::hard_link(scene.at("a"), scene.at("b")).unwrap();
    // Its other name is elsewhere.
    fs::hard_link(scene.at("c"), scene.temp.path().join("outside")).unwrap();
    let index = scene.try_capture(&CaptureOptions::default()).unwrap();
    let group = |name| index.lookup(&path(name)).unwrap().link_group;
    assert_eq!(
        (group("a"), group("b"), group("c"), group("d")),
        (1, 1, 0, 0)
    );
}

#[test]
fn stubs_go_and_times_come_back() {
    let scene = Scene::new(&["etc/", "etc/passwd"]);
    scene.directory("etc");
    scene.file("etc/hosts", "");
    scene.file("etc/passwd", "changed");
    scene.directory("mnt/deep/er");
    let stubs = ["etc/hosts", "mnt/deep/er", "etc/passwd", "proc"];
    assert_eq!(
        scene.captured(&stubs),
        ["etc directory", "etc/passwd other"]
    );
    assert_eq!(scene.at("etc").metadata().unwrap().mtime(), OLD.seconds);
    assert_eq!(names(&scene.at("")), ["etc"]);
}

#[test]
fn stubs_that_were_used_stay() {
    let scene = Scene::new(&["etc/"]);
    scene.directory("etc");
    scene.file("etc/hosts", "used");
    scene.directory("data/sub");
    scene.file("empty", "");
    set_time(&scene.at("etc"), 7000);
    let expected = [
        "data directory",
        "data/sub directory",
        "etc directory",
        "etc/hosts other",
    ];
    assert_eq!(scene.captured(&["etc/hosts", "data", "empty"]), expected);
    // The process has set this time.
    assert_eq!(scene.at("etc").metadata().unwrap().mtime(), 7000);
}

#[test]
fn a_link_in_the_way_of_a_stub_is_not_followed() {
    let scene = Scene::new(&[]);
    let outside = scene.temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("empty"), "").unwrap();
    symlink("../outside", scene.at("way")).unwrap();
    assert_eq!(scene.captured(&["way/empty"]), ["way other"]);
    assert!(outside.join("empty").exists());
}

#[test]
fn stub_parents_stay_if_asked_to() {
    let scene = Scene::new(&[]);
    scene.directory("a/b");
    let options = CaptureOptions {
        stubs: vec![path("a/b")],
        stub_parents: false,
        ..CaptureOptions::default()
    };
    let index = scene.try_capture(&options).unwrap();
    assert!(index.lookup(&path("a")).is_some());
    assert!(index.lookup(&path("a/b")).is_none());
}

#[test]
fn owners_come_from_the_base_where_there_is_one_id() {
    let scene = Scene::new(&["f"]);
    let entry = scene.base.lookup(&path("f")).unwrap().entry().clone();
    let attributes = Attributes {
        uid: 12,
        gid: 13,
        ..entry.attributes.clone()
    };
    let base = scene.base.with_entry(
        &path("f"),
        Entry {
            attributes,
            ..entry
        },
        None,
    );
    let scene = Scene { base, ..scene };
    scene.file("f", "changed");
    scene.file("new", "");
    let index = scene.try_capture(&CaptureOptions::default()).unwrap();
    let owner = |name| {
        let attributes = &index.lookup(&path(name)).unwrap().attributes;
        (attributes.uid, attributes.gid)
    };
    assert_eq!((owner("f"), owner("new")), ((12, 13), (0, 0)));
}

#[test]
fn deep_and_too_deep() {
    let scene = Scene::new(&[]);
    let mut here = OwnedFd::from(File::open(scene.at("")).unwrap());
    let name = "d".repeat(200);
    for depth in 1..=25 {
        rustix::fs::mkdirat(&here, &*name, rustix::fs::Mode::from(0o755)).unwrap();
        here = crate::dir::open_directory(&here, name.as_bytes()).unwrap();
        // 20 names and the separators between them have 4019 bytes.
        if depth == 20 {
            assert_eq!(
                scene
                    .try_capture(&CaptureOptions::default())
                    .unwrap()
                    .entries()
                    .len(),
                21
            );
        }
    }
    let error = scene.try_capture(&CaptureOptions::default()).unwrap_err();
    assert!(
        matches!(error, CaptureError::Index(IndexError::PathTooLong { .. })),
        "{error:?}"
    );
    // Deeper than a stack of frames likes; shallow enough for the test to be able to clean up.
    let scene = Scene::new(&[]);
    let mut here = OwnedFd::from(File::open(scene.at("")).unwrap());
    for _ in 0..700 {
        rustix::fs::mkdirat(&here, "d", rustix::fs::Mode::from(0o755)).unwrap();
        here = crate::dir::open_directory(&here, b"d").unwrap();
    }
    assert_eq!(
        scene
            .try_capture(&CaptureOptions::default())
            .unwrap()
            .entries()
            .len(),
        701
    );
}

#[test]
fn cancellation_is_heard() {
    let scene = Scene::new(&[]);
    let options = CaptureOptions::default();
    options.cancel.cancel();
    assert!(matches!(
        scene.try_capture(&options),
        Err(CaptureError::Cancelled(_))
    ));
}

#[test]
fn with_one_id_what_is_new_belongs_to_the_process_or_to_its_directory() {
    let scene = Scene::with(&["d/", "d/f", "g/"], |name, entry| {
        if name == "g" {
            (entry.attributes.uid, entry.attributes.gid) = (1, 42);
        }
    });
    scene.directory("d");
    scene.directory("g");
    scene.file("d/f", "changed");
    scene.file("d/new", "");
    scene.directory("g/new");
    scene.file("g/new/file", "");
    fs::set_permissions(scene.at("g"), fs::Permissions::from_mode(0o2775)).unwrap();
    fs::set_permissions(scene.at("g/new"), fs::Permissions::from_mode(0o2755)).unwrap();
    let options = CaptureOptions {
        single_id: Some((7, 8)),
        ..CaptureOptions::default()
    };
    let index = scene.try_capture(&options).unwrap();
    let owner = |name: &str| {
        let mut entries = index.entries().iter();
        let found = entries.find(|(at, _)| *at == path(name)).unwrap();
        (found.1.attributes.uid, found.1.attributes.gid)
    };
    for (name, expected) in [
        ("d/f", (0, 0)),
        ("d/new", (7, 8)),
        ("g", (1, 42)),
        ("g/new", (7, 42)),
        ("g/new/file", (7, 42)),
    ] {
        assert_eq!(owner(name), expected, "{name}");
    }
}
