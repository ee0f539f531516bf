//! Tests of the public API: against output of BuildKit itself, and against the kernel.

#![expect(clippy::unwrap_used, reason = "in a test the failure is the message")]

mod apply_gnu;
mod executor_contract;
mod golden;
mod golden_cache_keys;
mod golden_cache_records;
mod golden_checksum;
mod hostile;
mod hostile_names;
mod kernel_view;
mod key_mutations;
mod malicious;
mod ops_build;
mod ops_exec;
mod ops_file;
mod ops_kit;
mod ops_unpack;
mod overlay;
mod pack_golden;
mod provenance;
mod registry;
mod scheduler;
mod snapshot;
mod tar_crate;
mod tar_tree;
mod traces;
mod turns;
