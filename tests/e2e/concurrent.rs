//! Several solves at a time: in one solver, and in two processes on one root.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Cache, Constraints, Mount, Platform, State, copy, mkfile};
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::SolveRequest;
use futures::future::join_all;

use super::support::{self, Need, Tree, build, child, file, files, ran, run, skipped, solve, temp};

/// A few files from `context`, by way of several layers.
fn file_graph() -> State {
    let context = llb::local("context");
    let one = llb::scratch().file(
        copy(&context, "/", "/all")
            .contents_only()
            .create_dest_path(),
    );
    let two = llb::scratch().file(copy(&context, "/name", "/name"));
    let merged = llb::merge([one, two]);
    merged
        .file(mkfile("/end", "end\n"))
        .file(copy(&merged, "/name", "/again"))
}

fn file_tree(name: &str) -> Tree {
    let name = file(0o644, name.as_bytes());
    let files = [("again", &name), ("all/name", &name), ("name", &name)];
    let mut tree: Tree = files
        .map(|(path, text)| (path.to_owned(), text.clone()))
        .into();
    tree.insert("all".to_owned(), "directory 755".to_owned());
    tree.insert("end".to_owned(), file(0o644, b"end\n"));
    tree
}

#[test]
fn concurrent_solves_with_different_locals() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        for round in 0..10 {
            let work = (0..4).map(|number| {
                let name = format!("{}", round * 10 + number);
                let context = folder.path().join(&name);
                support::write(context.join("name"), &name);
                // The same bytes for all of them.
                let request = support::request(&file_graph()).local("context", context);
                let solver = solver.clone();
                async move { (build(&solver, request).await, name) }
            });
            for (tree, name) in join_all(work).await {
                assert_eq!(tree, file_tree(&name));
            }
        }
    });
}

/// Steps that count their runs in a cache mount, side by side and in a chain.
fn counting_graph() -> State {
    let counted = |state: &State, name: &str| {
        let line = format!("echo {name} >> /runs/log && echo {name} > /{name} && sleep 0.2");
        let step = state.run(["sh".to_owned(), "-c".to_owned(), line]);
        step.mount("/runs", Cache::locked("runs"))
            .custom_name(name)
            .root()
    };
    let base = support::busybox_state();
    let first = counted(&base, "first");
    let (left, right) = (counted(&first, "left"), counted(&first, "right"));
    let out = copy(&left, "/left", "/left").copy(&right, "/right", "/right");
    llb::scratch().file(out.custom_name("take"))
}

#[test]
fn sixteen_solves_of_one_graph_run_each_vertex_once() {
    let test = "sixteen_solves_of_one_graph_run_each_vertex_once";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let base = support::busybox(folder.path());
        let solver = support::solver(folder.path().join("state"));
        let request = support::request(&counting_graph()).local("base", &base);
        let solves = (0..16).map(|_| solve(&solver, request.clone()));
        let mut runs: HashMap<String, usize> = HashMap::new();
        for solved in join_all(solves).await {
            for vertex in &solved.vertices {
                if matches!(vertex.status, VertexStatus::Ran(_)) {
                    *runs.entry(vertex.name.to_string()).or_default() += 1;
                }
            }
            assert_eq!(files(&solved).await.len(), 2);
        }
        // A local directory is looked at by each solve that asks for it.
        runs.remove("busybox");
        let expected = ["base", "first", "left", "right", "take"];
        assert_eq!(runs, expected.map(|name| (name.to_owned(), 1)).into());

        let log = support::busybox_state()
            .run(["cp", "/runs/log", "/log"])
            .mount("/runs", Cache::locked("runs"))
            .root();
        let log = llb::scratch().file(copy(&log, "/log", "/log"));
        let solved = solve(&solver, support::request(&log).local("base", base)).await;
        let view = files(&solved).await;
        let possible = ["first\nleft\nright\n", "first\nright\nleft\n"];
        assert!(
            possible
                .map(|text| file(0o644, text.as_bytes()))
                .contains(&view["log"])
        );
    });
}

/// What several processes build in one root: something of all, and something of each alone.
fn process_graph(own: &str, root: bool) -> State {
    let context = llb::local("context");
    let mut shared = llb::scratch().file(copy(&context, "/", "/").contents_only());
    for number in 0..10 {
        shared = shared.file(mkfile(format!("/shared{number}"), format!("{number}\n")));
    }
    let mut state = shared.file(mkfile("/own", own.to_owned()));
    if root {
        let step = |what: &State, name: &str| {
            let line = "sleep 0.1; cat /in/* > /out/sum";
            let step = support::busybox_state().run(["sh", "-c", line]);
            let step = step.custom_name(name);
            let step = step.mount("/in", Mount::bind(what).readonly());
            step.mount("/out", llb::scratch()).output("/out")
        };
        let (all, sum) = (step(&shared, "step of all"), step(&state, "own step"));
        let copies = copy(&sum, "/sum", "/sum").copy(&all, "/sum", "/all");
        state = state.file(copies.custom_name("take"));
    }
    state
}

/// How many solves each process has at a time.
const SOLVES: usize = 4;

/// Solves in the root `root`, several at a time, and writes to `out` what came of it: for each
/// solve the result and the names of the vertices that ran.
pub fn role(arguments: &[&str]) {
    let [root, folder, own, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    support::runtime().block_on(async {
        let solver = support::solver(root);
        let solves = (0..SOLVES).map(|number| {
            let state = process_graph(&format!("{own}-{number}"), support::is_root());
            let platform = Platform::of_target();
            let definition = state.marshal(&Constraints::new(platform)).unwrap();
            let request = SolveRequest::new(definition)
                .local("context", folder.join("context"))
                .local("base", folder.join("base"));
            let solver = solver.clone();
            async move {
                let solved = solve(&solver, request).await;
                (files(&solved).await, ran(&solved))
            }
        });
        let all = join_all(solves).await;
        fs::write(out, serde_json::to_vec(&all).unwrap()).unwrap();
    });
}

/// Right results, and no step twice, whichever process comes first.
#[test]
fn four_processes_of_four_solves_in_one_root() {
    let with_steps = support::is_root() && support::tool("busybox").is_some();
    let folder = temp();
    let path = folder.path();
    if with_steps {
        support::busybox(path);
    }
    for round in 0..4 {
        // Every other round in a root that none of them has seen.
        let root = path.join(format!("state{}", round / 2));
        support::write(path.join("context/input"), format!("{round}\n"));
        let names: Vec<String> = (0..4).map(|number| format!("{round}-{number}")).collect();
        let start = |name: &String| {
            let out = path.join(name);
            let arguments = [root.to_str(), path.to_str(), Some(name), out.to_str()];
            child("build", &arguments.map(Option::unwrap))
        };
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(move || run(&mut start(name)));
            }
        });
        let mut steps: HashMap<String, usize> = HashMap::new();
        for name in &names {
            let out = fs::read(path.join(name)).unwrap();
            let solves: Vec<(Tree, Vec<String>)> = serde_json::from_slice(&out).unwrap();
            assert_eq!(solves.len(), SOLVES);
            for (number, (tree, ran)) in solves.into_iter().enumerate() {
                check(
                    &tree,
                    &round.to_string(),
                    &format!("{name}-{number}"),
                    with_steps,
                );
                for vertex in ran.into_iter().filter(|vertex| vertex.contains("step")) {
                    *steps.entry(vertex).or_default() += 1;
                }
            }
        }
        if with_steps {
            let expected = [("step of all", 1), ("own step", 4 * SOLVES)];
            let expected = expected.map(|(name, count)| (name.to_owned(), count));
            assert_eq!(steps, expected.into());
        }
        assert_eq!(support::leftovers(&root), [""; 0]);
    }
}

fn check(tree: &Tree, input: &str, own: &str, with_steps: bool) {
    let mut files = vec![("input".to_owned(), format!("{input}\n"))];
    files.extend((0..10).map(|number| (format!("shared{number}"), format!("{number}\n"))));
    let all: String = files.iter().map(|(_, text)| &text[..]).collect();
    if with_steps {
        files.push(("all".to_owned(), all.clone()));
        let (input, rest) = all.split_once('\n').unwrap();
        files.push(("sum".to_owned(), format!("{input}\n{own}{rest}")));
    }
    files.push(("own".to_owned(), own.to_owned()));
    let files = files.into_iter();
    let expected: Tree = files
        .map(|(path, text)| (path, file(0o644, text.as_bytes())))
        .collect();
    assert_eq!(*tree, expected);
}
