//! Solves that have work in common.

use std::collections::BTreeMap;

use ashlar_solver::cancel::Cancel;
use shuttle::rand::Rng as _;

use crate::kit::{Same, Store, in_all_orders, in_many_orders, solve};
use crate::scheduler::{Graph, SolveError, VertexStatus};
use crate::sync::Arc;

fn once(names: &[&str]) -> BTreeMap<String, usize> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

/// A diamond whose middle is used twice.
fn diamond(store: &Store) -> (Arc<Graph<i64>>, crate::scheduler::Edge) {
    let mut plan = store.plan();
    let (a, b) = (plan.constant("a", 1), plan.constant("b", 2));
    let left = plan.sum("left", &[a, b]);
    let right = plan.copy("right", &[a]);
    let top = plan.sum("top", &[left, right, left]);
    (plan.graph(), top)
}

static DIAMOND: Same = Same::new();

fn solves_of_one_graph(solves: usize) {
    let store = Store::new();
    let scheduler = store.scheduler();
    let (graph, top) = diamond(&store);
    let tasks: Vec<_> = (0..solves)
        .map(|_| solve(scheduler.clone(), graph.clone(), top, Cancel::new()))
        .map(shuttle::future::spawn)
        .collect();
    shuttle::future::block_on(async {
        for task in tasks {
            let solved = task.await.unwrap().unwrap();
            assert_eq!(solved.values, [7]);
            DIAMOND.keys(&graph, &solved);
        }
    });
    let all = once(&["a", "b", "left", "right", "top"]);
    assert_eq!((store.log.began(), store.log.ended()), (all.clone(), all));
}

#[test]
fn equal_vertices_run_once_in_any_order() {
    in_many_orders(|| solves_of_one_graph(3));
    in_many_orders(|| solves_of_one_graph(2));
}

#[test]
fn two_solves_of_one_vertex_in_every_order() {
    let model = || {
        let store = Store::new();
        let scheduler = store.scheduler();
        let mut plan = store.plan();
        let only = plan.constant("only", 1);
        let graph = plan.graph();
        let one = solve(scheduler.clone(), graph.clone(), only, Cancel::new());
        let two = solve(scheduler, graph, only, Cancel::new());
        let (one, two) = (shuttle::future::spawn(one), shuttle::future::spawn(two));
        shuttle::future::block_on(async {
            assert_eq!(one.await.unwrap().unwrap().values, [1]);
            assert_eq!(two.await.unwrap().unwrap().values, [1]);
        });
        assert_eq!(store.log.ended(), once(&["only"]));
    };
    in_all_orders(model);
}

static CONTENT: Same = Same::new();

/// Each solve has a local source of its own; what is made of it is keyed by content.
#[test]
fn copies_of_equal_local_sources_run_once_in_any_order() {
    let model = || {
        let store = Store::new();
        let scheduler = store.scheduler();
        let solves: Vec<_> = [10, 10, 20]
            .map(|value| {
                let mut plan = store.plan();
                let local = plan.local(&format!("local {value}"), value);
                let copied = plan.copy("copy", &[local]);
                let top = plan.sum("top", &[copied]);
                let graph = plan.graph();
                let solved = solve(scheduler.clone(), graph.clone(), top, Cancel::new());
                (value, graph, shuttle::future::spawn(solved))
            })
            .into();
        shuttle::future::block_on(async {
            for (value, graph, task) in solves {
                let solved = task.await.unwrap().unwrap();
                assert_eq!(solved.values, [value]);
                if value == 10 {
                    CONTENT.keys(&graph, &solved);
                }
            }
        });
        let ended = store.log.ended();
        assert_eq!((ended["copy"], ended["top"]), (2, 2), "{ended:?}");
    };
    in_many_orders(model);
}

/// One of three solves is cancelled at any time, or dropped: the others do not notice.
#[test]
fn cancelling_one_solve_never_disturbs_another() {
    let model = || {
        let store = Store::new();
        let scheduler = store.scheduler();
        let (graph, top) = diamond(&store);
        let cancel = Cancel::new();
        let ending = solve(scheduler.clone(), graph.clone(), top, cancel.clone());
        let ending = shuttle::future::spawn(ending);
        let staying: Vec<_> = (0..2)
            .map(|_| solve(scheduler.clone(), graph.clone(), top, Cancel::new()))
            .map(shuttle::future::spawn)
            .collect();
        let drops = shuttle::rand::thread_rng().gen_bool(0.5);
        shuttle::future::block_on(async {
            for _ in 0..shuttle::rand::thread_rng().gen_range(0..12) {
                shuttle::future::yield_now().await;
            }
            if drops {
                ending.abort();
            } else {
                cancel.cancel();
                match ending.await.unwrap() {
                    Ok(solved) => assert_eq!(solved.values, [7]),
                    Err(error) => assert!(matches!(error, SolveError::Cancelled), "{error}"),
                }
            }
            for task in staying {
                let solved = task.await.unwrap().unwrap();
                assert_eq!(solved.values, [7]);
                DIAMOND.keys(&graph, &solved);
            }
        });
        // What the solve that ended was at may be done once more.
        let (began, ended) = (store.log.began(), store.log.ended());
        assert_eq!(ended.len(), 5);
        for (name, &began) in &began {
            assert!(
                began <= 2 && ended[name] <= began,
                "{name}: {began} {ended:?}"
            );
        }
    };
    in_many_orders(model);
}

/// Two schedulers on one store, as two processes have.
#[test]
fn two_processes_run_each_vertex_once_in_any_order() {
    let model = || {
        let store = Store::new();
        let (graph, top) = diamond(&store);
        let processes = [store.scheduler(), store.scheduler()];
        let tasks: Vec<_> = processes
            .map(|scheduler| solve(scheduler, graph.clone(), top, Cancel::new()))
            .map(shuttle::future::spawn)
            .into();
        shuttle::future::block_on(async {
            for task in tasks {
                let solved = task.await.unwrap().unwrap();
                assert_eq!(solved.values, [7]);
                DIAMOND.keys(&graph, &solved);
            }
        });
        let all = once(&["a", "b", "left", "right", "top"]);
        assert_eq!((store.log.began(), store.log.ended()), (all.clone(), all));
    };
    in_many_orders(model);
}

/// Graphs made at random, overlapping, each solved by two processes of two solves.
#[test]
fn overlapping_graphs_made_at_random() {
    let model = || {
        let store = Store::new();
        let processes = [store.scheduler(), store.scheduler()];
        let mut random = shuttle::rand::thread_rng();
        let (a, b) = (random.gen_range(0..3), random.gen_range(0..3));
        let mut tasks = Vec::new();
        for number in 0..4_usize {
            let mut plan = store.plan();
            let mut edges = vec![
                (plan.constant("a", a), a),
                (plan.constant("b", b), b),
                (plan.local("local", 5), 5),
            ];
            for at in 0..random.gen_range(1..4) {
                let (x, y) = (
                    edges[random.gen_range(0..edges.len())],
                    edges[random.gen_range(0..edges.len())],
                );
                let copies = random.gen_bool(0.5);
                // Equal names, equal ops.
                let name = format!("{} {at}", if copies { "copy" } else { "sum" });
                let inputs = [x.0, y.0];
                let edge = if copies {
                    plan.copy(&name, &inputs)
                } else {
                    plan.sum(&name, &inputs)
                };
                edges.push((edge, x.1 + y.1));
            }
            let (top, value) = *edges.last().unwrap();
            let scheduler = processes[number % 2].clone();
            let solved = solve(scheduler, plan.graph(), top, Cancel::new());
            tasks.push((shuttle::future::spawn(solved), value));
        }
        shuttle::future::block_on(async {
            for (task, value) in tasks {
                let solved = task.await.unwrap().unwrap();
                assert_eq!(solved.values, [value]);
                let top = &solved.report.last().unwrap().status;
                assert_ne!(*top, VertexStatus::Unreachable);
            }
        });
    };
    in_many_orders(model);
}
