//! Where content comes from outside the graph.
//!
//! Owns one module per kind of source, each with what it takes to find, verify and read content,
//! and [`oci_keys`], the keys that BuildKit gives images.
//!
//! Leaves to others: when content is fetched and what its key is good for (`ops`).

pub mod image;
pub mod local;
pub mod oci_keys;
pub mod oci_layout;
