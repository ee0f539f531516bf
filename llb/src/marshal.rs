//! Marshalling: from a state to the definition of its graph.
//!
//! Owns the walk, the order of the definition, and how vertices of equal bytes are joined.
//! Invariants: inputs are written before their use; each op is written once; the walk takes no
//! more stack for a long chain than for a short one. How an op is written is for its module.

mod error;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

pub use error::MarshalError;

use crate::constraints::{OpConstraints, SourceMapCollector, extend, merge_metadata};
use crate::deferred::Resolver;
use crate::state::Values;
use crate::vertex::{Output, Port, Unusable, Vertex, VertexOp};
use crate::{Constraints, Definition, GuestPath, Metadata, OpDigest, encode, pb};

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
        context: MarshalContext {
            constraints,
            resolver,
            digests: HashMap::new(),
            aliases: HashMap::new(),
        },
        description: constraints.defaults.metadata.description.clone(),
        written: HashMap::new(),
        ops: Vec::new(),
        bytes: Vec::new(),
        said: Vec::new(),
        sources: SourceMapCollector::default(),
    };
    marshaller.walk(Arc::clone(&output.vertex))?;
    marshaller.finish(&output)
}

/// The name of a run step: its command line, cut to a readable length.
pub(crate) fn run_name(args: &[String]) -> String {
    crate::digest::excerpt(&args.join(" "))
}

/// What an op needs to know to be written.
#[derive(Debug)]
pub(crate) struct MarshalContext<'a> {
    pub(crate) constraints: &'a Constraints,
    resolver: Resolver<'a>,
    /// Digests of the vertices written so far, by identity.
    digests: HashMap<*const Vertex, OpDigest>,
    /// What stands for vertices that had nothing left to do once their inputs were known.
    aliases: HashMap<*const Vertex, Option<Output>>,
}

impl MarshalContext<'_> {
    /// Wraps what an op does with its inputs, its platform and the worker filters.
    pub(crate) fn op(
        &self,
        op: pb::op::Op,
        inputs: Vec<pb::Input>,
        own: &OpConstraints,
        has_platform: bool,
    ) -> pb::Op {
        let mut filter = self.constraints.defaults.filters.clone();
        filter.extend_from_slice(&own.filters);
        let platform = own.platform.as_ref().unwrap_or(&self.constraints.platform);
        pb::Op {
            inputs,
            op: Some(op),
            platform: has_platform.then(|| platform.into()),
            constraints: Some(pb::WorkerConstraints { filter }),
        }
    }

    /// Writes a reference to an output, as an input of `user`; nothing for scratch.
    pub(crate) fn input(
        &self,
        output: &Output,
        user: &Vertex,
    ) -> Result<Option<pb::Input>, MarshalError> {
        self.reference(output, || user.name())
    }

    /// The settings behind deferred ones.
    pub(crate) fn values(&self, values: &Arc<Values>) -> Result<Arc<Values>, MarshalError> {
        self.resolver.values(values)
    }

    /// The output that is written for `output`; nothing for scratch.
    fn target(&self, output: &Output) -> Result<Option<Output>, MarshalError> {
        let mut target = self.resolver.output(output)?;
        if self.aliases.is_empty() {
            return Ok(target);
        }
        while let Some(output) = &target {
            let vertex: *const Vertex = &*output.vertex;
            let Some(alias) = self.aliases.get(&vertex) else {
                break;
            };
            target = match alias {
                Some(output) => self.resolver.output(output)?,
                None => None,
            };
        }
        Ok(target)
    }

    fn reference(
        &self,
        output: &Output,
        user: impl FnOnce() -> String,
    ) -> Result<Option<pb::Input>, MarshalError> {
        let Some(output) = self.target(output)? else {
            return Ok(None);
        };
        let index = match (&output.port, &output.vertex.op) {
            (Port::Index(index), _) => *index,
            (Port::Mount(mount), VertexOp::Exec(exec)) => exec.output_index(*mount),
            (Port::Mount(_), _) => unreachable!("BUG: only execs have mounts"),
            (Port::Unusable(source), _) => {
                return Err(MarshalError::Unusable {
                    step: user(),
                    maker: output.vertex.name(),
                    source: source.clone(),
                });
            }
        };
        let vertex: *const Vertex = &*output.vertex;
        let digest = self.digests[&vertex];
        Ok(Some(pb::Input {
            digest: digest.to_text(),
            index,
        }))
    }
}

/// The inputs of an op, each once.
#[derive(Debug, Default)]
pub(crate) struct InputList {
    inputs: Vec<pb::Input>,
    /// Kept only for lists that take long to search.
    positions: HashMap<pb::Input, i64>,
}

/// From this length on, a list is searched through a map.
const LONG: usize = 16;

impl InputList {
    /// Adds an input, or finds it, and returns its position.
    pub(crate) fn add(&mut self, input: pb::Input) -> i64 {
        let position = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
        let next = position(self.inputs.len());
        if self.inputs.len() < LONG {
            let known = self.inputs.iter().position(|known| *known == input);
            return known.map_or_else(
                || {
                    self.inputs.push(input);
                    next
                },
                position,
            );
        }
        if self.positions.is_empty() {
            let known = self.inputs.iter().cloned();
            self.positions = known.zip(0..).collect();
        }
        *self.positions.entry(input).or_insert_with_key(|input| {
            self.inputs.push(input.clone());
            next
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.inputs.len()
    }

    pub(crate) fn into_vec(self) -> Vec<pb::Input> {
        self.inputs
    }
}

/// A vertex whose inputs are being written.
struct Frame {
    vertex: Arc<Vertex>,
    inputs: std::vec::IntoIter<Output>,
}

impl Frame {
    fn new(vertex: Arc<Vertex>) -> Self {
        let inputs: Vec<Output> = vertex.inputs().into_iter().cloned().collect();
        Self {
            vertex,
            inputs: inputs.into_iter(),
        }
    }
}

/// The bytes of an op.
enum Written {
    /// Imported.
    Elsewhere(Bytes),
    /// In [`Marshaller::bytes`].
    Here(Range<usize>),
}

/// What is said of an op.
struct Said {
    digest: OpDigest,
    metadata: pb::OpMetadata,
    caps: Vec<&'static str>,
}

struct Marshaller<'a> {
    context: MarshalContext<'a>,
    /// Descriptions that hold for all ops. As in BuildKit, if there are any, those of ops
    /// written so far are among them.
    description: BTreeMap<String, String>,
    /// Positions in `said` of the ops written so far.
    written: HashMap<OpDigest, usize>,
    ops: Vec<Written>,
    /// The bytes of all ops that were written here, one behind the other.
    bytes: Vec<u8>,
    said: Vec<Said>,
    sources: SourceMapCollector,
}

impl Marshaller<'_> {
    fn walk(&mut self, root: Arc<Vertex>) -> Result<(), MarshalError> {
        let mut stack = vec![Frame::new(root)];
        while let Some(top) = stack.last_mut() {
            if let Some(input) = top.inputs.next() {
                let Some(input) = self.context.target(&input)? else {
                    continue;
                };
                let identity: *const Vertex = &*input.vertex;
                if !self.context.digests.contains_key(&identity) {
                    stack.push(Frame::new(input.vertex));
                }
            } else if let Some(done) = stack.pop() {
                self.write(&done.vertex)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, vertex: &Vertex) -> Result<(), MarshalError> {
        let (digest, op, metadata, caps) = if let VertexOp::Imported(imported) = &vertex.op {
            let metadata = vertex.constraints.metadata.clone();
            let op = Written::Elsewhere(imported.bytes.clone());
            (imported.digest, op, metadata, Vec::new())
        } else {
            if let Some(alias) = self.nothing_to_do(vertex)? {
                self.context.aliases.insert(vertex, alias);
                return Ok(());
            }
            let mut constraints = vertex.constraints.clone();
            let op = self.op(vertex, &mut constraints)?;
            let start = self.bytes.len();
            encode::append_op(&op, &mut self.bytes);
            let digest = OpDigest::of(&self.bytes[start..]);
            let op = Written::Here(start..self.bytes.len());
            let metadata = self.joined(constraints.metadata);
            (digest, op, metadata, constraints.caps)
        };
        self.context.digests.insert(vertex, digest);
        self.sources.add(digest, &vertex.constraints.locations);
        match self.written.entry(digest) {
            Entry::Occupied(known) => {
                let said = &mut self.said[*known.get()];
                merge_metadata(&mut said.metadata, &metadata);
                said.caps.extend(caps);
                said.caps.sort_unstable();
                said.caps.dedup();
                if let Written::Here(again) = op {
                    self.bytes.truncate(again.start);
                }
            }
            Entry::Vacant(new) => {
                new.insert(self.said.len());
                self.said.push(Said {
                    digest,
                    metadata,
                    caps,
                });
                self.ops.push(op);
            }
        }
        Ok(())
    }

    /// What stands for a merge or difference of which deferred inputs turned out to be scratch,
    /// if there is nothing left to do. The constructors see to inputs that were known then.
    fn nothing_to_do(&self, vertex: &Vertex) -> Result<Option<Option<Output>>, MarshalError> {
        match &vertex.op {
            VertexOp::Merge { inputs } => {
                let mut left = Vec::with_capacity(inputs.len());
                for input in inputs {
                    left.extend(self.context.target(input)?);
                }
                Ok((left.len() < 2).then(|| left.pop()))
            }
            VertexOp::Diff {
                lower: Some(lower),
                upper,
            } if self.context.target(lower)?.is_none() => Ok(Some(upper.clone())),
            _ => Ok(None),
        }
    }

    /// The metadata of an op with the defaults of the definition.
    fn joined(&mut self, own: pb::OpMetadata) -> pb::OpMetadata {
        let defaults = &self.context.constraints.defaults.metadata;
        if *defaults == pb::OpMetadata::default() {
            return own;
        }
        let mut metadata = defaults.clone();
        if !self.description.is_empty() {
            extend(&mut self.description, &own.description);
            metadata.description.clone_from(&self.description);
        }
        merge_metadata(&mut metadata, &own);
        metadata
    }

    fn op(&self, vertex: &Vertex, constraints: &mut OpConstraints) -> Result<pb::Op, MarshalError> {
        let context = &self.context;
        // Scratch is left out.
        let inputs = |outputs: &[Output]| -> Result<Vec<pb::Input>, MarshalError> {
            let inputs = outputs.iter();
            let inputs = inputs.filter_map(|output| context.input(output, vertex).transpose());
            inputs.collect()
        };
        match &vertex.op {
            VertexOp::Source(source) => source.write(vertex, context, constraints),
            VertexOp::Exec(exec) => exec.write(vertex, context, constraints),
            VertexOp::File(file) => file.write(vertex, context, constraints),
            VertexOp::Merge { inputs: outputs } => {
                let inputs = inputs(outputs)?;
                let positions = (0..).take(inputs.len());
                let merge = pb::MergeOp {
                    inputs: positions.map(|input| pb::MergeInput { input }).collect(),
                };
                Ok(context.op(pb::op::Op::Merge(merge), inputs, constraints, false))
            }
            VertexOp::Diff { lower, upper } => {
                let mut list = Vec::new();
                let mut add = |side: &Option<Output>| -> Result<i64, MarshalError> {
                    let input = side.as_ref().map(|output| context.input(output, vertex));
                    let Some(input) = input.transpose()?.flatten() else {
                        return Ok(pb::EMPTY);
                    };
                    list.push(input);
                    Ok(i64::try_from(list.len() - 1).unwrap_or(i64::MAX))
                };
                let lower = pb::LowerDiffInput { input: add(lower)? };
                let upper = pb::UpperDiffInput { input: add(upper)? };
                let diff = pb::DiffOp {
                    lower: Some(lower),
                    upper: Some(upper),
                };
                Ok(context.op(pb::op::Op::Diff(diff), list, constraints, false))
            }
            VertexOp::Build { input, filename } => {
                let input = input.as_ref().map(|output| context.input(output, vertex));
                let Some(input) = input.transpose()?.flatten() else {
                    return Err(MarshalError::NoInput {
                        step: vertex.name(),
                    });
                };
                let inputs = vec![input];
                let build = build_op(filename);
                Ok(context.op(pb::op::Op::Build(build), inputs, constraints, true))
            }
            VertexOp::Passthrough {
                id,
                inputs: outputs,
                outputs: handed_on,
            } => {
                let inputs = inputs(outputs)?;
                if inputs.len() != outputs.len() {
                    return Err(MarshalError::NoInput {
                        step: vertex.name(),
                    });
                }
                let passthrough = passthrough_op(vertex, id, outputs, handed_on)?;
                let op = pb::op::Op::Passthrough(passthrough);
                Ok(context.op(op, inputs, constraints, false))
            }
            VertexOp::Imported(_) | VertexOp::Deferred(_) => {
                unreachable!("BUG: imported ops are written as they are, deferred ones resolved")
            }
        }
    }

    /// Adds the terminal op, its metadata and the source maps.
    fn finish(mut self, output: &Output) -> Result<Definition, MarshalError> {
        let input = self.context.reference(output, || "the result".to_owned())?;
        let Some(input) = input else {
            return Ok(Definition::default());
        };
        let op = pb::Op {
            inputs: vec![input],
            ..pb::Op::default()
        };
        let start = self.bytes.len();
        encode::append_op(&op, &mut self.bytes);
        let digest = OpDigest::of(&self.bytes[start..]);
        self.ops.push(Written::Here(start..self.bytes.len()));
        let mut caps = vec!["constraints", "platform"];
        let any = |test: fn(&pb::OpMetadata) -> bool| {
            let mut all = self.said.iter();
            all.any(|said| test(&said.metadata))
        };
        if any(|said| said.ignore_cache) {
            caps.push("meta.ignorecache");
        }
        if any(|said| !said.description.is_empty()) {
            caps.push("meta.description");
        }
        if any(|said| said.export_cache.is_some()) {
            caps.push("meta.exportcache");
        }
        caps.sort_unstable();
        self.said.push(Said {
            digest,
            metadata: pb::OpMetadata::default(),
            caps,
        });
        let source = self.sources.finish(self.context.constraints)?;
        let bytes = Bytes::from(self.bytes);
        let ops = self.ops.into_iter().map(|op| match op {
            Written::Elsewhere(op) => op,
            Written::Here(range) => bytes.slice(range),
        });
        let ops = ops.collect();
        Ok(Definition::from_parts(
            ops,
            metadata(&self.said),
            Some(source),
        ))
    }
}

/// Serialises what is said of each op.
fn metadata(said: &[Said]) -> BTreeMap<OpDigest, Metadata> {
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(said.len());
    for said in said {
        encode::append_metadata(&said.metadata, &said.caps, &mut bytes);
        ends.push(bytes.len());
    }
    let (bytes, mut start) = (Bytes::from(bytes), 0);
    let said = said.iter().zip(ends).map(|(said, end)| {
        let raw = bytes.slice(start..end);
        start = end;
        (said.digest, Metadata::checked(raw))
    });
    let mut said: Vec<_> = said.collect();
    said.sort_unstable_by_key(|(digest, _)| *digest);
    said.into_iter().collect()
}

fn build_op(filename: &str) -> pb::BuildOp {
    let input = (
        pb::LLB_DEFINITION_INPUT.to_owned(),
        pb::BuildInput { input: 0 },
    );
    let mut attrs = BTreeMap::new();
    if !filename.is_empty() {
        attrs.insert("llbbuild.filename".to_owned(), filename.to_owned());
    }
    pb::BuildOp {
        builder: pb::LLB_BUILDER,
        inputs: BTreeMap::from([input]),
        attrs,
        ..pb::BuildOp::default()
    }
}

fn passthrough_op(
    vertex: &Vertex,
    id: &str,
    inputs: &[Output],
    outputs: &[usize],
) -> Result<pb::PassthroughOp, MarshalError> {
    let step = || vertex.name();
    if inputs.is_empty() {
        return Err(MarshalError::NoInput { step: step() });
    }
    if id.is_empty() {
        return Err(MarshalError::NoPassthroughId { step: step() });
    }
    if outputs.is_empty() {
        return Err(MarshalError::Unusable {
            step: step(),
            maker: step(),
            source: Unusable::NoOutputIndex { index: 0 },
        });
    }
    let position = |input: &usize| i64::try_from(*input).unwrap_or(i64::MAX);
    Ok(pb::PassthroughOp {
        id: id.to_owned(),
        outputs: outputs.iter().map(position).collect(),
    })
}

/// Fails if no tree can have the path.
pub(crate) fn check_path(path: &GuestPath, vertex: &Vertex) -> Result<(), MarshalError> {
    if path.is_impossible() {
        return Err(MarshalError::Path {
            step: vertex.name(),
            path: path.clone(),
        });
    }
    Ok(())
}
