//! Images of a registry.
//!
//! Owns the builder of `docker-image://` sources. References are made fully qualified here;
//! looking them up is the engine's, or the caller's before the graph is built.

use crate::caps::Cap;
use crate::source::{InvalidSource, source_builder, source_state};
use crate::{Checksum, Reference, State};

/// When an engine asks the registry about an image it already has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResolveMode {
    /// The engine decides.
    #[default]
    Default,
    /// Always.
    ForcePull,
    /// Only if it has no image of that name.
    PreferLocal,
}

/// An image of a registry; a [`State`] whose source op still takes options.
#[derive(Clone, Debug)]
pub struct Image {
    state: State,
}

/// Starts from an image of a registry.
///
/// The reference is made fully qualified (`alpine` is `docker.io/library/alpine:latest`); one
/// that does not parse is reported by [`State::marshal`].
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Platform, ResolveMode};
///
/// let base = llb::image("alpine:3.20")
///     .resolve_mode(ResolveMode::ForcePull)
///     .platform(Platform::linux_amd64())
///     .dir("/src");
/// # let _ = base;
/// ```
#[must_use]
pub fn image(reference: impl AsRef<str>) -> Image {
    let reference = reference.as_ref();
    let mut image = Image {
        state: source_state(String::new(), Some(Cap::SourceImage)),
    };
    image.set_reference(reference, None);
    image
}

source_builder!(Image);

impl Image {
    fn set_reference(&mut self, text: &str, digest: Option<Checksum>) {
        let source = self.source_mut();
        match Reference::parse(text) {
            Ok(reference) => {
                let reference = match digest {
                    Some(digest) => reference.with_digest(digest),
                    None => reference.with_default_tag(),
                };
                source.identifier = format!("docker-image://{reference}");
                source.invalid = None;
            }
            Err(error) => {
                source.identifier = format!("docker-image://{text}");
                source.invalid = Some(InvalidSource::Reference {
                    reference: text.to_owned(),
                    source: error,
                });
            }
        }
    }

    /// Adds the digest that the reference was resolved to, so that it cannot move. A reference
    /// that names a digest already is left alone.
    #[must_use]
    pub fn pin(mut self, digest: impl Into<Checksum>) -> Self {
        let identifier = &self.source_mut().identifier;
        let text = identifier.trim_start_matches("docker-image://").to_owned();
        if !text.contains('@') {
            self.set_reference(&text, Some(digest.into()));
        }
        self
    }

    /// Decides when the engine asks the registry.
    #[must_use]
    pub fn resolve_mode(self, mode: ResolveMode) -> Self {
        const KEY: &str = "image.resolvemode";
        match mode {
            ResolveMode::Default => {
                let mut image = self;
                image.source_mut().attrs.remove(KEY);
                image
            }
            ResolveMode::ForcePull => self.attr(KEY, "pull", Some(Cap::SourceImageResolvemode)),
            // Not asking is only a preference, so that no capability is needed for it.
            ResolveMode::PreferLocal => self.attr(KEY, "local", None),
        }
    }

    /// Takes only the lowest `limit` layers.
    #[must_use]
    pub fn layer_limit(self, limit: u32) -> Self {
        let cap = Some(Cap::SourceImageLayerlimit);
        self.attr("image.layerlimit", limit.to_string(), cap)
    }

    /// Demands that the reference resolves to this digest.
    #[must_use]
    pub fn checksum(self, digest: impl Into<Checksum>) -> Self {
        let cap = Some(Cap::SourceImageChecksum);
        self.attr("image.checksum", digest.into().to_string(), cap)
    }

    /// Marks the image as one the build needs for itself, such as a frontend.
    #[must_use]
    pub fn internal(self) -> Self {
        self.attr("image.recordtype", "internal", None)
    }
}
