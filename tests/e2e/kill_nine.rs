//! A process that builds is killed at random points; whoever comes next finds a store that works.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ashlar_exporters::{Exporter as _, Local, Oci};
use ashlar_llb::{self as llb, BlobDigest, Mount, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::{SolveRequest, Solver};

use super::support::{self, Tree, child, file, solve, temp, tree};

/// Files of a chain.
const CHAIN: u64 = 6;

fn content(number: u64, index: u64) -> Vec<u8> {
    format!("{number}-{index}\n").repeat(2000).into_bytes()
}

fn with_steps() -> bool {
    support::is_root() && support::tool("busybox").is_some()
}

/// A chain of layers, a step over all of them, and a copy of the context.
fn graph(number: u64) -> State {
    let context = llb::local("context");
    let mut state = llb::scratch().file(
        copy(&context, "/", "/context")
            .contents_only()
            .create_dest_path(),
    );
    for index in 0..CHAIN {
        state = state.file(mkfile(format!("/f{index}"), content(number, index)));
    }
    if with_steps() {
        let step = support::busybox_state().run(["sh", "-c", "cat /in/f* > /out/sum"]);
        let step = step.mount("/in", Mount::bind(&state).readonly());
        let sum = step.mount("/out", llb::scratch()).output("/out");
        state = state.file(copy(&sum, "/sum", "/sum"));
    }
    state
}

fn expected(number: u64) -> Tree {
    let mut tree = Tree::new();
    tree.insert("context".to_owned(), "directory 755".to_owned());
    tree.insert("context/input".to_owned(), file(0o644, b"input\n"));
    let mut all = Vec::new();
    for index in 0..CHAIN {
        tree.insert(format!("f{index}"), file(0o644, &content(number, index)));
        all.extend(content(number, index));
    }
    if with_steps() {
        tree.insert("sum".to_owned(), file(0o644, &all));
    }
    tree
}

fn request(folder: &Path, number: u64) -> SolveRequest {
    let request = support::request(&graph(number)).local("context", folder.join("context"));
    request.local("base", folder.join("base"))
}

/// Builds one number after the other, for ever.
pub fn role(arguments: &[&str]) {
    let [folder, root, first, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let (folder, out) = (Path::new(folder), Path::new(out));
    let first: u64 = first.parse().unwrap();
    support::runtime().block_on(async {
        println!("@ open");
        let solver = support::solver(root);
        for number in first.. {
            println!("@ {number}");
            let solved = solve(&solver, request(folder, number)).await;
            let local = Local::new(out.join("files"));
            local.export(&solved.result, &Cancel::new()).await.unwrap();
            let image = Oci::directory(out.join("image"));
            image.export(&solved.result, &Cancel::new()).await.unwrap();
        }
    });
}

/// Starts the process, kills it after a while and returns the last number it began.
fn killed(mut command: Command, after: Duration) -> Option<u64> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The test harness may have written to the same line before.
    let is_open = |line: &str| line.ends_with("@ open");
    while !is_open(
        &lines
            .next()
            .expect("it says that it opens the root")
            .unwrap(),
    ) {}
    std::thread::sleep(after);
    assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    let numbers = lines.map_while(Result::ok);
    numbers
        .filter_map(|line| line.strip_prefix("@ ")?.parse().ok())
        .last()
}

/// Builds `number`, and checks the bytes of the directory and of the image.
async fn check(solver: &Solver, folder: &Path, number: u64) {
    let solved = solve(solver, request(folder, number)).await;
    let out = temp();
    Local::new(out.path().join("files"))
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    assert_eq!(
        tree(&out.path().join("files")),
        expected(number),
        "number {number}"
    );
    let image = out.path().join("image");
    let exported = Oci::directory(&image)
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap();
    let blobs: Vec<_> = fs::read_dir(image.join("blobs/sha256"))
        .unwrap()
        .flatten()
        .collect();
    assert!(blobs.len() > 2);
    for blob in blobs {
        let bytes = fs::read(blob.path()).unwrap();
        let name = format!("sha256:{}", blob.file_name().to_str().unwrap());
        assert_eq!(BlobDigest::of(&bytes).to_string(), name, "number {number}");
    }
    assert!(exported.digest.is_some());
}

#[test]
fn kill_nine() {
    let soak = std::env::var("ASHLAR_SOAK").is_ok_and(|value| value == "1");
    let rounds = if soak { 200 } else { 20 };
    let folder = temp();
    let folder = folder.path();
    support::write(folder.join("context/input"), "input\n");
    if with_steps() {
        support::busybox(folder);
    }
    // How many layers the first number makes, and how many each further one.
    let clean = folder.join("clean");
    let per_number: Vec<usize> = (0..2)
        .map(|number| {
            support::runtime().block_on(async {
                check(&support::solver(&clean), folder, number).await;
            });
            support::layers(&clean)
        })
        .collect();
    let (base, each) = (per_number[0], per_number[1] - per_number[0]);

    let root = folder.join("state");
    let mut word = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64
        | 1;
    println!("seed {word}");
    let (mut next, mut interrupted) = (0, 0);
    let mut longest = Duration::from_millis(150);
    for round in 0..rounds {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let after = longest.mul_f64((word >> 11) as f64 / (1_u64 << 53) as f64);
        let first = next.to_string();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let arguments = [text(folder), text(&root), first, text(&folder.join("out"))];
        let command = child("churn", &arguments.each_ref().map(String::as_str));
        let last = killed(command, after);
        let began = Instant::now();
        support::runtime().block_on(async {
            let solver = support::solver(&root);
            let numbers = last.map_or(next..next, |last| last.saturating_sub(1)..last + 1);
            for number in numbers {
                check(&solver, folder, number).await;
            }
        });
        if round == 0 {
            // Long enough for a few numbers on this machine.
            longest = longest
                .max(began.elapsed() * 2)
                .min(Duration::from_millis(600));
        }
        interrupted += usize::from(last.is_some());
        next = last.map_or(next, |last| last + 1);
        if !support::leftovers(&root).is_empty() {
            // A step of the killed process may have held its locks for a moment longer; then
            // whoever opens the root next cleans up.
            std::thread::sleep(Duration::from_millis(50));
            support::runtime().block_on(async { drop(support::solver(&root)) });
        }
        assert_eq!(support::leftovers(&root), [""; 0], "round {round}");
        // Every number that was begun may be there whole; beyond that, each kill can leave what
        // was just committed and not yet recorded.
        let numbers = usize::try_from(next).unwrap();
        let most = base + numbers * each + (round + 1) * 4;
        assert!(
            support::layers(&root) <= most,
            "{} layers, {most}",
            support::layers(&root)
        );
    }
    println!("{interrupted} of {rounds} kills came during a build; {next} numbers built");
    assert!(
        interrupted * 2 > rounds,
        "kills came too early: {interrupted} of {rounds}"
    );
}
