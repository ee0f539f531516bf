//! What is shown to registries: learnt when one demands it, and kept until it wears out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::challenge::Challenge;
use super::endpoint::Endpoint;
use super::token::{self, Token};
use super::transport::Transport;
use super::{Credential, Credentials, Password, RegistryError};
use crate::clock::Clock;

/// Tokens of one host that are kept; more mean that somebody walks through repositories.
const MAX_TOKENS: usize = 256;

/// What a token is to be good for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    repository: String,
    write: bool,
}

impl Scope {
    /// Reading a repository.
    pub fn pull(repository: &str) -> Self {
        Self {
            repository: repository.to_owned(),
            write: false,
        }
    }

    /// Reading and writing a repository.
    pub fn push(repository: &str) -> Self {
        Self {
            repository: repository.to_owned(),
            write: true,
        }
    }

    /// Some in words, for messages: `push to app and pull from base`.
    pub(super) fn words(scopes: &[Self]) -> String {
        let words = scopes.iter().map(|scope| match scope.write {
            true => format!("push to {}", scope.repository),
            false => format!("pull from {}", scope.repository),
        });
        words.collect::<Vec<_>>().join(" and ")
    }
}

/// As token servers are asked for it.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions = if self.write { "pull,push" } else { "pull" };
        write!(f, "repository:{}:{actions}", self.repository)
    }
}

/// What all requests of a process have learnt.
#[derive(Debug)]
pub(super) struct Auth {
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
    hosts: Mutex<HashMap<String, Arc<Host>>>,
}

#[derive(Debug)]
struct Host {
    /// Taken by who asks the token server or the provider, so that many requests ask once.
    gate: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    challenge: Option<Challenge>,
    tokens: BTreeMap<Vec<Scope>, Token>,
    /// By repository: some providers know several users of one host.
    credentials: BTreeMap<String, Option<Credential>>,
    /// Taken from token servers: stands for the credential from then on.
    refresh: BTreeMap<String, Password>,
}

impl Host {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A header to send.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) header: HeaderValue,
    /// Whether it came of a credential, rather than of being nobody.
    pub(super) named: bool,
}

impl Auth {
    pub(super) fn new(credentials: Arc<dyn Credentials>, clock: Arc<dyn Clock>) -> Self {
        Self {
            credentials,
            clock,
            hosts: Mutex::default(),
        }
    }

    fn host(&self, authority: &str) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(Host {
                gate: Semaphore::new(1),
                state: Mutex::default(),
            })
        };
        hosts
            .entry(authority.to_owned())
            .or_insert_with(new)
            .clone()
    }

    /// What to show to an endpoint; `None` if it never demanded anything, or there is nothing to
    /// show. `demanded`: the scope that the registry named when it refused.
    pub(super) async fn header(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        scopes: &[Scope],
        demanded: Option<&str>,
    ) -> Result<Option<Shown>, RegistryError> {
        let host = self.host(&endpoint.authority);
        let Some(challenge) = host.state().challenge.clone() else {
            return Ok(None);
        };
        let mut key = scopes.to_vec();
        key.sort();
        key.dedup();
        let fresh = || {
            let now = self.clock.monotonic();
            let state = host.state();
            state.tokens.get(&key).filter(|t| now < t.renew_at).cloned()
        };
        if let Some(token) = fresh() {
            return Ok(Some(bearer(&token.text, token.named)));
        }
        let _turn = host.gate.acquire().await;
        if let Some(token) = fresh() {
            return Ok(Some(bearer(&token.text, token.named)));
        }
        let credential = self.credential(&host, endpoint).await?;
        if let Some(Credential::RegistryToken(token)) = &credential {
            return Ok(Some(bearer(token, true)));
        }
        let Challenge::Bearer { realm, service, .. } = challenge else {
            return Ok(credential.and_then(|credential| basic(&credential)));
        };
        let refresh = host.state().refresh.get(&endpoint.repository).cloned();
        let request = |credential| token::Request {
            realm: realm.clone(),
            service: service.clone(),
            scopes: &key,
            demanded,
            credential,
        };
        let mut answer = None;
        if let Some(refresh) = refresh {
            let request = request(Some(Credential::IdentityToken(refresh)));
            answer = match token::fetch(transport, endpoint, &request).await {
                Ok(answer) => Some(answer),
                // It may be good still.
                Err(error) if error.again().is_some() => return Err(error),
                Err(_) => None,
            };
        }
        let answer = match answer {
            Some(answer) => answer,
            None => {
                host.state().refresh.remove(&endpoint.repository);
                let request = request(credential.clone());
                let fetched = token::fetch(transport, endpoint, &request).await;
                // What does not help is asked for anew the next time.
                let forget = |_: &RegistryError| {
                    host.state().credentials.remove(&endpoint.repository);
                };
                fetched.inspect_err(forget)?
            }
        };
        let token = Token {
            text: answer.text,
            named: credential.is_some(),
            renew_at: self.clock.monotonic() + renew_after(answer.lifetime),
        };
        let mut state = host.state();
        if let (Some(refresh), true) = (answer.refresh, credential.is_some()) {
            state.refresh.insert(endpoint.repository.clone(), refresh);
        }
        if state.tokens.len() >= MAX_TOKENS {
            state.tokens.clear();
        }
        state.tokens.insert(key, token.clone());
        Ok(Some(bearer(&token.text, token.named)))
    }

    async fn credential(
        &self,
        host: &Host,
        endpoint: &Endpoint,
    ) -> Result<Option<Credential>, RegistryError> {
        let known = host.state().credentials.get(&endpoint.repository).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self
            .credentials
            .credential(&endpoint.name, &endpoint.repository)
            .await
            .map_err(|source| RegistryError::Credentials {
                host: endpoint.name.clone(),
                source,
            })?;
        let mut state = host.state();
        if state.credentials.len() >= MAX_TOKENS {
            state.credentials.clear();
        }
        state
            .credentials
            .insert(endpoint.repository.clone(), found.clone());
        Ok(found)
    }

    /// Learns from a refusal: what the registry demands, and that what it was shown is worn out.
    /// Returns the scope it names, and `None` if it demands what cannot be had.
    pub(super) fn refused(
        &self,
        endpoint: &Endpoint,
        scopes: &[Scope],
        headers: &HeaderMap,
        shown: bool,
    ) -> Option<Option<String>> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenge = Challenge::best(values.filter_map(|value| value.to_str().ok()))?;
        let host = self.host(&endpoint.authority);
        let mut state = host.state();
        if shown {
            let mut key = scopes.to_vec();
            key.sort();
            key.dedup();
            // A token that wore out is renewed with the same credential; a credential that was
            // refused is asked for again.
            if state.tokens.remove(&key).is_none() {
                state.credentials.remove(&endpoint.repository);
            }
        }
        let scope = match &challenge {
            Challenge::Basic => None,
            Challenge::Bearer { scope, .. } => scope.clone(),
        };
        state.challenge = Some(challenge);
        Some(scope)
    }
}

/// Tokens are renewed when four fifths of their life are over.
fn renew_after(lifetime: Duration) -> Duration {
    lifetime * 4 / 5
}

fn bearer(token: &Password, named: bool) -> Shown {
    let text = Zeroizing::new(format!("Bearer {}", token.reveal()));
    Shown {
        header: sensitive(&text).unwrap_or_else(|| HeaderValue::from_static("Bearer")),
        named,
    }
}

fn basic(credential: &Credential) -> Option<Shown> {
    Some(Shown {
        header: basic_header(credential)?,
        named: true,
    })
}

/// User and password as a header; `None` for other credentials.
pub(super) fn basic_header(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Password { username, password } = credential else {
        return None;
    };
    let pair = Zeroizing::new(format!("{username}:{}", password.reveal()));
    let coded = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()));
    sensitive(&Zeroizing::new(format!("Basic {}", *coded)))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}
