//! Tests that start processes in overlay mounts: they need root and a static `/bin/busybox`.

#![expect(clippy::unwrap_used, reason = "in a test the failure is the message")]

mod chosen;
mod contract;
mod exec;
mod hostile;
mod killed;
#[path = "../it/ops_kit.rs"]
mod ops_kit;
