//! Source ops: what the graph starts from.
//!
//! Owns the operation of each kind of source, by the scheme of its identifier, and the keys that
//! BuildKit gives them (`source.v0`). How content is fetched is the business of
//! [`crate::source`].

#[cfg(feature = "registry")]
mod image;
mod image_layers;
mod local;
mod oci_layout;

use std::num::NonZero;
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::{Platform, Vertex, pb};

use super::Engine;
use crate::error::{Blame, Fault, OperationError};
use crate::id::CacheDigest;
use crate::operation::{CacheMap, Operation};
use crate::refs::Ref;
use crate::source::image::ResolvedImage;
use crate::source::oci_keys::{chain_key, manifest_key};

/// A source op that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is no such kind of source here.
    #[error("sources of the scheme `{scheme}` are not supported yet")]
    Scheme {
        /// The part of the identifier before `://`.
        scheme: String,
    },
    /// The identifier has no scheme, or nothing behind it.
    #[error("`{identifier}` does not identify a source")]
    Identifier {
        /// The identifier.
        identifier: String,
    },
    /// An attribute has a value that its meaning does not allow.
    #[error("invalid value `{value}` of `{attribute}`")]
    Attribute {
        /// The attribute.
        attribute: &'static str,
        /// Its value.
        value: String,
    },
    /// A reference leads to another image than the source op insists on.
    #[error("`{reference}` is {found}, the source wants {expected}")]
    Checksum {
        /// The reference.
        reference: String,
        /// What the op says.
        expected: BlobDigest,
        /// What it leads to.
        found: BlobDigest,
    },
    /// It is not in the store, and the solve must not ask anybody
    /// ([`ResolveMode::Offline`](crate::source::image::ResolveMode)).
    #[error("{what} is not in the store, and nobody may be asked for it")]
    Offline {
        /// What is missing.
        what: String,
    },
    /// The caller did not lend what the source names.
    #[error("the caller lent no {what} called `{name}`")]
    NotLent {
        /// `local directory` or `image layout`.
        what: &'static str,
        /// The name.
        name: String,
    },
}

impl Blame for SourceError {
    fn fault(&self) -> Fault {
        Fault::Input
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Scheme { scheme } if scheme == "docker-image" => {
                Some("build ashlar-solver with its feature `registry`".to_owned())
            }
            Self::Offline { .. } => {
                Some("solve once with ResolveMode::Always or IfMissing".to_owned())
            }
            Self::NotLent {
                what: "local directory",
                name,
            } => Some(format!(
                "lend it with SolveRequest::local(\"{name}\", path)"
            )),
            Self::NotLent { name, .. } => Some(format!(
                "lend it with SolveRequest::oci_layout(\"{name}\", path)"
            )),
            _ => None,
        }
    }
}

/// Makes the operation of a source op.
///
/// # Errors
/// [`SourceError`].
pub(super) fn operation(
    op: &pb::SourceOp,
    vertex: &Vertex,
    engine: &Arc<Engine>,
) -> Result<Arc<dyn Operation<Ref>>, OperationError> {
    let parts = op
        .identifier
        .split_once("://")
        .filter(|(_, rest)| !rest.is_empty());
    let Some((scheme, rest)) = parts else {
        return Err(SourceError::Identifier {
            identifier: op.identifier.clone(),
        }
        .into());
    };
    match scheme {
        "local" => Ok(Arc::new(local::LocalOperation::new(rest, op, engine)?)),
        "oci-layout" => Ok(Arc::new(oci_layout::OciLayoutOperation::new(
            rest, op, vertex, engine,
        )?)),
        #[cfg(feature = "registry")]
        "docker-image" => Ok(Arc::new(image::ImageOperation::new(
            rest, op, vertex, engine,
        )?)),
        _ => Err(SourceError::Scheme {
            scheme: scheme.to_owned(),
        }
        .into()),
    }
}

/// The platform that an image is wanted for.
fn platform_of(vertex: &Vertex) -> Platform {
    vertex
        .platform()
        .map_or_else(Platform::of_target, |platform| {
            Platform::from(platform).normalised()
        })
}

/// The first key of an image: by what its reference leads to.
fn manifest_map(image: &ResolvedImage, platform: &Platform, limit: Option<usize>) -> CacheMap {
    let key = manifest_key(&image.root.digest, platform, limit);
    let mut map = CacheMap::leaf(digest(&key));
    map.further = true;
    map
}

/// The second key of an image: those whose layers are equal match, whatever their manifests and
/// configs say.
fn layers_map(image: &ResolvedImage, limit: Option<usize>) -> Option<CacheMap> {
    let key = chain_key(&image.config_bytes, limit);
    key.map(|key| CacheMap::leaf(digest(&key)))
}

/// The cache digest of a source whose key is `key` (`buildkit.source.v0`).
fn digest(key: &str) -> CacheDigest {
    CacheDigest::of(format!("buildkit.source.v0:{key}").as_bytes())
}

/// How many layers of an image are wanted; `None` for all.
fn layer_limit(op: &pb::SourceOp, attribute: &'static str) -> Result<Option<usize>, SourceError> {
    let Some(value) = op.attrs.get(attribute) else {
        return Ok(None);
    };
    match value.parse::<NonZero<usize>>() {
        Ok(limit) => Ok(Some(limit.get())),
        Err(_) => Err(SourceError::Attribute {
            attribute,
            value: value.clone(),
        }),
    }
}
