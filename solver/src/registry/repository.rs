//! One repository: its manifests, and the way to its blobs.

use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::client::Registry;
use super::endpoint::Endpoint;
use super::payload::Payload;
use super::retry::retrying;
use super::transport::{Body, Call, Sent, To, Transport};
use super::{RegistryConfig, RegistryError, Scope};
use crate::content::ContentError;
use crate::oci::{Descriptor, media_type};

/// A repository of a registry, behind its mirrors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    name: String,
    endpoints: Vec<Endpoint>,
    /// What tokens have to be good for beside this repository.
    scopes: Vec<Scope>,
    /// Whether it is written to.
    write: bool,
}

impl Repository {
    pub(super) fn new(registry: Registry, name: String, endpoints: Vec<Endpoint>) -> Self {
        Self(Arc::new(Inner {
            registry,
            name,
            endpoints,
            scopes: Vec::new(),
            write: false,
        }))
    }

    /// Its full name, without tag and digest.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The same repository, with tokens that are good for another scope too, as work on two
    /// repositories at once needs them.
    #[must_use]
    pub fn with_scope(&self, scope: Scope) -> Self {
        let inner = &self.0;
        let mut scopes = inner.scopes.clone();
        scopes.push(scope);
        Self(Arc::new(Inner {
            registry: inner.registry.clone(),
            name: inner.name.clone(),
            endpoints: inner.endpoints.clone(),
            scopes,
            write: inner.write,
        }))
    }

    /// The same repository to be written to: with tokens that are good for that, and without its
    /// mirrors.
    #[must_use]
    pub fn writable(&self) -> Self {
        let inner = &self.0;
        let own = inner.endpoints.len().saturating_sub(1);
        Self(Arc::new(Inner {
            registry: inner.registry.clone(),
            name: inner.name.clone(),
            endpoints: inner.endpoints[own..].to_vec(),
            scopes: inner.scopes.clone(),
            write: true,
        }))
    }

    /// What a tag or digest leads to: a manifest or an index, by its digest. Asks for the head of
    /// the document alone where the registry says enough in it.
    ///
    /// # Errors
    /// [`RegistryError`].
    ///
    /// # Cancellation
    /// Dropping the future stops it; nothing was changed. The same holds for the other methods.
    pub async fn resolve(&self, tag: &str, limit: u64) -> Result<Descriptor, RegistryError> {
        for (endpoint, last) in self.places() {
            match self.resolve_at(endpoint, tag, limit).await {
                Err(error) if !last => unhelpful(endpoint, &error),
                done => return done,
            }
        }
        Err(self.nobody())
    }

    async fn resolve_at(
        &self,
        endpoint: &Endpoint,
        tag: &str,
        limit: u64,
    ) -> Result<Descriptor, RegistryError> {
        let path = format!("manifests/{tag}");
        let retry = self.config().retry;
        let attempt = || self.call(endpoint, Method::HEAD, &path, manifest_headers());
        let told = match retrying(retry, attempt).await {
            Ok(sent) => described(&sent, tag),
            // Some registries know no HEAD.
            Err(RegistryError::Status { status: 405, .. }) => None,
            Err(error) => return Err(error),
        };
        match told {
            Some(told) => Ok(told),
            None => Ok(self.manifest_at(endpoint, tag, limit).await?.0),
        }
    }

    /// The manifest or index that a tag or digest leads to, of at most `limit` bytes. If it was
    /// asked for by digest, it has that digest.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn manifest(
        &self,
        tag: &str,
        limit: u64,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        for (endpoint, last) in self.places() {
            match self.manifest_at(endpoint, tag, limit).await {
                Err(error) if !last => unhelpful(endpoint, &error),
                done => return done,
            }
        }
        Err(self.nobody())
    }

    async fn manifest_at(
        &self,
        endpoint: &Endpoint,
        tag: &str,
        limit: u64,
    ) -> Result<(Descriptor, Vec<u8>), RegistryError> {
        let path = format!("manifests/{tag}");
        retrying(self.config().retry, || async {
            let sent = self
                .call(endpoint, Method::GET, &path, manifest_headers())
                .await?;
            let told = described(&sent, tag);
            let kind = content_type(&sent);
            let bytes = self.body(sent).all(limit).await?;
            let digest = BlobDigest::of(&bytes);
            let promised = tag.parse().ok().or(told.map(|told| told.digest));
            match promised {
                Some(expected) if expected != digest => Err(RegistryError::Content {
                    host: endpoint.name.clone(),
                    source: ContentError::Digest {
                        expected,
                        found: digest,
                    },
                }),
                _ => Ok((Descriptor::new(kind, digest, bytes.len() as u64), bytes)),
            }
        })
        .await
    }

    /// A document that a descriptor promises: a manifest, an index, or a blob that is small enough
    /// to be held in memory. It is verified.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn document(
        &self,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        for (endpoint, last) in self.places() {
            match self.document_at(endpoint, descriptor, limit).await {
                Err(error) if !last => unhelpful(endpoint, &error),
                done => return done,
            }
        }
        Err(self.nobody())
    }

    async fn document_at(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let kind = &descriptor.media_type[..];
        let digest = descriptor.digest;
        let (path, headers) = match media_type::is_manifest(kind) || media_type::is_index(kind) {
            true => (format!("manifests/{digest}"), manifest_headers()),
            false => (format!("blobs/{digest}"), HeaderMap::new()),
        };
        let limit = limit.min(descriptor.size);
        let attempt = || async {
            let sent = self.call(endpoint, Method::GET, &path, headers.clone());
            self.body(sent.await?).all(limit).await
        };
        let bytes = retrying(self.config().retry, attempt).await;
        let wrong = |source| RegistryError::Content {
            host: endpoint.name.clone(),
            source,
        };
        let size = |found| ContentError::Size {
            digest,
            expected: descriptor.size,
            found,
        };
        let bytes = bytes.map_err(|error| match error {
            RegistryError::TooLarge { .. } if limit == descriptor.size => wrong(size(limit + 1)),
            error => error,
        })?;
        let found = BlobDigest::of(&bytes);
        if bytes.len() as u64 != descriptor.size {
            return Err(wrong(size(bytes.len() as u64)));
        }
        if found != digest {
            let expected = digest;
            return Err(wrong(ContentError::Digest { expected, found }));
        }
        Ok(bytes)
    }

    /// The places to ask, in their order, and whether it is the last one: the registry itself,
    /// whose error counts.
    fn places(&self) -> impl Iterator<Item = (&Endpoint, bool)> {
        let all = &self.0.endpoints;
        all.iter()
            .enumerate()
            .map(|(at, endpoint)| (endpoint, at + 1 == all.len()))
    }

    /// There is always a place to ask.
    pub(super) fn nobody(&self) -> RegistryError {
        let host = self.0.name.clone();
        RegistryError::Interrupted { host }
    }

    pub(super) fn config(&self) -> &RegistryConfig {
        self.transport().config()
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.0.registry.0.transport
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.0.endpoints
    }

    pub(super) async fn call(
        &self,
        endpoint: &Endpoint,
        method: Method,
        path: &str,
        headers: HeaderMap,
    ) -> Result<Sent, RegistryError> {
        let to = To::Path(path);
        let payload = Payload::None;
        self.send(endpoint, method, to, headers, payload, false)
            .await
    }

    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        method: Method,
        to: To<'_>,
        headers: HeaderMap,
        payload: Payload,
        commits: bool,
    ) -> Result<Sent, RegistryError> {
        let mut scopes = vec![match self.0.write {
            true => Scope::push(&endpoint.repository),
            false => Scope::pull(&endpoint.repository),
        }];
        scopes.extend(self.0.scopes.iter().cloned());
        let call = Call {
            method,
            endpoint,
            to,
            headers,
            scopes: &scopes,
            payload,
            commits,
        };
        self.transport().call(&call).await
    }

    pub(super) fn body(&self, sent: Sent) -> Body {
        self.transport().body(sent)
    }
}

fn unhelpful(mirror: &Endpoint, error: &RegistryError) {
    tracing::debug!(host = %mirror.name, %error, "a mirror did not help");
}

pub(super) fn manifest_headers() -> HeaderMap {
    let accepted = [
        media_type::OCI_INDEX,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_LIST,
        media_type::DOCKER_MANIFEST,
        "*/*;q=0.1",
    ];
    let text = accepted.join(", ");
    let value = HeaderValue::from_str(&text).expect("BUG: media types are good headers");
    [(ACCEPT, value)].into_iter().collect()
}

fn content_type(sent: &Sent) -> String {
    let value = sent.response.headers().get(CONTENT_TYPE);
    let text = value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    // Some registries do not know; the document says it then.
    match media_type::is_manifest(kind) || media_type::is_index(kind) {
        true => kind.to_owned(),
        false => String::new(),
    }
}

/// What the head of an answer says about the document; `None` if it does not say enough.
pub(super) fn described(sent: &Sent, tag: &str) -> Option<Descriptor> {
    let header = |name: &str| sent.response.headers().get(name)?.to_str().ok();
    let digest: BlobDigest = header("docker-content-digest")?.parse().ok()?;
    if tag.parse().is_ok_and(|asked: BlobDigest| asked != digest) {
        return None;
    }
    let size = header(CONTENT_LENGTH.as_str())?.parse().ok()?;
    Some(Descriptor::new(content_type(sent), digest, size)).filter(|told| told.size > 0)
}
