//! The databases of rpm, in the three formats that it had, and the headers in them.
//!
//! Owns the reading of `rpmdb.sqlite` (SQLite), `Packages.db` (rpm's own "ndb") and `Packages`
//! (a hash table of Berkeley DB), as far as it takes to get at the header of each package. They are
//! read page by page with no library of theirs: no query is run and no lock taken on bytes that
//! anybody may have written.
//!
//! Invariants:
//! - every offset and length is checked against the file before it is used;
//! - no page is visited twice on one way, and all that is read of one database together is at most
//!   twice its size, so that entries which share pages cannot multiply the work; those of one page
//!   do not overlap;
//! - a header is at most [`HEADER`] bytes.
//!
//! Leaves to others: what the headers mean for an SBOM (`packages`).

mod bdb;
mod header;
mod ndb;
mod pages;
mod sqlite;
mod wal;

pub(crate) use header::Header;
pub(crate) use pages::DatabaseError;

use std::fs::File;

use pages::Pages;

/// Largest header of a package. rpm itself allows 256 MiB; the largest of any distribution, of
/// packages with a hundred thousand files, have some 20 MiB.
const HEADER: u64 = 64 << 20;

/// The format of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Sqlite,
    Ndb,
    Bdb,
}

/// Calls `each` with every header of a database. `log` is the write-ahead log that lies beside an
/// SQLite file.
///
/// # Errors
/// The file is malformed, cannot be read, or `each` failed.
pub(crate) fn headers(
    format: Format,
    file: File,
    log: Option<File>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let pages = Pages::new(file)?;
    match format {
        Format::Sqlite => sqlite::headers(pages, log, each),
        Format::Ndb => ndb::headers(pages, each),
        Format::Bdb => bdb::headers(pages, each),
    }
}
