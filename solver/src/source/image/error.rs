//! Why an image cannot be had, wherever it comes from.

use std::io;

use ashlar_llb::digest::{BlobDigest, DiffId};

use crate::content::ContentError;
use crate::error::{Blame, Fault};
use crate::tree::apply::ApplyError;

/// The documents or layers of an image are not good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The image is not for the platform.
    #[error(
        "image {digest} has no manifest for {platform} (it has {})",
        names(available)
    )]
    NoPlatform {
        /// The index.
        digest: BlobDigest,
        /// What was asked for.
        platform: String,
        /// The platforms there are.
        available: Vec<String>,
    },
    /// A document is larger than the limit.
    #[error("{name} has {size} bytes, more than the limit of {limit}")]
    DocumentTooLarge {
        /// Which document.
        name: String,
        /// Bytes it has.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A document cannot be read.
    #[error("{name} is not a good document")]
    Document {
        /// Which document.
        name: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A document could be taken for another one.
    #[error("{name} is refused: {problem}")]
    Confusing {
        /// Which document.
        name: String,
        /// Why.
        problem: String,
    },
    /// The image cannot be unpacked.
    #[error("image {digest} cannot be unpacked: {problem}")]
    Image {
        /// The manifest.
        digest: BlobDigest,
        /// Why.
        problem: String,
    },
    /// A blob is not what its descriptor says.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A layer inflates to something else than the config says.
    #[error("layer {digest} has diff id {found}, the image config says {expected}")]
    DiffId {
        /// The blob.
        digest: BlobDigest,
        /// What the config says.
        expected: DiffId,
        /// What it inflates to.
        found: DiffId,
    },
    /// A layer cannot be unpacked.
    #[error("layer {digest} cannot be unpacked")]
    Apply {
        /// The blob.
        digest: BlobDigest,
        /// Why.
        #[source]
        source: ApplyError,
    },
    /// The bytes of a layer could not be read to their end.
    #[error("layer {digest} cannot be read")]
    Read {
        /// The blob.
        digest: BlobDigest,
        /// What the reader said.
        #[source]
        source: io::Error,
    },
}

fn names(available: &[String]) -> String {
    if available.is_empty() {
        "none".to_owned()
    } else {
        available.join(", ")
    }
}

impl ImageError {
    /// What stopped the reading of a layer, as the type it had before `Read` wrapped it.
    pub(crate) fn reading(digest: BlobDigest, source: io::Error) -> Self {
        match source.downcast::<ContentError>() {
            Ok(error) => error.into(),
            Err(source) => Self::Read { digest, source },
        }
    }
}

impl Blame for ImageError {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { .. } => Fault::Environment,
            Self::Content(error) => error.fault(),
            Self::Apply { source, .. } => source.fault(),
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Content(error) => error.remedy(),
            Self::Apply { source, .. } => source.remedy(),
            Self::DocumentTooLarge { .. } => {
                Some("raise Limits::manifest_bytes if the image is wanted".to_owned())
            }
            _ => None,
        }
    }
}
