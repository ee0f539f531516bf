//! Limits on steps by control groups, and what a solver tells of its machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::pb::LinuxResources;
use ashlar_llb::{self as llb, mkfile};
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::executor::{
    Attempt, Capabilities, ControlGroups, ExecTier, Findings, SandboxExecutor,
};
use ashlar_solver::progress::Event;
use ashlar_solver::solver::{SolveError, SolveRequest, Solver};
use futures::StreamExt as _;

use super::support::{self, Need, skipped, temp};

const MEMORY: i64 = 48 << 20;

/// Output and warnings of a solve, and how it ended.
async fn watch(
    solver: &Solver,
    request: SolveRequest,
) -> (String, Vec<String>, Result<(), SolveError>) {
    let (mut events, outcome) = solver.solve(request).split();
    let (mut output, mut warnings) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event {
            Event::Log { data, .. } => output.extend_from_slice(&data),
            Event::Warning { message, .. } => warnings.push(message),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(&output).into_owned();
    (text, warnings, outcome.await.map(drop))
}

/// The groups of steps that this test process has below its own, wherever they may be.
fn groups() -> Vec<PathBuf> {
    fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !path.is_dir() || path.is_symlink() {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with("ashlar-") {
                found.push(path.clone());
            }
            if depth > 0 {
                walk(&path, depth - 1, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), 8, &mut found);
    found
}

/// A script in a step of busybox with these limits.
fn limited(script: &str, resources: LinuxResources) -> SolveRequest {
    let step = support::busybox_state().run(["sh", "-c", script]);
    support::request(&step.linux_resources(resources).root())
}

#[test]
fn a_limited_step_runs_in_a_group_that_is_gone_afterwards() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped(
        "limits::a_limited_step_runs_in_a_group_that_is_gone_afterwards",
        &needs,
    ) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let base = support::busybox(folder.path());
        let solver = support::solver(folder.path().join("state"));
        let memory = LinuxResources {
            memory: MEMORY,
            ..LinuxResources::default()
        };
        let request = limited("cat /proc/1/cgroup; sleep 2", memory.clone()).local("base", &base);
        let file = |group: &PathBuf| {
            let old = fs::read_to_string(group.join("memory.limit_in_bytes"));
            old.or_else(|_| fs::read_to_string(group.join("memory.max")))
        };
        // Whenever the step starts: it runs longer than it takes to look.
        let mut seen = Vec::new();
        let look = async {
            loop {
                seen.extend(groups().iter().filter_map(|group| file(group).ok()));
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let (output, _, outcome) = tokio::select! {
            watched = watch(&solver, request) => watched,
            () = look => unreachable!("it looks for ever"),
        };
        outcome.unwrap();
        assert!(seen.contains(&format!("{MEMORY}\n")), "{seen:?} {output}");
        // Its view begins at its group.
        assert!(!output.contains("ashlar-"), "{output}");

        let hungry = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?";
        let request = limited(hungry, memory).local("base", &base);
        let (_, warnings, outcome) = watch(&solver, request).await;
        let error = outcome.unwrap_err();
        let text = support::chain(&error);
        let words = "did not complete successfully: cannot allocate memory";
        assert!(text.contains(words), "{text}");
        assert!(error.remedy().unwrap().contains("more memory"));
        let exit = error.failed_step().unwrap().exit().unwrap();
        // Of all of it together: nearly all that it may have.
        let peak = exit.usage.unwrap().peak_memory.unwrap();
        let most = u64::try_from(MEMORY).unwrap();
        assert!((most / 2..=most).contains(&peak), "{peak}");
        let told = warnings.iter().any(|text| text.contains("memory ran out"));
        assert!(told, "{warnings:?}");

        let senseless = LinuxResources {
            memory: -1,
            ..LinuxResources::default()
        };
        let request = limited("true", senseless).local("base", &base);
        let (_, _, outcome) = watch(&solver, request).await;
        assert_eq!(outcome.unwrap_err().fault(), Fault::Input);

        // Other tests make groups too; those of this one are gone.
        let mine = |group: &PathBuf| {
            let file = |name| fs::read_to_string(group.join(name)).unwrap_or_default();
            file("memory.limit_in_bytes") + &file("memory.max") == format!("{MEMORY}\n")
        };
        assert_eq!(groups().iter().filter(|group| mine(group)).count(), 0);
    });
}

/// The groups of the process whose last argument is `marker`, as the host sees them.
fn groups_of(marker: &str) -> Option<String> {
    let ends = [marker.as_bytes(), b"\0"].concat();
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    processes.find_map(|process| {
        let read = |name: &str| fs::read(process.path().join(name)).unwrap_or_default();
        let groups = String::from_utf8(read("cgroup")).unwrap();
        read("cmdline").ends_with(&ends).then_some(groups)
    })
}

#[test]
fn a_step_runs_below_the_parent_that_it_names() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("limits::a_step_runs_below_the_parent_that_it_names", &needs) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let base = support::busybox(folder.path());
        let solver = support::solver(folder.path().join("state"));
        let marker = format!("marker-{}", std::process::id());
        let args = ["sh", "-c", "cat /proc/self/cgroup; sleep 60; true", &marker];
        let step = support::busybox_state()
            .run(args)
            .cgroup_parent("/e2e-parent/inner");
        let request = support::request(&step.root()).local("base", &base);
        let (mut events, outcome) = solver.solve(request).split();
        let inside = support::first_output(&mut events).await;
        let outside = groups_of(&marker).expect("it runs");
        outcome.cancel();
        assert!(outcome.await.is_err());
        // In each hierarchy, the unified one too, which has no controllers on some machines.
        let mut hierarchies = 0;
        for line in outside.lines().filter(|line| !line.contains(":name=")) {
            assert!(line.contains("/e2e-parent/inner/ashlar-"), "{outside}");
            hierarchies += 1;
        }
        assert!(hierarchies > 0, "{outside}");
        // It sees nothing of that.
        assert!(!String::from_utf8_lossy(&inside).contains("e2e-parent"));
        // The parent stays; the group of the step is gone.
        let script = "find /sys/fs/cgroup -depth -type d -path '*/e2e-parent*' | tee /dev/stderr | \
                      xargs rmdir";
        let removed = std::process::Command::new("sh")
            .args(["-c", script])
            .output();
        let removed = removed.unwrap();
        let text = String::from_utf8_lossy(&removed.stderr);
        assert!(removed.status.success(), "{text}");
        assert_eq!(text.matches("/inner\n").count(), hierarchies, "{text}");
        assert!(!text.contains("ashlar-"), "{text}");
    });
}

#[test]
fn a_step_without_a_place_for_its_limits_is_refused_or_warned_of() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped(
        "limits::a_step_without_a_place_for_its_limits_is_refused_or_warned_of",
        &needs,
    ) {
        return;
    }
    support::runtime().block_on(async {
        for (privileged, runs) in [(true, false), (false, true)] {
            let folder = temp();
            let base = support::busybox(folder.path());
            let executor = SandboxExecutor::new(privileged).unwrap();
            let executor = Arc::new(executor.control_groups(ControlGroups::none()));
            let root = folder.path().join("state");
            let solver = Solver::builder().root(root).executor(executor).build();
            let memory = LinuxResources {
                memory: MEMORY,
                ..LinuxResources::default()
            };
            let request = limited("true", memory).local("base", &base);
            let (_, warnings, outcome) = watch(&solver.unwrap(), request).await;
            if runs {
                outcome.unwrap();
                let told = warnings.iter().any(|text| text.contains("not applied"));
                assert!(told, "{warnings:?}");
            } else {
                let error = outcome.unwrap_err();
                assert_eq!(error.fault(), Fault::Environment);
                assert!(error.remedy().unwrap().contains("Delegate=yes"));
            }
        }
    });
}

#[test]
fn without_namespaces_files_are_built_and_steps_are_refused_with_a_remedy() {
    support::runtime().block_on(async {
        let folder = temp();
        let mut findings = Findings::all_works(1000);
        findings.processes = Attempt::refused("create the process with its namespaces", "", 1);
        findings.apparmor_restricts_namespaces = true;
        let executor = SandboxExecutor::new(false).unwrap();
        let executor = executor.with_capabilities(Capabilities::decide(&findings));
        let root = folder.path().join("state");
        let solver = Solver::builder().root(root).executor(Arc::new(executor));
        let solver = solver.build().unwrap();
        assert_eq!(solver.capabilities().unwrap().tier, ExecTier::None);

        let files = llb::scratch().file(mkfile("/a", "a"));
        let (_, _, outcome) = watch(&solver, support::request(&files)).await;
        outcome.unwrap();
        let step = files.run(["/a"]).root();
        let (_, _, outcome) = watch(&solver, support::request(&step)).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.fault(), Fault::Environment);
        let text = support::chain(&error);
        assert!(
            text.contains("AppArmor restricts user namespaces"),
            "{text}"
        );
        let remedy = error.remedy().unwrap();
        assert!(
            remedy.contains("apparmor_restrict_unprivileged_userns=0"),
            "{remedy}"
        );
    });
}

#[test]
fn with_one_user_owners_cannot_be_changed_or_are_pretended() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped(
        "limits::with_one_user_owners_cannot_be_changed_or_are_pretended",
        &needs,
    ) {
        return;
    }
    support::runtime().block_on(async {
        for pretend in [false, true] {
            let folder = temp();
            let base = support::busybox(folder.path());
            let executor = SandboxExecutor::new(false).unwrap();
            let executor = Arc::new(executor.pretend_ownership(pretend));
            let root = folder.path().join("state");
            let solver = Solver::builder().root(root).executor(executor).build();
            let step = support::busybox_state().run(["sh", "-c", "touch /f && chown 5:6 /f"]);
            let request = support::request(&step.root()).local("base", &base);
            let (text, warnings, outcome) = watch(&solver.unwrap(), request).await;
            assert_eq!(outcome.is_ok(), pretend, "{text}");
            let told = warnings.iter().any(|text| text.contains("owners"));
            assert_eq!(told, pretend, "{warnings:?}");
        }
    });
}

#[test]
fn a_solver_tells_what_its_machine_lets_steps_do() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let found = solver.capabilities().unwrap();
        if support::is_root() {
            assert_eq!(found.tier, ExecTier::Root, "{found:?}");
        } else {
            assert_ne!(found.tier, ExecTier::Root, "{found:?}");
        }
        let trash = fs::read_dir(folder.path().join("state/trash")).unwrap();
        assert_eq!(trash.count(), 0);
    });
}
