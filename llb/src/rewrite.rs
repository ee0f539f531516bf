//! Definitions changed without being built anew.
//!
//! Owns [`Definition::rewrite`]. Invariants: an op that nothing happened to keeps its bytes, and
//! one of which only inputs changed keeps all others, also fields that this crate does not
//! know; metadata and places in the source follow their vertex to its new digest; the outcome
//! loads as a [`Graph`]. Rewriting nothing gives the same definition.

mod splice;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::constraints::merge_metadata;
use crate::pb::op::Op;
use crate::wire::WireError;
use crate::{
    BlobDigest, Definition, Edge, Graph, LoadError, Metadata, OpDigest, SourceMaps, Vertex, encode,
    pb,
};
use splice::NewInput;

/// What happens to one vertex of a definition.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rewrite {
    /// The vertex stays; if vertices below it change, so does its digest.
    Keep,
    /// The vertex goes, and its users get what it started from: the input that is mounted where
    /// an exec's output comes from, what a file action changes, the first input of a merge,
    /// the upper side of a diff, the input that a passthrough hands on.
    Drop,
    /// The vertex does something else with the same inputs. Platform, worker filters and
    /// metadata stay.
    Replace(Box<Op>),
    /// The source gets another identifier; everything else in it stays as it is.
    Identifier(String),
}

impl Rewrite {
    /// Pins an image to a manifest, if the vertex is an image (`docker-image`, `oci-layout`);
    /// otherwise keeps it. A digest that was there is replaced.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{BlobDigest, Constraints, Graph, Platform, Rewrite};
    ///
    /// let made = llb::image("alpine:3.20").run(["true"]).root();
    /// let definition = made.marshal(&Constraints::new(Platform::linux_amd64()))?;
    /// let manifest = BlobDigest::of(b"what the registry said");
    /// let pinned = definition.rewrite(|vertex| Rewrite::pin(vertex, manifest))?;
    /// assert_eq!(
    ///     Graph::load(&pinned)?.vertices()[0].name(),
    ///     format!("docker-image://docker.io/library/alpine:3.20@{manifest}"),
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn pin(vertex: &Vertex, manifest: BlobDigest) -> Self {
        match vertex.op() {
            Op::Source(source)
                if source.identifier.starts_with("docker-image://")
                    || source.identifier.starts_with("oci-layout://") =>
            {
                let name = source.identifier.split('@').next().unwrap_or_default();
                Self::Identifier(format!("{name}@{manifest}"))
            }
            _ => Self::Keep,
        }
    }
}

/// Tells why a definition cannot be rewritten so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The definition is not a graph.
    #[error("the definition is not valid")]
    Load {
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
    /// A vertex that is to go did not start from another one.
    #[error("op {vertex} cannot be dropped: its output {output} starts from nothing")]
    NothingBelow {
        /// The vertex.
        vertex: OpDigest,
        /// The output that is used.
        output: u32,
    },
    /// A vertex that is not a source was to get an identifier.
    #[error("op {vertex} is not a source and has no identifier")]
    NotASource {
        /// The vertex.
        vertex: OpDigest,
    },
    /// The bytes of an op cannot be taken apart.
    #[error("op {vertex} is malformed")]
    Wire {
        /// The vertex.
        vertex: OpDigest,
        /// What is wrong.
        #[source]
        source: WireError,
    },
    /// The rewritten definition is not a graph.
    #[error("the rewritten definition is not valid")]
    Outcome {
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
}

/// What became of a vertex.
struct Rewritten {
    digest: OpDigest,
    raw: Bytes,
    inputs: Vec<Place>,
}

/// An output of a vertex that stays, by its position in the old graph.
#[derive(Clone, Copy)]
struct Place {
    vertex: usize,
    output: u32,
}

impl Definition {
    /// Drops, replaces or pins vertices: `decide` is asked for each, inputs before their users.
    ///
    /// The digests of all users are made anew. What nothing needs any more is left out. The
    /// definitions inside build ops and source maps stay as they are.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{Constraints, Graph, Platform, Rewrite, pb::op::Op};
    ///
    /// let made = llb::image("alpine").run(["true"]).root().run(["make"]).root();
    /// let definition = made.marshal(&Constraints::new(Platform::linux_amd64()))?;
    /// let shorter = definition.rewrite(|vertex| match vertex.name() {
    ///     "true" => Rewrite::Drop,
    ///     _ => Rewrite::Keep,
    /// })?;
    /// let names: Vec<_> = Graph::load(&shorter)?
    ///     .vertices()
    ///     .iter()
    ///     .map(|vertex| vertex.name().to_owned())
    ///     .collect();
    /// assert_eq!(names, ["docker-image://docker.io/library/alpine:latest", "make"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`RewriteError`].
    pub fn rewrite(
        &self,
        mut decide: impl FnMut(&Vertex) -> Rewrite,
    ) -> Result<Self, RewriteError> {
        let graph = Graph::load(self).map_err(|source| RewriteError::Load { source })?;
        let Some(head) = graph.head() else {
            return Ok(self.clone());
        };
        let mut done: Vec<Option<Rewritten>> = Vec::with_capacity(graph.vertices().len());
        // Where the outputs of dropped vertices lead.
        let mut moved: HashMap<Edge, Place> = HashMap::new();
        let mut dropped = vec![false; graph.vertices().len()];
        let mut changed = false;
        for (position, vertex) in graph.vertices().iter().enumerate() {
            let decision = decide(vertex);
            changed |= decision != Rewrite::Keep;
            if decision == Rewrite::Drop {
                dropped[position] = true;
                done.push(None);
                continue;
            }
            let mut inputs = Vec::with_capacity(vertex.inputs().len());
            for edge in vertex.inputs() {
                inputs.push(place(&graph, &dropped, &mut moved, *edge)?);
            }
            done.push(Some(rewritten(vertex, decision, inputs, &done)?));
        }
        if !changed {
            return Ok(self.clone());
        }
        let head = place(&graph, &dropped, &mut moved, head)?;
        let outcome = self.assembled(&graph, &done, head)?;
        Graph::load(&outcome).map_err(|source| RewriteError::Outcome { source })?;
        Ok(outcome)
    }

    /// Puts the definition together from what became of its vertices.
    fn assembled(
        &self,
        graph: &Graph,
        done: &[Option<Rewritten>],
        head: Place,
    ) -> Result<Self, RewriteError> {
        let needed = needed(done, head.vertex);
        let Some((terminal, others)) = self.ops().split_last() else {
            return Ok(self.clone());
        };
        let old_terminal = OpDigest::of(terminal);
        let head = new_input(done, head);
        let malformed = |source| RewriteError::Wire {
            vertex: old_terminal,
            source,
        };
        let terminal = Bytes::from(splice::with_inputs(terminal, &[head]).map_err(malformed)?);
        let mut renamed = HashMap::from([(old_terminal, Some(OpDigest::of(&terminal)))]);
        let mut ops = Vec::with_capacity(self.ops().len());
        let mut written = std::collections::HashSet::new();
        for raw in others {
            let old = OpDigest::of(raw);
            let found = graph.find(&old).map(|index| index.index());
            let found = found.filter(|position| needed[*position]);
            let found = found.and_then(|position| done[position].as_ref());
            renamed
                .entry(old)
                .or_insert(found.map(|rewritten| rewritten.digest));
            if let Some(rewritten) = found
                && written.insert(rewritten.digest)
            {
                ops.push(rewritten.raw.clone());
            }
        }
        ops.push(terminal);
        // What belongs to no op at all stays; what belongs to one that went goes with it.
        let new_name = |digest: OpDigest| renamed.get(&digest).copied().unwrap_or(Some(digest));
        let mut metadata: BTreeMap<OpDigest, Metadata> = BTreeMap::new();
        for (digest, said) in self.metadata().iter() {
            let Some(digest) = new_name(digest) else {
                continue;
            };
            match metadata.entry(digest) {
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(said.clone());
                }
                std::collections::btree_map::Entry::Occupied(mut slot) => {
                    let mut joined = (**slot.get()).clone();
                    merge_metadata(&mut joined, said);
                    slot.insert(Metadata::from(&joined));
                }
            }
        }
        let source = self.source().map(|source| {
            let renamed = splice::with_locations(source.raw(), new_name);
            renamed.map(|raw| SourceMaps::checked(raw.into()))
        });
        let source = source.transpose().map_err(malformed)?;
        Ok(Self::from_parts(
            ops,
            metadata.into_iter().collect(),
            source,
        ))
    }
}

/// What became of an output: itself, or what the vertex that made it had started from.
fn place(
    graph: &Graph,
    dropped: &[bool],
    moved: &mut HashMap<Edge, Place>,
    edge: Edge,
) -> Result<Place, RewriteError> {
    let mut at = edge;
    let mut way = Vec::new();
    let found = loop {
        if let Some(known) = moved.get(&at) {
            break *known;
        }
        if !dropped[at.vertex.index()] {
            break Place {
                vertex: at.vertex.index(),
                output: at.output,
            };
        }
        way.push(at);
        let vertex = graph.vertex(at.vertex);
        let below = start_of(vertex, at.output).and_then(|input| vertex.inputs().get(input));
        at = *below.ok_or_else(|| RewriteError::NothingBelow {
            vertex: vertex.digest(),
            output: at.output,
        })?;
    };
    moved.extend(way.into_iter().map(|edge| (edge, found)));
    Ok(found)
}

/// The position of the input that an output starts from.
fn start_of(vertex: &Vertex, output: u32) -> Option<usize> {
    let output = i64::from(output);
    let position = match vertex.op() {
        Op::Source(_) | Op::Build(_) => return None,
        Op::Exec(exec) => {
            let kinds = [pb::MountType::Bind, pb::MountType::Cache].map(i32::from);
            let mut mounts = exec.mounts.iter();
            let mount =
                mounts.find(|mount| mount.output == output && kinds.contains(&mount.mount_type));
            mount?.input
        }
        Op::File(file) => {
            let inputs = i64::try_from(vertex.inputs().len()).ok()?;
            let mut action = file.actions.iter().find(|action| action.output == output)?;
            // Actions start from earlier ones only, so this ends.
            while action.input >= inputs {
                let before = usize::try_from(action.input - inputs).ok()?;
                action = file.actions.get(before)?;
            }
            action.input
        }
        Op::Merge(_) => 0,
        Op::Diff(diff) => diff.upper?.input,
        Op::Passthrough(passthrough) => *passthrough.outputs.get(usize::try_from(output).ok()?)?,
    };
    usize::try_from(position).ok()
}

fn new_input(done: &[Option<Rewritten>], place: Place) -> NewInput {
    let made = done[place.vertex].as_ref();
    NewInput {
        digest: made.expect("BUG: places are at vertices that stay").digest,
        output: place.output,
    }
}

fn rewritten(
    vertex: &Vertex,
    decision: Rewrite,
    inputs: Vec<Place>,
    done: &[Option<Rewritten>],
) -> Result<Rewritten, RewriteError> {
    let digest = vertex.digest();
    let malformed = |source| RewriteError::Wire {
        vertex: digest,
        source,
    };
    let new_inputs: Vec<NewInput> = inputs.iter().map(|at| new_input(done, *at)).collect();
    let raw = splice::with_inputs(vertex.raw(), &new_inputs).map_err(malformed)?;
    let raw = match decision {
        Rewrite::Keep | Rewrite::Drop => raw,
        Rewrite::Replace(op) => splice::with_op(&raw, &op).map_err(malformed)?,
        Rewrite::Identifier(identifier) => match vertex.op() {
            Op::Source(_) => splice::with_identifier(&raw, &identifier).map_err(malformed)?,
            _ => return Err(RewriteError::NotASource { vertex: digest }),
        },
    };
    if raw == *vertex.raw() {
        let raw = vertex.raw().clone();
        return Ok(Rewritten {
            digest,
            raw,
            inputs,
        });
    }
    Ok(Rewritten {
        digest: OpDigest::of(&raw),
        raw: raw.into(),
        inputs,
    })
}

/// Which vertices lead to `head`.
fn needed(done: &[Option<Rewritten>], head: usize) -> Vec<bool> {
    let mut needed = vec![false; done.len()];
    needed[head] = true;
    // Inputs come before their users.
    for position in (0..done.len()).rev() {
        if let (true, Some(rewritten)) = (needed[position], &done[position]) {
            rewritten
                .inputs
                .iter()
                .for_each(|input| needed[input.vertex] = true);
        }
    }
    needed
}

/// The canonical bytes of what an op does.
fn op_bytes(op: &Op) -> Vec<u8> {
    encode::op_bytes(&pb::Op {
        op: Some(op.clone()),
        ..pb::Op::default()
    })
}
