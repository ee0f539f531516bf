mod copying;
mod patterns;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::id::ContentDigest;
use crate::tree::Kind;
use crate::tree::checksum::{ChecksumOptions, checksum};

fn open(path: &Path) -> OwnedFd {
    OwnedFd::from(fs::File::open(path).unwrap())
}

/// Longer than a file must be untouched for its checksum to be remembered.
fn settle() {
    std::thread::sleep(Duration::from_millis(40));
}

fn scan(directory: &Path, cache: &LocalCache) -> Result<LocalTree, LocalError> {
    LocalTree::scan(
        "ctx",
        directory,
        &ScanOptions::default(),
        cache,
        &Cancel::new(),
    )
}

fn names(tree: &LocalTree) -> Vec<String> {
    let text = |path: &TreePath| String::from_utf8(path.as_bytes().to_vec()).unwrap();
    tree.view().walk().map(|(path, _)| text(&path)).collect()
}

fn sum(tree: &LocalTree) -> ContentDigest {
    checksum(
        tree.view(),
        b"/",
        &ChecksumOptions::default(),
        &Cancel::new(),
    )
    .unwrap()
}

fn make(files: &[(&str, &str)]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = temp.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    temp
}

#[test]
fn an_unchanged_directory_is_not_read_again() {
    let temp = make(&[("a/x", "1"), ("a/y", "22"), ("b/z", "333"), ("top", "4444")]);
    settle();
    let stat = tempfile::tempdir().unwrap();
    let cache = LocalCache::new(Some(open(stat.path())));
    let first = scan(temp.path(), &cache).unwrap();
    let digest = sum(&first);
    assert_eq!((first.files_read(), first.bytes_read()), (4, 10));
    first.store_stat_cache(&cache).unwrap();
    assert_eq!(
        fs::read_dir(stat.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );

    let warm = scan(temp.path(), &cache).unwrap();
    assert!(
        Arc::ptr_eq(warm.view().root(), first.view().root()),
        "the same tree in memory"
    );
    assert_eq!(sum(&warm), digest);
    assert_eq!(warm.files_read(), 0);

    let other = LocalCache::new(Some(open(stat.path())));
    let cold = scan(temp.path(), &other).unwrap();
    assert_eq!(sum(&cold), digest);
    assert_eq!(cold.files_read(), 0, "another process");

    fs::write(temp.path().join("a/x"), "changed").unwrap();
    let changed = scan(temp.path(), &other).unwrap();
    assert_ne!(sum(&changed), digest);
    assert_eq!(changed.files_read(), 1);
    let b = TreePath::new("b").unwrap();
    let (old, new) = (
        cold.view().lookup(&b).unwrap(),
        changed.view().lookup(&b).unwrap(),
    );
    assert!(Arc::ptr_eq(old, new), "what did not change is shared");
    let before = fs::read_dir(stat.path()).unwrap().next().unwrap().unwrap();
    let inode = before.metadata().unwrap().ino();
    warm.store_stat_cache(&cache).unwrap();
    let after = fs::read_dir(stat.path()).unwrap().next().unwrap().unwrap();
    assert_eq!(
        after.metadata().unwrap().ino(),
        inode,
        "nothing new, nothing written"
    );
}

#[test]
fn fresh_files_and_files_of_the_future_are_read_each_time() {
    let temp = make(&[("fresh", "1")]);
    let cache = LocalCache::default();
    let first = scan(temp.path(), &cache).unwrap();
    sum(&first);
    // Same size and, as far as clocks can tell, perhaps the same time.
    fs::write(temp.path().join("fresh"), "2").unwrap();
    let second = scan(temp.path(), &cache).unwrap();
    assert_ne!(sum(&first), sum(&second));
    let future = std::time::UNIX_EPOCH + Duration::from_secs(5_000_000_000);
    fs::File::open(temp.path().join("fresh"))
        .unwrap()
        .set_modified(future)
        .unwrap();
    settle();
    for _ in 0..2 {
        let tree = scan(temp.path(), &cache).unwrap();
        sum(&tree);
        assert_eq!(tree.files_read(), 1);
    }
}

#[test]
fn every_way_of_changing_a_file_shows() {
    let temp = make(&[("d/f", "same size")]);
    let file = temp.path().join("d/f");
    let stat = tempfile::tempdir().unwrap();
    let keep_time = |act: &dyn Fn()| {
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        act();
        fs::File::open(&file).unwrap().set_modified(time).unwrap();
        settle();
    };
    settle();
    let mut digests = Vec::new();
    let acts: [&dyn Fn(); 4] = [
        &|| {},
        &|| fs::write(&file, "SAME SIZE").unwrap(),
        &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o751)).unwrap(),
        &|| {
            fs::write(temp.path().join("d/new"), "same SIZE").unwrap();
            fs::set_permissions(temp.path().join("d/new"), fs::Permissions::from_mode(0o751))
                .unwrap();
            fs::rename(temp.path().join("d/new"), &file).unwrap();
        },
    ];
    for act in acts {
        keep_time(act);
        // Each time as a new process.
        let cache = LocalCache::new(Some(open(stat.path())));
        let tree = scan(temp.path(), &cache).unwrap();
        digests.push(sum(&tree));
        tree.store_stat_cache(&cache).unwrap();
    }
    for (at, digest) in digests.iter().enumerate() {
        assert!(
            !digests[..at].contains(digest),
            "change {at} went unnoticed"
        );
    }
}

#[test]
fn damaged_records_are_ignored() {
    let temp = make(&[("a", "1"), ("b", "2")]);
    settle();
    let stat = tempfile::tempdir().unwrap();
    let cache = LocalCache::new(Some(open(stat.path())));
    let tree = scan(temp.path(), &cache).unwrap();
    let digest = sum(&tree);
    tree.store_stat_cache(&cache).unwrap();
    let stored = fs::read_dir(stat.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = fs::read(&stored).unwrap();
    let mut damages = vec![
        Vec::new(),
        b"short".to_vec(),
        good[..good.len() - 1].to_vec(),
    ];
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        damages.push(bad);
    }
    for bad in damages {
        fs::write(&stored, bad).unwrap();
        let tree = scan(temp.path(), &LocalCache::new(Some(open(stat.path())))).unwrap();
        assert_eq!(sum(&tree), digest);
        assert_eq!(tree.files_read(), 2);
    }
}

#[test]
fn hostile_directories_neither_block_nor_lead_outside() {
    let outside = make(&[("secret", "s")]);
    let temp = make(&[("real/file", "x"), ("plain", "y")]);
    let at = |name: &str| temp.path().join(name);
    rustix::fs::mknodat(
        CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::from(0o600),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink("loop", at("loop")).unwrap();
    symlink(outside.path(), at("out")).unwrap();
    symlink("real", at("inner")).unwrap();
    let cache = LocalCache::default();
    let tree = scan(temp.path(), &cache).unwrap();
    assert_eq!(
        names(&tree),
        ["inner", "loop", "out", "pipe", "plain", "real", "real/file"]
    );
    let kind = |name: &str| {
        tree.view()
            .lookup(&TreePath::new(name).unwrap())
            .unwrap()
            .entry()
            .kind
    };
    assert_eq!((kind("out"), kind("pipe")), (Kind::Symlink, Kind::Fifo));
    sum(&tree);
    // What was a file becomes a pipe, and a directory a link, after the scan.
    fs::remove_file(at("plain")).unwrap();
    rustix::fs::mknodat(
        CWD,
        at("plain"),
        rustix::fs::FileType::Fifo,
        Mode::from(0o600),
        0,
    )
    .unwrap();
    fs::rename(at("real"), at("moved")).unwrap();
    symlink(outside.path(), at("real")).unwrap();
    let files = tree.view().root().files().unwrap().clone();
    let path = |text: &str| TreePath::new(text).unwrap();
    assert_eq!(
        files.open(&path("plain")).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    assert!(files.open(&path("real/secret")).is_err());
    assert!(files.open(&path("out/secret")).is_err());
    assert!(files.directory(&path("real")).is_err());
}

#[test]
fn directories_exchanged_for_links_while_walking_lead_nowhere() {
    let outside = make(&[("secret", "s")]);
    let temp = make(&[("d/sub/file", "x")]);
    let (real, other) = (temp.path().join("d"), temp.path().join("e"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&real, &other).unwrap();
                symlink(outside.path(), &real).unwrap();
                fs::remove_file(&real).unwrap();
                fs::rename(&other, &real).unwrap();
            }
        });
        let cache = LocalCache::default();
        for _ in 0..300 {
            let tree = scan(temp.path(), &cache).unwrap();
            assert!(!names(&tree).iter().any(|name| name.ends_with("secret")));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn owners_links_and_attributes() {
    let temp = make(&[("a/one", "1"), ("b/alone", "2")]);
    fs::hard_link(temp.path().join("a/one"), temp.path().join("b/two")).unwrap();
    fs::hard_link(temp.path().join("b/alone"), temp.path().join("b/elsewhere")).unwrap();
    crate::dir::set_xattr(open(temp.path()), b"a", b"user.x", b"1").unwrap();
    let options = ScanOptions {
        exclude: vec!["b/elsewhere".to_owned()],
        ..Default::default()
    };
    let cache = LocalCache::default();
    let tree = LocalTree::scan("ctx", temp.path(), &options, &cache, &Cancel::new()).unwrap();
    let entry = |name: &str| {
        let path = TreePath::new(name).unwrap();
        tree.view().lookup(&path).unwrap().entry().clone()
    };
    let group = entry("a/one").link_group;
    assert_ne!(group, 0);
    assert_eq!(entry("b/two").link_group, group);
    assert_eq!(
        entry("b/alone").link_group,
        0,
        "its other name is not in the source"
    );
    assert_eq!(
        entry("a").attributes.xattrs.value(b"user.x"),
        Some(&b"1"[..])
    );
    assert_eq!(
        (entry("a/one").attributes.uid, entry("a/one").attributes.gid),
        (0, 0)
    );
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(temp.path().join("b/alone"), Some(12), Some(34)).unwrap();
        for (keep_owners, owner) in [(false, (0, 0)), (true, (12, 34))] {
            let options = ScanOptions {
                keep_owners,
                ..ScanOptions::default()
            };
            let tree =
                LocalTree::scan("ctx", temp.path(), &options, &cache, &Cancel::new()).unwrap();
            let path = TreePath::new("b/alone").unwrap();
            let attributes = &tree.view().lookup(&path).unwrap().entry().attributes;
            assert_eq!((attributes.uid, attributes.gid), owner);
        }
    } else {
        eprintln!("SKIPPED: other owners need root");
    }
}

#[test]
fn errors_name_what_they_are_about() {
    let temp = make(&[("file", ""), ("many/1", ""), ("many/2", "")]);
    let cache = LocalCache::default();
    let missing = scan(&temp.path().join("no"), &cache).unwrap_err();
    assert!(matches!(&missing, LocalError::Missing { name } if name == "ctx"));
    assert_eq!(missing.fault(), Fault::Input);
    let file = scan(&temp.path().join("file"), &cache).unwrap_err();
    assert!(matches!(file, LocalError::NotADirectory { .. }));
    let with = |options| LocalTree::scan("ctx", temp.path(), &options, &cache, &Cancel::new());
    let limits = Limits {
        local_entries: 3,
        ..Limits::default()
    };
    let many = with(ScanOptions {
        limits,
        ..ScanOptions::default()
    })
    .unwrap_err();
    assert!(matches!(many, LocalError::TooMany { most: 3, .. }));
    let bad = with(ScanOptions {
        exclude: vec!["[".to_owned()],
        ..ScanOptions::default()
    });
    assert!(matches!(bad.unwrap_err(), LocalError::Pattern { .. }));
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled =
        LocalTree::scan("ctx", temp.path(), &ScanOptions::default(), &cache, &cancel).unwrap_err();
    assert!(matches!(cancelled, LocalError::Cancelled(_)));
}

/// Runs one test of this binary again as an ordinary user.
#[expect(clippy::disallowed_methods, reason = "a test may start programs")]
pub(super) fn as_user(test: &str, variable: &str, value: &Path) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: becoming another user needs root");
        return;
    }
    // The binary may be where the user cannot go.
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = temp.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new("setpriv")
        .args([
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--clear-groups",
            "--no-new-privs",
        ])
        .arg(&copy)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(variable, value)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
fn unreadable_directories_are_named_unless_left_out() {
    let temp = make(&[("open/f", ""), ("closed/f", ""), ("b/unreadable", "x")]);
    for (name, mode) in [("", 0o755), ("closed", 0o000), ("b/unreadable", 0o000)] {
        let path = temp.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let test = "source::local::tests::as_user_unreadable_directories";
    as_user(test, "ASHLAR_TEST_DIRECTORY", temp.path());
    fs::set_permissions(
        temp.path().join("closed"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
}

#[test]
#[ignore = "started by unreadable_directories_are_named_unless_left_out as another user"]
#[expect(
    clippy::disallowed_methods,
    reason = "the test that starts this one says where"
)]
fn as_user_unreadable_directories() {
    let directory = PathBuf::from(std::env::var("ASHLAR_TEST_DIRECTORY").unwrap());
    let cache = LocalCache::default();
    let error = scan(&directory, &cache).unwrap_err();
    assert!(matches!(&error, LocalError::Io { path, .. } if path.as_bytes() == b"closed"));
    let options = ScanOptions {
        exclude: vec!["closed".to_owned()],
        ..ScanOptions::default()
    };
    let tree = LocalTree::scan("ctx", &directory, &options, &cache, &Cancel::new()).unwrap();
    assert_eq!(names(&tree), ["b", "b/unreadable", "open", "open/f"]);
    let options = ChecksumOptions::default();
    let error = checksum(tree.view(), b"/", &options, &Cancel::new()).unwrap_err();
    assert!(error.to_string().contains("b/unreadable"), "{error}");
}

#[test]
fn bytes_that_were_under_a_path_for_a_moment_are_not_remembered() {
    let temp = make(&[("d/f", "right"), ("e/f", "wrong")]);
    settle();
    let stat = tempfile::tempdir().unwrap();
    let cache = LocalCache::new(Some(open(stat.path())));
    let honest = sum(&scan(temp.path(), &LocalCache::default()).unwrap());
    let tree = scan(temp.path(), &cache).unwrap();
    let exchange = || {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let (a, b) = (temp.path().join("d"), temp.path().join("e"));
        rustix::fs::renameat_with(CWD, a, CWD, b, flags).unwrap();
    };
    exchange();
    assert_ne!(sum(&tree), honest);
    exchange();
    tree.store_stat_cache(&cache).unwrap();
    assert_eq!(
        sum(&scan(temp.path(), &cache).unwrap()),
        honest,
        "in the process"
    );
    let other = LocalCache::new(Some(open(stat.path())));
    assert_eq!(
        sum(&scan(temp.path(), &other).unwrap()),
        honest,
        "in another process"
    );
}
