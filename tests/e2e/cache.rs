//! Caches that are taken from one store to another, good and bad ones, and why steps run.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ashlar_exporters::{Compression, Exporter as _, Oci, cache_blobs};
use ashlar_llb::{self as llb, BlobDigest, State, copy, mkfile};
use ashlar_solver::cache::records::{BlobLayer, CacheRecords};
use ashlar_solver::cache::{CacheMode, Change, MissReason};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{BlobProvider, NoSuchBlob};
use ashlar_solver::error::Failure;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::progress::Event;
use ashlar_solver::scheduler::VertexStatus;
use ashlar_solver::solver::{CacheImport, SolveRequest, Solved};
use futures::StreamExt as _;

use super::support::{self, file, files, ran, solve, solver, temp, write};

static NEVER: std::sync::LazyLock<Cancel> = std::sync::LazyLock::new(Cancel::new);

/// How a provider treats blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Gives,
    /// Says that it has them, and fails.
    Loses,
    /// Says that it does not have them.
    Denies,
    /// Gives other bytes of the same number.
    Forges,
    /// Gives only the beginning.
    Cuts,
}

/// The blobs of an export, which are counted.
#[derive(Debug)]
struct Counted {
    blobs: Arc<dyn BlobProvider>,
    treatment: Treatment,
    opened: Mutex<Vec<BlobDigest>>,
}

impl BlobProvider for Counted {
    fn has(&self, blob: &Descriptor) -> bool {
        self.treatment != Treatment::Denies && self.blobs.has(blob)
    }

    fn open(&self, blob: &Descriptor, cancel: &Cancel) -> Result<Box<dyn Read + Send>, Failure> {
        self.opened.lock().unwrap().push(blob.digest);
        let mut bytes = Vec::new();
        self.blobs
            .open(blob, cancel)?
            .read_to_end(&mut bytes)
            .unwrap();
        match self.treatment {
            Treatment::Gives => {}
            Treatment::Loses | Treatment::Denies => {
                return Err(NoSuchBlob::new(blob.digest).into());
            }
            Treatment::Forges => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Treatment::Cuts => bytes.truncate(bytes.len() / 2),
        }
        Ok(Box::new(Cursor::new(bytes)))
    }
}

impl Counted {
    fn take(&self) -> usize {
        std::mem::take(&mut *self.opened.lock().unwrap()).len()
    }
}

/// Three files on each other, one of them copied from beside, and a fourth that `top` names.
fn state(top: &str) -> State {
    let context = llb::local("context");
    let beside = llb::scratch()
        .file(mkfile("/beside", "beside").custom_name("beside"))
        .file(mkfile("/more", "more").custom_name("more"));
    llb::scratch()
        .file(copy(&context, "/one", "/one").custom_name("one"))
        .file(copy(&beside, "/beside", "/two").custom_name("two"))
        .file(mkfile("/three", "three").custom_name("three"))
        .file(mkfile("/top", top.to_owned()).custom_name("top"))
}

struct World {
    folder: tempfile::TempDir,
    records: CacheRecords<BlobLayer>,
    blobs: Arc<dyn BlobProvider>,
    _first: Solved,
}

impl World {
    async fn new() -> Self {
        let folder = temp();
        write(folder.path().join("context/one"), "one");
        let first = solver(folder.path().join("first"));
        let request = request(folder.path(), "top");
        let solved = solve(&first, request).await;
        let export = solved.export_cache(CacheMode::Max).await.unwrap();
        let blobs = cache_blobs(&export, Compression::default(), &NEVER);
        Self {
            records: blobs.await.unwrap(),
            blobs: export.blobs(),
            _first: solved,
            folder,
        }
    }

    fn import(&self, treatment: Treatment) -> (Arc<Counted>, CacheImport) {
        let counted = Arc::new(Counted {
            blobs: self.blobs.clone(),
            treatment,
            opened: Mutex::default(),
        });
        let import = CacheImport::new(self.records.clone(), counted.clone());
        (counted, import)
    }
}

fn request(folder: &Path, top: &str) -> SolveRequest {
    support::request(&state(top)).local("context", folder.join("context"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_imported_cache_is_fetched_before_it_is_needed() {
    let world = World::new().await;
    let (counted, import) = world.import(Treatment::Gives);
    let second = solver(world.folder.path().join("second"));
    let request = |top: &str| request(world.folder.path(), top).import_cache(import.clone());
    let solved = solve(&second, request("top")).await;
    assert_eq!(ran(&solved), [] as [&str; 0]);
    assert_eq!(counted.take(), 0);
    // An export needs the blobs of the layers, each once, and unpacks none.
    let archive = world.folder.path().join("image.tar");
    let exporter = Oci::archive(archive).source_date_epoch(1_650_000_000);
    let exported = exporter.export(&solved.result, &NEVER).await.unwrap();
    assert_eq!(counted.take(), 4);
    assert_eq!(support::layers(second.root()), 0);
    // It is the image that the first store makes.
    let first = exporter.export(&world._first.result, &NEVER);
    assert_eq!(first.await.unwrap().digest, exported.digest);
    // A step on top needs files: those of the blobs that are there by now.
    let solved = solve(&second, request("another")).await;
    assert_eq!(ran(&solved), ["top"]);
    assert_eq!(counted.take(), 0);
    assert_eq!(files(&solved).await["two"], file(0o644, b"beside"));
    // What was unpacked is found without the import.
    let without = super::cache::request(world.folder.path(), "third");
    let solved = solve(&second, without).await;
    assert_eq!(ran(&solved), ["top"]);
}

/// Class 16: what an imported cache names is compared with its digests, and a bad one costs
/// nothing but its hits.
#[tokio::test(flavor = "multi_thread")]
async fn class_16_a_bad_cache_is_told_and_gone_without() {
    let world = World::new().await;
    for treatment in [
        Treatment::Loses,
        Treatment::Denies,
        Treatment::Forges,
        Treatment::Cuts,
    ] {
        let root = world.folder.path().join(format!("{treatment:?}"));
        let second = solver(&root);
        let (_, import) = world.import(treatment);
        let request = request(world.folder.path(), "another").import_cache(import);
        let mut handle = second.solve(request);
        let mut warnings = Vec::new();
        while let Some(event) = handle.next().await {
            if let Event::Warning { message, .. } = event {
                warnings.push(message);
            }
        }
        let solved = handle.result().await;
        let solved = solved.unwrap_or_else(|error| panic!("{treatment:?}: {error}"));
        let tree = files(&solved).await;
        assert_eq!(tree["one"], file(0o644, b"one"), "{treatment:?}");
        assert_eq!(tree["top"], file(0o644, b"another"), "{treatment:?}");
        let expected = ["beside", "more", "one", "three", "top", "two"];
        let mut names = ran(&solved);
        names.sort();
        assert_eq!(names, expected, "{treatment:?}");
        match treatment {
            Treatment::Denies => assert!(warnings.is_empty(), "{warnings:?}"),
            _ => {
                assert_eq!(warnings.len(), 1, "{treatment:?}: {warnings:?}");
                assert!(warnings[0].contains("of an imported cache"), "{warnings:?}");
                assert!(warnings[0].contains("goes on without"), "{warnings:?}");
            }
        }
        drop(solved);
        drop(second);
        assert_eq!(support::leftovers(&root), [] as [&str; 0], "{treatment:?}");
    }
}

/// Class 16: a layer whose blob is what its digest says, and which inflates to something else than
/// its diff id.
#[tokio::test(flavor = "multi_thread")]
async fn class_16_a_layer_that_is_another_is_not_used() {
    let world = World::new().await;
    let swapped = world.records.map_layers(|layer| {
        let mut layer = layer.clone();
        layer.blob.diff_id = ashlar_llb::DiffId::of(&layer.blob.size.to_le_bytes());
        Ok::<_, std::convert::Infallible>(Some(layer))
    });
    let Ok(swapped) = swapped;
    let import = CacheImport::new(swapped, world.blobs.clone());
    let second = solver(world.folder.path().join("second"));
    let request = request(world.folder.path(), "another").import_cache(import);
    let solved = solve(&second, request).await;
    assert_eq!(files(&solved).await["one"], file(0o644, b"one"));
    assert_eq!(ran(&solved).len(), 6);
}

/// A cache says what came out of ops, not what is in sources: records of these have no results.
#[tokio::test(flavor = "multi_thread")]
async fn class_16_results_of_sources_are_not_taken() {
    let folder = temp();
    let source = llb::scratch().file(mkfile("/a", "right").custom_name("make"));
    let state = llb::scratch().file(copy(&source, "/a", "/b").custom_name("copy"));
    let first = solver(folder.path().join("first"));
    let solved = solve(&first, support::request(&state)).await;
    let export = solved.export_cache(CacheMode::Max).await.unwrap();
    let blobs = cache_blobs(&export, Compression::default(), &NEVER);
    let records = blobs.await.unwrap();
    // The same records, with the layer of the copy as the result of all without inputs.
    let mut draft = ashlar_solver::cache::records::Draft::new();
    let layer = draft.add_layer(None, records.layers()[0].layer.clone());
    for record in records.records() {
        let created = ashlar_solver::tree::Timestamp::default();
        let result = ashlar_solver::cache::records::RecordResult { layer, created };
        draft.add_record(ashlar_solver::cache::records::DraftRecord {
            digest: record.digest,
            inputs: record.inputs.clone(),
            results: match record.inputs.is_empty() {
                true => vec![result],
                false => Vec::new(),
            },
        });
    }
    let import = CacheImport::new(draft.finish(), export.blobs());
    let second = solver(folder.path().join("second"));
    let solved = solve(&second, support::request(&state).import_cache(import)).await;
    let mut names = ran(&solved);
    names.sort();
    assert_eq!(names, ["copy", "make"]);
    assert_eq!(files(&solved).await["b"], file(0o644, b"right"));
}

/// The reason why the vertex of that name ran.
fn reason(solved: &Solved, name: &str) -> MissReason {
    let vertex = solved.vertices.iter().find(|vertex| &*vertex.name == name);
    match &vertex.unwrap().status {
        VertexStatus::Ran(reason) => reason.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

fn changes(solved: &Solved, name: &str) -> Vec<(String, Change)> {
    let MissReason::ContentChanged {
        old: Some(_),
        new: Some(_),
        changes: Some(changes),
        ..
    } = reason(solved, name)
    else {
        panic!("{:?}", reason(solved, name));
    };
    let paths = changes.paths.into_iter();
    let paths = paths.map(|path| (String::from_utf8(path.path.into()).unwrap(), path.change));
    paths.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_ran_says_which_paths_changed() {
    let folder = temp();
    let context = folder.path().join("context");
    for name in ["a", "b", "deep/c", "deep/d"] {
        write(context.join("src").join(name), name);
    }
    write(context.join("other"), "other");
    let root = folder.path().join("state");
    let solver = solver(&root);
    let whole = llb::local("context");
    let all = llb::scratch().file(copy(&whole, "/src", "/src").custom_name("all"));
    let some = copy(&whole, "/src/*", "/some/")
        .wildcard()
        .create_dest_path();
    let state = llb::scratch()
        .file(some.custom_name("some"))
        .file(mkfile("/end", "").custom_name("end"))
        .file(copy(&all, "/src", "/src").custom_name("both"));
    let request = || support::request(&state).local("context", &context);
    let build = async || solve(&solver, request()).await;
    let first = build().await;
    assert_eq!(reason(&first, "all"), MissReason::NeverSeen);
    // Outside of what the step sees.
    write(context.join("other"), "changed");
    assert_eq!(ran(&build().await), [] as [&str; 0]);
    write(context.join("src/a"), "changed");
    fs::remove_file(context.join("src/b")).unwrap();
    write(context.join("src/deep/new/file"), "new");
    let mode = fs::Permissions::from_mode(0o700);
    fs::set_permissions(context.join("src/deep/d"), mode).unwrap();
    let second = build().await;
    let mut found = changes(&second, "all");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("/src/a", Change::Changed),
        ("/src/b", Change::Removed),
        ("/src/deep/d", Change::Changed),
        ("/src/deep/new", Change::Added),
    ];
    let expected = expected.map(|(path, change)| (path.to_owned(), change));
    assert_eq!(found, expected);
    let mut found = changes(&second, "some");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found[..2], expected[..2]);
    let MissReason::InputChanged {
        input: 0,
        old: Some(old),
        new: Some(new),
    } = reason(&second, "end")
    else {
        panic!("{:?}", reason(&second, "end"));
    };
    assert_ne!(old, new);
    let at = |name: &str| {
        let mut vertices = second.vertices.iter();
        vertices.position(|vertex| &*vertex.name == name).unwrap()
    };
    let line = second.explain(at("all")).unwrap();
    assert!(
        line.starts_with("all ran: the content of input 0 (local://context) is another: /src/"),
        "{line}"
    );
    assert!(
        line.ends_with(", and 1 more") && !line.contains('\n'),
        "{line}"
    );
    let line = second.explain(at("end")).unwrap();
    assert!(
        line.starts_with("end ran: input 0 (some) is another: key sha256:"),
        "{line}"
    );
    // Asked to run, and run because the data are gone.
    let ignored = solve(&solver, request().no_cache(true)).await;
    assert_eq!(reason(&ignored, "all"), MissReason::Ignored);
    drop((first, second, ignored));
    for layer in fs::read_dir(root.join("layers")).unwrap() {
        fs::remove_dir_all(layer.unwrap().path()).unwrap();
    }
    let gone = build().await;
    assert_eq!(reason(&gone, "end"), MissReason::DataGone);
    let unknown = MissReason::ContentChanged {
        input: 0,
        old: None,
        new: None,
        changes: None,
    };
    assert!(!unknown.to_string().contains('\n'));
}

/// What an op saw of a directory that is too large to list is told by its larger parts.
#[tokio::test(flavor = "multi_thread")]
async fn changes_in_large_directories_are_told_by_the_directory() {
    let folder = temp();
    let context = folder.path().join("context");
    for at in 0..1200 {
        write(context.join(format!("many/{at}")), "");
    }
    write(context.join("few/a"), "a");
    let solver = solver(folder.path().join("state"));
    let state = llb::scratch().file(copy(llb::local("context"), "/", "/x").custom_name("all"));
    let request = || support::request(&state).local("context", &context);
    solve(&solver, request()).await;
    write(context.join("many/7"), "seven");
    write(context.join("few/b"), "b");
    let solved = solve(&solver, request()).await;
    let mut found = changes(&solved, "all");
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("/few/b".to_owned(), Change::Added),
        ("/many".to_owned(), Change::Changed),
    ];
    assert_eq!(found, expected);
}
