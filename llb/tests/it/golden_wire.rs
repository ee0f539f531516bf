//! The encoder writes the bytes BuildKit's Go client writes.

use ashlar_llb::{OpDigest, encode, pb};
use prost::Message as _;

use crate::golden;

#[test]
fn golden_definitions_encode_to_the_same_bytes() {
    for case in golden::llb_cases() {
        let definition = pb::Definition::decode(case.pb.as_slice()).expect(&case.name);
        assert!(
            encode::definition_bytes(&definition) == case.pb,
            "{}",
            case.name
        );
        assert_eq!(definition.def.len() as u64, case.ops, "{}", case.name);
        let mut digests = Vec::new();
        for bytes in &definition.def {
            let op = pb::Op::decode(bytes.clone()).expect(&case.name);
            assert!(encode::op_bytes(&op) == *bytes, "{}: {op:?}", case.name);
            digests.push(OpDigest::of(bytes).to_string());
        }
        if !case.op_digests.is_empty() {
            assert_eq!(digests, case.op_digests, "{}", case.name);
        }
    }
}

#[test]
fn map_entries_keep_empty_keys_and_values() {
    let source = pb::SourceOp {
        identifier: String::new(),
        attrs: [(String::new(), String::new())].into(),
    };
    let op = pb::Op {
        op: Some(pb::op::Op::Source(source)),
        ..Default::default()
    };
    assert_eq!(encode::op_bytes(&op), [0x1a, 6, 0x12, 4, 0x0a, 0, 0x12, 0]);
}

#[test]
fn the_oneof_comes_last_and_empty_messages_are_written() {
    let op = pb::Op {
        inputs: vec![pb::Input {
            digest: "d".into(),
            index: -1,
        }],
        op: Some(pb::op::Op::Merge(pb::MergeOp::default())),
        platform: Some(pb::Platform::default()),
        constraints: Some(pb::WorkerConstraints::default()),
    };
    let mut expected = vec![0x0a, 14, 0x0a, 1, b'd', 0x10];
    expected.extend([0xff; 9]);
    expected.extend([0x01, 0x52, 0, 0x5a, 0, 0x32, 0]);
    assert_eq!(encode::op_bytes(&op), expected);
}

#[test]
fn lengths_of_every_size_are_written() {
    for length in [0, 1, 127, 128, 16_383, 16_384, 2_100_000] {
        let info = pb::SourceInfo {
            data: vec![7; length].into(),
            ..Default::default()
        };
        let source = pb::Source {
            infos: vec![info],
            ..Default::default()
        };
        let definition = pb::Definition {
            source: Some(source),
            ..Default::default()
        };
        let bytes = encode::definition_bytes(&definition);
        assert_eq!(
            bytes,
            definition.encode_to_vec(),
            "no map, no oneof: prost agrees"
        );
        assert_eq!(
            pb::Definition::decode(bytes.as_slice()).unwrap(),
            definition
        );
    }
}

#[test]
fn unknown_enum_numbers_survive() {
    let exec = pb::ExecOp {
        security: 7,
        network: -3,
        ..Default::default()
    };
    let op = pb::Op {
        op: Some(pb::op::Op::Exec(exec)),
        ..Default::default()
    };
    let decoded = pb::Op::decode(encode::op_bytes(&op).as_slice()).unwrap();
    assert_eq!(decoded, op);
}
