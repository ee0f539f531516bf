//! Layers are written byte for byte as BuildKit writes them: its own exports, rebuilt from the
//! listing of their entries.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::path::Path;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{Compression, Inflate};
use ashlar_solver::tree::pack::{PackOptions, pack};
use ashlar_solver::tree::tar::rewrite_times;
use ashlar_solver::tree::{
    Attributes, Entry, Files, Index, Kind, Lent, Timestamp, TreePath, Xattrs,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[derive(Debug, Default)]
struct Contents(BTreeMap<TreePath, Vec<u8>>);

impl Files for Contents {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        file.write_all(&self.0[path])?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// All texts of the recipes, by digest: what files can contain.
fn texts(value: &Value, found: &mut HashMap<String, Vec<u8>>) {
    match value {
        Value::String(text) => {
            for text in [text.clone(), format!("{text}\n")] {
                found.insert(hex(text.as_bytes()), text.into_bytes());
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(values) => values.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

struct Layer {
    index: Index,
    files: Contents,
    /// All contents are known, and no time is unstable.
    exact: bool,
}

fn layer(listing: &Value, known: &HashMap<String, Vec<u8>>) -> Layer {
    let mut entries = Vec::new();
    let mut files = Contents::default();
    let mut exact = true;
    let mut groups: BTreeMap<String, u32> = BTreeMap::new();
    let listed = listing["entries"].as_array().unwrap();
    for listed in listed {
        if listed["type"] == "hardlink" {
            let next = u32::try_from(groups.len()).unwrap() + 1;
            groups
                .entry(listed["link"].as_str().unwrap().to_owned())
                .or_insert(next);
        }
    }
    let mut first: HashMap<u32, (TreePath, Entry)> = HashMap::new();
    for listed in listed {
        let name = listed["path"].as_str().unwrap();
        let path = TreePath::new(name.trim_end_matches('/').as_bytes()).unwrap();
        if let Some((_, removed)) = name.rsplit_once(".wh.") {
            let parent = path.parent().unwrap();
            entries.push((parent.join(removed.as_bytes()).unwrap(), Entry::whiteout()));
            continue;
        }
        let seconds = listed["mtime"].as_str().unwrap().parse();
        exact &= seconds.is_ok();
        let number = |key: &str| u32::try_from(listed[key].as_u64().unwrap()).unwrap();
        let xattrs = listed["pax"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| {
                let name = key.strip_prefix("SCHILY.xattr.")?;
                Some((name.as_bytes().into(), value.as_str()?.as_bytes().into()))
            });
        let attributes = Attributes {
            mode: u32::from_str_radix(listed["mode"].as_str().unwrap(), 8).unwrap(),
            uid: number("uid"),
            gid: number("gid"),
            mtime: Timestamp {
                seconds: seconds.unwrap_or(0),
                nanoseconds: 5,
            },
            xattrs: Xattrs::new(xattrs),
        };
        let kind = match listed["type"].as_str().unwrap() {
            "dir" => Kind::Directory,
            "file" | "hardlink" => Kind::File,
            "symlink" => Kind::Symlink,
            "fifo" => Kind::Fifo,
            other => panic!("an entry of type {other}"),
        };
        let mut entry = Entry::new(kind, attributes);
        if let ("hardlink", link) = (listed["type"].as_str().unwrap(), &listed["link"]) {
            let (_, target) = &first[&groups[link.as_str().unwrap()]];
            entry.link_group = target.link_group;
            entry.size = target.size;
        } else if kind == Kind::File {
            entry.size = listed["size"].as_u64().unwrap();
            let size = usize::try_from(entry.size).unwrap();
            let content = known.get(listed["sha256"].as_str().unwrap());
            exact &= content.is_some() || size == 0;
            files.0.insert(
                path.clone(),
                content.cloned().unwrap_or_else(|| vec![0; size]),
            );
            if let Some(group) = groups.get(name) {
                entry.link_group = *group;
                first.insert(*group, (path.clone(), entry.clone()));
            }
        } else if kind == Kind::Symlink {
            entry.target = listed["link"].as_str().unwrap().as_bytes().into();
        }
        entries.push((path, entry));
    }
    let index = Index::new(entries).expect("BuildKit lists its layers in the order of a walk");
    Layer {
        index,
        files,
        exact,
    }
}

/// Layers of the base image whose times were rewritten: in the order of the image's own tars.
const REWRITTEN: [&str; 2] = ["sha256:8dde1ac8", "sha256:5fe356c5"];

#[test]
fn layers_are_those_of_buildkit() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut known = HashMap::new();
    let mut cases = Vec::new();
    for folder in ["export", "mergediff"] {
        for file in std::fs::read_dir(golden.join(folder)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            texts(&case["recipe_steps"], &mut known);
            cases.push((path, case));
        }
    }
    let (mut sizes, mut digests) = (0, std::collections::BTreeSet::new());
    for (path, case) in &cases {
        for output in case["outputs"].as_array().into_iter().flatten() {
            for listing in output["layers"].as_array().into_iter().flatten() {
                let foreign = REWRITTEN
                    .iter()
                    .any(|start| listing["diff_id"].as_str().unwrap().starts_with(start));
                if foreign || listing["entries"].as_array().is_none_or(Vec::is_empty) {
                    continue;
                }
                let layer = layer(listing, &known);
                let mut out = Lent::new(Vec::new(), 1 << 10);
                let mut options = PackOptions::default();
                options.all_xattrs = true;
                let cancel = Cancel::new();
                let summary =
                    pack(&layer.index, &layer.files, &mut out, &options, &cancel).unwrap();
                let out = out.into_inner();
                let id = listing["diff_id"].as_str().unwrap();
                let place = format!("{} {id}", path.display());
                assert_eq!(summary.size, out.len() as u64, "{place}");
                assert_eq!(Some(summary.size), listing["tar_size"].as_u64(), "{place}");
                assert_eq!(
                    Some(summary.entries),
                    listing["entry_count"].as_u64(),
                    "{place}"
                );
                sizes += 1;
                if layer.exact {
                    assert_eq!(format!("sha256:{}", hex(&out)), id, "{place}");
                    digests.insert(id.to_owned());
                }
            }
        }
    }
    assert!(sizes >= 180, "only {sizes} layers were compared by size");
    assert!(
        digests.len() >= 30,
        "only {} layers were compared by digest",
        digests.len()
    );
    println!("{sizes} sizes, {} digests", digests.len());
}

#[test]
fn rewritten_base_layers_are_those_of_buildkit() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/base");
    let facts: Value =
        serde_json::from_slice(&std::fs::read(base.join("base.json")).unwrap()).unwrap();
    let expected = ["8dde1ac8", "5fe356c5", "28509063"];
    let latest = Timestamp {
        seconds: 1_650_000_000,
        nanoseconds: 0,
    };
    for ((blob, diff_id), expected) in facts["layers"]
        .as_array()
        .unwrap()
        .iter()
        .zip(facts["diff_ids"].as_array().unwrap())
        .zip(expected)
    {
        let name = blob.as_str().unwrap().strip_prefix("sha256:").unwrap();
        let blob = File::open(base.join("layout/blobs/sha256").join(name)).unwrap();
        let mut tar = Inflate::new(blob, Compression::Gzip, u64::MAX).unwrap();
        let mut out = Vec::new();
        let size = rewrite_times(&mut tar, &mut out, latest, 1 << 30, &Cancel::new()).unwrap();
        assert_eq!(tar.diff_id().to_string(), diff_id.as_str().unwrap());
        assert_eq!(size, out.len() as u64);
        assert!(
            hex(&out).starts_with(expected),
            "{name} became {}",
            hex(&out)
        );
    }
}
