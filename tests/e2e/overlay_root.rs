//! A state root on an overlay, as the files of a container are: what works there, and what errors
//! say of the rest.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use ashlar_exporters::{Exporter as _, Local};
use ashlar_llb::{State, mkfile, rm, scratch};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use tempfile::TempDir;

use super::support::{self, Need, busybox, busybox_state, run, skipped, solve, temp};

/// An overlay, mounted until dropped.
struct Overlay(TempDir);

impl Overlay {
    fn new() -> Self {
        let folder = temp();
        for name in ["lower", "upper", "work", "top"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut mount = Command::new("mount");
        run(mount
            .args(["-t", "overlay", "none", "top"])
            .args(["-o", "lowerdir=lower,upperdir=upper,workdir=work"])
            .current_dir(folder.path()));
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join("top").join(name)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let top = self.0.path().join("top");
        let _left = Command::new("umount").arg("-l").arg(top).status();
    }
}

#[test]
fn a_state_root_on_an_overlay_says_what_it_cannot_hold() {
    let needs = [Need::Root, Need::Tool("busybox"), Need::Tool("mount")];
    if skipped("a_state_root_on_an_overlay", &needs) {
        return;
    }
    let overlay = Overlay::new();
    let base = busybox(overlay.0.path());
    support::runtime().block_on(async {
        let solver = support::solver(overlay.at("state"));
        // Files are made and exported there as anywhere.
        let files = scratch().file(mkfile("/a", "1")).file(mkfile("/b", "2"));
        let result = solve(&solver, support::request(&files)).await.result;
        let export = Local::new(overlay.at("out"));
        export.export(&result, &Cancel::new()).await.unwrap();
        assert_eq!(fs::read(overlay.at("out/b")).unwrap(), b"2");
        // What cannot be kept or mounted is told with what to do.
        let removed = files.file(rm("/a"));
        let step: State = busybox_state().run(["/bin/true"]).root();
        for state in [removed, step] {
            let request = support::request(&state).local("base", &base);
            let error = solver.solve(request).result().await.unwrap_err();
            assert_eq!(error.fault(), Fault::Environment);
            let text = format!("{} {:?}", support::chain(&error), error.remedy());
            assert!(text.contains("put the state root on ext4"), "{text}");
        }
    });
}
