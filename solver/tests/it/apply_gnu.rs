//! Archives of GNU tar are unpacked as GNU tar unpacks them.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::limits::Limits;
use ashlar_solver::tree::apply::{ApplyOptions, apply};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn gnu_tar(arguments: &[&str]) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test compares with this program"
    )]
    let status = Command::new("tar")
        .args(arguments)
        .status()
        .expect("GNU tar is installed");
    assert!(status.success(), "tar {arguments:?}");
}

/// A tree with one of everything.
fn make_tree(root: &Path) {
    let long = "n".repeat(120);
    for folder in ["a/b/c", "empty", "ümläut dir", &format!("{long}/{long}")] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (at, size) in [0_usize, 1, 511, 512, 513, 70_000, 600_000]
        .into_iter()
        .enumerate()
    {
        let content: Vec<u8> = (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect();
        std::fs::write(root.join(format!("a/file{at}")), content).unwrap();
    }
    std::fs::write(root.join(format!("{long}/{long}/{long}")), "deep").unwrap();
    let sparse = std::fs::File::create(root.join("a/sparse")).unwrap();
    sparse.set_len(9_000_000).unwrap();
    for at in 0..60 {
        sparse
            .write_all_at(b"data in the middle of nothing", at * 131_072 + 5)
            .unwrap();
    }
    std::fs::hard_link(root.join("a/file5"), root.join("a/b/hard")).unwrap();
    std::os::unix::fs::symlink("../../nowhere", root.join("a/link")).unwrap();
    std::os::unix::fs::symlink("t".repeat(200), root.join("long link")).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, root.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    let set = |path: &str, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(root.join(path), permissions).unwrap();
    };
    if rustix::process::geteuid().is_root() {
        let number = rustix::fs::makedev(1, 7);
        mknodat(
            CWD,
            root.join("full"),
            FileType::CharacterDevice,
            mode,
            number,
        )
        .unwrap();
        std::os::unix::fs::chown(root.join("a/file1"), Some(3_000_000), Some(44)).unwrap();
        std::os::unix::fs::lchown(root.join("a/link"), Some(9), Some(8)).unwrap();
    }
    set("a/file1", 0o6755);
    set("a/file2", 0o400);
    set("empty", 0o1777);
}

/// Everything that can be seen of a tree; times of links and devices too.
fn listing(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let link = std::fs::read_link(&path).unwrap_or_default();
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let links = if meta.is_dir() { 0 } else { meta.nlink() };
            let text = format!(
                "{:o} {}:{} {size} {} links={links} {} {link:?} {:x}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.rdev(),
                content
                    .iter()
                    .fold(7_u64, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into())),
            );
            let name = path
                .strip_prefix(root)
                .unwrap()
                .as_os_str()
                .as_bytes()
                .to_vec();
            found.insert(name, text);
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    found
}

#[test]
fn archives_of_gnu_tar_in_all_formats() {
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(text("tree")).unwrap();
    make_tree(Path::new(&text("tree")));
    let privileged = rustix::process::geteuid().is_root();
    for (format, more) in [
        ("gnu", &[][..]),
        ("gnu", &["--sparse"]),
        ("pax", &[]),
        ("pax", &["--sparse", "--sparse-version=0.0"]),
        ("pax", &["--sparse", "--sparse-version=0.1"]),
        ("pax", &["--sparse", "--sparse-version=1.0"]),
    ] {
        let (tar, theirs, ours) = (text("x.tar"), text("theirs"), text("ours"));
        let option = format!("--format={format}");
        let tree = text("tree");
        gnu_tar(&[&["-cf", &tar, &option, "-C", &tree][..], more, &["."]].concat());
        std::fs::create_dir(&theirs).unwrap();
        std::fs::create_dir(&ours).unwrap();
        gnu_tar(&["-xpf", &tar, "--numeric-owner", "-C", &theirs]);
        let fs = std::fs::File::open(&ours).unwrap();
        let options = ApplyOptions { privileged };
        let input = std::fs::File::open(&tar).unwrap();
        apply(
            input,
            fs.as_fd(),
            options,
            &Limits::default(),
            &Cancel::new(),
        )
        .unwrap();
        let (theirs_seen, ours_seen) = (listing(Path::new(&theirs)), listing(Path::new(&ours)));
        assert!(ours_seen.len() > if privileged { 20 } else { 10 });
        for (name, text) in &theirs_seen {
            let own = ours_seen.get(name);
            assert_eq!(own, Some(text), "{format} {more:?} {}", name.escape_ascii());
        }
        assert_eq!(ours_seen.len(), theirs_seen.len(), "{format} {more:?}");
        std::fs::remove_dir_all(&theirs).unwrap();
        std::fs::remove_dir_all(&ours).unwrap();
    }
}
