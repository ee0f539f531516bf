mod archives;

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::platform::Platform;
use serde_json::{Value, json};

use super::*;
use crate::cancel::Cancel;
use crate::content::ContentError;
use crate::limits::Limits;
use crate::source::image::{ImageError, ResolvedImage};
use crate::source::oci_keys::{chain_key, manifest_key};
use crate::tree::apply::ApplyOptions;
use crate::tree::{Entry, Files, Index, Kind, TreePath, View};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/base")
}

fn resolve(layout: &Path, reference: &LayoutReference) -> Result<ResolvedImage, OciLayoutError> {
    Layout::open(layout)?.resolve(reference, &Platform::linux_amd64(), &Limits::default())
}

#[derive(Debug)]
struct NoFiles;

impl Files for NoFiles {
    fn open(&self, _: &TreePath) -> std::io::Result<std::fs::File> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// A layout of one document after the other; the last is `index.json`.
struct Built(tempfile::TempDir);

impl Built {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
        std::fs::write(folder.path().join("oci-layout"), marker).unwrap();
        Self(folder)
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = BlobDigest::of(bytes).to_string();
        let name = digest.strip_prefix("sha256:").unwrap();
        std::fs::write(self.0.path().join("blobs/sha256").join(name), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn document(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    fn index(&self, descriptor: &Value) {
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(self.0.path().join("index.json"), index.to_string()).unwrap();
    }

    /// A manifest of one layer whose config tells `diff_id`.
    fn image(&self, layer: &Value, diff_id: &str) -> Value {
        let config = json!({"architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let config = self.document("application/vnd.oci.image.config.v1+json", &config);
        json!({"schemaVersion": 2, "config": config, "layers": [layer]})
    }

    fn resolve(&self) -> Result<ResolvedImage, OciLayoutError> {
        resolve(self.0.path(), &LayoutReference::default())
    }

    fn unpack(&self) -> Result<u64, OciLayoutError> {
        let image = self.resolve()?;
        unpack(self.0.path(), &image).map(|layers| layers.len() as u64)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Unpacks all layers at the same time, as a caller does, and stacks them.
fn unpack(layout: &Path, image: &ResolvedImage) -> Result<Vec<(Index, View)>, OciLayoutError> {
    let layout = Layout::open(layout)?;
    let options = ApplyOptions { privileged: false };
    let folders: Vec<_> = image
        .layers
        .iter()
        .map(|_| tempfile::tempdir().unwrap())
        .collect();
    let handles: Vec<std::fs::File> = folders
        .iter()
        .map(|folder| std::fs::File::open(folder.path()).unwrap())
        .collect();
    let raws: Vec<_> = std::thread::scope(|scope| {
        let work = image.layers.iter().zip(&handles).map(|(layer, fs)| {
            let layout = &layout;
            scope.spawn(move || {
                let (limits, cancel) = (Limits::default(), Cancel::new());
                layout.unpack(layer, fs.as_fd(), options, &limits, &cancel)
            })
        });
        let work: Vec<_> = work.collect();
        work.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut view = View::empty();
    let mut done = Vec::new();
    for (raw, fs) in raws.into_iter().zip(&handles) {
        let index = raw?.normalize(&view, fs.as_fd()).unwrap().index;
        view = index.onto(&view, Arc::new(NoFiles));
        done.push((index, view.clone()));
    }
    Ok(done)
}

#[test]
fn the_base_image_is_that_of_buildkit() {
    let facts = std::fs::read(golden().join("base.json")).unwrap();
    let facts: Value = serde_json::from_slice(&facts).unwrap();
    let layout = golden().join("layout");
    let image = resolve(&layout, &LayoutReference::name("v1")).unwrap();
    assert_eq!(
        image.manifest.digest.to_string(),
        facts["manifest_amd64"].as_str().unwrap()
    );
    assert_eq!(
        image.config_digest.to_string(),
        facts["config_amd64"].as_str().unwrap()
    );
    let chain: Vec<String> = image
        .layers
        .iter()
        .map(|l| l.chain_id.to_string())
        .collect();
    assert_eq!(json!(chain), facts["chain_ids"]);
    let multi = resolve(&layout, &LayoutReference::name("example.org/base:multi")).unwrap();
    assert_eq!(
        multi.root.digest.to_string(),
        facts["index"].as_str().unwrap()
    );
    assert_eq!(multi.manifest.digest, image.manifest.digest);
    let arm = BlobDigest::of(b"").to_string();
    assert!(matches!(
        resolve(&layout, &LayoutReference::digest(arm.parse().unwrap())),
        Err(OciLayoutError::MissingBlob { .. })
    ));
    // Not named in index.json, but there.
    let arm = facts["manifest_arm64"].as_str().unwrap().parse().unwrap();
    let arm = resolve(&layout, &LayoutReference::digest(arm)).unwrap();
    assert_eq!(arm.config.platform.architecture, "arm64");
    assert!(image.clone().limit_layers(4).is_err());
    assert_eq!(image.limit_layers(2).unwrap().layers.len(), 2);
}

#[test]
fn the_tree_of_the_base_image() {
    let layout = golden().join("layout");
    let image = resolve(&layout, &LayoutReference::name("v1")).unwrap();
    let layers = unpack(&layout, &image).unwrap();
    let at = |layer: usize, path: &str| {
        let view = &layers[layer].1;
        view.lookup(&TreePath::new(path).unwrap())
            .map(|node| node.entry().clone())
    };
    assert_eq!(at(0, "bin/awk").unwrap().target[..], b"busybox"[..]);
    assert!(at(0, "opt/victim.txt").is_some());
    assert!(at(1, "opt/victim.txt").is_none());
    // Opaque in the second layer: explicit removals of what the first has in it.
    let gone: Vec<_> = layers[1]
        .0
        .entries()
        .iter()
        .filter(|(_, entry)| entry.kind == Kind::Whiteout)
        .map(|(path, _)| path.to_string())
        .collect();
    assert!(
        gone.iter().any(|path| path.starts_with("/opt/old/")),
        "{gone:?}"
    );
    assert!(layers[1].0.entries().iter().all(|(_, entry)| !entry.opaque));
    assert_eq!(
        at(1, "usr/bin/suid").unwrap().attributes.mode & 0o7000,
        0o4000
    );
    let links: Vec<Entry> = ["usr/lib/libx.so", "usr/lib/libx.so.1.2"]
        .map(|path| at(1, path).unwrap())
        .into();
    assert_ne!(links[0].link_group, 0);
    assert_eq!(links[0], links[1]);
    assert_eq!(at(2, "var/spool").unwrap().kind, Kind::Fifo);
    assert_eq!(
        at(2, "etc/conf.d/x.conf")
            .unwrap()
            .attributes
            .xattrs
            .value(b"user.golden"),
        Some(&b"hello"[..])
    );
}

#[test]
fn keys_are_those_of_buildkit() {
    // Preimages and keys of the golden cases src_oci, src_image_layer_limit and
    // src_image_multi_arm64.
    let digest = |text: &str| text.parse::<BlobDigest>().unwrap();
    let manifest =
        digest("sha256:aa985877b3c8692850b3dd19c502ca768229bb80bda3b80a096d5ca927a6c284");
    let index = digest("sha256:733f25d15ac9e12f925ae08cffce07b2a41040f84bc61e152385a028b5ff3751");
    let amd64 = Platform::linux_amd64();
    assert_eq!(
        manifest_key(&manifest, &amd64, None),
        "sha256:22e601512eff9d2106c1b119cc9ef6fdc406b777481e032cbafbcc02bb87f300"
    );
    assert_eq!(
        manifest_key(&manifest, &amd64, Some(2)),
        "sha256:e9b90acbaa0f923741c9526ef31f31224f4e071254223d8dd0378ded92cb8bb9"
    );
    assert_eq!(
        manifest_key(&index, &Platform::new("linux", "arm64"), None),
        "sha256:e695ecdf1e4a6051c1ffa4de7e72ff6054a2c054f25ba930b97a7b146d0abb9a"
    );
    let image = resolve(&golden().join("layout"), &LayoutReference::name("v1")).unwrap();
    assert_eq!(
        chain_key(&image.config_bytes, None).unwrap(),
        "sha256:a4d6072909e3a72c88c21cde66ebff8be02f6960c44f30987637cb24ba0e18b0"
    );
    assert_eq!(
        chain_key(&image.config_bytes, Some(2)).unwrap(),
        "sha256:a4c677a6e6a6a43b7b00da08f4d36c82bd3fb5f4047c2b3639dc4fcaa056b2e3"
    );
    assert_eq!(chain_key(b"{}", None), None);
    assert_eq!(
        chain_key(b"no", None),
        Some(BlobDigest::of(b"no").to_string())
    );
}

#[test]
fn class_11_a_document_that_could_be_two_is_refused() {
    let built = Built::new();
    let layer = built.blob(TAR, &[0; 1024]);
    let good = built.image(&layer, &BlobDigest::of(&[0; 1024]).to_string());
    built.index(&built.document(MANIFEST, &good));
    assert_eq!(built.resolve().unwrap().layers.len(), 1);
    let mut both = good.clone();
    both["manifests"] = json!([]);
    let mut wrong = good.clone();
    wrong["mediaType"] = json!(INDEX);
    let mut version = good.clone();
    version["schemaVersion"] = json!(1);
    for (media_type, document) in [
        (MANIFEST, &both),
        (INDEX, &both),
        (MANIFEST, &wrong),
        (INDEX, &good),
        ("", &both),
        (MANIFEST, &version),
        ("text/plain", &good),
    ] {
        built.index(&built.document(media_type, document));
        let error = built.resolve().unwrap_err();
        assert!(
            matches!(error, OciLayoutError::Image(ImageError::Confusing { .. })),
            "{media_type} {error}"
        );
    }
}

#[test]
fn class_11_wrong_bytes_fail_closed() {
    let built = Built::new();
    let tar = [0; 1024];
    let layer = built.blob(TAR, &tar);
    let right = BlobDigest::of(&tar).to_string();
    let manifest = built.image(&layer, &right);
    built.index(&built.document(MANIFEST, &manifest));
    assert_eq!(built.unpack().unwrap(), 1);
    // Another diff id in the config.
    let other = BlobDigest::of(b"other").to_string();
    built.index(&built.document(MANIFEST, &built.image(&layer, &other)));
    assert!(matches!(
        built.unpack().unwrap_err(),
        OciLayoutError::Image(ImageError::DiffId { .. })
    ));
    // Another byte in the layer.
    built.index(&built.document(MANIFEST, &manifest));
    let path = built
        .0
        .path()
        .join("blobs/sha256")
        .join(right.strip_prefix("sha256:").unwrap());
    let mut bad = tar;
    bad[1000] = 1;
    std::fs::write(&path, bad).unwrap();
    let error = built.unpack().unwrap_err();
    assert!(
        matches!(
            error,
            OciLayoutError::Image(ImageError::Content(ContentError::Digest { .. }))
        ),
        "{error:?}"
    );
    // A byte more.
    std::fs::write(&path, [0; 1025]).unwrap();
    let error = built.unpack().unwrap_err();
    assert!(matches!(
        error,
        OciLayoutError::Image(ImageError::Content(ContentError::Size { .. }))
    ));
    // More layers than diff ids.
    let mut more = manifest.clone();
    more["layers"] = json!([layer, layer]);
    built.index(&built.document(MANIFEST, &more));
    assert!(matches!(
        built.resolve().unwrap_err(),
        OciLayoutError::Image(ImageError::Image { .. })
    ));
}

#[test]
fn class_12_large_documents_and_pipes_are_refused() {
    let built = Built::new();
    let descriptor = json!({"mediaType": MANIFEST, "digest": BlobDigest::of(b"").to_string(), "size": 1_u64 << 40});
    let text = descriptor.to_string();
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{text}]}}"#);
    std::fs::write(built.0.path().join("index.json"), index).unwrap();
    assert!(matches!(
        built.resolve().unwrap_err(),
        OciLayoutError::Image(ImageError::DocumentTooLarge { .. })
    ));
    let path = built.0.path().join("index.json");
    std::fs::write(&path, vec![b' '; 9 << 20]).unwrap();
    assert!(matches!(
        built.resolve().unwrap_err(),
        OciLayoutError::Image(ImageError::DocumentTooLarge { .. })
    ));
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(
        built.resolve().unwrap_err(),
        OciLayoutError::Image(ImageError::Confusing { .. })
    ));
}
