//! Pushing: blobs in chunks that are taken up where they broke off, and manifests.

use std::fs::File;
use std::sync::Arc;

use ashlar_llb::digest::BlobDigest;
use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::endpoint::Endpoint;
use super::payload::Payload;
use super::repository::{Repository, described, manifest_headers};
use super::retry::{Tries, retrying};
use super::transport::{Sent, To, told_location, trusted};
use super::{RegistryError, Scope};
use crate::content::ContentError;

/// What a registry may ask for as the least size of a chunk. What wants more is not believed.
const LARGEST_MINIMUM: u64 = 1 << 30;

/// The least bytes of a chunk that a registry gets which refuses larger ones. Who takes no request
/// of so many takes no manifests either.
const SMALLEST_CHUNK: u64 = 64 << 10;

/// A blob to be pushed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Upload {
    digest: BlobDigest,
    size: u64,
    bytes: Payload,
}

impl Upload {
    /// A blob in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            digest: BlobDigest::of(&bytes),
            size: bytes.len() as u64,
            bytes: Payload::Bytes(bytes),
        }
    }

    /// A blob in a file, from its start to its end. The registry checks that it has this digest.
    pub fn file(file: File, digest: BlobDigest, size: u64) -> Self {
        let file = Arc::new(file);
        Self {
            digest,
            size,
            bytes: Payload::File {
                file,
                from: 0,
                length: size,
            },
        }
    }

    /// The digest of the blob.
    pub fn digest(&self) -> BlobDigest {
        self.digest
    }

    fn part(&self, from: u64, length: u64) -> Payload {
        let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match &self.bytes {
            Payload::Bytes(bytes) => {
                let end = at(from.saturating_add(length)).min(bytes.len());
                Payload::Bytes(bytes.slice(at(from).min(end)..end))
            }
            Payload::File { file, .. } => Payload::File {
                file: file.clone(),
                from,
                length,
            },
            other => other.clone(),
        }
    }
}

/// How a blob came into a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pushed {
    /// It was there.
    There,
    /// The registry had it in another repository.
    Mounted,
    /// It was sent.
    Sent,
}

/// An upload that a registry has begun to take.
#[derive(Debug, Clone)]
struct Session {
    address: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// Bytes of a chunk.
    chunk: u64,
    /// The least that the registry takes.
    least: u64,
}

/// What a registry answers to the wish to upload.
enum Begun {
    /// It has the blob now.
    Mounted,
    Session(Session),
}

impl Repository {
    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    ///
    /// # Cancellation
    /// Dropping the future stops it. The same holds for the methods below; what was uploaded until
    /// then is of no use to anybody and removed by the registry in its own time.
    pub async fn contains(&self, digest: &BlobDigest) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let endpoint = self.own()?;
        let head = || self.call(endpoint, Method::HEAD, &path, HeaderMap::new());
        match retrying(self.config().retry, head).await {
            Ok(_) => Ok(true),
            // Some let nobody look who may only write. Writing tells what is allowed.
            Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks the registry to take a blob from another of its repositories, by the name that it has
    /// there. False if it does not.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn mount(&self, digest: &BlobDigest, from: &str) -> Result<bool, RegistryError> {
        match self.ask_for(digest, from).await? {
            Some(Begun::Mounted) => Ok(true),
            None => Ok(false),
            Some(Begun::Session(session)) => {
                // It began an upload instead, which nobody needs.
                let to = To::Address(&session.address);
                let (headers, payload) = (HeaderMap::new(), Payload::None);
                let method = Method::DELETE;
                let ended = self.send(self.own()?, method, to, headers, payload, false);
                let _unneeded = ended.await;
                Ok(false)
            }
        }
    }

    /// Pushes a blob, unless it is there. `from`: another repository of this registry that may have
    /// it.
    ///
    /// What breaks off is taken up where the registry says that it broke off, or from the start if
    /// it does not know any more.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn push_blob(
        &self,
        blob: &Upload,
        from: Option<&str>,
    ) -> Result<Pushed, RegistryError> {
        if self.contains(&blob.digest).await? {
            return Ok(Pushed::There);
        }
        let mut session = None;
        if let Some(from) = from {
            match self.ask_for(&blob.digest, from).await? {
                Some(Begun::Mounted) => return Ok(Pushed::Mounted),
                Some(Begun::Session(begun)) => session = Some(begun),
                None => {}
            }
        }
        let endpoint = self.own()?;
        let mut tries = Tries::new(self.config().retry);
        let mut best = 0;
        loop {
            let begun = match &mut session {
                Some(begun) => begun,
                None => {
                    let begin = || self.begin(endpoint, "blobs/uploads/");
                    match retrying(self.config().retry, begin).await? {
                        // Nothing was asked for that could be there.
                        Begun::Mounted => return Ok(Pushed::Sent),
                        Begun::Session(new) => session.insert(new),
                    }
                }
            };
            let Err(error) = self.upload(endpoint, blob, begun).await else {
                return Ok(Pushed::Sent);
            };
            if let RegistryError::Oversized { bytes, .. } = &error
                && begun.shrink(*bytes)
            {
                let transport = self.transport();
                transport.smaller_chunks(&endpoint.authority, begun.chunk);
                continue;
            }
            if begun.offset >= best + self.least_step() {
                best = begun.offset;
                tries.reset();
            }
            let (lost, broke) = (is_lost(&error), is_broken(&error));
            let (before, sent) = (begun.offset, begun.chunk.min(blob.size - begun.offset));
            tries.after(error, lost).await?;
            let known = !lost && self.look(endpoint, blob, begun).await?;
            if known && broke && begun.offset < before + self.least_step() {
                // Something in between may keep nothing of what does not arrive as a whole.
                begun.shrink(sent);
            }
            if !known {
                session = None;
                // The answer to the last request may be all that was lost.
                if self.contains(&blob.digest).await? {
                    return Ok(Pushed::Sent);
                }
            }
        }
    }

    /// Pushes a manifest or an index under a tag, or under its digest alone, unless that is what is
    /// there.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn push_manifest(
        &self,
        media_type: &str,
        text: impl Into<Bytes>,
        tag: Option<&str>,
    ) -> Result<Pushed, RegistryError> {
        let text = text.into();
        let digest = BlobDigest::of(&text);
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let path = format!("manifests/{name}");
        let endpoint = self.own()?;
        let retry = self.config().retry;
        let head = || self.call(endpoint, Method::HEAD, &path, manifest_headers());
        match retrying(retry, head).await {
            Ok(sent) => {
                if described(&sent, &name).is_some_and(|there| there.digest == digest) {
                    return Ok(Pushed::There);
                }
            }
            Err(
                RegistryError::NotFound { .. }
                | RegistryError::Denied { .. }
                | RegistryError::Status { status: 405, .. },
            ) => {}
            Err(error) => return Err(error),
        }
        let kind = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Answer {
            url: path.clone(),
            problem: "the media type of a manifest is not fit for a header".to_owned(),
        })?;
        let put = || {
            let headers = [(CONTENT_TYPE, kind.clone())].into_iter().collect();
            let payload = Payload::Bytes(text.clone());
            self.send(
                endpoint,
                Method::PUT,
                To::Path(&path),
                headers,
                payload,
                true,
            )
        };
        let sent = retrying(retry, put).await?;
        let told = sent.response.headers().get("docker-content-digest");
        let told: Option<BlobDigest> = told.and_then(|value| value.to_str().ok()?.parse().ok());
        match told {
            Some(found) if found != digest => Err(RegistryError::Content {
                host: endpoint.name.clone(),
                source: ContentError::Digest {
                    expected: digest,
                    found,
                },
            }),
            _ => Ok(Pushed::Sent),
        }
    }

    /// Bytes that count as getting on.
    fn least_step(&self) -> u64 {
        self.config().timeouts.stall_bytes.max(1)
    }

    /// The registry itself.
    fn own(&self) -> Result<&Endpoint, RegistryError> {
        self.endpoints().last().ok_or_else(|| self.nobody())
    }

    /// Asks for a blob of another repository. `None` if it cannot be asked for, which is no reason
    /// not to upload it.
    async fn ask_for(
        &self,
        digest: &BlobDigest,
        from: &str,
    ) -> Result<Option<Begun>, RegistryError> {
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        let both = self.with_scope(Scope::pull(from));
        let endpoint = self.own()?;
        let begun = retrying(self.config().retry, || both.begin(endpoint, &path));
        match begun.await {
            Ok(begun) => Ok(Some(begun)),
            Err(
                RegistryError::Unauthorized { .. }
                | RegistryError::Denied { .. }
                | RegistryError::NotFound { .. }
                | RegistryError::Token { .. }
                | RegistryError::Status {
                    status: 400 | 405, ..
                },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, endpoint: &Endpoint, path: &str) -> Result<Begun, RegistryError> {
        let (to, headers) = (To::Path(path), nothing());
        let sent = self
            .send(endpoint, Method::POST, to, headers, Payload::None, false)
            .await?;
        if sent.response.status() == StatusCode::CREATED {
            return Ok(Begun::Mounted);
        }
        let least = sent.response.headers().get("oci-chunk-min-length");
        let least = least.and_then(|value| value.to_str().ok()?.parse().ok());
        let least: u64 = least.unwrap_or(0).min(LARGEST_MINIMUM);
        Ok(Begun::Session(Session {
            address: next_address(&sent)?,
            offset: 0,
            chunk: self
                .transport()
                .chunk(&endpoint.authority)
                .max(least)
                .max(1),
            least,
        }))
    }

    /// Uploads all that is missing; `begun` tells how far it came. Each request is sent once.
    async fn upload(
        &self,
        endpoint: &Endpoint,
        blob: &Upload,
        begun: &mut Session,
    ) -> Result<(), RegistryError> {
        let in_one = begun.offset == 0 && blob.size <= begun.chunk;
        while !in_one && begun.offset < blob.size {
            self.chunk(endpoint, blob, begun).await?;
        }
        let mut address = begun.address.clone();
        let digest = blob.digest.to_string();
        address.query_pairs_mut().append_pair("digest", &digest);
        let (headers, payload) = match in_one && blob.size > 0 {
            true => (bytes(), blob.part(0, blob.size)),
            false => (nothing(), Payload::None),
        };
        let to = To::Address(&address);
        self.send(endpoint, Method::PUT, to, headers, payload, true)
            .await?;
        Ok(())
    }

    async fn chunk(
        &self,
        endpoint: &Endpoint,
        blob: &Upload,
        session: &mut Session,
    ) -> Result<(), RegistryError> {
        let from = session.offset;
        let length = session.chunk.min(blob.size - from);
        let mut headers = bytes();
        let range = format!("{from}-{}", from + length - 1);
        let range = HeaderValue::from_str(&range).expect("BUG: numbers are good headers");
        headers.insert(CONTENT_RANGE, range);
        let to = To::Address(&session.address);
        let payload = blob.part(from, length);
        let sent = self
            .send(endpoint, Method::PATCH, to, headers, payload, false)
            .await?;
        session.take(&sent, blob, Some(from + length))?;
        match session.offset < (from + self.least_step()).min(from + length) {
            true => Err(RegistryError::Answer {
                url: sent.url,
                problem: "it took next to nothing of a chunk".to_owned(),
            }),
            false => Ok(()),
        }
    }

    /// Asks how far an upload is; false if the registry does not tell.
    async fn look(
        &self,
        endpoint: &Endpoint,
        blob: &Upload,
        session: &mut Session,
    ) -> Result<bool, RegistryError> {
        let sent = {
            let to = To::Address(&session.address);
            let get = || {
                let (headers, payload) = (HeaderMap::new(), Payload::None);
                self.send(endpoint, Method::GET, to, headers, payload, false)
            };
            retrying(self.config().retry, get).await
        };
        match sent {
            Ok(sent) => Ok(session.take(&sent, blob, None).is_ok()),
            // Nor would it answer to anything else.
            Err(error) if error.again().is_some() => Err(error),
            Err(_) => Ok(false),
        }
    }
}

impl Session {
    /// Learns from an answer where to go on. `expected`: how far it is if the answer does not say.
    fn take(
        &mut self,
        sent: &Sent,
        blob: &Upload,
        expected: Option<u64>,
    ) -> Result<(), RegistryError> {
        let bad = |problem: &str| RegistryError::Answer {
            url: sent.url.clone(),
            problem: problem.to_owned(),
        };
        if sent.response.headers().contains_key("location") {
            self.address = next_address(sent)?;
        }
        let range = sent.response.headers().get(RANGE);
        let told = range.and_then(|value| value.to_str().ok()).and_then(end_of);
        let offset = told
            .or(expected)
            .ok_or_else(|| bad("it does not say how far the upload is"))?;
        if offset > blob.size {
            return Err(bad("it has more bytes than were sent"));
        }
        self.offset = offset;
        Ok(())
    }

    /// Makes chunks smaller than so many bytes, which did not arrive; false if they cannot be.
    fn shrink(&mut self, bytes: u64) -> bool {
        let mut chunk = SMALLEST_CHUNK;
        while chunk.saturating_mul(4) < bytes {
            chunk *= 4;
        }
        let is_smaller = chunk < bytes.min(self.chunk) && chunk >= self.least;
        if is_smaller {
            self.chunk = chunk;
        }
        is_smaller
    }
}

/// Bytes that a registry has by a header such as `0-99`. Without any it says `0-0`.
fn end_of(range: &str) -> Option<u64> {
    let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

/// Where an upload goes on.
fn next_address(sent: &Sent) -> Result<Url, RegistryError> {
    let from = &sent.at;
    let next = told_location(from, &sent.response).and_then(|mut next| {
        // Registries behind a proxy may not know that they speak TLS.
        let same = next.host_str() == from.host_str()
            && (next.port().is_none() || next.port() == from.port());
        if from.scheme() == "https" && next.scheme() == "http" && same {
            let changed = next
                .set_scheme("https")
                .and_then(|()| next.set_port(from.port()));
            changed.map_err(|()| "its address is not one of the web")?;
        }
        trusted(from, next)
    });
    next.map_err(|problem| RegistryError::Redirect {
        url: sent.url.clone(),
        problem: problem.to_owned(),
    })
}

/// Whether an error means that something was sent in vain because the way broke off.
fn is_broken(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Unreachable { .. }
            | RegistryError::Elsewhere { .. }
            | RegistryError::Timeout { .. }
            | RegistryError::Stuck { .. }
    )
}

/// Whether an error means that the registry knows nothing of the upload any more, or something else
/// than we do.
fn is_lost(error: &RegistryError) -> bool {
    match error {
        RegistryError::NotFound { .. } | RegistryError::Answer { .. } => true,
        RegistryError::Status {
            status: 400 | 409 | 410 | 416,
            message,
            ..
        } => !message.contains("(DIGEST_INVALID)"),
        _ => false,
    }
}

fn nothing() -> HeaderMap {
    [(CONTENT_LENGTH, HeaderValue::from_static("0"))]
        .into_iter()
        .collect()
}

fn bytes() -> HeaderMap {
    let kind = HeaderValue::from_static("application/octet-stream");
    [(CONTENT_TYPE, kind)].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_tell_how_much_is_there() {
        assert_eq!(end_of("0-0"), Some(0));
        assert_eq!(end_of("0-99"), Some(100));
        assert_eq!(end_of("bytes=0-99"), Some(100));
        for bad in ["", "0", "-", "0-x", "0-18446744073709551615"] {
            assert_eq!(end_of(bad), None, "{bad}");
        }
    }
}
