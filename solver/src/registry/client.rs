//! The client that all solves of a process share.

use std::sync::Arc;

use ashlar_llb::Reference;
use tokio::runtime::Handle;

use super::auth::Auth;
use super::endpoint::Endpoint;
use super::repository::Repository;
use super::transport::Transport;
use super::{Credentials, HostConfig, RegistryConfig};
use crate::clock::Clock;

/// Speaks to registries. Cheap to clone; all clones share connections, tokens and limits, which
/// end with the last of them.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// use std::sync::Arc;
///
/// use ashlar_llb::Reference;
/// use ashlar_solver::clock::SystemClock;
/// use ashlar_solver::registry::{Credential, HostConfig, Registry, RegistryConfig, StaticCredentials};
///
/// let config = RegistryConfig::default().host("registry.test:5000", HostConfig::plain_http());
/// let known = StaticCredentials::new()
///     .with("registry.test:5000", Credential::password("me", "hunter2"));
/// let clock = Arc::new(SystemClock);
/// let registry = Registry::new(config, Arc::new(known), clock, runtime.handle().clone());
/// let repository = registry.repository(&Reference::parse("registry.test:5000/app:v1")?);
/// assert_eq!(repository.name(), "registry.test:5000/app");
/// // repository.resolve("v1").await asks the registry what `v1` is.
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Registry(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) transport: Transport,
    pub(super) runtime: Handle,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
}

impl Registry {
    /// A client that runs on `runtime`, whose I/O and time drivers must be enabled. Nothing is
    /// connected to before it is asked for something.
    pub fn new(
        config: RegistryConfig,
        credentials: Arc<dyn Credentials>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
    ) -> Self {
        let auth = Auth::new(credentials.clone(), clock.clone());
        let transport = Transport::new(config, auth, clock.clone());
        Self(Arc::new(Inner {
            transport,
            runtime,
            credentials,
            clock,
        }))
    }

    /// A client of its own with the same settings, but for one host; it has the same credentials,
    /// and none of the connections and tokens.
    #[must_use]
    pub fn with_host(&self, name: impl Into<String>, host: HostConfig) -> Self {
        let inner = &self.0;
        let config = inner.transport.config().clone().host(name, host);
        let (credentials, clock) = (inner.credentials.clone(), inner.clock.clone());
        Self::new(config, credentials, clock, inner.runtime.clone())
    }

    /// The repository that a reference names; its tag and digest do not count.
    pub fn repository(&self, reference: &Reference) -> Repository {
        let config = self.0.transport.config();
        let endpoints = Endpoint::all(config, reference.domain(), reference.path());
        Repository::new(self.clone(), reference.name(), endpoints)
    }
}
