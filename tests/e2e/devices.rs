//! CDI devices of steps: who may have them, and what comes with them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ashlar_llb::{Run, State};
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::executor::Runtime;
use ashlar_solver::ops::Entitlements;
use ashlar_solver::ops::exec::ExecError;
use ashlar_solver::solver::{SolveError, Solver};

use super::support::{self, Need, skipped, temp};

const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

fn step(script: &str) -> Run {
    support::busybox_state().run(["sh", "-c", script])
}

fn solver(folder: &Path, runtime: Option<&Runtime>, allow: &[&str]) -> Solver {
    let none = Entitlements::default();
    let entitlements = allow.iter().try_fold(none, |all, text| all.allow(text));
    let solver = Solver::builder()
        .root(folder.join("state"))
        .entitlements(entitlements.unwrap())
        .cdi_directories([folder.join("none"), folder.join("cdi")]);
    match runtime {
        Some(runtime) => solver.executor(runtime.clone()).build().unwrap(),
        None => solver.build().unwrap(),
    }
}

/// The built-in sandbox, and what else runs steps.
fn executors() -> [Option<Runtime>; 3] {
    let path = |name| support::tool(name).unwrap();
    [
        None,
        Some(Runtime::runc(path("runc"))),
        Some(Runtime::crun(path("crun"))),
    ]
}

/// What the steps wrote, or why there is no result.
async fn told(solver: &Solver, folder: &Path, state: &State) -> Result<String, SolveError> {
    let (outcome, text) = support::told(solver, support::lent(folder, state)).await;
    outcome.map(|_| text)
}

fn specifications(folder: &Path) {
    let cdi = folder.join("cdi");
    fs::create_dir(&cdi).unwrap();
    fs::create_dir(folder.join("library")).unwrap();
    fs::write(folder.join("library/driver"), "driver\n").unwrap();
    let library = folder.join("library");
    let gpu = format!(
        r#"{{"cdiVersion": "0.7.0", "kind": "vendor.com/gpu",
            "containerEdits": {{
                "env": ["DRIVER=all", "OVERRIDDEN=yes"],
                "mounts": [{{"hostPath": "{}", "containerPath": "/opt/driver", "options": ["ro", "nosuid"]}}]
            }},
            "devices": [
                {{"name": "0", "containerEdits": {{
                    "env": ["GPU=0"], "additionalGids": [4242],
                    "deviceNodes": [{{"path": "/dev/gpu0", "hostPath": "/dev/zero"}}]}}}},
                {{"name": "1", "containerEdits": {{"env": ["GPU=1"]}}}}
            ]}}"#,
        library.display()
    );
    fs::write(cdi.join("gpu.json"), gpu).unwrap();
    let free = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "vendor.com/free", "annotations": {{"{AUTO_ALLOW}": "true"}},
            "devices": [{{"name": "x", "containerEdits": {{"env": ["FREE=x"]}}}}]}}"#
    );
    fs::write(cdi.join("free.json"), free).unwrap();
    fs::write(folder.join("hook"), HOOK).unwrap();
    fs::set_permissions(folder.join("hook"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("library/tool"), "#!/bin/sh\necho run\n").unwrap();
    fs::set_permissions(
        folder.join("library/tool"),
        fs::Permissions::from_mode(0o4755),
    )
    .unwrap();
    let yaml = YAML.replace("FOLDER", folder.to_str().unwrap());
    fs::write(cdi.join("complete.yaml"), yaml).unwrap();
}

/// What it was told, in the root that is being made ready.
const HOOK: &str = r#"#!/bin/sh
state=$(cat)
case "$state" in *'"ociVersion"'*'"bundle"'*) state=state ;; esac
[ "$1" != fail ] || { echo "no such luck" >&2; exit 3; }
echo "$0 $1 $HOOKED $state" >> /dev/inner/hooks
"#;

/// All that a specification can say.
const YAML: &str = r#"---
cdiVersion: 1.0.0
kind: vendor.com/complete
devices:
- name: nodes
  containerEdits:
    deviceNodes:
    - {path: /dev/made, type: c, major: 1, minor: 5, fileMode: 0640, uid: 7, gid: 8, permissions: rw}
    - {path: /dev/changed, hostPath: /dev/zero, fileMode: 0600}
    - {path: /dev/same, hostPath: /dev/zero}
    - {path: /dev/pipe, type: p, fileMode: 0622}
    mounts:
    - hostPath: FOLDER/library
      containerPath: /opt/closed
      options: [ro, nosuid, nodev, noexec, rbind, rprivate]
    - hostPath: FOLDER/library
      containerPath: /opt/open
      type: none
      options: [rbind, ro]
    - {hostPath: tmpfs, containerPath: /opt/memory, type: tmpfs, options: [size=64k]}
- name: 1
  containerEdits:
    deviceNodes:
    - {path: /dev/absent}
- name: hooks
  containerEdits:
    hooks:
    - {hookName: createRuntime, path: FOLDER/hook, args: [hook, one], env: [HOOKED=1]}
    - {hookName: createContainer, path: FOLDER/hook, args: [hook, two]}
    - {hookName: startContainer, path: /bin/sh, args: [sh, -c, "echo in >> /hooks"]}
- name: failing
  containerEdits:
    hooks:
    - {hookName: createContainer, path: FOLDER/hook, args: [hook, fail]}
- name: rdt
  containerEdits:
    intelRdt: {closID: x}
"#;

#[test]
fn steps_get_the_devices_that_they_may_have() {
    let tools = ["busybox", "runc", "crun"].map(Need::Tool);
    let needs: Vec<_> = [Need::Root].into_iter().chain(tools).collect();
    if skipped("devices::steps_get_the_devices_that_they_may_have", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    specifications(folder);
    let script = "echo $GPU+$DRIVER+$OVERRIDDEN+$FREE; cat /opt/driver/driver
        busybox head -c 3 /dev/gpu0 | busybox wc -c; busybox id -G
        touch /opt/driver/no 2>/dev/null || echo read-only; busybox ls /dev/gpu0";
    let use_gpu = || step(script).env("OVERRIDDEN", "no");
    support::runtime().block_on(async {
        for runtime in executors() {
            let runtime = runtime.as_ref();
            let told = async |allow: &[&str], run: Run| {
                // Not the result of the one before.
                let run = run.ignore_cache();
                told(&solver(folder, runtime, allow), folder, &run.root())
                    .await
                    .unwrap()
            };
            let run = use_gpu()
                .device("vendor.com/gpu=0")
                .device("vendor.com/free=x");
            let allow = ["device=vendor.com/gpu=0"];
            let expected = "0+all+yes+x\ndriver\n3\n0 4242\nread-only\n/dev/gpu0\n";
            assert_eq!(told(&allow, run.clone()).await, expected, "{runtime:?}");
            // The mount points are gone.
            let solver = solver(folder, runtime, &allow);
            let request = support::request(&run.root()).local("base", folder.join("base"));
            let solved = support::solve(&solver, request).await;
            let files = support::files(&solved).await;
            assert!(!files.contains_key("opt") && !files.contains_key("dev"));

            // By an alias, by the class, and all of them.
            let alias = step("echo $GPU").device("graphics");
            let allow = ["device=vendor.com/gpu=1,alias=graphics"];
            assert_eq!(told(&allow, alias).await, "1\n");
            let first = step("echo first $GPU").device("vendor.com/gpu");
            assert_eq!(told(&["device=vendor.com/gpu"], first).await, "first 0\n");
            let all = step("echo all $GPU").device("vendor.com/gpu=*");
            assert_eq!(told(&["device"], all).await, "all 1\n");
            // One that is not there and not needed.
            let without = step("echo $GPU none").optional_device("vendor.com/tpu=0");
            assert_eq!(told(&[], without).await, "none\n");
        }
    });
}

#[test]
fn all_of_a_specification_in_yaml_is_done() {
    let tools = ["busybox", "runc", "crun"].map(Need::Tool);
    let needs: Vec<_> = [Need::Root].into_iter().chain(tools).collect();
    if skipped("devices::all_of_a_specification_in_yaml_is_done", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    specifications(folder);
    let script = "cd /dev; for i in made changed same pipe; do busybox stat -c '%n %F %t:%T %a %u:%g' $i; done
        busybox head -c 3 made | busybox wc -c
        /opt/closed/tool 2> /dev/null || echo not executed; /opt/open/tool
        touch /opt/open/x 2> /dev/null || echo read-only
        busybox grep -c ' /opt/closed ro,nosuid,nodev,noexec' /proc/self/mountinfo
        dd if=/dev/zero of=/opt/memory/x bs=1k count=65 2> /dev/null || echo full";
    let nodes = |user: &str| {
        format!(
            "made character special file 1:5 640 7:8\n\
             changed character special file 1:5 600 {user}\n\
             same character special file 1:5 666 {user}\n\
             pipe fifo 0:0 622 {user}\n"
        )
    };
    let rest = "not executed\nrun\nread-only\n1\nfull\n";
    support::runtime().block_on(async {
        for runtime in executors() {
            let solver = solver(folder, runtime.as_ref(), &["device"]);
            for (user, read) in [("0:0", "3\n"), ("9:8", "3\n"), ("9:9", "0\n")] {
                let run = step(script).user(user).ignore_cache();
                let run = run.device("vendor.com/complete=nodes");
                let told = told(&solver, folder, &run.root()).await.unwrap();
                let told = told.replace("head: made: Permission denied\n", "");
                assert_eq!(told, nodes(user) + read + rest, "{runtime:?}");
            }
            let run = step("cat /hooks")
                .ignore_cache()
                .device("vendor.com/complete=hooks");
            let hooks = told(&solver, folder, &run.root()).await;
            let run = step("true")
                .ignore_cache()
                .device("vendor.com/complete=failing");
            let failing = told(&solver, folder, &run.root()).await.unwrap_err();
            let chain = support::chain(&failing);
            if runtime.is_some() {
                let hook = folder.join("hook");
                let hook = hook.display();
                let expected = format!("{hook} one 1 state\n{hook} two  state\nin\n");
                assert_eq!(hooks.unwrap(), expected, "{runtime:?}");
                assert!(chain.contains("cannot start the process"), "{chain}");
                continue;
            }
            let refused = hooks.unwrap_err();
            assert!(
                support::chain(&refused).contains("the built-in sandbox runs no hooks"),
                "{refused}"
            );
            assert!(refused.remedy().unwrap().contains("runc or crun"));
            assert!(chain.contains("runs no hooks"), "{chain}");
        }
    });
}

#[test]
fn devices_are_refused_with_a_reason() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("devices::devices_are_refused_with_a_reason", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    specifications(folder);
    fs::write(folder.join("cdi/broken.json"), "{").unwrap();
    let refused = async |allow: &[&str], device: &str| {
        let state = step("true").device(device).root();
        match told(&solver(folder, None, allow), folder, &state).await {
            Err(SolveError::Vertex { failure, .. }) => failure,
            other => panic!("{other:?}"),
        }
    };
    support::runtime().block_on(async {
        for allow in [&[][..], &["device=vendor.com/gpu=1"]] {
            let failure = refused(allow, "vendor.com/gpu=0").await;
            let error = failure.downcast_ref::<ExecError>().unwrap();
            assert!(
                matches!(error, ExecError::DeviceNotAllowed { name } if name == "vendor.com/gpu=0"),
                "{error}"
            );
            assert!(
                failure
                    .remedy()
                    .unwrap()
                    .contains("device=vendor.com/gpu=0")
            );
        }
        for allow in [&[][..], &["device"]] {
            let failure = refused(allow, "vendor.com/tpu=0").await;
            assert_eq!(failure.fault(), Fault::Environment);
            let text = failure.chain();
            assert!(text.starts_with("required device \"vendor.com/tpu=0\" is not registered"));
            assert!(text.contains("broken.json"), "{text}");
        }
        let rdt = refused(&["device"], "vendor.com/complete=rdt").await;
        assert_eq!(
            rdt.to_string(),
            "Intel RDT for the devices vendor.com/complete=rdt is not supported yet"
        );
        let absent = refused(&["device"], "vendor.com/complete=1").await;
        assert_eq!(absent.fault(), Fault::Environment);
        assert!(
            absent
                .chain()
                .starts_with("cannot use the device node /dev/absent: No such file"),
            "{}",
            absent.chain()
        );
    });
}
