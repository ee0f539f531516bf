//! Image layout directories: blobs by digest, and an index of what they are.
//!
//! Invariant: a name in `index.json` leads to complete blobs, for the index is written last, in one
//! step. Several processes may add to one layout at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::dir::open_file;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::solver::Durability;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::durable::{sync_bytes, sync_name, sync_names};
use crate::image::{Image, Index, is_intact};
use crate::lock::lock;
use crate::oci::{IMAGE_NAME, REF_NAME};
use crate::target::Target;
use crate::{ExportError, json};

/// The file that marks an image layout.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Largest `index.json` that is merged into; 8 MiB, far above what a layout of thousands of
/// images has.
const INDEX_LIMIT: u64 = 8 << 20;

/// Writes the blobs that are not there yet.
pub(crate) fn write_blobs(
    path: &Path,
    image: &Image,
    durability: Durability,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let blobs = path.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(ExportError::io("make directory", &blobs))?;
    for blob in &image.blobs {
        cancel.check()?;
        let digest = blob.descriptor.digest;
        let text = digest.to_string();
        let place = blobs.join(text.trim_start_matches("sha256:"));
        let there = std::fs::symlink_metadata(&place);
        if there.is_ok_and(|there| there.is_file() && there.len() == blob.descriptor.size) {
            if durability == Durability::Synced {
                sync_bytes(&place)?;
            }
            continue;
        }
        let mut target = Target::create(&place, durability)?;
        let mut sink = target.sink();
        image.write_blob(blob, &mut sink, cancel)?;
        sink.finish()?;
        target.complete()?;
    }
    match durability {
        Durability::Synced => sync_names(&blobs),
        _ => Ok(()),
    }
}

/// Reads the blobs of an image in a layout and compares them with their digests. Those that are
/// damaged are removed, so that the next export writes them anew.
pub(crate) fn verify(path: &Path, image: &Image, cancel: &Cancel) -> Result<(), ExportError> {
    for blob in &image.blobs {
        let text = blob.descriptor.digest.to_string();
        let place = path.join("blobs").join(text.replace(':', "/"));
        let file = File::open(&place).map_err(ExportError::io("open", &place))?;
        let intact = is_intact(file, &blob.descriptor, cancel)?;
        if !intact.map_err(ExportError::io("read", &place))? {
            std::fs::remove_file(&place).map_err(ExportError::io("remove", &place))?;
            return Err(ExportError::verify(text, path));
        }
    }
    Ok(())
}

/// Adds entries to the index of a layout, which is made if there is none.
pub(crate) fn add(
    path: &Path,
    entries: Vec<Descriptor>,
    durability: Durability,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let directory = File::open(path).map_err(ExportError::io("open", path))?;
    lock(&directory, cancel)?.map_err(ExportError::io("lock", path))?;
    let layout = path.join("oci-layout");
    if !std::fs::symlink_metadata(&layout).is_ok_and(|there| there.is_file()) {
        Target::write(&layout, LAYOUT, durability)?;
    }
    let index = path.join("index.json");
    merge_index(&directory, &index, entries, durability)?;
    if durability == Durability::Synced {
        sync_bytes(&layout)?;
        sync_bytes(&index)?;
        sync_names(&path.join("blobs"))?;
        sync_names(path)?;
        sync_name(path)?;
    }
    Ok(())
}

/// What an entry of an existing index has to have, and what is looked at of it.
#[derive(Deserialize)]
struct Known {
    #[serde(rename = "digest")]
    _digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// The name in the annotations of an entry.
fn name(annotations: &BTreeMap<String, String>) -> Option<&String> {
    let full = annotations.get(IMAGE_NAME);
    full.or_else(|| annotations.get(REF_NAME))
}

/// An old entry as it stands, or a new one.
#[derive(Serialize)]
#[serde(untagged)]
enum IndexEntry {
    Old(Box<RawValue>),
    New(Box<Descriptor>),
}

/// An index, with what others say in it.
#[derive(Serialize)]
struct Merged {
    #[serde(flatten)]
    index: Index<IndexEntry>,
    #[serde(flatten)]
    others: BTreeMap<String, Box<RawValue>>,
}

/// Adds entries, each of which has a name, to an index; they replace those of the same name. All else
/// in it stays.
fn merge_index(
    directory: &File,
    path: &Path,
    entries: Vec<Descriptor>,
    durability: Durability,
) -> Result<(), ExportError> {
    let invalid = |error: serde_json::Error| {
        ExportError::io("read", path)(io::Error::new(io::ErrorKind::InvalidData, error))
    };
    let mut all = Vec::new();
    let mut others: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
    let old = match open_file(directory, b"index.json") {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(INDEX_LIMIT + 1)
                .read_to_end(&mut text)
                .map_err(ExportError::io("read", path))?;
            if text.len() as u64 > INDEX_LIMIT {
                let reason = format!("it has more than {INDEX_LIMIT} bytes");
                let error = io::Error::new(io::ErrorKind::FileTooLarge, reason);
                return Err(ExportError::io("read", path)(error));
            }
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(ExportError::io("read", path)(error)),
    };
    if !old.is_empty() {
        others = serde_json::from_slice(&old).map_err(invalid)?;
        // Written anew.
        others.retain(|member, _| !matches!(member.as_str(), "schemaVersion" | "mediaType"));
        let manifests = others.remove("manifests");
        // Tools that were written in Go have null for no entries.
        let manifests: Option<Vec<Box<RawValue>>> = match manifests {
            Some(manifests) => serde_json::from_str(manifests.get()).map_err(invalid)?,
            None => None,
        };
        for entry in manifests.unwrap_or_default() {
            let known: Known = serde_json::from_str(entry.get()).map_err(invalid)?;
            let named = known.annotations.as_ref().and_then(name);
            let mut new = entries.iter().map(|new| name(&new.annotations));
            let replaced = named.is_some() && new.any(|new| new == named);
            if !replaced {
                all.push(IndexEntry::Old(entry));
            }
        }
    }
    all.extend(
        entries
            .into_iter()
            .map(|entry| IndexEntry::New(Box::new(entry))),
    );
    let index = Index::new(all);
    let text = json::compact(&Merged { index, others }).map_err(invalid)?;
    if text == old {
        return Ok(());
    }
    let mut target = Target::create(path, durability)?;
    target
        .file()
        .write_all(&text)
        .map_err(ExportError::io("write", path))?;
    target.complete()
}
