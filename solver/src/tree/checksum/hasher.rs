//! The checksum of one object: a header of its attributes, then its bytes.
//!
//! The header is that of Docker's tarsum: names and values without separators, numbers in
//! decimal, no time; then the extended attributes in the order of their names, without those of
//! `security.*` (but with `security.capability`) and `system.*`.

use std::fmt::Write as _;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::id::ContentDigest;
use crate::tree::{Entry, Kind};

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// Computes the checksum of one object as its bytes come by.
#[derive(Clone)]
pub struct FileHasher(Sha256);

impl std::fmt::Debug for FileHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileHasher").finish_non_exhaustive()
    }
}

impl FileHasher {
    /// Starts with the header of `entry`. The size in it is [`Entry::size`], which must be the
    /// number of bytes that follow. A directory has a header too.
    pub fn new(entry: &Entry) -> Self {
        let mut hash = Sha256::new();
        let mut text = String::with_capacity(128);
        let attributes = &entry.attributes;
        let symlink = entry.kind == Kind::Symlink;
        let mode = if symlink {
            attributes.mode | 0o777
        } else {
            attributes.mode
        };
        let size = if entry.kind == Kind::File {
            entry.size
        } else {
            0
        };
        let kind = match entry.kind {
            Kind::File | Kind::Whiteout => '0',
            Kind::Symlink => '2',
            Kind::CharDevice => '3',
            Kind::BlockDevice => '4',
            Kind::Directory => '5',
            Kind::Fifo => '6',
        };
        write!(
            text,
            "namemode{mode}uid{}gid{}size{size}typeflag{kind}linkname",
            attributes.uid, attributes.gid
        )
        .expect("BUG: a string takes any text");
        hash.update(text.as_bytes());
        hash.update(&entry.target);
        text.clear();
        let device = entry.device;
        write!(
            text,
            "unamegnamedevmajor{}devminor{}",
            device.major, device.minor
        )
        .expect("BUG: a string takes any text");
        hash.update(text.as_bytes());
        for (name, value) in attributes.xattrs.iter() {
            let private = name.starts_with(b"security.") || name.starts_with(b"system.");
            if name == b"security.capability" || !private {
                hash.update(name);
                hash.update(value);
            }
        }
        Self(hash)
    }

    /// Goes on with more bytes of a regular file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum.
    pub fn finish(self) -> ContentDigest {
        ContentDigest::from_bytes(self.0.finalize().into())
    }
}

/// The checksum of an object. `data` must be given for a regular file that is not empty, and is
/// read to its end.
///
/// # Errors
/// What `data` says; [`io::ErrorKind::InvalidData`] if it has another number of bytes than the
/// entry tells or was not given.
pub fn file_digest(entry: &Entry, data: Option<&mut dyn Read>) -> io::Result<ContentDigest> {
    digest_with_buffer(entry, data, &mut Vec::new())
}

/// As [`file_digest`], with a buffer that can be used again.
pub(super) fn digest_with_buffer(
    entry: &Entry,
    data: Option<&mut dyn Read>,
    buffer: &mut Vec<u8>,
) -> io::Result<ContentDigest> {
    let mut hasher = FileHasher::new(entry);
    let expected = if entry.kind == Kind::File {
        entry.size
    } else {
        0
    };
    let mut read = 0_u64;
    if let (Some(data), true) = (data, expected > 0) {
        // One byte more than the file has, so that the end is seen without another buffer.
        let length = usize::try_from(expected).unwrap_or(BUFFER).min(BUFFER - 1) + 1;
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        while read <= expected {
            match data.read(buffer) {
                Ok(0) => break,
                Ok(length) => {
                    read += length as u64;
                    hasher.update(&buffer[..length]);
                    // Less than asked for, and all that there should be: the end.
                    if read == expected && length < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    if read != expected {
        let text = format!("the file has not the {expected} bytes that its entry tells");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(hasher.finish())
}
