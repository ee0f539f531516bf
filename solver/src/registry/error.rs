//! Why a registry gave no answer that is of use.

use std::time::Duration;

use reqwest::Url;

use super::CredentialError;
use crate::content::ContentError;
use crate::error::{Blame, Fault};

/// A registry did not do what it was asked for. No message has a credential in it: queries and
/// user names of addresses are left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The settings of a host are not good.
    #[error("the settings of {host} are not good: {problem}")]
    Config {
        /// Which host.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// The provider of credentials failed.
    #[error("no credential for {host} can be had")]
    Credentials {
        /// Which host.
        host: String,
        /// What the provider said.
        #[source]
        source: CredentialError,
    },
    /// No connection could be made, or it broke.
    #[error("cannot reach {url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the HTTP library said.
        #[source]
        source: reqwest::Error,
    },
    /// No connection could be made to where the registry leads an upload, or it broke.
    #[error("{host} leads uploads to {url}, which cannot be reached")]
    Elsewhere {
        /// The registry.
        host: String,
        /// Where it leads.
        url: String,
        /// What the HTTP library said.
        #[source]
        source: reqwest::Error,
    },
    /// The peer did not answer in time.
    #[error("{url} did not answer within {waited:?}")]
    Timeout {
        /// What was asked for.
        url: String,
        /// How long it had.
        waited: Duration,
    },
    /// The peer sent too little for too long.
    #[error("{url} sent {bytes} bytes in {waited:?}, which is too slow")]
    Stalled {
        /// What was asked for.
        url: String,
        /// What it sent.
        bytes: u64,
        /// How long it had.
        waited: Duration,
    },
    /// The peer took too little for too long.
    #[error("{url} took {bytes} bytes in {waited:?}, which is too slow")]
    Stuck {
        /// Where something was sent to.
        url: String,
        /// What it took.
        bytes: u64,
        /// How long it had.
        waited: Duration,
    },
    /// What is to be sent cannot be read.
    #[error("cannot read what is to be sent to {url}")]
    Payload {
        /// Where it was to be sent to.
        url: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The answer broke off.
    #[error("the answer of {url} broke off after {bytes} bytes")]
    BrokeOff {
        /// What was asked for.
        url: String,
        /// Bytes that arrived.
        bytes: u64,
        /// What the HTTP library said, if it was not an early end.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The registry wants another credential, or one at all.
    #[error("{host} {} to {access}{}", login(*shown), said(message))]
    Unauthorized {
        /// Which host.
        host: String,
        /// What was to be done, such as `push to app`.
        access: String,
        /// What it said.
        message: String,
        /// Whether a credential was shown.
        shown: bool,
    },
    /// The registry does not allow it.
    #[error("{url} is not allowed{}", said(message))]
    Denied {
        /// What was asked for.
        url: String,
        /// What it said.
        message: String,
    },
    /// The registry does not have it.
    #[error("{url} does not exist{}", said(message))]
    NotFound {
        /// What was asked for.
        url: String,
        /// What it said.
        message: String,
    },
    /// The registry wants to be asked less often.
    #[error("{url} wants fewer requests{}", wait(*retry_after))]
    TooManyRequests {
        /// What was asked for.
        url: String,
        /// When it may be asked again.
        retry_after: Option<Duration>,
    },
    /// The registry failed or refused.
    #[error("{url} answered {status}{}", said(message))]
    Status {
        /// What was asked for.
        url: String,
        /// The status of the answer.
        status: u16,
        /// What it said.
        message: String,
        /// When it may be asked again.
        retry_after: Option<Duration>,
    },
    /// The token server gave no token.
    #[error("{realm} gave no token to {access}: {problem}")]
    Token {
        /// The token server.
        realm: String,
        /// What was to be done with it, such as `push to app`.
        access: String,
        /// What happened.
        problem: String,
        /// Whether the login may not do that, as the server sees it.
        refused: bool,
    },
    /// A redirect is not followed.
    #[error("{url} leads to another place, which is not followed: {problem}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Why not.
        problem: String,
    },
    /// An answer does not follow the protocol.
    #[error("the answer of {url} is not good: {problem}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The registry, or what stands before it, takes no request as large. Blobs are sent in smaller
    /// chunks then, down to 64 KiB; this is what else is refused.
    #[error("{url} does not take {bytes} bytes at once")]
    Oversized {
        /// Where something was sent to.
        url: String,
        /// How many bytes the request had.
        bytes: u64,
    },
    /// An answer is larger than the limit.
    #[error("the answer of {url} has more than {limit} bytes")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The bytes are not those that the descriptor promises.
    #[error("{host} sent other bytes than promised")]
    Content {
        /// Which host.
        host: String,
        /// What is wrong with them.
        #[source]
        source: ContentError,
    },
    /// The runtime ended while the registry was asked.
    #[error("asking {host} was interrupted")]
    Interrupted {
        /// Which host.
        host: String,
    },
}

fn said(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(": {message}"),
    }
}

fn login(shown: bool) -> &'static str {
    match shown {
        true => "does not accept the login that it was shown",
        false => "demands a login",
    }
}

fn wait(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(time) => format!(" for {} s", time.as_secs()),
        None => String::new(),
    }
}

/// An address without what may be secret in it.
pub(super) fn shown(url: &Url) -> String {
    let mut text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        text.push_str(&format!(":{port}"));
    }
    text.push_str(url.path());
    text
}

impl RegistryError {
    /// Whether the same request may succeed later, and when the peer wants to be asked again.
    pub(super) fn again(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable { .. }
            | Self::Elsewhere { .. }
            | Self::Timeout { .. }
            | Self::Stalled { .. }
            | Self::Stuck { .. }
            | Self::BrokeOff { .. } => Some(None),
            Self::TooManyRequests { retry_after, .. } => Some(*retry_after),
            Self::Status {
                status: 408 | 500 | 502 | 503 | 504,
                retry_after,
                ..
            } => Some(*retry_after),
            _ => None,
        }
    }
}

impl Blame for RegistryError {
    fn fault(&self) -> Fault {
        match self {
            Self::Config { .. }
            | Self::Unauthorized { .. }
            | Self::Denied { .. }
            | Self::Token { refused: true, .. }
            | Self::NotFound { .. } => Fault::Input,
            Self::Credentials { source, .. } => source.fault(),
            Self::Interrupted { .. } | Self::Payload { .. } => Fault::Environment,
            Self::Content {
                source: ContentError::Io { .. },
                ..
            } => Fault::Environment,
            error => Fault::Remote {
                retryable: error.again().is_some(),
            },
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Unauthorized {
                host,
                access,
                shown,
                ..
            } => Some(match shown {
                true => format!("check the credential for {host}, and that it may {access}"),
                false => format!(
                    "provide a credential for {host} that may {access}, for example by docker login"
                ),
            }),
            Self::Token {
                access,
                refused: true,
                ..
            } => Some(format!("check the credential, and that it may {access}")),
            Self::Elsewhere { host, .. } => Some(format!(
                "let the registry know that it is reached as {host}, for example by the `Host` \
                 header that a proxy passes on"
            )),
            Self::Oversized { bytes, .. } => Some(format!(
                "let the registry, and what stands before it, take requests of {bytes} bytes \
                 (`client_max_body_size` of nginx)"
            )),
            Self::TooLarge { .. } => {
                Some("raise Limits::manifest_bytes if the image is wanted".to_owned())
            }
            _ => None,
        }
    }
}
