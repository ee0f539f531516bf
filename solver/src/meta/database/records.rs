//! Cache records.

use std::collections::HashMap;
use std::fmt;

use rusqlite::types::ToSqlOutput;
use rusqlite::{
    CachedStatement, Connection, OptionalExtension as _, Params, Transaction, TransactionBehavior,
    params, params_from_iter,
};

use super::{Database, durability, stacks};
use crate::id::{CacheDigest, CacheKey, LayerId, ResultId, Selector, StackId};
use crate::meta::records::{LISTINGS, MORE_LISTINGS};
use crate::meta::{
    Link, MetaError, RecordBatch, RecordReader, RecordWriter, Records, ResultRow, WriteBody,
};

/// SQLite's number for changes by others.
pub(super) const VERSION: &str = "PRAGMA data_version";

pub(super) const TARGETS: &str = "SELECT target FROM links
    WHERE digest = ?1 AND output = ?2 AND input = ?3 AND dependency = ?4 AND selector = ?5";

pub(super) const RESULTS: &str = "SELECT result, created_at FROM results WHERE key = ?1
    ORDER BY created_at DESC, result DESC";

impl Records for Database {
    fn read(&self, body: &mut dyn FnMut(&mut dyn RecordReader)) -> Result<(), MetaError> {
        let mut inner = self.lock();
        let connection = &inner.connection;
        let mut attempt = || -> rusqlite::Result<(i64, u64)> {
            let mut reader = Reader {
                database: self,
                connection,
                transaction: None,
                seen: inner.seen,
                version: inner.version,
                targets: connection.prepare_cached(TARGETS)?,
                results: connection.prepare_cached(RESULTS)?,
            };
            reader.begin()?;
            body(&mut reader);
            Ok((reader.seen, reader.version))
        };
        let result = attempt();
        if let Ok((seen, version)) = result {
            (inner.seen, inner.version) = (seen, version);
        }
        drop(inner);
        result
            .map(|_| ())
            .map_err(|error| self.note("read the cache records", error))
    }

    fn write(&self, body: WriteBody<'_>) -> Result<(), MetaError> {
        let mut inner = self.lock();
        inner.version += 1;
        write(self, &inner.connection, body)
    }

    fn drop_result(&self, key: CacheKey, result: ResultId) -> Result<(), MetaError> {
        self.write("drop a cache record", |transaction| {
            transaction
                .prepare_cached("DELETE FROM results WHERE key = ?1 AND result = ?2")?
                .execute(params![key.as_bytes(), result.0])?;
            Ok(())
        })
    }
}

/// Runs `body` in a transaction of its own.
fn write(
    database: &Database,
    connection: &Connection,
    body: WriteBody<'_>,
) -> Result<(), MetaError> {
    let note = |error| database.note("write cache records", error);
    let transaction =
        Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(note)?;
    body(&mut Writer {
        database,
        transaction: &transaction,
        stacks: HashMap::new(),
    })?;
    durability::mark_written(&transaction).map_err(note)?;
    transaction.commit().map_err(note)
}

/// One transaction that writes.
struct Writer<'a> {
    database: &'a Database,
    transaction: &'a Transaction<'a>,
    /// Those of this transaction: what it adds mostly stands on what it added before.
    stacks: HashMap<(LayerId, i64), StackId>,
}

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl RecordWriter for Writer<'_> {
    fn add_stack(&mut self, layer: LayerId, parent: Option<StackId>) -> Result<StackId, MetaError> {
        let parent = parent.map_or(0, |parent| parent.0);
        if let Some(&known) = self.stacks.get(&(layer, parent)) {
            return Ok(known);
        }
        let added = stacks::add(self.transaction, layer, parent)
            .map_err(|error| self.database.note("add a stack", error))?;
        let added = added.ok_or(MetaError::NoParent { parent })?;
        self.stacks.insert((layer, parent), added);
        Ok(added)
    }

    fn save(&mut self, batch: &RecordBatch) -> Result<(), MetaError> {
        add(self.transaction, batch)
            .map_err(|error| self.database.note("write cache records", error))
    }
}

/// Adds the rows of `batch`.
fn add(transaction: &Transaction<'_>, batch: &RecordBatch) -> rusqlite::Result<()> {
    let mut links = transaction
        .prepare_cached("INSERT OR IGNORE INTO links VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for (link, target) in &batch.links {
        links.execute(row(link, target))?;
    }
    let mut results = transaction.prepare_cached(
        "INSERT OR REPLACE INTO results
         VALUES (?1, ?2, ?3, (SELECT current FROM durability))",
    )?;
    for (key, result) in &batch.results {
        results.execute(params![key.as_bytes(), result.0, batch.created_at])?;
    }
    let mut surplus = false;
    for (key, listing) in &batch.listings {
        let id = transaction
            .prepare_cached("INSERT OR REPLACE INTO listings (key, listing) VALUES (?1, ?2)")?
            .insert(params![key.as_bytes(), listing])?;
        surplus |= usize::try_from(id).is_ok_and(|id| id % MORE_LISTINGS == 0);
    }
    if surplus {
        transaction
            .prepare_cached("DELETE FROM listings WHERE id <= (SELECT max(id) FROM listings) - ?1")?
            .execute([i64::try_from(LISTINGS).unwrap_or(i64::MAX)])?;
    }
    Ok(())
}

/// A selector as it is stored: empty if there is none.
fn selector_of(bytes: &[u8]) -> Option<Selector> {
    bytes.try_into().ok().map(Selector::from_bytes)
}

fn selector(link: &Link) -> &[u8] {
    link.selector
        .as_ref()
        .map_or(&[], |selector| selector.as_bytes())
}

/// The columns of a link, all but where it leads to.
fn columns(link: &Link) -> [ToSqlOutput<'_>; 5] {
    [
        ToSqlOutput::from(&link.digest.as_bytes()[..]),
        ToSqlOutput::from(link.output),
        ToSqlOutput::from(link.input),
        ToSqlOutput::from(&link.dependency.as_bytes()[..]),
        ToSqlOutput::from(selector(link)),
    ]
}

/// The columns of a link that leads to `target`.
fn row<'a>(link: &'a Link, target: &'a CacheKey) -> impl Params + 'a {
    let target = ToSqlOutput::from(&target.as_bytes()[..]);
    params_from_iter(columns(link).into_iter().chain([target]))
}

struct Reader<'a> {
    database: &'a Database,
    connection: &'a Connection,
    /// Rolled back when dropped: nothing was written.
    transaction: Option<Transaction<'a>>,
    /// SQLite's number for changes by others.
    seen: i64,
    version: u64,
    targets: CachedStatement<'a>,
    results: CachedStatement<'a>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Reader<'_> {
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.transaction = None;
        self.transaction = Some(self.connection.unchecked_transaction()?);
        let now: i64 = self
            .connection
            .prepare_cached(VERSION)?
            .query_row([], |row| row.get(0))?;
        if now != self.seen {
            (self.seen, self.version) = (now, self.version + 1);
        }
        Ok(())
    }
}

impl RecordReader for Reader<'_> {
    fn write(&mut self, body: WriteBody<'_>) -> Result<(), MetaError> {
        self.transaction = None;
        self.version += 1;
        let written = write(self.database, self.connection, body);
        self.begin()
            .map_err(|error| self.database.note("read the cache records", error))?;
        written
    }

    fn version(&mut self) -> Result<u64, MetaError> {
        Ok(self.version)
    }

    fn targets(
        &mut self,
        link: &Link,
        limit: usize,
        targets: &mut Vec<CacheKey>,
    ) -> Result<(), MetaError> {
        let mut read = || {
            let mut rows = self.targets.query(columns(link))?;
            let mut left = limit;
            while left > 0
                && let Some(row) = rows.next()?
            {
                targets.push(CacheKey::from_bytes(row.get(0)?));
                left -= 1;
            }
            Ok(())
        };
        read().map_err(|error| self.database.note("read a cache link", error))
    }

    fn leads_to(&mut self, link: &Link, target: CacheKey) -> Result<bool, MetaError> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM links WHERE digest = ?1 AND output = ?2 AND input = ?3
                 AND dependency = ?4 AND selector = ?5 AND target = ?6",
            )
            .and_then(|mut statement| statement.exists(row(link, &target)))
            .map_err(|error| self.database.note("read a cache link", error))
    }

    fn results(&mut self, key: CacheKey) -> Result<Vec<ResultRow>, MetaError> {
        let mut read = || {
            self.results
                .query_map([key.as_bytes()], |row| {
                    Ok(ResultRow {
                        result: ResultId(row.get(0)?),
                        created_at: row.get(1)?,
                    })
                })?
                .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.database.note("read a cache result", error))
    }

    fn seen(&mut self, digest: CacheDigest, output: u32, input: u32) -> Result<bool, MetaError> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM links WHERE digest = ?1 AND output = ?2 AND input = ?3 LIMIT 1",
            )
            .and_then(|mut statement| statement.exists(params![digest.as_bytes(), output, input]))
            .map_err(|error| self.database.note("read a cache link", error))
    }

    fn sources(
        &mut self,
        target: CacheKey,
        limit: usize,
        links: &mut Vec<Link>,
    ) -> Result<(), MetaError> {
        let mut read = || {
            let mut statement = self.connection.prepare_cached(
                "SELECT digest, output, input, dependency, selector FROM links
                 WHERE target = ?1 LIMIT ?2",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![target.as_bytes(), limit], |row| {
                Ok(Link {
                    digest: CacheDigest::from_bytes(row.get(0)?),
                    output: row.get(1)?,
                    input: row.get(2)?,
                    dependency: CacheKey::from_bytes(row.get(3)?),
                    selector: selector_of(row.get_ref(4)?.as_blob()?),
                })
            })?;
            for row in rows {
                links.push(row?);
            }
            Ok(())
        };
        read().map_err(|error| self.database.note("read the links to a cache key", error))
    }

    fn latest(
        &mut self,
        digest: CacheDigest,
        output: u32,
        input: u32,
    ) -> Result<Vec<Link>, MetaError> {
        let read = || {
            self.connection
                .prepare_cached(
                    "SELECT dependency, selector FROM links
                     WHERE digest = ?1 AND output = ?2 AND input = ?3 AND target =
                         (SELECT links.target FROM links JOIN results ON results.key = links.target
                          WHERE digest = ?1 AND output = ?2 AND input = ?3
                          ORDER BY results.created_at DESC, results.result DESC LIMIT 1)
                     ORDER BY dependency, selector",
                )?
                .query_map(params![digest.as_bytes(), output, input], |row| {
                    Ok(Link {
                        digest,
                        output,
                        input,
                        dependency: CacheKey::from_bytes(row.get(0)?),
                        selector: selector_of(row.get_ref(1)?.as_blob()?),
                    })
                })?
                .collect::<rusqlite::Result<_>>()
        };
        read().map_err(|error| self.database.note("read the newest cache record", error))
    }

    fn listing(&mut self, content: CacheKey) -> Result<Option<Vec<u8>>, MetaError> {
        self.connection
            .prepare_cached("SELECT listing FROM listings WHERE key = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([content.as_bytes()], |row| row.get(0))
                    .optional()
            })
            .map_err(|error| self.database.note("read a listing", error))
    }
}
