//! Steps of an ordinary user that runc and crun run, as far as they do.

use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Mount, Run};
use ashlar_solver::error::Blame as _;
use ashlar_solver::executor::Runtime;
use ashlar_solver::solver::Solver;

use super::support::{self, Need, run, skipped, temp, tool};

fn step(script: &str) -> Run {
    let script = format!("touch /new 2> /dev/null && echo written; {script}");
    let run = support::busybox_state().run(["sh", "-c", &script]);
    // A root that is read-only is no output, and nothing runs without one.
    run.mount("/out", Mount::bind(llb::scratch()))
}

/// Runs steps as an ordinary user. Arguments: a folder and one of the user's.
pub fn role(arguments: &[&str]) {
    let [folder, own] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let (folder, own) = (Path::new(folder), Path::new(own));
    assert!(!support::is_root());
    let runtimes = [
        Runtime::runc(tool("runc").unwrap()),
        Runtime::crun(tool("crun").unwrap()),
    ];
    support::runtime().block_on(async {
        for runtime in runtimes {
            let name = runtime.name();
            let solver = Solver::builder().root(own.join(name)).executor(runtime);
            let solver = solver.build().unwrap();
            let who = "busybox id -u; busybox stat -c '%u %g' /bin/busybox /new 2> /dev/null";
            for (user, readonly, expected) in [
                ("0", false, "written\n0\n0 0\n0 0\n"),
                ("7:8", false, ""),
                ("0", true, "0\n0 0\n"),
            ] {
                let run = step(&format!("{who}; true")).user(user);
                let run = if readonly { run.readonly_root() } else { run };
                if user != "0" {
                    let request = support::lent(folder, &run.output("/out"));
                    let error = solver.solve(request).result().await.unwrap_err();
                    let words = format!(
                        "as an ordinary user, {name} cannot run a step as user 7 and group 8"
                    );
                    assert!(support::chain(&error).ends_with(&words), "{error:?}");
                    assert!(error.remedy().unwrap().contains("built-in sandbox"));
                    continue;
                }
                let request = support::lent(folder, &run.output("/out"));
                let told = support::output(&solver, request).await;
                assert_eq!(told, expected, "{name} {user} {readonly}");
            }
        }
    });
    println!("\n@ done");
}

#[test]
fn runtimes_run_steps_of_an_ordinary_user() {
    let tools = ["busybox", "setpriv", "runc", "crun"].map(Need::Tool);
    let needs: Vec<_> = [Need::Root].into_iter().chain(tools).collect();
    if skipped("runtimes::runtimes_run_steps_of_an_ordinary_user", &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    let own = folder.join("user");
    fs::create_dir(&own).unwrap();
    let arguments = [folder, own.as_path()].map(|path| path.to_str().unwrap());
    let mut command = support::as_user(folder, &own, "runtimes", &arguments);
    let text = run(command.current_dir("/").env("HOME", &own));
    assert!(text.contains("@ done"), "{text}");
}
