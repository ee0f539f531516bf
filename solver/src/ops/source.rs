//! Source ops: what the graph starts from.
//!
//! Owns [`Source`], what every kind of source promises, one module for each kind, by the scheme of
//! its identifier, and the keys that BuildKit gives them (`source.v0`).
//!
//! Invariant: **what was keyed is what is fetched**: a source is pinned once per solve, and its keys
//! and its content are those of the pin.
//!
//! Leaves to others: how content is found, verified and read ([`crate::source`]).

#[cfg(feature = "registry")]
mod image;
pub(super) mod image_layers;
mod local;
mod oci_layout;

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::{OpDigest, Platform, Vertex, pb};
use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::Engine;
use crate::error::{Blame, Fault, OperationError};
use crate::id::CacheDigest;
use crate::operation::{CacheMap, Context, Operation};
use crate::progress::{Ignore, Reporter};
use crate::provenance::ResolvedSource;
use crate::refs::Ref;
use crate::source::image::ResolvedImage;
use crate::source::oci_keys::{chain_key, manifest_key};

/// One source, as its op describes it.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug {
    /// What the source turned out to be.
    type Pin: Send + Sync + fmt::Debug;

    /// Finds out what the source stands for and gives an immutable identity: the manifest that a
    /// tag leads to, and what it says. Called once per solve. May ask others; downloads no content.
    ///
    /// # Errors
    /// [`SourceError`], or as those say who were asked.
    ///
    /// # Cancellation
    /// The future may be dropped at any await.
    async fn pin(&self, context: &Context) -> Result<Self::Pin, OperationError>;

    /// What is told of what is pinned, for provenance. No secret, no path of the caller.
    fn resolved(&self, pin: &Self::Pin) -> ResolvedSource;

    /// The `index`th key of what is pinned, from 0. All keys stand for the same content; the first
    /// is the one to be found under the next time. `None`: there are no more. Every source has one.
    fn cache_key(&self, pin: &Self::Pin, index: usize) -> Option<CacheMap>;

    /// Gives the content of what is pinned. It may be lazy: had when something reads it.
    ///
    /// # Errors
    /// As [`Source::pin`]; content that is not what the pin promises is an error.
    ///
    /// # Cancellation
    /// The future may be dropped at any await; what it started ends with it.
    async fn fetch(&self, pin: &Self::Pin, context: &Context) -> Result<Ref, OperationError>;

    /// What is pinned as it is where it comes from, to be had when something reads it, if it is made
    /// of layers. Fetching it is told to `reporter`.
    fn origin(&self, _pin: &Self::Pin, _reporter: Reporter) -> Option<Ref> {
        None
    }
}

/// A source as the scheduler sees it.
#[derive(Debug)]
struct SourceOperation<S: Source> {
    source: S,
    pin: OnceCell<S::Pin>,
    vertex: OpDigest,
    engine: Arc<Engine>,
}

impl<S: Source + 'static> SourceOperation<S> {
    fn boxed(source: S, vertex: &Vertex, engine: &Arc<Engine>) -> Arc<dyn Operation<Ref>> {
        Arc::new(Self {
            source,
            pin: OnceCell::new(),
            vertex: vertex.digest(),
            engine: engine.clone(),
        })
    }

    async fn pin(&self, context: &Context) -> Result<&S::Pin, OperationError> {
        let pin = || async {
            let pin = self.source.pin(context).await?;
            let resolved = self.source.resolved(&pin);
            self.engine.note_source(self.vertex, resolved);
            Ok(pin)
        };
        tokio::select! {
            pin = self.pin.get_or_try_init(pin) => pin,
            () = context.cancel.cancelled() => Err(OperationError::Cancelled),
        }
    }
}

#[async_trait]
impl<S: Source + 'static> Operation<Ref> for SourceOperation<S> {
    async fn cache_map(&self, context: &Context) -> Result<CacheMap, OperationError> {
        let pin = self.pin(context).await?;
        let first = self.source.cache_key(pin, 0);
        Ok(first.expect("BUG: every source has a key"))
    }

    async fn further_cache_map(
        &self,
        index: usize,
        context: &Context,
    ) -> Result<Option<CacheMap>, OperationError> {
        let pin = self.pin(context).await?;
        Ok(self.source.cache_key(pin, index))
    }

    async fn run(&self, _: Vec<Ref>, context: &Context) -> Result<Vec<Ref>, OperationError> {
        let pin = self.pin(context).await?;
        Ok(vec![self.source.fetch(pin, context).await?])
    }

    fn origins(&self) -> Vec<Ref> {
        let Some(pin) = self.pin.get() else {
            return Vec::new();
        };
        // It is read when the solve is over, and nobody listens any more.
        let nobody = Arc::new(Ignore);
        let reporter = Reporter::new(nobody, self.vertex, self.engine.clock.clone());
        self.source.origin(pin, reporter).into_iter().collect()
    }
}

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
    /// Makes the operation of a source.
    macro_rules! boxed {
        ($source:expr) => {
            $source.map(|source| SourceOperation::boxed(source, vertex, engine))
        };
    }
    match scheme {
        "local" => boxed!(local::LocalSource::new(rest, op, engine)),
        "oci-layout" => boxed!(oci_layout::OciLayoutSource::new(rest, op, vertex, engine)),
        #[cfg(feature = "registry")]
        "docker-image" => boxed!(image::ImageSource::new(rest, op, vertex, engine)),
        _ => Err(SourceError::Scheme {
            scheme: scheme.to_owned(),
        }),
    }
    .map_err(OperationError::from)
}

/// Whether the op alone decides what the source is, so that it need not be looked at to know
/// whether it changed.
pub(crate) fn is_fixed(op: &pb::SourceOp) -> bool {
    let Some((scheme, rest)) = op.identifier.split_once("://") else {
        return false;
    };
    let checksum = match scheme {
        "docker-image" | "oci-layout" => {
            let reference = ashlar_llb::reference::Reference::parse(rest);
            if reference.is_ok_and(|reference| reference.digest().is_some()) {
                return true;
            }
            // What a layout is asked for is not compared with a checksum.
            if scheme == "oci-layout" {
                return false;
            }
            "image.checksum"
        }
        "docker-image+blob" | "oci-layout+blob" => return true,
        "http" | "https" => "http.checksum",
        "git" => "git.checksum",
        _ => return false,
    };
    op.attrs
        .get(checksum)
        .is_some_and(|value| !value.is_empty())
}

/// What is told of an image.
fn resolved_image(
    reference: String,
    platform: &Platform,
    image: &ResolvedImage,
    layout: bool,
) -> ResolvedSource {
    ResolvedSource::Image {
        reference,
        platform: platform.clone(),
        digest: image.root.digest,
        layout,
        layers: image.layers.iter().map(image_layers::blob_of).collect(),
    }
}

/// The keys of an image. The first is by what its reference leads to; under the second those match
/// whose layers are equal, whatever their manifests and configs say.
fn image_key(
    image: &ResolvedImage,
    platform: &Platform,
    limit: Option<usize>,
    index: usize,
) -> Option<CacheMap> {
    match index {
        0 => {
            let mut map =
                CacheMap::leaf(digest(&manifest_key(&image.root.digest, platform, limit)));
            map.further = true;
            Some(map)
        }
        1 => chain_key(&image.config_bytes, limit).map(|key| CacheMap::leaf(digest(&key))),
        _ => None,
    }
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
