//! Why an export failed.

use std::io;
use std::path::PathBuf;

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancelled;
use ashlar_solver::content::ContentError;
use ashlar_solver::error::{Blame, Failure, Fault, OperationError};

use crate::exporter::NoRuntime;

/// An export failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It was cancelled.
    #[error("the export was cancelled")]
    Cancelled,
    /// It was awaited where there is no tokio runtime.
    #[error("an export needs a tokio runtime")]
    NoRuntime,
    /// Something cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The image config that was given with the result is not usable.
    #[error("invalid image config for export: {reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// What was asked for does not go together.
    #[error("cannot export: {reason}")]
    Option {
        /// What does not go with what.
        reason: String,
    },
    /// An annotation cannot be understood.
    #[error("invalid annotation `{name}`: {reason}")]
    Annotation {
        /// The name it was given under.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that the result says of itself cannot be used.
    #[error("invalid metadata `{key}` of the result: {reason}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that is attested of the result cannot be written.
    #[error("invalid attestation `{path}`: {reason}")]
    Attestation {
        /// Where it comes from.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name of the image is not a reference.
    #[error("invalid image name `{name}`")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ashlar_llb::reference::ParseReferenceError,
    },
    /// A layer of a base image cannot be converted.
    #[error("cannot convert layer {digest}")]
    Convert {
        /// Its digest.
        digest: BlobDigest,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// A registry did not take the image.
    #[error("cannot push {reference}: {}", failure.chain())]
    Push {
        /// What it was to be called.
        reference: String,
        /// What the registry, or the way to it, did.
        failure: Failure,
    },
    /// An engine did not take the image.
    #[error("the engine at {} does not take the image: {reason}", socket.display())]
    Engine {
        /// Its socket.
        socket: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A blob cannot be compressed or written.
    #[error("cannot make the blob of a layer")]
    Blob {
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// What was written is not what was to be written.
    #[error("{what} in {} is not what was written there", path.display())]
    Verify {
        /// Which part of the output.
        what: String,
        /// Which output.
        path: PathBuf,
    },
    /// The store failed, or a lazy result cannot be read.
    #[error("{}", .0.chain())]
    Store(Failure),
    /// The result cannot be represented at the destination.
    #[error("cannot export {path}: {reason}")]
    Unsupported {
        /// Which object of the result.
        path: String,
        /// Why not.
        reason: &'static str,
    },
}

impl ExportError {
    /// For JSON that came with the result, or that is made of it.
    pub(crate) fn json(error: serde_json::Error) -> Self {
        Self::Config {
            reason: error.to_string(),
        }
    }

    pub(crate) fn verify(what: impl ToString, path: impl Into<PathBuf>) -> Self {
        Self::Verify {
            what: what.to_string(),
            path: path.into(),
        }
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

impl From<Cancelled> for ExportError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl From<NoRuntime> for ExportError {
    fn from(_: NoRuntime) -> Self {
        Self::NoRuntime
    }
}

impl From<Failure> for ExportError {
    fn from(failure: Failure) -> Self {
        Self::Store(failure)
    }
}

impl From<OperationError> for ExportError {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::Cancelled => Self::Cancelled,
            OperationError::Failed(failure) => Self::Store(failure),
        }
    }
}

impl Blame for ExportError {
    fn fault(&self) -> Fault {
        match self {
            Self::Cancelled
            | Self::NoRuntime
            | Self::Config { .. }
            | Self::Option { .. }
            | Self::Annotation { .. }
            | Self::Metadata { .. }
            | Self::Attestation { .. }
            | Self::Name { .. } => Fault::Input,
            Self::Convert { source, .. } if source.raw_os_error().is_none() => Fault::Input,
            Self::Io { .. }
            | Self::Unsupported { .. }
            | Self::Convert { .. }
            | Self::Verify { .. }
            | Self::Engine { .. }
            | Self::Blob { .. } => Fault::Environment,
            Self::Store(failure) | Self::Push { failure, .. } => failure.fault(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NoRuntime => Some("await the export inside a tokio runtime".to_owned()),
            Self::Io { source, .. } | Self::Blob { source }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Some("free some space at the destination".to_owned())
            }
            Self::Io {
                action: "connect to",
                ..
            } => Some("see that the engine runs and that its socket may be used".to_owned()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("let this user do so, or export to where it may write".to_owned())
            }
            // A reader that verifies or inflates says itself what is wrong with the blob.
            Self::Convert { source, .. } => {
                let inner = source.get_ref().and_then(|e| e.downcast_ref());
                inner.and_then(ContentError::remedy)
            }
            Self::Store(failure) | Self::Push { failure, .. } => failure.remedy(),
            _ => None,
        }
    }
}
