//! Images in an OCI image layout: a directory, or an archive of one.
//!
//! Owns [`Layout`]: finding an image by tag or digest, choosing its platform, and giving out its
//! layers, so that for each layer that is not stored yet the caller makes a layer directory,
//! calls [`Layout::unpack`], and brings the results to normal form in order.
//!
//! Invariants:
//! - **Every byte is verified** against the digest and size of the descriptor that led to it, and
//!   every layer against the diff id of the config, before anything made of it is of use.
//! - **An archive is read where it is**: nothing of it is unpacked but what goes into layers, and
//!   no name in it is ever a path outside.
//! - Memory is bounded: documents by [`crate::limits::Limits::manifest_bytes`], layers are
//!   streamed.
//!
//! Leaves to others: what documents mean and how a layer is unpacked ([`super::image`]), storing
//! layers (`snapshot`), caching (`ops`), and registries (`registry`).

mod archive;
mod docker;
mod error;
mod layout;
mod resolve;
mod unpack;

pub use error::OciLayoutError;
pub use layout::{Layout, LayoutBlob};
pub use resolve::LayoutReference;

#[cfg(test)]
mod tests;
