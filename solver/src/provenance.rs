//! What a result was made of, and how: collected while a solve runs, for provenance attestations.
//!
//! Owns [`Provenance`], and listens to the events of a solve for it. It tells what really happened:
//! what references of images led to, which vertices ran, when and with what. No secret that a caller
//! lends and no path of the caller is in it; addresses are as the definition has them.
//!
//! Leaves to others: the documents that are made of it, which mask passwords in addresses
//! (`ashlar-exporters`).

mod recorder;

use std::time::SystemTime;

use ashlar_llb::{BlobDigest, Definition, OpDigest, Platform};

use crate::id::{CacheKey, LayerId};
use crate::meta::LayerBlob;
use crate::progress::Usage;

pub(crate) use recorder::Recorder;

/// What a result was made of, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Provenance {
    /// Names the solve; random, 25 letters and digits as in BuildKit.
    pub invocation: String,
    /// When the solve began.
    pub started: SystemTime,
    /// When its last vertex was done.
    pub finished: SystemTime,
    /// What was asked for.
    pub definition: Definition,
    /// The vertices that the result is made from, inputs first.
    pub vertices: Vec<VertexProvenance>,
}

/// What is known of one vertex.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VertexProvenance {
    /// Its digest.
    pub digest: OpDigest,
    /// When work on it began; `None` if there was none.
    pub started: Option<SystemTime>,
    /// When work on it ended.
    pub completed: Option<SystemTime>,
    /// Whether its result was there already.
    pub cached: bool,
    /// What its process used, if it ran one in this solve.
    pub usage: Option<Usage>,
    /// What it led to, if it is a source.
    pub source: Option<ResolvedSource>,
    /// Whether its process has, or had when it ran, a way into a network.
    pub network: bool,
    /// Its outputs that are known.
    pub outputs: Vec<OutputProvenance>,
}

/// What is known of an output of a vertex.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputProvenance {
    /// Which output.
    pub index: u32,
    /// The key under which its result is stored, if it is.
    pub key: Option<CacheKey>,
    /// Its layers, the lowest first, if its result is not stored under a key.
    pub layers: Option<Vec<LayerId>>,
}

/// What a source led to.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ResolvedSource {
    /// An image, of a registry or a layout.
    Image {
        /// Its reference, as the source has it.
        reference: String,
        /// The platform that it was wanted for.
        platform: Platform,
        /// What the reference led to: a manifest or an index.
        digest: BlobDigest,
        /// Whether it is from a layout that the caller lent.
        layout: bool,
        /// Its layers, the lowest first.
        layers: Vec<LayerBlob>,
    },
    /// A directory that the caller lent.
    Local {
        /// The name under which it was lent.
        name: String,
    },
    /// A commit of a git repository.
    Git {
        /// Address of the repository, with `#` and the ref that was asked for.
        address: String,
        /// The commit, in hex.
        commit: String,
    },
    /// A file of a web server.
    Http {
        /// Its address.
        address: String,
        /// The digest of its bytes.
        digest: BlobDigest,
    },
    /// A single blob, of a registry or a layout.
    Blob {
        /// Its reference, as the source has it.
        reference: String,
        /// Its digest.
        digest: BlobDigest,
        /// Whether it is from a layout that the caller lent.
        layout: bool,
    },
}
