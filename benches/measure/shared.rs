//! Graphs of many vertices: solved by many at a time, in a grid, as layers on each other.

use std::time::Instant;

use ashlar_llb::{Definition, FileActions, State, diff, merge, mkdir, mkfile, scratch};
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::{SolveRequest, Solver};
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::runtime::Runtime;

use crate::sample::{MOMENTS, Times, definition, runtime, shell, solve, solver};
use crate::space::Space;
use crate::table::Row;
use crate::{Outcome, Size};

/// How many solve at the same time.
const CLIENTS: usize = 16;

/// Layers that are merged, or that a difference is made of.
const LAYERS: usize = 20;

/// Files in each of them, of [`FILE_SIZE`] bytes.
const FILES: usize = 200;

const FILE_SIZE: usize = 4096;

/// File ops in a grid: each makes a file, on the op to the left, and copies one from the op above.
fn grid(name: &str, rows: usize, columns: usize) -> State {
    let mut above: Vec<State> = Vec::new();
    for row in 0..rows {
        let mut line: Vec<State> = Vec::new();
        for column in 0..columns {
            let left = line.last().cloned().unwrap_or_else(scratch);
            let file = format!("/{name}-{row}-{column}");
            let mut actions: FileActions = mkfile(&file, file.clone()).into();
            if let Some(above) = above.get(column) {
                let from = format!("/{name}-{}-{column}", row - 1);
                actions = actions.copy(above, &from, &from).into();
            }
            line.push(left.file(actions));
        }
        above = line;
    }
    above.pop().unwrap_or_else(scratch)
}

/// The files of a layer, as one op.
fn layer(name: &str, number: usize) -> FileActions {
    let directory = format!("/{name}-{number}");
    let mut actions: FileActions = mkdir(&directory).into();
    for file in 0..FILES {
        let mut content = format!("{name} {number} {file}\n");
        content.push_str(&" ".repeat(FILE_SIZE - content.len()));
        actions = actions
            .mkfile(format!("{directory}/{file}"), content)
            .into();
    }
    actions
}

fn merged(name: &str) -> State {
    merge((0..LAYERS).map(|number| scratch().file(layer(name, number)))).into()
}

fn difference(name: &str) -> State {
    let base = scratch().file(mkfile("/base", name.to_owned()));
    let top = (0..LAYERS).fold(base.clone(), |state, number| {
        state.file(layer(name, number))
    });
    diff(base, top).into()
}

fn together(runtime: &Runtime, solver: &Solver, request: &SolveRequest) -> Outcome<Times> {
    let mut times = Times::default();
    let start = Instant::now();
    let solves = (0..CLIENTS).map(|_| solver.solve(request.clone()).result());
    let all = runtime.block_on(try_join_all(solves))?;
    times.add(start.elapsed());
    let cached = |vertex: &VertexStatus| !matches!(vertex, VertexStatus::Ran(_));
    for solved in all {
        assert!(solved.vertices.iter().all(|vertex| cached(&vertex.status)));
    }
    Ok(times)
}

pub(crate) fn measure(size: Size) -> Outcome {
    let runtime = runtime()?;
    let space = Space::new(2)?;
    space.announce();
    let solver = solver(&runtime, &space.path().join("state"))?;
    concurrent(&runtime, &solver, size)?;
    cold_grid(&runtime, &solver, size)?;
    let what = format!("merge of {LAYERS} layers of {FILES} files");
    layers(
        &runtime,
        &solver,
        &space,
        size,
        &what,
        merged,
        ("200 ms", "10 ms"),
    )?;
    let what = format!("diff over {LAYERS} layers of {FILES} files");
    layers(
        &runtime,
        &solver,
        &space,
        size,
        &what,
        difference,
        ("600 ms", "—"),
    )
}

fn concurrent(runtime: &Runtime, solver: &Solver, size: Size) -> Outcome {
    let request = SolveRequest::new(definition(&grid("warm", 15, 20))?);
    solve(runtime, solver, request.clone())?;
    let mut times = Times::default();
    for _ in 0..size.pick(30, 5) {
        times.add(together(runtime, solver, &request)?.median());
    }
    let what = format!("{CLIENTS} solves at a time of one graph of 300 vertices, warm");
    Row::times(&what, &times).target("15 ms").print();
    Ok(())
}

fn cold_grid(runtime: &Runtime, solver: &Solver, size: Size) -> Outcome {
    let (rows, columns) = size.pick((25, 40), (10, 20));
    let count = rows * columns;
    for (moment, durability) in MOMENTS {
        let mut times = Times::default();
        for sample in 0..size.pick(5, 2) {
            let name = format!("grid-{sample}-{durability:?}");
            let request = SolveRequest::new(definition(&grid(&name, rows, columns))?);
            let (time, solved) = solve(runtime, solver, request.durability(durability))?;
            assert_eq!(solved.ran(), count, "each op runs");
            times.add(time);
        }
        let what = format!("{count} file ops in a grid, {moment}");
        let row = Row::times(&what, &times);
        match count == 1000 && moment == MOMENTS[0].0 {
            true => row.target("250 ms").print(),
            false => row.print(),
        }
    }
    Ok(())
}

fn layers(
    runtime: &Runtime,
    solver: &Solver,
    space: &Space,
    size: Size,
    what: &str,
    graph: impl Fn(&str) -> State,
    (cold_target, warm_target): (&str, &str),
) -> Outcome {
    let template = space.path().join("template");
    for number in 0..LAYERS {
        let directory = template.join(number.to_string());
        std::fs::create_dir_all(&directory)?;
        for file in 0..FILES {
            std::fs::write(directory.join(file.to_string()), [b' '; FILE_SIZE])?;
        }
    }
    let (mut warm, mut sent) = (Times::default(), Times::default());
    for (moment, durability) in MOMENTS {
        let (mut cold, mut plain) = (Times::default(), Times::default());
        for sample in 0..size.pick(5, 2) {
            let name = format!("{}-{sample}-{durability:?}", &what[..5]);
            let definition = definition(&graph(name.trim()))?;
            let bytes = Bytes::from(definition.encode());
            let request = SolveRequest::new(definition).durability(durability);
            let (time, solved) = solve(runtime, solver, request.clone())?;
            assert!(solved.ran() > LAYERS, "each op runs");
            cold.add(time);
            for _ in 0..size.pick(5, 1) {
                let (time, solved) = solve(runtime, solver, request.clone())?;
                assert_eq!(solved.ran(), 0, "all is cached");
                warm.add(time);
                let start = Instant::now();
                let request = SolveRequest::new(Definition::decode(bytes.clone())?);
                let (_, solved) = solve(runtime, solver, request)?;
                sent.add(start.elapsed());
                assert_eq!(solved.ran(), 0, "all is cached");
            }
            let copy = space.path().join("copy");
            let sync = if moment == MOMENTS[1].0 {
                "&& sync -f"
            } else {
                "&& :"
            };
            let (from, to) = (template.display(), copy.display());
            plain.add(shell(&format!("cp -a {from} {to} {sync} {to}"))?);
            std::fs::remove_dir_all(copy)?;
        }
        let what = format!("{what}, cold, {moment}");
        let mut row = Row::times(&what, &cold).peer("cp -a of the files", &cold, &plain);
        if moment == MOMENTS[0].0 {
            row = row.target(cold_target);
        }
        row.print();
    }
    for (how, times) in [("warm", warm), ("warm, decoded anew", sent)] {
        let what = format!("{what}, {how}");
        let row = Row::times(&what, &times);
        match warm_target {
            "—" => row.print(),
            target => row.target(target).print(),
        }
    }
    Ok(())
}
