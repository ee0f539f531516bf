//! Several solves at a time: in one solver, and in two processes on one root.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Cache, Constraints, Mount, Platform, State, copy, mkfile};
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::SolveRequest;
use futures::future::join_all;

use super::support::{self, Need, Tree, build, child, file, files, run, skipped, solve, temp};

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

/// What two processes build in one root: something of both, and something of each alone.
fn process_graph(own: &str, root: bool) -> State {
    let context = llb::local("context");
    let mut state = llb::scratch().file(copy(&context, "/", "/").contents_only());
    for number in 0..10 {
        state = state.file(mkfile(format!("/shared{number}"), format!("{number}\n")));
    }
    state = state.file(mkfile("/own", own.to_owned()));
    if root {
        let step = support::busybox_state().run(["sh", "-c", "cat /in/* > /out/sum"]);
        let step = step.mount("/in", Mount::bind(&state).readonly());
        let sum = step.mount("/out", llb::scratch()).output("/out");
        state = state.file(copy(&sum, "/sum", "/sum"));
    }
    state
}

/// Builds in the root `root` and writes the result to `out`.
pub fn role(arguments: &[&str]) {
    let [root, folder, own, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let state = process_graph(own, support::is_root());
    let platform = Platform::of_target();
    let definition = state.marshal(&Constraints::new(platform)).unwrap();
    let folder = Path::new(folder);
    let request = SolveRequest::new(definition)
        .local("context", folder.join("context"))
        .local("base", folder.join("base"));
    support::runtime().block_on(async {
        let tree = build(&support::solver(root), request).await;
        fs::write(out, serde_json::to_vec(&tree).unwrap()).unwrap();
    });
}

#[test]
fn two_processes_in_one_root() {
    let with_steps = support::is_root() && support::tool("busybox").is_some();
    let folder = temp();
    let path = folder.path();
    if with_steps {
        support::busybox(path);
    }
    for round in 0..6 {
        // Every other round in a root that neither of them has seen.
        let root = path.join(format!("state{}", round / 2));
        support::write(path.join("context/input"), format!("{round}\n"));
        let names: Vec<String> = (0..3).map(|number| format!("{round}-{number}")).collect();
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
        for name in &names {
            let tree: Tree = serde_json::from_slice(&fs::read(path.join(name)).unwrap()).unwrap();
            let mut all = format!("{round}\n{name}");
            assert_eq!(tree["own"], file(0o644, name.as_bytes()));
            assert_eq!(tree["input"], file(0o644, format!("{round}\n").as_bytes()));
            for number in 0..10 {
                let text = format!("{number}\n");
                assert_eq!(
                    tree[&format!("shared{number}")],
                    file(0o644, text.as_bytes())
                );
                all += &text;
            }
            if with_steps {
                assert_eq!(tree["sum"], file(0o644, all.as_bytes()));
            }
        }
        assert_eq!(support::leftovers(&root), [""; 0]);
    }
}
