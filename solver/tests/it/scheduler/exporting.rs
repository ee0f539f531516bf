//! Records that solves export. A result has one layer, named by its number; even ones are blobs
//! already.

use std::sync::Arc;

use ashlar_solver::cache::{CacheMode, CacheRecords, ExportSource, ResultSource};
use ashlar_solver::error::Failure;
use ashlar_solver::id::{CacheDigest, CacheKey, ContentDigest, RecordDigest};
use ashlar_solver::operation::{Import, Results};
use ashlar_solver::scheduler::Solved;

use super::kit::*;

#[derive(Debug)]
struct Layers {
    results: Arc<Numbers>,
    imports: Vec<Import<i64>>,
}

#[async_trait::async_trait]
impl ExportSource<i64> for Layers {
    type Layer = i64;

    async fn load(&self, key: CacheKey, source: ResultSource) -> Option<i64> {
        match source {
            ResultSource::Stored(id) => self.results.load(id).await.unwrap(),
            ResultSource::Imported { import, layer } => {
                super::importing::load(&self.imports[import], key, layer).await
            }
        }
    }

    async fn layers(&self, value: &i64) -> Result<Vec<i64>, Failure> {
        Ok(vec![*value])
    }

    fn is_blob(&self, layer: &i64) -> Result<bool, Failure> {
        Ok(layer % 2 == 0)
    }
}

pub(super) async fn export(
    bench: &Bench,
    solved: &Solved<i64>,
    mode: CacheMode,
    allowed: impl Fn(usize) -> Option<bool>,
) -> CacheRecords<i64> {
    let source = Layers {
        results: bench.results.clone(),
        imports: solved.trace.imports().to_vec(),
    };
    let keys = solved.trace.keys(allowed);
    let cache = bench.scheduler.cache();
    keys.export(mode, cache, &source, 0).await.unwrap()
}

/// The record of an op.
fn op(name: &str) -> RecordDigest {
    RecordDigest::new(CacheDigest::of(name.as_bytes()), 0)
}

fn content(value: i64) -> RecordDigest {
    let key = CacheKey::content(ContentDigest::of(&value.to_le_bytes()));
    RecordDigest::from_bytes(*key.as_bytes())
}

/// Records with their results, by the names of what they may be.
fn shown(records: &CacheRecords<i64>, known: &[(&str, RecordDigest)]) -> Vec<String> {
    let name = |of: RecordDigest| {
        let found = known.iter().find(|(_, digest)| *digest == of);
        found.map_or("?", |(name, _)| name).to_owned()
    };
    let shown = records.records().iter().map(|record| {
        let inputs = record.inputs.iter().map(|links| {
            let links = links.iter().map(|link| {
                let star = if link.selector.is_some() { "*" } else { "" };
                name(records.records()[link.record].digest) + star
            });
            let mut links: Vec<String> = links.collect();
            links.sort();
            links.join("|")
        });
        let inputs: Vec<String> = inputs.collect();
        let results = record.results.iter();
        let results = results.map(|result| records.layers()[result.layer].layer.to_string());
        let results: Vec<String> = results.collect();
        let (name, inputs) = (name(record.digest), inputs.join(","));
        format!("{name}({inputs})={}", results.join("+"))
    });
    let mut shown: Vec<String> = shown.collect();
    shown.sort();
    shown
}

#[tokio::test]
async fn max_exports_all_that_has_inputs_and_min_the_last() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let a = plan.constant("a", 3);
    let odd = plan.sum("odd", &[a]);
    let even = plan.sum("even", &[odd, odd]);
    let last = plan.sum("last", &[even, a]);
    let names = [
        ("a", op("const 3 a")),
        ("odd", op("odd")),
        ("even", op("even")),
        ("last", op("last")),
    ];
    // The same when it ran, and when it was all cached.
    for round in 0..2 {
        let solved = bench.solve(&plan, &[last]).await.unwrap();
        assert_eq!(bench.log.ran().len(), if round == 0 { 4 } else { 0 });
        let shown_of = |records| shown(&records, &names);
        let max = export(&bench, &solved, CacheMode::Max, |_| None).await;
        assert_eq!(
            shown_of(max),
            ["a()=", "even(odd,odd)=6", "last(even,a)=9", "odd(a)=3"],
            "round {round}"
        );
        // 6 is a blob anyway.
        let min = export(&bench, &solved, CacheMode::Min, |_| None).await;
        assert_eq!(
            shown_of(min),
            ["a()=", "even(odd,odd)=6", "last(even,a)=9", "odd(a)="],
            "round {round}"
        );
        let known = export(&bench, &solved, CacheMode::Known, |_| None).await;
        assert_eq!(
            shown_of(known),
            ["a()=", "even(odd,odd)=6", "last(even,a)=", "odd(a)="],
            "round {round}"
        );
    }
}

/// As in BuildKit: a vertex that ran or was loaded is exported all the same.
#[tokio::test]
async fn an_override_counts_where_the_result_was_not_needed() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let a = plan.constant("a", 1);
    let (inner, outer) = {
        let inner = plan.sum("inner", &[a]);
        (inner, plan.sum("outer", &[inner]))
    };
    let names = [
        ("a", op("const 1 a")),
        ("inner", op("inner")),
        ("outer", op("outer")),
    ];
    let forbid = |vertex| (vertex != a.vertex).then_some(false);
    let solved = bench.solve(&plan, &[outer]).await.unwrap();
    let ran = export(&bench, &solved, CacheMode::Max, forbid).await;
    assert_eq!(
        shown(&ran, &names),
        ["a()=", "inner(a)=1", "outer(inner)=1"]
    );
    let solved = bench.solve(&plan, &[outer]).await.unwrap();
    let cached = export(&bench, &solved, CacheMode::Max, forbid).await;
    assert_eq!(
        shown(&cached, &names),
        ["a()=", "inner(a)=", "outer(inner)=1"]
    );
    let solved = bench.solve(&plan, &[inner, outer]).await.unwrap();
    let loaded = export(&bench, &solved, CacheMode::Max, forbid).await;
    assert_eq!(
        shown(&loaded, &names),
        ["a()=", "inner(a)=1", "outer(inner)=1"]
    );
}

#[tokio::test]
async fn keys_of_one_solve_are_not_exported_and_all_others_are() {
    let bench = Bench::new();
    let names = [
        ("op", op("op")),
        ("40", content(40)),
        ("a", op("const 41 a")),
        ("b", op("const 42 b")),
        ("further", op("further")),
    ];
    let solve = async |local: bool, name: &str, value| {
        let mut plan = bench.plan();
        let source = match local {
            true => plan.local(name, value),
            false => plan.constant(name, value),
        };
        let number = Number {
            content: vec![true],
            selector: true,
            ..plan.number("op", Kind::Sum)
        };
        let copy = plan.add(number, &[source]);
        let solved = bench.solve(&plan, &[copy]).await.unwrap();
        let records = export(&bench, &solved, CacheMode::Max, |_| None).await;
        shown(&records, &names)
    };
    assert_eq!(solve(true, "local", 41).await, ["40()=", "op(40)=40"]);
    assert_eq!(
        solve(false, "a", 41).await,
        ["40()=", "a()=", "op(40|a*)=40"]
    );
    // Of another definition, all that was learnt about the content.
    assert_eq!(
        solve(false, "b", 42).await,
        ["40()=", "a()=", "b()=", "op(40|a*|b*)=40"]
    );
    // What only one solve knows has no record, nor has what is made of it by definition.
    let mut plan = bench.plan();
    let local = plan.local("local", 1);
    let sum = plan.sum("sum", &[local]);
    let solved = bench.solve(&plan, &[sum]).await.unwrap();
    let records = export(&bench, &solved, CacheMode::Max, |_| None).await;
    assert!(records.records().is_empty());
}

/// As in BuildKit: what is made of a local directory by definition has no record, what it is made of
/// beside that directory has.
#[tokio::test]
async fn what_lies_below_a_key_of_one_solve_is_exported() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let local = plan.local("local", 1);
    let a = plan.constant("a", 3);
    let odd = plan.sum("odd", &[a]);
    let even = plan.sum("even", &[odd, a]);
    let number = Number {
        content: vec![false, true],
        ..plan.number("mixed", Kind::Sum)
    };
    let mixed = plan.add(number, &[local, even]);
    let last = plan.sum("last", &[mixed]);
    let names = [
        ("a", op("const 3 a")),
        ("odd", op("odd")),
        ("even", op("even")),
        ("tens", content(0)),
    ];
    let solved = bench.solve(&plan, &[last]).await.unwrap();
    for (mode, odd) in [(CacheMode::Max, "3"), (CacheMode::Min, "")] {
        let records = export(&bench, &solved, mode, |_| None).await;
        // 6 is a blob anyway.
        assert_eq!(
            shown(&records, &names),
            ["a()=", "even(odd,a)=6", &format!("odd(a)={odd}"), "tens()="]
        );
    }
}

#[tokio::test]
async fn both_keys_of_an_image_are_exported() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let image = plan.add(
        Number {
            further: Some("further".to_owned()),
            ..plan.number("image", Kind::Const(7))
        },
        &[],
    );
    let sum = plan.sum("sum", &[image]);
    let names = [
        ("image", op("const 7 image")),
        ("further", op("further")),
        ("sum", op("sum")),
    ];
    for _ in 0..2 {
        let solved = bench.solve(&plan, &[sum]).await.unwrap();
        let records = export(&bench, &solved, CacheMode::Max, |_| None).await;
        assert_eq!(
            shown(&records, &names),
            ["further()=", "image()=", "sum(further|image)=7"]
        );
    }
}

/// A copy of what a copy made: the record of the second is that of the first.
#[tokio::test]
async fn an_op_that_makes_its_own_input_links_to_itself_and_is_exported_once() {
    let bench = Bench::new();
    let mut plan = bench.plan();
    let local = plan.local("local", 40);
    let copy = |plan: &Plan| Number {
        content: vec![true],
        selector: true,
        ..plan.number("copy", Kind::Sum)
    };
    let once = plan.add(copy(&plan), &[local]);
    let twice = plan.add(copy(&plan), &[once]);
    let solved = bench.solve(&plan, &[twice]).await.unwrap();
    let records = export(&bench, &solved, CacheMode::Max, |_| None).await;
    let names = [("copy", op("copy")), ("40", content(40))];
    assert_eq!(shown(&records, &names), ["40()=", "copy(40)=40"]);
}
