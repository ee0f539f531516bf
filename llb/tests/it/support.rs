//! Small definitions to start from.

use ashlar_llb::{Definition, Fault, Graph, LoadError, OpDigest, encode, pb};
use bytes::Bytes;
use pb::op::Op;

/// A definition of the ops, with a terminal op that points at output `index` of the last.
pub(crate) fn definition_at(ops: Vec<Vec<u8>>, index: i64) -> Definition {
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

pub(crate) fn op(inputs: &[&[u8]], op: Op) -> Vec<u8> {
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

pub(crate) fn source(identifier: &str) -> Vec<u8> {
    op(
        &[],
        Op::Source(pb::SourceOp {
            identifier: identifier.into(),
            attrs: [].into(),
        }),
    )
}

/// An exec op on one input that is fine but for what `change` does.
pub(crate) fn exec(change: impl FnOnce(&mut pb::ExecOp)) -> Definition {
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

/// The field and the fault for which a definition is refused.
#[track_caller]
pub(crate) fn invalid(definition: &Definition) -> (String, Fault) {
    match Graph::load(definition) {
        Err(LoadError::Invalid { field, fault, .. }) => (field, fault),
        other => panic!("{other:?}"),
    }
}
