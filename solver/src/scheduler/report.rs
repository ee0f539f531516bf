//! What a solve returns.

use ashlar_llb::OpDigest;

use super::build::Build;
use crate::cache::{MissReason, SolvedKeys};
use crate::error::{Blame, Failure, Fault};
use crate::id::CacheKey;
use crate::operation::Import;
use crate::sync::Arc;

/// The outcome of a solve.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Solved<T> {
    /// One value per requested output, in order.
    pub values: Vec<T>,
    /// What happened to each vertex, by its index in the graph.
    pub report: Vec<VertexReport>,
    /// All outputs of vertices that are known in the end, those of inputs first.
    pub outputs: Vec<Output<T>>,
    /// What an export of cache records needs.
    pub trace: Trace<T>,
}

/// What is known of one output of a vertex.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output<T> {
    /// Index of the vertex in the graph.
    pub vertex: usize,
    /// Which output.
    pub output: u32,
    /// The key it was found under, or stored under if it can be; `None` if it is good for this
    /// solve only.
    pub key: Option<CacheKey>,
    /// Its value, if somebody needed it.
    pub value: Option<T>,
}

/// The keys and results that a solve came across. Holds the results.
#[derive(Debug, Clone)]
pub struct Trace<T> {
    build: Arc<Build<T>>,
    imports: Arc<[Import<T>]>,
}

impl<T: Clone> Trace<T> {
    pub(super) fn new(mut build: Build<T>, imports: Arc<[Import<T>]>) -> Self {
        build.forget_sources();
        let build = Arc::new(build);
        Self { build, imports }
    }

    /// The keys and results. `export` says of each vertex, by its index in the graph, whether its
    /// results may be exported.
    pub fn keys(&self, export: impl Fn(usize) -> Option<bool>) -> SolvedKeys<T> {
        let mut keys = self.build.keys();
        for (at, vertex) in keys.vertices.iter_mut().enumerate() {
            vertex.export = export(at);
        }
        let imports = self.imports.iter();
        keys.imports = imports.map(|import| Arc::clone(&import.records)).collect();
        keys
    }

    /// What the solve imported.
    pub fn imports(&self) -> &[Import<T>] {
        &self.imports
    }
}

/// What happened to one vertex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VertexReport {
    /// How it ended.
    pub status: VertexStatus,
    /// The key of its first known output: the stored one it matched, or the one its result was
    /// stored under. `None` if no key was needed.
    pub key: Option<CacheKey>,
    /// Whether the key is good beyond this solve.
    pub volatile: bool,
}

/// How a vertex ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum VertexStatus {
    /// No requested output needs it.
    #[default]
    Unreachable,
    /// It did not have to run: it, or what is made of it, was in the cache.
    Cached,
    /// An equal vertex of this or another solve ran for it.
    Shared,
    /// It is something that every solve has to look at, such as a local directory or a nested build
    /// that uses one, and it was looked at.
    Looked,
    /// It ran.
    Ran(MissReason),
}

/// Why a solve returned no result.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// It was cancelled.
    #[error("the solve was cancelled")]
    Cancelled,
    /// A vertex failed; what else ran was cancelled.
    #[error("{name}: {failure}")]
    Vertex {
        /// Index of the vertex in the graph.
        vertex: usize,
        /// Its digest.
        digest: OpDigest,
        /// Its display name.
        name: String,
        /// Why it failed.
        failure: Failure,
    },
    /// The graph breaks the rules that its loader should have checked.
    #[error("the graph is malformed: {reason}")]
    Malformed {
        /// Which rule.
        reason: String,
    },
}

impl Blame for SolveError {
    fn fault(&self) -> Fault {
        match self {
            Self::Vertex { failure, .. } => failure.fault(),
            Self::Cancelled => Fault::Input,
            Self::Malformed { .. } => Fault::Bug,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Vertex { failure, .. } => failure.remedy(),
            Self::Cancelled | Self::Malformed { .. } => None,
        }
    }
}
