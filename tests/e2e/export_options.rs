//! What attributes of outputs do, each as `--output` takes it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use ashlar_exporters::{ExportError, Exported, Exporter as _, Oci, Output};
use ashlar_llb::{self as llb, Platform, Reference, State, mkdir, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::{Attestation, BuildResult, PlatformRef};
use ashlar_solver::solver::Solver;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::Value;

use super::push::make_foreign;
use super::support::{self, request, runtime, solve, temp, then, write};

async fn export(output: &str, result: &BuildResult) -> Result<Exported, ExportError> {
    let output = Output::parse(output).unwrap();
    output.exporter().export(result, &Cancel::new()).await
}

async fn good(output: &str, result: &BuildResult) -> Exported {
    let exported = export(output, result).await;
    exported.unwrap_or_else(|error| panic!("{output}: {}", support::chain(&error)))
}

async fn small(solver: &Solver) -> BuildResult {
    let state = llb::scratch().file(mkfile("/file", "text\n").created(then()));
    solve(solver, request(&state)).await.result
}

#[test]
fn an_image_is_called_what_its_attributes_say() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let result = small(&solver).await;
        let digest = good("type=image", &result).await.digest.unwrap();
        let dangling = format!("left@{digest}");
        for (attributes, names) in [
            ("", None),
            ("name=a:v1", Some("a:v1".to_owned())),
            ("\"name=a:v1,b\"", Some("a:v1,b".to_owned())),
            ("dangling-name-prefix=left", Some(dangling.clone())),
            (
                "dangling-name-prefix=left,danging-name-empty-only=true",
                Some(dangling.clone()),
            ),
            (
                "name=a:v1,dangling-name-prefix=left",
                Some(format!("a:v1,{dangling}")),
            ),
            (
                "name=a:v1,dangling-name-prefix=left,danging-name-empty-only=true",
                Some("a:v1".to_owned()),
            ),
            ("name=a:v1,name-canonical=true", Some("a:v1".to_owned())),
        ] {
            let output = format!("type=image,{attributes}");
            let exported = good(output.trim_end_matches(','), &result).await;
            assert_eq!(
                exported.response.get("image.name"),
                names.as_ref(),
                "{attributes}"
            );
            assert_eq!(exported.digest, Some(digest));
        }
        let images = solver.store().images();
        let named = |name: &str| images.get(&Reference::parse(name).unwrap()).unwrap();
        assert!(named("a:v1").is_some() && named("b:latest").is_some());
        // The store finds it by its digest, whatever was said of canonical names.
        let pinned = llb::image(format!("a@{digest}"));
        let offline = ashlar_solver::source::image::ResolveMode::Offline;
        let again = solve(&solver, request(&pinned.into()).resolve(offline)).await;
        assert!(support::files(&again).await.contains_key("file"));
    });
}

/// How many statements a layout or the store has beside its image.
fn statements(blobs: &Path) -> usize {
    let blobs = fs::read_dir(blobs).unwrap();
    let texts = blobs.map(|blob| fs::read(blob.unwrap().path()).unwrap());
    texts
        .filter(|text| text.starts_with(b"{\"_type\":"))
        .count()
}

#[test]
fn attestations_for_inline_use_are_in_images_that_are_stored_unless_asked_otherwise() {
    runtime().block_on(async {
        for (kind, expected) in [("oci", 0), ("docker", 0), ("image", 1)] {
            for (inline, expected) in [("", expected), ("false", 0), ("true", 1)] {
                let folder = temp();
                let solver = support::solver(folder.path().join("state"));
                let check = Attestation::in_toto("https://example.com/x", "x.json", "{}");
                let result = small(&solver).await;
                let id = result.platform().format();
                let result = result.with_attestation(id, check.inline_only());
                let dest = folder.path().join("out.tar");
                let (layout, at) = (folder.path().join("layout"), folder.path().join("state"));
                let mut output = match kind {
                    "oci" => format!("type=oci,tar=false,dest={}", layout.display()),
                    "docker" => format!("type=docker,dest={}", dest.display()),
                    _ => "type=image,name=a".to_owned(),
                };
                if !inline.is_empty() {
                    output += &format!(",attestation-inline={inline}");
                }
                good(&output, &result).await;
                let found = match kind {
                    "oci" => statements(&layout.join("blobs/sha256")),
                    "docker" => {
                        let text = fs::read(&dest).unwrap();
                        let text = String::from_utf8_lossy(&text);
                        text.matches("{\"_type\":").count()
                    }
                    _ => statements(&at.join("blobs/sha256")),
                };
                assert_eq!(found, expected, "{output}");
            }
        }
    });
}

#[test]
fn layers_that_others_may_not_distribute_keep_their_mark_if_asked_to() {
    let url = "https://example.com/foreign/layer";
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let base = folder.path().join("base");
        let exporter = Oci::directory(&base).name("example.com/base:v1");
        exporter
            .export(&small(&solver).await, &Cancel::new())
            .await
            .unwrap();
        let foreign = make_foreign(&base, url);
        let image = State::from(llb::oci_layout("example.com/base:v1").store("base"));
        let built = image.file(mkfile("/own", "own").created(then()));
        let built = solve(&solver, request(&built).oci_layout("base", &base))
            .await
            .result;
        for (attributes, is_oci, kept) in [
            ("", true, false),
            ("prefer-nondist-layers=false", true, false),
            ("prefer-nondist-layers=true", true, true),
            (
                "prefer-nondist-layers=true,oci-mediatypes=false",
                false,
                true,
            ),
            (
                "prefer-nondist-layers=true,force-compression=true,compression=zstd",
                true,
                // What is made of it is another layer, as in BuildKit.
                false,
            ),
        ] {
            let out = folder.path().join(format!("out-{attributes}"));
            let quoted = out.display().to_string();
            let output = format!("type=oci,tar=false,\"dest={quoted}\",{attributes}");
            good(output.trim_end_matches(','), &built).await;
            let read = |descriptor: &Value| -> (Value, usize) {
                let name = descriptor["digest"].as_str().unwrap().replace(':', "/");
                let blob = fs::read(out.join("blobs").join(name)).unwrap();
                (
                    serde_json::from_slice(&blob).unwrap_or_default(),
                    blob.len(),
                )
            };
            let index = fs::read(out.join("index.json")).unwrap();
            let index: Value = serde_json::from_slice(&index).unwrap();
            let (manifest, _) = read(&index["manifests"][0]);
            let layers = manifest["layers"].as_array().unwrap();
            assert_eq!(layers.len(), 2);
            let kind = layers[0]["mediaType"].as_str().unwrap();
            let mark = if is_oci {
                ".nondistributable."
            } else {
                ".foreign."
            };
            assert_eq!(kind.contains(mark), kept, "{attributes}: {kind}");
            // It is written all the same: who asks for an archive gets all of it.
            assert!(read(&layers[0]).1 > 0);
            let converted = attributes.contains("zstd");
            assert_eq!(
                layers[0]["digest"] == foreign.as_str(),
                !converted,
                "{attributes}"
            );
            let told = layers[0]["urls"] == serde_json::json!([url]);
            assert_eq!(told, kept, "{layers:?}");
            assert!(!layers[1]["mediaType"].as_str().unwrap().contains(mark));
        }
    });
}

/// Two platforms, with these files.
async fn platforms(solver: &Solver, files: [&str; 2]) -> BuildResult {
    let mut refs = Vec::new();
    let platforms = [Platform::linux_amd64(), Platform::linux_arm64()];
    for (platform, file) in platforms.into_iter().zip(files) {
        let (folder, _) = file.rsplit_once('/').unwrap();
        let made = mkdir(folder).parents().mkfile(file, file.to_owned());
        let state = llb::scratch().file(made.created(then()));
        let solved = solve(solver, request(&state)).await;
        refs.push(PlatformRef::new(
            platform,
            solved.result.reference().clone(),
        ));
    }
    BuildResult::of_platforms(refs, solver.store().clone()).unwrap()
}

#[test]
fn platforms_have_directories_of_their_own_or_share_one_without_conflicts() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let apart = platforms(&solver, ["/d/one", "/d/two"]).await;
        let paths = async |attributes: &str, result: &BuildResult| {
            let out = tempfile::tempdir_in(folder.path()).unwrap();
            let output = format!("type=local,dest={}{attributes}", out.path().display());
            good(&output, result).await;
            support::tree(out.path()).into_keys().collect::<Vec<_>>()
        };
        let split = [
            "linux_amd64",
            "linux_amd64/d",
            "linux_amd64/d/one",
            "linux_arm64",
            "linux_arm64/d",
            "linux_arm64/d/two",
        ];
        assert_eq!(paths("", &apart).await, split);
        assert_eq!(paths(",platform-split=true", &apart).await, split);
        assert_eq!(
            paths(",platform-split=false", &apart).await,
            ["d", "d/one", "d/two"]
        );
        // An archive has them in any case.
        for attributes in ["", ",platform-split=false", ",platform-split=true"] {
            let path = folder.path().join("out.tar");
            good(
                &format!("type=tar,dest={}{attributes}", path.display()),
                &apart,
            )
            .await;
            let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
            let entries = archive.entries().unwrap();
            let names = entries.map(|entry| {
                let path = entry.unwrap().path().unwrap().display().to_string();
                path.trim_end_matches('/').to_owned()
            });
            let names: BTreeSet<String> = names.collect();
            assert!(split.iter().all(|name| names.contains(*name)), "{names:?}");
        }
        // A result for one platform has none unless it is asked for.
        let single = small(&solver).await;
        assert_eq!(paths("", &single).await, ["file"]);
        let own = Platform::of_target().to_string().replace('/', "_");
        let expected = [own.clone(), format!("{own}/file")];
        assert_eq!(paths(",platform-split=true", &single).await, expected);

        // One name for two files, or for a file and a directory.
        for files in [
            ["/d/one", "/d/one"],
            ["/d/one", "/d/one/two"],
            ["/d/one/two", "/d/one"],
        ] {
            let clash = platforms(&solver, files).await;
            let out = folder.path().join("clash");
            let output = format!("type=local,dest={},platform-split=false", out.display());
            let error = export(&output, &clash).await.unwrap_err();
            assert!(
                error.to_string().contains("two platforms have /d/one"),
                "{error}"
            );
            assert!(!out.exists());
        }
    });
}

#[test]
fn files_belong_to_who_exports_and_have_the_time_of_the_epoch() {
    const EPOCH: i64 = 1_500_000_000;
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let owned = mkdir("/d").mode(0o750).owner((7, 8));
        let state = llb::scratch()
            .file(owned.created(then()))
            .file(mkdir("/empty"))
            .file(
                mkfile("/d/file", "x")
                    .mode(0o640)
                    .owner((5, 6))
                    .created(then()),
            )
            .file(llb::symlink("d/file", "/link").created(then()));
        let result = solve(&solver, request(&state)).await.result;
        // A mirror has nothing in a directory that is empty.
        write(folder.path().join("out/empty/old"), "old");
        let check = Attestation::in_toto("https://example.com/x", "check.json", "{}");
        let id = result.platform().format();
        let result = result.with_attestation(id, check);
        let (out, tar) = (folder.path().join("out"), folder.path().join("out.tar"));
        let own = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        for (attributes, time) in [
            ("", None),
            (",source-date-epoch=", None),
            (",source-date-epoch=1500000000", Some(EPOCH)),
        ] {
            let prefixed = format!("{attributes},attestation-prefix=of-");
            good(
                &format!("type=local,mode=delete,dest={}{prefixed}", out.display()),
                &result,
            )
            .await;
            assert_eq!(fs::read_dir(out.join("empty")).unwrap().count(), 0);
            for (name, made, mode) in [
                ("d", 1_650_000_000, 0o750),
                ("d/file", 1_650_000_000, 0o640),
                ("link", 1_650_000_000, 0o777),
                ("of-check.json", 0, 0o600),
            ] {
                let data = fs::symlink_metadata(out.join(name)).unwrap();
                assert_eq!((data.uid(), data.gid()), own, "{name}");
                assert_eq!(data.mode() & 0o777, mode, "{name}");
                match time {
                    Some(time) => assert_eq!(data.mtime(), time, "{name}"),
                    // A directory that something was written into has another time.
                    None if made > 0 && name != "d" => assert_eq!(data.mtime(), made, "{name}"),
                    None => assert_ne!(data.mtime(), EPOCH, "{name}"),
                }
            }
            good(
                &format!("type=tar,dest={}{prefixed}", tar.display()),
                &result,
            )
            .await;
            let mut archive = tar::Archive::new(fs::File::open(&tar).unwrap());
            let mut owners = Vec::new();
            for entry in archive.entries().unwrap() {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                let header = entry.header();
                owners.push((path, header.uid().unwrap(), header.gid().unwrap()));
                if let Some(time) = time {
                    assert_eq!(header.mtime().unwrap(), time as u64);
                }
            }
            // An archive keeps them: nobody has to be anybody to write one.
            let expected = [
                ("d/", 7, 8),
                ("d/file", 5, 6),
                ("link", 0, 0),
                ("of-check.json", 0, 0),
            ];
            for (path, uid, gid) in expected {
                let found = owners.iter().find(|(name, ..)| name == path);
                assert_eq!(found, Some(&(path.to_owned(), uid, gid)), "{owners:?}");
            }
        }
    });
}

#[test]
fn a_file_that_differs_in_anything_is_written_again() {
    runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let file = mkfile("/file", "x").mode(0o640).created(then());
        let result = solve(&solver, request(&llb::scratch().file(file))).await;
        let (out, beside) = (folder.path().join("out"), folder.path().join("beside"));
        let output = format!("type=local,dest={}", out.display());
        good(&output, &result.result).await;
        let file = out.join("file");
        let other = "user.other";
        let mut changes: Vec<Box<dyn Fn() + '_>> = vec![
            Box::new(|| {}),
            Box::new(|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap()),
            Box::new(|| fs::hard_link(&file, &beside).unwrap()),
            Box::new(|| setxattr(&file, other, b"x", XattrFlags::empty()).unwrap()),
        ];
        let own = rustix::process::geteuid().as_raw();
        if own == 0 {
            let change = || std::os::unix::fs::chown(&file, Some(5), None).unwrap();
            changes.push(Box::new(change));
        }
        let inode = || fs::metadata(&file).unwrap().ino();
        for (number, change) in changes.into_iter().enumerate() {
            // The inodes of files that are gone are used again.
            let _kept = fs::File::open(&file).unwrap();
            let before = inode();
            change();
            good(&output, &result.result).await;
            assert_eq!(inode() == before, number == 0, "{number}");
            let data = fs::metadata(&file).unwrap();
            assert_eq!((data.mode() & 0o777, data.nlink()), (0o640, 1), "{number}");
            assert_eq!(data.uid(), own, "{number}");
            assert!(getxattr(&file, other, &mut [0; 8]).is_err());
        }
    });
}
