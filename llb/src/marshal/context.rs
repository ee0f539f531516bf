//! What is known while a graph is written: the constraints, and the vertices written so far.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::deferred::Resolver;
use crate::digest::OpPositions;
use crate::state::Settings;
use crate::vertex::{Output, Port, Vertex};
use crate::{Constraints, MarshalError, OpDigest};

/// What an op needs to know to be written.
#[derive(Debug)]
pub(crate) struct MarshalContext<'a> {
    pub(super) constraints: &'a Constraints,
    resolver: Resolver<'a>,
    /// The positions in `digests` of the vertices written so far, by identity.
    written: HashMap<*const Vertex, u32>,
    /// The digests of the ops written so far.
    digests: Vec<OpDigest>,
    positions: OpPositions,
    /// What stands for vertices that had nothing left to do once their inputs were known.
    aliases: HashMap<*const Vertex, Option<Output>>,
}

impl<'a> MarshalContext<'a> {
    pub(super) fn new(constraints: &'a Constraints, resolver: Resolver<'a>) -> Self {
        Self {
            constraints,
            resolver,
            written: HashMap::new(),
            digests: Vec::new(),
            positions: OpPositions::default(),
            aliases: HashMap::new(),
        }
    }

    /// The settings behind deferred ones.
    pub(crate) fn values<'v>(
        &self,
        values: &'v Settings,
    ) -> Result<Cow<'v, Settings>, MarshalError> {
        if values.later.is_none() {
            return Ok(Cow::Borrowed(values));
        }
        self.resolver.values(values).map(Cow::Owned)
    }

    /// The output that is written for `output`; nothing for scratch.
    pub(super) fn target<'o>(
        &self,
        output: &'o Output,
    ) -> Result<Option<Cow<'o, Output>>, MarshalError> {
        if self.aliases.is_empty() && !output.vertex.is_deferred() {
            return Ok(Some(Cow::Borrowed(output)));
        }
        let mut target = self.resolver.output(output)?;
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
        Ok(target.map(Cow::Owned))
    }

    /// The vertex that is written for one; nothing for scratch.
    pub(super) fn target_vertex(
        &self,
        vertex: Arc<Vertex>,
    ) -> Result<Option<Arc<Vertex>>, MarshalError> {
        if self.aliases.is_empty() && !vertex.is_deferred() {
            return Ok(Some(vertex));
        }
        // Which of the outputs is asked for does not matter here.
        let output = Output {
            vertex,
            port: Port::Index(0),
            platform: None,
        };
        let target = self.target(&output)?;
        Ok(target.map(|output| output.into_owned().vertex))
    }

    /// What an input that uses `output` says: the digest of an op and the number of its output.
    /// Nothing for scratch. `user` names who uses it.
    pub(super) fn reference(
        &self,
        output: &Output,
        user: impl FnOnce() -> String,
    ) -> Result<Option<(OpDigest, i64)>, MarshalError> {
        let Some(output) = self.target(output)? else {
            return Ok(None);
        };
        match &output.port {
            Port::Index(index) => {
                let vertex: *const Vertex = &*output.vertex;
                let digest = self.digests[self.written[&vertex] as usize];
                Ok(Some((digest, (*index).into())))
            }
            Port::Unusable(source) => Err(MarshalError::Unusable {
                step: user(),
                maker: output.vertex.name(),
                source: (**source).clone(),
            }),
        }
    }

    /// Tells whether a vertex was written.
    pub(super) fn is_written(&self, vertex: &Vertex) -> bool {
        let vertex: *const Vertex = vertex;
        self.written.contains_key(&vertex)
    }

    /// The digests of the ops that were written.
    pub(super) fn into_digests(self) -> Vec<OpDigest> {
        self.digests
    }

    /// Notes which op a vertex is, and returns its position and whether it is a new one.
    pub(super) fn add(&mut self, vertex: &Vertex, digest: OpDigest) -> (usize, bool) {
        let (digests, next) = (&self.digests, self.digests.len());
        let added = self.positions.add(digest, next, |at| digests[at]);
        let position = added.map_or_else(|known| known, |()| next);
        if added.is_ok() {
            self.digests.push(digest);
        }
        let number = u32::try_from(position).expect("BUG: positions fit into the table of them");
        self.written.insert(vertex, number);
        (position, added.is_ok())
    }

    /// Notes what stands for a vertex.
    pub(super) fn alias(&mut self, vertex: &Vertex, output: Option<Output>) {
        self.aliases.insert(vertex, output);
    }
}
