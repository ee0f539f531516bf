//! The client against registries that fail in every way they can.
#![cfg(feature = "registry")]

mod auth;
mod blobs;
mod credentials;
mod documents;
pub(crate) mod fake;
mod image;
mod kit;
mod named;
mod proxies;
mod sink;
mod upload;
