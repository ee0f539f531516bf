//! A host process that is killed leaves no running step and nothing of a container runtime.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ashlar_solver::cancel::Cancel;

use crate::contract::kernel::{assert_still, stubborn};
use crate::contract::subject::{Collected, until};
use crate::contract::{subject, subject_with};

/// Where the process that is to be killed finds what it is to do.
const NAME: &str = "ASHLAR_KILLED_EXECUTOR";
const HOST: &str = "ASHLAR_KILLED_DIRECTORY";

#[test]
#[ignore = "it is started, and killed, by the tests below"]
#[expect(
    clippy::disallowed_methods,
    reason = "the other tests tell it what to do"
)]
fn runs_steps_until_it_is_killed() {
    let name = std::env::var(NAME).unwrap();
    let host = PathBuf::from(std::env::var(HOST).unwrap());
    let subject = subject_with(&name, &host);
    subject.runtime.block_on(async {
        let cancel = Cancel::new();
        let runs = (0..3).map(|number| {
            let directory = host.join(format!("step{number}"));
            fs::create_dir(&directory).unwrap();
            let process = stubborn(&subject, &directory);
            subject.run_with(process, Collected::default().into(), &cancel)
        });
        futures::future::join_all(runs).await
    });
}

/// What the system knows of: mounts of the host, cgroups, and state of runtimes.
fn traces() -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(mounts.lines().map(str::to_owned));
    for directory in ["/run/runc", "/run/crun", "/run/user"] {
        if let Ok(found) = fs::read_dir(directory) {
            traces.extend(found.map(|it| it.unwrap().path().display().to_string()));
        }
    }
    // Runtimes call a cgroup as they call the container.
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == "step" {
                    traces.insert(entry.path().display().to_string());
                }
                todo.push(entry.path());
            }
        }
    }
    traces
}

/// The processes that know of `directory`, by its name: what is mounted of a file system is told
/// from the root of that.
fn processes(directory: &Path) -> Vec<String> {
    let directory = directory.file_name().unwrap().to_str().unwrap();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let read = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("environ").contains(directory) || read("mountinfo").contains(directory) {
            found.push(format!("{:?} {}", entry.file_name(), read("cmdline")));
        }
    }
    found
}

/// A process that ends with the test, even one that fails.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the test binary runs itself")]
fn kill_nine(name: &str) {
    // Fails here, not in the other process, if the executor is not there.
    drop(subject(name));
    let temp = tempfile::tempdir().unwrap();
    let before = traces();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "killed::runs_steps_until_it_is_killed",
            "--ignored",
        ])
        .env(NAME, name)
        .env(HOST, temp.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let mut child = Ended(child.unwrap());
    let steps: Vec<_> = (0..3)
        .map(|number| temp.path().join(format!("step{number}")))
        .collect();
    until("the start", || {
        assert_eq!(child.0.try_wait().unwrap(), None, "it ended by itself");
        steps
            .iter()
            .all(|step| (1..=3).all(|it| step.join(it.to_string()).exists()))
    });
    assert!(
        processes(temp.path()).len() > 9,
        "the steps are not found by what they know"
    );
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    until("the end of all steps", || processes(temp.path()).is_empty());
    for step in &steps {
        assert_still(step);
    }
    assert_eq!(traces(), before);
    // Its own files are all there is of it: layers, and where the steps wrote.
    let left = fs::read_dir(temp.path())
        .unwrap()
        .map(|it| it.unwrap().file_name());
    let left: BTreeSet<_> = left.map(|it| it.into_string().unwrap()).collect();
    let expected = ["step0", "step1", "step2", "subject"];
    assert_eq!(left, expected.map(str::to_owned).into());
}

#[test]
fn kill_nine_leaves_nothing_of_the_sandbox() {
    kill_nine("sandbox");
}

#[test]
fn kill_nine_leaves_nothing_of_runc() {
    kill_nine("runc");
}

#[test]
fn kill_nine_leaves_nothing_of_crun() {
    kill_nine("crun");
}
