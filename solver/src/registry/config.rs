//! What a caller may say about registries: plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Password;

/// How to speak to registries. The defaults are right for public ones.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistryConfig {
    /// Settings by host, as references have it (`docker.io`, `localhost:5000`) or as mirrors,
    /// token servers and redirects name it. Hosts that are not here have the default settings.
    pub hosts: BTreeMap<String, HostConfig>,
    /// Certificates of authorities to trust, in PEM, beside those of the system.
    pub roots: Vec<Vec<u8>>,
    /// Whether the authorities that the system trusts are trusted. Default: yes. They are read
    /// from where Linux distributions keep them, once.
    pub system_roots: bool,
    /// The proxy of hosts that do not name one: an `http://` URL, possibly with user and password.
    /// Default: none.
    pub proxy: Option<Password>,
    /// What is tried again, and when.
    pub retry: Retry,
    /// How long to wait for a peer.
    pub timeouts: Timeouts,
    /// Requests to one registry at the same time, their bodies included. Default: 8.
    pub connections_per_host: usize,
    /// Blobs of more than twice this are downloaded in ranges of this many bytes, which is also
    /// what is kept in memory of each. Default: 4 MiB.
    pub range_bytes: u64,
    /// Ranges of one blob at the same time. 1 downloads every blob as one stream. Default: 3.
    pub ranges_per_blob: usize,
    /// Blobs of more than this are uploaded in chunks of this many bytes, unless the registry wants
    /// larger ones. It gets smaller ones after it refused them for being too large (413), or while
    /// nothing of them arrives. What is lost when a connection breaks is at most one. Default:
    /// 64 MiB.
    pub upload_chunk_bytes: u64,
    /// Redirects of one request. Default: 5.
    pub max_redirects: usize,
    /// What we call ourselves.
    pub user_agent: String,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            roots: Vec::new(),
            system_roots: true,
            proxy: None,
            retry: Retry::default(),
            timeouts: Timeouts::default(),
            connections_per_host: 8,
            range_bytes: 4 << 20,
            ranges_per_blob: 3,
            upload_chunk_bytes: 64 << 20,
            max_redirects: 5,
            user_agent: concat!("ashlar/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl RegistryConfig {
    /// Sets what is said about a host.
    #[must_use]
    pub fn host(mut self, name: impl Into<String>, config: HostConfig) -> Self {
        self.hosts.insert(name.into(), config);
        self
    }
}

/// How a host is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Scheme {
    /// TLS; a host of this machine (`localhost`, 127.0.0.0/8, `[::1]`) that does not speak TLS is
    /// spoken to in plain text.
    #[default]
    Auto,
    /// TLS.
    Https,
    /// Plain text.
    Http,
    /// TLS, or plain text where the host does not speak TLS. Whoever is in between can make it so:
    /// only for networks that are trusted.
    Any,
}

/// Another place to ask first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Mirror {
    /// Its host, with a port if need be.
    pub host: String,
    /// What stands between `/v2/` and the name of the repository; empty for nothing.
    pub prefix: String,
}

impl Mirror {
    /// A mirror that has the repositories under their own names.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            prefix: String::new(),
        }
    }

    /// Sets what stands before the names of repositories.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

/// Who we are on the level of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// The certificate and those up to its authority, in PEM.
    pub certificates: Vec<u8>,
    /// The private key, in PEM.
    pub key: Vec<u8>,
}

impl ClientIdentity {
    /// A certificate chain and its key, both in PEM.
    pub fn new(certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificates: certificates.into(),
            key: key.into(),
        }
    }
}

/// What is particular about one host.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HostConfig {
    /// TLS or not.
    pub scheme: Scheme,
    /// Where to ask before asking the host itself, in this order. Anything but success makes the
    /// next be asked.
    pub mirrors: Vec<Mirror>,
    /// Certificates of authorities to trust for this host, in PEM, beside those of
    /// [`RegistryConfig::roots`] and of the system.
    pub roots: Vec<Vec<u8>>,
    /// The certificate to show to this host, if it asks.
    pub identity: Option<ClientIdentity>,
    /// Take any certificate of the host for good. Default: no.
    pub skip_verify: bool,
    /// The proxy for this host; [`RegistryConfig::proxy`] if `None`.
    pub proxy: Option<Password>,
    /// Do without a proxy, whatever [`RegistryConfig::proxy`] says. Default: no.
    pub no_proxy: bool,
    /// Do not speak HTTP/2. Default: no.
    pub http1_only: bool,
}

impl HostConfig {
    /// Speaks plain text.
    pub fn plain_http() -> Self {
        Self {
            scheme: Scheme::Http,
            ..Self::default()
        }
    }

    /// Adds an authority, in PEM.
    #[must_use]
    pub fn root(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Adds a mirror.
    #[must_use]
    pub fn mirror(mut self, mirror: Mirror) -> Self {
        self.mirrors.push(mirror);
        self
    }

    /// Sets the certificate to show.
    #[must_use]
    pub fn identity(mut self, identity: ClientIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Speaks TLS with whatever certificate, or else plain text: what BuildKit does for
    /// `registry.insecure`. Only for networks that are trusted.
    pub fn insecure() -> Self {
        Self {
            scheme: Scheme::Any,
            skip_verify: true,
            ..Self::default()
        }
    }

    /// Sets whether any certificate is taken for good.
    #[must_use]
    pub fn skip_verify(mut self, skip: bool) -> Self {
        self.skip_verify = skip;
        self
    }
}

/// What is tried again: requests that could not be sent or whose answer broke off, and the answers
/// 408, 429, 500, 502, 503 and 504.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// How often one thing is tried in all. A transfer that moved on counts anew. Default: 5.
    pub tries: u32,
    /// The wait before the second try, doubled before each further one. Default: 0.5 s.
    pub first: Duration,
    /// The longest wait, also where the peer names one (`Retry-After`): a peer that wants more is
    /// given up on. Default: 60 s.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            tries: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(60),
        }
    }
}

/// How long to wait for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// For a connection. Default: 15 s.
    pub connect: Duration,
    /// For the head of an answer. Default: 60 s.
    pub answer: Duration,
    /// For the answer of a registry that has to take in a blob which was sent. Default: 300 s.
    pub commit: Duration,
    /// The stretch of time in which [`Timeouts::stall_bytes`] of a body must arrive, or be taken.
    /// Default: 30 s.
    pub stall: Duration,
    /// Bytes that must arrive in each stretch. Default: 32 KiB, about the slowest modem.
    pub stall_bytes: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            commit: Duration::from_secs(300),
            stall: Duration::from_secs(30),
            stall_bytes: 32 << 10,
        }
    }
}
