//! Images for several platforms, with annotations and attestations, by the rules of the
//! specifications; and the same bytes wherever they are made.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ashlar_exporters::{
    AnnotationKind, Annotations, Compatibility, Compression, Docker, Epoch, ExportError, Exported,
    Exporter, Image, ImageOptions, Local, MediaTypes, Oci, Prepared, Tar, export_all,
};
use ashlar_llb::{self as llb, BlobDigest, Platform, Reference, State, copy, mkdir, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, BASE_CONFIG_KEY, BuildResult, PlatformRef, Subject};
use ashlar_solver::solver::Solver;
use ashlar_solver::source::image::ResolveMode;
use async_trait::async_trait;
use serde_json::Value;

use super::oci_rules::{self, Found};
use super::support::{self, request, solve, temp, tree};

/// A small tree for each platform.
async fn two_platforms(solver: &Solver) -> BuildResult {
    let mut refs = Vec::new();
    for platform in [Platform::linux_amd64(), Platform::linux_armhf()] {
        let name = format!("for {platform}\n");
        let state = llb::scratch()
            .file(mkdir("/d").mode(0o755))
            .file(mkfile("/d/platform", name).mode(0o644));
        let solved = solve(solver, request(&state)).await;
        refs.push(PlatformRef::new(
            platform,
            solved.result.reference().clone(),
        ));
    }
    BuildResult::of_platforms(refs, solver.store().clone()).unwrap()
}

fn attested(mut result: BuildResult) -> BuildResult {
    for id in ["linux/amd64", "linux/arm/v7"] {
        let json = r#"{"checked": [1, 2.50]}"#;
        let plain = Attestation::in_toto("https://example.com/check/v1", "check.json", json);
        let raw = Subject::Raw {
            name: "other".to_owned(),
            digests: BTreeMap::from([("sha1".to_owned(), "0".repeat(40))]),
        };
        let other = Attestation::in_toto("https://example.com/other/v1", "other.json", "[]");
        result = result.with_attestation(id, plain);
        result = result.with_attestation(id, other.subject(raw));
    }
    result
}

async fn export(exporter: impl Exporter, result: &BuildResult) -> Result<(), ExportError> {
    exporter.export(result, &Cancel::new()).await.map(drop)
}

fn options(change: impl FnOnce(&mut ImageOptions)) -> ImageOptions {
    let mut options = ImageOptions::default();
    change(&mut options);
    options
}

#[test]
fn parts_of_a_tar_are_sorted_and_an_empty_epoch_is_none() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let mut result = two_platforms(&solver).await;
        let mut refs = result.refs().to_vec();
        refs.reverse();
        let metadata = result.metadata.clone();
        result = BuildResult::of_platforms(refs, solver.store().clone()).unwrap();
        result.metadata = metadata;
        for (key, value) in [
            ("source.date.epoch", ""),
            ("source.date.epoch/linux/amd64", "1650000000"),
        ] {
            result.metadata.insert(key.to_owned(), value.into());
        }
        let path = folder.path().join("out.tar");
        export(Tar::file(&path), &result).await.unwrap();
        let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            found.push((name, entry.header().mtime().unwrap() == 1_650_000_000));
        }
        let at = |name: &str| found.iter().position(|(it, _)| it == name).unwrap();
        let (first, second) = (at("linux_amd64/d/platform"), at("linux_arm_v7/d/platform"));
        assert!(first < second, "{found:?}");
        assert!(found[first].1 && !found[second].1, "{found:?}");
    });
}

#[test]
fn an_image_without_layers_says_so_to_docker() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, request(&llb::scratch())).await;
        let path = folder.path().join("out.tar");
        export(Docker::archive(&path).name("a:v1"), &solved.result)
            .await
            .unwrap();
        let text = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(r#""RepoTags":["a:v1"],"Layers":null}]"#));
    });
}

#[test]
fn images_keep_the_rules_of_the_specification() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let plain = two_platforms(&solver).await;
        let found = |name: &str| oci_rules::check(&folder.path().join(name));
        let layout = |name: &str| Oci::directory(folder.path().join(name)).name("example.com/a:v1");

        export(layout("plain"), &plain).await.unwrap();
        let (indexes, images) = (1, 2);
        let expected = Found {
            indexes,
            images,
            ..Found::default()
        };
        assert_eq!(found("plain"), expected);

        let mut annotations = Annotations::default();
        let arm = Platform::linux_armhf();
        for kind in [
            AnnotationKind::Manifest,
            AnnotationKind::ManifestDescriptor,
            AnnotationKind::Index,
            AnnotationKind::IndexDescriptor,
        ] {
            annotations.set(kind, None, "com.example.all", format!("{kind:?}"));
            annotations.set(kind, Some(&arm), "com.example.arm", "<&>\u{2028}\"");
        }
        let annotated = options(|options| {
            options.names = vec!["example.com/a:v1".to_owned()];
            options.annotations = annotations;
        });
        export(layout("annotated").options(annotated), &plain)
            .await
            .unwrap();
        assert_eq!(found("annotated"), expected);

        let attested = attested(plain);
        for artifact in [true, false] {
            let name = format!("attested-{artifact}");
            let as_artifact = options(|options| {
                options.names = vec!["example.com/a:v1".to_owned(), "b".to_owned()];
                options.artifact = Some(artifact);
            });
            export(layout(&name).options(as_artifact).verify(true), &attested)
                .await
                .unwrap();
            // The index has an entry for each of two names.
            let twice = Found {
                indexes: 2,
                images: 4,
                attestations: 4,
                statements: 8,
            };
            assert_eq!(found(&name), twice);
        }

        // A single image becomes an index when something is attested of it.
        let single = BuildResult::new(
            attested.refs()[1].reference.clone(),
            Platform::linux_armhf(),
            solver.store().clone(),
        );
        export(layout("single"), &single).await.unwrap();
        assert_eq!(
            found("single"),
            Found {
                images: 1,
                ..Found::default()
            }
        );
        let check = Attestation::in_toto("https://example.com/x", "x", "null");
        let single = single.with_attestation("linux/arm/v7", check.clone().inline_only());
        export(layout("inline"), &single).await.unwrap();
        assert_eq!(
            found("inline"),
            Found {
                images: 1,
                ..Found::default()
            }
        );
        let single = single.with_attestation("linux/arm/v7", check);
        export(layout("single-attested"), &single).await.unwrap();
        let both = Found {
            indexes: 1,
            images: 1,
            attestations: 1,
            statements: 2,
        };
        assert_eq!(found("single-attested"), both);
    });
}

#[test]
fn what_does_not_go_together_is_refused() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let several = two_platforms(&solver).await;
        let single = BuildResult::new(
            several.reference().clone(),
            Platform::linux_amd64(),
            solver.store().clone(),
        );
        let out = folder.path().join("out");
        let docker_types = || options(|options| options.media_types = Some(MediaTypes::Docker));
        let annotated = |name: &str| {
            options(|options| {
                options.annotations.parse(name, "x").unwrap();
            })
        };
        let oci = || Oci::archive(&out);
        let map = BuildResult::of_platforms([several.refs()[0].clone()], solver.store().clone());
        let refused: [(Box<dyn Exporter>, BuildResult, &str); 12] = [
            (
                Box::new(Docker::archive(&out)),
                several.clone(),
                "several platforms",
            ),
            // As in BuildKit, even those of one.
            (
                Box::new(Docker::directory(&out)),
                map.unwrap(),
                "several platforms",
            ),
            // What is left to the level is judged by it.
            (
                Box::new(Image::new().options(options(|options| {
                    options.compatibility = Compatibility::V20;
                    options.compression = Compression::Estargz { level: 5 };
                }))),
                single.clone(),
                "eStargz needs OCI",
            ),
            (
                Box::new(oci().options(options(|options| {
                    options.compatibility = Compatibility::V10;
                    options.compression = Compression::Zstd { level: 3 };
                }))),
                single.clone(),
                "level 20",
            ),
            (
                Box::new(oci().options(docker_types())),
                attested(several.clone()),
                "attestations need OCI",
            ),
            (
                Box::new(oci().options(annotated("annotation-index.x"))),
                single.clone(),
                "single platform",
            ),
            (
                Box::new(oci().options(options(|options| {
                    options.media_types = Some(MediaTypes::Docker);
                    let name = "annotation-manifest-descriptor.x";
                    options.annotations.parse(name, "x").unwrap();
                }))),
                single.clone(),
                "descriptors need OCI",
            ),
            (
                Box::new(oci().options(annotated("annotation[linux/s390x].x"))),
                several.clone(),
                "linux/s390x",
            ),
            (
                Box::new(oci().options(options(|options| {
                    options.media_types = Some(MediaTypes::Docker);
                    options.artifact = Some(true);
                }))),
                single.clone(),
                "artifacts need OCI",
            ),
            (
                Box::new(oci().options(options(|options| {
                    options.media_types = Some(MediaTypes::Docker);
                    options.compression = Compression::Estargz { level: 5 };
                }))),
                single.clone(),
                "eStargz needs OCI",
            ),
            (
                Box::new(Image::new().unpack(true).options(options(|options| {
                    options.rewrite_timestamp = true;
                }))),
                single.clone(),
                "rewritten",
            ),
            (
                Box::new(oci()),
                single
                    .clone()
                    .with_image_config(r#"{"os":"linux","architecture":""}"#),
                "architecture",
            ),
        ];
        for (exporter, result, reason) in refused {
            let error = exporter.export(&result, &Cancel::new()).await.unwrap_err();
            let text = support::chain(&error);
            assert!(text.contains(reason), "{exporter:?}: {text}");
            assert!(!out.exists());
        }
    });
}

/// A build whose times all are those of this moment, in layers of each kind.
fn made_now(folder: &Path) -> State {
    for number in 0..30 {
        let path = folder.join(format!("context/d{number}/file"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{number}\n").repeat(1000)).unwrap();
    }
    let context = llb::local("context");
    llb::scratch()
        .file(
            copy(&context, "/", "/context")
                .contents_only()
                .create_dest_path(),
        )
        .file(mkdir("/made").mode(0o750))
        .file(mkfile("/made/file", "made\n").mode(0o640).owner((5, 6)))
        .file(llb::rm("/context/d7"))
}

#[test]
fn times_of_a_base_are_kept_where_those_of_a_build_are_rewritten() {
    const EPOCH: i64 = 1_500_000_000;
    support::runtime().block_on(async {
        let folder = temp();
        let at = |name: &str| folder.path().join(name);
        let solver = support::solver(at("state"));
        let plain = |options: ImageOptions, name| {
            let plain = Compression::Uncompressed;
            Oci::directory(at(name)).options(options).compression(plain)
        };
        let made = llb::scratch().file(mkfile("/base", "base\n"));
        let made = made.file(mkfile("/more", "more\n"));
        let result = solve(&solver, request(&made)).await.result;
        let named = options(|options| options.names = vec!["base:v1".to_owned()]);
        export(plain(named, "base"), &result).await.unwrap();
        let (config, layers) = config_and_layers(&at("base"));

        let base = llb::oci_layout("v1").store("base");
        let state = base.file(mkfile("/made", "made\n"));
        let request = request(&state).oci_layout("base", at("base"));
        let result = solve(&solver, request).await.result;
        let based = |config: Vec<u8>| {
            let mut based = result.clone();
            based.metadata.insert(BASE_CONFIG_KEY.to_owned(), config);
            based
        };
        let rewritten = || {
            options(|options| {
                options.epoch = Epoch::At(EPOCH);
                options.rewrite_timestamp = true;
            })
        };
        for compression in Compression::ALL {
            let layout = at(&compression.to_string());
            let forced = Oci::directory(&layout).options(rewritten());
            let forced = forced.compression(compression).force_compression(true);
            export(forced, &based(config.clone())).await.unwrap();
            let manifest = manifest_of(&layout);
            let is_rewritten =
                |layer: &Value| layer["annotations"]["buildkit/rewritten-timestamp"].is_string();
            let layers = manifest["layers"].as_array().unwrap().iter();
            let found: Vec<bool> = layers.map(is_rewritten).collect();
            assert_eq!(found, [false, false, true], "{compression}");
        }
        // A layer that is on another one than in the base is none of it.
        let other = String::from_utf8(config.clone()).unwrap();
        let first = BlobDigest::of(&layers[0]).to_string();
        let other = other.replace(&first, &BlobDigest::of(b"").to_string());
        for (result, name, kept) in [
            (&based(config), "kept", true),
            (&based(other.into()), "other", false),
            (&result, "all", false),
        ] {
            export(plain(rewritten(), name), result).await.unwrap();
            let (_, found) = config_and_layers(&at(name));
            assert_eq!(found.len(), 3);
            assert_eq!(found[..2] == layers[..], kept, "{name}");
            for (layer, is_old) in found.iter().zip([!kept, !kept, true]) {
                let mut archive = tar::Archive::new(&layer[..]);
                for entry in archive.entries().unwrap() {
                    let time = entry.unwrap().header().mtime().unwrap();
                    assert_eq!(time <= EPOCH.unsigned_abs(), is_old, "{name}");
                }
            }
        }
    });
}

/// The manifest of the only image of a layout.
fn manifest_of(layout: &Path) -> Value {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    serde_json::from_slice(&blob_of(layout, &index["manifests"][0])).unwrap()
}

fn blob_of(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().unwrap();
    fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap()
}

/// The config and the layers of the only image of a layout.
fn config_and_layers(layout: &Path) -> (Vec<u8>, Vec<Vec<u8>>) {
    let manifest = manifest_of(layout);
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers = layers.map(|layer| blob_of(layout, layer));
    (blob_of(layout, &manifest["config"]), layers.collect())
}

/// What of a directory changes when something is written into it.
fn writes(folder: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt as _;
    let paths = tree(folder).into_keys().map(|path| folder.join(path));
    let all = paths.chain([folder.to_path_buf()]).map(|path| {
        let data = fs::symlink_metadata(&path).unwrap();
        (path, (data.ino(), data.ctime(), data.ctime_nsec()))
    });
    all.collect()
}

#[test]
fn an_unchanged_image_writes_nothing_into_a_layout() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let plain = two_platforms(&solver).await;
        for (at, result) in [attested(plain.clone()), plain].into_iter().enumerate() {
            let layout = folder.path().join(format!("layout-{at}"));
            let both = || Oci::directory(&layout).name("app:v1").name("app:v2");
            export(both(), &result).await.unwrap();
            let before = writes(&layout);
            export(both().verify(true), &result).await.unwrap();
            assert_eq!(writes(&layout), before);
            if !result.attestations.is_empty() {
                continue;
            }
            // Another name, which statements would tell, is a new index, and no blob.
            let third = Oci::directory(&layout).name("app:v3");
            export(third, &result).await.unwrap();
            let blobs = layout.join("blobs");
            let of_blobs = |(path, _): &(&PathBuf, _)| path.starts_with(&blobs);
            let after = writes(&layout);
            let (before, after) = (
                before.iter().filter(of_blobs),
                after.iter().filter(of_blobs),
            );
            assert!(before.eq(after));
            let index = fs::read_to_string(layout.join("index.json")).unwrap();
            for name in ["app:v1", "app:v2", "app:v3"] {
                assert!(index.contains(name), "{index}");
            }
        }
    });
}

#[test]
fn verification_finds_what_is_damaged() {
    support::runtime().block_on(async {
        let folder = temp();
        let state = folder.path().join("state");
        let solver = support::solver(&state);
        let result = two_platforms(&solver).await;
        let layout = folder.path().join("layout");
        export(Oci::directory(&layout), &result).await.unwrap();
        let largest = |blobs: &Path| {
            let entries = fs::read_dir(blobs)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            entries
                .max_by_key(|path| fs::metadata(path).unwrap().len())
                .unwrap()
        };
        let damage = |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        // In the layout: it is found, and made good the next time.
        damage(&largest(&layout.join("blobs/sha256")));
        let verified = || Oci::directory(&layout).verify(true);
        let error = export(verified(), &result).await.unwrap_err();
        assert!(
            matches!(&error, ExportError::Verify { path, .. } if *path == layout),
            "{error:?}"
        );
        export(verified(), &result).await.unwrap();
        oci_rules::check(&layout);
        // What has another size is seen without being read.
        let short = fs::File::options()
            .write(true)
            .open(largest(&layout.join("blobs/sha256")));
        short.unwrap().set_len(7).unwrap();
        export(Oci::directory(&layout), &result).await.unwrap();
        oci_rules::check(&layout);

        // In the store: nothing that was there is replaced.
        let (oci, docker) = (
            folder.path().join("oci.tar"),
            folder.path().join("docker.tar"),
        );
        let single = BuildResult::new(
            result.reference().clone(),
            Platform::linux_amd64(),
            solver.store().clone(),
        );
        fs::write(&oci, "old").unwrap();
        fs::write(&docker, "old").unwrap();
        for entry in fs::read_dir(state.join("blobs/sha256")).unwrap() {
            damage(&entry.unwrap().path());
        }
        let exporters: [Box<dyn Exporter>; 3] = [
            Box::new(Oci::archive(&oci).verify(true)),
            Box::new(Docker::archive(&docker).verify(true)),
            Box::new(Image::new().name("damaged:v1").verify(true)),
        ];
        for (exporter, named) in exporters.into_iter().zip([&oci, &docker, &state]) {
            let error = exporter.export(&single, &Cancel::new()).await.unwrap_err();
            assert!(
                matches!(&error, ExportError::Verify { path, .. } if path == named),
                "{error:?}"
            );
        }
        for path in [&oci, &docker] {
            assert_eq!(fs::read_to_string(path).unwrap(), "old");
        }
        let name = Reference::parse("damaged:v1").unwrap();
        assert_eq!(solver.store().images().get(&name).unwrap(), None);
    });
}

#[test]
fn a_stored_image_is_found_by_its_names() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let several = two_platforms(&solver).await;
        let image = Image::new().name("example.com/app:v1").name("short");
        let image = image.dangling_prefix("dangling").verify(true);
        let exported = image
            .unpack(true)
            .export(&several, &Cancel::new())
            .await
            .unwrap();
        let digest = exported.digest.unwrap();
        let names = &exported.response["image.name"];
        let expected = format!("example.com/app:v1,short,dangling@{digest}");
        assert_eq!(*names, expected);
        let images = solver.store().images();
        for name in ["example.com/app:v1", "docker.io/library/short:latest"] {
            let found = images
                .get(&Reference::parse(name).unwrap())
                .unwrap()
                .unwrap();
            assert_eq!(found.digest, digest);
        }
        // A build starts from it without a registry, and without unpacking a layer.
        let layers = support::layers(&folder.path().join("state"));
        for platform in [Platform::linux_amd64(), Platform::linux_armhf()] {
            let base = llb::image("example.com/app:v1").platform(platform.clone());
            let solved = solve(&solver, request(&base.into()).resolve(ResolveMode::Offline)).await;
            let files = support::files(&solved).await;
            let text = format!("for {platform}\n");
            assert_eq!(files["d/platform"], support::file(0o644, text.as_bytes()));
        }
        assert_eq!(support::layers(&folder.path().join("state")), layers);

        // Unnamed, it is there by its digest.
        let unnamed = Image::new().name("never:written").store(false);
        unnamed.export(&several, &Cancel::new()).await.unwrap();
        assert_eq!(
            images
                .get(&Reference::parse("never:written").unwrap())
                .unwrap(),
            None
        );
    });
}

/// Prepared at once, and in its place when it is cancelled.
#[derive(Debug)]
struct Late;

#[async_trait]
impl Exporter for Late {
    async fn prepare(&self, _: &BuildResult, _: &Cancel) -> Result<Prepared, ExportError> {
        let exported = Exported::default();
        Ok(Prepared::new(exported, |cancel| async move {
            cancel.cancelled().await;
            Err(ExportError::Cancelled)
        }))
    }
}

/// Ends when it is cancelled.
#[derive(Debug)]
struct Endless;

#[async_trait]
impl Exporter for Endless {
    async fn prepare(&self, _: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        cancel.cancelled().await;
        Err(ExportError::Cancelled)
    }
}

#[test]
fn several_exporters_share_the_work_and_appear_together() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let state = made_now(folder.path());
        let request = request(&state).local("context", folder.path().join("context"));
        let solved = solve(&solver, request).await;
        let out = folder.path().join("out");
        let (archive, layout) = (out.join("image.tar"), out.join("layout"));
        let (files, tar) = (out.join("files"), out.join("files.tar"));
        fs::create_dir(&out).unwrap();
        let all: [&dyn Exporter; 5] = [
            &Oci::archive(&archive).name("app:v1"),
            &Oci::directory(&layout).name("app:v1"),
            &Image::new().name("app:v1"),
            &Local::new(&files),
            &Tar::file(&tar),
        ];
        let exported = export_all(&all, &solved.result, &Cancel::new())
            .await
            .unwrap();
        assert_eq!(exported[0].digest, exported[1].digest);
        assert_eq!(exported[0].digest, exported[2].digest);
        oci_rules::check(&layout);
        // Each layer was made once: the store has as many blobs as the layout.
        let blobs = |folder: &Path| fs::read_dir(folder.join("blobs/sha256")).unwrap().count();
        assert_eq!(blobs(&folder.path().join("state")), blobs(&layout));

        // One that fails keeps the others from appearing.
        let before = tree(&out);
        let broken = Oci::archive(out.join("missing/image.tar"));
        let other = Local::new(out.join("other"));
        // Nor does it wait for those that would take long.
        let cancel = Cancel::new();
        let error = export_all(&[&other, &Endless, &broken], &solved.result, &cancel).await;
        assert!(matches!(error, Err(ExportError::Io { .. })), "{error:?}");
        assert_eq!(tree(&out), before);
        // Nor for what takes long in the end, when one cannot be put in its place.
        let full = Tar::writer(|| Err(io::ErrorKind::StorageFull.into()));
        let error = export_all(&[&Late, &full], &solved.result, &cancel).await;
        assert!(matches!(error, Err(ExportError::Io { .. })), "{error:?}");
    });
}

#[test]
fn what_the_metadata_says_is_heard() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let mut result = two_platforms(&solver).await;
        let mut put = |key: &str, value: &str| result.metadata.insert(key.into(), value.into());
        put("image.name", "from/frontend:v2");
        put("source.date.epoch/linux/amd64", "100");
        put("source.date.epoch", "200");
        put("annotation[linux/amd64].k", "v");
        put("containerimage.inlinecache/linux/amd64", "records");
        let layout = folder.path().join("layout");
        let exported = Oci::directory(&layout).name("*");
        let exported = exported.export(&result, &Cancel::new()).await.unwrap();
        assert_eq!(
            exported.response["image.name"],
            "docker.io/from/frontend:v2"
        );
        oci_rules::check(&layout);
        let read = |digest: &Value| -> Value {
            let name = digest.as_str().unwrap().replace(':', "/");
            serde_json::from_slice(&fs::read(layout.join("blobs").join(name)).unwrap()).unwrap()
        };
        let index = fs::read(layout.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let index = read(&index["manifests"][0]["digest"]);
        let images: Vec<_> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let manifest = read(&entry["digest"]);
                let config = read(&manifest["config"]["digest"]);
                (manifest["annotations"]["k"].clone(), config)
            })
            .collect();
        assert_eq!(images[0].0, "v");
        assert_eq!(images[1].0, Value::Null);
        // The key of the whole result wins over that of a platform, as in BuildKit.
        for (_, config) in &images {
            assert_eq!(config["created"], "1970-01-01T00:03:20Z");
        }
        assert_eq!(images[0].1["moby.buildkit.cache.v0"], "cmVjb3Jkcw==");
        assert_eq!(images[1].1["moby.buildkit.cache.v0"], Value::Null);
        let mut bad = result.clone();
        bad.metadata
            .insert("source.date.epoch".to_owned(), b"tomorrow".to_vec());
        let error = Oci::directory(&layout)
            .export(&bad, &Cancel::new())
            .await
            .unwrap_err();
        assert!(matches!(error, ExportError::Metadata { .. }), "{error:?}");
    });
}
