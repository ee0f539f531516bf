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
        let request = limited("cat /proc/1/cgroup; sleep 1", memory.clone()).local("base", &base);
        let look = async {
            tokio::time::sleep(std::time::Duration::from_millis(600)).await;
            let file = |group: &PathBuf| {
                let old = fs::read_to_string(group.join("memory.limit_in_bytes"));
                old.or_else(|_| fs::read_to_string(group.join("memory.max")))
            };
            groups()
                .iter()
                .filter_map(|group| file(group).ok())
                .collect::<Vec<_>>()
        };
        let ((output, _, outcome), limits) = tokio::join!(watch(&solver, request), look);
        outcome.unwrap();
        assert!(
            limits.contains(&format!("{MEMORY}\n")),
            "{limits:?} {output}"
        );
        // Its view begins at its group.
        assert!(!output.contains("ashlar-"), "{output}");

        let hungry = "dd if=/dev/zero of=/dev/null bs=200M count=1; exit $?";
        let request = limited(hungry, memory).local("base", &base);
        let (_, warnings, outcome) = watch(&solver, request).await;
        assert!(outcome.is_err());
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
