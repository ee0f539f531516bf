//! Rules of BuildKit's exporters that its recordings do not show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ashlar_exporters::{Compression, Exporter as _, Oci, Output};
use ashlar_llb::{self as llb, BlobDigest, Platform, State, copy, mkdir, mkfile, symlink};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, BuildResult, PlatformRef};
use ashlar_solver::solver::Solver;
use serde_json::Value;

use super::support::{self, temp};

async fn solved(solver: &Solver, state: &State) -> BuildResult {
    let solved = solver.solve(support::request(state)).result().await;
    solved.unwrap().result
}

/// Exports as an output string says.
async fn export(output: &str, result: &BuildResult) -> Result<(), String> {
    let output = Output::parse(output).map_err(|error| error.to_string())?;
    let exported = output.exporter().export(result, &Cancel::new()).await;
    exported.map(drop).map_err(|error| support::chain(&error))
}

/// The members of a tar, and where those lead that are symbolic links.
fn members(tar: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let link = entry.link_name().unwrap();
        let link = link.map(|link| link.display().to_string());
        (
            entry.path().unwrap().display().to_string(),
            link.unwrap_or_default(),
        )
    });
    entries.collect()
}

#[test]
fn links_stay_in_the_directory_of_their_platform() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let links = symlink("/etc/../a//b", "/root").symlink("a/../b", "/near");
        let result = solved(&solver, &llb::scratch().file(links)).await;
        let tree = result.reference().clone();
        let store = solver.store().clone();
        let both = [Platform::linux_amd64(), Platform::linux_arm64()];
        let both = both.map(|platform| PlatformRef::new(platform, tree.clone()));
        let statement = Attestation::in_toto("https://example.com/x", "about.json", "{}");
        let both = BuildResult::of_platforms(both, store)
            .unwrap()
            .with_attestation("linux/arm64", statement);
        let out = folder.path().join("out");
        export(&format!("type=local,dest={}", out.display()), &both)
            .await
            .unwrap();
        let read = |link: &str| fs::read_link(out.join(link)).unwrap().display().to_string();
        assert_eq!(read("linux_arm64/root"), "/linux_arm64/a/b");
        assert_eq!(read("linux_amd64/near"), "a/../b");
        // An archive is split whatever is asked for, which only names of statements tell.
        for (more, name) in [
            ("", "linux_arm64/about.json"),
            ("platform-split=false", "linux_arm64/about.linux_arm64.json"),
        ] {
            let tar = folder.path().join("x.tar");
            let output = format!("type=tar,dest={},{more}", tar.display());
            export(&output, &both).await.unwrap();
            let members = members(&fs::read(tar).unwrap());
            assert_eq!(members["linux_amd64/root"], "/linux_amd64/a/b");
            assert!(members.contains_key(name), "{members:?}");
        }
        let single = folder.path().join("single");
        export(&format!("type=local,dest={}", single.display()), &result)
            .await
            .unwrap();
        let link = fs::read_link(single.join("root")).unwrap();
        assert_eq!(link.display().to_string(), "/etc/../a//b");
    });
}

/// The names in each layer of a layout with one image of plain layers.
fn layers(layout: &Path) -> Vec<BTreeSet<String>> {
    let blob = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        fs::read(layout.join("blobs").join(path)).unwrap()
    };
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0]["digest"])).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| members(&blob(&layer["digest"])).into_keys().collect())
        .collect()
}

#[test]
fn a_layer_has_what_changed_and_nothing_else() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let context = folder.path().join("context");
        fs::create_dir_all(context.join("src")).unwrap();
        for name in ["package.json", "src/main.c"] {
            fs::write(context.join(name), name).unwrap();
        }
        let local = llb::local("context");
        let first = llb::scratch()
            .file(mkdir("/app/empty").parents())
            .file(copy(&local, "/package.json", "/app/"));
        // The file is there already, and so is the directory, with another time.
        let whole = first.file(copy(&local, "/", "/app").contents_only());
        let again = whole.file(copy(&whole, "/", "/"));
        let request = support::request(&again).local("context", &context);
        let result = solver.solve(request).result().await.unwrap().result;
        let layout = folder.path().join("layout");
        let image = Oci::directory(&layout).compression(Compression::Uncompressed);
        image.export(&result, &Cancel::new()).await.unwrap();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let expected: Vec<BTreeSet<String>> = vec![
            set(&["app/", "app/empty/"]),
            set(&["app/", "app/package.json"]),
            set(&["app/", "app/src/", "app/src/main.c"]),
            set(&[]),
        ];
        assert_eq!(layers(&layout), expected);
        // All of it is in the result.
        let out = folder.path().join("out");
        export(&format!("type=local,dest={}", out.display()), &result)
            .await
            .unwrap();
        assert_eq!(
            fs::read(out.join("app/package.json")).unwrap(),
            b"package.json"
        );
        assert!(out.join("app/empty").is_dir());
    });
}

#[test]
fn images_are_asked_for_as_buildkit_takes_it() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let result = solved(&solver, &llb::scratch().file(mkfile("/a", "a"))).await;
        let to = |name: &str| folder.path().join(name).display().to_string();
        for names in ["a, b", "a,,b", "a,", ","] {
            let output = format!("type=oci,dest={},\"name={names}\"", to("x"));
            let error = export(&output, &result).await.unwrap_err();
            assert!(error.contains("image name"), "{names}: {error}");
        }
        // A docker image as a layout, which is that of any image.
        for kind in ["docker", "oci"] {
            let output = format!("type={kind},dest={},tar=false,name=a", to(kind));
            export(&output, &result).await.unwrap();
        }
        let read = |kind: &str| fs::read(folder.path().join(kind).join("index.json")).unwrap();
        assert_eq!(read("docker"), read("oci"));
        // An empty config is none, for files too.
        let empty = result.with_image_config("");
        for kind in ["oci", "tar", "local"] {
            let output = format!("type={kind},dest={}", to("none"));
            assert!(export(&output, &empty).await.is_err(), "{kind}");
            assert!(!folder.path().join("none").exists());
        }
    });
}

/// Two platforms with one tree.
fn both(result: &BuildResult) -> BuildResult {
    let platforms = [Platform::linux_amd64(), Platform::linux_arm64()];
    let tree = |platform| PlatformRef::new(platform, result.reference().clone());
    BuildResult::of_platforms(platforms.map(tree), result.store.clone()).unwrap()
}

#[test]
fn an_index_is_as_new_as_its_newest_image() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let tree = solved(&solver, &llb::scratch().file(mkfile("/a", "a"))).await;
        // The texts are in another order than the times.
        let (old, new) = ("2023-01-01T23:00:00.5+09:00", "2023-01-01T15:00:00.5Z");
        for (number, [amd64, arm64]) in [[old, new], [new, old], [old, old]].iter().enumerate() {
            let config = |architecture: &str, created: &str| {
                let config = serde_json::json!({
                    "os": "linux",
                    "architecture": architecture,
                    "created": created,
                });
                config.to_string()
            };
            let result = both(&tree)
                .with_image_config_of("linux/amd64", config("amd64", amd64))
                .with_image_config_of("linux/arm64", config("arm64", arm64));
            let layout = folder.path().join(number.to_string());
            let image = Oci::directory(&layout);
            image.export(&result, &Cancel::new()).await.unwrap();
            let index = fs::read(layout.join("index.json")).unwrap();
            let index: Value = serde_json::from_slice(&index).unwrap();
            let notes = &index["manifests"][0]["annotations"];
            let expected = match number {
                2 => "2023-01-01T14:00:00Z",
                _ => "2023-01-01T15:00:00Z",
            };
            assert_eq!(notes["org.opencontainers.image.created"], expected);
        }
    });
}

#[test]
fn a_statement_stands_in_place_of_a_file_of_its_name() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let made = mkfile("/about.json", "of the build")
            .mkdir("/deep")
            .mkfile("/deep/file", "x")
            .mkfile("/deep.x", "x");
        let result = solved(&solver, &llb::scratch().file(made)).await;
        let id = result.platform().format();
        let kind = "https://example.com/x";
        let result = result
            .with_attestation(&id, Attestation::in_toto(kind, "about.json", "{}"))
            .with_attestation(&id, Attestation::in_toto(kind, "deep", "{}"));
        // The same at the destination.
        let out = folder.path().join("out");
        support::write(out.join("about.json"), "old");
        support::write(out.join("deep/file"), "x");
        for mode in ["copy", "delete"] {
            let output = format!("type=local,dest={},verify=true,mode={mode}", out.display());
            export(&output, &result).await.unwrap();
            let tree = support::tree(&out);
            let names: Vec<&String> = tree.keys().collect();
            assert_eq!(names, ["about.json", "deep", "deep.x"], "{mode}");
        }
        let tar = folder.path().join("out.tar");
        let output = format!("type=tar,dest={},verify=true", tar.display());
        export(&output, &result).await.unwrap();
        let mut archive = tar::Archive::new(fs::File::open(&tar).unwrap());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            found.push((entry.path().unwrap().display().to_string(), text));
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, ["about.json", "deep", "deep.x"]);
        for (name, text) in &found[..2] {
            assert_eq!(fs::read_to_string(out.join(name)).unwrap(), *text);
            let statement: Value = serde_json::from_str(text).unwrap();
            assert_eq!(statement["predicateType"], kind);
        }

        // One of a platform is not written over a file of another one.
        let made = mkfile("/about.linux_amd64.json", "of the build");
        let other = solved(&solver, &llb::scratch().file(made)).await;
        let statement = Attestation::in_toto(kind, "about.json", "{}");
        let both = both(&other).with_attestation("linux/amd64", statement);
        let dest = folder.path().join("shared");
        let output = format!("type=local,dest={},platform-split=false", dest.display());
        let error = export(&output, &both).await.unwrap_err();
        let told = "two platforms have /about.linux_amd64.json";
        assert!(error.contains(told) && !dest.exists(), "{error}");
    });
}

/// The times in the layers of each image of a layout of plain layers, and the digests of these.
fn layer_times(layout: &Path) -> Vec<(BTreeSet<u64>, Vec<String>)> {
    let read = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        fs::read(layout.join("blobs").join(path)).unwrap()
    };
    let json = |digest: &Value| -> Value { serde_json::from_slice(&read(digest)).unwrap() };
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let root = json(&index["manifests"][0]["digest"]);
    let manifests = match root["manifests"].as_array() {
        Some(all) => all.iter().map(|each| json(&each["digest"])).collect(),
        None => vec![root],
    };
    let mut found = Vec::new();
    for manifest in &manifests {
        let (mut times, mut digests) = (BTreeSet::new(), Vec::new());
        for layer in manifest["layers"].as_array().unwrap() {
            let bytes = read(&layer["digest"]);
            assert_eq!(BlobDigest::of(&bytes).to_string(), layer["digest"]);
            for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
                times.insert(entry.unwrap().header().mtime().unwrap());
            }
            digests.push(layer["digest"].as_str().unwrap().to_owned());
        }
        found.push((times, digests));
    }
    found
}

#[test]
fn a_layer_has_a_blob_for_each_epoch() {
    const MADE: u64 = 1_650_000_000;
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let made = mkfile("/file", "x").created(support::then());
        let built = solved(&solver, &llb::scratch().file(made)).await;
        let base = folder.path().join("base");
        let output = format!("type=oci,tar=false,name=base,dest={}", base.display());
        let other = support::solver(folder.path().join("other"));
        let made = mkfile("/base", "x").created(support::then());
        let result = solved(&other, &llb::scratch().file(made)).await;
        export(&output, &result).await.unwrap();
        let image = State::from(llb::oci_layout("docker.io/library/base:latest").store("base"));
        let request = support::request(&image).oci_layout("base", &base);
        let image = solver.solve(request).result().await.unwrap().result;
        for (of, result) in [("built", built), ("image", image)] {
            let layout = |name: &str| folder.path().join(format!("{of}-{name}"));
            let plain = "compression=uncompressed,force-compression=true";
            let output = |name: &str, more: &str| {
                let dest = layout(name).display().to_string();
                format!("type=oci,tar=false,dest={dest},{plain}{more}")
            };
            let rewritten = ",rewrite-timestamp=true";
            let mut digests = BTreeSet::new();
            // Twice, for what was made is found then.
            for round in 0..2 {
                for (number, time) in [1_500_000_000, 1_400_000_000, MADE].into_iter().enumerate() {
                    let epoch = match time {
                        MADE => String::new(),
                        time => format!(",source-date-epoch={time}{rewritten}"),
                    };
                    let name = format!("{round}-{number}");
                    export(&output(&name, &epoch), &result).await.unwrap();
                    let [(times, layers)] = &layer_times(&layout(&name))[..] else {
                        panic!("one image");
                    };
                    assert_eq!(*times, BTreeSet::from([time]), "{of} {name}");
                    digests.extend(layers.clone());
                }
            }
            assert_eq!(digests.len(), 3, "{of}: {digests:?}");
            // Two in one image.
            let mut two = both(&result);
            for (id, time) in [("linux/amd64", "1300000000"), ("linux/arm64", "1200000000")] {
                let key = format!("source.date.epoch/{id}");
                two.metadata.insert(key, time.into());
            }
            export(&output("two", rewritten), &two).await.unwrap();
            let times = layer_times(&layout("two")).into_iter();
            let times: Vec<_> = times.map(|(times, _)| times).collect();
            let expected = [1_300_000_000, 1_200_000_000].map(|time| BTreeSet::from([time]));
            assert_eq!(times, expected, "{of}");
        }
    });
}
