//! Where content comes from outside the graph.

pub mod local;
