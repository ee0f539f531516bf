//! How ops on whole trees are written, and builds inside builds.

use std::collections::BTreeMap;

use super::op_writer::OpWriter;
use crate::encode::Encode as _;
use crate::vertex::{BuildVertex, DiffVertex, Output, PassthroughVertex, Unusable};
use crate::{GuestPath, MarshalError, pb};

/// Writes a merge. Scratch is left out.
pub(super) fn merge(inputs: &[Output], op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
    for input in inputs {
        op.next_input(input)?;
    }
    let positions = (0..).take(op.input_count());
    let merge = pb::MergeOp {
        inputs: positions.map(|input| pb::MergeInput { input }).collect(),
    };
    op.write(None, pb::op::MERGE, |out| merge.write_fields(out));
    Ok(())
}

pub(super) fn diff(diff: &DiffVertex, op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
    let mut side = |output: &Option<Output>| {
        let output = output.as_ref();
        output.map_or(Ok(pb::EMPTY), |output| op.next_input(output))
    };
    let (lower, upper) = (side(&diff.lower)?, side(&diff.upper)?);
    let diff = pb::DiffOp {
        lower: Some(pb::LowerDiffInput { input: lower }),
        upper: Some(pb::UpperDiffInput { input: upper }),
    };
    op.write(None, pb::op::DIFF, |out| diff.write_fields(out));
    Ok(())
}

pub(super) fn build(build: &BuildVertex, op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
    let input = build.input.as_ref().map(|output| op.next_input(output));
    if input.transpose()?.is_none_or(|input| input == pb::EMPTY) {
        return Err(MarshalError::NoInput { step: op.step() });
    }
    let message = build_op(&build.filename);
    let platform = op.platform();
    op.write(Some(platform), pb::op::BUILD, |out| {
        message.write_fields(out);
    });
    Ok(())
}

fn build_op(filename: &GuestPath) -> pb::BuildOp {
    let input = (
        pb::LLB_DEFINITION_INPUT.to_owned(),
        pb::BuildInput { input: 0 },
    );
    let mut attrs = BTreeMap::new();
    if !filename.is_empty() {
        attrs.insert("llbbuild.filename".to_owned(), filename.to_string());
    }
    pb::BuildOp {
        builder: pb::LLB_BUILDER,
        inputs: BTreeMap::from([input]),
        attrs,
        ..pb::BuildOp::default()
    }
}

pub(super) fn passthrough(
    passthrough: &PassthroughVertex,
    op: &mut OpWriter<'_, '_>,
) -> Result<(), MarshalError> {
    for input in &passthrough.inputs {
        if op.next_input(input)? == pb::EMPTY {
            return Err(MarshalError::NoInput { step: op.step() });
        }
    }
    if passthrough.inputs.is_empty() {
        return Err(MarshalError::NoInput { step: op.step() });
    }
    if passthrough.id.is_empty() {
        return Err(MarshalError::NoPassthroughId { step: op.step() });
    }
    if passthrough.outputs.is_empty() {
        return Err(MarshalError::Unusable {
            step: op.step(),
            maker: op.step(),
            source: Unusable::NoOutputIndex { index: 0 },
        });
    }
    let position = |input: &usize| i64::try_from(*input).unwrap_or(i64::MAX);
    let message = pb::PassthroughOp {
        id: passthrough.id.clone(),
        outputs: passthrough.outputs.iter().map(position).collect(),
    };
    op.write(None, pb::op::PASSTHROUGH, |out| message.write_fields(out));
    Ok(())
}
