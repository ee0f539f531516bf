//! What the sandbox does to real processes. These tests need root and a static `/bin/busybox`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod fixture;
mod identity;
mod inner;
mod isolated;
mod lifecycle;
mod mounts;
mod security;
mod speed;
mod terminal;
mod user_namespace;
