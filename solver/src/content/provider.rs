//! Blobs from anywhere.

use std::fmt::Debug;
use std::io::Read;

use ashlar_llb::digest::BlobDigest;

use super::BlobStore;
use crate::cancel::Cancel;
use crate::error::{Blame, Failure, Fault};
use crate::oci::Descriptor;

/// Gives blobs by their digests: a registry, a directory, a store.
pub trait BlobProvider: Send + Sync + Debug {
    /// Whether a blob can be had, as far as that can be told without asking another machine.
    /// Blocks for no longer than a look into a directory takes. Default: yes.
    fn has(&self, blob: &Descriptor) -> bool {
        let _ = blob;
        true
    }

    /// The bytes of a blob, from its start. They are verified by who reads them. Blocks, as do
    /// reads of what it returns.
    ///
    /// # Errors
    /// [`NoSuchBlob`], or what the provider says.
    ///
    /// # Cancellation
    /// Raising `cancel` ends this and reads that wait for another machine.
    fn open(&self, blob: &Descriptor, cancel: &Cancel) -> Result<Box<dyn Read + Send>, Failure>;
}

/// The blob is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no blob {digest}")]
#[non_exhaustive]
pub struct NoSuchBlob {
    /// Which blob.
    pub digest: BlobDigest,
}

impl NoSuchBlob {
    /// Says that a blob is not there.
    pub fn new(digest: BlobDigest) -> Self {
        Self { digest }
    }
}

impl Blame for NoSuchBlob {
    fn fault(&self) -> Fault {
        Fault::Environment
    }
}

impl BlobProvider for BlobStore {
    fn has(&self, blob: &Descriptor) -> bool {
        matches!(self.size(&blob.digest), Ok(Some(size)) if size == blob.size)
    }

    fn open(&self, blob: &Descriptor, _: &Cancel) -> Result<Box<dyn Read + Send>, Failure> {
        match Self::open(self, &blob.digest)? {
            Some(file) => Ok(Box::new(file)),
            None => Err(NoSuchBlob::new(blob.digest).into()),
        }
    }
}
