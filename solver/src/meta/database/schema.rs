//! The tables.
//!
//! ```text
//! stacks(id, layer, parent)              parent 0: none; ids are never used again
//! layer_blobs(layer, compression, ...)   what a layer is as a blob; annotations: JSON
//! names(namespace, name, value)          small values of other modules
//! links(digest, output, input, dependency, selector, target)
//! results(key, result, created_at)
//! listings(key, listing)                 what is remembered of content; the latest few hundred
//! durability(boot, current, written, synced)   one row
//! ```
//! Rows that tell of data outside the database have the generation they were written in. Links
//! do not: they are true whatever happens to the data.

use std::path::Path;

use rusqlite::Connection;

use super::failed;
use crate::meta::MetaError;

/// The format this version reads and writes, kept in SQLite's `user_version`.
const FORMAT: i64 = 3;

/// Bytes of a page. Each vertex that ran changes a dozen pages, a few rows in each, and the log gets
/// all of every one.
const PAGE: i64 = 1024;

const TABLES: &str = "
CREATE TABLE durability (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    boot TEXT NOT NULL,
    current INTEGER NOT NULL,
    written INTEGER NOT NULL,
    synced INTEGER NOT NULL
);
CREATE TABLE stacks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    layer INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    UNIQUE (layer, parent)
);
CREATE INDEX stacks_by_parent ON stacks (parent);
CREATE TABLE layer_blobs (
    layer INTEGER NOT NULL,
    compression TEXT NOT NULL,
    digest BLOB NOT NULL,
    diff_id BLOB NOT NULL,
    size INTEGER NOT NULL,
    media_type TEXT NOT NULL,
    annotations TEXT NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (layer, compression)
) WITHOUT ROWID;
CREATE TABLE names (
    namespace TEXT NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;
CREATE TABLE links (
    digest BLOB NOT NULL,
    output INTEGER NOT NULL,
    input INTEGER NOT NULL,
    dependency BLOB NOT NULL,
    selector BLOB NOT NULL,
    target BLOB NOT NULL,
    PRIMARY KEY (digest, output, input, dependency, selector, target)
) WITHOUT ROWID;
CREATE INDEX links_by_target ON links (target);
CREATE TABLE results (
    key BLOB NOT NULL,
    result INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (key, result)
) WITHOUT ROWID;
CREATE INDEX results_by_result ON results (result);
CREATE TABLE listings (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    listing BLOB NOT NULL
);
";

/// The format of the file: 0 if it has no tables yet.
pub(super) fn format(connection: &Connection, path: &Path) -> Result<i64, MetaError> {
    let found = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("read the format"))?;
    if found != 0 && found != FORMAT {
        return Err(MetaError::Format {
            path: path.to_owned(),
            found,
            known: FORMAT,
        });
    }
    Ok(found)
}

/// Makes the tables. The caller holds the lock.
pub(super) fn make(connection: &Connection, path: &Path, boot: &str) -> Result<(), MetaError> {
    let make = || {
        connection.pragma_update(None, "page_size", PAGE)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch("BEGIN IMMEDIATE")?;
        connection.execute_batch(TABLES)?;
        connection.execute("INSERT INTO durability VALUES (1, ?1, 1, 0, 0)", [boot])?;
        connection.pragma_update(None, "user_version", FORMAT)?;
        connection.execute_batch("COMMIT")
    };
    make().map_err(|source| MetaError::Open {
        path: path.to_owned(),
        source,
    })
}
