//! Steps: thirty times `RUN true`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ashlar_llb::{self as llb, State, copy, mkdir};
use ashlar_solver::solver::SolveRequest;

use super::report::{Report, median, timed};
use super::volume::{Volume, installed, quiet};
use super::{Size, marshal, runtime, solve, solver};

/// A root file system with busybox and nothing else.
fn root_directory(at: &Path) -> Option<PathBuf> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .iter()
        .find(|path| Path::new(path).exists())?;
    let root = at.join("busybox");
    std::fs::create_dir_all(root.join("bin")).ok()?;
    std::fs::copy(busybox, root.join("bin/busybox")).ok()?;
    std::os::unix::fs::symlink("busybox", root.join("bin/true")).ok()?;
    Some(root)
}

fn chain(length: usize, round: usize) -> State {
    let local = llb::local("root");
    let mut state = llb::scratch().file(copy(&local, "/", "/"));
    state = state.file(mkdir(format!("/round-{round}")));
    for index in 0..length {
        state = state
            .run(["/bin/true"])
            .env("STEP", index.to_string())
            .root();
    }
    state
}

pub fn measure(size: Size, report: &mut Report) {
    let name = "step: RUN true in a chain of 30, each";
    if !report.wants(name) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return report.skip(name, "needs root");
    }
    let volume = Volume::fresh(size.pick(512, 2048));
    let Some(root) = root_directory(&volume.path()) else {
        return report.skip(name, "needs a static busybox");
    };
    let runtime = runtime();
    let _inside = runtime.enter();
    let solver = solver(&volume.path().join("state"));
    let mut round = 0;
    let mut per_step = |rounds: usize| {
        let length = size.pick(10, 30);
        let mut times = Vec::new();
        for _ in 0..rounds {
            round += 1;
            let bare = SolveRequest::new(marshal(&chain(0, round))).local("root", &root);
            runtime.block_on(solve(&solver, bare));
            let request = SolveRequest::new(marshal(&chain(length, round))).local("root", &root);
            let (time, solved) = timed(|| runtime.block_on(solve(&solver, request)));
            assert_eq!(solved.ran(), length);
            times.push(time / u32::try_from(length).unwrap_or(1));
        }
        median(times)
    };
    let time = per_step(size.pick(2, 9));
    report.time(name, time, Some(Duration::from_millis(5)));
    if size == Size::Full {
        let mut ballast = vec![0_u8; 2 << 30];
        ballast.chunks_mut(4096).for_each(|page| page[0] = 1);
        let time = per_step(5);
        let name = "step: the same with 2 GiB resident in the host";
        report.time(name, time, Some(Duration::from_millis(6)));
        drop(std::hint::black_box(ballast));
    }
    peer(size, report, &volume, &root, time);
}

/// runc on the same root directory, one container after the other.
fn peer(size: Size, report: &Report, volume: &Volume, root: &Path, ours: Duration) {
    let name = "step: beside runc run alone";
    if !installed("runc") {
        return report.skip(name, "needs runc");
    }
    let bundle = volume.path().join("bundle");
    std::fs::create_dir_all(&bundle).expect("a directory can be made");
    let made = quiet(Command::new("runc").arg("spec").current_dir(&bundle));
    let config = std::fs::read_to_string(bundle.join("config.json")).unwrap_or_default();
    let Ok(mut config) = serde_json::from_str::<serde_json::Value>(&config) else {
        return report.skip(name, "runc spec failed");
    };
    config["process"]["args"] = serde_json::json!(["/bin/true"]);
    config["process"]["terminal"] = false.into();
    config["root"]["path"] = root.display().to_string().into();
    let written = std::fs::write(bundle.join("config.json"), config.to_string());
    let mut times = Vec::new();
    for number in 0..size.pick(5, 30) {
        let mut command = Command::new("runc");
        command
            .arg("run")
            .arg("-b")
            .arg(&bundle)
            .arg(format!("ashlar-bench-{number}"));
        let (time, worked) = timed(|| quiet(&mut command));
        if !(made && written.is_ok() && worked) {
            return report.skip(name, "runc run failed");
        }
        times.push(time);
    }
    report.ratio(name, ours, "runc", median(times), 1.0);
}
