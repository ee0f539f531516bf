//! Tests of the public API: against output of BuildKit itself, and against the kernel.

#![expect(clippy::unwrap_used, reason = "in a test the failure is the message")]

mod apply_gnu;
mod golden;
mod golden_checksum;
mod pack_golden;
mod tar_tree;
