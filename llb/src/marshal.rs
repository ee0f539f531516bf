//! Marshalling: from a state to the definition of its graph.
//!
//! Owns the walk, the order of the definition, and how vertices of equal bytes are joined.
//! Invariants: inputs are written before their use; each op is written once; the walk takes no
//! more stack for a long chain than for a short one. How an op is written is for its module.

mod context;
mod error;
mod inputs;
mod op_writer;
mod said;
mod trees;

use std::sync::Arc;

use bytes::Bytes;

pub use error::MarshalError;

pub(crate) use context::MarshalContext;
pub(crate) use op_writer::{OpWriter, check_path};

use crate::constraints::SourceMapCollector;
use crate::deferred::Resolver;
use crate::encode::{Encode as _, Writer};
use crate::import::Imported;
use crate::vertex::{Output, Vertex, VertexOp};
use crate::{Constraints, Definition, OpDigest, pb};
use op_writer::Scratch;
use said::SaidList;

/// Writes the graph that leads to `output`; nothing but an empty definition for scratch.
pub(crate) fn definition(
    output: Option<&Output>,
    constraints: &Constraints,
) -> Result<Definition, MarshalError> {
    let resolver = Resolver::new(constraints);
    let Some(output) = output.map(|output| resolver.output(output)).transpose()? else {
        return Ok(Definition::default());
    };
    let Some(output) = output else {
        return Ok(Definition::default());
    };
    let mut marshaller = Marshaller {
        context: MarshalContext::new(constraints, resolver),
        out: Writer::default(),
        ends: Vec::new(),
        scratch: Scratch::default(),
        said: SaidList::new(&constraints.defaults),
        sources: SourceMapCollector::default(),
    };
    marshaller.walk(Arc::clone(&output.vertex))?;
    marshaller.finish(&output)
}

/// What is left to do.
enum Task {
    /// To write a vertex and first what it needs, unless that was done since.
    Visit(Arc<Vertex>),
    /// To write a vertex; what it needs is written.
    Write(Arc<Vertex>),
}

struct Marshaller<'a> {
    context: MarshalContext<'a>,
    /// The bytes of all ops, one behind the other.
    out: Writer,
    /// Where each op ends.
    ends: Vec<usize>,
    scratch: Scratch,
    said: SaidList<'a>,
    sources: SourceMapCollector,
}

impl Marshaller<'_> {
    fn walk(&mut self, root: Arc<Vertex>) -> Result<(), MarshalError> {
        let mut tasks = vec![Task::Visit(root)];
        while let Some(task) = tasks.pop() {
            match task {
                Task::Write(vertex) => self.write(&vertex)?,
                Task::Visit(vertex) => {
                    let Some(vertex) = self.context.target_vertex(vertex)? else {
                        continue;
                    };
                    if self.context.is_written(&vertex) {
                        continue;
                    }
                    tasks.push(Task::Write(Arc::clone(&vertex)));
                    // The first input is to be the next task, and so the last in the list.
                    let first = tasks.len();
                    vertex.each_input(|input| {
                        if !self.context.is_written(&input.vertex) {
                            tasks.push(Task::Visit(Arc::clone(&input.vertex)));
                        }
                    });
                    tasks[first..].reverse();
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, vertex: &Vertex) -> Result<(), MarshalError> {
        if let VertexOp::Imported(imported) = &vertex.op {
            self.add_imported(vertex, imported);
            return Ok(());
        }
        if let Some(alias) = self.nothing_to_do(vertex)? {
            self.context.alias(vertex, alias);
            return Ok(());
        }
        let start = self.out.len();
        let mut op = OpWriter::new(vertex, &self.context, &mut self.scratch, &mut self.out);
        write_op(vertex, &mut op)?;
        let caps = op.caps();
        let digest = OpDigest::of(self.out.since(start));
        let (position, is_new) = self.context.add(vertex, digest);
        if is_new {
            self.ends.push(self.out.len());
            self.said.add(&vertex.constraints, caps);
        } else {
            self.out.take_back(start);
            self.said.merge(position, &vertex.constraints, caps);
        }
        let places = &vertex.constraints.more().locations;
        self.sources.add(position, places);
        Ok(())
    }

    fn add_imported(&mut self, vertex: &Vertex, imported: &Imported) {
        let (position, is_new) = self.context.add(vertex, imported.digest);
        if is_new {
            self.out.raw(&imported.bytes);
            self.ends.push(self.out.len());
            self.said.add_as_it_is(&imported.metadata);
        } else {
            self.said.merge_as_it_is(position, &imported.metadata);
        }
        let places = &vertex.constraints.more().locations;
        self.sources.add(position, places);
    }

    /// What stands for a merge or difference of which deferred inputs turned out to be scratch,
    /// if there is nothing left to do. The constructors see to inputs that were known then.
    fn nothing_to_do(&self, vertex: &Vertex) -> Result<Option<Option<Output>>, MarshalError> {
        match &vertex.op {
            VertexOp::Merge(inputs) => {
                let mut left = None;
                for input in inputs {
                    let Some(input) = self.context.target(input)? else {
                        continue;
                    };
                    if left.replace(input).is_some() {
                        return Ok(None);
                    }
                }
                Ok(Some(left.map(|output| output.into_owned())))
            }
            VertexOp::Diff(diff) => match &diff.lower {
                Some(lower) if self.context.target(lower)?.is_none() => {
                    Ok(Some(diff.upper.clone()))
                }
                _ => Ok(None),
            },
            _ => Ok(None),
        }
    }

    /// Adds the terminal op, its metadata and the source maps.
    fn finish(mut self, output: &Output) -> Result<Definition, MarshalError> {
        let constraints = self.context.constraints;
        let input = self.context.reference(output, || "the result".to_owned())?;
        let Some((digest, index)) = input else {
            return Ok(Definition::default());
        };
        let start = self.out.len();
        let terminal = pb::Op {
            inputs: vec![pb::Input {
                digest: digest.to_text(),
                index,
            }],
            ..pb::Op::default()
        };
        terminal.write_fields(&mut self.out);
        let terminal = OpDigest::of(self.out.since(start));
        self.ends.push(self.out.len());
        self.said.add_terminal();

        // Metadata and source maps are sorted by digest.
        let mut digests = self.context.into_digests();
        let mut sorted = sorted(&digests);
        let source = self.sources.finish(&sorted, &digests, constraints)?;
        let place = sorted.partition_point(|op| digests[*op] < terminal);
        sorted.insert(place, digests.len());
        digests.push(terminal);
        let metadata = self.said.finish(&sorted, &digests);

        let bytes = Bytes::from(self.out.into_bytes());
        let mut start = 0;
        let ops = self.ends.into_iter().map(|end| {
            let op = bytes.slice(start..end);
            start = end;
            op
        });
        let definition = Definition::from_parts(ops.collect(), metadata, Some(source));
        Ok(definition.with_digests(digests))
    }
}

/// The positions of digests, sorted by digest.
fn sorted(digests: &[OpDigest]) -> Vec<usize> {
    let start = |digest: &OpDigest| {
        let (start, _) = digest
            .as_bytes()
            .split_first_chunk()
            .expect("BUG: 32 is more than 8");
        u64::from_be_bytes(*start)
    };
    // Most differ in their first bytes.
    let mut starts: Vec<(u64, usize)> = digests.iter().map(start).zip(0..).collect();
    starts.sort_unstable_by(|(a, left), (b, right)| {
        a.cmp(b).then_with(|| digests[*left].cmp(&digests[*right]))
    });
    starts.into_iter().map(|(_, op)| op).collect()
}

fn write_op(vertex: &Vertex, op: &mut OpWriter<'_, '_>) -> Result<(), MarshalError> {
    match &vertex.op {
        VertexOp::Source(source) => source.write(op),
        VertexOp::Exec(exec) => exec.write(op),
        VertexOp::File(file) => file.write(op),
        VertexOp::Merge(inputs) => trees::merge(inputs, op),
        VertexOp::Diff(diff) => trees::diff(diff, op),
        VertexOp::Build(build) => trees::build(build, op),
        VertexOp::Passthrough(passthrough) => trees::passthrough(passthrough, op),
        VertexOp::Imported(_) | VertexOp::Deferred(_) => {
            unreachable!("BUG: imported ops are written as they are, deferred ones resolved")
        }
    }
}
