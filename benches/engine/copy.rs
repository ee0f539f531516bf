//! Copying a local directory of many small files, the first time and when nothing changed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ashlar_llb::{self as llb, copy};
use ashlar_solver::solver::{Durability, SolveRequest};

use super::report::{Report, median, timed};
use super::volume::{Volume, quiet};
use super::{Size, marshal, runtime, solve, solver};

/// Makes `count` files of 0 to 8 KiB, 4 KiB on average, in directories of 100.
fn make_tree(at: &Path, count: usize) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let noise: Vec<u8> = (0..16 << 10).map(|_| (random() & 0xff) as u8).collect();
    for index in 0..count {
        let folder = at.join(format!("d{:03}/e{:02}", index / 1000, index / 100 % 10));
        if index % 100 == 0 {
            std::fs::create_dir_all(&folder).expect("a directory can be made");
        }
        let (from, length) = ((random() % 8192) as usize, (random() % 8192) as usize);
        let mut bytes = noise[from..from + length].to_vec();
        bytes.extend_from_slice(&index.to_le_bytes());
        std::fs::write(folder.join(format!("f{index}")), bytes).expect("a file can be written");
    }
}

fn request(source: &Path) -> SolveRequest {
    let state = llb::scratch().file(copy(llb::local("context"), "/", "/"));
    SolveRequest::new(marshal(&state)).local("context", source)
}

/// In a process of its own: one solve; prints nanoseconds, and the most memory in KiB.
pub fn child(arguments: &[String]) {
    let [root, source, durability] = arguments else {
        panic!("{arguments:?}")
    };
    let durability = match durability.as_str() {
        "synced" => Durability::Synced,
        _ => Durability::Background,
    };
    let runtime = runtime();
    let _inside = runtime.enter();
    let solver = solver(Path::new(root));
    let request = request(Path::new(source)).durability(durability);
    let (time, _solved) = timed(|| runtime.block_on(solve(&solver, request)));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0);
    println!("{} {memory}", time.as_nanos());
}

/// Solves in a fresh process.
fn fresh(root: &Path, source: &Path, durability: &str) -> (Duration, u64) {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .arg("--child")
        .args([root, source])
        .arg(durability)
        .stderr(Stdio::inherit())
        .output()
        .expect("this program can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text
        .split_whitespace()
        .map(|word| word.parse::<u64>().unwrap_or(0));
    let time = Duration::from_nanos(numbers.next().expect("the child measures"));
    (time, numbers.next().expect("the child measures"))
}

pub fn measure(size: Size, report: &mut Report) {
    let count = size.pick(5_000, 50_000);
    let name = format!("copy: {count} files, first");
    if !report.wants(&name) {
        return;
    }
    let rounds = size.pick(1, 3);
    let (mut ours, mut durable, mut theirs, mut synced) = (vec![], vec![], vec![], vec![]);
    let mut memory = 0;
    for _ in 0..rounds {
        let volume = Volume::fresh(size.pick(1024, 4096));
        let source = volume.path().join("source");
        make_tree(&source, count);
        quiet(Command::new("sync").arg("-f").arg(&source));
        let (time, most) = fresh(&volume.path().join("one"), &source, "background");
        ours.push(time);
        memory = memory.max(most);
        quiet(Command::new("sync").arg("-f").arg(&source));
        durable.push(fresh(&volume.path().join("two"), &source, "synced").0);
        let target = volume.path().join("cp");
        let mut cp = Command::new("cp");
        let (time, _) = timed(|| quiet(cp.arg("-a").arg(&source).arg(&target)));
        theirs.push(time);
        let (rest, _) = timed(|| quiet(Command::new("sync").arg("-f").arg(&target)));
        synced.push(time + rest);
    }
    report.ratio(&name, median(ours), "cp -a", median(theirs), 0.6);
    let name = format!("copy: {count} files, first, until durable");
    report.ratio(
        &name,
        median(durable),
        "cp -a and sync -f",
        median(synced),
        0.6,
    );
    report.value(
        "copy: most memory",
        &format!("{} MiB", memory >> 10),
        "120 MiB",
    );
    unchanged(size, report, count);
}

fn unchanged(size: Size, report: &Report, count: usize) {
    let volume = Volume::fresh(size.pick(1024, 4096));
    let source = volume.path().join("source");
    make_tree(&source, count);
    // Times that lie 20 ms back or less are not trusted.
    std::thread::sleep(Duration::from_millis(50));
    let root = volume.path().join("state");
    fresh(&root, &source, "synced");
    let (mut cold, mut warm, mut find) = (vec![], vec![], vec![]);
    let runtime = runtime();
    let _inside = runtime.enter();
    let solver = solver(&root);
    for _ in 0..size.pick(3, 9) {
        let mut command = Command::new("find");
        command
            .arg(&source)
            .args(["-printf", "%p %s %T@ %C@ %m %U %G\\n"]);
        find.push(timed(|| quiet(&mut command)).0);
        cold.push(fresh(&root, &source, "background").0);
        let (time, solved) = timed(|| runtime.block_on(solve(&solver, request(&source))));
        assert_eq!(solved.ran(), 0, "nothing changed");
        warm.push(time);
    }
    let find = median(find);
    let name = format!("copy: {count} files, unchanged, fresh process");
    report.ratio(&name, median(cold), "find", find, 1.0);
    let name = format!("copy: {count} files, unchanged, same solver");
    report.ratio(&name, median(warm), "find", find, 1.0);
}
