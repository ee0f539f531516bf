//! What every implementation of [`Meta`] promises, run on the database and on its double.

use ashlar_llb::{BlobDigest, DiffId};

use super::{Database, LayerBlob, Link, Memory, Meta, MetaError, RecordBatch};
use crate::id::{CacheDigest, CacheKey, LayerId, ResultId, Selector, StackId};

/// Opens the same store again, after a restart of the machine if `restart`.
type Reopen<'a> = &'a dyn Fn(bool) -> Box<dyn Meta>;

fn on_both(check: impl Fn(Reopen<'_>)) {
    let memory = Memory::new();
    check(&|restart| {
        if restart {
            memory.restart();
        }
        Box::new(memory.clone())
    });
    let root = tempfile::tempdir().unwrap();
    let boots = std::cell::Cell::new(0);
    check(&|restart| {
        boots.set(boots.get() + i32::from(restart));
        let opened = Database::open(root.path(), &format!("boot {}", boots.get())).unwrap();
        assert_eq!(opened.damaged, None);
        Box::new(opened.database)
    });
}

fn layer(bits: u64) -> LayerId {
    LayerId::from_bits(bits)
}

fn key(name: &str) -> CacheKey {
    CacheKey::of(name.as_bytes())
}

fn link(dependency: &str) -> Link {
    Link {
        digest: CacheDigest::of(b"op"),
        output: 0,
        input: 1,
        dependency: key(dependency),
        selector: None,
    }
}

fn targets(meta: &dyn Meta, link: &Link) -> Vec<CacheKey> {
    let mut found = Vec::new();
    meta.read(&mut |reader| reader.targets(link, 10, &mut found).unwrap())
        .unwrap();
    found.sort();
    found
}

fn results(meta: &dyn Meta, key: CacheKey) -> Vec<i64> {
    let mut found = Vec::new();
    meta.read(&mut |reader| {
        found = reader
            .results(key)
            .unwrap()
            .iter()
            .map(|row| row.result.0)
            .collect();
    })
    .unwrap();
    found
}

fn version(meta: &dyn Meta) -> u64 {
    let mut version = 0;
    meta.read(&mut |reader| version = reader.version().unwrap())
        .unwrap();
    version
}

fn save_result(meta: &dyn Meta, name: &str, result: i64, created_at: i64) {
    let results = vec![(key(name), ResultId(result))];
    meta.save(&RecordBatch {
        links: Vec::new(),
        results,
        created_at,
        ..RecordBatch::default()
    })
    .unwrap();
}

#[test]
fn stacks_are_the_same_for_the_same_layers() {
    on_both(|reopen| {
        let meta = reopen(false);
        let base = meta.add_stack(layer(1), None).unwrap();
        let top = meta.add_stack(layer(2), Some(base)).unwrap();
        assert!(base.0 > 0 && top != base);
        assert_eq!(meta.add_stack(layer(1), None).unwrap(), base);
        assert_eq!(reopen(false).add_stack(layer(2), Some(base)).unwrap(), top);
        assert_ne!(meta.add_stack(layer(2), None).unwrap(), top);
        let row = meta.stack(top).unwrap().unwrap();
        assert_eq!((row.layer, row.parent), (layer(2), Some(base)));
        assert_eq!(meta.stack(base).unwrap().unwrap().parent, None);
        assert_eq!(meta.stack_chain(top).unwrap(), [layer(1), layer(2)]);
        assert_eq!(meta.stack_chain(StackId(999)).unwrap(), []);
        assert!(meta.stack(StackId(999)).unwrap().is_none());
        let orphan = meta.add_stack(layer(3), Some(StackId(999)));
        assert!(
            matches!(orphan, Err(MetaError::NoParent { parent: 999 })),
            "{orphan:?}"
        );
    });
}

#[test]
fn a_transaction_adds_all_or_nothing() {
    on_both(|reopen| {
        let meta = reopen(false);
        let base = meta.add_stack(layer(1), None).unwrap();
        let mut rows = Vec::new();
        meta.write(&mut |writer| {
            for _ in 0..2 {
                let middle = writer.add_stack(layer(2), Some(base))?;
                rows.push((middle, writer.add_stack(layer(3), Some(middle))?));
            }
            writer.save(&RecordBatch {
                results: vec![(key("a"), ResultId::from(rows[0].1))],
                ..RecordBatch::default()
            })
        })
        .unwrap();
        assert_eq!(rows[0], rows[1]);
        let (middle, top) = rows[0];
        assert_eq!(meta.add_stack(layer(2), Some(base)).unwrap(), middle);
        assert_eq!(
            reopen(false).stack_chain(top).unwrap(),
            [layer(1), layer(2), layer(3)]
        );
        assert_eq!(results(&*meta, key("a")), [top.0]);

        let failed = meta.write(&mut |writer| {
            writer.add_stack(layer(4), Some(top))?;
            writer.save(&RecordBatch {
                links: vec![(link("b"), key("b"))],
                ..RecordBatch::default()
            })?;
            writer.add_stack(layer(5), Some(StackId(999)))?;
            Ok(())
        });
        assert!(
            matches!(failed, Err(MetaError::NoParent { parent: 999 })),
            "{failed:?}"
        );
        assert_eq!(targets(&*meta, &link("b")), []);
        // No row is there of the stack that was added first.
        let next = meta.add_stack(layer(6), None).unwrap();
        assert_eq!(next.0, top.0 + 1);
    });
}

#[test]
fn a_write_within_a_read_is_seen_by_it() {
    on_both(|reopen| {
        let meta = reopen(false);
        let batch = RecordBatch {
            links: vec![(link("a"), key("a"))],
            ..RecordBatch::default()
        };
        meta.read(&mut |reader| {
            let before = reader.version().unwrap();
            assert!(!reader.leads_to(&link("a"), key("a")).unwrap());
            reader.write(&mut |writer| writer.save(&batch)).unwrap();
            assert!(reader.leads_to(&link("a"), key("a")).unwrap());
            assert_ne!(reader.version().unwrap(), before);
        })
        .unwrap();
        assert_eq!(targets(&*reopen(false), &link("a")), [key("a")]);
    });
}

#[test]
fn stacks_are_read_whatever_was_made_between_them() {
    on_both(|reopen| {
        let meta = reopen(false);
        let mut others = 1000..;
        let mut stack = None;
        let mut expected = Vec::new();
        for (at, between) in (1..).zip([0, 1, 0, 7, 8, 9, 10, 0, 40]) {
            for other in others.by_ref().take(between) {
                meta.add_stack(layer(other), stack).unwrap();
            }
            stack = Some(meta.add_stack(layer(at), stack).unwrap());
            expected.push(layer(at));
            assert_eq!(meta.stack_chain(stack.unwrap()).unwrap(), expected);
        }
    });
}

#[test]
fn a_removed_layer_takes_what_is_built_on_it() {
    on_both(|reopen| {
        let meta = reopen(false);
        let base = meta.add_stack(layer(1), None).unwrap();
        let middle = meta.add_stack(layer(2), Some(base)).unwrap();
        let top = meta.add_stack(layer(3), Some(middle)).unwrap();
        for (name, stack) in [("base", base), ("middle", middle), ("top", top)] {
            save_result(&*meta, name, stack.0, 1);
        }
        save_result(&*meta, "empty", 0, 1);
        assert!(meta.is_below(layer(2)).unwrap());
        assert!(!meta.is_below(layer(3)).unwrap());
        assert_eq!(meta.remove_layer(layer(2)).unwrap(), 2);
        assert!(!meta.is_below(layer(1)).unwrap());
        assert_eq!(results(&*meta, key("base")), [base.0]);
        assert_eq!(results(&*meta, key("middle")), [] as [i64; 0]);
        assert_eq!(results(&*meta, key("top")), [] as [i64; 0]);
        assert_eq!(results(&*meta, key("empty")), [0]);
        assert!(meta.stack(top).unwrap().is_none());
        assert_eq!(meta.remove_layer(layer(2)).unwrap(), 0);
        let again = meta.add_stack(layer(2), Some(base)).unwrap();
        assert!(again.0 > top.0, "ids are never used again");
    });
}

#[test]
fn blobs_are_kept_by_compression() {
    on_both(|reopen| {
        let meta = reopen(false);
        let blob = |compression: &str, size| LayerBlob {
            compression: compression.to_owned(),
            digest: BlobDigest::of(b"blob"),
            diff_id: DiffId::of(b"diff"),
            size,
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            annotations: [("a".to_owned(), format!("{size} \"quoted\""))].into(),
        };
        meta.put_layer_blob(layer(1), &blob("zstd", 1)).unwrap();
        meta.put_layer_blob(layer(1), &blob("gzip", 2)).unwrap();
        meta.put_layer_blob(layer(1), &blob("zstd", u64::from(u32::MAX) + 3))
            .unwrap();
        meta.put_layer_blob(layer(2), &blob("gzip", 4)).unwrap();
        let expected = [blob("gzip", 2), blob("zstd", u64::from(u32::MAX) + 3)];
        assert_eq!(reopen(false).layer_blobs(layer(1)).unwrap(), expected);
        meta.remove_layer(layer(1)).unwrap();
        assert_eq!(meta.layer_blobs(layer(1)).unwrap(), []);
        assert_eq!(meta.layer_blobs(layer(2)).unwrap().len(), 1);
    });
}

#[test]
fn names_are_kept_by_namespace() {
    on_both(|reopen| {
        let meta = reopen(false);
        meta.put_name("a", b"k", b"1").unwrap();
        meta.put_name("b", b"k", b"2").unwrap();
        meta.put_name("a", b"k", b"").unwrap();
        assert_eq!(reopen(false).name("a", b"k").unwrap(), Some(Vec::new()));
        assert_eq!(meta.name("b", b"k").unwrap(), Some(b"2".to_vec()));
        meta.put_names("a", &[(b"j\xff", b"3"), (b"k", b"")])
            .unwrap();
        let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        let all = [pair(b"j\xff", b"3"), pair(b"k", b"")];
        assert_eq!(reopen(false).names("a").unwrap(), all);
        assert_eq!(meta.names("c").unwrap(), []);
        meta.remove_name("b", b"k").unwrap();
        meta.remove_name("b", b"k").unwrap();
        assert_eq!(meta.name("b", b"k").unwrap(), None);
    });
}

#[test]
fn links_lead_to_every_key_that_was_saved() {
    on_both(|reopen| {
        let meta = reopen(false);
        let links = vec![
            (link("x"), key("one")),
            (link("x"), key("two")),
            (link("y"), key("one")),
        ];
        let batch = RecordBatch {
            links,
            results: Vec::new(),
            created_at: 5,
            ..RecordBatch::default()
        };
        meta.save(&batch).unwrap();
        meta.save(&batch).unwrap();
        let mut both = [key("one"), key("two")];
        both.sort();
        assert_eq!(targets(&*reopen(false), &link("x")), both);
        assert_eq!(targets(&*meta, &link("y")), [key("one")]);
        for other in [
            Link {
                output: 1,
                ..link("x")
            },
            Link {
                input: 0,
                ..link("x")
            },
            Link {
                digest: CacheDigest::of(b"other"),
                ..link("x")
            },
            Link {
                selector: Some(Selector::of(b"s")),
                ..link("x")
            },
        ] {
            assert_eq!(targets(&*meta, &other), [], "{other:?}");
        }
        meta.read(&mut |reader| {
            assert!(reader.seen(CacheDigest::of(b"op"), 0, 1).unwrap());
            assert!(reader.leads_to(&link("x"), key("two")).unwrap());
            assert!(!reader.leads_to(&link("y"), key("two")).unwrap());
            let mut one = Vec::new();
            reader.targets(&link("x"), 1, &mut one).unwrap();
            assert_eq!(one.len(), 1);
            assert!(!reader.seen(CacheDigest::of(b"op"), 1, 1).unwrap());
            assert!(!reader.seen(CacheDigest::of(b"op"), 0, 0).unwrap());
        })
        .unwrap();
    });
}

#[test]
fn links_are_found_from_where_they_lead() {
    on_both(|reopen| {
        let meta = reopen(false);
        let selected = Link {
            selector: Some(Selector::of(b"s")),
            ..link("x")
        };
        let other = Link {
            output: 2,
            input: 0,
            ..link("y")
        };
        let links = vec![
            (link("x"), key("one")),
            (selected, key("one")),
            (other, key("one")),
            (link("z"), key("two")),
        ];
        meta.save(&RecordBatch {
            links,
            ..RecordBatch::default()
        })
        .unwrap();
        reopen(false)
            .read(&mut |reader| {
                let mut found = Vec::new();
                reader.sources(key("one"), 10, &mut found).unwrap();
                found.sort();
                let mut expected = [link("x"), selected, other];
                expected.sort();
                assert_eq!(found, expected);
                reader.sources(key("nobody's"), 10, &mut found).unwrap();
                reader.sources(key("one"), 2, &mut found).unwrap();
                assert_eq!(found.len(), 5);
            })
            .unwrap();
    });
}

#[test]
fn the_newest_result_of_an_op_tells_its_inputs() {
    on_both(|reopen| {
        let meta = reopen(false);
        let op = CacheDigest::of(b"op");
        let latest = |meta: &dyn Meta, output| {
            let mut found = Vec::new();
            meta.read(&mut |reader| found = reader.latest(op, output, 1).unwrap())
                .unwrap();
            found
        };
        let selected = Link {
            selector: Some(Selector::of(b"s")),
            ..link("b")
        };
        let links = vec![
            (link("a"), key("first")),
            (link("b"), key("second")),
            (selected, key("second")),
            (link("c"), key("without result")),
        ];
        meta.save(&RecordBatch {
            links,
            ..RecordBatch::default()
        })
        .unwrap();
        assert_eq!(latest(&*meta, 0), []);
        save_result(&*meta, "first", 1, 10);
        assert_eq!(latest(&*meta, 0), [link("a")]);
        save_result(&*meta, "second", 2, 20);
        let mut both = [link("b"), selected];
        both.sort();
        let mut found = latest(&*reopen(false), 0);
        found.sort();
        assert_eq!(found, both);
        save_result(&*meta, "first", 3, 30);
        assert_eq!(latest(&*meta, 0), [link("a")]);
        assert_eq!(latest(&*meta, 1), []);
    });
}

#[test]
fn the_latest_listings_are_kept() {
    on_both(|reopen| {
        let meta = reopen(false);
        let name = |at: usize| key(&at.to_string());
        let listing = |meta: &dyn Meta, key| {
            let mut found = None;
            meta.read(&mut |reader| found = reader.listing(key).unwrap())
                .unwrap();
            found
        };
        let save = |at: usize, text: &[u8]| {
            meta.save(&RecordBatch {
                listings: vec![(name(at), text.to_vec())],
                ..RecordBatch::default()
            })
            .unwrap();
        };
        save(0, b"old");
        for at in 1..super::records::LISTINGS {
            save(at, b"");
        }
        assert_eq!(listing(&*reopen(false), name(0)), Some(b"old".to_vec()));
        save(0, b"new");
        let more = super::records::MORE_LISTINGS;
        let last = super::records::LISTINGS + more;
        for at in super::records::LISTINGS..=last {
            save(at, b"");
        }
        assert_eq!(listing(&*meta, name(0)), Some(b"new".to_vec()));
        assert_eq!(listing(&*meta, name(1)), None);
        assert_eq!(listing(&*meta, name(more + 2)), Some(Vec::new()));
        assert_eq!(listing(&*meta, name(last)), Some(Vec::new()));
        assert_eq!(listing(&*meta, key("nobody's")), None);
    });
}

#[test]
fn the_newest_result_comes_first() {
    on_both(|reopen| {
        let meta = reopen(false);
        save_result(&*meta, "k", 1, 10);
        save_result(&*meta, "k", -2, 30);
        save_result(&*meta, "k", 3, 20);
        assert_eq!(results(&*meta, key("k")), [-2, 3, 1]);
        save_result(&*meta, "k", 1, 40);
        assert_eq!(results(&*reopen(false), key("k")), [1, -2, 3]);
        meta.drop_result(key("k"), ResultId(-2)).unwrap();
        assert_eq!(results(&*meta, key("k")), [1, 3]);
        meta.drop_result(key("other"), ResultId(1)).unwrap();
    });
}

#[test]
fn the_version_tells_of_every_change() {
    on_both(|reopen| {
        let (meta, other) = (reopen(false), reopen(false));
        let first = version(&*meta);
        assert_eq!(version(&*meta), first);
        save_result(&*meta, "k", 0, 1);
        let second = version(&*meta);
        assert_ne!(second, first);
        save_result(&*other, "k", 0, 2);
        let third = version(&*meta);
        assert_ne!(third, second);
        assert_eq!(version(&*meta), third);
    });
}

#[test]
fn a_restart_loses_what_was_not_synced() {
    on_both(|reopen| {
        let meta = reopen(false);
        assert!(!meta.needs_sync().unwrap());
        let kept = meta.add_stack(layer(1), None).unwrap();
        save_result(&*meta, "kept", kept.0, 1);
        meta.put_name("n", b"kept", b"1").unwrap();
        assert!(meta.needs_sync().unwrap());
        let generation = meta.begin_sync().unwrap();
        let lost = meta.add_stack(layer(2), Some(kept)).unwrap();
        save_result(&*meta, "lost", kept.0, 1);
        meta.put_name("n", b"lost", b"1").unwrap();
        meta.finish_sync(generation).unwrap();
        assert!(meta.needs_sync().unwrap());
        let links = vec![(link("x"), key("one"))];
        meta.save(&RecordBatch {
            links,
            results: Vec::new(),
            created_at: 5,
            ..RecordBatch::default()
        })
        .unwrap();
        drop(meta);

        let meta = reopen(false);
        assert_eq!(results(&*meta, key("lost")), [kept.0]);
        drop(meta);

        let meta = reopen(true);
        assert_eq!(results(&*meta, key("kept")), [kept.0]);
        assert_eq!(results(&*meta, key("lost")), [] as [i64; 0]);
        assert_eq!(meta.name("n", b"kept").unwrap(), Some(b"1".to_vec()));
        assert_eq!(meta.name("n", b"lost").unwrap(), None);
        assert!(meta.stack(kept).unwrap().is_some());
        assert!(meta.stack(lost).unwrap().is_none());
        assert_eq!(
            targets(&*meta, &link("x")),
            [key("one")],
            "links are always true"
        );
        assert!(!meta.needs_sync().unwrap());
        save_result(&*meta, "new", 0, 1);
        assert!(meta.needs_sync().unwrap());
        let generation = meta.begin_sync().unwrap();
        meta.finish_sync(generation).unwrap();
        assert!(!meta.needs_sync().unwrap());
        drop(meta);
        assert_eq!(results(&*reopen(true), key("new")), [0]);
    });
}
