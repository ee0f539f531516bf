//! Dumps, comparisons, counts and walks of definitions.

use std::ops::ControlFlow;

use ashlar_llb as llb;
use bytes::Bytes;
use llb::{
    Comparison, Constraints, Definition, Dump, Graph, OpDigest, Platform, Value, Vertex,
    VertexChange, Visitor, encode, pb,
};
use prost::Message as _;
use serde_json::{Map, Value as Json, json};

use crate::golden;
use crate::support::{definition_at, exec, op, source};

fn constraints() -> Constraints {
    Constraints::new(Platform::linux_amd64())
}

/// Brings a dumped value to the form of the golden files, which use protobuf's JSON mapping:
/// no objects around oneofs, enums by name, long numbers as strings, nothing that is zero.
fn normalised(key: &str, value: &Json, golden: Option<&Json>) -> Option<Json> {
    match value {
        Json::Object(fields) => {
            let mut out = Map::new();
            for (name, field) in fields {
                if ["Op", "Action", "User"].contains(&name.as_str()) {
                    if let Some(Json::Object(inner)) = normalised(name, field, golden) {
                        out.extend(inner);
                    }
                    continue;
                }
                let name = if name == "byId" { "byID" } else { name };
                let beside = golden.and_then(|golden| golden.get(name));
                if let Some(field) = normalised(name, field, beside) {
                    out.insert(name.to_owned(), field);
                }
            }
            Some(Json::Object(out))
        }
        Json::Array(values) => {
            let values = values.iter().enumerate().map(|(position, value)| {
                let beside = golden.and_then(|golden| golden.get(position));
                let zero = match beside {
                    Some(Json::String(_)) => json!("0"),
                    _ => json!(0),
                };
                normalised(key, value, beside).unwrap_or(zero)
            });
            Some(Json::Array(values.collect()))
        }
        Json::Number(number) if number.as_i64() == Some(0) => None,
        Json::Number(number) => {
            let names = match key {
                "network" => "UNSET HOST NONE",
                "security" => "SANDBOX INSECURE",
                "mountType" => "BIND SECRET SSH CACHE TMPFS",
                "sharing" => "SHARED PRIVATE LOCKED",
                "contentCache" => "DEFAULT ON OFF",
                _ if golden.is_some_and(Json::is_string) => {
                    return Some(Json::String(number.to_string()));
                }
                _ => return Some(value.clone()),
            };
            let name = names
                .split(' ')
                .nth(usize::try_from(number.as_u64()?).ok()?)?;
            Some(json!(name))
        }
        value => Some(value.clone()),
    }
}

/// Takes out what `buildctl debug dump-llb` does not show.
fn without_hidden(golden: &mut Json) {
    match golden {
        Json::Object(fields) => {
            fields.remove("symlink");
            if fields.get("byID") == Some(&json!(0)) {
                fields.remove("byID");
            }
            // Protobuf's mapping leaves `false` out; a capability that is false stays.
            fields.values_mut().for_each(without_hidden);
        }
        Json::Array(values) => values.iter_mut().for_each(without_hidden),
        _ => {}
    }
}

#[test]
fn golden_definitions_dump_what_buildkit_decodes() {
    let mut compared = 0;
    for case in golden::llb_cases() {
        let name = &case.name;
        let definition = Definition::decode(case.pb.clone()).expect(name);
        let dump = Dump::of(&definition).expect(name);
        let lines: Vec<Json> = dump
            .json()
            .to_string()
            .lines()
            .map(|line| serde_json::from_str(line).expect(name))
            .collect();
        assert_eq!(lines.len(), definition.ops().len(), "{name}");
        let file = name.replace('@', ".");
        let Some(golden) = golden::json(&format!("llb/{file}.json")) else {
            panic!("{name} has no JSON");
        };
        let ops = golden["ops"].as_array().expect(name);
        for (line, expected) in lines.iter().zip(ops) {
            assert_eq!(line["Digest"], expected["digest"], "{name}");
            for (ours, theirs) in [("Op", "op"), ("OpMetadata", "metadata")] {
                let mut expected = expected.get(theirs).cloned().unwrap_or(json!({}));
                without_hidden(&mut expected);
                let got = normalised("", &line[ours], Some(&expected)).expect(name);
                assert_eq!(got, expected, "{name} {}", line["Digest"]);
                compared += 1;
            }
        }
        let dot = dump.dot().to_string();
        let edges: usize = lines
            .iter()
            .map(|line| line["Op"]["inputs"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(dot.lines().count(), 2 + lines.len() + edges, "{name}");
        assert!(!dump.text().to_string().is_empty(), "{name}");
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn the_json_has_buildctls_keys_in_its_order() {
    let made = llb::scratch().file(llb::mkdir("/a<b").owner((0, 0)));
    let definition = made.marshal(&constraints()).unwrap();
    let json = Dump::of(&definition).unwrap().json().to_string();
    let first = json.lines().next().unwrap();
    let digest = OpDigest::of(&definition.ops()[0]);
    let expected = format!(
        concat!(
            r#"{{"Op":{{"Op":{{"file":{{"actions":[{{"input":-1,"secondaryInput":-1,"output":0,"#,
            r#""Action":{{"mkdir":{{"path":"/a\u003cb","mode":493,"owner":{{"user":{{"User":{{}}}},"group":{{"User":{{}}}}}},"#,
            r#""timestamp":-1}}}}}}]}}}},"constraints":{{}}}},"Digest":"{}","#,
            r#""OpMetadata":{{"caps":{{"file.base":true}}}}}}"#
        ),
        digest
    );
    assert_eq!(first, expected);
}

/// An op whose every text is hostile.
fn hostile() -> Definition {
    let evil = "\u{1b}[31m\"];\n  x -> y \\ \u{202e}\0\u{7f}é";
    exec(|exec| {
        let meta = exec.meta.as_mut().expect("a valid definition");
        meta.args = vec![evil.into()];
        meta.env = vec![evil.into()];
        meta.cwd = evil.into();
        exec.mounts[1].dest = evil.into();
        exec.mounts[1].input = 0;
    })
}

#[test]
fn hostile_texts_stay_inside_their_quotes() {
    let dump = Dump::of(&hostile()).unwrap();
    let (text, json, dot) = (
        dump.text().to_string(),
        dump.json().to_string(),
        dump.dot().to_string(),
    );
    for out in [&text, &json, &dot] {
        assert!(!out.contains('\u{1b}') && !out.contains('\0'), "{out:?}");
    }
    for out in [&text, &dot] {
        assert!(
            !out.contains('\u{202e}') && !out.contains('\u{7f}'),
            "{out:?}"
        );
    }
    assert_eq!(dot.lines().count(), 2 + 3 + 2);
    assert!(
        dot.contains(r#"[label="\x1b[31m\"];\n  x -> y \\ \u202e\x00\x7fé" shape="box"];"#),
        "{dot}"
    );
    assert!(dot.contains(r#" [label="\x1b[31m\"];\n"#), "{dot}");
    assert_eq!(json.lines().count(), 3);
    for line in json.lines() {
        serde_json::from_str::<Json>(line).unwrap();
    }
}

#[test]
fn definitions_that_are_no_graphs_are_dumped_too() {
    let lost = pb::Op {
        inputs: vec![pb::Input {
            digest: "\u{1b}é".into(),
            index: -7,
        }],
        ..Default::default()
    };
    let definition = Definition::new(vec![encode::op_bytes(&lost).into()], [].into(), None);
    let text = Dump::of(&definition).unwrap().text().to_string();
    assert!(
        text.contains(r#"not in the definition, "\u{1b}é" output -7"#),
        "{text}"
    );
    let malformed = Definition::new(vec![Bytes::from_static(b"\xff")], [].into(), None);
    assert!(matches!(
        Dump::of(&malformed),
        Err(llb::LoadError::Wire { .. })
    ));
    let scratch = Dump::of(&Definition::default()).unwrap();
    assert_eq!(scratch.json().to_string(), "");
    assert_eq!(scratch.dot().to_string(), "digraph {\n}\n");
}

#[test]
fn a_long_text_dump_reads_like_this() {
    let file = llb::SourceMap::new("Dockerfile", "Dockerfile", "FROM alpine\nRUN make\n");
    let made = llb::image("alpine")
        .run(["make", "all"])
        .mount("/cache", llb::Cache::locked("c"))
        .location(&file, [llb::SourceRange::new((2, 0), (2, 8))])
        .custom_name("build")
        .root();
    let definition = made.marshal(&constraints()).unwrap();
    let text = Dump::of(&definition).unwrap().text().to_string();
    let exec = text.split("\n\n").nth(1).unwrap();
    let digests = |position: usize| OpDigest::of(&definition.ops()[position]).to_string();
    let expected = [
        "#1 exec make all",
        &format!("  digest: {}", digests(1)),
        &format!("  input 0: #0 ({})", &digests(0)[..19]),
        r#"  exec.meta.args: ["make", "all"]"#,
        r#"  exec.meta.cwd: "/""#,
        "  exec.meta.removeMountStubsRecursive: true",
        r#"  exec.mounts[0].dest: "/""#,
        "  exec.mounts[1].input: -1",
        r#"  exec.mounts[1].dest: "/cache""#,
        "  exec.mounts[1].output: -1",
        "  exec.mounts[1].mountType: CACHE",
        r#"  exec.mounts[1].cacheOpt.ID: "c""#,
        "  exec.mounts[1].cacheOpt.sharing: LOCKED",
        r#"  platform.Architecture: "amd64""#,
        r#"  platform.OS: "linux""#,
        r#"  metadata.description["llb.customname"]: "build""#,
    ];
    let lines: Vec<&str> = exec.lines().collect();
    for (position, expected) in expected.iter().enumerate() {
        if position < 10 {
            assert_eq!(lines[position], *expected, "{exec}");
        } else {
            assert!(lines.contains(expected), "{expected}: {exec}");
        }
    }
    assert_eq!(lines.last(), Some(&"  source: Dockerfile:2"));
}

#[test]
fn equal_definitions_do_not_differ() {
    for case in golden::llb_cases() {
        let definition = Definition::decode(case.pb).expect(&case.name);
        let found = Comparison::of(&definition, &definition).expect(&case.name);
        assert!(found.is_empty(), "{}: {found}", case.name);
        assert_eq!(found.to_string(), "");
    }
}

#[test]
fn a_changed_leaf_is_the_only_change_and_is_named() {
    let mut seen = 0;
    for case in golden::llb_cases() {
        let definition = Definition::decode(case.pb).expect(&case.name);
        let graph = Graph::load(&definition).expect(&case.name);
        let Some(leaf) = graph.vertices().first() else {
            continue;
        };
        let pb::op::Op::Source(op) = leaf.op() else {
            continue;
        };
        let changed = format!("{}-changed", op.identifier);
        let digest = leaf.digest();
        let rewritten = definition
            .rewrite(|vertex| match vertex.digest() == digest {
                true => llb::Rewrite::Identifier(changed.clone()),
                false => llb::Rewrite::Keep,
            })
            .expect(&case.name);
        let found = Comparison::of(&definition, &rewritten).expect(&case.name);
        let mut real = Vec::new();
        for change in found.changes() {
            match change {
                VertexChange::Changed { fields, .. } => real.extend(fields),
                VertexChange::InputsChanged { .. } => {}
                other => panic!("{}: {other:?}", case.name),
            }
        }
        let [field] = real[..] else {
            panic!("{}: {found}", case.name)
        };
        assert_eq!(field.path, "source.identifier", "{}", case.name);
        assert_eq!(field.before, Some(Value::Text(op.identifier.clone())));
        assert_eq!(field.after, Some(Value::Text(changed)));
        seen += 1;
    }
    assert!(seen > 150, "{seen}");
}

/// Steps in a chain on one image.
fn steps(names: &[&str]) -> Definition {
    let made = names
        .iter()
        .fold(llb::State::from(llb::image("alpine")), |state, name| {
            state.run([*name]).root()
        });
    made.marshal(&constraints()).expect("a valid definition")
}

#[test]
fn a_step_put_in_between_is_added_and_its_neighbour_told_of_it() {
    let found = Comparison::of(&steps(&["a", "b", "c"]), &steps(&["a", "x", "b", "c"])).unwrap();
    let [
        VertexChange::Added { vertex },
        VertexChange::Changed { after, fields, .. },
        VertexChange::InputsChanged { after: last, .. },
    ] = found.changes()
    else {
        panic!("{found}")
    };
    assert_eq!((vertex.kind, vertex.name.as_str()), ("exec", "x"));
    assert_eq!(after.name, "b");
    assert_eq!(fields.len(), 1);
    assert_eq!(fields[0].path, "inputs[0]");
    assert_eq!(last.name, "c");
    let back = Comparison::of(&steps(&["a", "x", "b", "c"]), &steps(&["a", "b", "c"])).unwrap();
    assert!(matches!(&back.changes()[0], VertexChange::Removed { vertex } if vertex.name == "x"));
    let last = Comparison::of(&steps(&["a", "b"]), &steps(&["a"])).unwrap();
    assert!(
        matches!(last.changes().last(), Some(VertexChange::Result { .. })),
        "{last}"
    );
    let all = Comparison::of(&steps(&["a"]), &Definition::default()).unwrap();
    assert_eq!(all.changes().len(), 3, "{all}");
}

#[test]
fn every_kind_of_field_is_named() {
    let before = exec(|_| {});
    type Change = fn(&mut pb::ExecOp);
    let cases: [(&str, Change); 7] = [
        ("exec.meta.args[0]", |exec| {
            exec.meta.as_mut().unwrap().args[0] = "false".into();
        }),
        ("exec.meta.args[1]", |exec| {
            exec.meta.as_mut().unwrap().args.push("x".into());
        }),
        ("exec.meta.hostname", |exec| {
            exec.meta.as_mut().unwrap().hostname = "h".into();
        }),
        ("exec.mounts[1].dest", |exec| {
            exec.mounts[1].dest = "/x".into();
        }),
        ("exec.mounts[0].readonly", |exec| {
            exec.mounts[0].readonly = true;
        }),
        ("exec.network", |exec| exec.network = 1),
        ("exec.security", |exec| exec.security = 1),
    ];
    for (path, change) in cases {
        let found = Comparison::of(&before, &exec(change)).unwrap();
        let [VertexChange::Changed { fields, .. }] = found.changes() else {
            panic!("{path}: {found}")
        };
        assert_eq!(fields.len(), 1, "{found}");
        assert_eq!(fields[0].path, path);
    }
}

#[test]
fn metadata_and_places_are_compared_too() {
    let plain = || llb::image("alpine").run(["true"]);
    let file = llb::SourceMap::new("f", "", "x");
    let range = llb::SourceRange::new((1, 0), (1, 1));
    let before = plain().root().marshal(&constraints()).unwrap();
    for (run, path) in [
        (plain().ignore_cache(), "metadata.ignore_cache"),
        (plain().description("k", "v"), "metadata.description"),
        (plain().location(&file, [range]), "source"),
    ] {
        let after = run.root().marshal(&constraints()).unwrap();
        let found = Comparison::of(&before, &after).unwrap();
        let [VertexChange::Changed { fields, .. }] = found.changes() else {
            panic!("{path}: {found}")
        };
        assert_eq!(fields[0].path, path, "{found}");
    }
}

#[test]
fn fields_that_are_not_known_differ_as_bytes() {
    let mut image = source("docker-image://a");
    let before = definition_at(vec![image.clone()], 0);
    image.extend([0xf8, 0x07, 1]);
    let found = Comparison::of(&before, &definition_at(vec![image], 0)).unwrap();
    let [VertexChange::Changed { fields, .. }] = found.changes() else {
        panic!("{found}")
    };
    assert_eq!(fields[0].path, "bytes");
}

#[test]
fn counts_agree_with_the_golden_files() {
    for case in golden::llb_cases() {
        let definition = Definition::decode(case.pb).expect(&case.name);
        let graph = Graph::load(&definition).expect(&case.name);
        let found = graph.statistics();
        let ops = found.ops;
        let sum = ops.source + ops.exec + ops.file + ops.build + ops.merge + ops.diff;
        assert_eq!(sum + ops.passthrough, found.vertices, "{}", case.name);
        assert_eq!(
            found.vertices as u64,
            case.ops.saturating_sub(1),
            "{}",
            case.name
        );
        assert!(found.depth <= found.vertices && found.edges + 1 >= found.vertices.min(1));
    }
    let found = Graph::load(&steps(&["a", "b"])).unwrap().statistics();
    assert_eq!((found.vertices, found.depth, found.edges), (3, 3, 2));
    assert_eq!((found.ops.exec, found.mounts), (2, 2));
    assert_eq!(found.schemes, [("docker-image".to_owned(), 1)].into());
}

struct Until(usize);

impl Visitor for Until {
    type Break = String;

    fn vertex(&mut self, _: &Vertex) -> ControlFlow<String> {
        self.0 -= 1;
        ControlFlow::Continue(())
    }

    fn exec(&mut self, vertex: &Vertex, _: &pb::ExecOp) -> ControlFlow<String> {
        match self.0 {
            0 => ControlFlow::Break(vertex.name().to_owned()),
            _ => ControlFlow::Continue(()),
        }
    }
}

#[test]
fn a_walk_goes_in_order_and_can_stop() {
    let graph = Graph::load(&steps(&["a", "b", "c"])).unwrap();
    assert_eq!(
        graph.visit(&mut Until(3)),
        ControlFlow::Break("b".to_owned())
    );
    assert!(graph.visit(&mut Until(9)).is_continue());
}

#[test]
fn random_bytes_never_panic() {
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_le_bytes()[5]
    };
    let valid = op(
        &[&source("a://")],
        pb::op::Op::Merge(pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }],
        }),
    );
    let mut decoded = 0;
    for _ in 0..2000 {
        let mut bytes = valid.clone();
        for _ in 0..3 {
            let at = usize::from(next()) % bytes.len();
            bytes[at] = next();
        }
        decoded += usize::from(pb::Op::decode(bytes.as_slice()).is_ok());
        let definition = Definition::new(vec![bytes.into()], [].into(), None);
        if let Ok(dump) = Dump::of(&definition) {
            drop((
                dump.text().to_string(),
                dump.json().to_string(),
                dump.dot().to_string(),
            ));
        }
    }
    assert!(decoded > 100, "{decoded}");
}
