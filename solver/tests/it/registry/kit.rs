//! What the tests of the client share.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ashlar_llb::Reference;
use ashlar_llb::digest::BlobDigest;
use ashlar_solver::clock::Clock;
use ashlar_solver::oci::Descriptor;
use ashlar_solver::registry::{
    Anonymous, Credential, CredentialError, Credentials, Registry, RegistryConfig, Repository,
};

/// Bytes that a document may have in these tests.
pub(crate) const LIMIT: u64 = 1 << 20;

/// The secret that nobody but its registry may see.
pub(crate) const CANARY: &str = "canary-hunter2";

/// Settings with which a test does not take long.
pub(crate) fn quick() -> RegistryConfig {
    let mut config = RegistryConfig::default();
    config.system_roots = false;
    config.retry.first = Duration::from_millis(5);
    config.timeouts.answer = Duration::from_millis(500);
    config.timeouts.stall = Duration::from_millis(300);
    config.timeouts.stall_bytes = 1000;
    config.range_bytes = 64 << 10;
    config
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub(crate) struct Hand(AtomicU64);

impl Hand {
    pub(crate) fn forward(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// Gives one credential and counts how often it is asked, and for whom.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) credential: Mutex<Option<Credential>>,
    pub(crate) asked: AtomicUsize,
    pub(crate) hosts: Mutex<Vec<String>>,
}

impl Counted {
    pub(crate) fn new(credential: Credential) -> Arc<Self> {
        Arc::new(Self {
            credential: Mutex::new(Some(credential)),
            asked: AtomicUsize::new(0),
            hosts: Mutex::default(),
        })
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Credentials for Counted {
    async fn credential(&self, host: &str, _: &str) -> Result<Option<Credential>, CredentialError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.hosts.lock().unwrap().push(host.to_owned());
        Ok(self.credential.lock().unwrap().clone())
    }
}

pub(crate) fn registry(config: RegistryConfig, credentials: Arc<dyn Credentials>) -> Registry {
    let runtime = tokio::runtime::Handle::current();
    Registry::new(config, credentials, Arc::new(Hand::default()), runtime)
}

/// The repository `app` of a host, seen by nobody in particular.
pub(crate) fn app(config: RegistryConfig, host: &str) -> Repository {
    app_as(config, host, Arc::new(Anonymous))
}

pub(crate) fn app_as(
    config: RegistryConfig,
    host: &str,
    credentials: Arc<dyn Credentials>,
) -> Repository {
    registry(config, credentials).repository(&reference(host))
}

pub(crate) fn reference(host: &str) -> Reference {
    Reference::parse(&format!("{host}/app")).unwrap()
}

/// Bytes that look like nothing else.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn descriptor(bytes: &[u8]) -> Descriptor {
    let kind = "application/vnd.oci.image.layer.v1.tar";
    Descriptor::new(kind, BlobDigest::of(bytes), bytes.len() as u64)
}
