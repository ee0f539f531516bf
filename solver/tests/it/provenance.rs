//! What is noted of a solve for provenance.

use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Constraints, Platform, State, copy, mkfile};
use ashlar_solver::provenance::{Provenance, ResolvedSource};
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::{SolveRequest, Solver};

/// The manifest of the recorded base image.
const BASE: &str = "sha256:aa985877b3c8692850b3dd19c502ca768229bb80bda3b80a096d5ca927a6c284";

fn solve(solver: &Solver, state: &State, folder: &Path) -> BuildResult {
    let platform = Constraints::new(Platform::linux_amd64());
    let layout = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/base/layout");
    let request = SolveRequest::new(state.marshal(&platform).unwrap())
        .local("context", folder)
        .oci_layout("base", layout);
    let solved = futures::executor::block_on(solver.solve(request).result());
    solved.unwrap().result
}

fn provenance(result: &BuildResult) -> &Provenance {
    result.refs()[0]
        .provenance
        .as_ref()
        .expect("a solve gave it")
}

fn sources(result: &BuildResult) -> Vec<&ResolvedSource> {
    let vertices = provenance(result).vertices.iter();
    vertices
        .filter_map(|vertex| vertex.source.as_ref())
        .collect()
}

#[test]
fn sources_are_noted_whether_they_run_or_not() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let context = folder.path().join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), "content").unwrap();
    let solver = Solver::builder()
        .root(folder.path().join("state"))
        .build()
        .unwrap();
    let base = llb::oci_layout("v1").store("base");
    let state = State::from(base)
        .file(copy(llb::local("context"), "/file", "/file"))
        .file(mkfile("/made", "made"));
    let first = solve(&solver, &state, &context);
    let second = solve(&solver, &state, &context);
    for result in [&first, &second] {
        let sources = sources(result);
        assert_eq!(sources.len(), 2);
        for source in sources {
            match source {
                ResolvedSource::Local { name } => assert_eq!(name, "context"),
                ResolvedSource::Image {
                    reference,
                    digest,
                    layout,
                    layers,
                    ..
                } => {
                    assert_eq!((&reference[..], *layout, layers.len()), ("v1", true, 3));
                    assert_eq!(digest.to_string(), BASE);
                }
                source => panic!("{source:?}"),
            }
        }
    }
    let (first, second) = (provenance(&first), provenance(&second));
    assert_ne!(first.invocation, second.invocation);
    assert_eq!(first.invocation.len(), 25);
    assert!(first.started <= first.finished);
    assert_eq!(first.vertices.len(), 4);
    let last = |provenance: &Provenance| provenance.vertices.last().unwrap().clone();
    let (ran, cached) = (last(first), last(second));
    assert!(!ran.cached && ran.started.is_some() && ran.completed.is_some());
    assert!(cached.cached);
    // Both lead to the stored result.
    assert!(ran.outputs[0].key.is_some());
    assert_eq!(ran.outputs[0].key, cached.outputs[0].key);
    assert!(ran.outputs[0].layers.is_none());
}

#[test]
fn what_the_result_does_not_need_is_not_noted() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let folder = tempfile::tempdir().unwrap();
    let solver = Solver::builder()
        .root(folder.path().join("state"))
        .build()
        .unwrap();
    let result = solve(&solver, &llb::scratch(), folder.path());
    assert!(provenance(&result).vertices.is_empty());
    let result = solve(
        &solver,
        &llb::scratch().file(mkfile("/a", "a")),
        folder.path(),
    );
    assert!(sources(&result).is_empty());
    assert_eq!(provenance(&result).vertices.len(), 1);
}
