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

/// Reads one golden file; says so and returns `None` if this set does not have it.
pub(crate) fn read(name: &str) -> Option<Vec<u8>> {
    let path = directory().join(name);
    match std::fs::read(&path) {
        Ok(data) => Some(data),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skipped(&path.display().to_string());
            None
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Reads one golden JSON file.
pub(crate) fn json(name: &str) -> Option<serde_json::Value> {
    let data = read(name)?;
    Some(serde_json::from_slice(&data).unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// One LLB case of the catalogue that has a definition.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) pb: Vec<u8>,
    pub(crate) ops: u64,
    /// Digest and output of the result; none for scratch.
    pub(crate) head: Option<(String, u64)>,
    /// Digests in definition order; empty for the long ones.
    pub(crate) op_digests: Vec<String>,
}

/// All LLB cases that are expected to marshal.
pub(crate) fn llb_cases() -> Vec<Case> {
    let Some(catalogue) = json("llb/catalogue.json") else {
        return Vec::new();
    };
    let cases = catalogue["cases"].as_array().expect("cases");
    let cases: Vec<Case> = cases
        .iter()
        .filter(|case| case["expect"] == "ok")
        .filter_map(|case| {
            let name = case["name"].as_str().expect("name").to_owned();
            let file = case["files"]["pb"].as_str().expect("pb file");
            let head = case["head"].as_object().map(|head| {
                let digest = head["digest"].as_str().expect("digest").to_owned();
                (digest, head["index"].as_u64().unwrap_or(0))
            });
            let op_digests = case["op_digests"].as_array().into_iter().flatten();
            Some(Case {
                pb: read(&format!("llb/{file}"))?,
                ops: case["ops"].as_u64().expect("ops"),
                head,
                op_digests: op_digests
                    .map(|digest| digest.as_str().expect("digest").to_owned())
                    .collect(),
                name,
            })
        })
        .collect();
    assert!(
        cases.len() > 200,
        "only {} cases: the catalogue is not what it was",
        cases.len()
    );
    cases
}

#[expect(clippy::print_stderr, reason = "a skipped test has to be seen")]
fn skipped(what: &str) {
    eprintln!("skipped: {what} is not there");
}
