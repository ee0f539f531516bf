use std::fs;
use std::path::Path;
use std::sync::Barrier;

use super::Database;
use crate::id::{CacheKey, LayerId, ResultId};
use crate::meta::{MetaError, Names as _, RecordBatch, Records as _, Stacks as _};

fn open(root: &Path) -> Database {
    Database::open(root, "boot").unwrap().database
}

#[test]
fn a_damaged_file_is_replaced_and_said_to_be() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()));
    // Otherwise the log heals the file.
    fs::remove_file(root.path().join("meta.db-wal")).unwrap();
    fs::write(
        root.path().join("meta.db"),
        b"this is no database".repeat(500),
    )
    .unwrap();
    let opened = Database::open(root.path(), "boot").unwrap();
    assert_eq!(opened.damaged, Some(root.path().join("meta.db.damaged")));
    opened.database.put_name("n", b"k", b"v").unwrap();
    drop(opened);
    let opened = Database::open(root.path(), "boot").unwrap();
    assert_eq!(opened.damaged, None);
    assert_eq!(
        opened.database.name("n", b"k").unwrap(),
        Some(b"v".to_vec())
    );
}

#[test]
fn damage_found_while_in_use_is_repaired_by_the_next_to_open() {
    let root = tempfile::tempdir().unwrap();
    let database = open(root.path());
    for key in 0..2000_u32 {
        database
            .put_name("n", &key.to_le_bytes(), &[7; 100])
            .unwrap();
    }
    let generation = crate::meta::Durability::begin_sync(&database).unwrap();
    crate::meta::Durability::finish_sync(&database, generation).unwrap();
    drop(database);
    let path = root.path().join("meta.db");
    let mut bytes = fs::read(&path).unwrap();
    let pages = bytes.len() / 1024;
    for page in 2..pages {
        bytes[page * 1024..(page + 1) * 1024].fill(0xa5);
    }
    fs::write(&path, bytes).unwrap();
    let damaged = Database::open(root.path(), "boot").and_then(|opened| {
        for key in 0..2000_u32 {
            opened.database.name("n", &key.to_le_bytes())?;
        }
        Ok(opened.damaged)
    });
    assert!(!matches!(damaged, Ok(None)), "no damage noticed");
    let opened = Database::open(root.path(), "boot").unwrap();
    opened.database.put_name("n", b"k", b"v").unwrap();
    assert_eq!(
        opened.database.name("n", b"k").unwrap(),
        Some(b"v".to_vec())
    );
}

#[test]
fn a_file_of_another_format_is_refused() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()));
    let path = root.path().join("meta.db");
    for format in [1, 99] {
        rusqlite::Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", format)
            .unwrap();
        let refused = Database::open(root.path(), "boot");
        assert!(
            matches!(refused, Err(MetaError::Format { found, .. }) if found == format),
            "{refused:?}"
        );
    }
}

#[test]
fn reading_and_opening_write_nothing() {
    let root = tempfile::tempdir().unwrap();
    let database = open(root.path());
    let stack = database.add_stack(LayerId::from_bits(1), None).unwrap();
    let sizes = || {
        ["meta.db", "meta.db-wal"].map(|name| {
            let data = fs::metadata(root.path().join(name)).unwrap();
            (data.len(), data.modified().unwrap())
        })
    };
    let before = sizes();
    let second = open(root.path());
    second.add_stack(LayerId::from_bits(1), None).unwrap();
    second.stack_chain(stack).unwrap();
    second
        .read(&mut |reader| assert!(reader.results(CacheKey::of(b"x")).unwrap().is_empty()))
        .unwrap();
    assert_eq!(sizes(), before);
}

#[test]
fn two_processes_worth_of_connections_agree() {
    let root = tempfile::tempdir().unwrap();
    let start = Barrier::new(4);
    let chains: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let database = open(root.path());
                    let mut parent = None;
                    for bits in 0..50 {
                        let layer = LayerId::from_bits(bits);
                        parent = Some(database.add_stack(layer, parent).unwrap());
                        let key = CacheKey::of(&bits.to_le_bytes());
                        let results = vec![(key, ResultId::from(parent.unwrap()))];
                        database
                            .save(&RecordBatch {
                                links: Vec::new(),
                                results,
                                created_at: 1,
                                ..RecordBatch::default()
                            })
                            .unwrap();
                    }
                    parent
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(chains.iter().all(|chain| *chain == chains[0]));
    let database = open(root.path());
    assert_eq!(database.stack_chain(chains[0].unwrap()).unwrap().len(), 50);
    let rows = |bits: u64| {
        let mut rows = Vec::new();
        database
            .read(&mut |reader| rows = reader.results(CacheKey::of(&bits.to_le_bytes())).unwrap())
            .unwrap();
        rows.len()
    };
    assert!((0..50).all(|bits| rows(bits) == 1));
}
