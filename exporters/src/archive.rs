//! Image layouts as one tar file.
//!
//! Members are those of containerd's archive exporter, which BuildKit uses: directories with mode
//! 0755, files with mode 0444, owner 0, time 0, in the order of their names.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::oci::Descriptor;

use crate::image::{BlobContent, Image, Index};
use crate::layout::LAYOUT;
use crate::target::Target;
use crate::{ExportError, json};

/// Bytes of a tar block.
const BLOCK: u64 = 512;

/// Largest size that fits into the eleven octal digits of a header.
const OCTAL_LIMIT: u64 = 1 << 33;

/// Bytes copied between two looks at the cancel flag.
const CHUNK: u64 = 8 << 20;

/// Writes an image layout as one file, complete but not in its place.
pub(crate) fn write(
    path: &Path,
    image: &Image,
    entries: Vec<Descriptor>,
    cancel: &Cancel,
) -> Result<Target, ExportError> {
    let mut target = Target::create(path)?;
    let index = json::compact(&Index::new(entries)).map_err(ExportError::json)?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::Interrupted if cancel.is_cancelled() => ExportError::Cancelled,
        _ => ExportError::io("write", path)(error),
    };
    let out = target.file();
    directory(out, "blobs/").map_err(failed)?;
    directory(out, "blobs/sha256/").map_err(failed)?;
    let mut blobs: Vec<_> = image.blobs.iter().collect();
    blobs.sort_by_key(|blob| blob.descriptor.digest);
    for blob in blobs {
        let digest = blob.descriptor.digest;
        let name = format!("blobs/{}", digest.to_string().replace(':', "/"));
        match &blob.content {
            BlobContent::Text(text) => bytes(out, &name, text).map_err(failed)?,
            BlobContent::Stored => {
                let mut from = image.open(&digest)?;
                let size = blob.descriptor.size;
                file(out, &name, &mut from, size, cancel).map_err(failed)?;
            }
        }
    }
    bytes(out, "index.json", &index).map_err(failed)?;
    bytes(out, "oci-layout", LAYOUT).map_err(failed)?;
    end(out).map_err(failed)?;
    Ok(target)
}

/// Writes a directory member; `name` ends with `/`.
fn directory(out: &mut impl Write, name: &str) -> io::Result<()> {
    out.write_all(&header(name, 0, 0o755, b'5')?)
}

/// Writes a file member of bytes in memory.
fn bytes(out: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let size = bytes.len() as u64;
    out.write_all(&header(name, size, 0o444, b'0')?)?;
    out.write_all(bytes)?;
    pad(out, size)
}

/// Writes a file member from a file that has `size` bytes.
fn file(out: &mut File, name: &str, from: &mut File, size: u64, cancel: &Cancel) -> io::Result<()> {
    out.write_all(&header(name, size, 0o444, b'0')?)?;
    let mut left = size;
    while left > 0 {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut part = io::Read::take(&mut *from, left.min(CHUNK));
        let copied = io::copy(&mut part, out)?;
        if copied == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= copied;
    }
    pad(out, size)
}

/// Ends the archive.
fn end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 1024])
}

fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0);
    out.write_all(&[0; 512][..rest])
}

fn header(name: &str, size: u64, mode: u32, kind: u8) -> io::Result<[u8; 512]> {
    if name.len() > 100 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "archive member name too long",
        ));
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
    use super::*;

    #[test]
    fn a_header_has_the_right_sum_and_size() {
        let header = header("oci-layout", 30, 0o444, b'0').unwrap();
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
