//! Exports: the same bytes every time, and nothing outside of the destination.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use ashlar_exporters::{Compression, ExportError, Exporter, Image, Local, Oci};
use ashlar_llb::{self as llb, Platform, State, copy, mkdir, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{BuildResult, PlatformRef};
use ashlar_solver::solver::{Durability, SolveRequest, Solver};

use super::export_streams::pipe;
use super::support::{self, Need, file, run, skipped, solve, temp, then, tree};

/// Layers of some MiB, whose times are all fixed.
fn fixed_graph() -> State {
    let context = llb::local("context");
    let all = copy(&context, "/", "/").contents_only();
    llb::scratch()
        .file(all)
        .file(mkdir("/made").mode(0o700).created(then()))
        .file(
            mkfile("/made.txt", "made\n")
                .mode(0o755)
                .owner((1, 2))
                .created(then()),
        )
        .file(
            copy(&context, "/random", "/copied")
                .created(then())
                .owner("1000:1000"),
        )
}

/// Text and numbers without a pattern, so that there are many blocks and short and long matches.
pub fn fixed_context(folder: &Path) -> SolveRequest {
    let mut word = 88_172_645_463_325_252_u64;
    let mut random = Vec::new();
    while random.len() < 5 << 20 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        random.extend(word.to_le_bytes());
        random.extend(format!("{:x} and ", word & 0xff).bytes());
    }
    support::write(folder.join("context/random"), random);
    for number in 0..40 {
        support::write(
            folder.join(format!("context/d{number}/f")),
            number.to_string(),
        );
    }
    for number in 0..40 {
        let folder = fs::File::open(folder.join(format!("context/d{number}"))).unwrap();
        folder.set_modified(then()).unwrap();
    }
    support::request(&fixed_graph()).local("context", folder.join("context"))
}

#[test]
fn exporting_twice_gives_the_same_bytes() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, fixed_context(folder.path())).await;
        for compression in [Compression::default(), Compression::Uncompressed] {
            let mut exports = Vec::new();
            for name in ["one.tar", "two.tar"] {
                let path = folder.path().join(name);
                let archive = Oci::archive(&path).name("app:v1").compression(compression);
                let exported = archive
                    .export(&solved.result, &Cancel::new())
                    .await
                    .unwrap();
                exports.push((exported, fs::read(path).unwrap()));
            }
            assert!(
                exports[0] == exports[1],
                "{:?} {:?}",
                exports[0].0,
                exports[1].0
            );
        }
        let others: BTreeSet<_> = tree(folder.path()).into_keys().collect();
        assert!(
            !others.iter().any(|name| name.ends_with(".partial")),
            "{others:?}"
        );
    });
}

#[test]
fn plain_layers_are_packed_into_outputs_and_kept_only_where_they_are_asked_for() {
    support::runtime().block_on(async {
        let folder = temp();
        let at = |name: &str| folder.path().join(name);
        let solver = support::solver(at("state"));
        let solved = solve(&solver, fixed_context(folder.path())).await;
        let plain = |oci: Oci| oci.name("app:v1").compression(Compression::Uncompressed);
        let stored = || fs::read_dir(at("state/blobs/sha256")).unwrap().count();
        let export = async |exporter: &dyn Exporter| {
            let exported = exporter.export(&solved.result, &Cancel::new()).await;
            exported.unwrap()
        };

        let first = export(&plain(Oci::archive(at("first.tar"))).verify(true)).await;
        export(&plain(Oci::directory(at("layout"))).verify(true)).await;
        assert_eq!(stored(), 0);
        let layers = layer_blobs(&at("layout"));
        assert_eq!(layers.len(), 4);
        let written = at("writer.tar");
        let open = move || Ok(Box::new(fs::File::create(&written)?) as Box<dyn Write + Send>);
        export(&plain(Oci::writer(open))).await;

        // Who needs the blobs themselves gets them, and archives are copied from there.
        let image = Image::new().compression(Compression::Uncompressed);
        let in_store = export(&image.name("app:v1").verify(true)).await;
        assert_ne!(in_store.digest, None);
        assert!(stored() >= layers.len());
        let again = export(&plain(Oci::archive(at("again.tar")))).await;
        assert_eq!(first, again);
        let bytes = fs::read(at("first.tar")).unwrap();
        assert!(bytes == fs::read(at("writer.tar")).unwrap());
        assert!(bytes == fs::read(at("again.tar")).unwrap());
    });
}

/// The digests of all layer blobs of an image in a layout directory.
fn layer_blobs(layout: &Path) -> Vec<String> {
    let read = |path: String| -> serde_json::Value {
        serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let index = read("index.json".to_owned());
    let blob = |value: &serde_json::Value| {
        format!(
            "blobs/{}",
            value["digest"].as_str().unwrap().replace(':', "/")
        )
    };
    let manifest = read(blob(&index["manifests"][0]));
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn layers_do_not_depend_on_root_time_or_threads() {
    let folder = temp();
    let request = fixed_context(folder.path());
    let layers = |name: &str, threads: usize| {
        let (request, path) = (request.clone(), folder.path().join(name));
        // A thread of its own, because it is restricted to some processors.
        let work = std::thread::spawn(move || {
            if threads == 1 {
                let mut one = rustix::thread::CpuSet::new();
                let all = rustix::thread::sched_getaffinity(None).unwrap();
                one.set((0..1024).find(|cpu| all.is_set(*cpu)).unwrap());
                rustix::thread::sched_setaffinity(None, &one).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let builder = Solver::builder()
                    .root(path.join("state"))
                    .parallelism(threads);
                let solved = solve(&builder.build().unwrap(), request).await;
                let mut layers = Vec::new();
                for compression in Compression::ALL {
                    let image = path.join(compression.name());
                    let layout = Oci::directory(&image).compression(compression);
                    layout.export(&solved.result, &Cancel::new()).await.unwrap();
                    layers.extend(layer_blobs(&image));
                }
                layers
            })
        });
        work.join().unwrap()
    };
    let one = layers("one", 1);
    assert_eq!(one.len(), 4 * Compression::ALL.len());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(layers("many", 8), one);
}

#[test]
fn local_export_stays_inside() {
    support::runtime().block_on(async {
        let folder = temp();
        let (out, outside) = (folder.path().join("out"), folder.path().join("outside"));
        support::write(outside.join("file"), "outside\n");
        support::write(out.join("kept"), "kept\n");
        fs::create_dir(out.join("becomes-file")).unwrap();
        symlink(&outside, out.join("directory")).unwrap();
        symlink(outside.join("file"), out.join("file")).unwrap();
        symlink(outside.join("new"), out.join("dangling")).unwrap();
        let before = tree(&outside);

        let made = mkdir("/directory")
            .mkfile("/directory/file", "inside\n")
            .mode(0o600);
        let made = made
            .mkfile("/file", "inside\n")
            .mkfile("/dangling", "inside\n");
        let made = made
            .mkfile("/becomes-file", "")
            .symlink("../outside", "/link");
        let state = llb::scratch().file(made);
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, support::request(&state)).await;
        for _ in 0..2 {
            Local::new(&out)
                .export(&solved.result, &Cancel::new())
                .await
                .unwrap();
            assert_eq!(tree(&outside), before);
            let inside = file(0o644, b"inside\n");
            let expected = [
                ("becomes-file", file(0o644, b"")),
                ("dangling", inside.clone()),
                ("directory", "directory 755".to_owned()),
                ("directory/file", file(0o600, b"inside\n")),
                ("file", inside),
                ("kept", file(0o644, b"kept\n")),
                ("link", "link ../outside".to_owned()),
            ];
            assert_eq!(
                tree(&out),
                expected.map(|(path, text)| (path.to_owned(), text)).into()
            );
        }
    });
}

#[test]
fn local_export_keeps_what_an_image_cannot_lose() {
    support::runtime().block_on(async {
        let folder = temp();
        support::write(folder.path().join("context/one"), "linked\n");
        fs::hard_link(
            folder.path().join("context/one"),
            folder.path().join("context/two"),
        )
        .unwrap();
        symlink("one", folder.path().join("context/link")).unwrap();
        let context = llb::local("context");
        let state = llb::scratch().file(copy(&context, "/", "/").contents_only());
        let sticky = folder.path().join("context/sticky");
        fs::create_dir(&sticky).unwrap();
        fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).unwrap();
        fs::File::open(&sticky)
            .unwrap()
            .set_modified(then())
            .unwrap();
        let solver = support::solver(folder.path().join("state"));
        let request = support::request(&state).local("context", folder.path().join("context"));
        let solved = solve(&solver, request).await;
        let out = folder.path().join("deep/out");
        Local::new(&out)
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap();
        let expected = [
            ("link", "link one".to_owned()),
            ("one", file(0o644, b"linked\n")),
            ("sticky", "directory 1777".to_owned()),
            ("two", file(0o644, b"linked\n")),
        ];
        assert_eq!(
            tree(&out),
            expected.map(|(path, text)| (path.to_owned(), text)).into()
        );
        for name in ["one", "sticky"] {
            assert_eq!(
                out.join(name).metadata().unwrap().mtime(),
                1_650_000_000,
                "{name}"
            );
        }
        // Names of one file stay so, in the directory of each platform.
        let reference = || solved.result.reference().clone();
        let platforms = [Platform::linux_amd64(), Platform::linux_arm64()];
        let platforms = platforms.map(|platform| PlatformRef::new(platform, reference()));
        let both = BuildResult::of_platforms(platforms, solver.store().clone()).unwrap();
        let split = folder.path().join("split");
        let local = Local::new(&split);
        local.export(&both, &Cancel::new()).await.unwrap();
        let inode = |path: &str| split.join(path).metadata().unwrap().ino();
        assert_eq!(inode("linux_amd64/one"), inode("linux_amd64/two"));
        assert_eq!(inode("linux_arm64/one"), inode("linux_arm64/two"));
        assert_ne!(inode("linux_amd64/one"), inode("linux_arm64/one"));
    });
}

#[test]
fn a_layout_keeps_its_other_images() {
    if skipped("a_layout_keeps_its_other_images", &[Need::Tool("skopeo")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let layout = folder.path().join("images");
        for name in ["one", "two", "one"] {
            let state = llb::scratch().file(mkfile("/name", name));
            let solved = solve(&solver, support::request(&state)).await;
            let image = Oci::directory(&layout).name(format!("example.com/app:{name}"));
            image.export(&solved.result, &Cancel::new()).await.unwrap();
        }
        let mut digests = BTreeSet::new();
        for name in ["one", "two"] {
            let image = format!("oci:{}:{name}", layout.display());
            let text = run(Command::new("skopeo").args(["inspect", &image]));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            digests.insert(value["Digest"].as_str().unwrap().to_owned());
        }
        assert_eq!(digests.len(), 2);
        let index = fs::read_to_string(layout.join("index.json")).unwrap();
        assert_eq!(
            index.matches("org.opencontainers.image.ref.name").count(),
            2,
            "{index}"
        );
    });
}

#[test]
fn a_layout_of_others_is_added_to_and_keeps_what_they_said() {
    let test = "a_layout_of_others_is_added_to_and_keeps_what_they_said";
    if skipped(test, &[Need::Tool("umoci")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let layout = folder.path().join("images");
        let index = layout.join("index.json");
        let umoci = |verb: &str| run(Command::new("umoci").args([verb, "--layout"]).arg(&layout));
        umoci("init");
        let state = llb::scratch().file(mkfile("/name", "one").created(then()));
        let solved = solve(&solver, support::request(&state)).await;
        let image = Oci::directory(&layout).name("example.com/app:one");
        image.export(&solved.result, &Cancel::new()).await.unwrap();
        assert_eq!(umoci("ls"), "one\n");
        // Members that are not ours, and entries of others.
        let mut said: serde_json::Value =
            serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        said["annotations"] = serde_json::json!({"whose": "theirs"});
        said["more"] = serde_json::json!([1.50, null]);
        said["manifests"][0]["more"] = true.into();
        said["manifests"][0]["annotations"] = serde_json::Value::Null;
        fs::write(&index, said.to_string()).unwrap();
        let image = Oci::directory(&layout).name("example.com/app:two");
        image.export(&solved.result, &Cancel::new()).await.unwrap();
        let merged: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        for member in ["annotations", "more"] {
            assert_eq!(merged[member], said[member]);
        }
        assert_eq!(merged["manifests"][0], said["manifests"][0]);
        assert_eq!(merged["manifests"].as_array().unwrap().len(), 2);
        let before = fs::metadata(&index).unwrap().mtime_nsec();
        image.export(&solved.result, &Cancel::new()).await.unwrap();
        assert_eq!(
            fs::metadata(&index).unwrap().mtime_nsec(),
            before,
            "written again"
        );
    });
}

#[test]
fn class_12_a_layout_whose_index_is_none_is_left_alone() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let layout = folder.path().join("images");
        let state = llb::scratch().file(mkfile("/x", ""));
        let solved = solve(&solver, support::request(&state)).await;
        let image = || Oci::directory(&layout).name("example.com/a:v1");
        image()
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap();
        let index = layout.join("index.json");
        let good = fs::read(&index).unwrap();
        let deep = "[".repeat(200_000);
        let long = format!("{{\"manifests\":[],\"x\":\"{}\"}}", "y".repeat(9 << 20));
        for bad in [
            "{",
            "null",
            "[]",
            "\"text\"",
            r#"{"manifests":{}}"#,
            r#"{"manifests":[{}]}"#,
            r#"{"manifests":[null]}"#,
            r#"{"manifests":[{"digest":1}]}"#,
            r#"{"manifests":[{"digest":"sha256:0","annotations":[]}]}"#,
            "{\"manifests\":[]} more",
            &deep,
            &long,
        ] {
            fs::write(&index, bad).unwrap();
            let named = image().name("example.com/b:v1");
            let exported = named.export(&solved.result, &Cancel::new()).await;
            let start: String = bad.chars().take(60).collect();
            let error = exported.expect_err(&start);
            assert!(
                matches!(error, ExportError::Io { action: "read", .. }),
                "{start}: {error:?}"
            );
            let told = support::chain(&error).contains("it has more than 8388608 bytes");
            assert_eq!(told, bad.len() > 8 << 20, "{start}: {error:?}");
            assert!(fs::read(&index).unwrap() == bad.as_bytes(), "{start}");
        }
        // Nothing waits for who writes into a pipe, or follows a link.
        fs::remove_file(&index).unwrap();
        let other = folder.path().join("other.json");
        fs::write(&other, &good).unwrap();
        for is_link in [false, true] {
            match is_link {
                true => symlink(&other, &index).unwrap(),
                false => pipe(&index),
            }
            let exported = image().export(&solved.result, &Cancel::new()).await;
            let error = exported.unwrap_err();
            assert!(
                matches!(error, ExportError::Io { action: "read", .. }),
                "{error:?}"
            );
            // Whoever removes it gets a new one.
            fs::remove_file(&index).unwrap();
        }
        fs::remove_file(layout.join("oci-layout")).unwrap();
        pipe(&layout.join("oci-layout"));
        let synced = image().durability(Durability::Synced);
        synced.export(&solved.result, &Cancel::new()).await.unwrap();
        assert!(layout.join("oci-layout").is_file());
        assert_eq!(fs::read(&index).unwrap(), good);
    });
}

#[test]
fn entries_of_an_index_are_called_as_buildkit_calls_them() {
    const REF_NAME: &str = "org.opencontainers.image.ref.name";
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let layout = folder.path().join("images");
        let entries = || {
            let text = fs::read_to_string(layout.join("index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_str(&text).unwrap();
            let entries = index["manifests"].as_array().unwrap().iter();
            let named = entries.map(|entry| {
                let name = entry["annotations"][REF_NAME].as_str().unwrap();
                (
                    name.to_owned(),
                    entry["digest"].as_str().unwrap().to_owned(),
                )
            });
            named.collect::<Vec<_>>()
        };
        let mut digests = Vec::new();
        for text in ["one", "two"] {
            let state = llb::scratch().file(mkfile("/name", text));
            let solved = solve(&solver, support::request(&state)).await;
            let image = Oci::directory(&layout);
            let exported = image.export(&solved.result, &Cancel::new()).await.unwrap();
            digests.push(exported.digest.unwrap().to_string());
            // The second takes the place of the first.
            assert_eq!(
                entries(),
                [("latest".to_owned(), digests.last().unwrap().clone())]
            );
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        let solved = solve(
            &solver,
            support::request(&llb::scratch().file(mkfile("/x", ""))),
        )
        .await;
        for (name, called) in [
            (
                format!("example.com/a@{digest}"),
                format!("example.com/a@{digest}"),
            ),
            (format!("example.com/b:v1@{digest}"), format!("v1@{digest}")),
            ("example.com/c:v1".to_owned(), "v1".to_owned()),
        ] {
            let image = Oci::directory(&layout).name(&name);
            image.export(&solved.result, &Cancel::new()).await.unwrap();
            assert_eq!(entries().last().unwrap().0, called, "{name}");
        }
    });
}

#[test]
fn exports_beside_each_other_do_not_get_in_each_others_way() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let state = llb::scratch().file(mkfile("/file", "text").created(then()));
        let result = solve(&solver, support::request(&state)).await.result;
        for round in 0..30 {
            let out = folder.path().join(format!("out/{round}/deep"));
            // Into directories whose parents none of them has, and into one of all of them.
            let exports = (0..6).map(|number| {
                let (result, out) = (result.clone(), out.clone());
                tokio::spawn(async move {
                    let own = Local::new(out.join(format!("own-{number}")));
                    let exported = own.export(&result, &Cancel::new()).await;
                    exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
                    let shared = Local::new(out.join("shared"));
                    let exported = shared.export(&result, &Cancel::new()).await;
                    exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
                    let layout =
                        Oci::directory(out.join("layouts/one")).name(format!("a:{number}"));
                    let exported = layout.export(&result, &Cancel::new()).await;
                    exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
                })
            });
            for export in exports.collect::<Vec<_>>() {
                export.await.unwrap();
            }
            let found = tree(&out);
            let files = found.keys().filter(|path| path.ends_with("/file"));
            assert_eq!(files.count(), 7, "{found:?}");
            assert!(
                !found.keys().any(|path| path.contains(".partial")),
                "{found:?}"
            );
            let index = fs::read_to_string(out.join("layouts/one/index.json")).unwrap();
            assert_eq!(index.matches("io.containerd.image.name").count(), 6);
            fs::remove_dir_all(folder.path().join("out")).unwrap();
        }
    });
}

#[test]
fn a_layout_that_was_not_there_is_whole_or_not_there() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let made =
            |text: &str| llb::scratch().file(mkfile("/file", text.to_owned()).created(then()));
        let result = solve(&solver, support::request(&made("one"))).await.result;
        let other = solve(&solver, support::request(&made("two"))).await.result;
        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        let given_up = async |layout: &Path| {
            for verify in [false, true] {
                let layout = Oci::directory(layout).name("a:v1").verify(verify);
                drop(layout.prepare(&result, &Cancel::new()).await.unwrap());
            }
        };
        // Not there, nor are those above it; there and empty; there with something in it.
        given_up(&out.join("deep/layout")).await;
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
        fs::create_dir_all(out.join("empty/blobs")).unwrap();
        support::write(out.join("own/blobs/sha256/some"), "some");
        let before = tree(&out);
        for name in ["empty", "own"] {
            given_up(&out.join(name)).await;
            assert_eq!(tree(&out), before, "{name}");
        }
        // One that is there keeps its blobs, and more of them.
        let layout = out.join("there");
        let image = Oci::directory(&layout).name("a:v1");
        image.export(&other, &Cancel::new()).await.unwrap();
        let index = fs::read(layout.join("index.json")).unwrap();
        given_up(&layout).await;
        assert_eq!(fs::read(layout.join("index.json")).unwrap(), index);
        image.export(&result, &Cancel::new()).await.unwrap();

        // Some give up while others go on in the same place.
        for round in 0..60 {
            let layout = out.join(format!("shared/{round}/layout"));
            let exports = (0..6).map(|number| {
                let (layout, result) = (layout.clone(), result.clone());
                tokio::spawn(async move {
                    let image = Oci::directory(&layout).name(format!("a:{number}"));
                    let image = image.verify(number % 3 == 0);
                    let prepared = image.prepare(&result, &Cancel::new()).await;
                    let prepared =
                        prepared.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
                    if number % 2 == 1 {
                        let exported = prepared.finalize(&Cancel::new()).await;
                        exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)));
                    }
                })
            });
            for export in exports.collect::<Vec<_>>() {
                export.await.unwrap();
            }
            let found = super::oci_rules::check(&layout);
            assert_eq!(found.images, 3, "{round}");
        }
    });
}

#[test]
fn a_failed_export_leaves_what_was_there() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let solved = solve(&solver, fixed_context(folder.path())).await;
        let out = folder.path().join("out");
        fs::create_dir(&out).unwrap();
        fs::write(out.join("image.tar"), "old").unwrap();
        let before = tree(&out);

        let missing = Oci::archive(out.join("missing/image.tar"));
        let error = missing
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap_err();
        assert!(matches!(error, ExportError::Io { .. }), "{error:?}");

        let cancel = Cancel::new();
        cancel.cancel();
        let archive = Oci::archive(out.join("image.tar"));
        let error = archive.export(&solved.result, &cancel).await.unwrap_err();
        assert!(matches!(error, ExportError::Cancelled), "{error:?}");

        let named = archive.clone().name("Not A Name");
        let error = named
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap_err();
        assert!(matches!(error, ExportError::Name { .. }), "{error:?}");

        let broken = solved.result.clone().with_image_config("{");
        let error = archive.export(&broken, &Cancel::new()).await.unwrap_err();
        assert!(matches!(error, ExportError::Config { .. }), "{error:?}");
        assert_eq!(tree(&out), before);
    });
}
