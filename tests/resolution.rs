//! A crate that uses the solver can use the current sqlx or diesel too: only one version of the
//! native SQLite library can be linked, and the solver's range of versions has it.

#![expect(clippy::unwrap_used, reason = "in a test the failure is the message")]
#![expect(clippy::disallowed_methods, reason = "tests ask cargo")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// What cargo says when there is no registry to be reached.
const OFFLINE: [&str; 4] = [
    "Could not resolve host",
    "download of config.json failed",
    "network",
    "timed out",
];

fn resolve(name: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let manifest = fs::read_to_string(
        workspace
            .join("tests/resolution")
            .join(name)
            .join("Cargo.toml"),
    );
    let solver = workspace.join("solver");
    let manifest = manifest
        .unwrap()
        .replace("../../../solver", solver.to_str().unwrap());
    assert!(manifest.contains(solver.to_str().unwrap()));
    fs::write(folder.path().join("Cargo.toml"), manifest).unwrap();
    fs::create_dir(folder.path().join("src")).unwrap();
    fs::write(folder.path().join("src/lib.rs"), "").unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["generate-lockfile", "--quiet"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && OFFLINE.iter().any(|hint| text.contains(hint)) {
        println!("SKIPPED: {name} resolves with the solver: no registry: {text}");
        return;
    }
    assert!(output.status.success(), "{text}");
    let lock = fs::read_to_string(folder.path().join("Cargo.lock")).unwrap();
    let count = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    assert_eq!(count("libsqlite3-sys"), 1, "{lock}");
    assert_eq!(count("rusqlite"), 1);
    assert_eq!(count(name), 1);
}

#[test]
fn sqlx_resolves_beside_the_solver() {
    resolve("sqlx");
}

#[test]
fn diesel_resolves_beside_the_solver() {
    resolve("diesel");
}
