//! Rebuilds every golden recipe through the public builder and compares the definitions.

mod fields;
mod file_steps;
mod marshal;
mod metadata;
mod run_steps;
mod sources;
mod steps;

use std::collections::BTreeSet;

use crate::golden;
use fields::Unsupported;

/// Cases of the committed set whose recipes ask for what the builder cannot express.
///
/// - `run_extra_host_invalid_ip`: hosts are given by typed addresses, which cannot be missing.
const UNSUPPORTED: &[&str] = &["run_extra_host_invalid_ip"];

/// What became of a case.
enum Outcome {
    Passed,
    Unsupported(String),
    Failed(String),
}

fn check(case: &serde_json::Value) -> Option<Outcome> {
    let expected = match case["files"]["pb"].as_str() {
        Some(file) => Some(golden::read(&format!("llb/{file}"))?),
        None => None,
    };
    let built = match steps::build(&case["recipe"]) {
        Ok(built) => built,
        Err(Unsupported(feature)) => return Some(Outcome::Unsupported(feature)),
    };
    Some(match (built, expected) {
        (Ok(definition), Some(expected)) if definition.encode() == expected => Outcome::Passed,
        (Ok(definition), Some(expected)) => Outcome::Failed(difference(&definition, &expected)),
        (Err(_), None) if case["expect"] == "error" => Outcome::Passed,
        (Ok(_), None) => Outcome::Failed(format!("should fail: {}", case["error"])),
        (Err(error), _) => Outcome::Failed(error),
    })
}

/// Tells where two definitions differ, as far as that helps.
fn difference(built: &ashlar_llb::Definition, expected: &[u8]) -> String {
    let expected = ashlar_llb::Definition::decode(expected.to_vec()).expect("golden file");
    let (built, expected) = (built.to_message(), expected.to_message());
    let ops = built.def.iter().zip(&expected.def);
    if let Some(position) = ops.clone().position(|(a, b)| a != b) {
        let decode = |op: &[u8]| <ashlar_llb::pb::Op as prost::Message>::decode(op);
        return format!(
            "op {position}:\n  built    {:?}\n  expected {:?}",
            decode(&built.def[position]),
            decode(&expected.def[position])
        );
    }
    if built.def.len() != expected.def.len() {
        return format!("{} ops, expected {}", built.def.len(), expected.def.len());
    }
    for (digest, metadata) in &expected.metadata {
        let own = built.metadata.get(digest);
        if own != Some(metadata) {
            return format!("metadata:\n  built    {own:?}\n  expected {metadata:?}");
        }
    }
    format!(
        "source:\n  built    {:?}\n  expected {:?}",
        built.source, expected.source
    )
}

#[test]
fn golden_recipes_give_the_same_definitions() {
    let Some(catalogue) = golden::json("llb/catalogue.json") else {
        return;
    };
    let cases = catalogue["cases"].as_array().expect("cases");
    let mut passed = 0_usize;
    let mut unsupported = BTreeSet::new();
    let mut failures = Vec::new();
    for case in cases {
        let name = case["name"].as_str().expect("name");
        match check(case) {
            None => {}
            Some(Outcome::Passed) => passed += 1,
            Some(Outcome::Unsupported(feature)) => {
                eprintln!("SKIPPED {name}: the builder has no {feature}");
                unsupported.insert(name);
            }
            Some(Outcome::Failed(reason)) => failures.push(format!("{name}: {reason}")),
        }
    }
    eprintln!(
        "{passed} of {} recipes pass, {} skipped as unsupported",
        cases.len(),
        unsupported.len()
    );
    assert!(
        failures.is_empty(),
        "{} fail\n{}",
        failures.len(),
        failures.join("\n")
    );
    let committed = golden::directory().starts_with(env!("CARGO_MANIFEST_DIR"));
    if committed {
        let compared = passed + unsupported.len();
        assert_eq!(compared, cases.len(), "golden files are missing");
        let listed: BTreeSet<&str> = UNSUPPORTED.iter().copied().collect();
        assert_eq!(
            unsupported, listed,
            "the list of unsupported cases is out of date"
        );
    }
}
