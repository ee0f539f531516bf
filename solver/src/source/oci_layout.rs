//! Images in a directory that is an OCI image layout.
//!
//! Owns [`Layout`]: finding an image by tag or digest, choosing its platform, and giving out its
//! layers, so that for each layer that is not stored yet the caller makes a layer directory,
//! calls [`Layout::unpack`], and brings the results to normal form in order.
//!
//! Invariants:
//! - **Every byte is verified** against the digest and size of the descriptor that led to it, and
//!   every layer against the diff id of the config, before anything made of it is of use.
//! - **A document is what its descriptor says it is.** One that could be read as manifest and as
//!   index is refused, as is one whose own media type is another than the descriptor's.
//! - Memory is bounded: documents by [`crate::limits::Limits::manifest_bytes`], layers are
//!   streamed.
//!
//! Leaves to others: storing layers (`snapshot`), caching (`ops`), and registries (`registry`).

mod error;
mod layout;
mod resolve;
mod unpack;

pub use error::OciLayoutError;
pub use layout::Layout;
pub use resolve::{ImageLayer, LayoutReference, ResolvedImage};

#[cfg(test)]
mod tests;
