//! A good guest: works in whatever process it is put into, changes nothing in it, and leaves
//! nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ashlar_exporters::{
    CacheOnly, Compression, Docker, Exporter, Image, Local, LocalMode, Oci, Tar,
};
use ashlar_llb::{self as llb, State, copy, mkdir};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{BuildError, SolveError, SolveRequest, Solver};
use tokio::runtime::{Builder, Handle};

use super::support::{
    self, Need, Tree, build, child, file, first_output, leftovers, ran, run, skipped, solve, temp,
    wrapped,
};

/// What a process has open and running.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Footprint {
    threads: BTreeMap<String, String>,
    descriptors: BTreeMap<String, String>,
    children: String,
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

impl Footprint {
    fn take() -> Self {
        let mut this = Self {
            threads: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            children: String::new(),
        };
        for thread in names("/proc/self/task") {
            let Ok(name) = fs::read_to_string(format!("/proc/self/task/{thread}/comm")) else {
                continue;
            };
            let children = fs::read_to_string(format!("/proc/self/task/{thread}/children"));
            this.children += &children.unwrap_or_default();
            this.threads.insert(thread, name.trim().to_owned());
        }
        for number in names("/proc/self/fd") {
            // The descriptor that lists them is gone by now.
            if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
                this.descriptors
                    .insert(number, target.display().to_string());
            }
        }
        this
    }

    /// Waits a little until the process looks like this; a thread that was joined takes a moment
    /// to disappear from /proc.
    fn is_back(&self) {
        let end = Instant::now() + Duration::from_secs(2);
        while Self::take() != *self && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(Self::take(), *self);
    }
}

/// What a library must leave alone: signals, umask, directory, environment.
fn settings() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let kept = [
        "Umask",
        "SigBlk",
        "SigIgn",
        "SigCgt",
        "Uid",
        "Gid",
        "Groups",
        "CapEff",
        "NoNewPrivs",
    ];
    let lines = status
        .lines()
        .filter(|line| kept.iter().any(|name| line.starts_with(name)));
    let mut settings: Vec<String> = lines.map(str::to_owned).collect();
    settings.push(std::env::current_dir().unwrap().display().to_string());
    settings.extend(std::env::vars().map(|(name, value)| format!("{name}={value}")));
    settings
}

fn sigchld_is_ignored() -> bool {
    let settings = settings();
    let line = settings
        .iter()
        .find(|line| line.starts_with("SigIgn"))
        .unwrap();
    let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    mask >> 16 & 1 == 1
}

fn no_mount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = folder.to_str().unwrap();
    assert!(!mounts.contains(folder), "{mounts}");
}

/// A build with every kind of op; `exit` is the exit code of its step, and `seconds` its length.
fn graph(text: &str, seconds: &str, exit: i32) -> State {
    let context = llb::local("context");
    let line = format!("echo up; echo {text} > /out/said; sleep {seconds}; exit {exit}");
    let step = support::busybox_state()
        .run(["sh", "-c", &line])
        .mount("/in", &context)
        .mount("/out", llb::scratch());
    let said = copy(step.output("/out"), "/said", "/said");
    let files = said
        .mkdir("/d")
        .mode(0o775)
        .mkfile("/d/f", "f\n")
        .mode(0o666);
    let files = llb::scratch().file(files);
    let other = llb::scratch().file(mkdir("/other"));
    llb::merge([files, other]).file(copy(&context, "/input", "/input"))
}

fn expected(text: &str) -> Tree {
    let said = format!("{text}\n");
    let tree = [
        ("d", "directory 775".to_owned()),
        ("d/f", file(0o666, b"f\n")),
        ("input", file(0o644, b"input\n")),
        ("other", "directory 755".to_owned()),
        ("said", file(0o644, said.as_bytes())),
    ];
    tree.map(|(path, text)| (path.to_owned(), text)).into()
}

fn lent(folder: &Path, state: &State) -> SolveRequest {
    let request = support::request(state).local("context", folder.join("context"));
    request.local("base", folder.join("base"))
}

/// Uses a solver in all ways that a solve can end, then looks at what is left of it.
pub fn role(arguments: &[&str]) {
    let [variant, folder] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    let root = folder.join("state");
    if variant == "sigchld" {
        assert!(sigchld_is_ignored());
    }
    if variant == "umask" {
        assert!(settings().contains(&"Umask:\t0077".to_owned()));
    }
    // What tokio keeps for the whole process is not ours.
    drop(support::runtime());
    let (before, settings_before) = (Footprint::take(), settings());
    let runtime = match variant {
        "current-thread" => Builder::new_current_thread().enable_all().build().unwrap(),
        _ => support::runtime(),
    };
    runtime.block_on(async {
        let solver = support::solver(&root);
        assert_eq!(
            build(&solver, lent(folder, &graph("one", "0", 0))).await,
            expected("one")
        );
        let again = solve(&solver, lent(folder, &graph("one", "0", 0))).await;
        assert_eq!(ran(&again), [""; 0]);
        nothing_runs(folder);

        let failed = solver
            .solve(lent(folder, &graph("two", "0", 3)))
            .result()
            .await;
        let error = failed.unwrap_err();
        assert!(matches!(error, SolveError::Vertex { .. }), "{error:?}");
        assert!(error.to_string().contains("exit code: 3"), "{error}");
        nothing_runs(folder);

        let (mut events, outcome) = solver.solve(lent(folder, &graph("three", "60", 0))).split();
        first_output(&mut events).await;
        outcome.cancel();
        nothing_runs(folder);
        let error = outcome.await.unwrap_err();
        assert!(matches!(error, SolveError::Cancelled), "{error:?}");
        nothing_runs(folder);

        let mut handle = solver.solve(lent(folder, &graph("four", "60", 0)));
        first_output(&mut handle).await;
        drop(handle);
        nothing_runs(folder);

        // Dropped before it could do anything, and with the solver.
        drop(solver.solve(lent(folder, &graph("five", "60", 0))));
        let mut handle = solver.solve(lent(folder, &graph("six", "60", 0)));
        first_output(&mut handle).await;
        drop(solver);
        drop(handle);
        nothing_runs(folder);
    });
    // Tasks of the solves that were dropped end with the runtime at the latest.
    drop(runtime);
    before.is_back();
    assert_eq!(settings(), settings_before);
    assert_eq!(leftovers(&root), [""; 0]);
}

/// Neither process nor mount.
fn nothing_runs(folder: &Path) {
    let end = Instant::now() + Duration::from_secs(1);
    let mut children = Footprint::take().children;
    // A process that was killed is gone from the list once it is reaped.
    while !children.is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
        children = Footprint::take().children;
    }
    assert_eq!(children, "");
    no_mount_below(folder);
}

fn guest(test: &str, variant: &str, wrapper: &[&str]) {
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    support::write(folder.path().join("context/input"), "input\n");
    let arguments = [variant, folder.path().to_str().unwrap()];
    run(&mut match wrapper {
        [] => child("guest", &arguments),
        _ => wrapped(
            wrapper,
            &std::env::current_exe().unwrap(),
            "guest",
            &arguments,
        ),
    });
}

#[test]
fn leaves_nothing_behind() {
    guest("leaves_nothing_behind", "plain", &[]);
}

#[test]
fn works_on_a_current_thread_runtime() {
    guest("works_on_a_current_thread_runtime", "current-thread", &[]);
}

#[test]
fn works_where_sigchld_is_ignored() {
    guest(
        "works_where_sigchld_is_ignored",
        "sigchld",
        &["env", "--ignore-signal=CHLD"],
    );
}

#[test]
fn works_with_umask_077() {
    let wrapper = ["sh", "-c", "umask 077; exec \"$0\" \"$@\""];
    guest("works_with_umask_077", "umask", &wrapper);
}

#[test]
fn needs_a_runtime() {
    let folder = temp();
    let builder = || Solver::builder().root(folder.path().join("state"));
    assert!(Handle::try_current().is_err());
    let error = builder().build().unwrap_err();
    assert!(matches!(error, BuildError::NoRuntime), "{error:?}");
    assert!(!folder.path().join("state").exists());

    // A solver that was given one works from any thread.
    let runtime = support::runtime();
    let solver = builder().runtime(runtime.handle().clone()).build().unwrap();
    let state = llb::scratch().file(mkdir("/made"));
    let handle = solver.solve(support::request(&state));
    let elsewhere = Builder::new_current_thread().build().unwrap();
    let solved = elsewhere.block_on(handle.result()).unwrap();
    assert_eq!(ran(&solved).len(), 1);

    let error = runtime.block_on(async { Solver::builder().build().unwrap_err() });
    assert!(matches!(error, BuildError::NoRoot), "{error:?}");
}

/// Threads of a tokio pool end when they had nothing to do for some time, ten seconds unless the
/// program says otherwise. No step may depend on the one it was started from, and the next must
/// start.
#[test]
fn steps_survive_the_threads_that_started_them() {
    let test = "steps_survive_the_threads_that_started_them";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    support::write(folder.path().join("context/input"), "input\n");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(std::time::Duration::from_millis(100))
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let solver = support::solver(folder.path().join("state"));
        for (text, seconds) in [("one", "2"), ("two", "0")] {
            let request = lent(folder.path(), &graph(text, seconds, 0));
            assert_eq!(build(&solver, request).await, expected(text));
        }
    });
}

/// An output of each type, and what nobody can write to.
fn outputs(out: &Path, compression: Compression) -> Vec<Box<dyn Exporter>> {
    let nowhere = || Ok(Box::new(std::io::sink()) as Box<dyn std::io::Write + Send>);
    let at = |name: &str| out.join(name);
    let mirror = Local::new(at("mirror")).mode(LocalMode::Delete);
    vec![
        Box::new(Oci::archive(at("oci.tar")).compression(compression)),
        Box::new(Oci::directory(at("layout")).compression(compression)),
        Box::new(Oci::writer(nowhere).compression(compression)),
        Box::new(Docker::archive(at("docker.tar")).compression(compression)),
        Box::new(Image::new().name("a").compression(compression)),
        Box::new(Local::new(at("files"))),
        Box::new(mirror),
        Box::new(Tar::file(at("files.tar"))),
        Box::new(CacheOnly),
        Box::new(Docker::engine(at("no-engine"))),
        Box::new(Oci::archive("/dev/full").compression(compression)),
        Box::new(Tar::file("/dev/full")),
        Box::new(Local::new(at("files.tar"))),
    ]
}

#[test]
fn exports_leave_nothing_behind() {
    let folder = temp();
    let (root, out) = (folder.path().join("state"), folder.path().join("out"));
    fs::create_dir(&out).unwrap();
    // The first runtime of a process opens what stays open.
    drop(support::runtime());
    let (before, kept) = (Footprint::take(), settings());
    let runtime = support::runtime();
    runtime.block_on(async {
        let solver = support::solver(&root);
        for round in 0..3 {
            for (number, compression) in Compression::ALL.into_iter().enumerate() {
                let text = format!("{round} {number} and more\n").repeat(50_000);
                let state = llb::scratch().file(llb::mkfile("/file", text));
                let result = solve(&solver, support::request(&state)).await.result;
                for exporter in outputs(&out, compression) {
                    let cancel = Cancel::new();
                    match round {
                        // The last three cannot be written.
                        0 => drop(exporter.export(&result, &cancel).await),
                        1 => drop(exporter.prepare(&result, &cancel).await),
                        _ => {
                            let export = exporter.export(&result, &cancel);
                            let later = Duration::from_millis(number as u64);
                            let _given_up = tokio::time::timeout(later, export).await;
                        }
                    }
                }
            }
        }
    });
    drop(runtime);
    before.is_back();
    assert_eq!(settings(), kept);
    no_mount_below(folder.path());
    assert_eq!(leftovers(&root), [""; 0]);
    let partial = |path: &String| path.contains(".partial");
    let left: Vec<String> = support::tree(&out).into_keys().filter(partial).collect();
    assert_eq!(left, [""; 0]);
    let own = [
        "docker.tar",
        "files",
        "files.tar",
        "layout",
        "mirror",
        "oci.tar",
    ];
    let mut found: Vec<_> = names(out.to_str().unwrap());
    found.sort_unstable();
    assert_eq!(found, own);
}
