//! Provenance of a solve, put together at its end.

use std::io;

use ashlar_llb::Graph;
use ashlar_llb::pb::{NetMode, op::Op};

use super::run::Ran;
use crate::error::{Blame, Fault};
use crate::executor::Network;
use crate::ops::Engine;
use crate::provenance::{OutputProvenance, Recorder, VertexProvenance};
use crate::scheduler::VertexStatus;

/// A name for a solve: 128 random bits with the digits 0 to 9 and a to z.
pub(super) fn invocation() -> Result<String, NoRandomness> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| NoRandomness(error.into()))?;
    let mut number = u128::from_le_bytes(random);
    let digit = |_| {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        number /= 36;
        char::from_digit(digit, 36).unwrap_or('0')
    };
    Ok((0..25).map(digit).collect())
}

/// The system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("cannot get random numbers")]
pub(super) struct NoRandomness(#[source] io::Error);

impl Blame for NoRandomness {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

/// What is known of the vertices that the result is made from.
pub(super) fn vertices(
    graph: &Graph,
    ran: &Ran,
    engine: &Engine,
    recorder: &Recorder,
) -> Vec<VertexProvenance> {
    let mut all: Vec<VertexProvenance> = graph
        .vertices()
        .iter()
        .map(|vertex| {
            let digest = vertex.digest();
            let seen = recorder.seen(&digest);
            VertexProvenance {
                digest,
                started: seen.started,
                completed: seen.completed,
                cached: seen.cached,
                usage: seen.usage,
                source: match vertex.op() {
                    Op::Source(_) => engine.resolved_source(&digest),
                    _ => None,
                },
                network: match vertex.op() {
                    Op::Exec(exec) if exec.network == NetMode::Unset as i32 => {
                        engine.network != Network::None
                    }
                    Op::Exec(exec) => exec.network != NetMode::None as i32,
                    _ => false,
                },
                outputs: Vec::new(),
            }
        })
        .collect();
    for output in &ran.outputs {
        // A result that has no key is not stored: its layers are told as long as they are at hand.
        let layers = match (output.key, &output.value) {
            (None, Some(value)) => value.known_stack().map(|stack| stack.layer_ids()),
            _ => None,
        };
        all[output.vertex].outputs.push(OutputProvenance {
            index: output.output,
            key: output.key,
            layers,
        });
    }
    let reachable = ran
        .vertices
        .iter()
        .map(|vertex| vertex.status != VertexStatus::Unreachable);
    let known = all.into_iter().zip(reachable);
    known
        .filter_map(|(vertex, is)| is.then_some(vertex))
        .collect()
}
