//! What is deferred is found as if it were stored.

use std::sync::Arc;

use super::{MOST, NewRecords, NewResult};
use crate::cache::index::Targets;
use crate::cache::{Cache, ContentListing, InputPart, Lookup};
use crate::id::{CacheDigest, CacheKey, LayerId, ResultId, StackId};
use crate::meta::{Link, Memory, MetaError, RecordBatch, RecordWriter, Records, Stacks};

/// A layer on a stack.
#[derive(Debug)]
struct Layer(u64, Option<StackId>);

impl NewResult for Layer {
    fn store(&mut self, writer: &mut dyn RecordWriter) -> Result<ResultId, MetaError> {
        let added = writer.add_stack(LayerId::from_bits(self.0), self.1)?;
        Ok(ResultId::from(added))
    }

    fn stored(&mut self) {}
}

fn digest() -> CacheDigest {
    CacheDigest::of(b"op")
}

fn link(at: u64) -> Link {
    Link {
        digest: digest(),
        output: 0,
        input: 0,
        dependency: CacheKey::of(&at.to_le_bytes()),
        selector: None,
    }
}

fn target(at: u64) -> CacheKey {
    let part = InputPart::new(link(at).dependency, None);
    CacheKey::derive(digest(), 0, &[part])
}

/// What a vertex leaves behind whose result is a layer on `parent`.
fn new(at: u64, parent: Option<StackId>) -> NewRecords {
    NewRecords {
        batch: RecordBatch {
            links: vec![(link(at), target(at))],
            listings: vec![(link(at).dependency, ContentListing::default().encode())],
            created_at: 1,
            ..RecordBatch::default()
        },
        results: vec![(Box::new(Layer(at, parent)), vec![target(at)])],
    }
}

/// Whether another process sees what vertex `at` left behind.
fn is_stored(records: &Memory, at: u64) -> bool {
    let mut found = false;
    records
        .read(&mut |reader| found = reader.leads_to(&link(at), target(at)).unwrap())
        .unwrap();
    found
}

#[test]
fn what_is_deferred_is_stored_before_it_is_read() {
    type Question = fn(&mut Lookup<'_>) -> bool;
    let questions: [Question; 7] = [
        |lookup| lookup.targets(&link(1)) == Targets::One(target(1)),
        |lookup| lookup.leads_to(&link(1), target(1)),
        |lookup| lookup.results(target(1)).len() == 1,
        |lookup| lookup.sources(target(1)).len() == 1,
        |lookup| lookup.seen(digest(), 0, 0),
        |lookup| lookup.latest(digest(), 0, 0) == [link(1)],
        |lookup| lookup.listing(link(1).dependency).is_some(),
    ];
    for question in questions {
        let records = Memory::new();
        let cache = Cache::new(Arc::new(records.clone()));
        assert!(!cache.read(question));
        cache.defer(new(1, None)).unwrap();
        assert!(cache.has_deferred() && !is_stored(&records, 1));
        // Something else.
        cache.read(|lookup| {
            assert_eq!(lookup.targets(&link(2)), Targets::None);
            assert!(lookup.results(target(2)).is_empty());
        });
        assert!(cache.has_deferred());
        assert!(cache.read(question));
        assert!(!cache.has_deferred() && is_stored(&records, 1));
    }
}

#[test]
fn what_is_deferred_is_stored_with_what_comes_after_it() {
    let records = Memory::new();
    let cache = Cache::new(Arc::new(records.clone()));
    cache.defer(new(1, None)).unwrap();
    cache.save(new(2, None)).unwrap();
    assert!(is_stored(&records, 1) && is_stored(&records, 2));
    let full = 2 + u64::try_from(MOST).unwrap();
    for at in 3..full {
        cache.defer(new(at, None)).unwrap();
        assert!(!is_stored(&records, 3));
    }
    cache.defer(new(full, None)).unwrap();
    assert!((3..=full).all(|at| is_stored(&records, at)));
    cache.defer(new(full + 1, None)).unwrap();
    cache.store_deferred().unwrap();
    assert!(is_stored(&records, full + 1));
}

#[test]
fn a_result_that_cannot_be_kept_costs_nothing_else() {
    let records = Memory::new();
    let cache = Cache::new(Arc::new(records.clone()));
    let base = records.add_stack(LayerId::from_bits(9), None).unwrap();
    cache.defer(new(1, Some(StackId(base.0 + 100)))).unwrap();
    cache.defer(new(2, Some(base))).unwrap();
    let lost = cache.store_deferred();
    assert!(matches!(lost, Err(MetaError::NoParent { .. })), "{lost:?}");
    assert!(is_stored(&records, 1) && is_stored(&records, 2));
    let kept = |at| cache.read(|lookup| lookup.results(target(at)).len());
    assert_eq!((kept(1), kept(2)), (0, 1));
}
