//! Images as data: config, manifest and index, from layers and metadata.
//!
//! Pure functions; nothing here reads or writes a file. The bytes are BuildKit's
//! (`exporter/containerimage/writer.go`): members of the config sorted by name with unknown ones
//! kept, manifests indented by two spaces, the index of an archive compact.

mod config;
mod manifest;

pub(crate) use config::{HistoryLayer, image_config};
pub(crate) use manifest::{CONFIG, Descriptor, Index, MANIFEST, Manifest};
