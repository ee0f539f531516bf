//! From a definition to a checked graph.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::{Edge, Inner, LoadError, Vertex, VertexIndex, check, name};
use crate::{Definition, Limits, OpDigest, pb, wire};

/// A decoded op whose inputs are not yet known to exist.
struct Loaded {
    digest: OpDigest,
    raw: Bytes,
    op: pb::Op,
}

<<<<<<< HEAD
=======
/// The different ops of a definition.
struct Decoded {
    ops: Vec<Loaded>,
    by_digest: HashMap<OpDigest, usize>,
    /// Position of the last op.
    terminal: usize,
}

>>>>>>> main
pub(super) fn load(definition: &Definition, limits: &Limits) -> Result<Inner, LoadError> {
    if definition.is_empty() {
        return Ok(Inner::default());
    }
<<<<<<< HEAD
    let (mut ops, by_digest, terminal) = decode(definition, limits)?;
=======
    let Decoded {
        mut ops,
        by_digest,
        terminal,
    } = decode(definition, limits)?;
>>>>>>> main
    let inputs = resolve(&ops, &by_digest)?;
    let terminal_op = &ops[terminal].op;
    let ([head], None) = (inputs.of(terminal), &terminal_op.op) else {
        return Err(LoadError::Terminal {
            vertex: ops[terminal].digest,
            inputs: terminal_op.inputs.len(),
            does: check::kind(terminal_op.op.as_ref()),
        });
    };
    let order = sort(head.op, ops.len(), |op| {
        inputs.of(op).iter().map(|input| input.op)
    })
    .map_err(|op| LoadError::Cycle {
        vertex: ops[op].digest,
    })?;
    assemble(definition, &mut ops, &inputs, terminal, &order)
}

/// Decodes all ops. An op that occurs twice counts once, as in BuildKit.
<<<<<<< HEAD
fn decode(
    definition: &Definition,
    limits: &Limits,
) -> Result<(Vec<Loaded>, HashMap<OpDigest, usize>, usize), LoadError> {
=======
fn decode(definition: &Definition, limits: &Limits) -> Result<Decoded, LoadError> {
>>>>>>> main
    let count = definition.ops().len();
    if count > limits.ops || u32::try_from(count).is_err() {
        return Err(LoadError::TooManyOps {
            count,
            limit: limits.ops,
        });
    }
    let mut ops = Vec::with_capacity(count);
    let mut by_digest = HashMap::with_capacity(count);
    let mut budget = limits.decoded_bytes;
    let mut terminal = 0;
    for raw in definition.ops() {
        let vertex = OpDigest::of(raw);
        match by_digest.entry(vertex) {
            Entry::Occupied(known) => terminal = *known.get(),
            Entry::Vacant(slot) => {
                wire::charge(raw, &wire::OP, &mut budget)
                    .map_err(|source| LoadError::Wire { vertex, source })?;
                let op = pb::Op::decode(raw.clone())
                    .map_err(|source| LoadError::Message { vertex, source })?;
                terminal = ops.len();
                slot.insert(terminal);
                ops.push(Loaded {
                    digest: vertex,
                    raw: raw.clone(),
                    op,
                });
            }
        }
    }
    if ops.len() < 2 {
        return Err(LoadError::TooFewOps { count: ops.len() });
    }
<<<<<<< HEAD
    Ok((ops, by_digest, terminal))
=======
    Ok(Decoded {
        ops,
        by_digest,
        terminal,
    })
>>>>>>> main
}

/// An input that is known to exist; its output is not yet.
struct Input {
    op: usize,
    output: i64,
}

/// The inputs of all ops, in one allocation.
struct Inputs {
    all: Vec<Input>,
    ends: Vec<usize>,
}

impl Inputs {
    fn of(&self, op: usize) -> &[Input] {
        let start = if op == 0 { 0 } else { self.ends[op - 1] };
        &self.all[start..self.ends[op]]
    }
}

/// Finds the ops that the inputs name.
fn resolve(ops: &[Loaded], by_digest: &HashMap<OpDigest, usize>) -> Result<Inputs, LoadError> {
    let count = ops.iter().map(|loaded| loaded.op.inputs.len()).sum();
    let mut inputs = Inputs {
        all: Vec::with_capacity(count),
        ends: Vec::with_capacity(ops.len()),
    };
    for Loaded {
        digest: vertex, op, ..
    } in ops
    {
        let vertex = *vertex;
        for (input, named) in op.inputs.iter().enumerate() {
            let digest = named
                .digest
                .parse()
                .map_err(|source| LoadError::InputDigest {
                    vertex,
                    input,
                    source,
                })?;
            let Some(&op) = by_digest.get(&digest) else {
                return Err(LoadError::MissingInput {
                    vertex,
                    input,
                    digest,
                });
            };
            inputs.all.push(Input {
                op,
                output: named.index,
            });
        }
        inputs.ends.push(inputs.all.len());
    }
    Ok(inputs)
}

/// Orders what `head` needs so that inputs come before their users, depth first as BuildKit
/// walks. Fails with an op that depends on itself.
fn sort<I: Iterator<Item = usize>>(
    head: usize,
    count: usize,
    inputs: impl Fn(usize) -> I,
) -> Result<Vec<usize>, usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        Not,
        Open,
        Done,
    }
    let mut visits = vec![Visit::Not; count];
    let mut order = Vec::with_capacity(count);
    let mut path = vec![(head, inputs(head))];
    visits[head] = Visit::Open;
    while let Some((op, rest)) = path.last_mut() {
        let Some(next) = rest.next() else {
            visits[*op] = Visit::Done;
            order.push(*op);
            path.pop();
            continue;
        };
        match visits[next] {
            Visit::Done => {}
            Visit::Open => return Err(next),
            Visit::Not => {
                visits[next] = Visit::Open;
                path.push((next, inputs(next)));
            }
        }
    }
    Ok(order)
}

/// Checks the ops in `order` and makes the graph of them.
fn assemble(
    definition: &Definition,
    ops: &mut [Loaded],
    inputs: &Inputs,
    terminal: usize,
    order: &[usize],
) -> Result<Inner, LoadError> {
    let mut positions = vec![VertexIndex(u32::MAX); ops.len()];
    let mut inner = Inner {
        vertices: Vec::with_capacity(order.len()),
        index: HashMap::with_capacity(order.len()),
        head: None,
    };
    let no_metadata = Arc::new(pb::OpMetadata::default());
    for &position in order {
        let Loaded {
            digest: vertex,
            raw,
            op: message,
        } = &mut ops[position];
        let vertex = *vertex;
        let missing = || LoadError::Invalid {
            vertex,
            field: "op".to_owned(),
            fault: check::Fault::Missing,
        };
        let op = message.op.take().ok_or_else(missing)?;
        let edges = edges(vertex, inputs.of(position), &positions, &inner.vertices)?;
        let outputs =
            check::check(&op, edges.len()).map_err(|(field, fault)| LoadError::Invalid {
                vertex,
                field,
                fault,
            })?;
        let metadata = definition.metadata().get(&vertex).unwrap_or(&no_metadata);
        let input_name = |input: usize| inner.vertices[edges[input].vertex.index()].name();
        let name = name::name(&op, metadata, edges.len(), input_name);
        let index = VertexIndex(u32::try_from(inner.vertices.len()).unwrap_or(u32::MAX));
        positions[position] = index;
        inner.index.insert(vertex, index);
        inner.vertices.push(Vertex {
            digest: vertex,
            op,
            platform: message.platform.take(),
            constraints: message.constraints.take(),
            inputs: edges,
            outputs,
            metadata: Arc::clone(metadata),
            name: name.into_boxed_str(),
            raw: std::mem::take(raw),
            source: definition.source().cloned(),
        });
    }
    let head = edges(
        ops[terminal].digest,
        inputs.of(terminal),
        &positions,
        &inner.vertices,
    )?;
    inner.head = head.first().copied();
    Ok(inner)
}

/// Makes edges of inputs whose vertices are all checked.
fn edges(
    vertex: OpDigest,
    inputs: &[Input],
    positions: &[VertexIndex],
    vertices: &[Vertex],
) -> Result<Box<[Edge]>, LoadError> {
    let edges = inputs.iter().enumerate().map(|(number, input)| {
        let index = positions[input.op];
        let from = &vertices[index.index()];
        match u32::try_from(input.output) {
            Ok(output) if output < from.outputs => Ok(Edge {
                vertex: index,
                output,
            }),
            _ => Err(LoadError::OutputIndex {
                vertex,
                input: number,
                digest: from.digest,
                index: input.output,
                outputs: from.outputs,
            }),
        }
    });
    edges.collect()
}

#[cfg(test)]
mod tests {
    use super::sort;

    fn sorted(head: usize, graph: &[&[usize]]) -> Result<Vec<usize>, usize> {
        sort(head, graph.len(), |op| graph[op].iter().copied())
    }

    // Digests make cycles impossible to write down, so the order is tested without them.
    #[test]
    fn sorts_and_finds_cycles() {
        assert_eq!(sorted(0, &[&[]]), Ok(vec![0]));
        assert_eq!(
            sorted(3, &[&[], &[0], &[0], &[2, 1], &[3]]),
            Ok(vec![0, 2, 1, 3])
        );
        assert_eq!(sorted(0, &[&[0]]), Err(0));
        assert_eq!(sorted(2, &[&[1], &[0], &[1]]), Err(1));
        assert_eq!(sorted(0, &[&[], &[1]]), Ok(vec![0]), "a cycle out of reach");
    }
}
