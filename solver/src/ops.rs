//! What the vertices of a graph do: the operations behind LLB's ops.
//!
//! Owns [`operation`], which makes the [`Operation`] of a vertex, and one module per kind of op.
//!
//! Leaves to others: in which order they run and what of them is cached (`scheduler`), how sources
//! are fetched (`source`).

pub mod build;
mod cdi;
mod content;
pub mod diff;
mod engine;
pub mod exec;
pub mod file;
pub mod imported;
pub mod keys;
pub mod merge;
mod previous;
pub mod source;

use std::sync::Arc;

use ashlar_llb::pb::op::Op;
use ashlar_llb::{Platform, Vertex, pb};

pub use cdi::DEFAULT_DIRECTORIES as DEFAULT_CDI_DIRECTORIES;
pub use content::InputError;
pub use engine::{DeviceGrant, Engine, Entitlements, UnknownEntitlement};
pub use exec::CacheMounts;
pub use merge::NoSuchInput;

use content::{checksum_input, describe_input};
use engine::unblock;

use crate::error::OperationError;
use crate::operation::Operation;
use crate::refs::Ref;

/// Makes the operation of a vertex.
///
/// # Errors
/// The op is not valid, not supported, or not allowed.
pub fn operation(
    vertex: &Vertex,
    engine: &Arc<Engine>,
) -> Result<Arc<dyn Operation<Ref>>, OperationError> {
    let inputs = vertex.inputs().len();
    match vertex.op() {
        Op::File(op) => Ok(Arc::new(file::FileOperation::of(
            vertex.shared_op(),
            inputs,
            engine.keys.file(vertex, op)?,
            vertex.shared_name(),
            engine,
        ))),
        Op::Exec(op) => {
            let platform = pb::Platform::from(&platform_of(vertex));
            let operation = exec::ExecOperation::new(op, &platform, inputs, engine)?;
            let resources = vertex.metadata().linux_resources.as_ref();
            Ok(Arc::new(operation.limited(resources)))
        }
        Op::Merge(op) => Ok(Arc::new(merge::MergeOperation::new(op, inputs)?)),
        Op::Passthrough(op) => Ok(Arc::new(merge::PassthroughOperation::new(op, inputs)?)),
        Op::Diff(op) => Ok(Arc::new(diff::DiffOperation::new(
            op,
            inputs,
            vertex.name(),
            engine,
        )?)),
        Op::Build(op) => Ok(Arc::new(build::BuildOperation::new(
            op,
            inputs,
            vertex.name(),
            engine,
        )?)),
        Op::Source(op) => source::operation(op, vertex, engine),
    }
}

/// The platform that an op is for: as it says, in the form in which equal ones are equal, else this
/// machine's.
fn platform_of(vertex: &Vertex) -> Platform {
    vertex
        .platform()
        .map_or_else(Platform::of_target, |platform| {
            Platform::from(platform).normalised()
        })
}
