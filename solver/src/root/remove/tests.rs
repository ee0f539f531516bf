use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, mkdirat};

use super::*;

/// What a re-run of this test as another user is told by.
const FOLDER: &str = "ASHLAR_TEST_REMOVE";

fn open(path: &Path) -> OwnedFd {
    openat(CWD, path, DIRECTORY, Mode::empty()).unwrap()
}

/// A chain of directories of which no path could be given; returns the lowest.
fn chain(top: OwnedFd, depth: usize, name: &str) -> OwnedFd {
    let mut here = top;
    for _ in 0..depth {
        mkdirat(&here, name, Mode::RWXU).unwrap();
        here = openat(&here, name, DIRECTORY, Mode::empty()).unwrap();
    }
    here
}

fn touch(dir: &OwnedFd, name: &str) {
    openat(dir, name, OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "a test measures itself")]
fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[test]
fn thousands_of_levels_take_a_small_stack_and_few_descriptors() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("tree")).unwrap();
    let lowest = chain(
        open(&temp.path().join("tree")),
        5_000,
        "a-directory-in-the-way",
    );
    touch(&lowest, "file");
    let side = chain(open(&temp.path().join("tree")), 100, "b");
    touch(&side, "file");
    drop((lowest, side));
    let dir = open(temp.path());
    let work = move || remove_tree(dir.as_fd(), "tree");
    let thread = std::thread::Builder::new().stack_size(64 << 10);
    thread.spawn(work).unwrap().join().unwrap().unwrap();
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn one_directory_of_many_files() {
    let temp = tempfile::tempdir().unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..20_000 {
        let place = tree.join(format!("a-file-with-some-name-{number}"));
        if number % 100 == 0 {
            fs::create_dir_all(place.join("sub")).unwrap();
        } else {
            File::create(place).unwrap();
        }
    }
    remove_tree(open(temp.path()).as_fd(), "tree").unwrap();
    assert!(!tree.exists());
}

#[test]
fn removing_follows_no_link() {
    let temp = tempfile::tempdir().unwrap();
    let canary = temp.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "x").unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    symlink(&canary, tree.join("a/absolute")).unwrap();
    symlink("../../canary", tree.join("a/relative")).unwrap();
    symlink("..", tree.join("a/b/up")).unwrap();
    symlink("loop", tree.join("loop")).unwrap();
    symlink(&canary, temp.path().join("itself")).unwrap();
    let dir = open(temp.path());
    remove_tree(dir.as_fd(), "tree").unwrap();
    remove_tree(dir.as_fd(), "itself").unwrap();
    remove_tree(dir.as_fd(), "missing").unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    assert_eq!(fs::read(canary.join("file")).unwrap(), b"x");
}

/// An ordinary user's tree: most of it is closed, and one leaf is in a directory of root.
fn closed_tree(tree: &Path) {
    for path in [
        "closed/inner/deep",
        "unreadable/inner",
        "unsearchable/x",
        "readonly/sub",
    ] {
        fs::create_dir_all(tree.join(path)).unwrap();
        fs::write(tree.join(path).join("file"), "x").unwrap();
    }
    let modes = [
        ("closed/inner/deep", 0),
        ("closed/inner", 0o000),
        ("closed", 0o100),
        ("unreadable", 0o300),
        ("unsearchable", 0o600),
        ("readonly/sub", 0o500),
        ("readonly", 0o555),
    ];
    for (path, mode) in modes {
        fs::set_permissions(tree.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn closed_directories_are_opened_for_their_owner() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        closed_tree(&folder.join("tree"));
        remove_tree(open(folder).as_fd(), "tree").unwrap();
        assert!(!folder.join("tree").exists());
        // Deep trees that are closed on the way up.
        fs::create_dir(folder.join("deep")).unwrap();
        let lowest = chain(open(&folder.join("deep")), 200, "d");
        let mut here = lowest;
        for _ in 0..200 {
            fchmod(&here, Mode::RUSR).unwrap();
            let Ok(next) = openat(&here, c"..", DIRECTORY, Mode::empty()) else {
                break;
            };
            here = next;
        }
        remove_tree(open(folder).as_fd(), "deep").unwrap();
        // One leaf that is root's, at the end of a long way: told, linear, and all else is gone.
        let taken = timed(|| {
            let error = remove_tree(open(folder).as_fd(), "stuck").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        });
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("folder");
    fs::create_dir_all(folder.join("stuck")).unwrap();
    let mut here = open(&folder.join("stuck"));
    for _ in 0..40 {
        touch(&here, "before");
        touch(&here, "zzz");
        here = chain(here, 1, "way");
    }
    mkdirat(&here, "of-root", Mode::RWXU).unwrap();
    touch(
        &openat(&here, "of-root", DIRECTORY, Mode::empty()).unwrap(),
        "leaf",
    );
    if !rustix::process::geteuid().is_root() {
        skipped(
            "closed_directories_are_opened_for_their_owner",
            "another user is needed",
        );
        return;
    }
    let own = |path: &Path| std::os::unix::fs::chown(path, Some(1000), Some(1000)).unwrap();
    own(&folder);
    let mut here = folder.join("stuck");
    while here.is_dir() {
        own(&here);
        for name in ["before", "zzz"] {
            if here.join(name).exists() {
                own(&here.join(name));
            }
        }
        here.push("way");
    }
    // Where the other user can reach and run it.
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = temp.path().join("binary");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "only another process can be another user"
    )]
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "1000", "--regid", "1000", "--clear-groups"])
        .arg(binary);
    command.args([
        "--exact",
        "root::remove::tests::closed_directories_are_opened_for_their_owner",
    ]);
    let output = command
        .env(FOLDER, &folder)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    // Only the way to the leaf is left.
    let mut left = 0;
    let mut here = folder.join("stuck");
    while here.is_dir() {
        let names: Vec<_> = fs::read_dir(&here)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert!(names.len() == 1, "{names:?}");
        here.push(&names[0]);
        left += 1;
    }
    assert_eq!(left, 42);
    // Root may.
    remove_tree(open(&folder).as_fd(), "stuck").unwrap();
    assert!(!folder.join("stuck").exists());
}

#[test]
fn what_is_mounted_inside_stays() {
    let temp = tempfile::tempdir().unwrap();
    let canary = temp.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "x").unwrap();
    let tree = temp.path().join("tree");
    fs::create_dir_all(tree.join("a/mount")).unwrap();
    fs::write(tree.join("a/file"), "x").unwrap();
    if rustix::mount::mount_bind(&canary, tree.join("a/mount")).is_err() {
        skipped("what_is_mounted_inside_stays", "this process may not mount");
        return;
    }
    let result = remove_tree(open(temp.path()).as_fd(), "tree");
    rustix::mount::unmount(tree.join("a/mount"), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(result.is_err());
    assert_eq!(fs::read(canary.join("file")).unwrap(), b"x");
    assert!(!tree.join("a/file").exists());
    remove_tree(open(temp.path()).as_fd(), "tree").unwrap();
    assert!(!tree.exists());
}

/// A skipped test is counted by this line.
fn skipped(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
}
