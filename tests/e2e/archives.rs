//! Images lent as archives that skopeo wrote.

use std::fs;
use std::path::Path;
use std::process::Command;

use ashlar_exporters::{Exporter as _, Oci};
use ashlar_llb::{self as llb, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::solver::Solver;

use super::support::{self, Need, Tree, run, skipped, solve, temp};

async fn tree_of(solver: &Solver, lent: &Path, name: &str) -> Tree {
    let image = llb::oci_layout(name).store("lent");
    let state = llb::scratch().file(copy(image, "/", "/").contents_only());
    support::build(solver, support::request(&state).oci_layout("lent", lent)).await
}

#[test]
fn archives_of_skopeo_are_the_image() {
    if skipped("archives_of_skopeo_are_the_image", &[Need::Tool("skopeo")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let at = |name: &str| folder.path().join(name);
        let solver = support::solver(at("state"));
        let files = mkfile("/dir/text", "hello").created(support::then());
        let below = llb::scratch().file(llb::mkdir("/dir").created(support::then()));
        let state = below.file(files);
        let solved = solve(&solver, support::request(&state)).await;
        let layout = Oci::directory(at("layout")).name("example.com/app:v1");
        layout.export(&solved.result, &Cancel::new()).await.unwrap();
        let source = format!("oci:{}:v1", at("layout").display());
        for (to, name) in [
            ("oci-archive", "oci.tar:example.com/app:v1"),
            ("docker-archive", "docker.tar:example.com/app:v1"),
        ] {
            let target = format!("{to}:{}/{name}", folder.path().display());
            run(Command::new("skopeo").args(["--insecure-policy", "copy", "-q", &source, &target]));
        }
        run(Command::new("gzip")
            .args(["-k"])
            .arg(at("oci.tar"))
            .arg(at("docker.tar")));
        let expected = tree_of(&solver, &at("layout"), "example.com/app:v1").await;
        assert!(expected.contains_key("dir/text"));
        for name in ["oci.tar", "docker.tar", "oci.tar.gz", "docker.tar.gz"] {
            // Each from nothing, so that no layer is taken from another one.
            let fresh = support::solver(at(&format!("state of {name}")));
            let before = fs::read_dir(folder.path()).unwrap().count();
            let found = tree_of(&fresh, &at(name), "example.com/app:v1").await;
            assert_eq!(found, expected, "{name}");
            let after = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(after, before, "nothing is unpacked beside it");
        }
    });
}
