//! Readers that trust nobody.

use std::io::{self, Read};

use ashlar_llb::digest::BlobDigest;
use sha2::{Digest as _, Sha256};

use super::ContentError;

/// Passes the bytes of a reader on and hashes them; fails at the end unless digest and size are
/// those promised, and as soon as there is a byte too many.
///
/// Only a reader that was read to its end has been verified.
#[derive(Debug)]
pub struct Verify<R> {
    inner: R,
    digest: BlobDigest,
    size: u64,
    read: u64,
    hash: Option<Sha256>,
}

impl<R: Read> Verify<R> {
    /// Wraps `inner`, which must yield `size` bytes with this digest.
    pub fn new(inner: R, digest: BlobDigest, size: u64) -> Self {
        Self {
            inner,
            digest,
            size,
            read: 0,
            hash: Some(Sha256::new()),
        }
    }

    /// Whether the end was reached and all was as promised.
    pub fn verified(&self) -> bool {
        self.hash.is_none()
    }

    /// The reader below. What is read from it directly is not verified.
    pub fn get_ref(&self) -> &R {
        &self.inner
    }

    fn finish(&mut self) -> Result<(), ContentError> {
        let Some(hash) = self.hash.take() else {
            return Ok(());
        };
        let problem = if self.read == self.size {
            let found = BlobDigest::from_bytes(hash.clone().finalize().into());
            let expected = self.digest;
            (found != expected).then_some(ContentError::Digest { expected, found })
        } else {
            Some(self.wrong_size(self.read))
        };
        // An error stays an error when the end is read again.
        match problem {
            Some(problem) => {
                self.hash = Some(hash);
                Err(problem)
            }
            None => Ok(()),
        }
    }

    fn wrong_size(&self, found: u64) -> ContentError {
        ContentError::Size {
            digest: self.digest,
            expected: self.size,
            found,
        }
    }
}

impl<R: Read> Read for Verify<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.inner.read(buffer)?;
        if length == 0 {
            self.finish()?;
            return Ok(0);
        }
        self.read = self.read.saturating_add(length as u64);
        if self.read > self.size {
            return Err(self.wrong_size(self.size.saturating_add(1)).into());
        }
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..length]);
        }
        Ok(length)
    }
}
