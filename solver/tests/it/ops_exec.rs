//! Exec ops: which platform counts.

use std::sync::Arc;

use ashlar_llb::{Definition, Graph, OpDigest, Platform, encode, pb};
use ashlar_solver::executor::ScriptedExecutor;
use ashlar_solver::id::CacheDigest;
use ashlar_solver::ops::{keys, operation};

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

/// What the op is for the cache if its platform is written like that.
fn digest(kit: &Kit, platform: Option<pb::Platform>) -> CacheDigest {
    let op = encode::op_bytes(&pb::Op {
        op: Some(pb::op::Op::Exec(step())),
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
    let operation = operation(&graph.vertices()[0], &kit.engine).unwrap();
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
