//! What the sandbox does to real processes. These tests need root and a static `/bin/busybox`.

mod fixture;
mod identity;
mod isolated;
mod lifecycle;
mod mounts;
mod security;
mod speed;
mod user_namespace;
