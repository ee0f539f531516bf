//! Tests of the public API, most of them against output of BuildKit itself.

mod builder;
mod bytes_by_hand;
mod deferred;
mod golden;
mod golden_graph;
mod golden_llb;
mod golden_patterns;
mod golden_platforms;
mod golden_refs;
mod golden_wire;
mod hostile;
mod hostile_size;
mod names;
mod op_rules;
mod properties;
mod reading;
mod rewriting;
mod support;
mod types;
