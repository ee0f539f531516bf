//! Why an image cannot be had from a layout.

use std::io;
use std::path::PathBuf;

use ashlar_llb::digest::{BlobDigest, DiffId};

use crate::content::ContentError;
use crate::error::{Blame, Fault};
use crate::tree::apply::ApplyError;

/// An image cannot be had from a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciLayoutError {
    /// The directory is not an image layout.
    #[error("{} is not an OCI image layout: {problem}", path.display())]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        problem: &'static str,
    },
    /// The operating system refused.
    #[error("cannot read {name} of the image layout")]
    Io {
        /// The file.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A blob is not in the layout.
    #[error("blob {digest} is not in the image layout")]
    MissingBlob {
        /// Which blob.
        digest: BlobDigest,
    },
    /// No image of the layout has this name.
    #[error("the image layout has no image `{name}` (it has {})", names(available))]
    UnknownName {
        /// What was asked for.
        name: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// No name was given, and the layout has several images or none.
    #[error("the image layout has {count} images; name one by tag or digest")]
    Ambiguous {
        /// How many there are.
        count: usize,
    },
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
}

fn names(available: &[String]) -> String {
    if available.is_empty() {
        "none".to_owned()
    } else {
        available.join(", ")
    }
}

impl Blame for OciLayoutError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Environment,
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
