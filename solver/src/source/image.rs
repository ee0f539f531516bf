//! What images have in common, wherever they come from.
//!
//! Owns [`ResolveMode`], [`resolve`] (from a descriptor to the manifest, config and layers for one platform),
//! [`Documents`], through which it reads, and [`unpack`] (from the blob of a layer to a layer
//! directory, in one pass).
//!
//! Invariants:
//! - **A document is what its descriptor says it is.** One that could be read as manifest and as
//!   index is refused, as is one whose own media type is another than the descriptor's.
//! - **Every layer is verified** against the diff id of the config before anything made of it is of
//!   use.
//! - Memory is bounded: documents by [`crate::limits::Limits::manifest_bytes`], layers are
//!   streamed.
//!
//! Leaves to others: where the bytes come from and that they have the promised digest
//! (`oci_layout`, `registry`), storing layers (`snapshot`).

mod error;
mod mode;
mod resolve;
mod unpack;

pub use error::ImageError;
pub use mode::ResolveMode;
pub use resolve::{Documents, ImageLayer, ResolvedImage, resolve};
pub use unpack::unpack;
