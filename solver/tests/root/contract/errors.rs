//! What cannot be started is refused in the same words by every `Executor` that starts processes.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::executor::{ExecutorError, Mount, MountSource, Process, ResourceLimit, User};

use super::kernel::Make;
use super::subject::Subject;

/// Calls `$callback!` with the name of every item.
macro_rules! error_items {
    ($callback:ident, $make:expr) => {
        $callback! { errors, $make;
            programs_that_cannot_be_executed_are_told_apart,
            directories_that_cannot_be_entered_are_refused,
            users_that_do_not_exist_are_refused,
            mounts_that_cannot_be_made_are_refused,
            what_makes_no_sense_is_refused,
        }
    };
}
pub(crate) use error_items;

/// The kind of an error: its names without what they are about.
fn refused(subject: &Subject, process: Process) -> String {
    let error = subject.try_run(process).unwrap_err();
    assert_eq!(error.fault(), Fault::Input, "{error:?}");
    match error {
        ExecutorError::Start { source } => {
            let text = format!("{source:?}");
            let kind = text.split([' ', '(', '{']).next().unwrap_or_default();
            assert!(!source.to_string().is_empty());
            kind.to_owned()
        }
        other => format!("{other:?}")
            .split([' ', '{'])
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

fn write(base: &Path, name: &str, text: &str, mode: u32) {
    let path = base.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn as_user(mut process: Process, uid: u32, gid: u32) -> Process {
    let mut user = User::default();
    (user.uid, user.gid) = (uid, gid);
    process.user = user;
    process
}

pub(crate) fn programs_that_cannot_be_executed_are_told_apart(make: Make) {
    let subject = make();
    let base = subject.base();
    write(base, "tmp/plain", "#!/bin/sh\n", 0o644);
    write(base, "tmp/closed", "#!/bin/sh\n", 0o700);
    write(base, "tmp/noise", "\u{1}\u{2}not a program", 0o755);
    write(base, "tmp/script", "#!/nowhere/sh\n", 0o755);
    symlink("/nowhere", base.join("tmp/dangling")).unwrap();
    for (program, kind) in [
        ("nowhere", "ProgramNotFound"),
        ("/nowhere", "ProgramNotFound"),
        ("./nowhere", "ProgramNotFound"),
        ("/tmp/dangling", "ProgramNotFound"),
        ("/tmp/plain", "ProgramPermission"),
        ("/tmp", "ProgramPermission"),
        ("/tmp/noise", "ProgramFormat"),
        ("/tmp/script", "InterpreterNotFound"),
    ] {
        assert_eq!(
            refused(&subject, subject.process(&[program])),
            kind,
            "{program}"
        );
    }
    let process = as_user(subject.process(&["/tmp/closed"]), 7, 7);
    assert_eq!(refused(&subject, process), "ProgramPermission");
}

pub(crate) fn directories_that_cannot_be_entered_are_refused(make: Make) {
    let subject = make();
    symlink("/proc/self/fd/8", subject.base().join("link")).unwrap();
    for cwd in [
        "/proc/self/fd/7",
        "/proc/self/fd/3/..",
        "/proc/1/root",
        "/proc/self/cwd",
        "/link",
    ] {
        let mut process = subject.process(&["/bin/true"]);
        process.cwd = cwd.into();
        assert_eq!(refused(&subject, process), "CwdRefused", "{cwd}");
    }
    let mut process = subject.process(&["/bin/true"]);
    process.cwd = "relative".into();
    assert_eq!(refused(&subject, process), "InvalidSpec");
    // A file in the way is the input's fault too, but there is no word of its own for it.
    let mut process = subject.process(&["/bin/true"]);
    process.cwd = "/etc/passwd".into();
    let error = subject.try_run(process).unwrap_err();
    assert!(format!("{error:?}").contains("Cwd"), "{error:?}");
}

pub(crate) fn users_that_do_not_exist_are_refused(make: Make) {
    let subject = make();
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let process = as_user(subject.process(&["/bin/true"]), uid, gid);
        assert_eq!(refused(&subject, process), "InvalidSpec");
    }
    let mut process = subject.process(&["/bin/true"]);
    process.user.groups = vec![u32::MAX];
    assert_eq!(refused(&subject, process), "InvalidSpec");
}

pub(crate) fn mounts_that_cannot_be_made_are_refused(make: Make) {
    let subject = make();
    let path = subject.new_dir();
    let bind = |target: &str, selector: Option<&str>| {
        let mut process = subject.process(&["/bin/true"]);
        process.mounts = vec![Mount {
            target: target.into(),
            source: MountSource::Bind { path: path.clone() },
            selector: selector.map(Into::into),
            readonly: false,
            nosuid: false,
            noexec: false,
        }];
        process
    };
    assert_eq!(
        refused(&subject, bind("/m", Some("missing"))),
        "SelectorNotFound"
    );
    symlink("/etc", path.join("link")).unwrap();
    assert_eq!(
        refused(&subject, bind("/m", Some("link"))),
        "SelectorNotFound"
    );
    assert_eq!(refused(&subject, bind("/", None)), "InvalidSpec");
    assert_eq!(refused(&subject, bind("relative", None)), "InvalidSpec");
    // An image in which a link stands where the kernel's files go.
    for name in ["proc", "sys", "dev"] {
        symlink("/etc", subject.base().join(name)).unwrap();
        assert_eq!(
            refused(&subject, subject.process(&["/bin/true"])),
            "TargetRefused",
            "{name}"
        );
        fs::remove_file(subject.base().join(name)).unwrap();
    }
}

pub(crate) fn what_makes_no_sense_is_refused(make: Make) {
    let subject = make();
    assert_eq!(refused(&subject, subject.process(&[])), "InvalidSpec");
    assert_eq!(refused(&subject, subject.process(&[""])), "InvalidSpec");
    assert_eq!(
        refused(&subject, subject.process(&["/bin/echo", "a\0b"])),
        "InvalidSpec"
    );
    let mut process = subject.process(&["/bin/true"]);
    process.env.push("A=\0".to_owned());
    assert_eq!(refused(&subject, process), "InvalidSpec");
    let mut process = subject.process(&["/bin/true"]);
    process.hostname = "x".repeat(65);
    assert_eq!(refused(&subject, process), "InvalidSpec");
    let mut process = subject.process(&["/bin/true"]);
    process.limits = vec![ResourceLimit {
        name: "wishes".to_owned(),
        soft: 3,
        hard: 3,
    }];
    assert_eq!(refused(&subject, process), "UnknownLimit");
}
