//! Definitions that were made to hurt.

use ashlar_llb::{
    DecodeError, Definition, Fault, Graph, Limits, LoadError, OpDigest, WireError, encode, pb,
};
use bytes::Bytes;
use pb::op::Op;
use proptest::prelude::*;

use crate::support::{definition_at, exec, invalid, op, source};

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
        if let Ok(definition) = Definition::decode(bytes)
            && let Ok(graph) = Graph::load(&definition)
        {
            for vertex in graph.vertices() {
                prop_assert_eq!(OpDigest::of(vertex.raw()), vertex.digest());
            }
        }
    }
}

/// Ops of many actions take the most memory for their bytes of all that clients write.
#[test]
fn large_ops_of_honest_clients_are_loaded() {
    let action = |number: i64| {
        let file = pb::FileActionMkFile {
            path: format!("/{number}"),
            mode: 0o644,
            timestamp: -1,
            ..Default::default()
        };
        pb::FileAction {
            input: number,
            secondary_input: -1,
            output: if number == 99_999 { 0 } else { -1 },
            action: Some(pb::file_action::Action::Mkfile(file)),
        }
    };
    let actions = (0..100_000).map(action).collect();
    let base = source("a://");
    let file = op(&[&base], Op::File(pb::FileOp { actions }));
    let graph = Graph::load(&definition_at(vec![base, file], 0)).expect("within the limits");
    assert_eq!(graph.vertices().len(), 2);
}
