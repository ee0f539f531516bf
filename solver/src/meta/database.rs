//! The database as a file that many processes share.
//!
//! Owns `<root>/meta.db` (SQLite, write-ahead log, no sync on commit) and `<root>/meta.lock`, an
//! advisory lock held only while the file is made or replaced. Opening a database that is in
//! order writes nothing.
//!
//! Invariants: one connection per [`Database`], behind a mutex that is held for one short
//! transaction; a file that is not a database, or was found damaged, is moved aside to
//! `meta.db.damaged` and a new one is made.

mod durability;
mod names;
mod records;
mod schema;
mod stacks;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::MetaError;

/// How long a writer waits for the writers of other processes. Their transactions take well
/// below a millisecond each; this is for a machine that stalls.
const BUSY: Duration = Duration::from_secs(20);

/// Pages in the log before a commit also copies them into the file, which waits for the disk.
/// Far more than accumulates between two syncs, each of which does it in the background.
const LOG_PAGES: i64 = 65536;

/// Statements kept prepared: all that this module has.
const STATEMENTS: usize = 64;

/// What a solve reads that finds all it needs: prepared when the database is opened, so that the
/// first solve does not wait for it.
const READS: [&str; 5] = [
    records::VERSION,
    records::TARGETS,
    records::RESULTS,
    stacks::CHAIN,
    durability::NEEDS_SYNC,
];

/// The database of a state root. Cheap to share by `Arc`; methods may be called from any thread.
pub struct Database {
    path: PathBuf,
    inner: Mutex<Inner>,
}

/// What the mutex of [`Database`] guards.
struct Inner {
    connection: Connection,
    /// Grows with each change of the records that this process makes or notices.
    version: u64,
    /// SQLite's number for changes by others, as last seen.
    seen: i64,
}

/// A database just opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The database.
    pub database: Database,
    /// The file was damaged and was moved aside; hits are lost, which is worth a warning.
    pub damaged: Option<PathBuf>,
    /// How many records were dropped because the machine restarted before they were synced.
    pub dropped: usize,
}

impl Database {
    /// Opens `<root>/meta.db`, making it if it is not there. `boot` identifies the run of the
    /// machine (`/proc/sys/kernel/random/boot_id`): if it differs from the last one, records
    /// that were never synced are dropped.
    ///
    /// # Errors
    /// The file cannot be opened or made, or another version of the engine wrote it. A damaged
    /// file is not an error.
    pub fn open(root: &Path, boot: &str) -> Result<Opened, MetaError> {
        let path = root.join("meta.db");
        match Self::attempt(&path, boot) {
            Ok(Attempt::Ready(database, dropped)) => {
                return Ok(Opened {
                    database,
                    damaged: None,
                    dropped,
                });
            }
            Ok(Attempt::Unmade) => {}
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error),
        }
        Self::make(root, &path, boot)
    }

    /// Makes the schema, or replaces a damaged file, while no other process does either.
    fn make(root: &Path, path: &Path, boot: &str) -> Result<Opened, MetaError> {
        let lock = lock(&root.join("meta.lock"))?;
        let mut damaged = None;
        let first = match Self::attempt(path, boot) {
            Err(error) if is_damage(&error) => {
                damaged = Some(set_aside(path)?);
                Self::attempt(path, boot)?
            }
            other => other?,
        };
        let (database, dropped) = match first {
            Attempt::Ready(database, dropped) => (database, dropped),
            Attempt::Unmade => {
                schema::make(&connect(path)?, path, boot)?;
                match Self::attempt(path, boot)? {
                    Attempt::Ready(database, dropped) => (database, dropped),
                    Attempt::Unmade => return Err(MetaError::Malformed { what: "schema" }),
                }
            }
        };
        drop(lock);
        Ok(Opened {
            database,
            damaged,
            dropped,
        })
    }

    /// Opens the file if it is in order.
    fn attempt(path: &Path, boot: &str) -> Result<Attempt, MetaError> {
        if mark_of_damage(path).exists() {
            return Err(failed("open")(damage()));
        }
        let mut connection = connect(path)?;
        let found = schema::format(&connection, path)?;
        if found == 0 {
            return Ok(Attempt::Unmade);
        }
        let dropped = durability::restart(&mut connection, boot)?;
        for statement in READS {
            let prepared = connection.prepare_cached(statement);
            prepared.map_err(failed("prepare to read"))?;
        }
        let inner = Inner {
            connection,
            version: 0,
            seen: 0,
        };
        Ok(Attempt::Ready(
            Self {
                path: path.to_owned(),
                inner: Mutex::new(inner),
            },
            dropped,
        ))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic inside a transaction rolls it back; the connection stays good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` in a transaction that may write.
    fn write<R>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<R>,
    ) -> Result<R, MetaError> {
        let mut inner = self.lock();
        inner.version += 1;
        let result = (|| {
            let transaction = inner
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = body(&transaction)?;
            durability::mark_written(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })();
        drop(inner);
        result.map_err(|error| self.note(action, error))
    }

    /// Runs `body`, which only reads, outside of a transaction: one statement.
    fn query<R>(
        &self,
        action: &'static str,
        body: impl FnOnce(&Connection) -> rusqlite::Result<R>,
    ) -> Result<R, MetaError> {
        let result = body(&self.lock().connection);
        result.map_err(|error| self.note(action, error))
    }

    /// Turns an error of SQLite into ours. If it tells of damage, leaves a mark, so that the next
    /// process to open the database replaces it.
    fn note(&self, action: &'static str, source: rusqlite::Error) -> MetaError {
        let error = MetaError::Statement { action, source };
        if is_damage(&error) {
            // Without the mark the damage is found again later; nothing depends on it.
            drop(File::create(mark_of_damage(&self.path)));
        }
        error
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

enum Attempt {
    Ready(Database, usize),
    /// The file is empty.
    Unmade,
}

/// Opens a connection with our settings. The file may be empty.
fn connect(path: &Path) -> Result<Connection, MetaError> {
    let open = || {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // Plans that depend on bound values are made anew whenever other values are bound.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // Closing must not wait for the disk.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        Ok(connection)
    };
    open().map_err(|source| MetaError::Open {
        path: path.to_owned(),
        source,
    })
}

fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> MetaError {
    move |source| MetaError::Statement { action, source }
}

fn damage() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some("found damaged before".to_owned()),
    )
}

fn is_damage(error: &MetaError) -> bool {
    let (MetaError::Open { source, .. } | MetaError::Statement { source, .. }) = error else {
        return matches!(error, MetaError::Malformed { .. });
    };
    matches!(
        source.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

fn mark_of_damage(path: &Path) -> PathBuf {
    path.with_extension("db.bad")
}

/// Moves a damaged database out of the way, replacing one that was moved earlier.
fn set_aside(path: &Path) -> Result<PathBuf, MetaError> {
    let aside = path.with_extension("db.damaged");
    fs::rename(path, &aside).map_err(|source| MetaError::File {
        action: "move aside",
        path: path.to_owned(),
        source,
    })?;
    for suffix in ["db-wal", "db-shm", "db.bad"] {
        let file = path.with_extension(suffix);
        match fs::remove_file(&file) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(MetaError::File {
                    action: "remove",
                    path: file,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(aside)
}

/// Takes the lock under which the database is made; released when the file is dropped.
fn lock(path: &Path) -> Result<File, MetaError> {
    let error = |source| MetaError::File {
        action: "lock",
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(error)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| error(errno.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
