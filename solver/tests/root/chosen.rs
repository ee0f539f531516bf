//! The executor that a solver is told to use.

use std::sync::Arc;

use ashlar_llb::{self as llb, Constraints, Platform, copy};
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::executor::{ExecutorChoice, ExecutorKind, Runtime, ScriptedExecutor};
use ashlar_solver::solver::{BuildError, SolveRequest, Solver, SolverBuilder};

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

fn found(name: &str) -> std::path::PathBuf {
    let directories = Runtime::search_path().into_iter();
    let mut paths = directories.map(|directory| directory.join(name));
    let found = paths.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("this test needs {name}"))
}

#[test]
fn the_executor_is_the_one_asked_for_and_says_so() {
    let runtime = runtime();
    let folder = tempfile::tempdir().unwrap();
    let builder = || -> SolverBuilder {
        Solver::builder()
            .root(folder.path().join("state"))
            .runtime(runtime.handle().clone())
    };
    let kind = |builder: SolverBuilder| builder.build().unwrap().executor().clone();
    assert_eq!(kind(builder()), ExecutorKind::Sandbox);
    let runc = Runtime::runc(found("runc"));
    assert_eq!(
        kind(builder().executor(runc.clone())),
        ExecutorKind::Runtime(runc.clone())
    );
    let first = ExecutorChoice::FirstRuntime(Runtime::search_path());
    assert_eq!(
        kind(builder().executor(first)),
        ExecutorKind::Runtime(runc.clone())
    );
    assert_eq!(
        kind(builder().executor(Arc::new(ScriptedExecutor::default()))),
        ExecutorKind::Own
    );
    assert_eq!(
        ExecutorKind::Runtime(runc.clone()).to_string(),
        format!("runc ({})", runc.path().display())
    );
    let refused =
        |choice: ExecutorChoice| -> BuildError { builder().executor(choice).build().unwrap_err() };
    for choice in [
        ExecutorChoice::FirstRuntime(vec![folder.path().to_owned()]),
        ExecutorChoice::Runtime(Runtime::crun(folder.path().join("crun"))),
        ExecutorChoice::Runtime(Runtime::runc("runc")),
    ] {
        let error = refused(choice);
        assert_eq!(error.fault(), Fault::Environment, "{error:?}");
        assert!(
            error.remedy().unwrap().contains("install runc"),
            "{error:?}"
        );
    }
}

#[test]
fn a_solve_runs_its_steps_with_the_runtime() {
    for chosen in [Runtime::runc(found("runc")), Runtime::crun(found("crun"))] {
        let runtime = runtime();
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::create_dir_all(base.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        let solver = Solver::builder()
            .root(folder.path().join("state"))
            .runtime(runtime.handle().clone())
            .executor(chosen)
            .build()
            .unwrap();
        let base_state = llb::scratch().file(copy(llb::local("base"), "/", "/"));
        let script = "echo made > /out";
        let state = base_state.run(["/bin/busybox", "sh", "-c", script]).root();
        let definition = state
            .marshal(&Constraints::new(Platform::linux_amd64()))
            .unwrap();
        let request = SolveRequest::new(definition).local("base", &base);
        let solved = runtime.block_on(solver.solve(request).result()).unwrap();
        let view = solved.result.reference().view().unwrap();
        let path = ashlar_solver::tree::TreePath::new("out").unwrap();
        assert!(view.lookup(&path).is_some());
        for stub in ["proc", "dev", "sys", "etc"] {
            let path = ashlar_solver::tree::TreePath::new(stub).unwrap();
            let left = view.lookup(&path);
            assert!(left.is_none(), "{stub} was left behind");
        }
    }
}
