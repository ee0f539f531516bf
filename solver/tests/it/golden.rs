//! Where the golden files are.

use std::path::PathBuf;

/// The directory of golden files: `ASHLAR_GOLDEN`, or the one of the workspace.
pub(crate) fn directory() -> PathBuf {
    let chosen = std::env::var_os("ASHLAR_GOLDEN");
    chosen.map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")),
        PathBuf::from,
    )
}

/// Reads one golden file.
pub(crate) fn read(name: &str) -> Vec<u8> {
    let path = directory().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads one golden JSON file.
pub(crate) fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads one golden JSON file that another directory of golden files may lack; says so then.
#[expect(clippy::print_stdout, reason = "skipped tests say so")]
pub(crate) fn json_if_there(test: &str, name: &str) -> Option<serde_json::Value> {
    let path = directory().join(name);
    if !path.exists() {
        println!("SKIPPED: {test}: no {}", path.display());
        return None;
    }
    Some(json(name))
}
