//! Rebuilds every golden recipe through the public builder and compares the definitions.

mod fields;
mod file_steps;
mod marshal;
mod metadata;
mod run_steps;
mod sources;
mod steps;

use crate::golden;
use fields::Stop;

/// What became of a case.
enum Outcome {
    Passed,
    Failed(String),
}

fn check(case: &serde_json::Value) -> Option<Outcome> {
    let expected = match case["files"]["pb"].as_str() {
        Some(file) => Some(golden::read(&format!("llb/{file}"))?),
        None => None,
    };
    Some(match (steps::build(&case["recipe"]), expected) {
        (Ok(definition), Some(expected)) if definition.encode() == expected => Outcome::Passed,
        (Ok(definition), Some(expected)) => Outcome::Failed(difference(&definition, &expected)),
        (Err(Stop::Marshal(error)), None) if case["expect"] == "error" => {
            // Which step it is can be told.
            match error.step() {
                "" => Outcome::Failed(format!("no step in {error:?}")),
                step if error.to_string().contains(&format!("{step:?}")) => Outcome::Passed,
                step => Outcome::Failed(format!("step {step:?} is not in {error}")),
            }
        }
        (Err(Stop::Import(_)), None) if case["expect"] == "error" => Outcome::Passed,
        (Ok(_), None) => Outcome::Failed(format!("should fail: {}", case["error"])),
        (Err(stop), _) => Outcome::Failed(stop.to_string()),
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
    let mut failures = Vec::new();
    for case in cases {
        let name = case["name"].as_str().expect("name");
        match check(case) {
            None => {}
            Some(Outcome::Passed) => passed += 1,
            Some(Outcome::Failed(reason)) => failures.push(format!("{name}: {reason}")),
        }
    }
    eprintln!("{passed} of {} recipes pass", cases.len());
    assert!(
        failures.is_empty(),
        "{} fail\n{}",
        failures.len(),
        failures.join("\n")
    );
    let committed = golden::directory().starts_with(env!("CARGO_MANIFEST_DIR"));
    if committed {
        assert_eq!(passed, cases.len(), "golden files are missing");
    }
}

/// The kind of the error and the step it has to name, for each case that has to fail.
#[test]
fn recipes_that_cannot_be_written_tell_which_step_and_why() {
    use ashlar_llb::MarshalError as Error;
    type IsIt = fn(&Error) -> bool;
    let table: [(&str, &str, IsIt); 15] = [
        ("image_err_uppercase", "docker-image://Alpine", |e| {
            matches!(e, Error::InvalidSource { .. })
        }),
        ("image_err_empty", "docker-image://", |e| {
            matches!(e, Error::InvalidSource { .. })
        }),
        (
            "image_err_short_digest",
            "docker-image://alpine@sha256:abc",
            |e| matches!(e, Error::InvalidSource { .. }),
        ),
        ("image_blob_err_nodigest", "docker-image+blob://", |e| {
            matches!(e, Error::InvalidSource { .. })
        }),
        ("raw_source_err_empty", "source without identifier", |e| {
            matches!(e, Error::InvalidSource { .. })
        }),
        ("run_err_empty_args", "", |e| {
            matches!(e, Error::NoArguments { .. })
        }),
        ("run_args_inherit_no", "", |e| {
            matches!(e, Error::NoArguments { .. })
        }),
        ("run_shlex_err_empty", "", |e| {
            matches!(e, Error::NoArguments { .. })
        }),
        ("mount_tmpfs_err_source", "/bin/sh -c x", |e| {
            matches!(e, Error::TmpfsSource { .. })
        }),
        ("mount_no_output_err_get", "", |e| {
            matches!(e, Error::Unusable { .. })
        }),
        ("file_err_no_action", "", |e| {
            matches!(e, Error::NoActions { .. })
        }),
        ("passthrough_err_no_id", "passthrough", |e| {
            matches!(e, Error::NoPassthroughId { .. })
        }),
        ("passthrough_err_no_output", "passthrough", |e| {
            matches!(e, Error::Unusable { .. })
        }),
        ("passthrough_err_bad_index", "", |e| {
            matches!(e, Error::Unusable { .. })
        }),
        ("passthrough_err_all_scratch", "passthrough", |e| {
            matches!(e, Error::NoInput { .. })
        }),
    ];
    let Some(catalogue) = golden::json("llb/catalogue.json") else {
        return;
    };
    let cases = catalogue["cases"].as_array().expect("cases");
    let failing = cases.iter().filter(|case| case["expect"] == "error");
    let mut checked = 0;
    for case in failing {
        let name = case["name"].as_str().expect("name");
        let Some((_, step, is_it)) = table.iter().find(|(known, ..)| *known == name) else {
            continue;
        };
        let Err(Stop::Marshal(error)) = steps::build(&case["recipe"]) else {
            panic!("{name} marshals");
        };
        assert!(is_it(&error), "{name}: {error:?}");
        assert!(!error.step().is_empty(), "{name}: {error:?}");
        assert!(error.step().starts_with(step), "{name}: {:?}", error.step());
        checked += 1;
    }
    if golden::directory().starts_with(env!("CARGO_MANIFEST_DIR")) {
        assert_eq!(checked, table.len());
    }
}
