//! Token servers.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::auth::basic_header;
use super::endpoint::Endpoint;
use super::error::shown;
use super::payload::Payload;
use super::transport::{Sent, Transport};
use super::{Credential, Password, RegistryError, Scope};

/// Bytes of an answer of a token server. Tokens have a few kilobytes.
const ANSWER_BYTES: u64 = 1 << 20;

/// How long a token is good for if the server does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

/// The longest life that is believed.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A token that is kept.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: Password,
    /// Whether it was given for a credential.
    pub(super) named: bool,
    /// The moment, on the monotonic clock, from which a new one is fetched.
    pub(super) renew_at: Duration,
}

/// What is asked of a token server.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) realm: Url,
    pub(super) service: String,
    pub(super) scopes: &'a [Scope],
    /// What the registry itself asked for.
    pub(super) demanded: Option<&'a str>,
    pub(super) credential: Option<Credential>,
}

/// What it gave.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) text: Password,
    pub(super) lifetime: Duration,
    pub(super) refresh: Option<Password>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<Password>,
    #[serde(default)]
    access_token: Option<Password>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<Password>,
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(String::deserialize(deserializer)?))
    }
}

/// Asks for a token, once: who needs it for a request tries both again where that may help.
pub(super) async fn fetch(
    transport: &Transport,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<Given, RegistryError> {
    check_realm(transport, endpoint, request)?;
    ask(transport, request).await
}

/// A registry that speaks TLS must not have credentials sent in plain text.
fn check_realm(
    transport: &Transport,
    endpoint: &Endpoint,
    request: &Request<'_>,
) -> Result<(), RegistryError> {
    let realm = &request.realm;
    let problem = if !matches!(realm.scheme(), "http" | "https") || realm.host_str().is_none() {
        "its address is not one of the web"
    } else if !realm.username().is_empty() || realm.password().is_some() {
        "its address names a user"
    } else if realm.scheme() == "http" && !transport.is_plain(endpoint) {
        "it speaks plain text and its registry does not"
    } else {
        return Ok(());
    };
    Err(failed(request, problem, false))
}

/// Why there is no token. `refused`: because the login may not have it.
fn failed(request: &Request<'_>, problem: impl Into<String>, refused: bool) -> RegistryError {
    RegistryError::Token {
        realm: shown(&request.realm),
        access: Scope::words(request.scopes),
        problem: problem.into(),
        refused,
    }
}

async fn ask(transport: &Transport, request: &Request<'_>) -> Result<Given, RegistryError> {
    let sent = match &request.credential {
        Some(Credential::IdentityToken(token)) => {
            let fields = [
                ("grant_type", "refresh_token"),
                ("refresh_token", token.reveal()),
            ];
            post(transport, request, &fields).await?
        }
        credential => {
            let sent = get(transport, request, credential.as_ref()).await?;
            match credential {
                // Some servers know the newer way alone.
                Some(Credential::Password { username, password })
                    if matches!(sent.response.status().as_u16(), 404 | 405) =>
                {
                    let fields = [
                        ("grant_type", "password"),
                        ("username", username),
                        ("password", password.reveal()),
                        ("access_type", "offline"),
                    ];
                    post(transport, request, &fields).await?
                }
                _ => sent,
            }
        }
    };
    read(transport, request, sent).await
}

async fn get(
    transport: &Transport,
    request: &Request<'_>,
    credential: Option<&Credential>,
) -> Result<Sent, RegistryError> {
    let mut url = request.realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if !request.service.is_empty() {
            query.append_pair("service", &request.service);
        }
        for scope in scopes(request) {
            query.append_pair("scope", &scope);
        }
        if let Some(Credential::Password { username, .. }) = credential {
            query.append_pair("account", username);
        }
    }
    let mut headers = HeaderMap::new();
    if let Some(header) = credential.and_then(basic_header) {
        headers.insert(AUTHORIZATION, header);
    }
    transport
        .send_to(Method::GET, &url, headers, &Payload::None, false)
        .await
}

async fn post(
    transport: &Transport,
    request: &Request<'_>,
    fields: &[(&str, &str)],
) -> Result<Sent, RegistryError> {
    // The query of an address and the body of a form are written alike.
    let mut form = Url::parse("http://form").expect("BUG: a constant is an address");
    form.query_pairs_mut()
        .extend_pairs(fields)
        .append_pair("service", &request.service)
        .append_pair("client_id", "ashlar")
        .append_pair("scope", &scopes(request).join(" "));
    let body = form.query().unwrap_or_default().to_owned();
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, kind);
    let realm = &request.realm;
    transport
        .send_to(Method::POST, realm, headers, &Payload::Text(body), false)
        .await
}

/// What is asked for: our scopes, and what the registry demanded beyond them.
fn scopes(request: &Request<'_>) -> Vec<String> {
    let mut all: Vec<String> = request.scopes.iter().map(Scope::to_string).collect();
    let demanded = request
        .demanded
        .unwrap_or_default()
        .split_ascii_whitespace();
    for scope in demanded.map(str::to_owned) {
        if !all.contains(&scope) {
            all.push(scope);
        }
    }
    all
}

async fn read(
    transport: &Transport,
    request: &Request<'_>,
    sent: Sent,
) -> Result<Given, RegistryError> {
    let failed = |problem: &str, refused| failed(request, problem, refused);
    let status = sent.response.status();
    if status.is_redirection() {
        return Err(failed("it leads to another place", false));
    }
    if !status.is_success() {
        let error = transport.failed(sent).await;
        let login = matches!(status.as_u16(), 400 | 401 | 403);
        return Err(match error {
            error if error.again().is_some() => error,
            // What it says may repeat what it was sent.
            _ if login && request.credential.is_some() => {
                failed(&format!("it refused the credential ({status})"), true)
            }
            _ => failed(&format!("it answered {status}"), login),
        });
    }
    let bytes = transport.body(sent).all(ANSWER_BYTES).await?;
    // The decoder's message could repeat parts of the token.
    let answer: Answer =
        serde_json::from_slice(&bytes).map_err(|_| failed("its answer is malformed", false))?;
    let given = |token: Option<Password>| token.filter(|token| !token.reveal().is_empty());
    let text = given(answer.token)
        .or_else(|| given(answer.access_token))
        .filter(|token| {
            token
                .reveal()
                .bytes()
                .all(|byte| (0x21..0x7f).contains(&byte))
        })
        .ok_or_else(|| failed("its answer has no token", false))?;
    let lifetime = match answer.expires_in {
        None | Some(0) => DEFAULT_LIFETIME,
        Some(seconds) => Duration::from_secs(seconds).min(LONGEST_LIFETIME),
    };
    Ok(Given {
        text,
        lifetime,
        refresh: given(answer.refresh_token),
    })
}
