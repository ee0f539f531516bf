//! Names from outside: whatever they are, nothing is written outside of the destination.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ashlar_exporters::attest::Attest;
use ashlar_exporters::provenance::ProvenanceOptions;
use ashlar_exporters::sbom::{ScanDocument, ScanError, ScanTarget, Scanner};
use ashlar_exporters::{
    Docker, Exporter, FileOptions, Image, ImageOptions, Local, LocalMode, Oci, Output, Tar,
};
use ashlar_llb::{self as llb, Platform};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::OperationError;
use ashlar_solver::refs::{Lazy, Ref};
use ashlar_solver::result::{
    Attestation, AttestationContent, AttestationKind, BuildResult, PlatformRef,
};
use ashlar_solver::snapshot::Stack;
use ashlar_solver::solver::Solver;
use ashlar_solver::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::support::{self, Tree, temp};

/// A tree in memory.
#[derive(Debug)]
struct Memory(View);

impl Lazy for Memory {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(Some(self.0.clone()))
    }

    fn materialize(&self, _: &Cancel) -> Result<Stack, OperationError> {
        Ok(Stack::scratch())
    }
}

/// A file with this text.
#[derive(Debug)]
struct Text(&'static str);

impl Files for Text {
    fn open(&self, _: &TreePath) -> io::Result<fs::File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(self.0.as_bytes())?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// What an object of a random tree is.
#[derive(Debug, Clone)]
enum Object {
    Directory,
    File,
    Link(Vec<u8>),
}

fn view(objects: &[(Vec<Vec<u8>>, Object)]) -> View {
    let mut view = View::empty();
    for (components, object) in objects {
        let mut at = TreePath::root();
        let last = components.len() - 1;
        for (number, name) in components.iter().enumerate() {
            let Ok(next) = at.join(name) else { break };
            let there = view.lookup(&next).map(|node| node.entry().kind);
            let attributes = Attributes {
                mode: 0o755,
                ..Attributes::default()
            };
            if number < last || matches!(object, Object::Directory) {
                if there != Some(Kind::Directory) {
                    let entry = Entry::new(Kind::Directory, attributes);
                    view = view.with(&next, Node::directory(entry, None, Vec::new()));
                }
            } else {
                let node = match object {
                    Object::Link(target) => {
                        let mut entry = Entry::new(Kind::Symlink, attributes);
                        entry.target = target.clone().into();
                        Node::leaf(entry, None)
                    }
                    _ => {
                        let mut entry = Entry::new(Kind::File, attributes);
                        entry.size = 7;
                        Node::leaf(entry, Some(Arc::new(Text("inside\n"))))
                    }
                };
                view = view.with(&next, node);
            }
            at = next;
        }
    }
    view
}

/// Names that are more often odd than not.
fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..12),
        2 => prop::sample::select(vec![
            &b"a"[..], b"b", b"..", b".", b"", b"a/b", b"/etc", b"../outside", b"\0", b"a\0b",
            b"kept", b"old", b".ashlar-x.partial", b"\xff\xfe", b"a\nb", b"-", b"--help", b"outside",
        ])
        .prop_map(<[u8]>::to_vec),
    ]
}

fn word() -> impl Strategy<Value = String> {
    name().prop_map(|name| String::from_utf8_lossy(&name).into_owned())
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        Just(Object::Directory),
        Just(Object::File),
        prop::sample::select(vec![
            "../outside",
            "/",
            "..",
            ".",
            "../outside/file",
            "/proc/self/root",
            "a"
        ])
        .prop_map(|target| Object::Link(target.as_bytes().to_vec())),
    ]
}

/// A folder with a destination, and beside it what must not change.
fn arena(folder: &Path) -> Tree {
    support::write(folder.join("outside/file"), "outside\n");
    support::write(folder.join("out/kept"), "kept\n");
    let _there = symlink("../outside", folder.join("out/a"));
    let _there = symlink("../outside/file", folder.join("out/b"));
    let _there = symlink("..", folder.join("out/outside"));
    beside(folder)
}

fn beside(folder: &Path) -> Tree {
    let mut found = tree_of_bytes(folder);
    found.retain(|path, _| path != "out" && !path.starts_with("out/"));
    found
}

/// As `support::tree`, for names that are no text.
fn tree_of_bytes(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            let name = name.escape_ascii().to_string();
            if name.starts_with("state") {
                continue;
            }
            let text = match () {
                () if data.is_dir() => {
                    todo.push(path.clone());
                    "directory".to_owned()
                }
                () if data.is_file() => String::from_utf8_lossy(&fs::read(&path).unwrap()).into(),
                () => "other".to_owned(),
            };
            found.insert(name, text);
        }
    }
    found
}

async fn try_all(exporters: Vec<Box<dyn Exporter>>, result: &BuildResult) -> usize {
    let mut good = 0;
    for exporter in exporters {
        good += usize::from(exporter.export(result, &Cancel::new()).await.is_ok());
    }
    good
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

fn with_solver(test: impl FnOnce(&tokio::runtime::Runtime, &Solver)) {
    let folder = temp();
    let runtime = support::runtime();
    let solver = runtime.block_on(async { support::solver(folder.path().join("state")) });
    test(&runtime, &solver);
}

#[test]
fn class_6_cve_2026_33747_names_of_files_stay_inside() {
    with_solver(|runtime, solver| {
        let objects = prop::collection::vec((prop::collection::vec(name(), 1..4), object()), 0..12);
        let run = runner(48).run(&objects, |objects| {
            let folder = temp();
            let before = arena(folder.path());
            let reference = Ref::lazy(Arc::new(Memory(view(&objects))));
            let store = solver.store().clone();
            let result = BuildResult::new(reference, Platform::of_target(), store);
            let (out, fresh) = (folder.path().join("out"), temp());
            runtime.block_on(async {
                for mode in [LocalMode::Copy, LocalMode::Delete, LocalMode::Copy] {
                    let local = Local::new(&out).mode(mode).verify(true);
                    local.export(&result, &Cancel::new()).await.unwrap();
                    let new = Local::new(fresh.path().join("new/deep"));
                    new.export(&result, &Cancel::new()).await.unwrap();
                }
                let tar = Tar::file(folder.path().join("out/files.tar")).verify(true);
                tar.export(&result, &Cancel::new()).await.unwrap();
            });
            prop_assert_eq!(beside(folder.path()), before);
            let fresh = tree_of_bytes(fresh.path()).into_keys();
            let outside = |name: &String| name != "new" && !name.starts_with("new/deep");
            prop_assert_eq!(fresh.filter(outside).count(), 0);
            Ok(())
        });
        run.unwrap();
    });
}

#[test]
fn class_6_cve_2026_33747_platforms_and_attestations_stay_inside() {
    with_solver(|runtime, solver| {
        let names = (word(), word(), word(), word(), any::<bool>());
        let good = std::cell::Cell::new(0);
        let run = runner(96).run(&names, |(id, path, prefix, other, split)| {
            let folder = temp();
            let before = arena(folder.path());
            let reference = Ref::lazy(Arc::new(Memory(View::empty())));
            let refs = [
                PlatformRef::new(Platform::linux_amd64(), reference.clone()).with_id(id.clone()),
                PlatformRef::new(Platform::linux_arm64(), reference).with_id(other.clone()),
            ];
            let store = solver.store().clone();
            let Ok(result) = BuildResult::of_platforms(refs, store) else {
                return Ok(());
            };
            let attestation = Attestation::in_toto("https://example.com/x", path, "{}");
            let result = result
                .with_attestation(id, attestation.clone())
                .with_attestation(other, attestation);
            let mut options = FileOptions::default();
            options.attestation_prefix = prefix;
            options.platform_split = Some(split);
            let out = |name: &str| folder.path().join("out").join(name);
            good.set(
                good.get()
                    + runtime.block_on(async {
                        let exporters: Vec<Box<dyn Exporter>> = vec![
                            Box::new(
                                Local::new(folder.path().join("out")).options(options.clone()),
                            ),
                            Box::new(Local::new(out("deep")).options(options.clone())),
                            Box::new(Tar::file(out("files.tar")).options(options)),
                            Box::new(Oci::directory(out("layout"))),
                        ];
                        try_all(exporters, &result).await
                    }),
            );
            prop_assert_eq!(beside(folder.path()), before);
            Ok(())
        });
        run.unwrap();
        assert!(good.get() > 50, "{good:?} exports were good");
    });
}

/// Every exporter of files and of images into a folder.
fn all_exporters(out: &Path) -> Vec<Box<dyn Exporter>> {
    let mut exporters: Vec<Box<dyn Exporter>> = vec![
        Box::new(Oci::directory(out.join("layout"))),
        Box::new(Oci::archive(out.join("oci.tar"))),
        Box::new(Docker::archive(out.join("docker.tar"))),
        Box::new(Image::new().name("a")),
    ];
    for split in [false, true] {
        let mut options = FileOptions::default();
        options.platform_split = Some(split);
        let local = Local::new(out.join(split.to_string())).options(options.clone());
        exporters.push(Box::new(local.clone()));
        exporters.push(Box::new(local.mode(LocalMode::Delete)));
        exporters.push(Box::new(Tar::file(out.join("files.tar")).options(options)));
    }
    exporters
}

#[test]
fn class_6_cve_2026_33747_platforms_of_configs_and_of_results_stay_inside() {
    with_solver(|runtime, solver| {
        let names = (word(), word(), word(), word());
        let good = std::cell::Cell::new(0);
        let run = runner(16).run(&names, |(os, architecture, variant, version)| {
            let folder = temp();
            let before = arena(folder.path());
            let store = || solver.store().clone();
            let reference = || Ref::lazy(Arc::new(Memory(View::empty())));
            let config = serde_json::json!({
                "os": os, "architecture": architecture, "variant": variant, "os.version": version,
            });
            let config = config.to_string();
            let linux = Platform::linux_amd64;
            let told = Platform::new(&os, &architecture).with_variant(&variant);
            let single = |platform| BuildResult::new(reference(), platform, store());
            let refs = [
                PlatformRef::new(told.clone(), reference()),
                PlatformRef::new(linux(), reference()),
            ];
            let several = BuildResult::of_platforms(refs, store());
            let named = PlatformRef::new(told.clone(), reference()).named();
            let named = BuildResult::of_platforms([named], store());
            let results = [
                Ok(single(linux()).with_image_config(config.clone())),
                Ok(single(told)),
                several,
                named.map(|named| {
                    let id = named.refs()[0].id.clone();
                    named.with_image_config_of(&id, config)
                }),
            ];
            for result in results.into_iter().flatten() {
                let exporters = all_exporters(&folder.path().join("out/new"));
                good.set(good.get() + runtime.block_on(try_all(exporters, &result)));
            }
            prop_assert_eq!(beside(folder.path()), before);
            let out = folder.path().join("out");
            let own = ["kept", "a", "b", "outside", "new"];
            let more = fs::read_dir(out)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let more: Vec<_> = more
                .filter(|name| !own.iter().any(|own| name == own))
                .collect();
            prop_assert!(more.is_empty(), "{more:?}");
            Ok(())
        });
        run.unwrap();
        assert!(good.get() > 50, "{good:?} exports were good");
    });
}

/// A scanner that calls its document as it is told to.
#[derive(Debug)]
struct Calls(String);

#[async_trait::async_trait]
impl Scanner for Calls {
    async fn scan(&self, _: &ScanTarget, _: &Cancel) -> Result<Vec<ScanDocument>, ScanError> {
        Ok(vec![ScanDocument::spdx(&self.0, "{}")])
    }
}

#[test]
fn class_6_cve_2026_33747_documents_of_bundles_scanners_and_provenance_stay_inside() {
    with_solver(|runtime, solver| {
        let request = support::request(&llb::scratch().file(llb::mkfile("/file", "file")));
        let built = runtime.block_on(support::solve(solver, request)).result;
        let names = prop::collection::vec(name(), 0..4);
        let names = (names, word(), word(), word());
        let good = std::cell::Cell::new(0);
        let run = runner(24).run(&names, |(members, bundle, scanned, provenance)| {
            let folder = temp();
            let before = arena(folder.path());
            let statement = "{\"predicateType\":\"https://example.com/x\"}";
            let mut view = View::empty();
            for member in members {
                let Ok(path) = TreePath::root().join(&member) else {
                    continue;
                };
                let mut entry = Entry::new(Kind::File, Attributes::default());
                entry.size = statement.len() as u64;
                let content = Arc::new(Text(statement));
                view = view.with(&path, Node::leaf(entry, Some(content)));
            }
            let members = AttestationContent::File(Ref::lazy(Arc::new(Memory(view))));
            let bundle = Attestation::new(AttestationKind::Bundle, "", bundle, members);
            let provenance = ProvenanceOptions::new().filename(provenance);
            let id = built.platform().to_string();
            let attested = runtime.block_on(async {
                let asked = [
                    Attest::new().provenance(provenance),
                    Attest::new().sbom(Calls(scanned)),
                ];
                let mut all = vec![built.clone().with_attestation(id, bundle)];
                for asked in asked {
                    all.extend(asked.apply(&built, &Cancel::new()).await);
                }
                all
            });
            for result in attested {
                let exporters = all_exporters(&folder.path().join("out/new"));
                good.set(good.get() + runtime.block_on(try_all(exporters, &result)));
            }
            prop_assert_eq!(beside(folder.path()), before);
            Ok(())
        });
        run.unwrap();
        assert!(good.get() > 50, "{good:?} exports were good");
    });
}

#[test]
fn class_6_cve_2026_33747_names_and_keys_stay_inside() {
    with_solver(|runtime, solver| {
        let names = (word(), word(), word(), word());
        let good = std::cell::Cell::new(0);
        let run = runner(96).run(&names, |(name, key, value, metadata)| {
            let folder = temp();
            let before = arena(folder.path());
            let reference = Ref::lazy(Arc::new(Memory(View::empty())));
            let store = solver.store().clone();
            let mut result = BuildResult::new(reference, Platform::of_target(), store);
            result.metadata.insert(metadata, value.clone().into_bytes());
            let mut options = ImageOptions::default();
            options.names = vec![name.clone()];
            let _known = options
                .annotations
                .parse(&format!("annotation.{key}"), value.clone());
            let out = |name: &str| folder.path().join("out").join(name);
            good.set(
                good.get()
                    + runtime.block_on(async {
                        let exporters: Vec<Box<dyn Exporter>> = vec![
                            Box::new(Oci::directory(out("layout")).options(options.clone())),
                            Box::new(Oci::archive(out("oci.tar")).options(options.clone())),
                            Box::new(Docker::archive(out("docker.tar")).options(options.clone())),
                            Box::new(Image::new().options(options)),
                        ];
                        try_all(exporters, &result).await
                    }),
            );
            // As attributes, too: errors or outputs, never a panic.
            let attributes = BTreeMap::from([
                (key, value.clone()),
                ("name".to_owned(), name.clone()),
                ("dest".to_owned(), out("x").display().to_string()),
            ]);
            for kind in ["oci", "docker", "local", "tar", "image", &name] {
                let _any = Output::from_attributes(kind, attributes.clone());
            }
            let _any = Output::parse(&format!("{name},{value}"));
            prop_assert_eq!(beside(folder.path()), before);
            Ok(())
        });
        run.unwrap();
        assert!(good.get() > 20, "{good:?} exports were good");
    });
}

/// Names that look like those of images, and more often than not are none.
fn image_name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "app",
        "a/b",
        "example.com",
        ":",
        "v1",
        "@",
        "/",
        "..",
        "%2e%2e",
        "?x=y",
        "#",
        " ",
        "\r\n",
        "\0",
        "localhost:5000",
        "é",
        "images/load",
        "A",
        "%00",
        "sha256:00",
    ]);
    let parts = prop::collection::vec(part, 1..6);
    prop_oneof![3 => parts.prop_map(|parts| parts.concat()), 1 => word()]
}

/// An engine that has nothing and takes everything, and the lines of the requests it got.
fn engine(socket: &Path) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let noted = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = io::BufReader::new(stream.unwrap());
            let mut line = String::new();
            let _gone = stream.read_line(&mut line);
            let is_load = line.starts_with("POST");
            noted.lock().unwrap().push(line);
            let mut last = Vec::new();
            loop {
                let mut line = Vec::new();
                match stream.read_until(b'\n', &mut line) {
                    Ok(1..) => {}
                    _ => break,
                }
                // The end of the headers, or of a body in chunks.
                if line == b"\r\n" && (!is_load || last == b"0\r\n") {
                    break;
                }
                last = line;
            }
            let status = if is_load { "200 OK" } else { "404 Not Found" };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
            let _gone = stream.get_mut().write_all(answer.as_bytes());
        }
    });
    heard
}

#[test]
fn class_6_cve_2026_33747_names_for_engines_ask_for_one_image_each() {
    with_solver(|runtime, solver| {
        let folder = temp();
        let socket = folder.path().join("engine");
        let heard = engine(&socket);
        let good = std::cell::Cell::new(0);
        let run = runner(96).run(&image_name(), |name| {
            let reference = Ref::lazy(Arc::new(Memory(View::empty())));
            let store = solver.store().clone();
            let result = BuildResult::new(reference, Platform::of_target(), store);
            let load = Docker::engine(&socket).name(name.clone());
            let loaded = runtime.block_on(load.export(&result, &Cancel::new()));
            let heard = std::mem::take(&mut *heard.lock().unwrap());
            if loaded.is_err() {
                prop_assert!(heard.is_empty(), "{name:?} {heard:?}");
                return Ok(());
            }
            good.set(good.get() + 1);
            let (asked, sent) = heard.split_at(1);
            prop_assert_eq!(sent, ["POST /images/load?quiet=1 HTTP/1.1\r\n"]);
            // Nothing but letters that stand for themselves, and no way up.
            let path = asked[0].strip_prefix("GET /images/").unwrap();
            let path = path.strip_suffix("/json HTTP/1.1\r\n").unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || "./-_:@[]".contains(c);
            prop_assert!(path.chars().all(plain), "{path:?}");
            let mut parts = path.split('/');
            prop_assert!(
                parts.all(|part| !matches!(part, "" | "." | "..")),
                "{path:?}"
            );
            Ok(())
        });
        run.unwrap();
        assert!(good.get() > 5, "{good:?} loads were good");
    });
}
