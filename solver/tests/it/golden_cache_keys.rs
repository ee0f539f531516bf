//! Cache digests and selectors of ops, compared with what BuildKit computed for the same ops.

use std::collections::BTreeMap;

use ashlar_llb::pb::op::Op;
use ashlar_llb::{Definition, Graph};
use ashlar_solver::ops::keys::{self, OpKey};
use serde_json::Value;

use crate::golden;

/// One case: its graph and what BuildKit recorded.
struct Case {
    name: String,
    graph: Graph,
    data: Value,
}

fn cases() -> Vec<Case> {
    let catalogue = golden::json("cache/catalogue.json");
    let cases = catalogue["cases"].as_array().expect("cases");
    cases
        .iter()
        .map(|case| {
            let text = |key: &str| case[key].as_str().expect(key).to_owned();
            let definition = Definition::decode(golden::read(&format!("cache/{}", text("pb"))))
                .expect("a golden definition decodes");
            Case {
                name: text("name"),
                graph: Graph::load(&definition).expect("a golden definition loads"),
                data: golden::json(&format!("cache/{}", text("json"))),
            }
        })
        .collect()
}

/// The keys of all ops of a graph but the sources, with the kind of op and the preimage.
fn op_keys(graph: &Graph) -> Vec<(&'static str, OpKey, String)> {
    graph
        .vertices()
        .iter()
        .filter_map(|vertex| {
            let inputs = vertex.inputs().len();
            let (kind, key) = match vertex.op() {
                Op::Source(_) => return None,
                Op::Exec(op) => {
                    let platform = vertex.platform().expect("exec ops have a platform");
                    ("exec", keys::exec(op, platform, inputs))
                }
                Op::File(op) => ("file", keys::file(op, inputs)),
                Op::Merge(op) => ("merge", Ok(keys::merge(op))),
                Op::Diff(op) => ("diff", keys::diff(op)),
                Op::Build(op) => ("build", Ok(keys::build(op, inputs))),
                Op::Passthrough(op) => ("passthrough", Ok(keys::passthrough(op, inputs))),
            };
            let preimage = keys::preimage(vertex.op(), vertex.platform(), inputs)?;
            Some((kind, key.expect("a golden op has a key"), preimage))
        })
        .collect()
}

/// By cache key: the record digest and the preimage text.
fn origins(data: &Value) -> Vec<(&str, &str, &str)> {
    data["record_origins"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|origin| {
            let at = |value: &'static str| origin[value].as_str().unwrap_or_default();
            let preimage = origin["preimage"]["text"].as_str().unwrap_or_default();
            (at("cache_key"), at("record"), preimage)
        })
        .collect()
}

#[test]
fn golden_cache_digests_and_preimages() {
    let mut compared: BTreeMap<&str, usize> = BTreeMap::new();
    let mut without_record = Vec::new();
    for case in cases() {
        let origins = origins(&case.data);
        for (kind, key, preimage) in op_keys(&case.graph) {
            let digest = key.digest().to_string();
            if kind == "diff" {
                let expected =
                    r#"{"Type":"buildkit.diff.v0","Diff":{"lower":{},"upper":{"input":1}}}"#;
                assert_eq!(preimage, expected, "{}", case.name);
            } else if origins.is_empty() {
                without_record.push(format!("{} {kind}", case.name));
                continue;
            } else {
                let origin = origins.iter().find(|origin| origin.0 == digest);
                let origin = origin.unwrap_or_else(|| {
                    panic!(
                        "{}: no record of {kind} with key {digest}\n{}",
                        case.name, preimage
                    )
                });
                assert_eq!(preimage, origin.2, "{}", case.name);
            }
            *compared.entry(kind).or_default() += 1;
        }
    }
    println!("compared {compared:?}; exported no record: {without_record:?}");
    let at_least = [
        ("diff", 3),
        ("exec", 42),
        ("file", 54),
        ("merge", 2),
        ("passthrough", 2),
    ];
    for (kind, least) in at_least {
        let count = compared.get(kind).copied().unwrap_or(0);
        assert!(
            count >= least,
            "only {count} of {least} {kind} ops were compared"
        );
    }
}

/// Links to a record by content have no selector, others have that of the op. A link by content
/// exists only if the op asks for content.
#[test]
fn golden_cache_selectors() {
    let (mut selected, mut by_content) = (0, 0);
    for case in cases() {
        let origins = origins(&case.data);
        let records = case.data["cache"]["records"].as_array();
        let records = records.map(Vec::as_slice).unwrap_or_default();
        let is_content = |link: &Value| {
            let at = usize::try_from(link["link"].as_u64().expect("link")).expect("an index");
            let digest = records[at]["digest"].as_str().expect("digest");
            let origin = origins.iter().find(|origin| origin.1 == digest);
            origin.is_some_and(|origin| origin.2.ends_with("@-1"))
        };
        for (kind, key, _) in op_keys(&case.graph) {
            let digest = key.digest().to_string();
            let digests: Vec<_> = origins
                .iter()
                .filter(|origin| origin.0 == digest)
                .map(|origin| origin.1)
                .collect();
            let of_key = records.iter().filter(|record| {
                record["digest"]
                    .as_str()
                    .is_some_and(|d| digests.contains(&d))
            });
            for record in of_key {
                let inputs = record["inputs"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                assert!(inputs.len() <= key.inputs.len(), "{} {kind}", case.name);
                for (plan, links) in key.inputs.iter().zip(inputs) {
                    for link in links.as_array().expect("links") {
                        if is_content(link) {
                            by_content += 1;
                            assert!(plan.content.is_some(), "{} {kind}", case.name);
                            assert_eq!(link["selector"], Value::Null, "{} {kind}", case.name);
                        } else {
                            let selector = plan.selector.map(|selector| selector.to_string());
                            selected += usize::from(selector.is_some());
                            assert_eq!(
                                link["selector"].as_str(),
                                selector.as_deref(),
                                "{}",
                                case.name
                            );
                        }
                    }
                }
            }
        }
    }
    println!("compared {selected} selectors, {by_content} links by content");
    assert!(selected > 50 && by_content > 40, "{selected} {by_content}");
}
