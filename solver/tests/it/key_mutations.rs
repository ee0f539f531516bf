//! CVE class 16, keys that leave something out: every field of every op is changed, one at a time,
//! and the key must change exactly where BuildKit's does.
//!
//! The tables cannot forget a field: each row list takes its message apart without `..`.

mod exec;
mod file;
mod small;

use std::sync::Arc;

use ashlar_llb::{Constraints, Definition, Graph, OpDigest, Platform, mkfile, pb};
use ashlar_solver::executor::ScriptedExecutor;
use ashlar_solver::operation::CacheMap;
use ashlar_solver::ops::keys::{KeyError, OpKey};

use crate::ops_kit::Kit;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing: what changed must not cause a miss, or is told by the keys of the inputs.
    Nothing,
    /// The digest changes.
    Digest,
    /// What is looked at in the inputs changes: a selector, or which content.
    Inputs,
    /// Both.
    Both,
}

use Effect::{Both, Digest, Inputs, Nothing};

/// One change of one field.
struct Row<T> {
    field: String,
    effect: Effect,
    change: Box<dyn Fn(&mut T)>,
}

/// Adds a row for each field of a message: `field: effect => change`. Fields after `nested` have
/// rows of their own elsewhere.
macro_rules! rows {
    ($rows:expr, $root:ty, $place:literal, $message:ident, $at:expr, {
        $($field:ident: $effect:expr => $change:expr,)*
    }, nested [$($nested:ident),*]) => {{
        #[allow(dead_code, reason = "it has to compile, not to run")]
        fn takes_apart(message: &pb::$message) {
            let pb::$message { $($field: _,)* $($nested: _,)* } = message;
        }
        $($rows.push(Row {
            field: format!("{} {}.{}", $place, stringify!($message), stringify!($field)),
            effect: $effect,
            change: Box::new(|root: &mut $root| {
                let at: fn(&mut $root) -> &mut pb::$message = $at;
                let message: &mut pb::$message = at(root);
                #[allow(clippy::redundant_closure_call, reason = "the rows are closures")]
                ($change)(&mut message.$field);
            }),
        });)*
    }};
}
use rows;

/// Applies each row to a copy of `sample` and compares what became of the key.
fn check<T: Clone>(sample: &T, key: impl Fn(&T) -> Result<OpKey, KeyError>, rows: Vec<Row<T>>) {
    let before = key(sample).unwrap();
    let mut wrong = Vec::new();
    for row in &rows {
        let mut changed = sample.clone();
        (row.change)(&mut changed);
        let after = match key(&changed) {
            Ok(after) => after,
            Err(error) => panic!("{}: {error}", row.field),
        };
        let digest = before.digest() != after.digest();
        let inputs = before.inputs != after.inputs;
        let effect = match (digest, inputs) {
            (false, false) => Nothing,
            (true, false) => Digest,
            (false, true) => Inputs,
            (true, true) => Both,
        };
        if effect != row.effect {
            let field = &row.field;
            wrong.push(format!("{field}: {effect:?} instead of {:?}", row.effect));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a solver asks of the only vertex of a definition with one op.
fn cache_map(kit: &Kit, definition: &Definition) -> CacheMap {
    let graph = Graph::load(definition).unwrap();
    let head = graph.head().unwrap();
    let vertex = graph.vertex(head.vertex);
    let operation = ashlar_solver::ops::operation(vertex, &kit.engine).unwrap();
    kit.runtime
        .block_on(operation.cache_map(&kit.context()))
        .unwrap()
}

/// What a definition says of an op beside the op itself is no part of its key.
#[test]
fn cve_class_16_metadata_and_constraints_do_not_count() {
    let kit = Kit::with(Arc::new(ScriptedExecutor::default()));
    let marshal = |constraints: Constraints| {
        let state = ashlar_llb::scratch().file(mkfile("/a", "x"));
        state.marshal(&constraints).unwrap()
    };
    let plain = || Constraints::new(Platform::linux_amd64());
    let before = cache_map(&kit, &marshal(plain()));
    let resources = pb::LinuxResources {
        memory: 1,
        memory_swap: 2,
        cpu_shares: 3,
        cpu_period: 4,
        cpu_quota: 5,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
    };
    let metadata = pb::OpMetadata {
        ignore_cache: true,
        description: [("a".to_owned(), "b".to_owned())].into(),
        export_cache: Some(pb::ExportCache { value: true }),
        caps: [("file.base".to_owned(), true)].into(),
        progress_group: Some(pb::ProgressGroup {
            id: "a".into(),
            name: "b".into(),
            weak: true,
        }),
        linux_resources: Some(resources),
    };
    let definition = marshal(plain());
    let ops = definition.ops().to_vec();
    let said = ops.iter().map(|op| (OpDigest::of(op), metadata.clone()));
    let changed = Definition::new(ops.clone(), said.collect(), None);
    assert_ne!(changed, definition);
    assert_eq!(cache_map(&kit, &changed), before);
    let filtered = marshal(plain().require(["worker.labels.a==b"]));
    assert_ne!(filtered, definition);
    assert_eq!(cache_map(&kit, &filtered), before);
}
