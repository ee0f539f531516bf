//! What can go wrong with a blob.

use std::io;

use ashlar_llb::digest::BlobDigest;

use crate::error::{Blame, Fault};

/// A blob could not be read or stored, or is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The operating system refused.
    #[error("cannot {action} blob {name}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The digest, or what the blob is.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bytes have another digest than promised.
    #[error("the blob has digest {found}, not {expected}")]
    Digest {
        /// What was promised.
        expected: BlobDigest,
        /// What the bytes have.
        found: BlobDigest,
    },
    /// There are more or fewer bytes than promised.
    #[error("blob {digest} has {found} bytes, not {expected}")]
    Size {
        /// Which blob.
        digest: BlobDigest,
        /// What was promised.
        expected: u64,
        /// How many there are; one more than promised stands for any surplus.
        found: u64,
    },
    /// The compressed bytes cannot be inflated.
    #[error("the {compression} stream of a layer is damaged")]
    Inflate {
        /// Which format it should have.
        compression: &'static str,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The layer inflates to more than the limit.
    #[error("the layer inflates to more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
}

impl Blame for ContentError {
    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Environment,
            Self::Digest { .. }
            | Self::Size { .. }
            | Self::Inflate { .. }
            | Self::TooLarge { .. } => Fault::Input,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::TooLarge { .. } => {
                Some("raise Limits::layer_bytes if the layer is wanted".to_owned())
            }
            Self::Digest { .. } | Self::Size { .. } => {
                Some("the copy is damaged: fetch or write the blob again".to_owned())
            }
            _ => None,
        }
    }
}

impl ContentError {
    pub(super) fn io(
        action: &'static str,
        name: impl ToString,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let name = name.to_string();
        move |errno| Self::Io {
            action,
            name,
            source: errno.into(),
        }
    }
}

/// So that a reader can carry it to whoever asked for the bytes.
impl From<ContentError> for io::Error {
    fn from(error: ContentError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}
