//! Generations: which rows survive the death of the machine.

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use super::{Database, connect, failed};
use crate::meta::{Durability, Generation, MetaError};

pub(super) const NEEDS_SYNC: &str = "SELECT written > synced FROM durability";

impl Durability for Database {
    fn begin_sync(&self) -> Result<Generation, MetaError> {
        let mut inner = self.lock();
        let result = (|| {
            let transaction = inner
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let closed = transaction.query_row(
                "UPDATE durability SET current = current + 1 RETURNING current - 1",
                [],
                |row| row.get(0),
            )?;
            transaction.commit()?;
            Ok(Generation(closed))
        })();
        drop(inner);
        result.map_err(|error| self.note("close a generation", error))
    }

    fn finish_sync(&self, generation: Generation) -> Result<(), MetaError> {
        let result = self.lock().connection.execute(
            "UPDATE durability SET synced = max(synced, ?1)",
            [generation.0],
        );
        result.map_err(|error| self.note("finish a generation", error))?;
        // On a connection of its own: this waits for the disk, and others must not wait for it.
        let connection = connect(&self.path)?;
        // If another process is in the way the log is left for the next time.
        connection
            .busy_timeout(std::time::Duration::ZERO)
            .and_then(|()| connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())))
            .map_err(|error| self.note("empty the log", error))
    }

    fn needs_sync(&self) -> Result<bool, MetaError> {
        self.query("read the generation", |connection| {
            connection
                .prepare_cached(NEEDS_SYNC)?
                .query_row([], |row| row.get(0))
        })
    }
}

/// Notes that the current generation has rows. Changes nothing if that is known.
pub(super) fn mark_written(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE durability SET written = current WHERE written < current")?
        .execute([])?;
    Ok(())
}

/// Drops what was not synced if the machine restarted since, and returns how many rows went.
pub(super) fn restart(connection: &mut Connection, boot: &str) -> Result<usize, MetaError> {
    let last = last_boot(connection).map_err(failed("read the generation"))?;
    let Some(last) = last else {
        return Err(MetaError::Malformed { what: "generation" });
    };
    if last == boot {
        return Ok(0);
    }
    let mut sweep = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if last_boot(&transaction)?.as_deref() == Some(boot) {
            return Ok(0);
        }
        let mut dropped = 0;
        for table in ["results", "layer_blobs", "names", "stacks"] {
            dropped += transaction.execute(
                &format!("DELETE FROM {table} WHERE generation > (SELECT synced FROM durability)"),
                [],
            )?;
        }
        dropped += transaction.execute(
            "DELETE FROM results WHERE result > 0 AND result NOT IN (SELECT id FROM stacks)",
            [],
        )?;
        transaction.execute(
            "UPDATE durability SET boot = ?1, current = current + 1, written = synced",
            [boot],
        )?;
        transaction.commit()?;
        Ok(dropped)
    };
    sweep().map_err(failed("drop records that were not synced"))
}

fn last_boot(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT boot FROM durability", [], |row| row.get(0))
        .optional()
}
