//! Tests of the public API, most of them against output of BuildKit itself.

mod golden;
mod golden_graph;
mod golden_wire;
