//! Why a definition is not a graph.

use super::Fault;
use crate::OpDigest;
use crate::digest::ParseDigestError;
use crate::wire::WireError;

/// Tells why a definition cannot be solved. Every variant is a fault of the input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There are more ops than allowed.
    #[error("a definition of {count} ops has more than the limit of {limit}")]
    TooManyOps {
        /// Number of ops.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// There is a terminal op and nothing else.
    #[error("a definition needs at least two different ops, this one has {count}")]
    TooFewOps {
        /// Number of different ops.
        count: usize,
    },
    /// An op is not a protobuf message, or one that takes too much memory.
    #[error("op {vertex} is malformed")]
    Wire {
        /// The op.
        vertex: OpDigest,
        /// What is wrong.
        source: WireError,
    },
    /// The last op is not a terminal one, which has exactly one input and does nothing.
    #[error("the last op, {vertex}, has {inputs} inputs and {does} instead of one and none")]
    Terminal {
        /// The last op.
        vertex: OpDigest,
        /// How many inputs it has.
        inputs: usize,
        /// What it does, the name of the operation or `none`.
        does: &'static str,
    },
    /// An input is named by something that is not a digest.
    #[error("input {input} of op {vertex} is not named by a digest")]
    InputDigest {
        /// The op.
        vertex: OpDigest,
        /// Position of the input.
        input: usize,
        /// What is wrong with the name.
        source: ParseDigestError,
    },
    /// An input names an op that the definition does not have.
    #[error("input {input} of op {vertex}, {digest}, is not in the definition")]
    MissingInput {
        /// The op.
        vertex: OpDigest,
        /// Position of the input.
        input: usize,
        /// The op that is not there.
        digest: OpDigest,
    },
    /// An input names an output that its op does not have.
    #[error("input {input} of op {vertex} is output {index} of {digest}, which has {outputs}")]
    OutputIndex {
        /// The op.
        vertex: OpDigest,
        /// Position of the input.
        input: usize,
        /// The op the input comes from.
        digest: OpDigest,
        /// The output asked for.
        index: i64,
        /// How many outputs there are.
        outputs: u32,
    },
    /// An op depends on itself.
    #[error("op {vertex} depends on itself")]
    Cycle {
        /// One of the ops on the cycle.
        vertex: OpDigest,
    },
    /// An op does not make sense.
    #[error("op {vertex}: {field}: {fault}")]
    Invalid {
        /// The op.
        vertex: OpDigest,
        /// The field, as a path such as `exec.mounts[2].input`.
        field: String,
        /// What is wrong with it.
        fault: Fault,
    },
}
