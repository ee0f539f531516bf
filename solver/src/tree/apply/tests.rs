use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::cancel::Cancel;
use crate::limits::Limits;
use crate::tree::checksum::file_digest;
use crate::tree::entry::Device;
use crate::tree::tar::{Header, TarError, TarFormat, TarKind, TarWriter};
use crate::tree::{Attributes, Entry, Files, Index, Kind, Timestamp, TreePath, View};

const T: i64 = 1_600_000_000;

fn header(path: &str, kind: TarKind, link: &str) -> Header {
    let device = matches!(kind, TarKind::CharDevice | TarKind::BlockDevice);
    Header {
        path: path.into(),
        kind,
        link: link.into(),
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: Timestamp {
            seconds: T,
            nanoseconds: 0,
        },
        device: if device {
            Device { major: 1, minor: 3 }
        } else {
            Device::default()
        },
        xattrs: Vec::new(),
        sparse: false,
    }
}

/// Short forms: `d/` a directory, `f=text` a file, `l->t` a link, `h=>t` a hard link, `p|` a pipe.
fn tar(entries: &[&str]) -> Vec<u8> {
    let headers = entries.iter().map(|text| {
        if let Some((path, link)) = text.split_once("=>") {
            (header(path, TarKind::HardLink, link), "")
        } else if let Some((path, link)) = text.split_once("->") {
            (header(path, TarKind::Symlink, link), "")
        } else if let Some((path, data)) = text.split_once('=') {
            (header(path, TarKind::File, ""), data)
        } else if let Some(path) = text.strip_suffix('|') {
            (header(path, TarKind::Fifo, ""), "")
        } else {
            assert!(text.ends_with('/'), "{text}");
            (header(text, TarKind::Directory, ""), "")
        }
    });
    archive(headers)
}

fn archive<'a>(entries: impl IntoIterator<Item = (Header, &'a str)>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = TarWriter::new(&mut out);
    for (mut header, data) in entries {
        header.size = data.len() as u64;
        writer.header(&header, TarFormat::Pax).unwrap();
        writer.data(data.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    out
}

/// A jail with canaries beside the layer directory.
struct Jail {
    folder: tempfile::TempDir,
    privileged: bool,
}

#[derive(Debug)]
struct Below(std::path::PathBuf);

impl Files for Below {
    fn open(&self, path: &TreePath) -> std::io::Result<std::fs::File> {
        std::fs::File::open(self.0.join(path.as_relative()))
    }

    fn immutable(&self) -> bool {
        true
    }
}

impl Jail {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("fs")).unwrap();
        std::fs::write(folder.path().join("canary"), "alive").unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(folder.path().join("canary"), mode).unwrap();
        Self {
            folder,
            privileged: rustix::process::geteuid().is_root(),
        }
    }

    fn fs(&self) -> std::path::PathBuf {
        self.folder.path().join("fs")
    }

    fn raw(&self, tar: &[u8]) -> Result<RawLayer, ApplyError> {
        self.limited(tar, &Limits::default())
    }

    fn limited(&self, tar: &[u8], limits: &Limits) -> Result<RawLayer, ApplyError> {
        let fs = std::fs::File::open(self.fs()).unwrap();
        let options = ApplyOptions {
            privileged: self.privileged,
        };
        let result = apply(tar, fs.as_fd(), options, limits, &Cancel::new());
        self.check_canary();
        result
    }

    /// Nothing beside the layer directory changed or appeared.
    fn check_canary(&self) {
        let canary = self.folder.path().join("canary");
        assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
        let meta = std::fs::symlink_metadata(&canary).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 1));
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 2);
    }

    fn on(&self, base: &View, tar: &[u8]) -> Normalized {
        let raw = self.raw(tar).unwrap();
        let fs = std::fs::File::open(self.fs()).unwrap();
        raw.normalize(base, fs.as_fd()).unwrap()
    }

    fn index(&self, tar: &[u8]) -> Index {
        self.on(&View::empty(), tar).index
    }

    fn refused(tar: &[u8]) -> ApplyError {
        Self::new().raw(tar).unwrap_err()
    }
}

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn at(index: &Index, text: &str) -> Entry {
    index
        .lookup(&path(text))
        .unwrap_or_else(|| panic!("{text} in {index:?}"))
        .clone()
}

fn names(index: &Index) -> Vec<String> {
    let shown = |(path, entry): &(TreePath, Entry)| {
        let mark = match entry.kind {
            Kind::Directory if entry.opaque => "/!",
            Kind::Directory => "/",
            Kind::Whiteout => " gone",
            _ => "",
        };
        format!("{}{mark}", String::from_utf8_lossy(path.as_bytes()))
    };
    index.entries().iter().map(shown).collect()
}

fn base(entries: &[&str]) -> View {
    let jail = Jail::new();
    jail.index(&tar(entries))
        .onto(&View::empty(), Arc::new(Below(jail.fs())))
}

#[test]
fn files_are_hashed_and_have_what_the_archive_says() {
    let jail = Jail::new();
    let mut file = header("dir/file", TarKind::File, "");
    file.mode = 0o4751;
    file.mtime = Timestamp {
        seconds: 5,
        nanoseconds: 250_000_000,
    };
    file.xattrs = vec![
        (b"user.b".to_vec(), b"\n\0=".to_vec()),
        (b"user.a".to_vec(), vec![]),
    ];
    let mut dir = header("dir/", TarKind::Directory, "");
    dir.mode = 0o1700;
    let index = jail.index(&archive([(dir, ""), (file, "hello")]));
    let entry = at(&index, "dir/file");
    let on_disk = std::fs::symlink_metadata(jail.fs().join("dir/file")).unwrap();
    assert_eq!(on_disk.mode() & 0o7777, 0o4751);
    assert_eq!((on_disk.mtime(), on_disk.mtime_nsec()), (5, 250_000_000));
    assert_eq!(entry.attributes.mtime.seconds, 5);
    assert_eq!(
        entry.attributes.xattrs.value(b"user.b"),
        Some(&b"\n\0="[..])
    );
    assert_eq!(entry.attributes.xattrs.value(b"user.a"), Some(&b""[..]));
    let mut data = &b"hello"[..];
    assert_eq!(
        entry.digest,
        Some(file_digest(&entry, Some(&mut data)).unwrap())
    );
    let dir = std::fs::symlink_metadata(jail.fs().join("dir")).unwrap();
    assert_eq!((dir.mode() & 0o7777, dir.mtime()), (0o1700, T));
}

#[test]
fn times_that_containerd_does_not_take_are_0() {
    let jail = Jail::new();
    let last = (9_223_372_036, 854_775_807);
    let times = [(-1, 999_999_999), (0, 1), last, (last.0, last.1 + 1)];
    let files = times.map(|(seconds, nanoseconds)| {
        let mut file = header(&format!("{seconds}.{nanoseconds}"), TarKind::File, "");
        file.mtime = Timestamp {
            seconds,
            nanoseconds,
        };
        file
    });
    let paths = files
        .clone()
        .map(|file| String::from_utf8(file.path).unwrap());
    let index = jail.index(&archive(files.map(|file| (file, ""))));
    let found = paths.map(|path| {
        let time = at(&index, &path).attributes.mtime;
        (time.seconds, time.nanoseconds)
    });
    assert_eq!(found, [(0, 0), (0, 1), last, (0, 0)]);
}

fn xattrs(index: &Index, path: &str) -> Vec<String> {
    let entry = at(index, path);
    let names = entry.attributes.xattrs.iter();
    names
        .map(|(name, _)| String::from_utf8_lossy(name).into_owned())
        .collect()
}

#[test]
fn attributes_that_are_the_hosts_or_unknown_to_linux_are_dropped() {
    let jail = Jail::new();
    let entries = [
        header("file", TarKind::File, ""),
        header("link", TarKind::Symlink, "file"),
        header("pipe", TarKind::Fifo, ""),
    ];
    let entries = entries.map(|mut entry| {
        for name in [
            "trusted.x",
            "user.x",
            "com.apple.provenance",
            "system.nfs4_acl",
        ] {
            entry.xattrs.push((name.into(), b"1".to_vec()));
        }
        (entry, "")
    });
    let index = jail.index(&archive(entries));
    assert_eq!(xattrs(&index, "file"), ["user.x"]);
    assert!(xattrs(&index, "link").is_empty() && xattrs(&index, "pipe").is_empty());
}

/// As what `tar` writes after a change of mode and owner between two names of a file.
#[test]
fn the_entry_of_a_hard_link_sets_the_attributes_of_all_names() {
    for privileged in [rustix::process::geteuid().is_root(), false] {
        let jail = Jail {
            privileged,
            ..Jail::new()
        };
        let mut file = header("a", TarKind::File, "");
        file.xattrs = vec![
            (b"security.capability".to_vec(), CAPABILITIES.to_vec()),
            (b"user.kept".to_vec(), b"1".to_vec()),
            (b"user.set".to_vec(), b"1".to_vec()),
        ];
        let mut link = header("b", TarKind::HardLink, "a");
        (link.mode, link.uid, link.gid) = (0o4711, 12, 34);
        link.mtime.seconds = T + 1;
        link.xattrs = vec![(b"user.set".to_vec(), b"2".to_vec())];
        // A name that is something else by then, and is left alone.
        let before = header("x", TarKind::HardLink, "a");
        let other = header("x", TarKind::File, "");
        let mut pipe = header("p", TarKind::Fifo, "");
        pipe.mode = 0o600;
        let mut second = header("q", TarKind::HardLink, "p");
        second.mode = 0o622;
        let index = jail.index(&archive([
            (file, "hello"),
            (before, ""),
            (other, "other"),
            (link, ""),
            (header("l", TarKind::Symlink, "a"), ""),
            (header("m", TarKind::HardLink, "l"), ""),
            (pipe, ""),
            (second, ""),
        ]));
        let entry = at(&index, "a");
        assert_eq!(entry, at(&index, "b"));
        let attributes = &entry.attributes;
        assert_eq!(
            (attributes.mode, attributes.uid, attributes.gid),
            (0o4711, 12, 34)
        );
        assert_eq!(attributes.mtime.seconds, T + 1);
        assert_eq!(xattrs(&index, "a"), ["user.kept", "user.set"]);
        assert_eq!(attributes.xattrs.value(b"user.set"), Some(&b"2"[..]));
        let mut data = &b"hello"[..];
        let digest = file_digest(&entry, Some(&mut data)).unwrap();
        assert_eq!(entry.digest, Some(digest));
        assert_eq!(at(&index, "x").attributes.mode, 0o755);
        assert_eq!(at(&index, "p").attributes.mode, 0o622);
        assert_eq!(at(&index, "m").attributes.mode, 0o777);
        let stat = |name: &str| std::fs::symlink_metadata(jail.fs().join(name)).unwrap();
        assert_eq!(stat("a").ino(), stat("b").ino());
        assert_eq!(stat("a").mtime(), T + 1);
        if privileged {
            assert_eq!((stat("a").mode() & 0o7777, stat("a").uid()), (0o4711, 12));
            assert_eq!(stat("p").mode() & 0o7777, 0o622);
            let mut list = [0; 1024];
            let length = rustix::fs::listxattr(jail.fs().join("a"), &mut list).unwrap();
            assert!(!String::from_utf8_lossy(&list[..length]).contains("capability"));
        }
    }
}

#[test]
fn class_12_links_that_change_a_file_again_and_again_cost_one_look_at_it() {
    let jail = Jail::new();
    let large = "x".repeat(16 << 20);
    let mut entries = vec![(header("a", TarKind::File, ""), &large[..])];
    // Read anew for each of them it would be hundreds of gigabytes.
    for at in 0..20_000 {
        let mut link = header(&format!("d/{at}"), TarKind::HardLink, "a");
        link.mode = 0o600 + at % 2;
        entries.push((link, ""));
    }
    // The first names are gone in the end.
    entries.push((header("a", TarKind::File, ""), ""));
    entries.push((header("d/0", TarKind::File, ""), ""));
    let index = jail.index(&archive(entries));
    let entry = at(&index, "d/1");
    assert_eq!(entry.attributes.mode, 0o601);
    assert_eq!(entry, at(&index, "d/19998"));
    let digest = file_digest(&entry, Some(&mut large.as_bytes())).unwrap();
    assert_eq!(entry.digest, Some(digest));
    assert_eq!(at(&index, "a").attributes.mode, 0o755);
}

#[test]
fn names_of_a_file_may_go_with_their_directory() {
    let jail = Jail::new();
    let mut link = header("d/b", TarKind::HardLink, "d/a");
    link.mode = 0o640;
    let mut kept = header("c", TarKind::HardLink, "d/a");
    kept.mode = 0o604;
    let gone = header("d", TarKind::File, "");
    let entries = [
        (header("d/a", TarKind::File, ""), "hello"),
        (link, ""),
        (gone.clone(), ""),
    ];
    assert_eq!(at(&jail.index(&archive(entries)), "d").size, 0);
    let jail = Jail::new();
    let entries = [
        (header("d/a", TarKind::File, ""), "hello"),
        (kept, ""),
        (gone, ""),
    ];
    let index = jail.index(&archive(entries));
    let entry = at(&index, "c");
    assert_eq!(entry.attributes.mode, 0o604);
    let digest = file_digest(&entry, Some(&mut &b"hello"[..])).unwrap();
    assert_eq!(entry.digest, Some(digest));
}

#[test]
fn class_12_attributes_of_a_file_with_many_names_are_bounded() {
    let jail = Jail {
        privileged: false,
        ..Jail::new()
    };
    let mut file = header("a", TarKind::File, "");
    file.xattrs = (0..16)
        .map(|at| (format!("security.{at}").into_bytes(), vec![b'x'; 60 << 10]))
        .collect();
    let mut entries = vec![(file, "")];
    for at in 0..2000 {
        entries.push((header(&at.to_string(), TarKind::HardLink, "a"), ""));
    }
    let error = jail.raw(&archive(entries)).unwrap_err();
    assert!(
        matches!(error, ApplyError::TooMuchMetadata { .. }),
        "{error}"
    );
}

/// `cap_net_bind_service=ep`.
const CAPABILITIES: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn class_9_names_cannot_leave_the_layer() {
    let jail = Jail::new();
    let index = jail.index(&tar(&[
        "../canary=evil",
        "/absolute/file=1",
        "a/../../../../b=2",
        "./././c=3",
        "x/y/../../../canary2/=4",
    ]
    .map(|text| text.trim_end_matches("=4"))));
    let expected = ["absolute/", "absolute/file", "b", "c", "canary", "canary2/"];
    assert_eq!(names(&index), expected);
    assert_eq!(
        std::fs::read_to_string(jail.fs().join("canary")).unwrap(),
        "evil"
    );
}

#[test]
fn class_9_links_are_followed_inside_the_layer_only() {
    for target in [
        "/",
        "..",
        "../..",
        "/../../..",
        ".",
        "/canary/..",
        "a/../..",
    ] {
        let jail = Jail::new();
        let link = format!("out->{target}");
        let tar = tar(&[&link, "out/canary=evil", "out/new/deep=1"]);
        match jail.raw(&tar) {
            Ok(_) => {
                jail.check_canary();
                let inside = jail.fs().join("canary");
                assert_eq!(
                    std::fs::read_to_string(inside).unwrap_or_default(),
                    "evil",
                    "{target}"
                );
            }
            Err(error) => assert!(
                matches!(error, ApplyError::NotADirectory { .. }),
                "{target} {error}"
            ),
        }
    }
    // To a path of the host that exists.
    let jail = Jail::new();
    let host = jail.folder.path().to_str().unwrap().to_owned();
    let index = jail.index(&tar(&[&format!("link->{host}"), "link/canary=evil"]));
    assert!(names(&index).iter().any(|name| name.ends_with("/canary")));
    // The link itself is replaced, not what it leads to.
    let jail = Jail::new();
    jail.raw(&tar(&["file->../canary", "file=evil"])).unwrap();
    assert!(
        std::fs::symlink_metadata(jail.fs().join("file"))
            .unwrap()
            .is_file()
    );
    // A directory entry over a link sets nothing on its target (the deferred chmod).
    let jail = Jail::new();
    let index = jail.index(&tar(&["dir->../", "dir/"]));
    assert_eq!(at(&index, "dir").kind, Kind::Directory);
}

#[test]
fn class_9_circles_and_files_as_directories_are_errors() {
    let circle = Jail::refused(&tar(&["a->b", "b->a", "a/x=1"]));
    assert!(matches!(circle, ApplyError::TooManyLinks { .. }));
    let below = Jail::refused(&tar(&["f=1", "f/x=1"]));
    assert!(matches!(below, ApplyError::NotADirectory { .. }));
    let root = Jail::refused(&tar(&["./=1"].map(|_| "..=1")));
    assert!(matches!(root, ApplyError::Root { .. }));
}

#[test]
fn class_9_hard_links_lead_to_earlier_entries_only() {
    for bad in [
        &["h=>canary"][..],
        &["h=>../canary"],
        &["h=>/etc/passwd"],
        &["h=>h"],
        &["f=1", "f=>f"],
        &["d/", "h=>d"],
        &["h=>later", "later=1"],
        &[".wh.gone=", "h=>gone"],
        &["out->..", "h=>out/canary"],
        &["d/", "d/f=1", "d=>d/f"],
    ] {
        let error = Jail::refused(&tar(bad));
        assert!(
            matches!(error, ApplyError::HardLink { .. }),
            "{bad:?} {error:?}"
        );
    }
    // Through a link to a directory of the layer, and to a link itself.
    let jail = Jail::new();
    let index = jail.index(&tar(&[
        "d/",
        "d/f=1",
        "l->d",
        "h=>l/f",
        "s->../canary",
        "t=>s",
    ]));
    assert_eq!(at(&index, "h"), at(&index, "d/f"));
    assert_ne!(at(&index, "h").link_group, 0);
    assert_eq!(at(&index, "t").kind, Kind::Symlink);
    assert_ne!(at(&index, "t").link_group, at(&index, "h").link_group);
    let inode = |name: &str| {
        std::fs::symlink_metadata(jail.fs().join(name))
            .unwrap()
            .ino()
    };
    assert_eq!(inode("h"), inode("d/f"));
    assert_eq!(inode("t"), inode("s"));
}

#[test]
fn class_9_devices() {
    let mut zero = header("null", TarKind::CharDevice, "");
    zero.device = Device::default();
    assert!(matches!(
        Jail::refused(&archive([(zero, "")])),
        ApplyError::WhiteoutDevice { .. }
    ));
    let tar = archive([(header("null", TarKind::CharDevice, ""), "")]);
    let mut jail = Jail::new();
    let entry = at(&jail.index(&tar), "null");
    assert_eq!(
        (entry.kind, entry.device),
        (Kind::CharDevice, Device { major: 1, minor: 3 })
    );
    let on_disk = std::fs::symlink_metadata(jail.fs().join("null")).unwrap();
    assert_eq!(on_disk.file_type().is_char_device(), jail.privileged);
    // Without privileges: an empty file on disk, the device in the index.
    jail = Jail {
        privileged: false,
        ..Jail::new()
    };
    assert_eq!(at(&jail.index(&tar), "null"), entry);
    let on_disk = std::fs::symlink_metadata(jail.fs().join("null")).unwrap();
    assert!(on_disk.is_file());
}

#[test]
fn class_9_removals_cannot_name_anything_else() {
    for bad in [".wh.=", ".wh..=", ".wh...=", "d/.wh...=", ".wh.x/y=1"] {
        let error = Jail::refused(&tar(&[bad]));
        assert!(
            matches!(error, ApplyError::Whiteout { .. }),
            "{bad} {error:?}"
        );
    }
    let jail = Jail::new();
    assert_eq!(
        names(&jail.index(&tar(&["../../.wh.canary="]))),
        ["canary gone"]
    );
    jail.check_canary();
}

#[test]
fn class_9_attributes_of_the_overlay_are_dropped() {
    let jail = Jail::new();
    let mut file = header("d/", TarKind::Directory, "");
    for name in [
        "trusted.overlay.redirect",
        "user.overlay.opaque",
        "user.kept",
    ] {
        file.xattrs.push((name.into(), b"/".to_vec()));
    }
    let index = jail.index(&archive([(file, "")]));
    let kept: Vec<_> = at(&index, "d")
        .attributes
        .xattrs
        .iter()
        .map(|x| x.0.to_vec())
        .collect();
    assert_eq!(kept, [b"user.kept".to_vec()]);
    let mut list = [0; 1024];
    let length = rustix::fs::listxattr(jail.fs().join("d"), &mut list).unwrap_or(0);
    assert!(!String::from_utf8_lossy(&list[..length]).contains("overlay"));
}

#[test]
fn class_9_without_privileges_nothing_is_unreadable_or_foreign() {
    let jail = Jail {
        privileged: false,
        ..Jail::new()
    };
    let mut file = header("dir/file", TarKind::File, "");
    (file.mode, file.uid, file.gid) = (0o2000, 123, 456);
    file.xattrs = vec![(b"security.capability".to_vec(), b"x".to_vec())];
    let mut dir = header("dir/", TarKind::Directory, "");
    dir.mode = 0;
    let index = jail.index(&archive([(dir, ""), (file, "x")]));
    let entry = at(&index, "dir/file");
    assert_eq!((entry.attributes.mode, entry.attributes.uid), (0o2000, 123));
    assert!(
        entry
            .attributes
            .xattrs
            .value(b"security.capability")
            .is_some()
    );
    let on_disk = std::fs::symlink_metadata(jail.fs().join("dir/file")).unwrap();
    assert_eq!(on_disk.mode() & 0o400, 0o400);
    assert_eq!(on_disk.uid(), rustix::process::geteuid().as_raw());
    let dir = std::fs::symlink_metadata(jail.fs().join("dir")).unwrap();
    assert_eq!(dir.mode() & 0o777, 0o700);
    assert_eq!(at(&index, "dir").attributes.mode, 0);
}

#[test]
fn the_later_of_two_entries_counts() {
    let jail = Jail::new();
    let index = jail.index(&tar(&[
        "a=1", "a=22", "d/", "d/x=1", "d/e/", "d/e/y=2", "d->a", "f=1", "f/", "f/g=3", "m/",
        "m/x=1", "m/",
    ]));
    assert_eq!(names(&index), ["a", "d", "f/", "f/g", "m/", "m/x"]);
    assert_eq!(at(&index, "a").size, 2);
    assert_eq!(
        std::fs::read_link(jail.fs().join("d")).unwrap(),
        Path::new("a")
    );
}

#[test]
fn directories_that_are_not_mentioned_are_those_of_the_base() {
    let mut known = header("known/", TarKind::Directory, "");
    (known.mode, known.gid) = (0o2775, 7);
    let below = Jail::new();
    let base = below
        .index(&archive([
            (known, ""),
            (header("lib", TarKind::Symlink, "known"), ""),
        ]))
        .onto(&View::empty(), Arc::new(Below(below.fs())));
    let jail = Jail::new();
    let index = jail
        .on(&base, &tar(&["known/a=1", "new/b=1", "lib/c=1"]))
        .index;
    assert_eq!(
        names(&index),
        ["known/", "known/a", "lib/!", "lib/c", "new/", "new/b"]
    );
    let known = at(&index, "known").attributes;
    assert_eq!((known.mode, known.gid, known.mtime.seconds), (0o2775, 7, T));
    let on_disk = std::fs::symlink_metadata(jail.fs().join("known")).unwrap();
    assert_eq!((on_disk.mode() & 0o7777, on_disk.mtime()), (0o2775, T));
    assert_eq!(at(&index, "lib").attributes.mode, 0o2775);
    let plain = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    assert_eq!(at(&index, "new").attributes, plain);
}

#[test]
fn removals_are_explicit_in_normal_form() {
    let base = base(&[
        "d/",
        "d/a=1",
        "d/sub/",
        "d/sub/x=1",
        "d/sub/y=1",
        "e=1",
        "f/",
        "f/x=1",
    ]);
    let jail = Jail::new();
    let done = jail.on(
        &base,
        &tar(&[
            "d/",
            "d/sub/",
            "d/sub/y=2",
            "d/.wh..wh..opq=",
            "e/",
            ".wh.f=",
        ]),
    );
    let expected = [
        "d/",
        "d/a gone",
        "d/sub/",
        "d/sub/x gone",
        "d/sub/y",
        "e/!",
        "f gone",
    ];
    assert_eq!(names(&done.index), expected);
    assert_eq!(done.opaque.into_iter().collect::<Vec<_>>(), [path("d")]);
    let whiteout = std::fs::symlink_metadata(jail.fs().join("d/a")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let view = done.index.onto(&base, Arc::new(Below(jail.fs())));
    let left: Vec<_> = view.walk().map(|(path, _)| path.to_string()).collect();
    assert_eq!(left, ["/d", "/d/sub", "/d/sub/y", "/e"]);
    // The times of directories are not those of the removals made in them.
    assert_eq!(
        std::fs::symlink_metadata(jail.fs().join("d"))
            .unwrap()
            .mtime(),
        T
    );
}

#[test]
fn a_removal_beside_a_new_entry_is_about_the_base() {
    let base = base(&["d/", "d/a=1", "x=1"]);
    for order in [&[".wh.d=", "d/", "d/b=1"][..], &["d/", "d/b=1", ".wh.d="]] {
        let index = Jail::new().on(&base, &tar(order)).index;
        assert_eq!(names(&index), ["d/", "d/a gone", "d/b"]);
    }
    let index = Jail::new()
        .on(&base, &tar(&[".wh.nothing=", ".wh..wh..opq=", "x=2"]))
        .index;
    assert_eq!(names(&index), ["d gone", "nothing gone", "x"]);
}

#[test]
fn class_12_limits() {
    let limits = |bytes, entries| {
        let mut limits = Limits::default();
        (limits.layer_bytes, limits.layer_entries) = (bytes, entries);
        limits
    };
    let many = tar(&["a=1", "b=1", "c=1"]);
    let error = Jail::new().limited(&many, &limits(1 << 20, 2)).unwrap_err();
    assert!(matches!(error, ApplyError::TooManyEntries { .. }));
    let deep = tar(&["a/b/c/d/e/f=1"]);
    let error = Jail::new().limited(&deep, &limits(1 << 20, 3)).unwrap_err();
    assert!(matches!(error, ApplyError::TooManyEntries { .. }));
    let error = Jail::new().limited(&many, &limits(2, 100)).unwrap_err();
    assert!(matches!(error, ApplyError::TooLarge { .. }));
    let long = format!("{}=1", "n".repeat(256));
    assert!(matches!(
        Jail::refused(&tar(&[&long])),
        ApplyError::Name { .. }
    ));
    let deep = format!("{}f=1", "d/".repeat(2048));
    assert!(matches!(
        Jail::refused(&tar(&[&deep])),
        ApplyError::Name { .. }
    ));
}

#[test]
fn a_tree_as_deep_as_paths_allow() {
    let jail = Jail::new();
    let deep = format!("{}f=1", "d/".repeat(2000));
    let index = jail.index(&tar(&[&deep, "d=replaced"]));
    assert_eq!(names(&index), ["d"]);
    let index = Jail::new().index(&tar(&[&deep]));
    assert_eq!(index.entries().len(), 2001);
}

#[test]
fn class_10_truncation_is_noticed_at_every_block() {
    let whole = tar(&["d/", "d/f=some bytes", "l->f"]);
    let end = whole.len() - 1024;
    for cut in (1..end).step_by(100) {
        // Between the ten bytes of the file and the next header nothing is missed.
        if (512 * 2 + 10..=512 * 3).contains(&cut) {
            assert_eq!(Jail::new().raw(&whole[..cut]).unwrap().entries(), 2);
            continue;
        }
        let error = Jail::refused(&whole[..cut]);
        assert!(
            matches!(error, ApplyError::Tar(TarError::Truncated { .. })),
            "{cut} {error}"
        );
    }
    // Without the two blocks at the end, as Go accepts it.
    assert_eq!(Jail::new().raw(&whole[..end]).unwrap().entries(), 3);
}

#[test]
fn cancelling_stops_it() {
    let jail = Jail::new();
    let fs = std::fs::File::open(jail.fs()).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let options = ApplyOptions { privileged: false };
    let tar = tar(&["a=1"]);
    let error = apply(&tar[..], fs.as_fd(), options, &Limits::default(), &cancel).unwrap_err();
    assert!(matches!(error, ApplyError::Cancelled(_)));
}

#[test]
fn class_9_and_10_damaged_archives_never_panic_or_leave_the_layer() {
    let whole = tar(&[
        "d/",
        "d/f=some bytes",
        "l->../d",
        "l/g=1",
        "h=>d/f",
        "../x/y=2",
        ".wh.z=",
        "p|",
        "d/.wh..wh..opq=",
        "l->/",
        "l/canary=3",
    ]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut unpacked = 0;
    for _ in 0..600 {
        let mut bad = whole.clone();
        for _ in 0..=random(3) {
            let at = random(bad.len());
            let byte = [b'/', b'.', 0, b'1', b'2', b'5', b'7', b'x', 0x80, 0xff][random(10)];
            bad[at] = byte;
            // Headers get a right checksum, so that the change is looked at.
            let start = at / 512 * 512;
            let block = &mut bad[start..start + 512];
            if block.get(257..262) == Some(b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            }
        }
        let jail = Jail::new();
        if let Ok(raw) = jail.raw(&bad) {
            let fs = std::fs::File::open(jail.fs()).unwrap();
            raw.normalize(&View::empty(), fs.as_fd()).unwrap();
            unpacked += 1;
        }
        jail.check_canary();
    }
    assert!((50..550).contains(&unpacked), "{unpacked} of 600 were good");
}
