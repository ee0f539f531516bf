//! CDI devices of steps: who may have them, and what comes with them.

use std::fs;
use std::path::Path;

use ashlar_llb::{Run, State};
use ashlar_solver::error::Fault;
use ashlar_solver::ops::Entitlements;
use ashlar_solver::ops::exec::ExecError;
use ashlar_solver::progress::Event;
use ashlar_solver::solver::{SolveError, SolveRequest, Solver};
use futures::StreamExt as _;

use super::support::{self, Need, skipped, temp};

const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

fn step(script: &str) -> Run {
    support::busybox_state().run(["sh", "-c", script])
}

fn solver(folder: &Path, allow: &[&str]) -> Solver {
    let none = Entitlements::default();
    let entitlements = allow.iter().try_fold(none, |all, text| all.allow(text));
    Solver::builder()
        .root(folder.join("state"))
        .entitlements(entitlements.unwrap())
        .cdi_directories([folder.join("none"), folder.join("cdi")])
        .build()
        .unwrap()
}

/// What the steps wrote, or why there is no result.
async fn told(folder: &Path, allow: &[&str], state: &State) -> Result<String, SolveError> {
    let request: SolveRequest = support::request(state).local("base", folder.join("base"));
    let (mut events, outcome) = solver(folder, allow).solve(request).split();
    let mut output = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::Log { data, .. } = event {
            output.extend_from_slice(&data);
        }
    }
    outcome.await?;
    Ok(String::from_utf8(output).unwrap())
}

fn specifications(folder: &Path) {
    let cdi = folder.join("cdi");
    fs::create_dir(&cdi).unwrap();
    fs::create_dir(folder.join("library")).unwrap();
    fs::write(folder.join("library/driver"), "driver\n").unwrap();
    let library = folder.join("library");
    let gpu = format!(
        r#"{{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
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
        r#"{{"kind": "vendor.com/free", "annotations": {{"{AUTO_ALLOW}": "true"}},
            "devices": [{{"name": "x", "containerEdits": {{"env": ["FREE=x"]}}}}]}}"#
    );
    fs::write(cdi.join("free.json"), free).unwrap();
    let hooks = r#"{"kind": "vendor.com/hooked", "devices": [{"name": "x", "containerEdits": {
        "hooks": [{"hookName": "createContainer", "path": "/bin/touch", "args": ["touch", "/x"]}]}}]}"#;
    fs::write(cdi.join("hooks.json"), hooks).unwrap();
}

#[test]
fn steps_get_the_devices_that_they_may_have() {
    let needs = [Need::Root, Need::Tool("busybox")];
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
        let state = use_gpu()
            .device("vendor.com/gpu=0")
            .device("vendor.com/free=x");
        let allow = ["device=vendor.com/gpu=0"];
        let out = told(folder, &allow, &state.root()).await.unwrap();
        let expected = "0+all+yes+x\ndriver\n3\n0 4242\nread-only\n/dev/gpu0\n";
        assert_eq!(out, expected);
        // The mount points are gone.
        let solver = solver(folder, &allow);
        let request = support::request(&state.root()).local("base", folder.join("base"));
        let solved = support::solve(&solver, request).await;
        let files = support::files(&solved).await;
        assert!(!files.contains_key("opt") && !files.contains_key("dev"));

        // By an alias, by the class, and all of them.
        let alias = step("echo $GPU").device("graphics");
        let allow = ["device=vendor.com/gpu=1,alias=graphics"];
        assert_eq!(told(folder, &allow, &alias.root()).await.unwrap(), "1\n");
        let first = step("echo first $GPU").device("vendor.com/gpu");
        let allow = ["device=vendor.com/gpu"];
        assert_eq!(
            told(folder, &allow, &first.root()).await.unwrap(),
            "first 0\n"
        );
        let all = step("echo all $GPU").device("vendor.com/gpu=*");
        assert_eq!(
            told(folder, &["device"], &all.root()).await.unwrap(),
            "all 1\n"
        );
        // One that is not there and not needed.
        let without = step("echo $GPU none").optional_device("vendor.com/tpu=0");
        assert_eq!(told(folder, &[], &without.root()).await.unwrap(), "none\n");
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
    let refused = async |allow: &[&str], device: &str| match told(
        folder,
        allow,
        &step("true").device(device).root(),
    )
    .await
    {
        Err(SolveError::Vertex { failure, .. }) => failure,
        other => panic!("{other:?}"),
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
        let hooked = refused(&["device"], "vendor.com/hooked=x").await;
        assert_eq!(
            hooked.to_string(),
            "hooks of the devices vendor.com/hooked=x is not supported yet"
        );
    });
}
