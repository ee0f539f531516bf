//! Secrets that a caller lends to steps: as files and as variables, needed or not.

use std::fs;
use std::path::Path;

use ashlar_llb::{Run, Secret};
use ashlar_solver::error::Fault;
use ashlar_solver::ops::exec::ExecError;
use ashlar_solver::session::{
    EnvSecret, FileSecret, MAX_SECRET, MemorySecret, SecretError, SecretProvider, SecretValue,
};
use ashlar_solver::solver::{SolveError, SolveRequest, Solver};

use super::support::{self, Need, lent, output, run, skipped, solve, temp};

fn step(script: &str) -> Run {
    support::busybox_state().run(["sh", "-c", script])
}

async fn failure(solver: &Solver, request: SolveRequest) -> ashlar_solver::error::Failure {
    match solver.solve(request).result().await {
        Err(SolveError::Vertex { failure, .. }) => failure,
        other => panic!("{other:?}"),
    }
}

/// Files with owner and mode, variables, both; what is missing and not needed.
async fn lend_to_a_step(folder: &Path, solver: &Solver) {
    let script = "
        busybox stat -c '%a %u:%g %F' /run/secrets/a /b /x; cat /run/secrets/a /b; /x
        busybox grep -E ' (/run/secrets/a|/b|/x) ' /proc/mounts
        echo \"$TOKEN+$NONE+$BOTH+$0\"; cat /both; busybox ls / /run/secrets
        (echo no > /b) 2>/dev/null || echo unchanged";
    let state = step(script)
        .env("TOKEN", "not this")
        .secret(Secret::file("/run/secrets/a").id("a"))
        .secret(Secret::file("/b").id("b").owner_and_mode(0, 0, 0o444))
        .secret(Secret::file("/x").id("x").owner_and_mode(0, 0, 0o500))
        .secret(Secret::env("token", "TOKEN"))
        .secret(Secret::env("none", "NONE").optional())
        .secret(Secret::new("b").target("/both").env_name("BOTH"))
        .secret(Secret::file("/none").id("none").optional())
        .root();
    fs::write(folder.join("x"), "#!/bin/sh\necho executed\n").unwrap();
    let request = lent(folder, &state)
        .secret(MemorySecret::new("a", "value of a\n"))
        .secret(MemorySecret::new("b", "overridden"))
        .secret(MemorySecret::new("b", "value of b\n"))
        .secret(FileSecret::new("x", folder.join("x")))
        .secret(EnvSecret::new("token", "CARGO_MANIFEST_DIR"))
        .secret(EnvSecret::new("none", "ASHLAR_TEST_NOT_SET"));
    let told = output(solver, request.clone()).await;
    let expected = "400 0:0 regular file\n444 0:0 regular file\n500 0:0 regular file\nvalue of a\n\
                    value of b\nexecuted\n";
    assert!(told.starts_with(expected), "{told}");
    for (path, executable) in [("/run/secrets/a", false), ("/b", false), ("/x", true)] {
        let mount = told
            .lines()
            .find(|line| line.contains(&format!(" {path} ")));
        let mount = mount.unwrap_or_else(|| panic!("{path} in {told}"));
        let options = mount.split(' ').nth(3).unwrap();
        assert_eq!(mount.split(' ').nth(2), Some("tmpfs"), "{mount}");
        for option in ["ro", "nosuid", "nodev"] {
            assert!(options.split(',').any(|it| it == option), "{mount}");
        }
        assert_eq!(!options.contains("noexec"), executable, "{mount}");
    }
    let directory = env!("CARGO_MANIFEST_DIR");
    let variables = format!("{directory}++value of b\n+sh\nvalue of b\n");
    assert!(told.contains(&variables), "{told}");
    assert!(!told.contains("\nnone\n"), "{told}");
    assert!(told.ends_with("unchanged\n"), "{told}");
    // Nothing of it is in the result, and other values are no reason to run the step again.
    let other = request.secret(MemorySecret::new("a", "another value"));
    let solved = solve(solver, other).await;
    assert_eq!(support::ran(&solved), [""; 0]);
    let files = support::files(&solved).await;
    for path in ["run", "b", "x", "both", "none"] {
        assert!(!files.contains_key(path), "{path} was left behind");
    }
}

/// What cannot be lent is a typed error that names the secret, before anything runs.
async fn refuse(folder: &Path, solver: &Solver) {
    let file = step("true").secret(Secret::file("/s").id("needed")).root();
    let variable = step("true").secret(Secret::env("needed", "S")).root();
    for state in [&file, &variable] {
        let failed = failure(solver, lent(folder, state)).await;
        let error = failed.downcast_ref::<ExecError>().unwrap();
        assert!(matches!(error, ExecError::SecretNotFound { id } if id == "needed"));
        assert_eq!(error.to_string(), "secret needed: not found");
        assert_eq!(failed.fault(), Fault::Input);
        assert!(failed.remedy().unwrap().contains("SolveRequest::secret"));

        let big = MemorySecret::new("needed", vec![b'x'; MAX_SECRET + 1]);
        let failed = failure(solver, lent(folder, state).secret(big)).await;
        let source = failed.as_error().source().unwrap();
        let source = source.downcast_ref::<SecretError>().unwrap();
        assert!(matches!(source, SecretError::TooBig { id } if id == "needed"));

        let lost = FileSecret::new("needed", folder.join("lost"));
        let failed = failure(solver, lent(folder, state).secret(lost)).await;
        assert_eq!(failed.fault(), Fault::Environment);
        assert!(failed.chain().contains("the secret \"needed\""), "{failed}");
    }
    let zero = MemorySecret::new("needed", "zero\0byte");
    let failed = failure(solver, lent(folder, &variable).secret(zero.clone())).await;
    assert!(failed.chain().contains("zero byte"), "{}", failed.chain());
    let told = step("busybox wc -c < /s; test $(busybox wc -c < /big) = 512000 && echo big")
        .secret(Secret::file("/s").id("needed"))
        .secret(Secret::file("/big").id("big"));
    let request = lent(folder, &told.root()).secret(zero);
    let request = request.secret(MemorySecret::new("big", vec![b'x'; MAX_SECRET]));
    assert_eq!(output(solver, request).await, "9\nbig\n");
}

pub fn role(arguments: &[&str]) {
    let [folder] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    assert!(!support::is_root());
    support::runtime().block_on(async {
        let solver = support::solver(folder.join("state"));
        let first = solver
            .solve(lent(folder, &step("true").root()))
            .result()
            .await;
        if let Err(SolveError::Vertex { failure, .. }) = first {
            assert_eq!(failure.fault(), Fault::Environment, "{}", failure.chain());
            println!("SKIPPED: secrets::as_a_user: {}", failure.chain());
            return;
        }
        lend_to_a_step(folder, &solver).await;
        refuse(folder, &solver).await;
        // Where one user is all there is, it has the secret, and the files of the network.
        let other = step("busybox id -u; cat /s; busybox wc -l < /etc/hosts").user("7:8");
        let other = other.secret(Secret::file("/s").id("s")).root();
        let request = lent(folder, &other).secret(MemorySecret::new("s", "value\n"));
        assert_eq!(output(&solver, request).await, "7\nvalue\n2\n");
        println!("\n@ lent as a user");
    });
    assert_eq!(support::leftovers(&folder.join("state")), [""; 0]);
}

#[test]
fn steps_are_lent_secrets() {
    let needs = [Need::Root, Need::Tool("busybox"), Need::Tool("setpriv")];
    if skipped("secrets::steps_are_lent_secrets", &needs) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        lend_to_a_step(folder.path(), &solver).await;
        refuse(folder.path(), &solver).await;
        // As root the owner is the one asked for.
        let state = step("busybox stat -c '%a %u:%g' /s")
            .secret(Secret::file("/s").id("s").owner_and_mode(7, 8, 0o640));
        let request = lent(folder.path(), &state.root()).secret(MemorySecret::new("s", "s"));
        assert_eq!(output(&solver, request).await, "640 7:8\n");
    });
    assert_eq!(support::leftovers(&folder.path().join("state")), [""; 0]);

    // The same as an ordinary user, with a binary that it can read.
    let home = folder.path().join("user");
    fs::create_dir(&home).unwrap();
    support::busybox(&home);
    let told = run(&mut support::as_user(
        folder.path(),
        &home,
        "secrets",
        &[home.to_str().unwrap()],
    ));
    assert!(
        told.contains("@ lent as a user") || told.contains("SKIPPED: "),
        "{told}"
    );
    print!("{told}");
}

/// Counts how often it is asked, and has a value only if it was told one.
#[derive(Debug)]
struct Slow(Option<&'static str>, std::time::Duration);

#[async_trait::async_trait]
impl SecretProvider for Slow {
    async fn secret(&self, id: &str) -> Result<Option<SecretValue>, SecretError> {
        assert_eq!(id, "s");
        tokio::time::sleep(self.1).await;
        Ok(self.0.map(SecretValue::new))
    }
}

/// Two solves of one solver ask for the same step at once; the one that came first was lent
/// nothing. Its failure is its own.
#[test]
fn a_secret_that_one_caller_lacks_fails_no_other() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped(
        "secrets::a_secret_that_one_caller_lacks_fails_no_other",
        &needs,
    ) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        let base = support::busybox_state();
        solve(&solver, lent(folder.path(), &base)).await;
        let state = step("cat /s > /copy")
            .secret(Secret::file("/s").id("s"))
            .root();
        let wait = std::time::Duration::from_millis(500);
        let without = lent(folder.path(), &state).secret(Slow(None, wait));
        let with = lent(folder.path(), &state).secret(Slow(Some("value"), wait));
        let first = solver.solve(without);
        tokio::time::sleep(wait / 3).await;
        let second = solver.solve(with);
        let (first, second) = tokio::join!(first.result(), second.result());
        let error = first.unwrap_err();
        assert!(error.to_string().contains("secret s: not found"), "{error}");
        let files = support::files(&second.unwrap()).await;
        assert_eq!(files["copy"], support::file(0o644, b"value"));
        // From now on the result is in the cache, and nobody has to lend anything.
        let third = solve(&solver, lent(folder.path(), &state)).await;
        assert_eq!(support::ran(&third), [""; 0]);
    });
}
