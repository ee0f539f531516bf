//! Configurations of images, asked for while a graph is marshalled.
//!
//! Owns the question and the answer; who answers, and how, is the caller's. No I/O is done here
//! and none is waited for: a resolver that has to ask a registry blocks, or was filled before.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::vertex::{Output, VertexOp};
use crate::{Checksum, Constraints, Image, ImageConfig, Platform, Reference, ResolveMode, State};

/// Answers what image a reference means.
///
/// BuildKit's Go client calls this `ImageMetaResolver`.
///
/// ```
/// use std::error::Error;
/// use std::sync::Arc;
///
/// use ashlar_llb as llb;
/// use llb::{Constraints, ImageConfig, ImageRequest, ImageResolver, Platform, ResolvedImage};
///
/// /// Knows one image.
/// struct Known;
///
/// impl ImageResolver for Known {
///     fn resolve(
///         &self,
///         request: &ImageRequest,
///     ) -> Result<ResolvedImage, Box<dyn Error + Send + Sync>> {
///         if request.reference.path() != "library/golang" {
///             return Err(format!("{} is not known", request.reference).into());
///         }
///         let config = ImageConfig {
///             env: vec!["GOPATH=/go".to_owned()],
///             working_dir: "/go".to_owned(),
///             platform: None,
///         };
///         Ok(ResolvedImage::new(request.reference.clone(), config))
///     }
/// }
///
/// let built = llb::image("golang").resolved_by(Arc::new(Known)).run(["go", "build"]).root();
/// let constraints = Constraints::new(Platform::linux_amd64());
/// assert_eq!(built.resolve(&constraints)?.working_dir(), "/go");
/// built.marshal(&constraints)?;
/// # Ok::<(), llb::MarshalError>(())
/// ```
pub trait ImageResolver: Send + Sync {
    /// Resolves one image.
    ///
    /// # Errors
    /// Whatever keeps it from being resolved; marshalling fails with it.
    fn resolve(
        &self,
        request: &ImageRequest,
    ) -> Result<ResolvedImage, Box<dyn Error + Send + Sync>>;
}

/// What an [`ImageResolver`] is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageRequest {
    /// The image, with a tag or a digest.
    pub reference: Reference,
    /// The platform that is wanted.
    pub platform: Platform,
    /// Whether the registry has to be asked.
    pub resolve_mode: ResolveMode,
}

/// What an [`ImageResolver`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedImage {
    /// The image, which need not be the one that was asked for.
    pub reference: Reference,
    /// Digest of its manifest or index, for [`Image::pinned_by`].
    pub digest: Option<Checksum>,
    /// Its configuration.
    pub config: ImageConfig,
}

impl ResolvedImage {
    /// An answer without a digest.
    #[must_use]
    pub fn new(reference: Reference, config: ImageConfig) -> Self {
        Self {
            reference,
            digest: None,
            config,
        }
    }

    /// Adds the digest.
    #[must_use]
    pub fn with_digest(mut self, digest: impl Into<Checksum>) -> Self {
        self.digest = Some(digest.into());
        self
    }
}

impl Image {
    /// Has `resolver` tell environment, working directory and platform of the image, when the
    /// graph is marshalled. The source op stays as it is. See [`State::defer`].
    #[must_use]
    pub fn resolved_by(&self, resolver: Arc<dyn ImageResolver>) -> State {
        let Some(question) = self.question() else {
            return self.into();
        };
        self.defer(move |state, constraints| {
            let answer = resolver.resolve(&question.on(constraints))?;
            Ok::<_, Box<dyn Error + Send + Sync>>(state.image_config(&answer.config))
        })
    }

    /// Like [`Image::resolved_by`], and starts from what `resolver` answers, with its digest, so
    /// that the image cannot move. If the reference names a digest already only the
    /// configuration is taken.
    #[must_use]
    pub fn pinned_by(&self, resolver: Arc<dyn ImageResolver>) -> State {
        let Some(question) = self.question() else {
            return self.into();
        };
        if question.reference.digest().is_some() {
            return self.resolved_by(resolver);
        }
        let image = State::from(self);
        crate::scratch().defer(move |_, constraints| {
            let answer = resolver.resolve(&question.on(constraints))?;
            let mut reference = answer.reference;
            if let Some(digest) = answer.digest {
                reference = reference.with_digest(digest);
            }
            let state = with_reference(&image, &reference);
            Ok::<_, Box<dyn Error + Send + Sync>>(state.image_config(&answer.config))
        })
    }

    /// What a resolver is asked about this image; nothing if its reference is not valid.
    fn question(&self) -> Option<Question> {
        let vertex = &self.output.as_ref()?.vertex;
        let VertexOp::Source(source) = &vertex.op else {
            return None;
        };
        let reference = source.identifier.strip_prefix("docker-image://")?;
        let mode = source.attrs.get("image.resolvemode").map(String::as_str);
        Some(Question {
            reference: Reference::parse(reference).ok()?,
            platform: vertex.constraints.more().platform.clone(),
            resolve_mode: match mode {
                Some("pull") => ResolveMode::ForcePull,
                Some("local") => ResolveMode::PreferLocal,
                _ => ResolveMode::Default,
            },
        })
    }
}

/// A request of which the marshal's platform may be missing.
struct Question {
    reference: Reference,
    platform: Option<Arc<Platform>>,
    resolve_mode: ResolveMode,
}

impl Question {
    fn on(&self, constraints: &Constraints) -> ImageRequest {
        let platform = self.platform.as_deref().unwrap_or(constraints.platform());
        ImageRequest {
            reference: self.reference.clone(),
            platform: platform.clone(),
            resolve_mode: self.resolve_mode,
        }
    }
}

impl fmt::Debug for dyn ImageResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ImageResolver")
    }
}

/// The same source of another image, with fresh settings.
fn with_reference(image: &State, reference: &Reference) -> State {
    let mut output: Option<Output> = image.output.clone();
    if let Some(output) = &mut output
        && let VertexOp::Source(source) = &mut Arc::make_mut(&mut output.vertex).op
    {
        source.identifier = format!("docker-image://{reference}");
    }
    State::new(output)
}
