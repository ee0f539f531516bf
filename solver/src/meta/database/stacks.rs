//! Stacks and blobs of layers.

use ashlar_llb::{BlobDigest, DiffId};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::Database;
use crate::id::{LayerId, StackId};
use crate::meta::{LayerBlob, LayerBlobs, MetaError, StackRow, Stacks};

/// SQLite's integers are signed; a layer id has 40 bits.
fn layer_column(layer: LayerId) -> i64 {
    i64::try_from(layer.bits()).unwrap_or(i64::MAX)
}

fn layer_of(column: i64) -> LayerId {
    LayerId::from_bits(u64::try_from(column).unwrap_or(0))
}

fn find(connection: &Connection, layer: LayerId, parent: i64) -> rusqlite::Result<Option<StackId>> {
    connection
        .prepare_cached("SELECT id FROM stacks WHERE layer = ?1 AND parent = ?2")?
        .query_row([layer_column(layer), parent], |row| row.get(0).map(StackId))
        .optional()
}

/// Adds a stack unless there is one of that layer and parent; `None` if there is no such parent.
pub(super) fn add(
    transaction: &Transaction<'_>,
    layer: LayerId,
    parent: i64,
) -> rusqlite::Result<Option<StackId>> {
    if parent != 0 {
        let exists = transaction
            .prepare_cached("SELECT 1 FROM stacks WHERE id = ?1")?
            .exists([parent])?;
        if !exists {
            return Ok(None);
        }
    }
    if let Some(id) = find(transaction, layer, parent)? {
        return Ok(Some(id));
    }
    transaction
        .prepare_cached(
            "INSERT INTO stacks (layer, parent, generation)
             VALUES (?1, ?2, (SELECT current FROM durability))",
        )?
        .execute([layer_column(layer), parent])?;
    Ok(Some(StackId(transaction.last_insert_rowid())))
}

/// A stack and those that were made before it, the youngest first.
pub(super) const CHAIN: &str =
    "SELECT id, layer, parent FROM stacks WHERE id <= ?1 ORDER BY id DESC";

/// Rows of other stacks that are passed over before the next one is looked for by its id.
const PASSED: usize = 8;

impl Stacks for Database {
    fn stack(&self, id: StackId) -> Result<Option<StackRow>, MetaError> {
        self.query("read a stack", |connection| {
            connection
                .prepare_cached("SELECT layer, parent FROM stacks WHERE id = ?1")?
                .query_row([id.0], |row| {
                    let parent: i64 = row.get(1)?;
                    Ok(StackRow {
                        layer: layer_of(row.get(0)?),
                        parent: (parent > 0).then_some(StackId(parent)),
                    })
                })
                .optional()
        })
    }

    fn add_stack(&self, layer: LayerId, parent: Option<StackId>) -> Result<StackId, MetaError> {
        let parent = parent.map_or(0, |parent| parent.0);
        let known = self.query("read a stack", |connection| find(connection, layer, parent))?;
        if let Some(id) = known {
            return Ok(id);
        }
        let added = self.write("add a stack", |transaction| add(transaction, layer, parent))?;
        added.ok_or(MetaError::NoParent { parent })
    }

    fn stack_chain(&self, id: StackId) -> Result<Vec<LayerId>, MetaError> {
        self.query("read a stack", |connection| {
            let mut statement = connection.prepare_cached(CHAIN)?;
            let mut chain = Vec::new();
            // Parents have smaller ids, mostly the next one: stacks are made bottom to top.
            let mut wanted = id.0;
            while wanted > 0 {
                let mut rows = statement.query([wanted])?;
                let mut passed = 0;
                while let Some(row) = rows.next()? {
                    let id: i64 = row.get(0)?;
                    if id == wanted {
                        chain.push(layer_of(row.get(1)?));
                        let parent: i64 = row.get(2)?;
                        if parent >= id {
                            return Ok(Vec::new());
                        }
                        wanted = parent;
                    } else if id < wanted {
                        // It was removed, and so is all that stands on it.
                        return Ok(Vec::new());
                    } else {
                        passed += 1;
                    }
                    if wanted == 0 || passed > PASSED {
                        break;
                    }
                }
                if chain.is_empty() {
                    break;
                }
            }
            chain.reverse();
            Ok(chain)
        })
    }

    fn is_below(&self, layer: LayerId) -> Result<bool, MetaError> {
        self.query("look for what stands on a layer", |connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM stacks AS below
                     JOIN stacks AS above ON above.parent = below.id WHERE below.layer = ?1)",
                )?
                .query_row([layer_column(layer)], |row| row.get(0))
        })
    }

    fn remove_layer(&self, layer: LayerId) -> Result<usize, MetaError> {
        self.write("remove a layer", |transaction| {
            let layer = layer_column(layer);
            let doomed: Vec<i64> = transaction
                .prepare_cached(
                    "WITH RECURSIVE doomed(id) AS (
                         SELECT id FROM stacks WHERE layer = ?1
                         UNION
                         SELECT stacks.id FROM doomed JOIN stacks ON stacks.parent = doomed.id
                     ) SELECT id FROM doomed",
                )?
                .query_map([layer], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            for id in &doomed {
                transaction
                    .prepare_cached("DELETE FROM results WHERE result = ?1")?
                    .execute([id])?;
                transaction
                    .prepare_cached("DELETE FROM stacks WHERE id = ?1")?
                    .execute([id])?;
            }
            transaction
                .prepare_cached("DELETE FROM layer_blobs WHERE layer = ?1")?
                .execute([layer])?;
            Ok(doomed.len())
        })
    }
}

impl LayerBlobs for Database {
    fn layer_blobs(&self, layer: LayerId) -> Result<Vec<LayerBlob>, MetaError> {
        self.query("read the blobs of a layer", |connection| {
            connection
                .prepare_cached(
                    "SELECT compression, digest, diff_id, size, media_type, annotations
                     FROM layer_blobs WHERE layer = ?1 ORDER BY compression",
                )?
                .query_map([layer_column(layer)], |row| {
                    Ok(LayerBlob {
                        compression: row.get(0)?,
                        digest: BlobDigest::from_bytes(row.get(1)?),
                        diff_id: DiffId::from_bytes(row.get(2)?),
                        size: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
                        media_type: row.get(4)?,
                        // They help and decide nothing: without them the blob is as good.
                        annotations: serde_json::from_str(&row.get::<_, String>(5)?)
                            .unwrap_or_default(),
                    })
                })?
                .collect()
        })
    }

    fn put_layer_blob(&self, layer: LayerId, blob: &LayerBlob) -> Result<(), MetaError> {
        self.write("write a blob of a layer", |transaction| {
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO layer_blobs
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, (SELECT current FROM durability))",
                )?
                .execute(params![
                    layer_column(layer),
                    blob.compression,
                    blob.digest.as_bytes(),
                    blob.diff_id.as_bytes(),
                    i64::try_from(blob.size).unwrap_or(i64::MAX),
                    blob.media_type,
                    serde_json::to_string(&blob.annotations).unwrap_or_default(),
                ])?;
            Ok(())
        })
    }
}
