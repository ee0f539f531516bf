//! Which layer a file of an SPDX document is from.
//!
//! As BuildKit does when it exports an image: a file without a comment gets `layerID: ` and the
//! digest of the topmost layer that has it, and members are put into their order. Those that are not
//! known are kept, after the others; packages and files stay in the order that they have.

use std::sync::Arc;

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::snapshot::{Layer, LayerDescription, SnapshotError};
use ashlar_solver::tree::{Index, Kind, TreePath};
use serde_json::value::RawValue;

use super::document::creator;
use super::members::{DOCUMENT, Object, raw};

/// What a layer contains.
type Content = Arc<(Index, LayerDescription)>;

/// Finds the layer of a file.
#[derive(Debug)]
pub(crate) struct LayerFinder {
    /// The layers, the topmost first, and the blobs that they are exported as. Their contents are
    /// looked at when a file is not in those above.
    layers: Vec<(Layer, BlobDigest)>,
    contents: Vec<Content>,
}

impl LayerFinder {
    /// `layers` are the lowest first.
    pub(crate) fn new(layers: impl IntoIterator<Item = (Layer, BlobDigest)>) -> Self {
        let mut layers: Vec<_> = layers.into_iter().collect();
        layers.reverse();
        Self {
            layers,
            contents: Vec::new(),
        }
    }

    /// The topmost layer that has an object at `path`.
    fn find(&mut self, path: &TreePath) -> Result<Option<BlobDigest>, SnapshotError> {
        for (at, (layer, digest)) in self.layers.iter().enumerate() {
            if at == self.contents.len() {
                self.contents.push(layer.content()?);
            }
            let entry = self.contents[at].0.lookup(path);
            if entry.is_some_and(|entry| entry.kind != Kind::Whiteout) {
                return Ok(Some(*digest));
            }
        }
        Ok(None)
    }
}

/// Adds comments to the files of an SPDX document. A document that is none comes back as it is.
pub(crate) fn supplement(
    document: &[u8],
    layers: &mut LayerFinder,
    cancel: &Cancel,
) -> Result<Vec<u8>, SupplementError> {
    let Ok(mut root) = serde_json::from_slice::<Object<'_>>(document) else {
        return Ok(document.to_vec());
    };
    if !root.has("spdxVersion") {
        return Ok(document.to_vec());
    }
    if let Some(files) = root.member("files")
        && let Some(files) = commented(files, layers, cancel)?
    {
        root.set("files", files);
    }
    if let Some(packages) = root.member("packages")
        && let Ok(mut packages) = serde_json::from_str::<Vec<Object<'_>>>(packages.get())
    {
        for package in &mut packages {
            if let Some(files) = package.member("files")
                && let Some(files) = commented(files, layers, cancel)?
            {
                package.set("files", files);
            }
        }
        root.set("packages", raw(&packages));
    }
    if let Some(info) = root.member("creationInfo")
        && let Ok(mut info) = serde_json::from_str::<Object<'_>>(info.get())
    {
        let creators = info
            .member("creators")
            .map(|list| serde_json::from_str(list.get()));
        if let Some(Ok(mut creators)) = creators {
            let creators: &mut Vec<String> = &mut creators;
            if !creators.contains(&creator()) {
                creators.push(creator());
                let creators = raw(&creators);
                info.set("creators", creators);
            }
        }
        let info = raw(&info);
        root.set("creationInfo", info);
    }
    root.arrange(&DOCUMENT);
    Ok(serde_json::to_vec(&root).expect("BUG: members of JSON are JSON"))
}

/// Why a document could not be supplemented.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SupplementError {
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Layer(#[from] SnapshotError),
}

/// A list of files with comments; `None` for what is no such list.
fn commented(
    files: &RawValue,
    layers: &mut LayerFinder,
    cancel: &Cancel,
) -> Result<Option<Box<RawValue>>, SupplementError> {
    let Ok(mut files) = serde_json::from_str::<Vec<Object<'_>>>(files.get()) else {
        return Ok(None);
    };
    for file in &mut files {
        cancel.check().map_err(|_| SupplementError::Cancelled)?;
        comment(file, layers)?;
    }
    Ok(Some(raw(&files)))
}

fn comment(file: &mut Object<'_>, layers: &mut LayerFinder) -> Result<(), SupplementError> {
    let text = |file: &Object<'_>, name| {
        let member = file.member(name)?;
        serde_json::from_str::<String>(member.get()).ok()
    };
    if text(file, "comment").is_some_and(|text| !text.is_empty()) {
        return Ok(());
    }
    let path = text(file, "fileName").and_then(|name| TreePath::clean(name.as_bytes()).ok());
    let Some(path) = path else {
        return Ok(());
    };
    if let Some(digest) = layers.find(&path)? {
        let text = raw(&format!("layerID: {digest}"));
        file.set("comment", text);
    }
    Ok(())
}
