//! A look into a step that failed: its files, its exports, processes in its place.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use ashlar_exporters::{Exported, Exporter, Local, Oci};
use ashlar_llb::{self as llb, Cache, Mount, Secret, State};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::executor::{ExitStatus, TerminalSize};
use ashlar_solver::progress::{Event, Stream};
use ashlar_solver::result::BuildResult;
use ashlar_solver::session::MemorySecret;
use ashlar_solver::solver::{FailedStep, Rerun, SolveError, Solver, StepProcess};
use futures::StreamExt as _;

use super::support::{self, Need, run, skipped, temp, wrapped};

/// A step with mounts of all kinds that changes them and fails.
fn failing() -> State {
    let script = "echo one > /tmp/log; echo two > /out/two; echo three > /gone/three; \
                  echo four > /cache/four; echo $WORD > /w; exit 7";
    let read_only = llb::scratch().file(llb::mkfile("/in", "in\n"));
    let step = support::busybox_state()
        .env("WORD", "word")
        .dir("/work")
        .run(["sh", "-c", script])
        .mount("/out", llb::scratch())
        .mount("/gone", Mount::bind(llb::scratch()).no_output())
        .mount("/in", Mount::bind(read_only).readonly())
        .mount("/cache", Cache::locked("failed-step"))
        .secret(Secret::file("/run/secret").id("s"))
        .secret(Secret::env("s", "SECRET"));
    step.root()
}

async fn fail(solver: &Solver, folder: &Path, state: &State) -> SolveError {
    let request = support::request(state)
        .local("base", folder.join("base"))
        .secret(MemorySecret::new("s", "hidden"));
    let outcome = solver.solve(request).result().await;
    outcome.expect_err("the step fails")
}

/// What a process wrote, both streams together, and how it ended.
async fn finish(process: StepProcess, input: &[&str]) -> (String, ExitStatus) {
    let StepProcess {
        input: to,
        mut output,
        exit,
        ..
    } = process;
    let write = async move {
        for line in input {
            assert!(to.write((*line).to_owned()).await);
        }
    };
    let mut text = Vec::new();
    let read = async {
        while let Some((_, data)) = output.next().await {
            text.extend_from_slice(&data);
        }
    };
    futures::join!(write, read);
    let exit = match exit.await {
        Ok(exit) => exit,
        Err(error) => panic!("{error}"),
    };
    (String::from_utf8(text).unwrap(), exit.status)
}

async fn output(rerun: Rerun) -> String {
    let (text, status) = finish(rerun.start(), &[]).await;
    assert_eq!(status, ExitStatus::Exited(0), "{text}");
    text
}

async fn export(exporter: impl Exporter, result: &BuildResult) -> Exported {
    exporter.export(result, &Cancel::new()).await.unwrap()
}

/// All that a handle offers.
async fn explore(folder: &Path, root: &Path) {
    let solver = support::solver(root);
    let before = support::layers(root);
    let error = fail(&solver, folder, &failing()).await;
    let step = match error.failed_step() {
        Some(step) => step.clone(),
        None => panic!("{}", support::chain(&error)),
    };
    drop((error, solver));

    assert_eq!(step.status(), Some(ExitStatus::Exited(7)));
    assert_eq!(step.args()[0], "sh");
    assert_eq!(step.inputs().len(), 2);
    let targets: Vec<_> = step.mounts().map(|(target, _)| target).collect();
    assert_eq!(targets, ["/", "/gone", "/in", "/out"]);

    // Read.
    let mut text = String::new();
    let mut file = step.open("/tmp/../tmp/log").unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\n");
    assert!(
        step.open("/none")
            .unwrap_err()
            .to_string()
            .contains("/none")
    );
    assert!(step.open("/tmp").is_err());

    // Export.
    let files = root.with_file_name("files");
    export(Local::new(&files), &step.root()).await;
    assert_eq!(fs::read_to_string(files.join("tmp/log")).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(files.join("w")).unwrap(), "word\n");
    let image = files.with_extension("image");
    let exported = export(Oci::directory(&image), &step.root()).await;
    assert!(exported.digest.is_some());
    for (target, tree) in step.mounts().filter(|(target, _)| *target == "/gone") {
        let gone = files.join(target.trim_matches('/'));
        export(Local::new(&gone), &step.result(tree)).await;
        assert_eq!(fs::read_to_string(gone.join("three")).unwrap(), "three\n");
    }

    shells(&step).await;
    stops(&step, root).await;

    // Nothing stays on disk once it is dropped, and with it the last process in its place. Base, the
    // tree of `/in`: nothing of the step.
    drop(step);
    settles(|| support::layers(root), before + 2).await;
    support::solver(root);
    settles(|| support::leftovers(root), Vec::new()).await;
    assert_eq!(support::layers(root), before + 2);
}

/// Waits for what a dropped process leaves to others.
async fn settles<T: PartialEq + std::fmt::Debug>(look: impl Fn() -> T, expected: T) {
    for _ in 0..500 {
        if look() == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(look(), expected);
}

/// How many processes have those words in their arguments.
fn running(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let runs = |entry: &fs::DirEntry| {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(mark)
    };
    processes.filter(runs).count()
}

/// Processes in the place of the failed one.
async fn shells(step: &FailedStep) {
    let script = "cat /tmp/log /out/two /gone/three /cache/four /in/in; echo $WORD; pwd; \
                  echo $SECRET; cat /run/secret; echo; \
                  echo new > /tmp/new; touch /in/x 2> /dev/null || echo read-only";
    let expected = "one\ntwo\nthree\nfour\nin\nword\n/work\nhidden\nhidden\nread-only\n";
    for _ in 0..2 {
        assert_eq!(output(step.rerun(["sh", "-c", script])).await, expected);
    }
    let none = "test ! -e /tmp/new && echo $WORD $MORE";
    let rerun = step
        .rerun(["sh", "-c", none])
        .env("WORD", "x")
        .env("MORE", "y");
    assert_eq!(output(rerun).await, "x y\n");

    // Commands on its input, one after the other.
    let shell = step.rerun(["sh"]).start();
    let (text, status) = finish(shell, &["cat /w\n", "echo a", " b\n", "exit 4\n"]).await;
    assert_eq!(
        (text.as_str(), status),
        ("word\na b\n", ExitStatus::Exited(4))
    );
    let long = "x".repeat(100_000);
    let (text, _) = finish(step.rerun(["cat"]).start(), &[&*long; 30]).await;
    assert_eq!(text.len(), 3_000_000);

    // A terminal: it echoes, has a size that changes, and `^C`.
    let size = TerminalSize {
        rows: 10,
        columns: 20,
    };
    let shell = step.rerun(["sh"]).env("PS1", "> ").terminal(size).start();
    let StepProcess {
        input,
        mut output,
        exit,
        ..
    } = shell;
    let mut seen = String::new();
    // All up to `end`, with it.
    let mut until = async |end: &str| loop {
        if let Some(at) = seen.find(end) {
            let rest = seen.split_off(at + end.len());
            break std::mem::replace(&mut seen, rest);
        }
        let piece = tokio::time::timeout(Duration::from_secs(10), output.next()).await;
        let Ok(Some((stream, data))) = piece else {
            panic!("{piece:?} after {seen:?}, before {end:?}");
        };
        assert_eq!(stream, Stream::Stdout);
        seen += std::str::from_utf8(&data).unwrap();
    };
    until("> ").await;
    input
        .write("busybox tty; busybox stty size; echo $WORD; echo on\n")
        .await;
    until("/dev/pts/0\r\n10 20\r\nword\r\non\r\n").await;
    input.resize(TerminalSize {
        rows: 30,
        columns: 40,
    });
    // The new size and the input take different ways.
    input
        .write("until busybox stty size | busybox grep '30 40'; do sleep 0.1; done\n")
        .await;
    until("\r\n30 40\r\n").await;
    // Says when it minds interrupts; the words are not in the echo of the line.
    let minds = "trap 'echo $WORD-two; exit 3' INT; echo $WORD-one; while :; do sleep 0.05; done";
    input.write(format!("sh -c \"{minds}\"\n")).await;
    until("word-one\r\n").await;
    input.write("\x03").await;
    until("word-two\r\n").await;
    until("> ").await;
    input.write("exit 9\n").await;
    while output.next().await.is_some() {}
    assert_eq!(exit.await.unwrap().status, ExitStatus::Exited(9));
}

/// Signals, kills and drops.
async fn stops(step: &FailedStep, root: &Path) {
    let script = "trap 'echo told; exit 5' USR1; echo up; while :; do sleep 0.02; done";
    let mut process = step.rerun(["sh", "-c", script]).start();
    assert_eq!(process.output.next().await.unwrap().1, "up\n");
    process.input.signal(10);
    let (text, status) = finish(process, &[]).await;
    assert_eq!((text.as_str(), status), ("told\n", ExitStatus::Exited(5)));

    // No process is left when the kill, or the drop, returns.
    let endless = "echo up; trap '' TERM; : MARK; while :; do sleep 0.02; done";
    let mark = format!("mark-{}", std::process::id());
    let endless = endless.replace("MARK", &mark);
    let start = async || {
        let mut process = step.rerun(["sh", "-c", &endless]).start();
        process.output.next().await.unwrap();
        assert!(running(&mark) > 0);
        process
    };
    let held = support::layers(root);
    let process = start().await;
    process.exit.kill();
    assert_eq!(running(&mark), 0);
    // What it wrote is gone when this returns.
    assert!(process.exit.await.is_err());
    assert_eq!(support::layers(root), held);
    drop(start().await);
    assert_eq!(running(&mark), 0);

    // A process that nobody listens to does not wait.
    let loud = "busybox yes | busybox head -c 4000000; exit 3";
    let process = step.rerun(["sh", "-c", loud]).start();
    drop(process.output);
    assert_eq!(process.exit.await.unwrap().status, ExitStatus::Exited(3));
    let error = step.rerun(["no-such-program"]).start().exit.await;
    let error = error.unwrap_err();
    let support = format!("{error:?}");
    assert!(support.contains("ProgramNotFound"), "{support}");
}

/// A step whose program is missing leaves its root to look at.
async fn missing_program(folder: &Path, root: &Path) {
    let solver = support::solver(root);
    let state = support::busybox_state().run(["no-such-program"]).root();
    let error = fail(&solver, folder, &state).await;
    let step = error.failed_step().expect("there is a step");
    assert_eq!(step.status(), None);
    assert_eq!(output(step.rerun(["echo", "here"])).await, "here\n");
}

/// What a step used is told when it ends, after all its output.
async fn usage(folder: &Path, root: &Path) {
    let solver = support::solver(root);
    let script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo end";
    let state = support::busybox_state().run(["sh", "-c", script]).root();
    let request = support::request(&state).local("base", folder.join("base"));
    let (mut events, outcome) = solver.solve(request).split();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Event::ProcessStarted { .. } => seen.push("started"),
            Event::Log { .. } => seen.push("log"),
            Event::ProcessEnded { code, usage, .. } => {
                seen.push("ended");
                let usage = usage.expect("it is known");
                assert_eq!(code, 0);
                assert!(usage.user + usage.system > Duration::ZERO, "{usage:?}");
                assert!(usage.peak_memory > Some(100 << 10), "{usage:?}");
                assert!(usage.read.is_some() && usage.written.is_some(), "{usage:?}");
            }
            _ => {}
        }
    }
    outcome.await.unwrap();
    assert_eq!(seen, ["started", "log", "ended"]);
}

async fn all(folder: &Path, root: &Path) {
    explore(folder, root).await;
    missing_program(folder, root).await;
    usage(folder, root).await;
}

pub fn role(arguments: &[&str]) {
    let [folder, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    assert!(!support::is_root());
    let root = Path::new(out).join("state");
    support::runtime().block_on(all(Path::new(folder), &root));
    println!("\n@ done");
}

#[test]
fn a_failed_step_can_be_explored() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("a_failed_step_can_be_explored", &needs) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    let root = folder.path().join("state");
    support::runtime().block_on(all(folder.path(), &root));
}

#[test]
fn a_failed_step_can_be_explored_by_a_user() {
    let needs = [Need::Root, Need::Tool("setpriv"), Need::Tool("busybox")];
    if skipped("a_failed_step_can_be_explored_by_a_user", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    let out = folder.join("user");
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::chown(&out, Some(1000), Some(1000)).unwrap();
    // Where everyone can read it.
    let binary = folder.join("binary");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let ids = ["--reuid", "1000", "--regid", "1000", "--clear-groups"];
    let mut setpriv = vec!["setpriv"];
    setpriv.extend(ids);
    let arguments = [folder, out.as_path()].map(|path| path.to_str().unwrap());
    let mut command = wrapped(&setpriv, &binary, "failed-step", &arguments);
    let text = run(command.current_dir("/").env("HOME", &out));
    assert!(text.contains("@ done"), "{text}");
}
