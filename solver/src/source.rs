//! Where content comes from outside the graph.

pub mod local;
pub mod oci_keys;
pub mod oci_layout;
