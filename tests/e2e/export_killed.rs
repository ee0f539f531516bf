//! Exports that are killed or cancelled at random points: what is at the destination is the old
//! output or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ashlar_exporters::{
    Compression, Docker, ExportError, Exporter, Image, Local, LocalMode, Oci, Prepared, Tar,
};
use ashlar_llb::{self as llb, BlobDigest, Platform, Reference, State, mkdir, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, BuildResult, PlatformRef, Store};
use ashlar_solver::solver::Solver;
use async_trait::async_trait;

use super::support::{self, Need, Tree, child, skipped, solve, temp, tree};

/// Files whose bytes differ in both results.
const FILES: usize = 24;

const NAME: &str = "example.com/killed:v1";
/// Another name of an image in the store.
const OTHER: &str = "other";

fn rounds() -> usize {
    let soak = std::env::var("ASHLAR_SOAK").is_ok_and(|value| value == "1");
    if soak { 50 } else { 20 }
}

/// One of two results: the same paths with other bytes, and some that the other does not have.
fn state(which: usize) -> State {
    let text = |number: usize| format!("{which} {number}\n").repeat(4000 + 500 * number);
    let mut files = mkdir("/d").mode(0o755).mkfile("/d/f0", text(0));
    for number in 1..FILES {
        files = files.mkfile(format!("/d/f{number}"), text(number));
    }
    let own = format!("/own-{which}");
    llb::scratch()
        .file(files.created(support::then()))
        .file(
            mkdir(&own)
                .mkfile(format!("{own}/file"), "own\n")
                .created(support::then()),
        )
        .file(mkfile("/last", which.to_string()).created(support::then()))
}

async fn results(solver: &Solver) -> Vec<BuildResult> {
    let mut results = Vec::new();
    for which in 0..2 {
        results.push(solve(solver, support::request(&state(which))).await.result);
    }
    results
}

/// Every kind of export into a folder.
fn exporters(out: &Path) -> Vec<(&'static str, Box<dyn Exporter>)> {
    let plain = Compression::Uncompressed;
    vec![
        (
            "oci.tar",
            Box::new(
                Oci::archive(out.join("oci.tar"))
                    .name(NAME)
                    .compression(plain),
            ),
        ),
        (
            "docker.tar",
            Box::new(Docker::archive(out.join("docker.tar")).name(NAME)),
        ),
        (
            "layout",
            Box::new(Oci::directory(out.join("layout")).name(NAME)),
        ),
        ("files.tar", Box::new(Tar::file(out.join("files.tar")))),
        ("files", Box::new(Local::new(out.join("files")))),
        (
            "mirror",
            Box::new(Local::new(out.join("mirror")).mode(LocalMode::Delete)),
        ),
        ("image", Box::new(Image::new().name(NAME).name(OTHER))),
        (
            "index.tar",
            Box::new(Several(Box::new(
                Oci::archive(out.join("index.tar")).name(NAME),
            ))),
        ),
        (
            "index",
            Box::new(Several(Box::new(
                Oci::directory(out.join("index"))
                    .name(NAME)
                    .compression(plain),
            ))),
        ),
    ]
}

/// Exports a result for two platforms, with something attested of both.
#[derive(Debug)]
struct Several(Box<dyn Exporter>);

#[async_trait]
impl Exporter for Several {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        let platforms = [Platform::linux_amd64(), Platform::linux_arm64()];
        let refs = platforms.map(|platform| PlatformRef::new(platform, result.reference().clone()));
        let mut several = BuildResult::of_platforms(refs.to_vec(), result.store.clone()).unwrap();
        for tree in several.refs().to_vec() {
            let check = Attestation::in_toto("https://example.com/check", "check.json", "{}");
            several = several.with_attestation(tree.id, check);
        }
        self.0.prepare(&several, cancel).await
    }
}

/// Exports one result after the other, for ever.
pub fn role(arguments: &[&str]) {
    let [folder, first] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let (folder, first): (_, usize) = (Path::new(folder), first.parse().unwrap());
    support::runtime().block_on(async {
        let solver = support::solver(folder.join("state"));
        let results = results(&solver).await;
        println!("@ open");
        for number in first.. {
            let result = &results[number % 2];
            let fresh = Local::new(folder.join(format!("out/fresh-{number}")));
            println!("@ {number}");
            for (_, exporter) in exporters(&folder.join("out")) {
                exporter.export(result, &Cancel::new()).await.unwrap();
            }
            fresh.export(result, &Cancel::new()).await.unwrap();
        }
    });
}

/// What is there after each of the two results was exported into an empty folder.
async fn expected(folder: &Path, results: &[BuildResult]) -> Vec<Tree> {
    let mut trees = Vec::new();
    for (which, result) in results.iter().enumerate() {
        let out = folder.join(format!("expected-{which}"));
        fs::create_dir(&out).unwrap();
        for (_, exporter) in exporters(&out) {
            exporter.export(result, &Cancel::new()).await.unwrap();
        }
        trees.push(tree(&out));
    }
    trees
}

/// What of a tree is `name` or below it.
fn part(tree: &Tree, name: &str) -> Tree {
    let below = format!("{name}/");
    let own = |path: &&String| *path == name || path.starts_with(&below);
    let paths = tree.iter().filter(|(path, _)| own(path));
    paths
        .map(|(path, text)| (path.clone(), text.clone()))
        .collect()
}

/// A name of a file or directory that is not complete.
fn is_partial(path: &str) -> bool {
    path.split('/').any(|name| name.ends_with(".partial"))
}

#[test]
fn kill_nine_leaves_the_old_or_the_new_output() {
    let folder = temp();
    let folder = folder.path();
    let root = folder.join("state");
    let expected = support::runtime().block_on(async {
        let solver = support::solver(&root);
        expected(folder, &results(&solver).await).await
    });
    let out = folder.join("out");
    fs::create_dir(&out).unwrap();
    let mut word = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as u64
        | 1;
    println!("seed {word}");
    let (mut next, mut mixed) = (0, 0);
    for round in 0..rounds() {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let after = Duration::from_micros(word % 250_000);
        let last = killed(folder, next, after);
        next = last.map_or(next, |last| last + 1);
        let found = tree(&out);
        for name in ["oci.tar", "docker.tar", "files.tar", "index.tar"] {
            let file = found.get(name);
            let good = expected.iter().any(|tree| tree.get(name) == file);
            assert!(file.is_none() || good, "round {round}: {name} is {file:?}");
        }
        for (path, text) in &found {
            let blob = ["layout", "index"]
                .iter()
                .find_map(|name| path.strip_prefix(&format!("{name}/blobs/sha256/")));
            if let Some(hex) = blob.filter(|path| !is_partial(path)) {
                assert!(
                    text.ends_with(&format!("sha256:{hex}")),
                    "round {round}: {path}: {text}"
                );
            }
        }
        layout(&out.join("layout"));
        layout(&out.join("index"));
        for number in 0..next {
            let name = format!("fresh-{number}");
            let fresh = part(&found, &name);
            let as_expected: Tree = part(&expected[number % 2], "files")
                .into_iter()
                .map(|(path, text)| (path.replacen("files", &name, 1), text))
                .collect();
            let good = fresh.is_empty() || fresh == as_expected;
            assert!(good, "round {round}: {name}: {fresh:?}");
        }
        for name in ["files", "mirror"] {
            let there = part(&found, name);
            for (path, text) in there.iter().filter(|(path, _)| !is_partial(path)) {
                // Times of a directory are set last; its mode may be that of the stage.
                let alike = |wanted: &String| {
                    let both = wanted.starts_with("directory") && text.starts_with("directory");
                    wanted == text || both
                };
                let good = expected
                    .iter()
                    .any(|tree| tree.get(path).is_some_and(alike));
                assert!(good, "round {round}: {path}: {text}");
            }
            let states: Vec<bool> = expected
                .iter()
                .map(|tree| tree.get(&format!("{name}/last")) == there.get(&format!("{name}/last")))
                .collect();
            let whole = (0..FILES).all(|number| {
                let path = format!("{name}/d/f{number}");
                let of = expected
                    .iter()
                    .position(|tree| tree.get(&path) == there.get(&path));
                there.is_empty() || of.is_some_and(|of| states[of])
            });
            mixed += usize::from(!whole);
        }
        support::runtime().block_on(async {
            stored(support::solver(&root).store(), &expected);
        });
    }
    println!("{mixed} kills came while files were being moved; {next} numbers exported");
    assert!(next > rounds() / 4, "kills came too early");
    // Whoever comes next completes all, and removes what the killed ones left.
    support::runtime().block_on(async {
        let solver = support::solver(&root);
        let results = results(&solver).await;
        for (_, exporter) in exporters(&out) {
            exporter.export(&results[1], &Cancel::new()).await.unwrap();
        }
    });
    let found = tree(&out);
    assert_eq!(part(&found, "mirror"), part(&expected[1], "mirror"));
    let left: Vec<_> = found
        .keys()
        .filter(|path| path.starts_with("files") || path.starts_with("mirror"))
        .filter(|path| is_partial(path))
        .collect();
    assert_eq!(left, [""; 0]);
}

fn killed(folder: &Path, first: usize, after: Duration) -> Option<usize> {
    let mut command: Command = child("exporting", &[folder.to_str().unwrap(), &first.to_string()]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines
        .next()
        .expect("it begins")
        .unwrap()
        .ends_with("@ open")
    {}
    std::thread::sleep(after);
    assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
    child.kill().unwrap();
    child.wait().unwrap();
    let numbers = lines.map_while(Result::ok);
    let numbers = numbers.filter_map(|line| line.strip_prefix("@ ")?.parse().ok());
    numbers.last()
}

/// What the index of a layout leads to is there.
fn layout(layout: &Path) {
    let Ok(index) = fs::read(layout.join("index.json")) else {
        return;
    };
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    complete(layout, &index);
}

/// Reads all that an index or a manifest leads to.
fn complete(layout: &Path, document: &serde_json::Value) {
    let read = |named: &serde_json::Value| {
        let name = named["digest"].as_str().unwrap().replace(':', "/");
        fs::read(layout.join("blobs").join(name)).unwrap()
    };
    for manifest in document["manifests"].as_array().into_iter().flatten() {
        complete(layout, &serde_json::from_slice(&read(manifest)).unwrap());
    }
    if !document["config"].is_null() {
        read(&document["config"]);
    }
    for layer in document["layers"].as_array().into_iter().flatten() {
        read(layer);
    }
}

/// The names in the store lead to one of the images, and all of it is there. Which one it is.
fn stored(store: &Store, expected: &[Tree]) -> BlobDigest {
    let names = [NAME, OTHER].map(|name| Reference::parse(name).unwrap());
    let [found, other] = names.map(|name| store.images().get(&name).unwrap().unwrap());
    assert_eq!(found, other);
    let name = manifest_in(&found.digest);
    assert!(expected.iter().any(|tree| tree.contains_key(&name)));
    let read = |digest: &BlobDigest| {
        let mut bytes = Vec::new();
        let mut file = store.blobs().open(digest).unwrap().unwrap();
        std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        assert_eq!(BlobDigest::of(&bytes), *digest);
        bytes
    };
    let manifest: ashlar_solver::oci::Manifest =
        serde_json::from_slice(&read(&found.digest)).unwrap();
    read(&manifest.config.digest);
    manifest
        .layers
        .iter()
        .for_each(|layer| drop(read(&layer.digest)));
    found.digest
}

/// Where a layout has a manifest.
fn manifest_in(digest: &BlobDigest) -> String {
    format!("layout/blobs/{}", digest.to_string().replace(':', "/"))
}

#[test]
fn a_cancel_leaves_the_old_or_the_new_output() {
    let folder = temp();
    let folder = folder.path();
    support::runtime().block_on(async {
        let solver = support::solver(folder.join("state"));
        let results = results(&solver).await;
        let expected = expected(folder, &results).await;
        let out = folder.join("out");
        fs::create_dir(&out).unwrap();
        let mut now: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, exporter) in exporters(&out) {
            exporter.export(&results[0], &Cancel::new()).await.unwrap();
            now.insert(name, 0);
        }
        let mut word = 88_172_645_463_325_252_u64;
        let mut cancelled = 0;
        for round in 0..rounds() {
            for (name, exporter) in exporters(&out) {
                word ^= word << 13;
                word ^= word >> 7;
                word ^= word << 17;
                let other = 1 - now[name];
                let cancel = Cancel::new();
                let raise = cancel.clone();
                let after = Duration::from_micros(word % 20_000);
                let raised = std::thread::spawn(move || {
                    std::thread::sleep(after);
                    raise.cancel();
                });
                let before = part(&tree(&out), name);
                let index = |tree: &Tree| tree.get(&format!("{name}/index.json")).cloned();
                let named = stored(solver.store(), &expected);
                let done = exporter.export(&results[other], &cancel).await;
                raised.join().unwrap();
                let after = tree(&out);
                match done {
                    Ok(_) => drop(now.insert(name, other)),
                    // It may have more blobs than before.
                    Err(ExportError::Cancelled) if ["layout", "index"].contains(&name) => {
                        cancelled += 1;
                        assert_eq!(index(&after), index(&before), "round {round}");
                    }
                    Err(ExportError::Cancelled) => {
                        cancelled += 1;
                        assert_eq!(part(&after, name), before, "round {round}: {name}");
                        assert_eq!(stored(solver.store(), &expected), named, "round {round}");
                    }
                    Err(error) => panic!("{name}: {error}"),
                }
                if name == "mirror" {
                    let wanted = part(&expected[now[name]], name);
                    assert_eq!(part(&after, name), wanted, "round {round}");
                }
                if ["layout", "index"].contains(&name) {
                    layout(&out.join(name));
                }
                if name == "image" {
                    let image = manifest_in(&stored(solver.store(), &expected));
                    assert!(expected[now[name]].contains_key(&image), "round {round}");
                }
                let partial: Vec<_> = after.keys().filter(|path| is_partial(path)).collect();
                assert_eq!(partial, [""; 0], "round {round}: {name}");
            }
        }
        println!("{cancelled} exports were cancelled");
        assert!(cancelled > rounds() / 2);
    });
}

#[test]
fn a_failure_while_files_are_moved_is_undone() {
    let test = "a_failure_while_files_are_moved_is_undone";
    if skipped(test, &[Need::Root, Need::Tool("mount")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let out = folder.path().join("out");
        for (path, text) in [
            ("a/kept", "a"),
            ("a/f", "old"),
            ("b", "old"),
            ("gone/x", "old"),
        ] {
            support::write(out.join(path), text);
        }
        fs::create_dir(out.join("m")).unwrap();
        // One that its owner may not write to is made writable meanwhile.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o500);
        fs::set_permissions(out.join("a"), mode).unwrap();
        let time = || fs::metadata(out.join("a")).unwrap().modified().unwrap();
        let old = time();
        // A mount point can be neither replaced nor moved.
        support::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "none"])
                .arg(out.join("m")),
        );
        let unmount = Unmount(out.join("m"));
        let before = tree(&out);
        let state = llb::scratch().file(
            mkdir("/a")
                .mode(0o755)
                .mkfile("/a/f", "new")
                .mkfile("/b", "new")
                .mkfile("/c", "new")
                .mkfile("/m", "a file where the mount is"),
        );
        let solved = solve(&solver, support::request(&state)).await;
        for mode in [LocalMode::Copy, LocalMode::Delete] {
            let local = Local::new(&out).mode(mode);
            let error = local
                .export(&solved.result, &Cancel::new())
                .await
                .unwrap_err();
            assert!(matches!(error, ExportError::Io { .. }), "{error:?}");
            assert_eq!(tree(&out), before, "{mode:?}");
            assert_eq!(time(), old, "{mode:?}");
        }
        drop(unmount);
        let local = Local::new(&out).mode(LocalMode::Delete);
        local.export(&solved.result, &Cancel::new()).await.unwrap();
        let paths: Vec<_> = tree(&out).into_keys().collect();
        assert_eq!(paths, ["a", "a/f", "b", "c", "m"]);
    });
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        support::run(Command::new("umount").arg(&self.0));
    }
}
