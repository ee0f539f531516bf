//! The same archive with other times.

use std::io::{self, Read, Write};

use super::{TarError, TarKind, TarReader, TarWriter};
use crate::cancel::{Cancel, Cancelled};
use crate::tree::Timestamp;

/// Zeros that are written at once for a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An archive could not be rewritten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// The receiver of the bytes failed, or an entry cannot be expressed.
    #[error("cannot write the archive")]
    Write {
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The files have more bytes than a layer may have.
    #[error("the files of the archive have more than {limit} bytes")]
    TooLarge {
        /// How many that is.
        limit: u64,
    },
    /// An entry has what no format of archives can express together.
    #[error("the headers of `{path}` are in no format; its times cannot be rewritten")]
    Format {
        /// Its name, escaped.
        path: String,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Copies an archive, entry by entry in its own order, with every time after `latest` set to
/// `latest`: what BuildKit does to the layers of a base image for `rewrite-timestamp`. All else
/// stays as it is, in the format in which it is; sparse files get their holes. The files together may
/// have `limit` bytes. Returns the size of the new archive.
///
/// # Errors
/// [`RewriteError`].
///
/// # Cancellation
/// Checked at every entry, at every piece of a file, and of what follows the archive.
pub fn rewrite_times(
    input: impl Read,
    output: impl Write,
    latest: Timestamp,
    limit: u64,
    cancel: &Cancel,
) -> Result<u64, RewriteError> {
    let mut reader = TarReader::new(input).keeping();
    let mut writer = TarWriter::new(output);
    let write = |source| RewriteError::Write { source };
    let mut left = limit;
    while let Some(header) = reader.next_entry()? {
        cancel.check()?;
        let size = match header.kind {
            TarKind::File => header.size,
            _ => 0,
        };
        left = left
            .checked_sub(size)
            .ok_or(RewriteError::TooLarge { limit })?;
        let headers = reader.original().and_then(|mut original| {
            original.not_after(latest);
            if header.sparse {
                original.set_size(size);
            }
            original.encode()
        });
        let headers = headers.ok_or_else(|| RewriteError::Format {
            path: header.path.escape_ascii().to_string(),
        })?;
        writer.encoded(&headers, size).map_err(write)?;
        let parts = reader
            .parts()
            .map_or_else(|| vec![(0, size)], <[_]>::to_vec);
        let mut at = 0;
        for (offset, length) in parts.into_iter().chain([(size, 0)]) {
            while at < offset {
                let hole = (offset - at).min(ZEROS.len() as u64);
                let zeros = &ZEROS[..usize::try_from(hole).unwrap_or(0)];
                writer.data(zeros).map_err(write)?;
                at += hole;
                cancel.check()?;
            }
            let end = offset.saturating_add(length);
            while at < end {
                let data = reader.data(end - at)?;
                if data.is_empty() {
                    return Err(TarError::Truncated { place: "a file" }.into());
                }
                writer.data(data).map_err(write)?;
                at += data.len() as u64;
                cancel.check()?;
            }
        }
    }
    while reader.drain()? {
        cancel.check()?;
    }
    writer.finish().map_err(write)
}
