//! Names that definitions bring along: whatever they are, nothing happens outside the directories
//! that are the engine's or were lent.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ashlar_llb::{self as llb, Constraints, Platform, State, copy};
use ashlar_solver::solver::{SolveRequest, Solver};
use ashlar_solver::source::image::ResolveMode;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Parts of names that mean something to some reader.
const PARTS: [&str; 22] = [
    "..", "/", ".", "\\", "\0", "%2e%2e", "%2f", "~", "$HOME", "a", "B", ":", "@", "sha256:", "?",
    "#", " ", "-", "\n", "\u{202e}", "ü", "canary",
];

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&PARTS[..]), 1..8)
        .prop_map(|parts| parts.concat())
}

/// Everything below a directory but in `state`.
fn around(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let content = fs::read(&path).unwrap_or_default();
            found.insert(format!("{} {content:?}", path.display()));
            if path.is_dir() && path.file_name() != Some("state".as_ref()) {
                todo.push(path);
            }
        }
    }
    found
}

#[test]
fn class_6_names_in_definitions_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("lent/d")).unwrap();
    fs::write(at("lent/file"), "lent").unwrap();
    fs::write(at("canary"), "alive").unwrap();
    let before = around(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let solver = Solver::builder().root(at("state")).build().unwrap();
    let before: BTreeSet<_> = before
        .into_iter()
        .chain([format!("{} []", at("state").display())])
        .collect();
    let config = Config {
        cases: 150,
        failure_persistence: None,
        ..Config::default()
    };
    let names = (name(), name(), name());
    let run = TestRunner::new(config).run(&names, |(one, two, three)| {
        let local = llb::raw_source(format!("local://{one}"))
            .attribute(
                "local.includepattern",
                serde_json::json!([two, "d"]).to_string(),
            )
            .attribute(
                "local.followpaths",
                serde_json::json!([three, "file"]).to_string(),
            )
            .attribute("local.sharedkeyhint", &two);
        let layout = llb::raw_source(format!("oci-layout://{one}")).attribute("oci.store", &two);
        let image =
            llb::raw_source(format!("docker-image://{one}")).attribute("image.checksum", &three);
        let sources: [State; 4] = [
            local.clone().into(),
            local.into(),
            layout.into(),
            image.into(),
        ];
        for (number, source) in sources.into_iter().enumerate() {
            let state = match number {
                0 => source,
                _ => llb::scratch().file(copy(source, two.as_str(), three.as_str())),
            };
            // What the builder refuses already is no danger.
            let Ok(definition) = state.marshal(&Constraints::new(Platform::linux_amd64())) else {
                continue;
            };
            let request = SolveRequest::new(definition)
                .local(&one, at("lent"))
                .oci_layout(&two, at("lent"))
                .resolve(ResolveMode::Offline);
            if let Ok(solved) = runtime.block_on(solver.solve(request).result()) {
                let view = solved.result.reference().view().unwrap();
                for (path, node) in view.walk() {
                    let canary = path.to_string().ends_with("canary") && node.entry().size == 5;
                    prop_assert!(!canary, "{one:?} {two:?} {three:?}");
                }
            }
        }
        prop_assert_eq!(&around(folder.path()), &before);
        Ok(())
    });
    run.unwrap();
}
