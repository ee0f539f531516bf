//! Archives of layouts, good and hostile.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::error::{Blame as _, Fault};
use crate::tree::Timestamp;
use crate::tree::entry::Device;
use crate::tree::tar::{Header, TarFormat, TarKind, TarWriter};

/// An entry: its name, its kind, and its bytes or target.
type Item = (String, TarKind, Vec<u8>);

fn item(name: &str, bytes: impl AsRef<[u8]>) -> Item {
    (name.to_owned(), TarKind::File, bytes.as_ref().to_vec())
}

fn tar(items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = TarWriter::new(&mut out);
    for (name, kind, bytes) in items {
        let file = *kind == TarKind::File;
        let header = Header {
            path: name.as_bytes().to_vec(),
            kind: *kind,
            link: if file { Vec::new() } else { bytes.clone() },
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: if file { bytes.len() as u64 } else { 0 },
            mtime: Timestamp::default(),
            device: Device::default(),
            xattrs: Vec::new(),
            sparse: false,
        };
        writer.header(&header, TarFormat::Pax).unwrap();
        if file {
            writer.data(bytes).unwrap();
        }
    }
    writer.finish().unwrap();
    out
}

/// The files of a layout as entries, with `prefix` before their names.
fn items(layout: &Path, prefix: &str) -> Vec<Item> {
    let mut found = Vec::new();
    for name in ["oci-layout", "index.json"] {
        found.push(item(
            &format!("{prefix}{name}"),
            fs::read(layout.join(name)).unwrap(),
        ));
    }
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let name = format!(
            "{prefix}blobs/sha256/{}",
            blob.file_name().to_str().unwrap()
        );
        found.push(item(&name, fs::read(blob.path()).unwrap()));
    }
    found
}

struct File(tempfile::TempDir);

impl File {
    fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("archive"), bytes).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("archive")
    }

    /// What an attempt to use the only image says.
    fn error(&self) -> OciLayoutError {
        let image = resolve(&self.path(), &LayoutReference::default());
        image
            .and_then(|image| unpack(&self.path(), &image))
            .unwrap_err()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A layout of one image with one layer, uncompressed; and the layer.
fn small() -> (Built, Vec<u8>) {
    let built = Built::new();
    let layer = tar(&[item("hello", "world")]);
    let descriptor = built.blob(TAR, &layer);
    let manifest = built.image(&descriptor, &BlobDigest::of(&layer).to_string());
    built.index(&built.document(MANIFEST, &manifest));
    (built, layer)
}

#[test]
fn archives_are_read_where_they_are() {
    let layout = golden().join("layout");
    let expected = resolve(&layout, &LayoutReference::name("v1")).unwrap();
    let trees = unpack(&layout, &expected).unwrap();
    let plain = tar(&items(&layout, "./"));
    let zstd = zstd::stream::encode_all(&plain[..], 1).unwrap();
    for bytes in [&plain, &gzip(&plain), &zstd, &tar(&items(&layout, ""))] {
        let file = File::new(bytes);
        let image = resolve(&file.path(), &LayoutReference::name("v1")).unwrap();
        assert_eq!(image.manifest_bytes, expected.manifest_bytes);
        assert_eq!(image.layers, expected.layers);
        let found = unpack(&file.path(), &image).unwrap();
        for ((found, _), (expected, _)) in found.iter().zip(&trees) {
            assert_eq!(found.entries(), expected.entries());
        }
        assert_eq!(
            fs::read_dir(file.0.path()).unwrap().count(),
            1,
            "nothing is written"
        );
    }
}

#[test]
fn archives_of_docker_are_layouts() {
    let (built, layer) = small();
    let index = built.resolve().unwrap();
    let list = json!([{
        "Config": "config.json",
        "RepoTags": ["example.com/app:v1", "app:v2"],
        "Layers": ["a/layer.tar", "b/layer.tar"],
    }]);
    let diff_id = BlobDigest::of(&layer).to_string();
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [diff_id, diff_id]}})
    .to_string();
    let docker = |layer: &[u8]| {
        vec![
            (
                "b/layer.tar".to_owned(),
                TarKind::Symlink,
                b"../a/layer.tar".to_vec(),
            ),
            item("a/layer.tar", layer),
            item("config.json", &config),
            item("manifest.json", list.to_string()),
            item("repositories", "{}"),
        ]
    };
    for (bytes, size) in [
        (tar(&docker(&layer)), layer.len()),
        (gzip(&tar(&docker(&layer))), layer.len()),
        (tar(&docker(&gzip(&layer))), gzip(&layer).len()),
    ] {
        let file = File::new(&bytes);
        for name in ["example.com/app:v1", "docker.io/library/app:v2", "v2"] {
            let image = resolve(&file.path(), &LayoutReference::name(name)).unwrap();
            assert_eq!(image.config_bytes, config.as_bytes());
            assert_eq!(image.layers[0].diff_id, index.layers[0].diff_id);
            assert_eq!(image.layers[1].descriptor.size, size as u64);
            let again = resolve(&file.path(), &LayoutReference::digest(image.root.digest));
            assert_eq!(again.unwrap().manifest.digest, image.manifest.digest);
            let trees = unpack(&file.path(), &image).unwrap();
            assert!(
                trees[1]
                    .1
                    .lookup(&TreePath::new("hello").unwrap())
                    .is_some()
            );
        }
    }
    // It would be inflated again and again.
    let both = File::new(&gzip(&tar(&docker(&gzip(&layer)))));
    assert!(matches!(
        both.error(),
        OciLayoutError::Image(ImageError::Confusing { .. })
    ));
    // Layers that are not what the config says.
    let mut other = layer.clone();
    other[600] ^= 1;
    let error = File::new(&tar(&docker(&other)[..4])).error();
    assert!(
        matches!(error, OciLayoutError::Ambiguous { .. }),
        "two names: {error}"
    );
    let one = list.to_string().replace(r#","app:v2""#, "");
    let mut items = docker(&other);
    items[3] = item("manifest.json", one);
    let error = File::new(&tar(&items)).error();
    assert!(
        matches!(
            error,
            OciLayoutError::Image(ImageError::Content(ContentError::Digest { .. }))
        ),
        "{error}"
    );
    items[1] = item("elsewhere", "");
    let error = File::new(&tar(&items)).error();
    assert!(
        error.to_string().contains("manifest.json names it"),
        "{error}"
    );
}

#[test]
fn class_6_names_and_links_in_archives_lead_nowhere_else() {
    let (built, _) = small();
    let good = items(built.0.path(), "");
    let outside = File::new(b"secret");
    let target = outside.path().into_os_string().into_encoded_bytes();
    for (at, name) in ["oci-layout", "index.json"].into_iter().enumerate() {
        for (kind, target) in [
            (TarKind::Symlink, target.clone()),
            (TarKind::Symlink, b"../../../../etc/passwd".to_vec()),
            (TarKind::HardLink, target.clone()),
            (TarKind::Symlink, b"self".to_vec()),
        ] {
            let mut items = good.clone();
            items[at] = (name.to_owned(), kind, target);
            items.push(("self".to_owned(), TarKind::Symlink, b"self".to_vec()));
            let error = File::new(&tar(&items)).error();
            let expected = matches!(
                error,
                OciLayoutError::NotALayout { .. }
                    | OciLayoutError::Image(ImageError::Confusing { .. })
            );
            assert!(expected && error.fault() == Fault::Input, "{error:?}");
        }
        // A name that leads out of the archive, or back into it, is not that name.
        let mut items = good.clone();
        items[at].0 = format!("../{name}");
        let error = File::new(&tar(&items)).error();
        assert!(
            matches!(error, OciLayoutError::NotALayout { .. }),
            "{error:?}"
        );
    }
    // What lies beside the layout does not matter.
    let mut items = good.clone();
    items.push(item("../escape", "x"));
    items.push(("/abs".to_owned(), TarKind::Symlink, b"/etc/passwd".to_vec()));
    let file = File::new(&tar(&items));
    let image = resolve(&file.path(), &LayoutReference::default()).unwrap();
    unpack(&file.path(), &image).unwrap();
    assert_eq!(fs::read_dir(file.0.path()).unwrap().count(), 1);
}

#[test]
fn class_11_what_readers_of_archives_disagree_about_is_refused() {
    let (built, layer) = small();
    let good = items(built.0.path(), "");
    let mut twice = good.clone();
    twice.push(item(
        "./index.json",
        r#"{"schemaVersion":2,"manifests":[]}"#,
    ));
    let error = File::new(&tar(&twice)).error();
    assert!(error.to_string().contains("twice"), "{error}");
    // A blob under the digest of another one; the first and the last.
    let name = format!(
        "blobs/{}",
        BlobDigest::of(&layer).to_string().replacen(':', "/", 1)
    );
    let mut bad = layer.clone();
    bad[600] ^= 1;
    let mut first = good.clone();
    first.insert(0, item(&name, &bad));
    let error = File::new(&tar(&first)).error();
    assert!(
        matches!(
            error,
            OciLayoutError::Image(ImageError::Content(ContentError::Digest { .. }))
        ),
        "{error}"
    );
    // Every way of ending early, and garbage.
    let whole = tar(&good);
    for end in (0..whole.len() - 1024).step_by(512) {
        let file = File::new(&whole[..end]);
        let layout = resolve(&file.path(), &LayoutReference::default());
        if let Ok(image) = layout {
            // All documents were there; then it is the layer that is missing.
            unpack(&file.path(), &image).unwrap_err();
        }
    }
    for garbage in [
        &b"not an archive"[..],
        &[0xff; 4096],
        &gzip(b"text"),
        b"\x1f\x8b\x08",
    ] {
        let error = File::new(garbage).error();
        assert!(
            matches!(
                error,
                OciLayoutError::Archive { .. } | OciLayoutError::Image(_)
            ),
            "{error:?}"
        );
        assert_eq!(error.fault(), Fault::Input, "{error:?}");
    }
}

#[test]
fn class_12_archives_that_are_pipes_links_or_bombs() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    for path in [&pipe, Path::new("/dev/zero")] {
        let error = Layout::open(path).unwrap_err();
        assert!(
            matches!(error, OciLayoutError::NotALayout { .. }),
            "{error:?}"
        );
    }
    // The path itself is the caller's: a link to an archive is followed.
    let (built, _) = small();
    let file = File::new(&tar(&items(built.0.path(), "")));
    symlink(file.path(), folder.path().join("link")).unwrap();
    resolve(&folder.path().join("link"), &LayoutReference::default()).unwrap();
    // A document of a terabyte in a file that has none of it.
    let mut header = tar(&[item("index.json", "")]);
    header.truncate(512);
    let at = 124..136;
    header[at.clone()].copy_from_slice(b"\x80\0\0\0\0\0\x01\0\0\0\0\0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let error = File::new(&header).error();
    assert!(matches!(error, OciLayoutError::Archive { .. }), "{error:?}");
    // A large document in a compressed archive.
    let mut items = items(built.0.path(), "");
    items[1].2 = vec![b' '; 9 << 20];
    let error = File::new(&gzip(&tar(&items))).error();
    assert!(
        matches!(
            error,
            OciLayoutError::Image(ImageError::DocumentTooLarge { .. })
        ),
        "{error:?}"
    );
    // More is not looked at than a blob has.
    let layout = Layout::open(&file.path()).unwrap();
    let image = resolve(&file.path(), &LayoutReference::default()).unwrap();
    let mut bytes = Vec::new();
    let blob = layout.blob(&image.layers[0].descriptor).unwrap();
    blob.take(1 << 20).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, image.layers[0].descriptor.size);
}
