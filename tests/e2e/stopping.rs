//! Stopping a solve kills all that its steps started, at once, however much they object.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use ashlar_llb::{self as llb, State, copy};
use ashlar_solver::solver::{SolveError, SolveHandle, Solver};

use super::support::{self, Need, skipped, temp};

/// Processes that ignore signals, leave their session and have children all the time.
const STUBBORN: &str = r#"
trap "" TERM INT HUP QUIT
(while :; do sleep 0.02; done) &
setsid sh -c 'trap "" TERM HUP; while :; do sleep 0.02; done' "$0" &
setsid setsid sh -c '(while :; do sleep 600; done) & while :; do sleep 600 & sleep 0.1; done' "$0" &
sleep 0.2
echo up
while :; do sleep 0.02; done
"#;

fn stubborn(marker: &str) -> State {
    let step = support::busybox_state().run(["sh", "-c", STUBBORN, marker]);
    llb::scratch().file(copy(step.root(), "/tmp", "/"))
}

/// A process: its id, when it started, its parent.
type Process = (u32, u64, u32);

/// All processes that are alive.
fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let process = |id: u32| -> Option<Process> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let alive = !matches!(fields.next()?, "Z" | "X");
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        alive.then_some((id, started, parent))
    };
    entries
        .filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// The processes whose arguments hold `marker`, and all below them.
fn tree(marker: &str) -> BTreeSet<(u32, u64)> {
    let all = processes();
    let mut found: BTreeSet<(u32, u64)> = BTreeSet::new();
    for &(id, started, _) in &all {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(marker) {
            found.insert((id, started));
        }
    }
    loop {
        let known: BTreeSet<u32> = found.iter().map(|(id, _)| *id).collect();
        let before = found.len();
        found.extend(
            all.iter()
                .filter(|p| known.contains(&p.2))
                .map(|p| (p.0, p.1)),
        );
        if found.len() == before {
            return found;
        }
    }
}

fn still_alive(tree: &BTreeSet<(u32, u64)>) -> Vec<(u32, u64)> {
    let all = processes()
        .into_iter()
        .map(|(id, started, _)| (id, started));
    all.filter(|process| tree.contains(process)).collect()
}

async fn start(solver: &Solver, base: &std::path::Path, marker: &str) -> SolveHandle {
    let request = support::request(&stubborn(marker)).local("base", base);
    let mut handle = solver.solve(request);
    assert_eq!(support::first_output(&mut handle).await, "up\n");
    handle
}

#[test]
fn stopping_kills_the_whole_tree() {
    let test = "stopping_kills_the_whole_tree";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    let folder = temp();
    let base = support::busybox(folder.path());
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        for how in ["cancel", "drop", "drop the result", "drop the future"] {
            let marker = format!("{test}-{}-{how}", std::process::id());
            let handle = start(&solver, &base, &marker).await;
            let before = tree(&marker);
            assert!(before.len() >= 6, "{before:?}");
            let start = Instant::now();
            let mut cancelled = None;
            match how {
                "cancel" => {
                    handle.cancel();
                    cancelled = Some(handle);
                }
                "drop" => drop(handle),
                "drop the result" => drop(handle.split().1),
                _ => {
                    let result = handle.result();
                    let late = tokio::time::timeout(Duration::from_millis(50), result).await;
                    assert!(late.is_err());
                }
            }
            assert_eq!(tree(&marker), BTreeSet::new(), "{how}");
            assert_eq!(still_alive(&before), [], "{how}");
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{how}: {:?}",
                start.elapsed()
            );
            // What it wrote may take longer to remove.
            if let Some(handle) = cancelled {
                let error = handle.result().await.unwrap_err();
                assert!(matches!(error, SolveError::Cancelled), "{error:?}");
            }
        }
    });
    assert_eq!(support::leftovers(&folder.path().join("state")), [""; 0]);
}

/// Stopped at any moment, also while the step is being started: nothing runs afterwards.
#[test]
fn stopping_while_a_step_starts() {
    let test = "stopping_while_a_step_starts";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    let folder = temp();
    let base = support::busybox(folder.path());
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        let prepared = support::request(&support::busybox_state()).local("base", &base);
        support::solve(&solver, prepared).await;
        for round in 0..150 {
            let marker = format!("{test}-{}-{round}-", std::process::id());
            let step = support::busybox_state().run(["sh", "-c", "sleep 60", &marker]);
            let request = support::request(&step.root()).local("base", &base);
            let handle = solver.solve(request);
            tokio::time::sleep(Duration::from_micros(round * 200)).await;
            if round % 2 == 0 {
                handle.cancel();
                assert_eq!(tree(&marker), BTreeSet::new(), "round {round}");
                let error = handle.result().await.unwrap_err();
                assert!(matches!(error, SolveError::Cancelled), "{error:?}");
            } else {
                drop(handle);
            }
            assert_eq!(tree(&marker), BTreeSet::new(), "round {round}");
        }
    });
    assert_eq!(support::leftovers(&folder.path().join("state")), [""; 0]);
}

/// One of two solves that share a step is stopped; the other gets the result.
#[test]
fn stopping_one_solve_leaves_the_other() {
    let test = "stopping_one_solve_leaves_the_other";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    let folder = temp();
    let base = support::busybox(folder.path());
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        let step = support::busybox_state().run(["sh", "-c", "echo up; sleep 1; echo end >/end"]);
        let state = llb::scratch().file(copy(step.root(), "/end", "/end"));
        let request = support::request(&state).local("base", &base);
        let mut first = solver.solve(request.clone());
        support::first_output(&mut first).await;
        let second = solver.solve(request);
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(first);
        let solved = second.result().await.unwrap();
        let files = support::files(&solved).await;
        assert_eq!(files["end"], support::file(0o644, b"end\n"));
    });
    assert_eq!(support::leftovers(&folder.path().join("state")), [""; 0]);
}
