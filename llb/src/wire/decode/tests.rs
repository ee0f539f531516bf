//! What is read here, `prost` reads as the same.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;

use super::{WireError, decode};
use crate::{Definition, encode, pb};

/// What the fuzzer of definitions starts from.
const SEEDS: &[&[u8]] = &[
    include_bytes!("../../../fuzz/corpus/definition/build_basic"),
    include_bytes!("../../../fuzz/corpus/definition/copy_action_input_shared"),
    include_bytes!("../../../fuzz/corpus/definition/copy_all_info"),
    include_bytes!("../../../fuzz/corpus/definition/def_mount_output"),
    include_bytes!("../../../fuzz/corpus/definition/diff_constraints"),
    include_bytes!("../../../fuzz/corpus/definition/file_rm_opts"),
    include_bytes!("../../../fuzz/corpus/definition/file_symlink_opts"),
    include_bytes!("../../../fuzz/corpus/definition/git_all"),
    include_bytes!("../../../fuzz/corpus/definition/http_all"),
    include_bytes!("../../../fuzz/corpus/definition/image_all_options"),
    include_bytes!("../../../fuzz/corpus/definition/local_all"),
    include_bytes!("../../../fuzz/corpus/definition/merge_constraints"),
    include_bytes!("../../../fuzz/corpus/definition/meta_progress_group"),
    include_bytes!("../../../fuzz/corpus/definition/mount_content_cache"),
    include_bytes!("../../../fuzz/corpus/definition/oci_blob_opts"),
    include_bytes!("../../../fuzz/corpus/definition/passthrough_requires"),
    include_bytes!("../../../fuzz/corpus/definition/run_cdi"),
    include_bytes!("../../../fuzz/corpus/definition/run_linux_resources"),
    include_bytes!("../../../fuzz/corpus/definition/run_ulimit_extremes"),
    include_bytes!("../../../fuzz/corpus/definition/secret_file_opts"),
    include_bytes!("../../../fuzz/corpus/definition/sm_multi_range"),
    include_bytes!("../../../fuzz/corpus/definition/sm_with_state"),
    include_bytes!("../../../fuzz/corpus/definition/ssh_secret_combo"),
];

fn ours(raw: &[u8]) -> Result<pb::Op, WireError> {
    let mut budget = 1 << 30;
    decode(&Bytes::copy_from_slice(raw), &mut budget, |_| true)
}

/// Messages as they are recorded for the fuzzer, and a few that have what those have not.
fn ops() -> Vec<Vec<u8>> {
    let mut ops = Vec::new();
    for seed in SEEDS {
        if let Ok(definition) = Definition::decode(seed.to_vec()) {
            ops.extend(definition.ops().iter().map(|op| op.to_vec()));
        }
    }
    assert!(ops.len() > 50, "{}", ops.len());
    let user = |user| Some(pb::UserOpt { user: Some(user) });
    let owner = Some(pb::ChownOpt {
        user: user(pb::user_opt::User::ById(70_000)),
        group: user(pb::user_opt::User::ByName(pb::NamedUserOpt {
            name: "users".to_owned(),
            input: -1,
        })),
    });
    let symlink = pb::FileActionSymlink {
        oldpath: "a".to_owned(),
        newpath: "/b".to_owned(),
        owner: owner.clone(),
        timestamp: -1,
    };
    let file = pb::FileOp {
        actions: vec![pb::FileAction {
            input: -1,
            secondary_input: i64::MIN,
            output: 300,
            action: Some(pb::file_action::Action::Symlink(symlink)),
        }],
    };
    let nested = pb::Definition {
        def: vec![Bytes::from_static(b"\x0a\x00")],
        metadata: [("a".to_owned(), pb::OpMetadata::default())].into(),
        source: Some(pb::Source::default()),
    };
    let build = pb::BuildOp {
        builder: -1,
        inputs: [("a".to_owned(), pb::BuildInput { input: 3 })].into(),
        def: Some(nested),
        attrs: [("k".to_owned(), "v".to_owned())].into(),
    };
    let passthrough = pb::PassthroughOp {
        id: "id".to_owned(),
        outputs: vec![0, -1, 1 << 40],
    };
    for op in [
        pb::op::Op::File(file),
        pb::op::Op::Build(build),
        pb::op::Op::Passthrough(passthrough),
    ] {
        let op = pb::Op {
            op: Some(op),
            platform: Some(pb::Platform {
                os_version: "10".to_owned(),
                os_features: vec!["x".to_owned(), String::new()],
                ..pb::Platform::default()
            }),
            ..pb::Op::default()
        };
        ops.push(encode::op_bytes(&op));
    }
    ops
}

/// Both read the same, or neither reads anything. `prost` skips groups, which are no part of the
/// language any more, and reads an entry of a map whatever its tag says it is.
fn agree(raw: &[u8]) {
    match (ours(raw), pb::Op::decode(raw)) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs),
        (Err(_), Err(_)) | (Err(WireError::Tag), Ok(_)) => {}
        (Err(WireError::Type), Ok(theirs)) if is_with_another_tag(raw, &theirs) => {}
        (ours, theirs) => panic!("{raw:02x?}\n{ours:?}\n{theirs:?}"),
    }
}

/// Whether this is the op if one of the tags said that something with a length follows.
fn is_with_another_tag(raw: &[u8], op: &pb::Op) -> bool {
    let mut raw = raw.to_vec();
    (0..raw.len()).any(|at| {
        let was = raw[at];
        raw[at] = was & !7 | 2;
        let same = ours(&raw).as_ref() == Ok(op);
        raw[at] = was;
        same
    })
}

#[test]
fn entries_of_maps_have_the_tag_of_entries() {
    let entry = [
        0x2a, 0x09, 0x12, 0x07, 0x0a, 0x01, b'a', 0x12, 0x02, 0x08, 0x03,
    ];
    assert!(ours(&entry).is_ok());
    let mut other = entry;
    other[2] = 0x10;
    assert_eq!(ours(&other), Err(WireError::Type));
    agree(&other);
}

#[test]
fn recorded_ops_are_read_as_prost_reads_them() {
    for raw in ops() {
        assert_eq!(ours(&raw), Ok(pb::Op::decode(&*raw).expect("it is an op")));
    }
}

#[test]
fn pieces_of_messages_are_merged_as_prost_does() {
    let ops = ops();
    for one in &ops {
        for other in ops.iter().rev().take(40) {
            agree(&[&**one, other].concat());
        }
    }
}

#[test]
fn numbers_that_are_too_large_are_cut_as_prost_does() {
    // A merge's input of 2^63, a mode of 2^35 + 5, and flags that are neither 0 nor 1.
    let number = |field: u8, value: u64| {
        let mut bytes = vec![field << 3];
        prost::encoding::encode_varint(value, &mut bytes);
        bytes
    };
    for value in [1 << 63, (1 << 35) + 5, u64::MAX, 2] {
        for field in 1..16 {
            let mut bytes = number(field, value);
            // Down through file op, action, and each kind of action.
            for outer in 4..9 {
                let mut action = vec![outer << 3 | 2, u8::try_from(bytes.len()).expect("short")];
                action.append(&mut bytes.clone());
                let mut op = vec![0x12, u8::try_from(action.len()).expect("short")];
                op.append(&mut action);
                let mut whole = vec![0x22, u8::try_from(op.len()).expect("short")];
                whole.append(&mut op);
                agree(&whole);
            }
            let mut packed = vec![0x62, u8::try_from(bytes.len() - 1).expect("short")];
            packed.extend(bytes.split_off(1));
            let mut meta = vec![0x0a, u8::try_from(packed.len()).expect("short")];
            meta.append(&mut packed);
            let mut exec = vec![0x12, u8::try_from(meta.len()).expect("short")];
            exec.append(&mut meta);
            agree(&exec);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_ops_are_read_as_prost_reads_them(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local! {
            static OPS: Vec<Vec<u8>> = ops();
        }
        let mut raw = OPS.with(|ops| which.get(ops).clone());
        for (at, byte) in changes {
            if !raw.is_empty() {
                let at = at.index(raw.len());
                raw[at] = byte;
            }
        }
        if let Some(cut) = cut {
            raw.truncate(cut.index(raw.len() + 1));
        }
        agree(&raw);
    }
}
