//! Requests: one at a time, with what has to be shown, over redirects, to an answer or an error.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::auth::Auth;
use super::endpoint::{Endpoint, schemes};
use super::error::shown;
use super::payload::{Late, Payload};
use super::retry::retry_after;
use super::{HostConfig, RegistryConfig, RegistryError, Scope, tls};
use crate::clock::Clock;

/// Bytes of an error message that are read.
const ERROR_BYTES: u64 = 16 << 10;

/// Letters of an error message that are repeated.
const ERROR_LETTERS: usize = 300;

/// A request to a registry.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) endpoint: &'a Endpoint,
    pub(super) to: To<'a>,
    pub(super) headers: HeaderMap,
    /// What a token has to be good for.
    pub(super) scopes: &'a [Scope],
    pub(super) payload: Payload,
    /// Whether the registry may take long to answer: it has a blob to take in.
    pub(super) commits: bool,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum To<'a> {
    /// What follows the name of the repository in the path.
    Path(&'a str),
    /// Where the registry said: perhaps somewhere else.
    Address(&'a Url),
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) response: Response,
    /// The address that answered, fit to be shown.
    pub(super) url: String,
    /// The address that answered.
    pub(super) at: Url,
    /// Counts the request until its body is read.
    permit: Option<OwnedSemaphorePermit>,
}

/// What all requests share.
#[derive(Debug)]
pub(super) struct Transport {
    config: RegistryConfig,
    clock: Arc<dyn Clock>,
    auth: Auth,
    system_roots: Mutex<Option<Arc<Vec<CertificateDer<'static>>>>>,
    /// The clients of hosts with settings of their own; that of all others under the empty name.
    clients: Mutex<HashMap<String, Client>>,
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// The schemes that hosts were found to speak.
    schemes: Mutex<HashMap<String, &'static str>>,
    /// The largest chunks that hosts are sent which refused larger ones.
    chunks: Mutex<HashMap<String, u64>>,
}

impl Transport {
    pub(super) fn new(config: RegistryConfig, auth: Auth, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            clock,
            auth,
            system_roots: Mutex::default(),
            clients: Mutex::default(),
            permits: Mutex::default(),
            schemes: Mutex::default(),
            chunks: Mutex::default(),
        }
    }

    pub(super) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    fn system_roots(&self) -> Arc<Vec<CertificateDer<'static>>> {
        let mut roots = self
            .system_roots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let read = || match self.config.system_roots {
            true => Arc::new(tls::system_roots()),
            false => Arc::default(),
        };
        roots.get_or_insert_with(read).clone()
    }

    /// The client for a host of the settings, by its name there.
    fn client(&self, name: &str) -> Result<Client, RegistryError> {
        let own = self.config.hosts.get(name);
        let key = own.map_or("", |_| name);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        let roots = self.system_roots();
        let usual = HostConfig::default();
        let made = tls::client(&self.config, name, own.unwrap_or(&usual), &roots)?;
        clients.insert(key.to_owned(), made.clone());
        Ok(made)
    }

    async fn permit(&self, authority: &str) -> Option<OwnedSemaphorePermit> {
        let semaphore = {
            let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(self.config.connections_per_host.max(1)));
            permits
                .entry(authority.to_owned())
                .or_insert_with(new)
                .clone()
        };
        semaphore.acquire_owned().await.ok()
    }

    fn tried_schemes(&self, endpoint: &Endpoint) -> Vec<&'static str> {
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scheme) = known.get(&endpoint.authority) {
            return vec![*scheme];
        }
        let own = self.config.hosts.get(&endpoint.name);
        let scheme = own.map(|host| host.scheme).unwrap_or_default();
        schemes(scheme, &endpoint.authority).to_vec()
    }

    /// Bytes of the chunks in which blobs are sent to a host.
    pub(super) fn chunk(&self, authority: &str) -> u64 {
        let chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chunks.get(authority).copied().unwrap_or(u64::MAX);
        self.config.upload_chunk_bytes.min(known)
    }

    /// Learns that a host takes no larger chunks.
    pub(super) fn smaller_chunks(&self, authority: &str, bytes: u64) {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let known = chunks.entry(authority.to_owned()).or_insert(bytes);
        *known = bytes.min(*known);
    }

    /// Whether a registry is spoken to in plain text.
    pub(super) fn is_plain(&self, endpoint: &Endpoint) -> bool {
        self.tried_schemes(endpoint)[..] == ["http"]
    }

    /// Whether an address is one of the registry itself.
    fn is_registry(&self, endpoint: &Endpoint, url: &Url) -> bool {
        self.tried_schemes(endpoint).iter().any(|scheme| {
            let own = Url::parse(&format!("{scheme}://{}", endpoint.authority));
            own.is_ok_and(|own| own.origin() == url.origin())
        })
    }

    /// Sends a request: once, but for what it takes to be let in. Answers other than success are
    /// errors.
    #[tracing::instrument(
        level = "debug",
        name = "request",
        skip_all,
        fields(host = %call.endpoint.name, method = %call.method)
    )]
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Sent, RegistryError> {
        let permit = self.permit(&call.endpoint.authority).await;
        let elsewhere = match call.to {
            To::Path(_) => false,
            To::Address(url) => !self.is_registry(call.endpoint, url),
        };
        let mut demanded: Option<Option<String>> = None;
        loop {
            let named = demanded.clone().flatten();
            let auth = match elsewhere {
                true => None,
                false => {
                    let scopes = call.scopes;
                    let header = self
                        .auth
                        .header(self, call.endpoint, scopes, named.as_deref());
                    header.await?
                }
            };
            let header = auth.as_ref().map(|shown| shown.header.clone());
            let followed = self.follow(call, header).await;
            let mut sent = followed.map_err(|error| match error {
                RegistryError::Unreachable { url, source } if elsewhere => {
                    let host = call.endpoint.name.clone();
                    RegistryError::Elsewhere { host, url, source }
                }
                error => error,
            })?;
            let status = sent.response.status();
            if status == StatusCode::UNAUTHORIZED {
                let told = sent.response.headers().clone();
                // Nobody else is asked where to show credentials.
                let refused = match self.is_registry(call.endpoint, &sent.at) {
                    true => self
                        .auth
                        .refused(call.endpoint, call.scopes, &told, auth.is_some()),
                    false => None,
                };
                if let (Some(scope), None) = (refused, &demanded) {
                    demanded = Some(scope);
                    continue;
                }
                if !self.is_registry(call.endpoint, &sent.at) {
                    let host = &call.endpoint.name;
                    return Err(RegistryError::Denied {
                        url: sent.url,
                        message: format!(
                            "it demands a login, and what is shown to {host} is shown to nobody else"
                        ),
                    });
                }
                let message = self.message(sent).await;
                return Err(RegistryError::Unauthorized {
                    host: call.endpoint.name.clone(),
                    access: Scope::words(call.scopes),
                    message,
                    shown: auth.is_some_and(|shown| shown.named),
                });
            }
            if status == StatusCode::PAYLOAD_TOO_LARGE {
                return Err(RegistryError::Oversized {
                    url: sent.url,
                    bytes: call.payload.size(),
                });
            }
            if !status.is_success() {
                return Err(self.failed(sent).await);
            }
            sent.permit = permit;
            return Ok(sent);
        }
    }

    /// Sends a request and follows where it leads. What is shown is shown to the registry alone.
    async fn follow(
        &self,
        call: &Call<'_>,
        auth: Option<HeaderValue>,
    ) -> Result<Sent, RegistryError> {
        let (first, mut sent) = self.first(call, auth.clone()).await?;
        let mut url = first.clone();
        for _ in 0..self.config.max_redirects {
            let Some(next) = redirected(&call.method, &url, &sent)? else {
                return Ok(sent);
            };
            let mut headers = call.headers.clone();
            if let (true, Some(auth)) = (next.origin() == first.origin(), &auth) {
                headers.insert(AUTHORIZATION, auth.clone());
            }
            url = next;
            sent = self
                .send_to(
                    call.method.clone(),
                    &url,
                    headers,
                    &call.payload,
                    call.commits,
                )
                .await?;
        }
        match redirected(&call.method, &url, &sent)? {
            None => Ok(sent),
            Some(_) => Err(RegistryError::Redirect {
                url: shown(&first),
                problem: format!("it leads on more than {} times", self.config.max_redirects),
            }),
        }
    }

    /// The first request: to the registry itself, with the scheme it speaks, or to where it said.
    async fn first(
        &self,
        call: &Call<'_>,
        auth: Option<HeaderValue>,
    ) -> Result<(Url, Sent), RegistryError> {
        let endpoint = call.endpoint;
        let mut headers = call.headers.clone();
        headers.extend(auth.map(|auth| (AUTHORIZATION, auth)));
        let method = || call.method.clone();
        let path = match call.to {
            To::Path(path) => path,
            To::Address(url) if self.is_registry(endpoint, url) => {
                let client = self.client(&endpoint.name)?;
                let sent = self.send(&client, method(), url, headers, &call.payload, call.commits);
                return Ok((url.clone(), sent.await?));
            }
            To::Address(url) => {
                let sent = self.send_to(method(), url, headers, &call.payload, call.commits);
                return Ok((url.clone(), sent.await?));
            }
        };
        let client = self.client(&endpoint.name)?;
        let tried = self.tried_schemes(endpoint);
        for (at, scheme) in tried.iter().copied().enumerate() {
            let text = format!(
                "{scheme}://{}/v2/{}/{}",
                endpoint.authority, endpoint.repository, path
            );
            let url = Url::parse(&text).map_err(|error| RegistryError::Config {
                host: endpoint.name.clone(),
                problem: error.to_string(),
            })?;
            let headers = headers.clone();
            let sent = self
                .send(
                    &client,
                    method(),
                    &url,
                    headers,
                    &call.payload,
                    call.commits,
                )
                .await;
            match sent {
                // Nothing was said yet: another scheme can be tried.
                Err(RegistryError::Unreachable { source, .. })
                    if source.is_connect() && at + 1 < tried.len() => {}
                Err(error) => return Err(error),
                Ok(sent) => {
                    let mut known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
                    known.insert(endpoint.authority.clone(), scheme);
                    return Ok((url, sent));
                }
            }
        }
        Err(RegistryError::Interrupted {
            host: endpoint.name.clone(),
        })
    }

    /// Sends a request to an address of which nothing is known but what the settings say of its
    /// host.
    pub(super) async fn send_to(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        payload: &Payload,
        commits: bool,
    ) -> Result<Sent, RegistryError> {
        let host = url.host_str().unwrap_or_default();
        let name = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let client = self.client(&name)?;
        self.send(&client, method, url, headers, payload, commits)
            .await
    }

    async fn send(
        &self,
        client: &Client,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        payload: &Payload,
        commits: bool,
    ) -> Result<Sent, RegistryError> {
        let mut request = client.request(method, url.clone()).headers(headers);
        let (body, passing) = payload.body();
        if let Some(body) = body {
            request = request.body(body);
        }
        let timeouts = self.config.timeouts;
        let waited = match commits {
            true => timeouts.commit,
            false => timeouts.answer,
        };
        let url_shown = || shown(url);
        match passing.watch(request.send(), &timeouts, waited).await {
            Ok(Ok(response)) => Ok(Sent {
                response,
                url: shown(url),
                at: url.clone(),
                permit: None,
            }),
            Ok(Err(source)) => Err(match passing.failure() {
                Some(source) => RegistryError::Payload {
                    url: url_shown(),
                    source,
                },
                None => RegistryError::Unreachable {
                    url: url_shown(),
                    source: source.without_url(),
                },
            }),
            Err(Late::Answer) => Err(RegistryError::Timeout {
                url: url_shown(),
                waited,
            }),
            Err(Late::Payload { bytes }) => Err(RegistryError::Stuck {
                url: url_shown(),
                bytes,
                waited: timeouts.stall,
            }),
        }
    }

    /// The error that an answer without success is.
    pub(super) async fn failed(&self, sent: Sent) -> RegistryError {
        let status = sent.response.status();
        let header = sent.response.headers().get(RETRY_AFTER);
        let header = header.and_then(|value| value.to_str().ok());
        let retry_after = retry_after(header, self.clock.now());
        let url = sent.url.clone();
        let message = self.message(sent).await;
        match status.as_u16() {
            403 => RegistryError::Denied { url, message },
            404 => RegistryError::NotFound { url, message },
            429 => RegistryError::TooManyRequests { url, retry_after },
            status => RegistryError::Status {
                url,
                status,
                message,
                retry_after,
            },
        }
    }

    /// What a registry says about its refusal, fit to be repeated.
    async fn message(&self, sent: Sent) -> String {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let bytes = self.body(sent).all(ERROR_BYTES).await.unwrap_or_default();
        let Ok(errors) = serde_json::from_slice::<Errors>(&bytes) else {
            return String::new();
        };
        let told: Vec<String> = errors
            .errors
            .iter()
            .take(3)
            .map(|error| format!("{} ({})", error.message, error.code))
            .collect();
        let text = told.join("; ");
        text.escape_debug().take(ERROR_LETTERS).collect()
    }

    /// The body of an answer, watched for progress.
    pub(super) fn body(&self, sent: Sent) -> Body {
        let timeouts = self.config.timeouts;
        Body {
            response: sent.response,
            url: sent.url,
            bytes: 0,
            left: timeouts.stall,
            since: 0,
            stall: timeouts.stall,
            stall_bytes: timeouts.stall_bytes.max(1),
            _permit: sent.permit,
        }
    }
}

/// Where an answer leads.
fn redirected(method: &Method, from: &Url, sent: &Sent) -> Result<Option<Url>, RegistryError> {
    let status = sent.response.status().as_u16();
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let refused = |problem: &str| RegistryError::Redirect {
        url: shown(from),
        problem: problem.to_owned(),
    };
    // Others ask for a request of another kind.
    if !matches!(*method, Method::GET | Method::HEAD) && !matches!(status, 307 | 308) {
        return Err(refused("what was sent is not sent on by such a redirect"));
    }
    let next = location(from, &sent.response).map_err(refused)?;
    Ok(Some(next))
}

/// Where an answer says that something is.
pub(super) fn location(from: &Url, response: &Response) -> Result<Url, &'static str> {
    trusted(from, told_location(from, response)?)
}

/// Where an answer says that something is, whatever that is.
pub(super) fn told_location(from: &Url, response: &Response) -> Result<Url, &'static str> {
    let location = response.headers().get(LOCATION);
    let location = location.and_then(|value| value.to_str().ok());
    let next = location.and_then(|text| from.join(text).ok());
    next.ok_or("it does not say where to")
}

/// An address to which an answer from another one may lead.
pub(super) fn trusted(from: &Url, next: Url) -> Result<Url, &'static str> {
    if !matches!(next.scheme(), "http" | "https") || next.host_str().is_none() {
        return Err("its address is not one of the web");
    }
    if !next.username().is_empty() || next.password().is_some() {
        return Err("its address names a user");
    }
    if from.scheme() == "https" && next.scheme() == "http" {
        return Err("it goes from TLS to plain text");
    }
    Ok(next)
}

/// A body that arrives. Only the time in which somebody waits for it counts.
#[derive(Debug)]
pub(super) struct Body {
    response: Response,
    pub(super) url: String,
    /// Bytes so far.
    bytes: u64,
    /// Time that is left until `stall_bytes` must have arrived, and how many did.
    left: Duration,
    since: u64,
    stall: Duration,
    stall_bytes: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Body {
    /// The next piece; `None` at the end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let start = Instant::now();
        let Ok(read) = timeout(self.left, self.response.chunk()).await else {
            return Err(RegistryError::Stalled {
                url: self.url.clone(),
                bytes: self.since,
                waited: self.stall,
            });
        };
        let piece = read.map_err(|source| RegistryError::BrokeOff {
            url: self.url.clone(),
            bytes: self.bytes,
            source: Some(source.without_url()),
        })?;
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.bytes += length;
        self.since += length;
        if self.since >= self.stall_bytes {
            (self.left, self.since) = (self.stall, 0);
        } else {
            self.left = self.left.saturating_sub(start.elapsed());
        }
        Ok(piece)
    }

    /// All of it, if it has no more than `limit` bytes.
    pub(super) async fn all(mut self, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let too_large = |url: &str| RegistryError::TooLarge {
            url: url.to_owned(),
            limit,
        };
        if self
            .response
            .content_length()
            .is_some_and(|told| told > limit)
        {
            return Err(too_large(&self.url));
        }
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            if (all.len() + piece.len()) as u64 > limit {
                return Err(too_large(&self.url));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}
