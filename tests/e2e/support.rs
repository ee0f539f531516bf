//! What all tests here use: solvers, bases, trees on disk, child processes, reasons to skip.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ashlar_exporters::{Exporter as _, Local};
use ashlar_llb::{self as llb, BlobDigest, Constraints, Platform, State, copy};
use ashlar_solver::cache::MissReason;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::progress::{Event, Outcome};
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::{SolveError, SolveRequest, Solved, Solver};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tempfile::TempDir;

/// Names the role of a child process.
pub const ROLE: &str = "ASHLAR_E2E_ROLE";
/// Its arguments, one per line.
pub const ARGUMENTS: &str = "ASHLAR_E2E_ARGUMENTS";
/// The search path of steps.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Root,
    Tool(&'static str),
    Debian,
}

/// Whether something is missing; says so then.
pub fn skipped(test: &str, needs: &[Need]) -> bool {
    let reason = needs.iter().find_map(|need| match need {
        Need::Root if !is_root() => Some("needs root".to_owned()),
        Need::Tool(name) if tool(name).is_none() => Some(format!("needs {name}")),
        Need::Debian => debian_layout().err(),
        _ => None,
    });
    if let Some(reason) = &reason {
        println!("SKIPPED: {test}: {reason}");
    }
    reason.is_some()
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path
        .split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
    folders
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.is_file())
}

/// An empty directory that everyone may enter, gone at the end of the test.
pub fn temp() -> TempDir {
    let folder = tempfile::Builder::new()
        .prefix("ashlar-e2e-")
        .tempdir()
        .unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// The layout with Debian and gcc, image `base`; made if it can be.
pub fn debian_layout() -> Result<PathBuf, String> {
    let default = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("debian-base");
    let layout = std::env::var("ASHLAR_TEST_BASE").map_or(default, PathBuf::from);
    if layout.join("complete").exists() {
        return Ok(layout);
    }
    if !is_root() {
        return Err(format!("needs root to make {}", layout.display()));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/debian-base.sh");
    run(Command::new("flock")
        .arg(layout.with_extension("lock"))
        .arg(script)
        .arg(&layout));
    Ok(layout)
}

/// A tree with a shell: busybox and a few names for it, in the directory `base` of `folder`.
pub fn busybox(folder: &Path) -> PathBuf {
    let base = folder.join("base");
    fs::create_dir_all(base.join("bin")).unwrap();
    fs::create_dir_all(base.join("tmp")).unwrap();
    fs::copy(
        tool("busybox").expect("busybox is there"),
        base.join("bin/busybox"),
    )
    .unwrap();
    for name in [
        "sh", "cat", "chown", "cp", "dd", "echo", "ip", "ls", "mkdir", "nc", "nslookup", "setsid",
        "sleep", "timeout", "touch", "true", "wc",
    ] {
        std::os::unix::fs::symlink("busybox", base.join("bin").join(name)).unwrap();
    }
    base
}

/// The tree that [`busybox`] made, lent as `base`.
pub fn busybox_state() -> State {
    let local = llb::local("base").custom_name("busybox");
    let copied = copy(&local, "/", "/").contents_only().custom_name("base");
    llb::scratch().file(copied).env("PATH", PATH)
}

pub fn request(state: &State) -> SolveRequest {
    let platform = Platform::of_target();
    SolveRequest::new(state.marshal(&Constraints::new(platform)).unwrap())
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A solver on `root`; to be called in a runtime.
pub fn solver(root: impl AsRef<Path>) -> Solver {
    match Solver::builder().root(root.as_ref()).build() {
        Ok(solver) => solver,
        Err(error) => panic!("{}", chain(&error)),
    }
}

pub async fn solve(solver: &Solver, request: SolveRequest) -> Solved {
    match solver.solve(request).result().await {
        Ok(solved) => solved,
        Err(error) => panic!("{}", chain(&error)),
    }
}

/// Such a request with the base that [`busybox`] made in `folder`.
pub fn lent(folder: &Path, state: &State) -> SolveRequest {
    request(state).local("base", folder.join("base"))
}

/// Solves, and returns what became of it and what the steps wrote, both streams together.
pub async fn told(solver: &Solver, request: SolveRequest) -> (Result<Solved, SolveError>, String) {
    let (mut events, outcome) = solver.solve(request).split();
    let mut text = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::Log { data, .. } = event {
            text.extend_from_slice(&data);
        }
    }
    (outcome.await, String::from_utf8(text).unwrap())
}

/// What the steps of a solve wrote that has to succeed.
pub async fn output(solver: &Solver, request: SolveRequest) -> String {
    match told(solver, request).await {
        (Ok(_), text) => text,
        (Err(error), text) => panic!("{}\n{text}", chain(&error)),
    }
}

/// Waits for the first output of a step and returns it.
pub async fn first_output(events: &mut (impl Stream<Item = Event> + Unpin)) -> Bytes {
    while let Some(event) = events.next().await {
        match event {
            Event::Log { data, .. } => return data,
            Event::Completed {
                outcome: Outcome::Failed(error),
                ..
            } => panic!("{error}"),
            _ => {}
        }
    }
    panic!("the solve ended without output of a step")
}

/// The message of an error and of its causes.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Names of the vertices that ran. A local directory has a key of its own in each solve; whether
/// it "ran" says nothing, so it does not count.
pub fn ran(solved: &Solved) -> Vec<String> {
    let ran = solved.vertices.iter().filter(|vertex| {
        matches!(&vertex.status, VertexStatus::Ran(reason) if *reason != MissReason::Volatile)
    });
    ran.map(|vertex| vertex.name.to_string()).collect()
}

/// The files of a result, by exporting them to a new directory.
pub async fn files(solved: &Solved) -> Tree {
    let folder = temp();
    Local::new(folder.path())
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    tree(folder.path())
}

/// The text of each file of a result, by path.
pub async fn files_of(solved: &Solved) -> BTreeMap<String, String> {
    let folder = temp();
    Local::new(folder.path())
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    let tree = tree(folder.path()).into_iter();
    tree.filter(|(_, what)| what.starts_with("file "))
        .map(|(path, _)| {
            let text = fs::read_to_string(folder.path().join(&path)).unwrap();
            (path, text)
        })
        .collect()
}

/// Solves and returns the files of the result.
pub async fn build(solver: &Solver, request: SolveRequest) -> Tree {
    files(&solve(solver, request).await).await
}

/// What is below a directory: path to type, mode and content.
pub type Tree = BTreeMap<String, String>;

pub fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = path.symlink_metadata().unwrap();
            let mode = data.mode() & 0o7777;
            let text = if data.is_dir() {
                todo.push(path.clone());
                format!("directory {mode:o}")
            } else if data.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else if data.is_file() {
                file(mode, &fs::read(&path).unwrap())
            } else {
                format!("special {mode:o} {:x}", data.rdev())
            };
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            tree.insert(name, text);
        }
    }
    tree
}

/// How [`tree`] describes a file.
pub fn file(mode: u32, bytes: &[u8]) -> String {
    format!("file {mode:o} {} {}", bytes.len(), BlobDigest::of(bytes))
}

/// Runs a program that has to succeed and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{errors}",
        output.status
    );
    text
}

/// This binary in another process of uid 1000, in the given role; a copy in `folder`, which that
/// user can read. `home` becomes the user's.
pub fn as_user(folder: &Path, home: &Path, role: &str, arguments: &[&str]) -> Command {
    std::os::unix::fs::chown(home, Some(1000), Some(1000)).unwrap();
    let binary = folder.join("binary");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let ids = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let setpriv: Vec<_> = ["setpriv"].into_iter().chain(ids).collect();
    wrapped(&setpriv, &binary, role, arguments)
}

/// This binary in another process, in the given role.
pub fn child(role: &str, arguments: &[&str]) -> Command {
    wrapped(&[], &std::env::current_exe().unwrap(), role, arguments)
}

/// Such a process, started through `wrapper` (`env`, `setpriv` …).
pub fn wrapped(wrapper: &[&str], binary: &Path, role: &str, arguments: &[&str]) -> Command {
    let mut command = match wrapper.split_first() {
        None => Command::new(binary),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(binary);
            command
        }
    };
    command.args([
        "--exact",
        "child",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(ROLE, role).env(ARGUMENTS, arguments.join("\n"));
    command
}

/// What is below a state root that should not be once nobody uses it: layers that were not
/// committed, trash, sessions, and files under other than their final names.
pub fn leftovers(root: &Path) -> Vec<String> {
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let mut found = Vec::new();
    for name in names("layers") {
        if !root.join("layers").join(&name).join("index").exists() {
            found.push(format!("layers/{name} without index"));
        }
    }
    for folder in ["locks", "trash", "sessions"] {
        found.extend(
            names(folder)
                .into_iter()
                .map(|name| format!("{folder}/{name}")),
        );
    }
    let hex = |name: &String| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let blobs = names("blobs/sha256").into_iter().filter(|name| !hex(name));
    found.extend(blobs.map(|name| format!("blobs/sha256/{name}")));
    found.extend(
        names("blobs")
            .into_iter()
            .filter(|n| n != "sha256")
            .map(|n| format!("blobs/{n}")),
    );
    let partial = |name: &String| name.contains(".partial") || name.starts_with("format.");
    found.extend(names(".").into_iter().filter(partial));
    found
}

/// How many layers a state root holds.
pub fn layers(root: &Path) -> usize {
    fs::read_dir(root.join("layers")).unwrap().count()
}

/// A fixed time for what a definition makes: 2022-04-15.
pub fn then() -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_650_000_000)
}

/// Writes a file whose time is [`then`].
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(then())
        .unwrap();
}
