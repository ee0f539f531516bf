//! Exec ops: which platform counts, and how much a process can be told.

use std::sync::Arc;

use ashlar_llb::{Definition, Graph, OpDigest, Platform, encode, pb};
use ashlar_solver::error::OperationError;
use ashlar_solver::executor::ScriptedExecutor;
use ashlar_solver::id::CacheDigest;
use ashlar_solver::operation::Operation;
use ashlar_solver::ops::{keys, operation};
use ashlar_solver::refs::Ref;

use crate::ops_kit::Kit;

fn step() -> pb::ExecOp {
    pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["true".into()],
            cwd: "/".into(),
            ..pb::Meta::default()
        }),
        mounts: vec![pb::Mount {
            input: pb::EMPTY,
            dest: pb::ROOT_MOUNT.into(),
            ..pb::Mount::default()
        }],
        ..pb::ExecOp::default()
    }
}

/// The operation of an op whose platform is written like that.
fn made(
    kit: &Kit,
    step: pb::ExecOp,
    platform: Option<pb::Platform>,
) -> Result<Arc<dyn Operation<Ref>>, OperationError> {
    let op = encode::op_bytes(&pb::Op {
        op: Some(pb::op::Op::Exec(step)),
        platform,
        ..pb::Op::default()
    });
    let end = encode::op_bytes(&pb::Op {
        inputs: vec![pb::Input {
            digest: OpDigest::of(&op).to_string(),
            index: 0,
        }],
        ..pb::Op::default()
    });
    let definition = Definition::new(vec![op.into(), end.into()], [].into(), None);
    let graph = Graph::load(&definition).unwrap();
    operation(&graph.vertices()[0], &kit.engine)
}

/// What it is for the cache.
fn digest(kit: &Kit, platform: Option<pb::Platform>) -> CacheDigest {
    let operation = made(kit, step(), platform).unwrap();
    let context = kit.context();
    let map = operation.cache_map(&context);
    kit.runtime.block_on(map).unwrap().digest
}

#[test]
fn platforms_count_in_their_normal_form_and_are_this_machines_if_none_is_told() {
    let kit = Kit::with(Arc::new(ScriptedExecutor::default()));
    let written = |architecture: &str, os: &str, variant: &str| {
        Some(pb::Platform {
            architecture: architecture.into(),
            os: os.into(),
            variant: variant.into(),
            ..pb::Platform::default()
        })
    };
    let cases = [
        (None, Platform::of_target()),
        (written("amd64", "linux", "v1"), Platform::linux_amd64()),
        (written("x86_64", "Linux", ""), Platform::linux_amd64()),
        (written("amd64", "", ""), Platform::linux_amd64()),
        (written("aarch64", "linux", "v8"), Platform::linux_arm64()),
        (written("", "", ""), Platform::new("linux", "")),
    ];
    for (platform, normal) in cases {
        let text = format!("{platform:?}");
        let expected = keys::exec(&step(), &pb::Platform::from(&normal), 0).unwrap();
        assert_eq!(digest(&kit, platform), expected.digest(), "{text}");
    }
}

#[test]
fn more_words_than_a_process_can_have_are_refused() {
    let kit = Kit::with(Arc::new(ScriptedExecutor::default()));
    for (count, fits) in [(47, true), (48, false)] {
        let mut step = step();
        let meta = step.meta.as_mut().unwrap();
        meta.env = vec!["a".repeat(128 << 10); count];
        match made(&kit, step, None) {
            Ok(_) => assert!(fits),
            Err(OperationError::Failed(failure)) => {
                assert!(!fits && failure.chain().contains("arguments and environment"));
            }
            Err(error) => panic!("{error}"),
        }
    }
}
