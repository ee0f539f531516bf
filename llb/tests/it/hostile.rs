//! Definitions that were made to hurt.

use ashlar_llb::{
    DecodeError, Definition, Fault, Graph, Limits, LoadError, OpDigest, WireError, encode, pb,
};
use bytes::Bytes;
use pb::op::Op;
use proptest::prelude::*;

/// A definition of the ops, with a terminal op that points at output `index` of the last.
fn definition_at(ops: Vec<Vec<u8>>, index: i64) -> Definition {
    let last = OpDigest::of(ops.last().expect("an op")).to_string();
    let terminal = pb::Op {
        inputs: vec![pb::Input {
            digest: last,
            index,
        }],
        ..Default::default()
    };
    let ops = ops
        .into_iter()
        .chain([encode::op_bytes(&terminal)])
        .map(Bytes::from);
    Definition::new(ops.collect(), [].into(), None)
}

fn op(inputs: &[&[u8]], op: Op) -> Vec<u8> {
    let inputs = inputs.iter().map(|input| pb::Input {
        digest: OpDigest::of(input).to_string(),
        index: 0,
    });
    let constraints = Some(pb::WorkerConstraints::default());
    encode::op_bytes(&pb::Op {
        inputs: inputs.collect(),
        op: Some(op),
        constraints,
        ..Default::default()
    })
}

fn source(identifier: &str) -> Vec<u8> {
    op(
        &[],
        Op::Source(pb::SourceOp {
            identifier: identifier.into(),
            attrs: [].into(),
        }),
    )
}

/// An exec op on one input that is fine but for what `change` does.
fn exec(change: impl FnOnce(&mut pb::ExecOp)) -> Definition {
    let image = source("docker-image://docker.io/library/alpine:latest");
    let mut exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["true".into()],
            cwd: "/".into(),
            ..Default::default()
        }),
        mounts: vec![
            pb::Mount {
                dest: "/".into(),
                ..Default::default()
            },
            pb::Mount {
                dest: "/out".into(),
                input: -1,
                output: 1,
                ..Default::default()
            },
        ],
        ..Default::default()
    };
    change(&mut exec);
    let exec = op(&[&image], Op::Exec(exec));
    definition_at(vec![image, exec], 0)
}

#[track_caller]
fn invalid(definition: &Definition) -> (String, Fault) {
    match Graph::load(definition) {
        Err(LoadError::Invalid { field, fault, .. }) => (field, fault),
        other => panic!("{other:?}"),
    }
}

#[test]
fn exec_rules() {
    Graph::load(&exec(|_| ())).expect("fine");
    let cases: Vec<(&str, fn(&mut pb::ExecOp), Fault)> = vec![
        ("exec.meta", |exec| exec.meta = None, Fault::Missing),
        (
            "exec.meta.args",
            |exec| exec.meta.as_mut().unwrap().args.clear(),
            Fault::Missing,
        ),
        (
            "exec.meta.cwd",
            |exec| exec.meta.as_mut().unwrap().cwd.clear(),
            Fault::Missing,
        ),
        ("exec.mounts", |exec| exec.mounts.clear(), Fault::Missing),
        (
            "exec.mounts",
            |exec| exec.mounts[0].dest = "/x".into(),
            Fault::NoRootMount,
        ),
        (
            "exec.network",
            |e| e.network = 3,
            Fault::UnknownEnum {
                value: 3,
                name: "NetMode",
            },
        ),
        (
            "exec.security",
            |exec| exec.security = 7,
            Fault::UnknownEnum {
                value: 7,
                name: "SecurityMode",
            },
        ),
        (
            "exec.mounts[1].mountType",
            |exec| exec.mounts[1].mount_type = -1,
            Fault::UnknownEnum {
                value: -1,
                name: "MountType",
            },
        ),
        (
            "exec.mounts[1].contentCache",
            |exec| exec.mounts[1].content_cache = 9,
            Fault::UnknownEnum {
                value: 9,
                name: "MountContentCache",
            },
        ),
        (
            "exec.mounts[1].cacheOpt.sharing",
            |exec| {
                exec.mounts[1].set_mount_type(pb::MountType::Cache);
                exec.mounts[1].cache_opt = Some(pb::CacheOpt {
                    id: String::new(),
                    sharing: 3,
                });
            },
            Fault::UnknownEnum {
                value: 3,
                name: "CacheSharingOpt",
            },
        ),
        (
            "exec.mounts[1].secretOpt",
            |exec| exec.mounts[1].set_mount_type(pb::MountType::Secret),
            Fault::Missing,
        ),
        (
            "exec.mounts[0].mountType",
            |exec| exec.mounts[0].set_mount_type(pb::MountType::Tmpfs),
            Fault::RootMountType,
        ),
        (
            "exec.mounts[0].input",
            |exec| exec.mounts[0].input = 1,
            Fault::Position { value: 1, count: 1 },
        ),
        (
            "exec.mounts[1].input",
            |exec| exec.mounts[1].input = -2,
            Fault::Position {
                value: -2,
                count: 1,
            },
        ),
        (
            "exec.mounts[1].output",
            |exec| exec.mounts[1].output = i64::MAX,
            Fault::OutputNumber {
                value: i64::MAX,
                expected: 1,
            },
        ),
        (
            "exec.mounts[1].output",
            |exec| exec.mounts[1].output = 0,
            Fault::OutputNumber {
                value: 0,
                expected: 1,
            },
        ),
    ];
    for (field, change, fault) in cases {
        assert_eq!(invalid(&exec(change)), (field.to_owned(), fault), "{field}");
    }
}

/// A file op on one input that is fine but for what `change` does.
fn file(change: impl FnOnce(&mut Vec<pb::FileAction>)) -> Definition {
    let mkdir = pb::FileActionMkDir {
        path: "/d".into(),
        ..Default::default()
    };
    let action = pb::FileAction {
        input: 0,
        secondary_input: -1,
        output: -1,
        action: Some(pb::file_action::Action::Mkdir(mkdir)),
    };
    let mut actions = vec![
        action.clone(),
        pb::FileAction {
            input: 1,
            output: 0,
            ..action
        },
    ];
    change(&mut actions);
    let image = source("docker-image://a");
    let file = op(&[&image], Op::File(pb::FileOp { actions }));
    definition_at(vec![image, file], 0)
}

#[test]
fn file_rules() {
    Graph::load(&file(|_| ())).expect("fine");
    let position = |value, count| Fault::Position { value, count };
    let cases: Vec<(&str, fn(&mut Vec<pb::FileAction>), Fault)> = vec![
        ("file.actions", Vec::clear, Fault::Missing),
        (
            "file.actions[1].action",
            |actions| actions[1].action = None,
            Fault::Missing,
        ),
        (
            "file.actions[0].input",
            |actions| actions[0].input = 1,
            position(1, 1),
        ),
        (
            "file.actions[1].input",
            |actions| actions[1].input = 2,
            position(2, 2),
        ),
        (
            "file.actions[1].secondaryInput",
            |a| a[1].secondary_input = 2,
            position(2, 2),
        ),
        (
            "file.actions[0].output",
            |actions| actions[0].output = 2,
            position(2, 2),
        ),
        (
            "file.actions[0].output",
            |actions| actions[0].output = -2,
            position(-2, 2),
        ),
        (
            "file.actions[1].output",
            |actions| actions[0].output = 0,
            Fault::DuplicateOutput { value: 0 },
        ),
        (
            "file.actions.output",
            |actions| actions[1].output = -1,
            Fault::Missing,
        ),
        (
            "file.actions.output",
            |actions| actions[1].output = 1,
            Fault::Missing,
        ),
        (
            "file.actions[1].owner.byName.input",
            |actions| {
                let name = pb::NamedUserOpt {
                    name: "root".into(),
                    input: 9,
                };
                let user = pb::UserOpt {
                    user: Some(pb::user_opt::User::ByName(name)),
                };
                let owner = Some(pb::ChownOpt {
                    user: None,
                    group: Some(user),
                });
                let mkfile = pb::FileActionMkFile {
                    owner,
                    ..Default::default()
                };
                actions[1].action = Some(pb::file_action::Action::Mkfile(mkfile));
            },
            position(9, 2),
        ),
    ];
    for (field, change, fault) in cases {
        assert_eq!(invalid(&file(change)), (field.to_owned(), fault), "{field}");
    }
}

#[test]
fn rules_of_the_small_ops() {
    let position = |value, count| Fault::Position { value, count };
    let lower = |input| Some(pb::LowerDiffInput { input });
    let upper = |input| Some(pb::UpperDiffInput { input });
    let merge = |inputs: &[i64]| {
        let inputs = inputs
            .iter()
            .map(|&input| pb::MergeInput { input })
            .collect();
        Op::Merge(pb::MergeOp { inputs })
    };
    let pass = |id: &str, outputs: &[i64]| {
        Op::Passthrough(pb::PassthroughOp {
            id: id.into(),
            outputs: outputs.into(),
        })
    };
    let build = |builder, input| {
        let inputs = [("k".to_owned(), pb::BuildInput { input })].into();
        Op::Build(pb::BuildOp {
            builder,
            inputs,
            ..Default::default()
        })
    };
    let cases = [
        (
            Op::Diff(pb::DiffOp {
                lower: None,
                upper: upper(0),
            }),
            "diff.lower",
            Fault::Missing,
        ),
        (
            Op::Diff(pb::DiffOp {
                lower: lower(0),
                upper: None,
            }),
            "diff.upper",
            Fault::Missing,
        ),
        (
            Op::Diff(pb::DiffOp {
                lower: lower(2),
                upper: upper(-1),
            }),
            "diff.lower.input",
            position(2, 2),
        ),
        (
            Op::Diff(pb::DiffOp {
                lower: lower(-1),
                upper: upper(-2),
            }),
            "diff.upper.input",
            position(-2, 2),
        ),
        (
            merge(&[0]),
            "merge.inputs",
            Fault::InputCount { inner: 1, outer: 2 },
        ),
        (merge(&[0, 2]), "merge.inputs[1]", position(2, 2)),
        (pass("", &[0]), "passthrough.id", Fault::Missing),
        (pass("x", &[]), "passthrough.outputs", Fault::Missing),
        (pass("x", &[0, 2]), "passthrough.outputs[1]", position(2, 2)),
        (build(2, 0), "build.builder", position(2, 2)),
        (build(-1, -1), "build.inputs[\"k\"]", position(-1, 2)),
    ];
    let (a, b) = (source("a://"), source("b://"));
    for (what, field, fault) in cases {
        let user = op(&[&a, &b], what);
        let definition = definition_at(vec![a.clone(), b.clone(), user], 0);
        assert_eq!(invalid(&definition), (field.to_owned(), fault), "{field}");
    }
    for fine in [merge(&[1, 0]), pass("x", &[1, 1, 0]), build(-1, 1)] {
        let user = op(&[&a, &b], fine);
        Graph::load(&definition_at(vec![a.clone(), b.clone(), user], 0)).expect("fine");
    }
}

#[test]
fn edges_have_to_exist() {
    let image = source("docker-image://a");
    for index in [-1, 1, i64::from(u32::MAX) + 1, i64::MIN, i64::MAX] {
        let loaded = Graph::load(&definition_at(vec![image.clone()], index));
        let Err(LoadError::OutputIndex {
            index: got,
            outputs: 1,
            ..
        }) = loaded
        else {
            panic!("{loaded:?}")
        };
        assert_eq!(got, index);
    }
    let absent = source("docker-image://absent");
    let user = op(
        &[&absent],
        Op::Merge(pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }],
        }),
    );
    let loaded = Graph::load(&definition_at(vec![user.clone()], 0));
    assert!(matches!(
        loaded,
        Err(LoadError::MissingInput { vertex, input: 0, digest })
            if vertex == OpDigest::of(&user) && digest == OpDigest::of(&absent)
    ));
    let mut bad = pb::Op {
        inputs: vec![pb::Input::default()],
        ..Default::default()
    };
    bad.inputs[0].digest = "sha256:XYZ".into();
    let loaded = Graph::load(&definition_at(vec![image, encode::op_bytes(&bad)], 0));
    assert!(
        matches!(loaded, Err(LoadError::InputDigest { input: 0, .. })),
        "{loaded:?}"
    );
}

#[test]
fn the_last_op_has_to_be_terminal() {
    let (a, b) = (source("a://"), source("b://"));
    let ops = |ops: &[&Vec<u8>]| {
        let ops = ops.iter().map(|op| Bytes::from((*op).clone())).collect();
        Graph::load(&Definition::new(ops, [].into(), None))
    };
    assert!(matches!(ops(&[&a]), Err(LoadError::TooFewOps { count: 1 })));
    assert!(matches!(
        ops(&[&a, &a, &a]),
        Err(LoadError::TooFewOps { count: 1 })
    ));
    assert!(matches!(
        ops(&[&a, &b]),
        Err(LoadError::Terminal {
            inputs: 0,
            does: "source",
            ..
        })
    ));
    let input = |op: &[u8]| pb::Input {
        digest: OpDigest::of(op).to_string(),
        index: 0,
    };
    let two = pb::Op {
        inputs: vec![input(&a), input(&b)],
        ..Default::default()
    };
    let loaded = ops(&[&a, &b, &encode::op_bytes(&two)]);
    assert!(matches!(
        loaded,
        Err(LoadError::Terminal {
            inputs: 2,
            does: "none",
            ..
        })
    ));
    // A vertex that does nothing is fine only at the end.
    let nothing = encode::op_bytes(&pb::Op {
        inputs: vec![input(&a)],
        ..Default::default()
    });
    let (field, fault) = invalid(&definition_at(vec![a, nothing], 0));
    assert_eq!((field.as_str(), fault), ("op", Fault::Missing));
}

#[test]
fn equal_ops_count_once_and_unreachable_ones_not_at_all() {
    let (a, b) = (source("a://"), source("b://"));
    let merge = op(
        &[&a, &a],
        Op::Merge(pb::MergeOp {
            inputs: [0, 1].map(|input| pb::MergeInput { input }).into(),
        }),
    );
    let graph = Graph::load(&definition_at(vec![b, a.clone(), a, merge], 0)).unwrap();
    assert_eq!(graph.vertices().len(), 2);
    assert_eq!(graph.vertices()[1].name(), "merge (a://, a://)");
}

#[test]
fn a_chain_of_a_hundred_thousand_needs_no_stack() {
    let work = || {
        let mut ops = vec![source("docker-image://a")];
        for number in 0..100_000_i64 {
            let mkdir = pb::FileActionMkDir {
                timestamp: number,
                ..Default::default()
            };
            let action = pb::FileAction {
                secondary_input: -1,
                action: Some(pb::file_action::Action::Mkdir(mkdir)),
                ..Default::default()
            };
            let file = Op::File(pb::FileOp {
                actions: vec![action],
            });
            ops.push(op(&[ops.last().unwrap()], file));
        }
        let bytes = definition_at(ops, 0).encode();
        let graph = Graph::load(&Definition::decode(bytes).unwrap()).unwrap();
        assert_eq!(graph.vertices().len(), 100_001);
    };
    let thread = std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(work)
        .unwrap();
    thread.join().unwrap();
}

#[test]
fn names_of_nested_merges_stay_short() {
    let mut ops = vec![source(&"é".repeat(100))];
    for _ in 0..64 {
        let last = ops.last().unwrap();
        let inputs = [0, 1].map(|input| pb::MergeInput { input }).into();
        ops.push(op(&[last, last], Op::Merge(pb::MergeOp { inputs })));
        let last = ops.last().unwrap();
        let diff = pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: 0 }),
            upper: Some(pb::UpperDiffInput { input: -1 }),
        };
        ops.push(op(&[last], Op::Diff(diff)));
    }
    let graph = Graph::load(&definition_at(ops, 0)).unwrap();
    assert!(
        graph
            .vertices()
            .iter()
            .all(|vertex| vertex.name().len() < 600)
    );
    assert!(graph.vertices()[2].name().starts_with("diff (merge (éé"));
    assert!(graph.vertices().last().unwrap().name().ends_with('…'));
}

#[test]
fn limits_hold() {
    let definition = definition_at(vec![source("a://"), source("b://")], 0);
    let mut limits = Limits::default();
    limits.ops = 2;
    assert!(matches!(
        Graph::load_with(&definition, &limits),
        Err(LoadError::TooManyOps { count: 3, limit: 2 })
    ));
    let bytes = definition.encode();
    assert!(matches!(
        Definition::decode_with(bytes.clone(), &limits),
        Err(DecodeError::TooManyOps { limit: 2 })
    ));
    limits.definition_bytes = bytes.len() - 1;
    assert!(matches!(
        Definition::decode_with(bytes.clone(), &limits),
        Err(DecodeError::TooLarge { size, .. }) if size == bytes.len()
    ));
}

#[test]
fn small_messages_cannot_take_much_memory() {
    // Ten million empty mounts in twenty megabytes would decode to gigabytes.
    let mounts = [0x12, 0].repeat(10_000_000);
    let mut bomb = vec![0x12];
    prost::encode_length_delimiter(mounts.len(), &mut bomb).unwrap();
    bomb.extend(mounts);
    let loaded = Graph::load(&definition_at(vec![source("a://"), bomb], 0));
    assert!(
        matches!(
            loaded,
            Err(LoadError::Wire {
                source: WireError::Memory,
                ..
            })
        ),
        "{loaded:?}"
    );
    // The same with source infos.
    let infos = [0x12, 0].repeat(10_000_000);
    let mut bomb = vec![0x1a];
    prost::encode_length_delimiter(infos.len(), &mut bomb).unwrap();
    bomb.extend(infos);
    let decoded = Definition::decode(bomb);
    assert!(matches!(
        decoded,
        Err(DecodeError::Wire {
            source: WireError::Memory,
            ..
        })
    ));
}

#[test]
fn deep_nesting_is_refused() {
    // A definition whose source info has a definition whose source info ...
    let mut nested = pb::Definition::default();
    for _ in 0..200 {
        let info = pb::SourceInfo {
            definition: Some(nested),
            ..Default::default()
        };
        let source = pb::Source {
            infos: vec![info],
            ..Default::default()
        };
        nested = pb::Definition {
            source: Some(source),
            ..Default::default()
        };
    }
    let decoded = Definition::decode(encode::definition_bytes(&nested));
    assert!(matches!(
        decoded,
        Err(DecodeError::Wire {
            source: WireError::Depth,
            ..
        })
    ));
}

#[test]
fn metadata_keys_have_to_be_digests() {
    let metadata = [("latest".to_owned(), pb::OpMetadata::default())].into();
    let message = pb::Definition {
        metadata,
        ..Default::default()
    };
    let decoded = Definition::decode(encode::definition_bytes(&message));
    assert!(matches!(decoded, Err(DecodeError::MetadataKey { key, .. }) if key == "latest"));
    let taken = Definition::from_message(message);
    assert!(matches!(taken, Err(DecodeError::MetadataKey { .. })));
}

#[test]
fn locations_survive_nonsense() {
    let position = |line| Some(pb::Position { line, character: 0 });
    let place = |source_index, start, end| pb::Location {
        source_index,
        ranges: vec![pb::Range {
            start: position(start),
            end: position(end),
        }],
    };
    let image = source("a://");
    let digest = OpDigest::of(&image).to_string();
    let locations = vec![
        place(0, 2, 3),
        place(1, 1, 1),
        place(-1, 1, 1),
        place(0, -5, i32::MAX),
    ];
    let info = pb::SourceInfo {
        filename: "Dockerfile".into(),
        data: b"one\r\ntwo\nthree \xff\nfour".as_slice().into(),
        ..Default::default()
    };
    let source = pb::Source {
        locations: [(digest, pb::Locations { locations })].into(),
        infos: vec![info],
    };
    let plain = definition_at(vec![image], 0);
    let graph = Graph::load(&Definition::new(
        plain.ops().to_vec(),
        [].into(),
        Some(source),
    ));
    let graph = graph.unwrap();
    let found: Vec<_> = graph.vertices()[0].locations().collect();
    assert_eq!(
        found.len(),
        2,
        "places in files that are not there are left out"
    );
    assert_eq!(
        (found[0].file_name(), found[0].lines()),
        ("Dockerfile", Some((2, 3)))
    );
    let lines = |context| {
        found[0]
            .excerpt(context)
            .map(|(number, text)| format!("{number}:{text}"))
    };
    assert_eq!(lines(0).collect::<Vec<_>>(), ["2:two", "3:three \u{fffd}"]);
    assert_eq!(lines(1).count(), 4);
    assert_eq!(lines(1).next().unwrap(), "1:one");
    assert_eq!(found[1].excerpt(u32::MAX).count(), 4);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_kept(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(definition) = Definition::decode(bytes) {
            let again = Definition::decode(definition.encode()).unwrap();
            prop_assert_eq!(&again, &definition);
            drop(Graph::load(&definition));
        }
    }

    #[test]
    fn damaged_definitions_never_panic(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        end in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = exec(|_| ()).encode();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(end.index(bytes.len() * 2));
        if let Ok(definition) = Definition::decode(bytes) {
            if let Ok(graph) = Graph::load(&definition) {
                for vertex in graph.vertices() {
                    prop_assert_eq!(OpDigest::of(vertex.raw()), vertex.digest());
                }
            }
        }
    }
}
