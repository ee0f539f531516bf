//! Rules of BuildKit's exporters that its recordings do not show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use ashlar_exporters::{Compression, Exporter as _, Oci, Output};
use ashlar_llb::{self as llb, Platform, State, copy, mkdir, mkfile, symlink};
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
