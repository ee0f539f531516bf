//! Exports onto file systems that know plain renames alone, and some of them no hard links: what is
//! there afterwards is what is there anywhere else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ashlar_exporters::{Docker, ExportError, Exporter, Local, LocalMode, Oci, Tar};
use ashlar_llb as llb;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::{Durability, Solver};
use rustix::fs::{CWD, RenameFlags, linkat, mknodat, renameat_with};
use rustix::io::Errno;
use tempfile::TempDir;

use super::support::{self, Need, Tree, child, run, skipped, solve, temp, tool, tree};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bindfs,
    /// No pipes and devices, no extended attributes, no times of symbolic links.
    Sshfs,
    /// Nor hard links.
    SshfsWithoutLinks,
    /// Nor owners and modes, and case does not count.
    Exfat,
}

const KINDS: [Kind; 3] = [Kind::Bindfs, Kind::Sshfs, Kind::SshfsWithoutLinks];

/// A file system, mounted until dropped.
struct Mounted {
    kind: Kind,
    folder: TempDir,
}

impl Mounted {
    /// Mounts one; a test fails where that cannot be had.
    fn new(kind: Kind) -> Self {
        let folder = temp();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("files")).unwrap();
        fs::create_dir(at("top")).unwrap();
        match kind {
            Kind::Bindfs => run(Command::new("bindfs").arg(at("files")).arg(at("top"))),
            _ => {
                // The server alone, without ssh between.
                let server = server();
                fs::write(at("ssh"), format!("#!/bin/sh\nexec {}\n", server.display())).unwrap();
                fs::set_permissions(at("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
                let mut mount = Command::new("sshfs");
                let ssh = format!("ssh_command={}", at("ssh").display());
                mount.args(["-o", &ssh]);
                if kind == Kind::SshfsWithoutLinks {
                    mount.args(["-o", "disable_hardlink"]);
                }
                mount.arg(format!("host:{}", at("files").display()));
                run(mount.arg(at("top")))
            }
        };
        let mounted = Self { kind, folder };
        mounted.check();
        mounted
    }

    /// Mounts one on which names that differ in case are one.
    fn without_case() -> Self {
        let folder = temp();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("top")).unwrap();
        fs::File::create(at("image"))
            .unwrap()
            .set_len(32 << 20)
            .unwrap();
        run(Command::new("mkfs.exfat").arg(at("image")));
        let mut attach = Command::new("losetup");
        let device = run(attach.args(["--find", "--show"]).arg(at("image")));
        let mut mount = Command::new("mount.exfat-fuse");
        let mounted = mount.arg(device.trim()).arg(at("top")).output().unwrap();
        // It goes when nobody has it open.
        run(Command::new("losetup").args(["--detach", device.trim()]));
        assert!(mounted.status.success(), "{mounted:?}");
        let mounted = Self {
            kind: Kind::Exfat,
            folder,
        };
        fs::write(mounted.at("A"), "").unwrap();
        fs::remove_file(mounted.at("a")).unwrap();
        mounted
    }

    /// Mounts one without hard links, whose server is behind a gate.
    fn behind_a_gate() -> (Self, Arc<Gate>) {
        let folder = temp();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("files")).unwrap();
        fs::create_dir(at("top")).unwrap();
        let pipes = |command: &mut Command| {
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut server = pipes(&mut Command::new(server()));
        let mut mount = Command::new("sshfs");
        mount.args(["-f", "-o", "passive,disable_hardlink"]);
        mount
            .arg(format!("host:{}", at("files").display()))
            .arg(at("top"));
        mount
            .stdin(server.stdout.take().unwrap())
            .stdout(Stdio::piped());
        let mut mount = mount.spawn().unwrap();
        let gate = Arc::new(Gate::default());
        let (from, to) = (mount.stdout.take().unwrap(), server.stdin.take().unwrap());
        let passing = gate.clone();
        std::thread::spawn(move || {
            let _at_its_end = passing.run(from, to);
            let _ended = (mount.wait(), server.wait());
        });
        let device =
            |name: &str| std::os::unix::fs::MetadataExt::dev(&fs::metadata(at(name)).unwrap());
        for _ in 0..1000 {
            if device("top") != device("files") {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mounted = Self {
            kind: Kind::SshfsWithoutLinks,
            folder,
        };
        mounted.check();
        (mounted, gate)
    }

    /// Sees that it is what it was mounted for.
    fn check(&self) {
        fs::write(self.at("one"), "").unwrap();
        let renamed = |flags| renameat_with(CWD, self.at("one"), CWD, self.at("two"), flags);
        assert_eq!(
            renamed(RenameFlags::NOREPLACE),
            Err(Errno::INVAL),
            "{:?}",
            self.kind
        );
        let linked = linkat(
            CWD,
            self.at("one"),
            CWD,
            self.at("two"),
            rustix::fs::AtFlags::empty(),
        );
        assert_eq!(
            linked.is_ok(),
            self.kind != Kind::SshfsWithoutLinks,
            "{linked:?}"
        );
        for entry in fs::read_dir(self.at("")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join("top").join(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let top = self.folder.path().join("top");
        let unmounted = Command::new("umount").arg(&top).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            let _left = Command::new("umount").arg("-l").arg(&top).status();
        }
    }
}

/// Where the server of sshfs is.
fn server() -> PathBuf {
    let folders = ["/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh"];
    let mut servers = folders
        .map(|folder| Path::new(folder).join("sftp-server"))
        .into_iter();
    servers
        .find(|path| path.exists())
        .expect("there is an sftp server")
}

fn skip(test: &str) -> bool {
    skipped(test, &[Need::Root])
}

/// The names that are a file in one result and a directory in the other.
const CHANGING: usize = 12;

/// A tree to export: one of two with much of the same names.
fn context(folder: &Path, which: usize, kind: Kind) {
    let at = |name: &str| folder.join(name);
    let write = |name: &str, text: &str| support::write(at(name), text);
    write("same", "the same in both");
    write("d/changed", &format!("{which}"));
    write("d/deep/changed", &format!("{which}"));
    write(&format!("d/only-{which}"), "");
    write("large", &format!("{which}").repeat(300_000));
    for number in 0..CHANGING {
        match number % 2 == which {
            true => write(&format!("c{number}"), "a file"),
            false => write(&format!("c{number}/deep/file"), "in directories"),
        }
    }
    write("linked/one", &format!("linked {which}"));
    fs::hard_link(at("linked/one"), at("linked/two")).unwrap();
    fs::hard_link(at("linked/one"), at("three")).unwrap();
    symlink(format!("nowhere-{which}"), at("link")).unwrap();
    // sshfs would give the file the time of the link.
    symlink("d/changed", at("to-changed")).unwrap();
    match which {
        0 => symlink("same", at("link-or-file")).unwrap(),
        _ => write("link-or-file", "a file"),
    }
    match which {
        0 => symlink("d", at("link-or-directory")).unwrap(),
        _ => write("link-or-directory/file", "a file"),
    }
    fs::create_dir(at("empty")).unwrap();
    if kind == Kind::Bindfs {
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    for (name, mode) in [
        ("d/changed", 0o4755),
        ("linked/one", 0o600),
        ("d/deep", 0o500),
        ("empty", 0o1777),
    ] {
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// The files of a directory as a result.
async fn result(solver: &Solver, context: &Path) -> BuildResult {
    let request = support::request(&llb::local("context")).local("context", context);
    solve(solver, request).await.result
}

async fn results(solver: &Solver, folder: &Path, kind: Kind) -> Vec<BuildResult> {
    let mut results = Vec::new();
    for which in 0..2 {
        let context_folder = folder.join(format!("context-{which}"));
        if !context_folder.exists() {
            context(&context_folder, which, kind);
        }
        results.push(result(solver, &context_folder).await);
    }
    results
}

/// Waits for files that were removed while they were open; the servers keep them under such names
/// for a moment.
fn settled(folder: &Path) -> Tree {
    for _ in 0..200 {
        let found = tree(folder);
        if !found.keys().any(|path| path.contains(".fuse_hidden")) {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tree(folder)
}

#[test]
fn files_arrive_as_anywhere_else() {
    if skip("files_arrive_as_anywhere_else") {
        return;
    }
    for kind in KINDS {
        let mounted = Mounted::new(kind);
        let folder = temp();
        support::runtime().block_on(async {
            let solver = support::solver(folder.path().join("state"));
            let results = results(&solver, folder.path(), kind).await;
            let elsewhere = folder.path().join("out");
            let there = mounted.at("deep/out");
            let (copy, delete) = (LocalMode::Copy, LocalMode::Delete);
            let steps = [
                (0, copy),
                (0, copy),
                (1, copy),
                (0, delete),
                (1, delete),
                (1, delete),
                (0, copy),
            ];
            for (step, (which, mode)) in steps.into_iter().enumerate() {
                for out in [&elsewhere, &there] {
                    let local = Local::new(out).mode(mode).verify(step % 2 == 1);
                    let local = local.durability(match step {
                        3 => Durability::Synced,
                        _ => Durability::Background,
                    });
                    local.export(&results[which], &Cancel::new()).await.unwrap();
                }
                assert_eq!(settled(&there), tree(&elsewhere), "{kind:?}, step {step}");
                let times = |out: &Path| {
                    let names = ["d", "d/deep", "d/changed", "three", "c0", "empty"];
                    names.map(|name| seconds(&out.join(name)))
                };
                assert_eq!(times(&there), times(&elsewhere), "{kind:?}, step {step}");
                // The way to it was all that was made.
                assert_eq!(fs::read_dir(mounted.at("")).unwrap().count(), 1);
            }
        });
    }
}

fn seconds(path: &Path) -> i64 {
    std::os::unix::fs::MetadataExt::mtime(&fs::symlink_metadata(path).unwrap())
}

#[test]
fn a_mirror_keeps_files_whose_names_are_spelled_otherwise() {
    if skip("a_mirror_keeps_files_whose_names_are_spelled_otherwise") {
        return;
    }
    let mounted = Mounted::without_case();
    let folder = temp();
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        let context = folder.path().join("context");
        for path in ["readme", "sub/file", "other"] {
            support::write(context.join(path), "new");
        }
        let result = result(&solver, &context).await;
        let out = mounted.at("out");
        for path in ["README", "Sub/FILE", "Sub/gone", "gone"] {
            support::write(out.join(path), "old");
        }
        let local = Local::new(&out).mode(LocalMode::Delete);
        for _ in 0..2 {
            local.export(&result, &Cancel::new()).await.unwrap();
            for path in ["readme", "sub/file", "other"] {
                assert_eq!(fs::read_to_string(out.join(path)).unwrap(), "new", "{path}");
            }
            let left = settled(&out);
            assert_eq!(left.len(), 4, "{left:?}");
        }
    });
}

#[test]
fn a_failure_is_undone() {
    if skip("a_failure_is_undone") {
        return;
    }
    for kind in KINDS {
        let mounted = Mounted::new(kind);
        let folder = temp();
        support::runtime().block_on(async {
            let solver = support::solver(folder.path().join("state"));
            let context = folder.path().join("context");
            for (path, text) in [
                ("a", "a file where a directory is"),
                ("b/in", "a directory where a file is"),
                ("c", "a file where a link is"),
                ("d/file", "new"),
                ("e", "new"),
                ("linked", "new"),
                ("m", "a file where something is mounted"),
                ("z", "new"),
            ] {
                support::write(context.join(path), text);
            }
            let result = result(&solver, &context).await;
            let out = mounted.at("out");
            for (path, text) in [
                ("a/old", "old"),
                ("b", "old"),
                ("d/file", "old"),
                ("d/kept", "old"),
                ("gone/x", "old"),
                ("linked", "old"),
            ] {
                support::write(out.join(path), text);
            }
            symlink("nowhere", out.join("c")).unwrap();
            fs::create_dir(out.join("m")).unwrap();
            let outside = temp();
            support::write(outside.path().join("in"), "mounted");
            // What is mounted can be neither replaced nor moved.
            run(Command::new("mount")
                .arg("--bind")
                .arg(outside.path())
                .arg(out.join("m")));
            let unmount = Unmount(out.join("m"));
            let before = settled(&out);
            let times = || ["a", "d", "gone", "b"].map(|name| seconds(&out.join(name)));
            let old = times();
            for mode in [LocalMode::Copy, LocalMode::Delete] {
                let local = Local::new(&out).mode(mode);
                let error = local.export(&result, &Cancel::new()).await.unwrap_err();
                let text = support::chain(&error);
                assert!(matches!(error, ExportError::Io { .. }), "{text}");
                assert!(!text.contains("put back"), "{text}");
                assert_eq!(settled(&out), before, "{kind:?} {mode:?}");
                assert_eq!(times(), old, "{kind:?} {mode:?}");
            }
            drop(unmount);
            let local = Local::new(&out).mode(LocalMode::Delete);
            local.export(&result, &Cancel::new()).await.unwrap();
            assert_eq!(settled(&out), tree(&context), "{kind:?}");
        });
    }
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.0));
    }
}

/// Exports one result after the other, for ever.
pub fn role(arguments: &[&str]) {
    let [folder, out] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    support::runtime().block_on(async {
        let solver = support::solver(folder.join("state"));
        let kind = Kind::SshfsWithoutLinks;
        let results = results(&solver, folder, kind).await;
        for number in 0.. {
            let result = &results[number % 2];
            Local::new(out)
                .export(result, &Cancel::new())
                .await
                .unwrap();
        }
    });
}

#[test]
fn what_a_kill_leaves_away_is_put_back() {
    if skip("what_a_kill_leaves_away_is_put_back") {
        return;
    }
    let (mounted, gate) = Mounted::behind_a_gate();
    let folder = temp();
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        let results = results(&solver, folder.path(), mounted.kind).await;
        let request = support::request(&llb::scratch().file(llb::mkfile("/another", "")));
        let another = solve(&solver, request).await.result;
        let out = mounted.at("out");
        let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for result in &results {
            let local = Local::new(&out).mode(LocalMode::Delete);
            local.export(result, &Cancel::new()).await.unwrap();
            for (path, text) in settled(&out) {
                expected.entry(path).or_default().push(text);
            }
        }
        // What both have, as one or the other. A directory may have a mode between.
        expected.retain(|_, texts| {
            texts.len() == 2 && !texts.iter().all(|text| text.starts_with("directory"))
        });
        assert!(expected.len() > CHANGING);
        let missing = |found: &Tree| {
            let names = expected.keys().filter(|path| !found.contains_key(*path));
            names.cloned().collect::<Vec<_>>()
        };
        for after in [0, 1, 5, 12] {
            killed(folder.path(), &mounted.at("out"), &gate, after);
            let away = missing(&settled(&out));
            let with_all_below = away.iter().all(|path| path.starts_with(&away[0]));
            assert!(
                !away.is_empty() && with_all_below,
                "after {after}: {away:?}"
            );
            let local = Local::new(&out);
            local.export(&another, &Cancel::new()).await.unwrap();
            let found = settled(&out);
            assert_eq!(missing(&found), [""; 0], "after {after}: {away:?}");
            for (path, texts) in &expected {
                assert!(texts.contains(&found[path]), "after {after}: {path}");
            }
            let stages = found.keys().filter(|path| path.starts_with(".ashlar"));
            assert_eq!(stages.count(), 0, "after {after}");
        }
    });
}

/// Lets a process export until it has moved one more object away than `after`, and kills it.
fn killed(folder: &Path, out: &Path, gate: &Gate, after: usize) {
    let arguments = [folder, out].map(|path| path.to_str().unwrap());
    let mut child = child("file-systems", &arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    gate.close_after(after);
    child.kill().unwrap();
    // What it waits for already it waits for to the end.
    gate.open();
    child.wait().unwrap();
}

/// Lets requests pass to the server, until it is closed.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
enum GateState {
    #[default]
    Open,
    /// It will be closed after one more move away than this.
    Closing(usize),
    Closed,
}

impl Gate {
    /// Waits until it is closed.
    fn close_after(&self, moves: usize) {
        *self.state.lock().unwrap() = GateState::Closing(moves);
        let state = self.state.lock().unwrap();
        let wait = Duration::from_secs(40);
        let (state, waited) = self
            .changed
            .wait_timeout_while(state, wait, |state| !matches!(state, GateState::Closed))
            .unwrap();
        drop(state);
        assert!(!waited.timed_out(), "nothing was moved away");
    }

    fn open(&self) {
        *self.state.lock().unwrap() = GateState::Open;
        self.changed.notify_all();
    }

    /// Waits until a request may pass; those after it may not if it closes the gate.
    fn pass(&self, request: &[u8]) {
        let is_closed = |state: &mut GateState| matches!(state, GateState::Closed);
        let state = self.state.lock().unwrap();
        let mut state = self.changed.wait_while(state, is_closed).unwrap();
        let has = |word: &[u8]| memchr::memmem::find(request, word).is_some();
        if let GateState::Closing(left) = &mut *state
            && has(b"posix-rename")
            && has(b".partial/old/")
        {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => *state = GateState::Closed,
            }
            self.changed.notify_all();
        }
    }

    /// Passes requests on: each begins with its length.
    fn run(&self, mut from: impl Read, mut to: impl Write) -> io::Result<()> {
        loop {
            let mut length = [0; 4];
            from.read_exact(&mut length)?;
            let mut request = vec![0; u32::from_be_bytes(length) as usize];
            from.read_exact(&mut request)?;
            self.pass(&request);
            to.write_all(&[&length[..], &request].concat())?;
            to.flush()?;
        }
    }
}

#[test]
fn archives_and_layouts_arrive_as_anywhere_else() {
    if skip("archives_and_layouts_arrive_as_anywhere_else") {
        return;
    }
    const NAME: &str = "example.com/mounted:v1";
    let exporters = |out: &Path, durability: Durability| -> Vec<Box<dyn Exporter>> {
        let oci = Oci::archive(out.join("oci.tar")).name(NAME);
        let docker = Docker::archive(out.join("docker.tar")).name(NAME);
        let layout = Oci::directory(out.join("layout")).name(NAME);
        vec![
            Box::new(oci.durability(durability).verify(true)),
            Box::new(docker.durability(durability).verify(true)),
            Box::new(layout.durability(durability).verify(true)),
            Box::new(Tar::file(out.join("files.tar")).durability(durability)),
        ]
    };
    for kind in KINDS {
        let mounted = Mounted::new(kind);
        let folder = temp();
        support::runtime().block_on(async {
            let solver = support::solver(folder.path().join("state"));
            let results = results(&solver, folder.path(), kind).await;
            let elsewhere = folder.path().join("out");
            for out in [&elsewhere, &mounted.at("out")] {
                fs::create_dir(out).unwrap();
            }
            let (synced, background) = (Durability::Synced, Durability::Background);
            for (which, durability) in [(0, background), (0, synced), (1, synced), (1, background)]
            {
                for out in [&elsewhere, &mounted.at("out")] {
                    for exporter in exporters(out, durability) {
                        exporter
                            .export(&results[which], &Cancel::new())
                            .await
                            .unwrap();
                    }
                }
                let found = settled(&mounted.at("out"));
                assert_eq!(found, tree(&elsewhere), "{kind:?}: {which}");
            }
        });
    }
}

#[test]
fn what_is_changed_at_once_is_written_again() {
    if skip("what_is_changed_at_once_is_written_again") {
        return;
    }
    for kind in KINDS {
        let mounted = Mounted::new(kind);
        let folder = temp();
        support::runtime().block_on(async {
            let solver = support::solver(folder.path().join("state"));
            let state = llb::scratch().file(llb::mkfile("/file", "text"));
            let result = solve(&solver, support::request(&state)).await.result;
            let outputs: [(PathBuf, Box<dyn Exporter>); 2] = [
                (mounted.at("tar"), Box::new(Tar::file(mounted.at("tar")))),
                (
                    mounted.at("out/file"),
                    Box::new(Local::new(mounted.at("out"))),
                ),
            ];
            for (path, exporter) in outputs {
                exporter.export(&result, &Cancel::new()).await.unwrap();
                let written = fs::read(&path).unwrap();
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                // Some file systems tell times in seconds.
                for keeping_time in [false, true, false] {
                    fs::write(&path, vec![b'x'; written.len()]).unwrap();
                    if keeping_time {
                        let file = fs::File::options().write(true).open(&path).unwrap();
                        file.set_modified(time).unwrap();
                    }
                    exporter.export(&result, &Cancel::new()).await.unwrap();
                    assert!(fs::read(&path).unwrap() == written, "{kind:?}: {path:?}");
                }
            }
        });
    }
}

#[test]
fn the_file_systems_can_be_mounted() {
    if skip("the_file_systems_can_be_mounted") {
        return;
    }
    // Whoever may mount has to have them, so that no test here is about nothing.
    for name in ["bindfs", "sshfs", "umount"] {
        assert!(tool(name).is_some(), "{name} is not installed");
    }
}
