//! Small values by name.

use rusqlite::{OptionalExtension as _, params};

use super::Database;
use crate::meta::{MetaError, NamedValue, Names};

impl Names for Database {
    fn name(&self, namespace: &str, key: &[u8]) -> Result<Option<Vec<u8>>, MetaError> {
        self.query("read a name", |connection| {
            connection
                .prepare_cached("SELECT value FROM names WHERE namespace = ?1 AND name = ?2")?
                .query_row(params![namespace, key], |row| row.get(0))
                .optional()
        })
    }

    fn names(&self, namespace: &str) -> Result<Vec<NamedValue>, MetaError> {
        self.query("list names", |connection| {
            connection
                .prepare_cached("SELECT name, value FROM names WHERE namespace = ?1 ORDER BY name")?
                .query_map(params![namespace], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    fn put_names(&self, namespace: &str, named: &[(&[u8], &[u8])]) -> Result<(), MetaError> {
        self.write("write a name", |transaction| {
            let mut insert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO names
                 VALUES (?1, ?2, ?3, (SELECT current FROM durability))",
            )?;
            for (key, value) in named {
                insert.execute(params![namespace, key, value])?;
            }
            Ok(())
        })
    }

    fn remove_name(&self, namespace: &str, key: &[u8]) -> Result<(), MetaError> {
        self.write("remove a name", |transaction| {
            transaction
                .prepare_cached("DELETE FROM names WHERE namespace = ?1 AND name = ?2")?
                .execute(params![namespace, key])?;
            Ok(())
        })
    }
}
