//! Which layer a file of an SPDX document is from.
//!
//! As BuildKit does when it exports an image: a file without a comment gets `layerID: ` and the
//! digest of the topmost layer that has it. Members that are not known here are kept, in their
//! order.

use std::sync::Arc;

use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::snapshot::{Layer, LayerDescription, SnapshotError};
use ashlar_solver::tree::{Index, Kind, TreePath};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::document::creator;

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
    if !root.0.iter().any(|(name, _)| name == "spdxVersion") {
        return Ok(document.to_vec());
    }
    if let Some(files) = root.member("files")
        && let Ok(mut list) = serde_json::from_str::<Vec<Object<'_>>>(files.get())
    {
        for file in &mut list {
            cancel.check().map_err(|_| SupplementError::Cancelled)?;
            comment(file, layers)?;
        }
        let list = raw(&list);
        root.set("files", list);
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

fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("BUG: what was read from JSON is JSON")
}

/// An object whose members stay in their order.
#[derive(Debug)]
struct Object<'a>(Vec<(String, Member<'a>)>);

#[derive(Debug)]
enum Member<'a> {
    Read(&'a RawValue),
    New(Box<RawValue>),
}

impl<'a> Object<'a> {
    fn member(&self, name: &str) -> Option<&'a RawValue> {
        let (_, member) = self.0.iter().find(|(known, _)| known == name)?;
        match member {
            Member::Read(raw) => Some(raw),
            Member::New(_) => None,
        }
    }

    fn set(&mut self, name: &str, value: Box<RawValue>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, member)) => *member = Member::New(value),
            None => self.0.push((name.to_owned(), Member::New(value))),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, Member<'de>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, Member::Read(raw)));
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(Self)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, member) in &self.0 {
            let raw = match member {
                Member::Read(raw) => raw,
                Member::New(raw) => &**raw,
            };
            map.serialize_entry(name, raw)?;
        }
        map.end()
    }
}
