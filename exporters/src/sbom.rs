//! Software bills of materials: which packages a result contains.
//!
//! Owns the [`Scanner`] trait, through which any program may look through a result, the built-in
//! [`PackageScanner`], and the SPDX documents that it writes. They have the shape of those that
//! BuildKit's scanner writes: packages with package URLs, the files that belong to them, and what
//! tells of them.
//!
//! Invariants:
//! - a scan mounts nothing and runs nothing: it reads the view of a result;
//! - the document depends on the files of the result and on [`ScanTarget::created`] alone;
//! - what was left out is said in the document and in [`ScanDocument::remarks`].
//!
//! Leaves to others: the formats of databases (`packages`, `rpm`), and how documents get to images
//! and directories (`attest`).

mod document;
mod error;
mod files;
mod members;
mod package_scanner;
mod scanner;
mod supplement;

pub(crate) use error::DOCUMENT;
pub use error::ScanError;
pub(crate) use supplement::{LayerFinder, SupplementError, supplement};

pub use package_scanner::{PackageScanner, ScanLimits};
pub use scanner::{ScanDocument, ScanTarget, Scanner};

/// The predicate type of SPDX documents.
pub const SPDX_PREDICATE: &str = "https://spdx.dev/Document";
