//! Turns build results into things other tools take: OCI images and directories.
//!
//! An [`Exporter`] takes a [`BuildResult`] and gives an [`Exported`]. There are three so far:
//!
//! - [`Oci`] writes an OCI image, as one archive file or as an image layout directory;
//! - `Push` pushes an image to a registry (feature `registry`, which is on by default);
//! - [`Local`] writes the files of the result into a directory.
//!
//! [`sbom`] tells which packages a result contains.
//!
//! [`Output::parse`] reads the `type=…,dest=…` strings of `buildctl build --output`.
//!
//! ```no_run
//! # async fn example(result: ashlar_solver::result::BuildResult)
//! # -> Result<(), ashlar_exporters::ExportError> {
//! use ashlar_exporters::{Exporter as _, Oci};
//! use ashlar_solver::cancel::Cancel;
//!
//! let exported = Oci::archive("app.tar").name("example.com/app:v1").export(&result, &Cancel::new()).await?;
//! assert!(exported.digest.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! [`BuildResult`]: ashlar_solver::result::BuildResult

mod annotations;
mod archive;
mod blocks;
mod compression;
mod error;
mod exporter;
mod image;
mod json;
mod layer;
mod layout;
mod local;
mod oci;
mod options;
mod output;
mod packages;
mod purl;
#[cfg(feature = "registry")]
mod push;
mod redact;
mod rpm;
pub mod sbom;
mod target;

pub use annotations::{AnnotationKind, Annotations};
pub use compression::Compression;
pub use error::ExportError;
pub use exporter::{Exported, Exporter, Prepared, export_all};
pub use local::Local;
pub use oci::Oci;
pub use options::{Compatibility, Epoch, ImageOptions, MediaTypes};
pub use output::{Output, OutputError};
#[cfg(feature = "registry")]
pub use push::Push;
