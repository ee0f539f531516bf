//! Why an image cannot be had from a layout.

use std::io;
use std::path::PathBuf;

use ashlar_llb::digest::BlobDigest;

use crate::content::ContentError;
use crate::error::{Blame, Fault};
use crate::source::image::ImageError;
use crate::tree::tar::TarError;

/// An image cannot be had from a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciLayoutError {
    /// What is there is not an image layout.
    #[error("{} is not an OCI image layout: {problem}", path.display())]
    NotALayout {
        /// Where it was looked for.
        path: PathBuf,
        /// What is missing or wrong.
        problem: &'static str,
    },
    /// The file is not a tar archive, or a damaged one.
    #[error("{} is not an archive of an image layout", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: TarError,
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
    /// The documents or layers of the image are not good.
    #[error(transparent)]
    Image(#[from] ImageError),
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
            Self::Archive {
                source: TarError::Read { source },
                ..
            } if source.raw_os_error().is_some() => Fault::Environment,
            Self::Image(error) => error.fault(),
            _ => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.remedy(),
            _ => None,
        }
    }
}

impl From<ContentError> for OciLayoutError {
    fn from(error: ContentError) -> Self {
        Self::Image(error.into())
    }
}
