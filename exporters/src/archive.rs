//! Image layouts as one tar.
//!
//! Members are those of containerd's archive exporter, which BuildKit uses: directories with mode
//! 0755, blobs with mode 0444, indexes with 0644, owner 0, time 0, in the order of their names.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::oci::Descriptor;
use sha2::{Digest as _, Sha256};

use crate::destination::Sink;
use crate::image::{Image, ImageBlob, Index};
use crate::layout::LAYOUT;
use crate::notes::content_of;
use crate::{ExportError, json};

/// Bytes of a tar block.
const BLOCK: u64 = 512;

/// Largest size that fits into the eleven octal digits of a header.
const OCTAL_LIMIT: u64 = 1 << 33;

/// An image layout that is to be one tar.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub(crate) image: Arc<Image>,
    /// The text of `index.json`.
    index: Vec<u8>,
    /// What Docker wants to know (`manifest.json`).
    docker: Option<Vec<u8>>,
}

impl Archive {
    /// `entries`: those of its index.
    pub(crate) fn new(
        image: Arc<Image>,
        entries: Vec<Descriptor>,
        docker: Option<Vec<u8>>,
    ) -> Result<Self, ExportError> {
        let index = json::compact(&Index::new(entries)).map_err(ExportError::json)?;
        Ok(Self {
            image,
            index,
            docker,
        })
    }

    /// All that its bytes are made of.
    pub(crate) fn content(&self) -> Sha256 {
        let mut hasher = content_of("image");
        for blob in self.blobs() {
            hasher.update(blob.descriptor.digest.as_bytes());
            hasher.update(blob.descriptor.size.to_le_bytes());
        }
        for text in [Some(&self.index), self.docker.as_ref()]
            .into_iter()
            .flatten()
        {
            hasher.update(Sha256::digest(text));
        }
        hasher
    }

    /// Writes it.
    pub(crate) fn write(&self, sink: &mut Sink<'_>, cancel: &Cancel) -> Result<(), ExportError> {
        sink.put(&header("blobs/", 0, 0o755, b'5')?)?;
        sink.put(&header("blobs/sha256/", 0, 0o755, b'5')?)?;
        for blob in self.blobs() {
            cancel.check()?;
            let digest = blob.descriptor.digest;
            let name = format!("blobs/{}", digest.to_string().replace(':', "/"));
            let size = blob.descriptor.size;
            sink.put(&header(&name, size, 0o444, b'0')?)?;
            self.image.write_blob(blob, sink, cancel)?;
            sink.put(padding(size))?;
        }
        bytes(sink, "index.json", &self.index, 0o644)?;
        if let Some(docker) = &self.docker {
            bytes(sink, "manifest.json", docker, 0o644)?;
        }
        bytes(sink, "oci-layout", LAYOUT, 0o444)?;
        sink.put(&[0; 1024])
    }

    /// Reads the blobs in an archive that [`Archive::write`] wrote, and compares them with their digests.
    pub(crate) fn verify(
        &self,
        archive: &File,
        path: &Path,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let failed = |error: io::Error| ExportError::io("read", path)(error);
        let mut at = 2 * BLOCK;
        let mut buffer = vec![0; 1 << 20];
        for blob in self.blobs() {
            let (digest, size) = (blob.descriptor.digest, blob.descriptor.size);
            at += BLOCK;
            let end = at + size;
            let mut hasher = Sha256::new();
            while at < end {
                cancel.check()?;
                let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
                let part = &mut buffer[..wanted.min(1 << 20)];
                archive.read_exact_at(part, at).map_err(failed)?;
                hasher.update(&*part);
                at += part.len() as u64;
            }
            let found: [u8; 32] = hasher.finalize().into();
            if BlobDigest::from_bytes(found) != digest {
                return Err(ExportError::verify(digest, path));
            }
            at = at.next_multiple_of(BLOCK);
        }
        Ok(())
    }

    /// The blobs in their order.
    fn blobs(&self) -> Vec<&ImageBlob> {
        let mut blobs: Vec<_> = self.image.blobs.iter().collect();
        blobs.sort_by_key(|blob| blob.descriptor.digest);
        blobs
    }
}

/// Writes a member of bytes in memory.
fn bytes(sink: &mut Sink<'_>, name: &str, bytes: &[u8], mode: u32) -> Result<(), ExportError> {
    let size = bytes.len() as u64;
    sink.put(&header(name, size, mode, b'0')?)?;
    sink.put(bytes)?;
    sink.put(padding(size))
}

/// The zeros after a file of this size in a tar.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    let rest = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    &[0; 512][..rest]
}

fn header(name: &str, size: u64, mode: u32, kind: u8) -> Result<[u8; 512], ExportError> {
    if name.len() > 100 {
        let path = name.to_owned();
        let reason = "the name is too long for an archive member";
        return Err(ExportError::Unsupported { path, reason });
    }
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    if size < OCTAL_LIMIT {
        put(124, format!("{size:011o}").as_bytes());
    } else {
        // Base 256, as GNU tar and Go write sizes from 8 GiB.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000");
    put(337, b"0000000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_header_has_the_right_sum_and_size() {
        let header = super::header("oci-layout", 30, 0o444, b'0').unwrap();
        let sum: u32 = header
            .iter()
            .enumerate()
            .map(|(at, &byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(byte)
                }
            })
            .sum();
        assert_eq!(&header[148..154], format!("{sum:06o}").as_bytes());
        assert_eq!(&header[124..135], b"00000000036");
        assert!(super::header(&"x".repeat(101), 0, 0, b'0').is_err());
    }
}
