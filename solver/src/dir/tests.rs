use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode, mkfifoat, mknodat};

use super::*;

fn root(temp: &tempfile::TempDir) -> OwnedFd {
    OwnedFd::from(File::open(temp.path()).unwrap())
}

#[test]
fn links_are_not_followed_anywhere() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("real/deep")).unwrap();
    fs::write(temp.path().join("real/deep/file"), "x").unwrap();
    symlink("real", temp.path().join("way")).unwrap();
    symlink("file", temp.path().join("real/deep/last")).unwrap();
    let root = root(&temp);
    assert!(open_file(&root, b"real/deep/file").is_ok());
    for step in [open_beneath, step_by_step] {
        assert!(step(root.as_fd(), b"real/deep/file", FILE).is_ok());
        assert!(step(root.as_fd(), b"way/deep/file", FILE).is_err());
        assert!(step(root.as_fd(), b"real/deep/last", FILE).is_err());
        assert!(step(root.as_fd(), b"real/../real/deep/file/..", FILE).is_err());
    }
    assert!(open_directory(&root, b"way").is_err());
    assert!(open_directory(&root, b"").is_ok());
    let last = open_file(&root, b"real/deep/last").unwrap_err();
    assert_eq!(last.kind(), io::ErrorKind::InvalidData);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let temp = tempfile::tempdir().unwrap();
    mkfifoat(CWD, temp.path().join("pipe"), Mode::from(0o600)).unwrap();
    fs::create_dir(temp.path().join("dir")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("socket")).unwrap();
    let root = root(&temp);
    let mut names = vec!["pipe", "dir", "socket"];
    // Only root may make the device.
    let device = rustix::fs::makedev(1, 3);
    let path = temp.path().join("device");
    if mknodat(
        CWD,
        path,
        FileType::CharacterDevice,
        Mode::from(0o600),
        device,
    )
    .is_ok()
    {
        names.push("device");
    }
    for name in names {
        let error = open_file(&root, name.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
    }
}

#[test]
fn xattrs_of_files_and_links() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("file"), "x").unwrap();
    symlink("file", temp.path().join("link")).unwrap();
    let root = root(&temp);
    let long = vec![7; 1000];
    assert!(set_xattr(&root, b"file", b"user.long", &long).unwrap());
    assert!(
        !set_xattr(&root, b"link", b"user.x", b"1").unwrap(),
        "user.* on a link"
    );
    let found = xattrs(&root, b"file").unwrap();
    let found: Vec<_> = found
        .iter()
        .filter(|(key, _)| key.starts_with(b"user."))
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!(*found[0].1, long);
    remove_xattr(&root, b"file", b"user.long").unwrap();
    remove_xattr(&root, b"file", b"user.long").unwrap();
    assert!(
        xattrs(&root, b"file")
            .unwrap()
            .iter()
            .all(|(key, _)| !key.starts_with(b"user."))
    );
}

#[test]
fn modes_are_set_whatever_they_are_and_never_through_links() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("directory")).unwrap();
    symlink("file", at("link")).unwrap();
    let root = root(&temp);
    for name in ["file", "directory"] {
        for mode in [0, 0o2751] {
            set_mode(root.as_fd(), name.as_bytes(), mode).unwrap();
            let found = at(name).metadata().unwrap().permissions().mode();
            assert_eq!(found & 0o7777, mode, "{name}");
        }
    }
    assert!(set_mode(root.as_fd(), b"link", 0o777).is_err());
    assert!(set_mode(root.as_fd(), b"none", 0o777).is_err());
    let found = at("file").metadata().unwrap().permissions().mode();
    assert_eq!(found & 0o7777, 0o2751);
}
