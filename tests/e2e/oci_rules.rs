//! The rules of the OCI image specification (1.1) and of in-toto statements, as a checker of image
//! layouts.
//!
//! It reads files alone, and of the code that wrote them it uses digests, inflating and times.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use ashlar_llb::{BlobDigest, DiffId};
use ashlar_solver::content::{Compression, Inflate};
use base64::Engine as _;
use serde_json::{Map, Value};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const STATEMENT: &str = "application/vnd.in-toto+json";

/// What was found in a layout that keeps the rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub indexes: usize,
    pub images: usize,
    pub attestations: usize,
    pub statements: usize,
}

/// Checks a layout; panics with what is wrong.
pub fn check(layout: &Path) -> Found {
    let mut checker = Checker {
        layout,
        found: Found::default(),
        reached: BTreeSet::new(),
    };
    let text = fs::read(layout.join("oci-layout")).unwrap();
    let marker: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(marker["imageLayoutVersion"], "1.0.0");
    let index = fs::read(layout.join("index.json")).unwrap();
    checker.index(&object(&index, "index.json"), true);
    let blobs = layout.join("blobs/sha256");
    for blob in fs::read_dir(&blobs).unwrap() {
        let name = blob.unwrap().file_name().into_string().unwrap();
        let digest = format!("sha256:{name}");
        assert!(
            checker.reached.contains(&digest),
            "nothing leads to {digest}"
        );
    }
    checker.found
}

fn object(bytes: &[u8], what: &str) -> Map<String, Value> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => object,
        other => panic!("{what} is no JSON object: {other:?}"),
    }
}

fn string<'a>(object: &'a Map<String, Value>, key: &str) -> &'a str {
    let value = object
        .get(key)
        .unwrap_or_else(|| panic!("no {key} in {object:?}"));
    value.as_str().unwrap_or_else(|| panic!("{key} is {value}"))
}

/// RFC 6838: `type/subtype` of restricted names.
fn media_type(text: &str) {
    let name = |name: &str| {
        let mut bytes = name.bytes();
        let first = bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b));
        first && rest && name.len() <= 127
    };
    let parts = text.split_once('/');
    assert!(
        parts.is_some_and(|(kind, sub)| name(kind) && name(sub)),
        "media type `{text}`"
    );
}

/// RFC 3339.
fn time(text: &str) {
    let parsed = text.parse::<ashlar_solver::tree::Timestamp>();
    assert!(parsed.is_ok(), "`{text}` is no time");
}

fn annotations(of: &Map<String, Value>) {
    let Some(annotations) = of.get("annotations") else {
        return;
    };
    let annotations = annotations.as_object().expect("annotations are an object");
    for (key, value) in annotations {
        assert!(!key.is_empty(), "an annotation without a name");
        assert!(value.is_string(), "annotation {key} is {value}");
        if key == "org.opencontainers.image.created" {
            time(value.as_str().unwrap());
        }
    }
}

/// The grammar of `org.opencontainers.image.ref.name`.
fn ref_name(text: &str) {
    let alphanumeric =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    for component in text.split('/') {
        let parts = component.split(|c: char| "-._:@+".contains(c));
        // `--` is one separator.
        let joined = component.replace("--", "-");
        let fits = parts.clone().all(alphanumeric)
            || joined
                .split(|c: char| "-._:@+".contains(c))
                .all(alphanumeric);
        assert!(fits, "ref name `{text}`");
    }
}

struct Checker<'a> {
    layout: &'a Path,
    found: Found,
    reached: BTreeSet<String>,
}

impl Checker<'_> {
    /// Checks a descriptor and gives the bytes that it names.
    fn descriptor(&mut self, value: &Value) -> (String, Vec<u8>) {
        let descriptor = value.as_object().expect("a descriptor is an object");
        let kind = string(descriptor, "mediaType");
        media_type(kind);
        let digest = string(descriptor, "digest");
        let hex = digest
            .strip_prefix("sha256:")
            .unwrap_or_else(|| panic!("digest {digest}"));
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        assert!(hex.len() == 64 && hex.bytes().all(lower), "digest {digest}");
        let bytes = fs::read(self.layout.join("blobs/sha256").join(hex));
        let bytes = bytes.unwrap_or_else(|error| panic!("{digest}: {error}"));
        assert_eq!(
            descriptor["size"].as_u64(),
            Some(bytes.len() as u64),
            "size of {digest}"
        );
        assert_eq!(BlobDigest::of(&bytes).to_string(), digest);
        annotations(descriptor);
        if let Some(data) = descriptor.get("data") {
            let data = base64::engine::general_purpose::STANDARD.decode(data.as_str().unwrap());
            assert_eq!(data.unwrap(), bytes, "data of {digest}");
        }
        if let Some(urls) = descriptor.get("urls") {
            assert!(urls.as_array().unwrap().iter().all(Value::is_string));
        }
        if let Some(kind) = descriptor.get("artifactType") {
            media_type(kind.as_str().unwrap());
        }
        if let Some(platform) = descriptor.get("platform") {
            let platform = platform.as_object().unwrap();
            assert!(!string(platform, "architecture").is_empty());
            assert!(!string(platform, "os").is_empty());
            let known = ["architecture", "os", "os.version", "os.features", "variant"];
            for key in platform.keys() {
                assert!(known.contains(&key.as_str()), "platform has {key}");
            }
        }
        self.reached.insert(digest.to_owned());
        (kind.to_owned(), bytes)
    }

    fn index(&mut self, index: &Map<String, Value>, is_top: bool) {
        assert_eq!(index["schemaVersion"], 2);
        if let Some(kind) = index.get("mediaType") {
            assert_eq!(kind, INDEX);
        }
        annotations(index);
        // A document that could be taken for another is none of both (CVE-2021-41190).
        for key in ["config", "layers", "fsLayers"] {
            assert!(!index.contains_key(key), "an index has {key}");
        }
        let manifests = index["manifests"]
            .as_array()
            .expect("manifests are an array");
        for entry in manifests {
            let name = &entry["annotations"]["org.opencontainers.image.ref.name"];
            if let Some(name) = name.as_str().filter(|_| is_top) {
                ref_name(name);
            }
            let (kind, bytes) = self.descriptor(entry);
            match kind.as_str() {
                INDEX => {
                    self.found.indexes += 1;
                    self.index(&object(&bytes, "an index"), false);
                }
                MANIFEST => self.manifest(&object(&bytes, "a manifest"), entry, manifests),
                other => panic!("an index leads to {other}"),
            }
        }
    }

    fn manifest(&mut self, manifest: &Map<String, Value>, entry: &Value, siblings: &[Value]) {
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["mediaType"], MANIFEST);
        assert!(
            !manifest.contains_key("manifests"),
            "a manifest has manifests"
        );
        annotations(manifest);
        let (config_type, config) = self.descriptor(&manifest["config"]);
        if config_type == EMPTY {
            assert!(manifest.contains_key("artifactType"), "no artifactType");
        }
        if let Some(kind) = manifest.get("artifactType") {
            media_type(kind.as_str().unwrap());
        }
        let layers = manifest["layers"].as_array().expect("layers are an array");
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| (layer, self.descriptor(layer)))
            .collect();
        if let Some(subject) = manifest.get("subject") {
            let (kind, _) = self.descriptor(subject);
            assert_eq!(kind, MANIFEST);
        }
        let about = entry["annotations"]["vnd.docker.reference.digest"].as_str();
        let Some(about) = about else {
            self.found.images += 1;
            assert_eq!(config_type, CONFIG);
            let contents: Vec<_> = layers.into_iter().map(|(_, content)| content).collect();
            image(
                &object(&config, "a config"),
                &contents,
                entry.get("platform"),
            );
            return;
        };
        self.found.attestations += 1;
        let kind = &entry["annotations"]["vnd.docker.reference.type"];
        assert_eq!(kind, "attestation-manifest");
        assert_eq!(entry["platform"]["architecture"], "unknown");
        assert_eq!(entry["platform"]["os"], "unknown");
        let of_image = siblings.iter().position(|other| other["digest"] == about);
        let own = siblings.iter().position(|other| other == entry);
        assert!(
            of_image < own && of_image.is_some(),
            "an attestation before its image"
        );
        match config_type.as_str() {
            EMPTY => assert_eq!(manifest["subject"]["digest"], about),
            CONFIG => {
                let config = object(&config, "a config");
                let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().clone();
                let digests: Vec<_> = layers.iter().map(|(l, _)| l["digest"].clone()).collect();
                assert_eq!(diff_ids, digests);
            }
            other => panic!("the config of an attestation is {other}"),
        }
        for (layer, (kind, bytes)) in layers {
            assert_eq!(kind, STATEMENT);
            let statement = object(&bytes, "a statement");
            assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
            let predicate = string(&statement, "predicateType");
            assert!(predicate.contains("://"), "predicate type {predicate}");
            assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], predicate);
            assert!(statement.contains_key("predicate"));
            for subject in statement["subject"]
                .as_array()
                .expect("subjects are an array")
            {
                let subject = subject.as_object().unwrap();
                assert!(!string(subject, "name").is_empty());
                let digests = subject["digest"].as_object().unwrap();
                assert!(!digests.is_empty(), "a subject without digest");
                for (algorithm, hex) in digests {
                    assert!(!algorithm.is_empty() && !hex.as_str().unwrap().contains(':'));
                }
            }
            self.found.statements += 1;
        }
    }
}

/// The config of an image beside its layers.
fn image(config: &Map<String, Value>, layers: &[(String, Vec<u8>)], platform: Option<&Value>) {
    for key in ["architecture", "os"] {
        assert!(!string(config, key).is_empty());
        if let Some(platform) = platform {
            assert_eq!(platform[key], config[key], "{key} of the descriptor");
        }
    }
    if let Some(created) = config.get("created").and_then(Value::as_str) {
        time(created);
    }
    assert_eq!(config["rootfs"]["type"], "layers");
    let diff_ids = config["rootfs"]["diff_ids"]
        .as_array()
        .expect("diff ids are an array");
    assert_eq!(diff_ids.len(), layers.len(), "a diff id for each layer");
    for (diff_id, (kind, bytes)) in diff_ids.iter().zip(layers) {
        assert!(kind.starts_with(LAYER), "a layer is {kind}");
        let compression = Compression::of_media_type(kind).unwrap();
        let mut tar = Vec::new();
        let mut inflate = Inflate::new(&bytes[..], compression, 1 << 32).unwrap();
        inflate.read_to_end(&mut tar).unwrap();
        assert_eq!(diff_id, &DiffId::of(&tar).to_string());
    }
    let history = config["history"]
        .as_array()
        .expect("the history is an array");
    let filled = |entry: &&Value| entry["empty_layer"] != true;
    assert_eq!(history.iter().filter(filled).count(), layers.len());
    for entry in history {
        if let Some(created) = entry["created"].as_str() {
            time(created);
        }
    }
}
