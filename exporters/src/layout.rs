//! Image layout directories: blobs by digest, and an index of what they are.
//!
//! Invariant: a name in `index.json` leads to complete blobs, for the index is written last, in one
//! step. Several processes may add to one layout at a time. A layout that was not there before is there
//! with an index, or not at all.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::dir::open_file;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::solver::Durability;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::durable::{sync_bytes, sync_name, sync_names};
use crate::image::{Image, ImageBlob, Index, is_intact};
use crate::lock::lock;
use crate::oci::{IMAGE_NAME, REF_NAME};
use crate::target::Target;
use crate::{ExportError, json};

/// The file that marks an image layout.
pub(crate) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Where the blobs are.
const BLOBS: &str = "blobs/sha256";

/// What names them.
const INDEX: &str = "index.json";

/// Largest `index.json` that is merged into; 8 MiB, far above what a layout of thousands of
/// images has.
const INDEX_LIMIT: u64 = 8 << 20;

/// How often a layout is made that somebody else takes back.
const TRIES: usize = 8;

/// An image on its way into a layout: its blobs are there, and the index does not name it. Dropping it
/// takes back what was written into a layout that was not there before, so that nothing is left of it.
/// Others who add to that layout look again for the blobs before they name them.
#[derive(Debug)]
pub(crate) struct Adding {
    path: PathBuf,
    image: Arc<Image>,
    durability: Durability,
    /// Whether there was no index.
    is_new: bool,
    /// The directories and files that were made in a new layout, each after that which it is in.
    made: Vec<PathBuf>,
}

impl Adding {
    /// Writes the blobs that are not there yet.
    pub(crate) fn new(
        path: &Path,
        image: Arc<Image>,
        durability: Durability,
        cancel: &Cancel,
    ) -> Result<Self, ExportError> {
        let mut this = Self {
            path: path.to_path_buf(),
            image,
            durability,
            is_new: !is_there(&path.join(INDEX)),
            made: Vec::new(),
        };
        this.write_blobs(cancel)?;
        Ok(this)
    }

    fn write_blobs(&mut self, cancel: &Cancel) -> Result<(), ExportError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.try_write_blobs(cancel) {
                Err(error) if self.is_gone(&error) && tries < TRIES => {}
                done => return done,
            }
        }
    }

    fn try_write_blobs(&mut self, cancel: &Cancel) -> Result<(), ExportError> {
        let blobs = self.path.join(BLOBS);
        let image = self.image.clone();
        self.make(&blobs)?;
        for blob in &image.blobs {
            cancel.check()?;
            let place = self.place(blob);
            if is_whole(&place, blob) {
                if self.durability == Durability::Synced {
                    sync_bytes(&place)?;
                }
                continue;
            }
            let is_replaced = is_there(&place);
            let mut target = Target::create(&place, self.durability)?;
            let mut sink = target.sink();
            image.write_blob(blob, &mut sink, cancel)?;
            sink.finish()?;
            target.complete()?;
            if self.is_new && !is_replaced {
                self.made.push(place);
            }
        }
        match self.durability {
            Durability::Synced => sync_names(&blobs),
            _ => Ok(()),
        }
    }

    /// Whether something in the layout is not there any more: somebody else took it back. A directory
    /// that is removed meanwhile permits no files, and one that was there before it was made is none.
    fn is_gone(&self, error: &ExportError) -> bool {
        let ExportError::Io { source, path, .. } = error else {
            return false;
        };
        let gone = [Errno::NOENT, Errno::PERM, Errno::EXIST].map(Errno::raw_os_error);
        let is_gone = source
            .raw_os_error()
            .is_some_and(|code| gone.contains(&code));
        is_gone && path.starts_with(&self.path)
    }

    fn place(&self, blob: &ImageBlob) -> PathBuf {
        let digest = blob.descriptor.digest.to_string();
        let name = digest.trim_start_matches("sha256:");
        self.path.join(BLOBS).join(name)
    }

    /// Makes a directory and those above it.
    fn make(&mut self, directory: &Path) -> Result<(), ExportError> {
        let missing: Vec<&Path> = directory
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !is_there(path))
            .collect();
        std::fs::create_dir_all(directory).map_err(ExportError::io("make directory", directory))?;
        if self.is_new {
            let made = missing.into_iter().rev().map(Path::to_path_buf);
            self.made.extend(made);
        }
        Ok(())
    }

    /// Reads the blobs and compares them with their digests. Those that are damaged are removed, so
    /// that the next export writes them anew.
    pub(crate) fn verify(&mut self, cancel: &Cancel) -> Result<(), ExportError> {
        let image = self.image.clone();
        for blob in &image.blobs {
            let place = self.place(blob);
            let mut tries = 0;
            let file = loop {
                tries += 1;
                match File::open(&place).map_err(ExportError::io("open", &place)) {
                    Err(error) if self.is_gone(&error) && tries < TRIES => {
                        self.write_blobs(cancel)?;
                    }
                    opened => break opened?,
                }
            };
            let intact = is_intact(file, &blob.descriptor, cancel)?;
            if !intact.map_err(ExportError::io("read", &place))? {
                std::fs::remove_file(&place).map_err(ExportError::io("remove", &place))?;
                return Err(ExportError::verify(blob.descriptor.digest, &self.path));
            }
        }
        Ok(())
    }

    /// Adds entries to the index, which is made if there is none.
    pub(crate) fn finish(
        mut self,
        entries: Vec<Descriptor>,
        cancel: &Cancel,
    ) -> Result<(), ExportError> {
        let directory = self.locked(cancel)?;
        let image = self.image.clone();
        let is_complete = |blob: &ImageBlob| is_whole(&self.place(blob), blob);
        if !image.blobs.iter().all(is_complete) {
            self.write_blobs(cancel)?;
        }
        let (path, durability) = (&self.path, self.durability);
        let (layout, index) = (path.join("oci-layout"), path.join(INDEX));
        if !std::fs::symlink_metadata(&layout).is_ok_and(|there| there.is_file()) {
            Target::write(&layout, LAYOUT, durability)?;
            if self.is_new {
                self.made.push(layout.clone());
            }
        }
        merge_index(&directory, &index, entries, durability)?;
        if durability == Durability::Synced {
            sync_bytes(&layout)?;
            sync_bytes(&index)?;
            sync_names(&path.join("blobs"))?;
            sync_names(path)?;
            sync_name(path)?;
        }
        self.made.clear();
        Ok(())
    }

    /// The directory of the layout, once nobody else adds to it.
    fn locked(&mut self, cancel: &Cancel) -> Result<File, ExportError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match File::open(&self.path).map_err(ExportError::io("open", &self.path)) {
                Err(error) if self.is_gone(&error) && tries < TRIES => {
                    self.write_blobs(cancel)?;
                }
                Err(error) => return Err(error),
                Ok(directory) => {
                    lock(&directory, cancel)?.map_err(ExportError::io("lock", &self.path))?;
                    if is_at(&directory, &self.path) || tries >= TRIES {
                        return Ok(directory);
                    }
                }
            }
        }
    }
}

impl Drop for Adding {
    fn drop(&mut self) {
        if self.made.is_empty() {
            return;
        }
        let Ok(directory) = File::open(&self.path) else {
            return;
        };
        // Whoever holds it has a use for what is there.
        let locked = flock(&directory, FlockOperation::NonBlockingLockExclusive);
        if locked.is_err() || is_there(&self.path.join(INDEX)) {
            return;
        }
        for made in self.made.iter().rev() {
            let _gone = match made.symlink_metadata().is_ok_and(|there| there.is_dir()) {
                true => std::fs::remove_dir(made),
                false => std::fs::remove_file(made),
            };
        }
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether there is a file that a blob can be.
fn is_whole(place: &Path, blob: &ImageBlob) -> bool {
    let there = place.symlink_metadata();
    there.is_ok_and(|there| there.is_file() && there.len() == blob.descriptor.size)
}

/// Whether what is open is what a path leads to.
fn is_at(open: &File, path: &Path) -> bool {
    let id = |data: Metadata| (data.dev(), data.ino());
    match (open.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => id(open) == id(named),
        _ => false,
    }
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
    let old = match open_file(directory, INDEX.as_bytes()) {
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
