//! How one op is written: straight into the bytes of the definition.

use std::borrow::Cow;

use super::MarshalContext;
use super::inputs::InputList;
use crate::caps::{Cap, Caps};
use crate::constraints::OpConstraints;
use crate::encode::Writer;
use crate::state::Settings;
use crate::vertex::{Output, Vertex};
use crate::{Constraints, GuestPath, MarshalError, Platform, pb};

/// Memory that is used for one op after the other.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    inputs: InputList,
    positions: Vec<i64>,
}

/// Writes one op. Its inputs are named first, then it is written in one go.
#[derive(Debug)]
pub(crate) struct OpWriter<'m, 'a> {
    vertex: &'m Vertex,
    context: &'m MarshalContext<'a>,
    scratch: &'m mut Scratch,
    out: &'m mut Writer,
    caps: Caps,
}

impl<'m, 'a> OpWriter<'m, 'a> {
    pub(super) fn new(
        vertex: &'m Vertex,
        context: &'m MarshalContext<'a>,
        scratch: &'m mut Scratch,
        out: &'m mut Writer,
    ) -> Self {
        scratch.inputs.clear();
        Self {
            vertex,
            context,
            scratch,
            out,
            caps: vertex.constraints.caps,
        }
    }

    /// The name of the op in error messages.
    pub(crate) fn step(&self) -> String {
        self.vertex.name()
    }

    pub(crate) fn context(&self) -> &'m MarshalContext<'a> {
        self.context
    }

    /// What is asked of the whole definition.
    pub(crate) fn constraints(&self) -> &'a Constraints {
        self.context.constraints
    }

    /// What is asked of this op.
    pub(crate) fn options(&self) -> &'m OpConstraints {
        &self.vertex.constraints
    }

    /// The platform that was set for this op.
    pub(crate) fn own_platform(&self) -> Option<&'m Platform> {
        self.options().more().platform.as_deref()
    }

    /// The platform of this op or, without one, of the definition.
    pub(crate) fn platform(&self) -> &'m Platform {
        self.own_platform()
            .unwrap_or(&self.context.constraints.platform)
    }

    /// The settings behind deferred ones.
    pub(crate) fn values<'v>(
        &self,
        values: &'v Settings,
    ) -> Result<Cow<'v, Settings>, MarshalError> {
        self.context.values(values)
    }

    /// Records that an engine needs this capability to run the op.
    pub(crate) fn need(&mut self, cap: Cap) {
        self.caps.insert(cap);
    }

    /// The capabilities that the op needs.
    pub(super) fn caps(&self) -> Caps {
        self.caps
    }

    /// Adds an input, or finds it, and returns its position, or that of scratch.
    pub(crate) fn input(&mut self, output: &Output) -> Result<i64, MarshalError> {
        let input = self.context.reference(output, || self.vertex.name())?;
        Ok(input.map_or(pb::EMPTY, |input| self.scratch.inputs.add(input)))
    }

    /// Adds an input, whether it is there or not, and returns its position, or that of scratch.
    pub(super) fn next_input(&mut self, output: &Output) -> Result<i64, MarshalError> {
        let input = self.context.reference(output, || self.vertex.name())?;
        Ok(input.map_or(pb::EMPTY, |input| self.scratch.inputs.push(input)))
    }

    /// How many inputs there are.
    pub(crate) fn input_count(&self) -> usize {
        self.scratch.inputs.len()
    }

    /// An empty list of positions, to be given back by [`reuse`](Self::reuse).
    pub(crate) fn positions(&mut self) -> Vec<i64> {
        let mut positions = std::mem::take(&mut self.scratch.positions);
        positions.clear();
        positions
    }

    pub(crate) fn reuse(&mut self, positions: Vec<i64>) {
        self.scratch.positions = positions;
    }

    /// Writes the op: what all ops have, then what this one does, under its field number.
    pub(crate) fn write<R>(
        &mut self,
        platform: Option<&Platform>,
        field: u32,
        does: impl FnOnce(&mut Writer) -> R,
    ) -> R {
        let filters = [
            self.constraints().defaults.more().filters.as_slice(),
            self.options().more().filters.as_slice(),
        ];
        let fields = pb::OpFields {
            inputs: self.scratch.inputs.fields(),
            platform: platform.map(Platform::fields),
            constraints: Some(pb::ConstraintsFields(&filters)),
        };
        fields.write(self.out);
        self.out.nested(field, does)
    }
}

/// Fails if no tree can have the path.
pub(crate) fn check_path(path: &GuestPath, op: &OpWriter<'_, '_>) -> Result<(), MarshalError> {
    if path.is_impossible() {
        return Err(MarshalError::Path {
            step: op.step(),
            path: path.clone(),
        });
    }
    Ok(())
}
