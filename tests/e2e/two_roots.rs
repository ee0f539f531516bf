//! Two builds on two roots, at two times, by way of every output: the same bytes with an epoch, and
//! the same but for times without one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ashlar_exporters::attest::Attest;
use ashlar_exporters::sbom::PackageScanner;
use ashlar_exporters::{
    Compression, Docker, Exporter, Image, ImageOptions, Local, MediaTypes, Oci, Tar,
};
use ashlar_llb::{self as llb, BlobDigest, Platform, State, copy, mkdir, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{Compression as Kind, Inflate};
use ashlar_solver::result::{BuildResult, PlatformRef};
use ashlar_solver::solver::{SolveRequest, Solver};
use serde_json::Value;

use super::oci_rules;
use super::support::{self, Need, skipped, solve, temp, tree};

const EPOCH: i64 = 1_500_000_000;

/// A build whose times all are those of this moment, in layers of each kind.
fn made_now(base: &State, folder: &Path) -> State {
    for number in 0..30 {
        let path = folder.join(format!("context/d{number}/file"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{number}\n").repeat(1000)).unwrap();
    }
    fs::write(folder.join("context/requirements.txt"), "six==1.16.0\n").unwrap();
    let context = llb::local("context");
    let all = copy(&context, "/", "/context").contents_only();
    base.file(all.create_dest_path())
        .file(mkdir("/made").mode(0o750))
        .file(mkfile("/made/file", "made\n").mode(0o640).owner((5, 6)))
        .file(llb::symlink("file", "/made/link"))
        .file(llb::rm("/context/d7"))
}

/// A step that leaves files of each kind, at this moment.
fn step(state: &State) -> State {
    let script = "mkdir /by; echo step > /by/file; ln /by/file /by/linked; ln -s file /by/link; \
                  busybox mkfifo /by/fifo; busybox chmod 600 /by/file; busybox rm /made/file";
    state.run(["sh", "-c", script]).root()
}

fn with_epoch(is_set: bool) -> ImageOptions {
    let mut options = ImageOptions::default();
    options.names = vec!["app:v1".to_owned()];
    if is_set {
        options.epoch = ashlar_exporters::Epoch::At(EPOCH);
        options.rewrite_timestamp = true;
    }
    options
}

async fn export(exporter: impl Exporter, result: &BuildResult) -> String {
    let exported = exporter.export(result, &Cancel::new()).await;
    let exported = exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
    format!("{exported:?}")
}

/// All bytes of the files below a directory, and their times.
fn all(folder: &Path, with_times: bool) -> BTreeMap<String, String> {
    let mut found = tree(folder);
    for (path, text) in &mut found {
        let time = fs::symlink_metadata(folder.join(path)).unwrap().mtime();
        if with_times {
            *text += &format!(" at {time}");
        }
    }
    found
}

/// What was built on one root.
struct Built {
    solver: Solver,
    folder: PathBuf,
    result: BuildResult,
}

impl Built {
    async fn new(folder: PathBuf, request: SolveRequest) -> Self {
        let solver = support::solver(folder.join("state"));
        let result = solve(&solver, request).await.result;
        Self {
            solver,
            folder,
            result,
        }
    }

    /// Two platforms with this tree, and an SBOM of each.
    async fn several(&self, epoch: Option<i64>) -> BuildResult {
        let tree = || self.result.reference().clone();
        let platforms = [Platform::linux_amd64(), Platform::linux_arm64()];
        let refs = platforms.map(|platform| PlatformRef::new(platform, tree()));
        let result = BuildResult::of_platforms(refs, self.solver.store().clone()).unwrap();
        let mut asked = Attest::new().sbom(PackageScanner::new());
        if let Some(epoch) = epoch {
            asked = asked.source_date_epoch(epoch);
        }
        asked.apply(&result, &Cancel::new()).await.unwrap()
    }

    /// Everything that is to be the same, by what it is of.
    async fn reproducible(&self, compressions: &[Compression]) -> BTreeMap<String, String> {
        let at = |name: &str| self.folder.join(name);
        let mut found = BTreeMap::new();
        let several = self.several(Some(EPOCH)).await;
        let of_file = |name: &str| BlobDigest::of(&fs::read(at(name)).unwrap()).to_string();
        for &compression in compressions {
            let name = compression.name();
            let options = |types| {
                let mut options = with_epoch(true);
                (options.compression, options.media_types) = (compression, types);
                options
            };
            let archive = Oci::archive(at("oci.tar"))
                .options(options(None))
                .verify(true);
            let told = export(archive, &self.result).await;
            found.insert(format!("oci {name}"), told + &of_file("oci.tar"));
            let archive = Oci::archive(at("several.tar")).options(options(None));
            let told = export(archive.verify(true), &several).await;
            found.insert(format!("several {name}"), told + &of_file("several.tar"));
            let layout = at(&format!("layout-{name}"));
            let told = export(Oci::directory(&layout).options(options(None)), &several).await;
            oci_rules::check(&layout);
            let blobs = format!("{:?}", all(&layout, false));
            found.insert(format!("layout {name}"), told + &blobs);
            let told = export(Image::new().options(options(None)), &self.result).await;
            found.insert(format!("image {name}"), told);
            let docker_types = match compression.needs_oci_types() {
                true => None,
                false => Some(MediaTypes::Docker),
            };
            let docker = Docker::archive(at("docker.tar")).options(options(docker_types));
            let told = export(docker.verify(true), &self.result).await;
            found.insert(format!("docker {name}"), told + &of_file("docker.tar"));
        }
        for (name, result) in [("single", &self.result), ("several", &several)] {
            let tar = Tar::file(at("files.tar")).source_date_epoch(EPOCH);
            export(tar.verify(true), result).await;
            found.insert(format!("tar {name}"), of_file("files.tar"));
            let files = at(&format!("files-{name}"));
            let local = Local::new(&files).source_date_epoch(EPOCH);
            export(local.verify(true), result).await;
            let files = format!("{:?}", all(&files, true));
            assert_eq!(
                files.matches(" at ").count(),
                files.matches(&format!(" at {EPOCH}")).count()
            );
            found.insert(format!("local {name}"), files);
        }
        found
    }

    /// Everything without times, and what has them.
    async fn plain(&self, compressions: &[Compression]) -> [BTreeMap<String, Vec<String>>; 2] {
        let at = |name: &str| self.folder.join(name);
        let (mut without, mut with) = (BTreeMap::new(), BTreeMap::new());
        for &compression in compressions {
            let layout = at(&format!("plain-{}", compression.name()));
            let mut options = with_epoch(false);
            options.compression = compression;
            let told = export(Oci::directory(&layout).options(options), &self.result).await;
            oci_rules::check(&layout);
            let name = format!("layout {}", compression.name());
            without.insert(name.clone(), without_times(&layout));
            with.insert(name, vec![told]);
        }
        let files = at("plain-files");
        export(Local::new(&files), &self.result).await;
        let texts = |times| {
            all(&files, times)
                .into_iter()
                .map(|(path, text)| path + &text)
        };
        without.insert("local".to_owned(), texts(false).collect());
        with.insert("local".to_owned(), texts(true).collect());
        export(Tar::file(at("plain.tar")), &self.result).await;
        let bytes = fs::read(at("plain.tar")).unwrap();
        without.insert("tar".to_owned(), entries(&bytes));
        with.insert("tar".to_owned(), vec![BlobDigest::of(&bytes).to_string()]);
        [without, with]
    }
}

/// What is in the only image of a layout but times, and the digests of what has times.
fn without_times(layout: &Path) -> Vec<String> {
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap()
    };
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    let index = json(&fs::read(layout.join("index.json")).unwrap());
    let mut manifest = json(&blob(&index["manifests"][0]));
    let mut config = json(&blob(&manifest["config"]));
    config.as_object_mut().unwrap().remove("created").unwrap();
    for entry in config["history"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().remove("created");
    }
    let diff_ids = config["rootfs"]["diff_ids"].take();
    let mut found = vec![config.to_string()];
    let layers = manifest["layers"].as_array_mut().unwrap();
    assert_eq!(diff_ids.as_array().unwrap().len(), layers.len());
    for layer in layers {
        let (bytes, kind) = (blob(layer), layer["mediaType"].as_str().unwrap());
        let kind = Kind::of_media_type(kind).unwrap();
        let mut tar = Vec::new();
        let mut inflate = Inflate::new(&bytes[..], kind, 1 << 30).unwrap();
        inflate.read_to_end(&mut tar).unwrap();
        found.extend(entries(&tar));
        found.push("end of layer".to_owned());
        let layer = layer.as_object_mut().unwrap();
        for dated in ["digest", "size"] {
            layer.remove(dated).unwrap();
        }
        if let Some(annotations) = layer.get_mut("annotations") {
            let dated = "containerd.io/snapshot/stargz/toc.digest";
            annotations.as_object_mut().unwrap().remove(dated).unwrap();
        }
    }
    manifest["config"] = Value::Null;
    found.push(manifest.to_string());
    found
}

/// The members of a tar: everything of each but its time.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let content = BlobDigest::of(&content);
        let mut header = entry.header().clone();
        header.set_mtime(0);
        header.set_cksum();
        let header = header.as_bytes().escape_ascii().to_string();
        let path = entry.path().unwrap().display().to_string();
        format!("{path} {content} {header}")
    });
    entries.collect()
}

/// Builds twice, each on a root of its own and a second later, and compares.
fn compare(compressions: &[Compression], requests: impl Fn(&Path) -> SolveRequest) {
    let folder = temp();
    let build = |name: &str| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        support::runtime().block_on(async {
            let request = requests(&folder);
            let built = Built::new(folder, request).await;
            (
                built.reproducible(compressions).await,
                built.plain(compressions).await,
            )
        })
    };
    let (reproducible, [without, with]) = build("one");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (again, [without_again, with_again]) = build("two");
    assert_eq!(reproducible.len(), 5 * compressions.len() + 4);
    for (name, bytes) in &reproducible {
        assert_eq!(bytes, &again[name], "{name} differs");
    }
    assert_eq!(without.len(), compressions.len() + 2);
    for (name, texts) in &without {
        assert_eq!(
            texts, &without_again[name],
            "{name} differs in more than times"
        );
        // And times do differ.
        assert_ne!(with[name], with_again[name], "{name}");
    }
}

#[test]
fn an_epoch_makes_two_roots_give_the_same_bytes() {
    compare(&[Compression::default()], |folder| {
        let state = made_now(&llb::scratch(), folder);
        support::request(&state).local("context", folder.join("context"))
    });
}

#[test]
fn an_epoch_makes_steps_on_two_roots_give_the_same_bytes() {
    let name = "an_epoch_makes_steps_on_two_roots_give_the_same_bytes";
    if skipped(name, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    // A base that is the same for both: an image, whose layers keep their times.
    let shared = temp();
    let base = shared.path().join("image");
    support::runtime().block_on(async {
        support::busybox(shared.path());
        let solver = support::solver(shared.path().join("state"));
        let made = support::lent(shared.path(), &support::busybox_state());
        let result = solve(&solver, made).await.result;
        export(Oci::directory(&base).name("example.com/base:v1"), &result).await;
    });
    compare(&Compression::ALL, |folder| {
        let image = State::from(llb::oci_layout("example.com/base:v1").store("base"));
        let state = step(&made_now(&image.env("PATH", support::PATH), folder));
        let request = support::request(&state).local("context", folder.join("context"));
        request.oci_layout("base", &base)
    });
}
