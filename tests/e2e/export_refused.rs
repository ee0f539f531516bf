//! Outputs where the user may not write, or not yet: an error that says where, or a wait that a cancel
//! ends, and all is as it was.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::time::Duration;

use ashlar_exporters::{ExportError, Exporter, Local, LocalMode, Oci, Tar};
use ashlar_llb::{self as llb, mkdir, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use rustix::fs::{FlockOperation, flock};

use super::support::{self, Need, run, skipped, solve, temp, then};

const USER: Option<u32> = Some(1000);

/// Directories that are destinations, and the path that the error is to name.
const CASES: [(&str, &str); 7] = [
    // Of another user.
    ("closed", "closed"),
    ("hidden", "hidden"),
    ("closed/new", "closed/new"),
    // Of the user, with directories and files of another one.
    ("file", "file/d/file"),
    ("mode", "mode/empty"),
    ("other", "other/empty/other"),
    // Where everyone may add files, and only the owner may replace them.
    ("sticky", "sticky/top"),
];

fn make(out: &Path) {
    let own = |path: &str| chown(out.join(path), USER, USER).unwrap();
    let mode = |path: &str, mode: u32| {
        fs::set_permissions(out.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    for case in ["closed", "hidden", "file", "mode", "other", "sticky"] {
        support::write(out.join(case).join("top"), "old");
    }
    support::write(out.join("file/d/file"), "old");
    fs::create_dir(out.join("mode/empty")).unwrap();
    mode("mode/empty", 0o700);
    support::write(out.join("other/empty/other"), "old");
    mode("hidden", 0o700);
    mode("sticky", 0o1777);
    for path in ["file", "mode", "other"] {
        own(path);
        own(&format!("{path}/top"));
    }
}

/// What [`make`] made may not be written to by the user who does this.
pub fn role(arguments: &[&str]) {
    let [out, home] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let (out, home) = (Path::new(out), Path::new(home));
    assert!(!support::is_root());
    support::runtime().block_on(async {
        let solver = support::solver(home.join("state"));
        let made = mkdir("/d").mkdir("/empty").mkfile("/d/file", "new");
        let state = llb::scratch().file(made.created(then()));
        let state = state.file(mkfile("/top", "new").created(then()));
        let result = solve(&solver, support::request(&state)).await.result;
        let mut exports: Vec<(Box<dyn Exporter>, std::path::PathBuf)> = Vec::new();
        for (case, path) in CASES {
            let local = Local::new(out.join(case));
            let local = match case {
                "other" => local.mode(LocalMode::Delete),
                _ => local,
            };
            exports.push((Box::new(local), out.join(path)));
        }
        let file = |name: &str| out.join("closed").join(name);
        exports.push((Box::new(Tar::file(file("top"))), file("top")));
        exports.push((Box::new(Oci::archive(file("image"))), file("image")));
        exports.push((Box::new(Oci::directory(out.join("closed"))), file("blobs")));
        exports.push((Box::new(Oci::directory(file("layout"))), file("layout")));
        for (exporter, path) in exports {
            let error = exporter.export(&result, &Cancel::new()).await.unwrap_err();
            let text = support::chain(&error);
            assert!(text.contains(&path.display().to_string()), "{text}");
            assert!(text.contains("ermi"), "{text}");
            assert_eq!(error.fault(), Fault::Environment, "{text}");
            let remedy = error.remedy().unwrap();
            assert!(remedy.contains("this user"), "{text}: {remedy}");
            println!("refused: {text}");
        }
    });
}

#[test]
fn where_the_user_may_not_write_all_is_as_it_was() {
    let name = "where_the_user_may_not_write_all_is_as_it_was";
    if skipped(name, &[Need::Root, Need::Tool("setpriv")]) {
        return;
    }
    let folder = temp();
    let (out, home) = (folder.path().join("out"), folder.path().join("home"));
    fs::create_dir(&home).unwrap();
    make(&out);
    let before = support::tree(&out);
    let arguments = [&out, &home].map(|path| path.to_str().unwrap());
    let mut command = support::as_user(folder.path(), &home, "refused", &arguments);
    let text = run(command.current_dir("/").env("HOME", &home));
    assert_eq!(text.matches("refused: ").count(), CASES.len() + 4, "{text}");
    assert_eq!(support::tree(&out), before);
}

#[test]
fn a_directory_that_somebody_holds_is_waited_for_until_a_cancel() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let state = llb::scratch().file(mkfile("/file", "new").created(then()));
        let result = solve(&solver, support::request(&state)).await.result;
        let (files, layout) = (folder.path().join("files"), folder.path().join("layout"));
        support::write(files.join("file"), "old");
        let first = Oci::directory(&layout).name("example.com/a:v1");
        first.export(&result, &Cancel::new()).await.unwrap();
        let exports: [(Box<dyn Exporter>, &Path); 2] = [
            (Box::new(Local::new(&files)), &files),
            (Box::new(Oci::directory(&layout).name("b")), &layout),
        ];
        for (exporter, path) in exports {
            let before = support::tree(path);
            let held = fs::File::open(path).unwrap();
            flock(&held, FlockOperation::LockExclusive).unwrap();
            let cancel = Cancel::new();
            let raised = cancel.clone();
            let prepared = exporter.prepare(&result, &cancel).await.unwrap();
            let finalized = prepared.finalize(&cancel);
            let raise = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                raised.cancel();
            };
            let (finalized, ()) = tokio::join!(finalized, raise);
            assert!(
                matches!(finalized, Err(ExportError::Cancelled)),
                "{finalized:?}"
            );
            assert_eq!(support::tree(path), before);
            // Once it is let go, the wait is over.
            let cancel = Cancel::new();
            let let_go = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                drop(held);
            };
            let (exported, ()) = tokio::join!(exporter.export(&result, &cancel), let_go);
            exported.unwrap();
            assert_ne!(support::tree(path), before);
        }
    });
}
