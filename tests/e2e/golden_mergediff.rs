//! Merges and diffs, compared with what BuildKit made of the same definitions: layers in order,
//! the resulting tree, and layers with rewritten times.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ashlar_exporters::{Compression, Exporter as _, Oci};
use ashlar_llb::Definition;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{self, Inflate};
use ashlar_solver::registry::{HostConfig, Mirror, RegistryConfig};
use ashlar_solver::result::SOURCE_BLOB;
use ashlar_solver::solver::{SolveRequest, Solved, Solver};
use ashlar_solver::tree::pack::{PackOptions, pack};
use ashlar_solver::tree::tar::rewrite_times;
use ashlar_solver::tree::{Kind, Node, Timestamp, TreePath};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::registry::Registry;
use super::support::{Need, run, runtime, skipped, solve, temp};

/// The directory of golden files: `ASHLAR_GOLDEN`, or the one of the workspace.
fn golden() -> PathBuf {
    std::env::var_os("ASHLAR_GOLDEN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    )
}

fn json_file(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A registry with the base image of the cases, and a solver that finds it there under the name
/// that the cases use.
fn solver(folder: &Path, registry: &Registry) -> Solver {
    let layout = golden().join("base/layout");
    let to = format!("docker://{}/golden/base:v1", registry.host());
    run(std::process::Command::new("skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "--all",
            "--preserve-digests",
            "--quiet",
        ])
        .arg("--dest-tls-verify=false")
        .args([&format!("oci:{}:v1", layout.display()), &to]));
    let mirrored = HostConfig::default().mirror(Mirror::new(registry.host()));
    let config = RegistryConfig::default().host("127.0.0.1:5003", mirrored);
    let solver = Solver::builder().root(folder.join("root")).registry(config);
    solver.build().unwrap()
}

#[test]
fn golden_merges_and_diffs() {
    let needs = [
        Need::Root,
        Need::Tool("docker-registry"),
        Need::Tool("skopeo"),
    ];
    let catalogue = golden().join("mergediff/catalogue.json");
    if !catalogue.exists() {
        println!(
            "SKIPPED: golden_merges_and_diffs: {} is missing",
            catalogue.display()
        );
        return;
    }
    if skipped("golden_merges_and_diffs", &needs) {
        return;
    }
    let runtime = runtime();
    let _inside = runtime.enter();
    let folder = temp();
    let registry = Registry::start(folder.path(), &folder.path().join("store"), "");
    let solver = solver(folder.path(), &registry);
    let (mut failures, mut passed) = (Vec::new(), 0);
    for case in list(&json_file(&catalogue)["cases"]) {
        let name = text(&case["name"]);
        let data = json_file(&golden().join("mergediff").join(text(&case["json"])));
        let mut check = Check {
            name: name.to_owned(),
            failures: Vec::new(),
        };
        let results = list(&data["request"]["results"]);
        assert_eq!(results.len(), 1, "{name}: one result per case");
        let pb = text(&data["pb"][text(&results[0]["result"])]);
        let definition = fs::read(golden().join("mergediff").join(pb)).unwrap();
        let definition = Definition::decode(definition).unwrap();
        let solved = runtime.block_on(solve(&solver, SolveRequest::new(definition)));
        let config = text(&results[0]["image_config"]);
        for output in list(&data["outputs"]) {
            let rewritten = output["attrs"]["rewrite-timestamp"] == "true";
            match text(&output["type"]) {
                "tar" => check.tree(output, &solved),
                "oci" if rewritten => check.rewritten(output, &solved),
                "oci" => {
                    let to = folder.path().join(name);
                    let export = Oci::directory(&to).compression(Compression::Uncompressed);
                    let result = solved.result.clone().with_image_config(config);
                    runtime
                        .block_on(export.export(&result, &Cancel::new()))
                        .unwrap();
                    check.image(output, &to);
                }
                other => panic!("{name}: an output of type {other}"),
            }
        }
        passed += usize::from(check.failures.is_empty());
        failures.extend(check.failures);
    }
    println!("{passed} cases agree");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(passed > 0, "no case was compared");
}

/// What differs in one case.
struct Check {
    name: String,
    failures: Vec<String>,
}

impl Check {
    fn equal(&mut self, what: &str, expected: &Value, found: &Value) {
        if expected != found {
            let name = &self.name;
            self.failures.push(format!(
                "{name}: {what}: expected {expected}, found {found}"
            ));
        }
    }

    /// The image in a layout: its manifest, its config, and the entries of its layers.
    fn image(&mut self, output: &Value, layout: &Path) {
        let blob = |digest: &str| {
            let name = digest.strip_prefix("sha256:").unwrap();
            fs::read(layout.join("blobs/sha256").join(name)).unwrap()
        };
        let index = json_file(&layout.join("index.json"));
        let manifest_text = blob(text(&index["manifests"][0]["digest"]));
        let manifest: Value = serde_json::from_slice(&manifest_text).unwrap();
        let config = blob(text(&manifest["config"]["digest"]));
        let documents = [("manifest", manifest_text), ("config", config)];
        let expected = list(&output["blobs"]).iter();
        let expected = expected.filter(|blob| blob["text"].is_string());
        let stability = &output["stability"];
        let mut expected_manifest = Value::Null;
        for ((what, found), expected) in documents.iter().zip(expected) {
            let expected_text = text(&expected["text"]);
            if *what == "manifest" {
                expected_manifest = serde_json::from_str(expected_text).unwrap();
            }
            let unstable = &stability["blobs_unstable"][text(&expected["digest"])];
            let strip = |bytes: &[u8]| {
                let mut document: Value = serde_json::from_slice(bytes).unwrap();
                let volatile = list(unstable).iter().map(text).chain(["/config/digest"]);
                for pointer in volatile {
                    if let Some(value) = document.pointer_mut(pointer) {
                        *value = Value::Null;
                    }
                }
                // How an empty list is written is told by `golden/export`.
                for list in ["/layers", "/history", "/rootfs/diff_ids"] {
                    if let Some(list) = document.pointer_mut(list).filter(|list| list.is_null()) {
                        *list = json!([]);
                    }
                }
                // It follows from what differs.
                if let Some(size) = document.pointer_mut("/config/size") {
                    *size = Value::Null;
                }
                document
            };
            self.equal(what, &strip(expected_text.as_bytes()), &strip(found));
        }
        let (expected, found) = (
            list(&expected_manifest["layers"]),
            list(&manifest["layers"]),
        );
        self.equal("layers", &expected.len().into(), &found.len().into());
        let entries: HashMap<&str, &Value> = list(&output["layers"])
            .iter()
            .map(|layer| (text(&layer["diff_id"]), layer))
            .collect();
        for (at, (expected, found)) in expected.iter().zip(found).enumerate() {
            // Plain layers have their diff id as digest; layers of the base are as they came.
            let Some(layer) = entries.get(text(&expected["digest"])) else {
                self.equal(&format!("layer {at}"), expected, found);
                continue;
            };
            if stability["layers"][text(&layer["diff_id"])]["diff_id"] == true {
                self.equal(&format!("layer {at}"), expected, found);
            }
            let tar = blob(text(&found["digest"]));
            self.entries(&format!("layer {at}"), layer, &listing(&tar[..]));
        }
    }

    /// Compares what a listing tells; a time that differs from run to run is none.
    fn entries(&mut self, what: &str, expected: &Value, found: &[Value]) {
        let key = if expected["entries"].is_array() {
            "entries"
        } else {
            "listing"
        };
        let expected = list(&expected[key]);
        let names = |entries: &[Value]| -> Value {
            entries.iter().map(|entry| entry["path"].clone()).collect()
        };
        self.equal(&format!("{what}: names"), &names(expected), &names(found));
        for (expected, found) in expected.iter().zip(found) {
            let what = format!("{what}: {}", expected["path"]);
            for field in ["type", "mode", "uid", "gid", "size", "link", "sha256"] {
                self.equal(&format!("{what}: {field}"), &expected[field], &found[field]);
            }
            if expected["mtime"] != "unstable" {
                self.equal(
                    &format!("{what}: mtime"),
                    &expected["mtime"],
                    &found["mtime"],
                );
            }
            self.equal(
                &format!("{what}: pax"),
                &pax(&expected["pax"]),
                &pax(&found["pax"]),
            );
        }
    }

    /// The tree, in the order in which a tar of all of it has it.
    fn tree(&mut self, output: &Value, solved: &Solved) {
        let view = solved.result.reference().view().unwrap();
        let (mut found, mut links) = (Vec::new(), HashMap::new());
        walk(&TreePath::root(), view.root(), &mut links, &mut found);
        self.entries("tree", output, &found);
    }

    /// The diff ids of the layers with no time after the epoch.
    fn rewritten(&mut self, output: &Value, solved: &Solved) {
        let seconds = text(&output["attrs"]["source-date-epoch"]).parse().unwrap();
        let latest = Timestamp {
            seconds,
            nanoseconds: 0,
        };
        let cancel = Cancel::new();
        let (result, mut found) = (&solved.result, Vec::new());
        for layer in result.reference().stack(&cancel).unwrap().layers() {
            let mut tar = Vec::new();
            let blobs = result.store.layer_blobs(&layer).unwrap();
            if let Some(blob) = blobs.iter().find(|blob| blob.compression == SOURCE_BLOB) {
                let file = result.store.blobs().open(&blob.digest).unwrap().unwrap();
                let plain = Inflate::new(file, content::Compression::Gzip, u64::MAX).unwrap();
                rewrite_times(plain, &mut tar, latest, &cancel).unwrap();
            } else {
                let mut options = PackOptions::default();
                options.latest = Some(latest);
                let content = layer.content().unwrap();
                pack(&content.0, &*layer.files(), &mut tar, &options, &cancel).unwrap();
            }
            found.push(format!("sha256:{}", hex(&tar)));
        }
        let expected = list(&output["layers"]).iter();
        let expected: Vec<&str> = expected.map(|layer| text(&layer["diff_id"])).collect();
        // Each digest is listed once, though a layer may be there twice.
        let mut seen = Vec::new();
        for digest in &found {
            if !seen.contains(digest) {
                seen.push(digest.clone());
            }
        }
        self.equal("rewritten layers", &json!(expected), &json!(seen));
    }
}

/// Records of an entry, without the marks that BuildKit's own mounts leave in trees.
fn pax(records: &Value) -> Value {
    let records = records.as_object().into_iter().flatten();
    let records = records.filter(|(key, _)| !key.starts_with("SCHILY.xattr.trusted.overlay."));
    records
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entries of a tar, as the golden files list them; read by the library of others.
fn listing(tar: impl Read) -> Vec<Value> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let kind = match entry.header().entry_type() {
            tar::EntryType::Regular => "file",
            tar::EntryType::Directory => "dir",
            tar::EntryType::Symlink => "symlink",
            tar::EntryType::Link => "hardlink",
            tar::EntryType::Fifo => "fifo",
            other => panic!("an entry of type {other:?}"),
        };
        let mut pax = BTreeMap::new();
        for record in entry.pax_extensions().unwrap().into_iter().flatten() {
            let record = record.unwrap();
            let value = String::from_utf8_lossy(record.value_bytes());
            pax.insert(record.key().unwrap().to_owned(), Value::from(value));
        }
        let header = entry.header();
        let mut listed = json!({
            "path": String::from_utf8_lossy(&entry.path_bytes()),
            "type": kind,
            "mode": format!("{:04o}", header.mode().unwrap()),
            "uid": header.uid().unwrap(),
            "gid": header.gid().unwrap(),
            "size": entry.size(),
            "mtime": header.mtime().unwrap().to_string(),
            "pax": pax,
        });
        if let Some(link) = entry.link_name_bytes() {
            listed["link"] = String::from_utf8_lossy(&link).into();
        }
        if kind == "file" {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            listed["sha256"] = hex(&content).into();
        }
        listed
    });
    entries.collect()
}

/// Lists what is below a directory of a view.
fn walk(
    at: &TreePath,
    node: &Node,
    links: &mut HashMap<(usize, u32), String>,
    found: &mut Vec<Value>,
) {
    for (name, child) in node.children() {
        let path = at.join(name).unwrap();
        let shown = String::from_utf8_lossy(path.as_bytes()).into_owned();
        let entry = child.entry();
        let layer = child
            .files()
            .map_or(0, |files| std::sync::Arc::as_ptr(files).cast::<()>().addr());
        let attributes = &entry.attributes;
        let mut listed = json!({
            "path": shown,
            "mode": format!("{:04o}", attributes.mode),
            "uid": attributes.uid,
            "gid": attributes.gid,
            "size": 0,
            "mtime": attributes.mtime.seconds.to_string(),
        });
        let mut pax = BTreeMap::new();
        if !shown.is_ascii() {
            pax.insert("path".to_owned(), shown.clone());
        }
        for (name, value) in attributes.xattrs.iter() {
            let key = format!("SCHILY.xattr.{}", String::from_utf8_lossy(name));
            pax.insert(key, String::from_utf8_lossy(value).into_owned());
        }
        listed["pax"] = json!(pax);
        listed["type"] = match entry.kind {
            Kind::Directory => "dir",
            Kind::Symlink => "symlink",
            Kind::Fifo => "fifo",
            Kind::File => "file",
            other => panic!("{shown} is a {other:?}"),
        }
        .into();
        match entry.kind {
            Kind::Directory => listed["path"] = format!("{shown}/").into(),
            Kind::Symlink => listed["link"] = String::from_utf8_lossy(&entry.target).into(),
            Kind::File => {
                let group = (layer, entry.link_group);
                match links.get(&group).filter(|_| entry.link_group != 0) {
                    Some(first) => {
                        listed["type"] = "hardlink".into();
                        listed["link"] = first.clone().into();
                    }
                    None => {
                        links.insert(group, shown.clone());
                        let mut content = Vec::new();
                        let files = child.files().unwrap();
                        files
                            .open(&path)
                            .unwrap()
                            .read_to_end(&mut content)
                            .unwrap();
                        listed["size"] = content.len().into();
                        listed["sha256"] = hex(&content).into();
                    }
                }
            }
            _ => {}
        }
        found.push(listed);
        walk(&path, child, links, found);
    }
}
