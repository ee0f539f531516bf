//! Layers in every compression: the same bytes everywhere, the same files for every tool.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ashlar_exporters::{Compression, Epoch, Exporter, Image, ImageOptions, Local, Oci, Tar};
use ashlar_llb::{self as llb, State, copy, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::limits::Limits;
use ashlar_solver::solver::{SolveRequest, Solved, Solver};
use serde_json::{Value, json};

use super::export::fixed_context;
use super::registries::Registry;
use super::support::{self, Need, Tree, file, run, skipped, solve, temp, then, tree};

const ESTARGZ: Compression = Compression::Estargz { level: 5 };

/// An image in a layout of its own.
struct Layout(PathBuf);

impl Layout {
    async fn export(solved: &Solved, path: PathBuf, compression: Compression, force: bool) -> Self {
        let layout = Oci::directory(&path)
            .name("example.com/app:v1")
            .compression(compression)
            .force_compression(force);
        let exported = layout.export(&solved.result, &Cancel::new()).await;
        exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
        Self(path)
    }

    fn blob(&self, descriptor: &Value) -> PathBuf {
        let digest = descriptor["digest"].as_str().unwrap();
        self.0.join("blobs").join(digest.replace(':', "/"))
    }

    fn json(&self, path: &Path) -> Value {
        serde_json::from_slice(&fs::read(self.0.join(path)).unwrap()).unwrap()
    }

    fn manifest(&self) -> Value {
        let index = self.json(Path::new("index.json"));
        self.json(&self.blob(&index["manifests"][0]))
    }

    /// Of the layers: their descriptors.
    fn layers(&self) -> Vec<Value> {
        self.manifest()["layers"].as_array().unwrap().clone()
    }

    fn digests(&self) -> Vec<String> {
        let layers = self.layers();
        let digests = layers.iter().map(|layer| layer["digest"].as_str().unwrap());
        digests.map(str::to_owned).collect()
    }

    fn diff_ids(&self) -> Vec<Value> {
        let config = self.json(&self.blob(&self.manifest()["config"]));
        config["rootfs"]["diff_ids"].as_array().unwrap().clone()
    }

    /// The kinds of the layers, by the ends of their media types.
    fn kinds(&self) -> Vec<String> {
        let layers = self.layers();
        let types = layers
            .iter()
            .map(|layer| layer["mediaType"].as_str().unwrap());
        types
            .map(|text| {
                text.trim_start_matches("application/vnd.oci.image.layer.v1.")
                    .to_owned()
            })
            .collect()
    }
}

fn kind(compression: Compression) -> &'static str {
    match compression {
        Compression::Uncompressed => "tar",
        Compression::Zstd { .. } => "tar+zstd",
        _ => "tar+gzip",
    }
}

#[test]
fn every_compression_gives_the_same_bytes_on_every_root() {
    support::runtime().block_on(async {
        let folder = temp();
        let request = fixed_context(folder.path());
        let mut first: Vec<Layout> = Vec::new();
        for root in ["one", "two"] {
            let solver = support::solver(folder.path().join(root).join("state"));
            let solved = solve(&solver, request.clone()).await;
            for (at, compression) in Compression::ALL.into_iter().enumerate() {
                let path = folder.path().join(root).join(compression.name());
                let layout = Layout::export(&solved, path, compression, false).await;
                assert_eq!(layout.kinds(), [kind(compression); 4]);
                match first.get(at) {
                    None => first.push(layout),
                    // Times of creation are in the config; layers have none that are not given.
                    Some(other) => assert_eq!(layout.digests(), other.digests(), "{compression}"),
                }
            }
        }
        let plain = &first[0];
        let digests: Vec<Value> = plain.digests().into_iter().map(Value::from).collect();
        assert_eq!(plain.diff_ids(), digests);
        for (layout, compression) in first.iter().zip(Compression::ALL) {
            let same = layout.diff_ids() == plain.diff_ids();
            // The table of contents belongs to the layer.
            assert_eq!(same, compression != ESTARGZ, "{compression}");
        }
    });
}

/// The digest of what a program of others makes of a compressed file.
fn inflated(blob: &Path, compression: Compression) -> String {
    let program = match compression {
        Compression::Zstd { .. } => "zstd",
        _ => "gzip",
    };
    let output = Command::new(program)
        .arg("-dc")
        .stdin(fs::File::open(blob).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{compression}");
    llb::BlobDigest::of(&output.stdout).to_string()
}

#[test]
fn every_level_is_inflated_to_the_layer_by_others() {
    let name = "every_level_is_inflated_to_the_layer_by_others";
    if skipped(name, &[Need::Tool("gzip"), Need::Tool("zstd")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let words =
            (0..20_000_u32).map(|word| format!("{} ", word.wrapping_mul(2_654_435_761) >> 20));
        let state =
            llb::scratch().file(mkfile("/words", words.collect::<String>()).created(then()));
        let solved = solve(&solver, support::request(&state)).await;
        for kind in Compression::ALL {
            let mut sizes = Vec::new();
            for level in kind.levels() {
                let compression = kind.with_level(level).unwrap();
                let path = folder.path().join(format!("{}-{level}", kind.name()));
                let layout = Layout::export(&solved, path, compression, false).await;
                let layer = &layout.layers()[0];
                let found = match kind {
                    Compression::Uncompressed => layout.digests()[0].clone(),
                    _ => inflated(&layout.blob(layer), compression),
                };
                assert_eq!(layout.diff_ids(), [found], "{compression} {level}");
                sizes.push(layer["size"].as_u64().unwrap());
            }
            // More effort, fewer bytes; the first level of zstd is its default.
            let least = sizes.iter().min();
            assert!(sizes.len() == 1 || least < sizes.iter().max(), "{sizes:?}");
            if !matches!(kind, Compression::Zstd { .. }) {
                assert_eq!(sizes.first(), sizes.iter().max(), "{kind}");
            }
        }
    });
}

#[test]
fn one_stream_of_gzip_is_all_in_its_first_member() {
    let name = "one_stream_of_gzip_is_all_in_its_first_member";
    if skipped(name, &[Need::Tool("python3")]) {
        return;
    }
    // The digest of the first member, and how many bytes come after it.
    let script = "import hashlib, sys, zlib\n\
        one = zlib.decompressobj(31)\n\
        inflated = one.decompress(open(sys.argv[1], 'rb').read())\n\
        print('sha256:' + hashlib.sha256(inflated).hexdigest(), one.eof, len(one.unused_data))";
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, fixed_context(folder.path())).await;
        for level in [0, 6] {
            let path = folder.path().join(format!("image-{level}"));
            let stream = Compression::GzipStream { level };
            let layout = Layout::export(&solved, path, stream, false).await;
            for (layer, diff_id) in layout.layers().iter().zip(layout.diff_ids()) {
                let said = run(Command::new("python3")
                    .args(["-c", script])
                    .arg(layout.blob(layer)));
                let expected = format!("{} True 0", diff_id.as_str().unwrap());
                assert_eq!(said.trim(), expected, "level {level}");
            }
        }
    });
}

#[test]
fn estargz_is_what_its_specification_says() {
    let name = "estargz_is_what_its_specification_says";
    if skipped(name, &[Need::Tool("python3")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        // Chunks, empty files, links and odd names beside the many small ones.
        let context = folder.path().join("context");
        let request = fixed_context(folder.path());
        support::write(context.join("empty"), "");
        support::write(context.join("größe"), "ö");
        std::os::unix::fs::symlink("empty", context.join("link")).unwrap();
        fs::hard_link(context.join("empty"), context.join("linked")).unwrap();
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, request).await;
        let made = Layout::export(&solved, folder.path().join("image"), ESTARGZ, false).await;
        // And layers of a base, which are converted.
        let base = base(folder.path(), Compression::Zstd { level: 3 }).await;
        let image = State::from(llb::oci_layout("example.com/app:v1").store("base"));
        let request = support::request(&image).oci_layout("base", base);
        let solved = solve(&solver, request).await;
        let converted = folder.path().join("converted");
        let converted = Layout::export(&solved, converted, ESTARGZ, true).await;
        let of = |layout: &Layout| {
            layout
                .layers()
                .into_iter()
                .map(|layer| (layout.blob(&layer), layer))
                .collect::<Vec<_>>()
        };
        for (blob, layer) in [of(&made), of(&converted)].concat() {
            let digest = &layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/estargz.py");
            let said = run(Command::new(script).arg(blob).arg(digest.as_str().unwrap()));
            assert!(said.contains("chunks"), "{said}");
        }
    });
}

/// A base of two layers in a layout, each compressed so.
async fn base(folder: &Path, compression: Compression) -> PathBuf {
    let solver = support::solver(folder.join("base-state"));
    let base = llb::scratch()
        .file(mkfile("/base", "base\n".repeat(1000)).created(then()))
        .file(mkfile("/more", "more\n".repeat(1000)).created(then()));
    let solved = solve(&solver, support::request(&base)).await;
    let path = folder.join(format!("base-{compression}"));
    Layout::export(&solved, path, compression, false).await.0
}

#[test]
fn layers_of_a_base_stay_or_are_converted() {
    support::runtime().block_on(async {
        let folder = temp();
        let image = || State::from(llb::oci_layout("example.com/app:v1").store("base"));
        let built = image().file(mkfile("/own", "own\n").created(then()));
        for from in Compression::ALL {
            let path = base(folder.path(), from).await;
            let before = Layout(path.clone());
            let root = folder.path().join(format!("state-{from}"));
            let solver = support::solver(&root);
            let request = |state: &State| -> SolveRequest {
                support::request(state).oci_layout("base", path.clone())
            };
            // First the untouched image.
            let untouched = solve(&solver, request(&image())).await;
            for compression in Compression::ALL {
                let name = |what: &str| folder.path().join(format!("{from}-{compression}-{what}"));
                let kept = Layout::export(&untouched, name("kept"), compression, false).await;
                assert_eq!(kept.digests(), before.digests());
                assert_eq!(kept.layers(), before.layers(), "annotations stay");
                let forced = Layout::export(&untouched, name("forced"), compression, true).await;
                assert_eq!(
                    forced.kinds(),
                    [kind(compression); 2],
                    "{from} {compression}"
                );
                // Gzip is gzip, of one member or of many.
                let gzip = [Compression::default(), Compression::GzipStream { level: 6 }];
                let stays =
                    from == compression || [from, compression].iter().all(|one| gzip.contains(one));
                assert_eq!(
                    forced.digests() == before.digests(),
                    stays,
                    "{from} {compression}"
                );
                let lossless = from != ESTARGZ && compression != ESTARGZ;
                let same = forced.diff_ids() == before.diff_ids();
                assert_eq!(same, lossless || stays, "{from} {compression}");
                let toc = forced.layers()[0]["annotations"].is_object();
                assert_eq!(toc, compression == ESTARGZ);
            }
            // Then one that is built on.
            let solved = solve(&solver, request(&built)).await;
            for compression in Compression::ALL {
                let name = |what: &str| folder.path().join(format!("{from}-{compression}-{what}"));
                let kept = Layout::export(&solved, name("built"), compression, false).await;
                assert_eq!(kept.digests()[..2], before.digests());
                assert_eq!(kept.kinds()[2], kind(compression));
                let forced = Layout::export(&solved, name("built-forced"), compression, true).await;
                let same = Layout(name("forced"));
                assert_eq!(forced.digests()[..2], same.digests());
                assert_eq!(forced.diff_ids()[..2], same.diff_ids());
            }
        }
    });
}

#[test]
fn of_the_annotations_of_a_base_layer_only_those_of_snapshotters_stay() {
    support::runtime().block_on(async {
        let folder = temp();
        let path = base(folder.path(), Compression::default()).await;
        let layout = Layout(path.clone());
        let kept = json!({
            "containerd.io/snapshot/overlaybd.localcommitpath": "/local",
            "containerd.io/snapshot/overlaybd/blob-digest": "sha256:1",
            "containerd.io/snapshot/overlaybd/blob-fs-type": "ext4",
            "containerd.io/snapshot/overlaybd/blob-size": "1",
            "containerd.io/snapshot/stargz/toc.digest": "sha256:0",
            "io.containers.estargz.uncompressed-size": "2",
        });
        let mut manifest = layout.manifest();
        manifest["layers"][0]["annotations"] = kept.clone();
        for gone in [
            "com.example.own",
            "containerd.io/snapshot",
            "containerd.io/snapshot/overlaybd/version",
            "buildkit/time",
        ] {
            manifest["layers"][0]["annotations"][gone] = "x".into();
        }
        let text = manifest.to_string();
        let digest = llb::BlobDigest::of(text.as_bytes()).to_string();
        let mut index = layout.json(Path::new("index.json"));
        index["manifests"][0]["size"] = text.len().into();
        index["manifests"][0]["digest"] = digest.as_str().into();
        fs::write(path.join("blobs").join(digest.replace(':', "/")), text).unwrap();
        fs::write(path.join("index.json"), index.to_string()).unwrap();

        let solver = support::solver(folder.path().join("state"));
        let image = State::from(llb::oci_layout("example.com/app:v1").store("base"));
        for state in [image.clone(), image.file(mkfile("/own", "own\n"))] {
            let request = support::request(&state).oci_layout("base", path.clone());
            let solved = solve(&solver, request).await;
            let out = folder.path().join(format!("out-{}", solved.vertices.len()));
            let made = Layout::export(&solved, out, Compression::default(), false).await;
            assert_eq!(made.layers()[0]["annotations"], kept);
            assert!(made.layers()[1].get("annotations").is_none());
        }
    });
}

#[test]
fn class_11_a_base_with_wrong_diff_ids_is_not_converted() {
    let name = "class_11_a_base_with_wrong_diff_ids_is_not_converted";
    if skipped(name, &["skopeo", "docker-registry"].map(Need::Tool)) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let path = base(folder.path(), Compression::default()).await;
        // The config promises the layers in another order.
        let layout = Layout(path.clone());
        let (index, manifest) = (layout.json(Path::new("index.json")), layout.manifest());
        let old = |descriptor: &Value| descriptor["digest"].as_str().unwrap().to_owned();
        let put = |text: &str| {
            let digest = llb::BlobDigest::of(text.as_bytes()).to_string();
            fs::write(path.join("blobs").join(digest.replace(':', "/")), text).unwrap();
            digest
        };
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        let config = read(layout.blob(&manifest["config"]));
        let ids = layout.diff_ids();
        let (one, two) = (ids[0].as_str().unwrap(), ids[1].as_str().unwrap());
        let swapped = config.replace(one, "?").replace(two, one).replace('?', two);
        let text = read(layout.blob(&index["manifests"][0]));
        let text = text.replace(&old(&manifest["config"]), &put(&swapped));
        let text = read(path.join("index.json")).replace(&old(&index["manifests"][0]), &put(&text));
        fs::write(path.join("index.json"), text).unwrap();
        let registry = Registry::start(folder.path(), &folder.path().join("store"), "");
        copy_to(&layout, &registry, "app:v1");

        let solver = support::solver(folder.path().join("state"));
        let image = State::from(llb::image(format!("{}/app:v1", registry.host())));
        let solved = solve(&solver, support::request(&image)).await;
        let export = Oci::directory(folder.path().join("out"))
            .compression(Compression::Uncompressed)
            .force_compression(true);
        let error = export
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap_err();
        let text = support::chain(&error);
        assert!(text.contains("its diff id is"), "{text}");
        assert_eq!(error.fault(), Fault::Input);
        assert_eq!(support::layers(solver.root()), 0);
    });
}

#[test]
fn class_12_layers_that_are_converted_inflate_to_what_the_solver_allows() {
    const LIMIT: u64 = 1 << 20;
    support::runtime().block_on(async {
        let folder = temp();
        let small = mkfile("/small", "small").created(then());
        let large = mkfile("/large", "large\n".repeat(400_000)).created(then());
        let solver = support::solver(folder.path().join("base-state"));
        let solved = solve(&solver, support::request(&llb::scratch().file(large))).await;
        let base = folder.path().join("base");
        Layout::export(&solved, base.clone(), Compression::default(), false).await;
        let image = State::from(llb::oci_layout("example.com/app:v1").store("base"));
        let root = folder.path().join("state");
        let mut limits = Limits::default();
        // The layer is unpacked by who allows it, and found by the other, who wants other blobs.
        for (limit, fits, epoch, compression) in [
            (64 << 20, true, 1_600_000_000, Compression::Uncompressed),
            (LIMIT, false, 1_500_000_000, Compression::Zstd { level: 3 }),
        ] {
            limits.layer_bytes = limit;
            let solver = Solver::builder().root(&root).limits(limits.clone());
            let solver = solver.build().unwrap();
            let lent = |state: &State| support::request(state).oci_layout("base", &base);
            let untouched = solve(&solver, lent(&image)).await;
            let own = solve(&solver, lent(&llb::scratch().file(small.clone()))).await;
            for is_rewritten in [true, false] {
                let mut options = ImageOptions::default();
                options.epoch = Epoch::At(epoch);
                options.rewrite_timestamp = is_rewritten;
                if !is_rewritten {
                    options.compression = compression;
                    options.force_compression = true;
                }
                let out = folder.path().join("out");
                let exporter = Oci::directory(&out).options(options);
                exporter.export(&own.result, &Cancel::new()).await.unwrap();
                let exported = exporter.export(&untouched.result, &Cancel::new()).await;
                if fits {
                    exported.unwrap();
                    continue;
                }
                let error = exported.unwrap_err();
                let text = support::chain(&error);
                assert!(text.contains(&format!("{LIMIT} bytes")), "{text}");
                assert_eq!(error.fault(), Fault::Input);
                let remedy = error.remedy().unwrap();
                assert!(remedy.contains("Limits::layer_bytes"), "{remedy}");
            }
        }
        assert_eq!(support::leftovers(&root), [""; 0]);
    });
}

/// Lets skopeo push an image as it is.
fn copy_to(layout: &Layout, registry: &Registry, name: &str) {
    run(Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
        .arg("--dest-tls-verify=false")
        .arg(format!("oci:{}:v1", layout.0.display()))
        .arg(format!("docker://{}/{name}", registry.host())));
}

/// A tree with something to compress.
fn fixed_tree() -> Tree {
    let context = |number: usize| {
        (
            format!("d{number}/f"),
            file(0o644, number.to_string().as_bytes()),
        )
    };
    (0..40).map(context).collect()
}

#[test]
fn tools_take_every_compression() {
    let name = "tools_take_every_compression";
    let tools = ["skopeo", "umoci", "docker-registry", "podman"].map(Need::Tool);
    if skipped(name, &tools) || skipped(name, &[Need::Root]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let registry = Registry::start(folder.path(), &folder.path().join("store"), "");
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, fixed_context(folder.path())).await;
        for compression in Compression::ALL {
            let name = compression.name();
            let layout =
                Layout::export(&solved, folder.path().join(name), compression, false).await;
            // skopeo and docker-registry.
            let tag = format!("app:{name}");
            copy_to(&layout, &registry, &tag);
            let reference = format!("{}/{tag}", registry.host());
            let inspected = run(Command::new("skopeo")
                .args(["inspect", "--raw", "--tls-verify=false"])
                .arg(format!("docker://{reference}")));
            assert_eq!(
                serde_json::from_str::<Value>(&inspected).unwrap(),
                layout.manifest()
            );
            // podman checks every diff id.
            let files = podman(folder.path(), &reference);
            for (path, content) in fixed_tree() {
                assert_eq!(files.get(&path), Some(&content), "{compression}");
            }
            assert!(
                !files
                    .keys()
                    .any(|path| path.contains("stargz") || path.contains("landmark"))
            );
            if kind(compression) == "tar+zstd" {
                continue;
            }
            // umoci of Debian knows no zstd.
            let bundle = folder.path().join(format!("bundle-{name}"));
            run(Command::new("umoci")
                .args(["unpack", "--image"])
                .arg(format!("{}:v1", layout.0.display()))
                .arg(&bundle));
            assert_eq!(tree(&bundle.join("rootfs")), files, "{compression}");
        }
    });
}

/// The files of an image, pulled by podman into a storage of its own.
fn podman(folder: &Path, reference: &str) -> Tree {
    let storage = tempfile::tempdir_in(folder).unwrap();
    let podman = |arguments: &[&str]| {
        run(Command::new("podman")
            .arg("--root")
            .arg(storage.path().join("root"))
            .arg("--runroot")
            .arg(storage.path().join("run"))
            .args(["--storage-driver", "vfs"])
            .args(arguments))
    };
    podman(&["pull", "--quiet", "--tls-verify=false", reference]);
    let mounted = podman(&["image", "mount", reference]);
    let files = tree(Path::new(mounted.trim()));
    podman(&["image", "umount", reference]);
    files
}

/// The peak of the memory of this process since it was last reset, in bytes.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let number: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    number * 1024
}

/// In a process of its own: exports 60 layers in each way and prints how much memory that took at
/// most.
pub fn role(arguments: &[&str]) {
    let [folder, megabytes] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let (folder, megabytes) = (Path::new(folder), megabytes.parse::<usize>().unwrap());
    // Some of it gets no smaller, so that there is as much to write as to read; the rest is a hole.
    let context = folder.join("context");
    let noise = (megabytes / 10).max(1);
    support::write(context.join("big"), half_noise(noise << 20));
    let big = fs::File::options().write(true).open(context.join("big"));
    big.unwrap().set_len((megabytes as u64) << 20).unwrap();
    let nowhere = || Ok(Box::new(std::io::sink()) as Box<dyn std::io::Write + Send>);
    let mut exports: Vec<(String, Box<dyn Exporter>)> = Vec::new();
    for compression in Compression::ALL {
        let layout = Oci::directory(folder.join("image")).compression(compression);
        exports.push((format!("{compression} layout"), Box::new(layout)));
    }
    let plain = Oci::writer(nowhere).compression(Compression::Uncompressed);
    exports.push(("uncompressed archive".to_owned(), Box::new(plain)));
    exports.push(("files tar".to_owned(), Box::new(Tar::writer(nowhere))));
    let local = Local::new(folder.join("files"));
    exports.push(("files local".to_owned(), Box::new(local)));
    let image = Image::new().compression(Compression::Zstd { level: 3 });
    exports.push(("zstd-3 image".to_owned(), Box::new(image)));
    for (name, exporter) in exports {
        // A root of its own, since layers stay in the store.
        let root = folder.join("state");
        support::runtime().block_on(async {
            let solver = support::solver(&root);
            let solved = solve(&solver, sixty_layers(&context)).await;
            fs::write("/proc/self/clear_refs", "5").unwrap();
            let before = peak();
            exporter
                .export(&solved.result, &Cancel::new())
                .await
                .unwrap();
            // The kernel counts in steps: it may tell a little less than before.
            let more = peak().saturating_sub(before);
            println!("@ {name} {more}");
        });
        for made in ["state", "image", "files"] {
            let _none = fs::remove_dir_all(folder.join(made));
        }
    }
}

/// A file in 60 layers, each of which has it under a name of its own; once on disk.
fn sixty_layers(context: &Path) -> SolveRequest {
    let copied = copy(llb::local("context"), "/big", "/big").created(then());
    let first = llb::scratch().file(copied);
    let mut state = llb::scratch();
    for layer in 0..60 {
        state = state.file(copy(&first, "/big", format!("/big{layer}")).created(then()));
    }
    support::request(&state).local("context", context)
}

fn half_noise(length: usize) -> Vec<u8> {
    let (mut word, mut bytes) = (88_172_645_463_325_252_u64, Vec::with_capacity(length));
    while bytes.len() < length {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend(word.to_le_bytes());
        bytes.extend(b"and more");
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn sixty_layers_stay_within_the_budget() {
    let folder = temp();
    let soak = std::env::var("ASHLAR_SOAK").is_ok_and(|value| value == "1");
    let megabytes = if soak { "100" } else { "4" };
    let path = folder.path().to_str().unwrap();
    let output = support::child("sixty-layers", &[path, megabytes])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let threads = std::thread::available_parallelism().unwrap().get().min(16) as u64;
    let mut lines = 0;
    for line in text.lines().filter_map(|line| line.split("@ ").nth(1)) {
        let (export, bytes) = line.rsplit_once(' ').unwrap();
        let bytes: u64 = bytes.parse().unwrap();
        println!("{export}: {} MiB more", bytes >> 20);
        // 8 MiB of blocks for each thread, as much again for what came of them and for the
        // compressors, and the indexes of the layers. Zstandard has blocks of 10 MiB, one for each
        // thread and two more, and refers back 8 MiB.
        let most = match export.starts_with("zstd") {
            true => (threads + 2) * 20 + threads * 16 + 16,
            false => threads * 24 + 16,
        };
        assert!(bytes < most << 20, "{export}: {bytes}");
        lines += 1;
    }
    assert_eq!(lines, Compression::ALL.len() + 4, "{text}");
}
