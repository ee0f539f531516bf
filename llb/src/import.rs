//! Definitions taken back as states.
//!
//! Owns the vertices that keep the bytes, metadata and source maps they came with. Invariant:
//! marshalling writes them as they are, so that their digests stay the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::constraints::{OpConstraints, SourceLocation, SourceMap, SourceRange};
use crate::vertex::{Output, Port, Vertex, VertexOp};
use crate::{Definition, Graph, LoadError, Metadata, OpDigest, State, graph, pb};

/// An op that was read from a definition.
#[derive(Clone, Debug)]
pub(crate) struct Imported {
    pub(crate) digest: OpDigest,
    pub(crate) bytes: Bytes,
    pub(crate) inputs: Vec<Output>,
    /// What is said about it, as it came.
    pub(crate) metadata: Metadata,
}

impl Imported {
    /// Name in error messages.
    pub(crate) fn name(&self) -> String {
        let custom = self.metadata.description.get(pb::CUSTOM_NAME_KEY);
        let custom = custom.filter(|name| !name.is_empty());
        custom.cloned().unwrap_or_else(|| self.digest.to_string())
    }
}

/// Tells why a definition cannot be taken back as a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The definition is empty: it stands for scratch, which no op gives.
    #[error("the definition is empty; what it stands for is scratch()")]
    Empty,
    /// The definition is not a graph.
    #[error("the definition is not valid")]
    Load {
        /// What is wrong with it.
        #[source]
        source: LoadError,
    },
    /// The definition of a state that a source file was read from cannot be used.
    #[error("the definition embedded for the source file {file:?} is not valid")]
    SourceFile {
        /// Name of the file.
        file: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl State {
    /// Continues from the result of a definition, with fresh settings and, as in BuildKit,
    /// without its platform. Ops, metadata and source maps stay as they are, whatever is asked
    /// when the new state is marshalled.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::{Constraints, Platform, State};
    ///
    /// let constraints = Constraints::new(Platform::linux_amd64());
    /// let definition = llb::image("alpine").marshal(&constraints)?;
    /// let again = State::from_definition(&definition)?;
    /// assert_eq!(again.marshal(&constraints)?, definition);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If the definition does not load as a [`Graph`], or one embedded in its source maps does
    /// not; and, as in BuildKit, if it is empty ([`scratch`](crate::scratch) is what marshals to
    /// an empty definition).
    pub fn from_definition(definition: &Definition) -> Result<Self, ImportError> {
        let graph = Graph::load(definition).map_err(|source| ImportError::Load { source })?;
        let Some(head) = graph.head() else {
            return Err(ImportError::Empty);
        };
        let mut maps = Maps::default();
        let mut outputs: HashMap<graph::Edge, Output> = HashMap::new();
        for (edge, vertex) in used_edges(&graph, head) {
            let mut locations = Vec::new();
            for location in vertex.locations() {
                locations.push(maps.location(&location)?);
            }
            let inputs = vertex.inputs().iter().map(|input| outputs[input].clone());
            let imported = Imported {
                digest: vertex.digest(),
                bytes: vertex.raw().clone(),
                inputs: inputs.collect(),
                metadata: vertex.serialised_metadata().clone(),
            };
            let mut constraints = OpConstraints::default();
            if !locations.is_empty() {
                constraints.more_mut().locations = locations;
            }
            let output = Output {
                vertex: Arc::new(Vertex {
                    op: VertexOp::Imported(Box::new(imported)),
                    constraints,
                }),
                port: Port::Index(edge.output),
                platform: None,
            };
            outputs.insert(edge, output);
        }
        Ok(Self::new(outputs.remove(&head)))
    }
}

/// Every output that is used, inputs before their users, the head last.
fn used_edges(
    graph: &Graph,
    head: graph::Edge,
) -> impl Iterator<Item = (graph::Edge, &graph::Vertex)> {
    let mut edges: BTreeMap<graph::Edge, ()> = BTreeMap::from([(head, ())]);
    for vertex in graph.vertices() {
        edges.extend(vertex.inputs().iter().map(|edge| (*edge, ())));
    }
    edges
        .into_keys()
        .map(|edge| (edge, graph.vertex(edge.vertex)))
}

/// The source files of a definition, each made once.
#[derive(Default)]
struct Maps {
    known: Vec<(pb::SourceInfo, SourceMap)>,
}

impl Maps {
    fn location(
        &mut self,
        location: &graph::SourceLocation<'_>,
    ) -> Result<SourceLocation, ImportError> {
        let info = location.info();
        let known = self.known.iter().find(|(known, _)| known == info);
        let map = match known {
            Some((_, map)) => map.clone(),
            None => {
                let map = source_map(info)?;
                self.known.push((info.clone(), map.clone()));
                map
            }
        };
        Ok(map.location(location.ranges().iter().map(SourceRange::from_message)))
    }
}

fn source_map(info: &pb::SourceInfo) -> Result<SourceMap, ImportError> {
    let map = SourceMap::new(&info.filename, &info.language, info.data.clone());
    let Some(message) = &info.definition else {
        return Ok(map);
    };
    let invalid = |source| ImportError::SourceFile {
        file: info.filename.clone(),
        source,
    };
    let definition = Definition::from_message(message.clone());
    let definition = definition.map_err(|source| invalid(source.into()))?;
    let state = State::from_definition(&definition).map_err(|source| invalid(source.into()))?;
    Ok(map.read_from(state))
}
