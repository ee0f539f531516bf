//! Images in an archive, in the store or in a recording: what leads to what.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read as _;
use std::path::Path;

use ashlar_solver::content::{Compression, Inflate};
use ashlar_solver::result::Store;
use serde_json::Value;

use super::{list, text};

/// A blob as it was found.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) media_type: String,
    pub(super) size: u64,
    pub(super) bytes: Vec<u8>,
}

impl Blob {
    pub(super) fn is_document(&self) -> bool {
        self.media_type.ends_with("json")
    }

    /// The tar in a layer.
    pub(super) fn tar(&self) -> Vec<u8> {
        let kind = Compression::of_media_type(&self.media_type).unwrap();
        let mut tar = Vec::new();
        let mut inflate = Inflate::new(&self.bytes[..], kind, 1 << 30).unwrap();
        inflate.read_to_end(&mut tar).unwrap();
        tar
    }
}

/// One image of a recording.
pub(super) struct Image {
    pub(super) platform: String,
    pub(super) config: String,
    pub(super) statements: Vec<String>,
}

/// The documents of a recorded output, by digest.
pub(super) struct Recorded<'a> {
    root: String,
    texts: BTreeMap<&'a str, &'a str>,
}

pub(super) fn recorded(output: &Value) -> Recorded<'_> {
    let blobs = list(&output["blobs"]);
    let texts = blobs.iter().filter(|blob| blob["text"].is_string());
    Recorded {
        root: blobs
            .first()
            .map_or("", |blob| text(&blob["digest"]))
            .to_owned(),
        texts: texts
            .map(|blob| (text(&blob["digest"]), text(&blob["text"])))
            .collect(),
    }
}

impl Recorded<'_> {
    fn json(&self, digest: &str) -> Value {
        serde_json::from_str(self.texts[digest]).unwrap()
    }

    /// The images, with what is attested of each.
    pub(super) fn images(&self) -> Vec<Image> {
        if self.root.is_empty() {
            return Vec::new();
        }
        let root = self.json(&self.root);
        let image = |manifest: &str, platform: String| {
            let config = self.json(manifest)["config"]["digest"].clone();
            Image {
                platform,
                config: self.texts[text(&config)].to_owned(),
                statements: Vec::new(),
            }
        };
        if root.get("manifests").is_none() {
            return vec![image(&self.root, String::new())];
        }
        let mut images: Vec<(String, Image)> = Vec::new();
        for entry in list(&root["manifests"]) {
            let digest = text(&entry["digest"]);
            let about = text(&entry["annotations"]["vnd.docker.reference.digest"]);
            if about.is_empty() {
                let platform = &entry["platform"];
                let parts = ["os", "architecture", "variant"].map(|key| text(&platform[key]));
                let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
                images.push((digest.to_owned(), image(digest, parts.join("/"))));
                continue;
            }
            let of = images.iter_mut().find(|(image, _)| image == about).unwrap();
            for layer in list(&self.json(digest)["layers"]) {
                of.1.statements
                    .push(self.texts[text(&layer["digest"])].to_owned());
            }
        }
        images.into_iter().map(|(_, image)| image).collect()
    }
}

/// What is reachable from a descriptor, each once, in the order in which it is found.
pub(super) fn reachable(root: &Value, read: &dyn Fn(&str) -> Vec<u8>) -> Vec<Blob> {
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    let mut todo = vec![root.clone()];
    while let Some(descriptor) = todo.pop() {
        let digest = text(&descriptor["digest"]).to_owned();
        if !seen.insert(digest.clone()) {
            continue;
        }
        let blob = Blob {
            media_type: text(&descriptor["mediaType"]).to_owned(),
            size: descriptor["size"].as_u64().unwrap(),
            bytes: read(&digest),
        };
        if blob.is_document() {
            let document: Value = serde_json::from_slice(&blob.bytes).unwrap();
            let mut next = list(&document["manifests"]).to_vec();
            next.extend(
                document
                    .get("config")
                    .filter(|config| config.get("digest").is_some())
                    .cloned(),
            );
            next.extend(list(&document["layers"]).iter().cloned());
            todo.extend(next.into_iter().rev());
        }
        found.push(blob);
    }
    found
}

/// The members of a tar in their order.
pub(super) fn members(archive: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(archive).unwrap();
    let entries = super::listing::entries(&bytes);
    entries
        .into_iter()
        .map(|entry| (entry.path, entry.content))
        .collect()
}

/// A reader of the store.
pub(super) fn of_store(store: &Store) -> impl Fn(&str) -> Vec<u8> + '_ {
    |digest| {
        let digest = digest.parse().unwrap();
        let mut file = store.blobs().open(&digest).unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }
}
