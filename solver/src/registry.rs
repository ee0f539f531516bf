//! The client of registries: what pulls images and pushes them.
//!
//! Owns [`Registry`] (connections, tokens and limits that all solves of a process share),
//! [`Repository`] (one repository behind its mirrors), [`BlobReader`] (a blob that is downloaded in
//! ranges and read in order), [`Upload`] (what is pushed, in chunks), [`RegistryConfig`] and the [`Credentials`] seam with
//! [`DockerConfig`] behind it.
//!
//! Invariants:
//! - **Nobody but its registry sees a credential.** Redirects are followed here, not by the HTTP
//!   library, and carry no `Authorization` to another origin; a token server gets what the
//!   registry that named it may have, and never in plain text if the registry speaks TLS; no
//!   credential is in a message or in debug output. Nobody but a registry says where its credentials
//!   are to be shown.
//! - **Credentials are asked for only when a registry demands them.**
//! - **Every byte is verified**: documents here, blobs by whoever reads them to their end
//!   ([`crate::content::BlobWriter::finish`]).
//! - **Everything is bounded**: documents, answers, redirects, tries, waits, memory of a download.
//!   A peer that sends nothing, or next to nothing, is given up on.
//! - Nothing is read from the environment but by [`DockerConfig::from_environment`].
//!
//! Leaves to others: what documents mean ([`crate::source::image`]), and storing blobs
//! (`content`).

mod auth;
mod challenge;
mod client;
mod config;
mod credentials;
mod docker_config;
mod download;
mod endpoint;
mod error;
mod helper;
mod payload;
mod repository;
mod retry;
mod tls;
mod token;
mod transport;
mod upload;

pub use auth::Scope;
pub use client::Registry;
pub use config::{ClientIdentity, HostConfig, Mirror, RegistryConfig, Retry, Scheme, Timeouts};
pub use credentials::{
    Anonymous, Credential, CredentialError, Credentials, Password, StaticCredentials,
};
pub use docker_config::DockerConfig;
pub use download::BlobReader;
pub use error::RegistryError;
pub use repository::Repository;
pub use upload::{Pushed, Upload};
