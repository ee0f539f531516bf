//! Turns build results into things other tools take: images, archives and directories.
//!
//! An [`Exporter`] takes a [`BuildResult`] and gives an [`Exported`]:
//!
//! | exporter | writes |
//! |---|---|
//! | [`Oci`] | an OCI image, as one archive or as an image layout directory |
//! | [`Docker`] | an archive for `docker load`, or the image into an engine over its socket |
//! | [`Image`] | an image into the store of the solver, under its names |
//! | `Push` | an image to a registry (feature `registry`, which is on by default) |
//! | [`Local`] | the files into a directory |
//! | [`Tar`] | the files into one archive |
//! | [`CacheOnly`] | nothing |
//!
//! [`export_all`] runs several at once; they share the work on layers. [`ImageOptions`] and
//! [`FileOptions`] hold what can be asked of an image or of files; [`Output::parse`] reads the
//! `type=…,dest=…` strings of `buildctl build --output`. [`attest`] adds provenance, SBOMs and
//! other statements to a result; [`sbom`] tells which packages it contains.
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
pub mod attest;
mod blocks;
mod cache;
mod cache_only;
mod compression;
mod destination;
mod docker;
mod durable;
#[cfg(feature = "engine")]
mod engine;
mod error;
mod exporter;
mod files;
mod image;
mod json;
mod layer;
mod layout;
mod local;
mod lock;
mod notes;
mod oci;
mod options;
mod output;
mod packages;
mod platforms;
pub mod provenance;
mod purl;
#[cfg(feature = "registry")]
mod push;
mod redact;
mod rpm;
pub mod sbom;
mod spans;
mod statement;
mod store;
mod tar;
mod target;
mod written;

pub use annotations::{AnnotationKind, Annotations};
pub use cache::cache_blobs;
pub use cache_only::CacheOnly;
pub use compression::Compression;
pub use docker::Docker;
pub use error::ExportError;
pub use exporter::{Exported, Exporter, Prepared, export_all};
pub use files::FileOptions;
pub use local::{Local, LocalMode};
pub use oci::Oci;
pub use options::{Compatibility, Epoch, ImageOptions, MediaTypes};
pub use output::{Output, OutputError};
#[cfg(feature = "registry")]
pub use push::Push;
pub use store::Image;
pub use tar::Tar;
