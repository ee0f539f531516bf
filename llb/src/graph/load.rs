//! From a definition to a checked graph.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Edge, Inner, LoadError, Vertex, VertexIndex, check, name};
use crate::digest::OpPositions;
use crate::wire::decode::decode;
use crate::wire::{Fields, WireError};
use crate::{Definition, Limits, Metadata, OpDigest, pb};

/// An op of which only the inputs are known, and not yet whether they exist.
struct Loaded<'a> {
    digest: OpDigest,
    raw: &'a Bytes,
    inputs: std::ops::Range<usize>,
}

/// An input as it is written.
struct Named {
    digest: OpDigest,
    output: i64,
}

/// An input that is known to exist; its output is not yet.
struct Input {
    op: usize,
    output: i64,
}

/// The different ops of a definition.
struct Ops<'a> {
    all: Vec<Loaded<'a>>,
    /// The inputs of all ops, one op's after the other's.
    named: Vec<Named>,
    /// Positions in `all`.
    by_digest: OpPositions,
    /// Position of the last op.
    terminal: usize,
}

pub(super) fn load(definition: &Definition, limits: &Limits) -> Result<Inner, LoadError> {
    if definition.is_empty() {
        return Ok(Inner::default());
    }
    let ops = read(definition, limits)?;
    let inputs = resolve(&ops)?;
    let Loaded {
        digest: vertex,
        raw,
        inputs: range,
    } = &ops.all[ops.terminal];
    let mut budget = budget(definition, limits);
    let body = body(*vertex, raw, &mut budget)?;
    let ([head], None) = (&inputs[range.clone()], &body.op) else {
        return Err(LoadError::Terminal {
            vertex: *vertex,
            inputs: range.len(),
            does: check::kind(body.op.as_ref()),
        });
    };
    let inputs_of = |op: usize| {
        inputs[ops.all[op].inputs.clone()]
            .iter()
            .map(|input| input.op)
    };
    let order = sort(head.op, ops.all.len(), inputs_of).map_err(|op| LoadError::Cycle {
        vertex: ops.all[op].digest,
    })?;
    assemble(definition, ops, &inputs, &order, &mut budget)
}

/// How much memory the messages of a definition may take.
fn budget(definition: &Definition, limits: &Limits) -> usize {
    let bytes = definition.ops().iter().map(Bytes::len).sum::<usize>();
    let own = bytes.saturating_mul(Limits::DECODED_PER_BYTE);
    own.saturating_add(Limits::DECODED_BESIDE)
        .min(limits.decoded_bytes)
}

/// Hashes all ops and reads their inputs. An op that occurs twice counts once, as in BuildKit.
fn read<'a>(definition: &'a Definition, limits: &Limits) -> Result<Ops<'a>, LoadError> {
    let count = definition.ops().len();
    if count > limits.ops || u32::try_from(count).is_err() {
        return Err(LoadError::TooManyOps {
            count,
            limit: limits.ops,
        });
    }
    let mut ops = Ops {
        all: Vec::with_capacity(count),
        named: Vec::with_capacity(count),
        by_digest: OpPositions::with_capacity(count),
        terminal: 0,
    };
    for (raw, &vertex) in definition.ops().iter().zip(definition.digests()) {
        let all = &ops.all;
        let added = ops.by_digest.add(vertex, all.len(), |at| all[at].digest);
        ops.terminal = added.map_or_else(|known| known, |()| all.len());
        if added.is_ok() {
            let start = ops.named.len();
            read_inputs(vertex, raw, &mut ops.named)?;
            ops.all.push(Loaded {
                digest: vertex,
                raw,
                inputs: start..ops.named.len(),
            });
        }
    }
    if ops.all.len() < 2 {
        return Err(LoadError::TooFewOps {
            count: ops.all.len(),
        });
    }
    Ok(ops)
}

/// Reads the inputs of one op without decoding the rest of it.
fn read_inputs(vertex: OpDigest, raw: &[u8], named: &mut Vec<Named>) -> Result<(), LoadError> {
    let malformed = |source| LoadError::Wire { vertex, source };
    let (mut fields, mut input) = (Fields::new(raw), 0);
    while let Some(field) = fields.next().map_err(malformed)? {
        if field.number != INPUTS {
            continue;
        }
        let content = field.content().ok_or(malformed(WireError::Type))?;
        let (mut digest, mut output) = (&[][..], 0);
        let mut fields = Fields::new(content);
        while let Some(field) = fields.next().map_err(malformed)? {
            let wrong = || malformed(WireError::Type);
            match field.number {
                1 => digest = field.content().ok_or_else(wrong)?,
                2 => output = field.varint().ok_or_else(wrong)?,
                _ => {}
            }
        }
        let digest = OpDigest::parse_bytes(digest);
        let digest = digest.map_err(|source| LoadError::InputDigest {
            vertex,
            input,
            source,
        })?;
        let output = output.cast_signed();
        named.push(Named { digest, output });
        input += 1;
    }
    Ok(())
}

/// Field number of the inputs of an op.
const INPUTS: u32 = 1;

/// Finds the ops that the inputs name.
fn resolve(ops: &Ops<'_>) -> Result<Vec<Input>, LoadError> {
    let mut inputs = Vec::with_capacity(ops.named.len());
    for Loaded {
        digest: vertex,
        inputs: range,
        ..
    } in &ops.all
    {
        for (input, named) in ops.named[range.clone()].iter().enumerate() {
            let found = ops.by_digest.find(named.digest, |at| ops.all[at].digest);
            let Some(op) = found else {
                return Err(LoadError::MissingInput {
                    vertex: *vertex,
                    input,
                    digest: named.digest,
                });
            };
            inputs.push(Input {
                op,
                output: named.output,
            });
        }
    }
    Ok(inputs)
}

/// Decodes all of an op but its inputs.
fn body(vertex: OpDigest, raw: &Bytes, budget: &mut usize) -> Result<pb::Op, LoadError> {
    decode(raw, budget, |number| number != INPUTS)
        .map_err(|source| LoadError::Wire { vertex, source })
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

/// A position in a list whose length fits into an index.
fn position(at: usize) -> VertexIndex {
    VertexIndex(u32::try_from(at).expect("BUG: the number of ops was checked"))
}

/// The position of an op that is no vertex.
const NOWHERE: VertexIndex = VertexIndex(u32::MAX);

/// Decodes and checks the ops in `order` and makes the graph of them.
fn assemble(
    definition: &Definition,
    ops: Ops<'_>,
    inputs: &[Input],
    order: &[usize],
    budget: &mut usize,
) -> Result<Inner, LoadError> {
    let said = metadata_of(&ops, definition);
    let mut positions = vec![NOWHERE; ops.all.len()];
    let mut inner = Inner {
        vertices: Vec::with_capacity(order.len()),
        index: OpPositions::default(),
        head: None,
    };
    let no_metadata = Metadata::from(&pb::OpMetadata::default());
    for &op in order {
        let &Loaded {
            digest: vertex,
            raw,
            inputs: ref range,
        } = &ops.all[op];
        let body = body(vertex, raw, budget)?;
        let invalid = |(field, fault)| LoadError::Invalid {
            vertex,
            field,
            fault,
        };
        let does = body
            .op
            .ok_or_else(|| invalid(("op".to_owned(), check::Fault::Missing)))?;
        let edges = edges(vertex, &inputs[range.clone()], &positions, &inner.vertices)?;
        let outputs = check::check(&does, edges.len()).map_err(invalid)?;
        let metadata = said[op].unwrap_or(&no_metadata);
        let input_name = |input: usize| inner.vertices[edges[input].vertex.index()].name();
        let name = name::composed(&does, edges.len(), input_name);
        positions[op] = position(inner.vertices.len());
        inner.vertices.push(Vertex {
            digest: vertex,
            op: Arc::new(does),
            platform: body.platform,
            constraints: body.constraints,
            inputs: edges,
            outputs,
            metadata: metadata.clone(),
            name: name.map_or_else(OnceLock::new, |name| OnceLock::from(Arc::from(name))),
            raw: raw.clone(),
            source: definition.shared_source(),
        });
    }
    inner.index = ops.by_digest;
    inner
        .index
        .move_to(|op| Some(positions[op].0).filter(|at| *at != NOWHERE.0));
    let terminal = &ops.all[ops.terminal];
    let head = edges(
        terminal.digest,
        &inputs[terminal.inputs.clone()],
        &positions,
        &inner.vertices,
    )?;
    inner.head = head.first().copied();
    Ok(inner)
}

/// What is said of each op. Each entry is looked up among the ops, because there are maps for that
/// already.
fn metadata_of<'a>(ops: &Ops<'_>, definition: &'a Definition) -> Vec<Option<&'a Metadata>> {
    let mut said = vec![None; ops.all.len()];
    for (digest, metadata) in definition.metadata().iter() {
        let op = ops.by_digest.find(digest, |at| ops.all[at].digest);
        if let Some(op) = op {
            said[op] = Some(metadata);
        }
    }
    said
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
