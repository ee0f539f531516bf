//! The same archive with other times.

use std::io::{self, Read, Write};

use super::{Header, TarError, TarFormat, TarReader, TarWriter};
use crate::cancel::{Cancel, Cancelled};
use crate::tree::Timestamp;

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
    /// The archive has a sparse file.
    #[error("`{path}` is a sparse file; its times cannot be rewritten")]
    Sparse {
        /// Its name, escaped.
        path: String,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// Copies an archive, entry by entry in its own order, with every time after `latest` set to
/// `latest`: what BuildKit does to the layers of a base image for `rewrite-timestamp`. Returns
/// the size of the new archive.
///
/// # Errors
/// [`RewriteError`].
///
/// # Cancellation
/// Checked at every entry and at every piece of a file.
pub fn rewrite_times(
    input: impl Read,
    output: impl Write,
    latest: Timestamp,
    cancel: &Cancel,
) -> Result<u64, RewriteError> {
    let mut reader = TarReader::new(input);
    let mut writer = TarWriter::new(output);
    let write = |source| RewriteError::Write { source };
    while let Some(mut header) = reader.next_entry()? {
        cancel.check()?;
        if header.sparse {
            let path = header.path.escape_ascii().to_string();
            return Err(RewriteError::Sparse { path });
        }
        header.mtime = header.mtime.min(latest);
        let format = format(&header);
        writer.header(&header, format).map_err(write)?;
        loop {
            let data = reader.data(u64::MAX)?;
            if data.is_empty() {
                break;
            }
            writer.data(data).map_err(write)?;
            cancel.check()?;
        }
    }
    reader.drain()?;
    writer.finish().map_err(write)
}

/// A header with PAX records stays one.
fn format(header: &Header) -> TarFormat {
    let nanoseconds = header.mtime.nanoseconds != 0;
    if nanoseconds || !header.xattrs.is_empty() {
        TarFormat::Pax
    } else {
        TarFormat::Any
    }
}
