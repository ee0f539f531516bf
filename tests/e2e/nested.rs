//! Builds inside of builds.

use std::time::{Duration, Instant};

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, Constraints, Network, Platform, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::limits::Limits;
use ashlar_solver::ops::Entitlements;
use ashlar_solver::ops::build::NestedError;
use ashlar_solver::progress::Event;
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::{SolveError, Solved, Solver};
use futures::StreamExt as _;

use super::support::{
    self, Need, PATH, Tree, build, busybox, busybox_state, file, files, first_output, skipped,
    solve, temp, write,
};

const FILE: &str = "buildkit.llb.definition";

fn encoded(state: &State) -> Vec<u8> {
    let constraints = Constraints::new(Platform::of_target());
    state.marshal(&constraints).unwrap().encode()
}

/// A tree with a file that holds the definition of `state`.
fn holding(state: &State) -> State {
    llb::scratch().file(mkfile(format!("/{FILE}"), encoded(state)))
}

/// Builds what a file says that holds the definition of `state`.
fn nested(state: &State) -> State {
    holding(state).build("").into()
}

fn hello() -> State {
    llb::scratch().file(mkfile("/hello", "hi").created(support::then()))
}

fn inner(error: &SolveError) -> &NestedError {
    let SolveError::Vertex { failure, .. } = error else {
        panic!("{error:?}");
    };
    let mut found = failure.downcast_ref::<NestedError>().unwrap();
    while let Some(next) = found.inner().and_then(|failure| failure.downcast_ref()) {
        found = next;
    }
    found
}

fn status<'a>(solved: &'a Solved, name: &str) -> &'a VertexStatus {
    let mut vertices = solved.vertices.iter();
    let vertex = vertices.find(|vertex| &*vertex.name == name);
    &vertex.unwrap_or_else(|| panic!("no vertex {name}")).status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_in_a_file_is_built() {
    let folder = temp();
    let solver = support::solver(folder.path());
    let on_top = nested(&nested(&hello())).file(mkfile("/more", "x"));
    let first = solve(&solver, support::request(&on_top)).await;
    let tree = files(&first).await;
    assert_eq!(tree["hello"], file(0o644, b"hi"));
    assert_eq!(tree["more"], file(0o644, b"x"));
    assert!(matches!(
        status(&first, "mkfile /hello"),
        VertexStatus::Ran(_)
    ));
    // Nothing in there can change: the next solve does not even look.
    let second = solve(&solver, support::request(&on_top)).await;
    assert_eq!((second.ran(), second.vertices.len()), (0, 3));
    assert_eq!(*status(&second, "build"), VertexStatus::Cached);
    // What is inside is shared with builds that have it outside.
    let outside = solve(&solver, support::request(&hello())).await;
    assert_eq!(outside.ran(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_chosen_by_name() {
    let folder = temp();
    let solver = support::solver(folder.path());
    let state = llb::scratch().file(mkfile("/graph", encoded(&hello())));
    let built = build(&solver, support::request(&state.build("graph").into())).await;
    assert_eq!(built["hello"], file(0o644, b"hi"));
    let missing = solver.solve(support::request(&state.build("grahp").into()));
    let error = missing.result().await.unwrap_err();
    assert!(matches!(inner(&error), NestedError::File(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_directories_are_those_of_the_outer_solve_and_never_stale() {
    let folder = temp();
    let solver = support::solver(folder.path().join("root"));
    let context = folder.path().join("context");
    write(context.join("a"), "1");
    let inside = llb::scratch().file(copy(State::from(llb::local("context")), "/a", "/a"));
    let state = llb::scratch().file(copy(nested(&inside), "/a", "/b"));
    let request = || support::request(&state).local("context", &context);
    assert_eq!(build(&solver, request()).await["b"], file(0o644, b"1"));
    let again = solve(&solver, request()).await;
    assert_eq!(again.ran(), 0, "{:?}", again.vertices);
    assert_eq!(*status(&again, "build"), VertexStatus::Looked);
    assert_eq!(again.locals.len(), 1);
    write(context.join("a"), "2");
    assert_eq!(build(&solver, request()).await["b"], file(0o644, b"2"));
}

/// A checksum means nothing to a layout, so that it pins nothing either.
#[tokio::test(flavor = "multi_thread")]
async fn tags_of_layouts_are_never_stale_whatever_checksum_is_told() {
    let folder = temp();
    let solver = support::solver(folder.path().join("root"));
    let layout = folder.path().join("layout");
    let checksum = format!("sha256:{}", "1".repeat(64));
    let source = llb::raw_source("oci-layout://example.com/app:v1").attribute("oci.store", "store");
    let inside = State::from(source.attribute("image.checksum", checksum));
    let state = llb::scratch().file(copy(nested(&inside), "/a", "/b"));
    for content in ["1", "2"] {
        let image = llb::scratch().file(mkfile("/a", content).created(support::then()));
        let image = solve(&solver, support::request(&image)).await;
        let exporter = Oci::directory(&layout).name("example.com/app:v1");
        exporter
            .export(&image.result, &Cancel::new())
            .await
            .unwrap();
        let request = support::request(&state).oci_layout("store", &layout);
        let built = build(&solver, request).await;
        assert_eq!(built["b"], file(0o644, content.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_inner_and_the_outer_vertex() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("errors_name_the_inner_and_the_outer_vertex", &needs) {
        return;
    }
    let folder = temp();
    let base = busybox(folder.path());
    let solver = support::solver(folder.path().join("root"));
    let step = busybox_state().run(["sh", "-c", "echo out > /kept; exit 7"]);
    let outer = State::from(holding(&step.custom_name("inner step").root()).build(""));
    let request = support::request(&outer).local("base", &base);
    let error = solver.solve(request).result().await.unwrap_err();
    let text = error.to_string();
    for part in ["nested build `build`", "inner step", "exit code: 7"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let SolveError::Vertex { name, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(name, "build");
    let failed = error
        .failed_step()
        .expect("the inner step can be looked at");
    let mut kept = String::new();
    std::io::Read::read_to_string(&mut failed.open("/kept").unwrap(), &mut kept).unwrap();
    assert_eq!(kept, "out\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_is_bounded() {
    let folder = temp();
    let mut limits = Limits::default();
    limits.build_depth = 3;
    let solver = Solver::builder().root(folder.path()).limits(limits);
    let solver = solver.build().unwrap();
    let three = nested(&nested(&nested(&hello())));
    let tree = build(&solver, support::request(&three)).await;
    assert_eq!(tree["hello"], file(0o644, b"hi"));
    let four = support::request(&nested(&three)).no_cache(true);
    let error = solver.solve(four).result().await.unwrap_err();
    assert!(
        matches!(inner(&error), NestedError::TooDeep { limit: 3 }),
        "{error}"
    );
}

/// Two builds, each of which leads to the other one, wanted at the same time: neither waits for
/// the other for ever.
#[tokio::test(flavor = "multi_thread")]
async fn builds_of_each_other_end() {
    let folder = temp();
    let solver = support::solver(folder.path().join("root"));
    let side = |name: &str| State::from(State::from(llb::local(name)).build(""));
    for (name, other) in [("left", "right"), ("right", "left")] {
        let path = folder.path().join(name);
        write(path.join(FILE), encoded(&side(other)));
    }
    let start = |name: &str| {
        let request = support::request(&side(name));
        let request = request.local("left", folder.path().join("left"));
        solver.solve(request.local("right", folder.path().join("right")))
    };
    let started: Vec<_> = ["left", "right", "left", "right"].map(start).into();
    for solve in started {
        let error = solve.result().await.unwrap_err();
        assert!(
            matches!(inner(&error), NestedError::TooDeep { .. }),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_the_steps_of_a_nested_build() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("cancelling_reaches_the_steps_of_a_nested_build", &needs) {
        return;
    }
    let folder = temp();
    let base = busybox(folder.path());
    let solver = support::solver(folder.path().join("root"));
    let step = busybox_state().run(["sh", "-c", "echo up; sleep 600"]);
    let request = support::request(&nested(&step.root())).local("base", &base);
    let mut handle = solver.solve(request);
    first_output(&mut handle).await;
    let before = Instant::now();
    handle.cancel();
    let error = handle.result().await.unwrap_err();
    assert!(matches!(error, SolveError::Cancelled), "{error}");
    assert!(before.elapsed() < Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_builds_may_do_what_the_outer_one_may() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("nested_builds_may_do_what_the_outer_one_may", &needs) {
        return;
    }
    let folder = temp();
    let base = busybox(folder.path());
    let step = busybox_state().network(Network::Host).run(["true"]);
    let state = nested(&step.root());
    let request = || support::request(&state).local("base", &base);
    let refusing = support::solver(folder.path().join("refusing"));
    let error = refusing.solve(request()).result().await.unwrap_err();
    assert!(error.to_string().contains("network.host"), "{error}");
    let allowed = Entitlements::default().allow("network.host").unwrap();
    let allowing = Solver::builder().root(folder.path().join("allowing"));
    let allowing = allowing.entitlements(allowed).build().unwrap();
    let tree: Tree = build(&allowing, request()).await;
    assert!(tree.contains_key("bin/busybox"));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_tells_of_the_vertices_inside() {
    let folder = temp();
    let solver = support::solver(folder.path());
    let state = nested(&hello())
        .file(mkfile("/more", "x"))
        .env("PATH", PATH);
    let mut handle = solver.solve(support::request(&state));
    let mut names = Vec::new();
    while let Some(event) = handle.next().await {
        if let Event::Vertex { name, .. } = event {
            names.push(name.to_string());
        }
    }
    handle.result().await.unwrap();
    let outer = [
        format!("mkfile /{FILE}"),
        "build".into(),
        "mkfile /more".into(),
    ];
    assert_eq!(names[..3], outer);
    assert_eq!(names[3..], ["mkfile /hello"]);
}
