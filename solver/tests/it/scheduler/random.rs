//! Random graphs against a model that computes values and keys by recursion.

use std::collections::{BTreeMap, BTreeSet};

use ashlar_solver::scheduler::Edge;
use proptest::prelude::*;

use super::kit::{Bench, Gate, Kind, Number, Plan, edge};

/// One vertex of a random graph; inputs are taken modulo what is there.
#[derive(Debug, Clone)]
struct Shape {
    kind: u8,
    value: i64,
    inputs: Vec<(usize, u32, bool)>,
    wait: u8,
    deferrable: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    let input = (any::<usize>(), 0..2_u32, any::<bool>());
    (
        0..8_u8,
        0..100_i64,
        proptest::collection::vec(input, 1..4),
        0..3_u8,
        any::<bool>(),
    )
        .prop_map(|(kind, value, inputs, wait, deferrable)| Shape {
            kind,
            value,
            inputs,
            wait,
            deferrable,
        })
}

/// What the model knows of an edge: its value, and a text that is equal exactly for equal keys.
#[derive(Debug, Clone)]
struct Modelled {
    value: i64,
    key: String,
    volatile: bool,
}

struct World {
    plan: Plan,
    outputs: Vec<Edge>,
    /// By vertex: its edges.
    model: Vec<Vec<Modelled>>,
    names: Vec<String>,
}

fn world(bench: &Bench, shapes: &[Shape], solve: usize) -> World {
    let mut plan = bench.plan();
    let mut model: Vec<Vec<Modelled>> = Vec::new();
    let mut names = Vec::new();
    for (at, shape) in shapes.iter().enumerate() {
        let leaf = at == 0 || shape.kind < 2;
        let volatile = leaf && shape.kind == 0;
        let kind = match shape.kind {
            _ if leaf => Kind::Const(shape.value),
            2 => Kind::SumAndProduct,
            _ => Kind::Sum,
        };
        let mut number = Number {
            volatile,
            deferrable: shape.deferrable,
            gate: if shape.wait == 0 {
                Gate::Open
            } else {
                Gate::Yield(shape.wait)
            },
            ..plan.number(&format!("v{at}"), kind)
        };
        let mut inputs = Vec::new();
        for &(from, output, content) in if leaf { &[][..] } else { &shape.inputs } {
            let from = from % at;
            let outputs = u32::try_from(model[from].len()).unwrap();
            inputs.push(edge(from, output % outputs));
            number.content.push(content);
        }
        let of = |input: &Edge| &model[input.vertex][usize::try_from(input.output).unwrap()];
        let values: Vec<i64> = inputs.iter().map(|input| of(input).value).collect();
        let mut key = match (leaf, volatile) {
            (true, true) => format!("local {at} in {solve}"),
            (true, false) => format!("const {at} {}", shape.value),
            _ => format!("v{at}"),
        };
        let mut key_volatile = volatile;
        for (number_of, input) in inputs.iter().enumerate() {
            if number.content[number_of] {
                key += &format!("[content {}]", of(input).value.div_euclid(10));
            } else {
                key += &format!("[{}]", of(input).key);
                key_volatile |= of(input).volatile;
            }
        }
        let edges = number
            .compute(&values)
            .into_iter()
            .enumerate()
            .map(|(output, value)| Modelled {
                value,
                key: format!("{key}@{output}"),
                volatile: key_volatile,
            });
        model.push(edges.collect());
        names.push(number.name.clone());
        plan.add(number, &inputs);
    }
    let last = shapes.len() - 1;
    let outputs = vec![edge(last, 0), edge(last / 2, 0)];
    World {
        plan,
        outputs,
        model,
        names,
    }
}

/// Keys of vertices, by name, that the cache may know.
type Known = BTreeSet<String>;

async fn check(bench: &Bench, world: &World, known: &mut Known) -> Result<(), TestCaseError> {
    let solved = bench.solve(&world.plan, &world.outputs).await;
    let solved = solved.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let expected: Vec<i64> = world
        .outputs
        .iter()
        .map(|output| world.model[output.vertex][0].value)
        .collect();
    prop_assert_eq!(&solved.values, &expected);
    let runs = bench.log.take_runs();
    let by_name: BTreeMap<_, _> = world.names.iter().zip(&world.model).collect();
    for (name, count) in &runs {
        prop_assert_eq!(*count, 1, "{} ran more than once", name);
        let edge = &by_name[name][0];
        let fresh = edge.volatile || !known.contains(&edge.key);
        prop_assert!(fresh, "{} ran though its key {} is known", name, edge.key);
    }
    for output in &world.outputs {
        let edge = &world.model[output.vertex][0];
        let name = &world.names[output.vertex];
        let fresh = edge.volatile || !known.contains(&edge.key);
        prop_assert_eq!(
            fresh,
            runs.contains_key(name),
            "{} with key {}",
            name,
            edge.key
        );
    }
    for (name, edges) in by_name {
        if runs.contains_key(name) && !edges[0].volatile {
            known.insert(edges[0].key.clone());
        }
    }
    Ok(())
}

fn on_a_runtime(
    threads: usize,
    work: impl Future<Output = Result<(), TestCaseError>>,
) -> Result<(), TestCaseError> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_time().build().unwrap().block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn solves_agree_with_the_model(
        shapes in proptest::collection::vec(shape(), 1..14),
        changes in proptest::collection::vec((any::<usize>(), 0..100_i64), 0..4),
        threads in 1..3_usize,
    ) {
        on_a_runtime(threads, async {
            let bench = Bench::new();
            let mut known = Known::new();
            let mut shapes = shapes.clone();
            for solve in 0..2 {
                check(&bench, &world(&bench, &shapes, solve), &mut known).await?;
            }
            for (at, &(which, value)) in changes.iter().enumerate() {
                let which = which % shapes.len();
                shapes[which].value = value;
                check(&bench, &world(&bench, &shapes, 2 + at), &mut known).await?;
            }
            Ok(())
        })?;
    }

    #[test]
    fn lost_results_change_no_value(
        shapes in proptest::collection::vec(shape(), 1..14),
        losses in proptest::collection::vec(any::<u64>(), 1..4),
    ) {
        on_a_runtime(1, async {
            let bench = Bench::new();
            let world = world(&bench, &shapes, 0);
            check(&bench, &world, &mut Known::new()).await?;
            for lost in &losses {
                bench.results.lose(|id| lost >> (id % 64) & 1 == 1);
                let solved = bench.solve(&world.plan, &world.outputs).await.unwrap();
                for (value, output) in solved.values.iter().zip(&world.outputs) {
                    prop_assert_eq!(*value, world.model[output.vertex][0].value);
                }
                prop_assert!(bench.log.take_runs().values().all(|&count| count == 1));
            }
            bench.results.lose(|_| true);
            check(&bench, &world, &mut Known::new()).await
        })?;
    }

    #[test]
    fn ignoring_the_cache_changes_no_value(
        shapes in proptest::collection::vec(shape(), 1..14),
        ignoring in proptest::collection::vec(any::<usize>(), 1..4),
    ) {
        on_a_runtime(1, async {
            let bench = Bench::new();
            let mut world = world(&bench, &shapes, 0);
            check(&bench, &world, &mut Known::new()).await?;
            for at in &ignoring {
                world.plan.ignore_cache(edge(at % shapes.len(), 0));
            }
            let solved = bench.solve(&world.plan, &world.outputs).await.unwrap();
            for (value, output) in solved.values.iter().zip(&world.outputs) {
                prop_assert_eq!(*value, world.model[output.vertex][0].value);
                if world.plan.graph.vertices[output.vertex].ignore_cache {
                    let name = &world.names[output.vertex];
                    prop_assert!(bench.log.runs.lock().unwrap().contains_key(name));
                }
            }
            prop_assert!(bench.log.take_runs().values().all(|&count| count == 1));
            Ok(())
        })?;
    }
}
