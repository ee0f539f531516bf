//! How a solver is described and opened.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::durability::Syncer;
use super::results::{RootLocks, StackResults};
use super::{BuildError, FailureSource, Inner, Solver};
use crate::cache::Cache;
use crate::clock::{Clock, SystemClock};
use crate::content::BlobStore;
use crate::error::Failure;
use crate::executor::{
    self, ControlGroups, Dns, ExecutorChoice, Network, NetworkProvider, SandboxExecutor,
    available_parallelism,
};
use crate::limits::Limits;
use crate::meta::{Database, Meta};
use crate::ops::{CacheMounts, DEFAULT_CDI_DIRECTORIES, Entitlements};
#[cfg(feature = "registry")]
use crate::registry::{Anonymous, Credentials, Registry, RegistryConfig};
use crate::result::Store;
use crate::root::{RootError, StateRoot, Tier};
use crate::scheduler::Scheduler;
use crate::snapshot::LayerStore;
use crate::source::local::LocalCache;

/// Describes a [`Solver`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # let folder = tempfile::tempdir()?;
/// # let _inside = runtime.enter();
/// use ashlar_solver::solver::Solver;
///
/// let solver = Solver::builder().root(folder.path().join("state")).build()?;
/// assert!(solver.root().join("layers").is_dir());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SolverBuilder {
    root: Option<PathBuf>,
    runtime: Option<Handle>,
    parallelism: usize,
    clock: Arc<dyn Clock>,
    limits: Limits,
    executor: ExecutorChoice,
    network: Network,
    entitlements: Entitlements,
    control_groups: Option<ControlGroups>,
    pretend_ownership: bool,
    network_provider: Option<Arc<dyn NetworkProvider>>,
    dns: Dns,
    cdi_directories: Vec<PathBuf>,
    #[cfg(feature = "registry")]
    registry: RegistryConfig,
    #[cfg(feature = "registry")]
    credentials: Arc<dyn Credentials>,
}

impl SolverBuilder {
    pub(super) fn new() -> Self {
        Self {
            root: None,
            runtime: None,
            parallelism: available_parallelism(),
            clock: Arc::new(SystemClock),
            limits: Limits::default(),
            executor: ExecutorChoice::default(),
            network: Network::Host,
            entitlements: Entitlements::default(),
            control_groups: None,
            pretend_ownership: false,
            network_provider: None,
            dns: Dns::default(),
            cdi_directories: DEFAULT_CDI_DIRECTORIES.map(PathBuf::from).to_vec(),
            #[cfg(feature = "registry")]
            registry: RegistryConfig::default(),
            #[cfg(feature = "registry")]
            credentials: Arc::new(Anonymous),
        }
    }

    /// Sets the directory that keeps layers, blobs and cache; it is made if it is missing.
    /// Several processes of one user may use it at the same time. A relative path counts from the
    /// working directory at [`SolverBuilder::build`]. Needed.
    #[must_use]
    pub fn root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.root = Some(directory.into());
        self
    }

    /// Sets the runtime that solves run on. Default: the one that [`SolverBuilder::build`] is
    /// called in. Its I/O and time drivers must be enabled.
    #[must_use]
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// Sets how many vertices run at the same time, over all solves. At least 1. Default: the
    /// number of processors, cut down by the quotas of the control groups that this process is in.
    #[must_use]
    pub fn parallelism(mut self, vertices: usize) -> Self {
        self.parallelism = vertices.max(1);
        self
    }

    /// Sets the clock. Default: the operating system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the ceilings on foreign input.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets what runs the processes of exec ops: a [`Runtime`](crate::executor::Runtime), an
    /// [`ExecutorChoice`], or an implementation in an [`Arc`]. Default: the built-in sandbox.
    /// [`Solver::executor`] tells which it is.
    #[must_use]
    pub fn executor(mut self, executor: impl Into<ExecutorChoice>) -> Self {
        self.executor = executor.into();
        self
    }

    /// Sets the network of steps that do not ask for one. Default: that of the host.
    /// [`Network::Sandbox`] keeps steps off the host's loopback interface and apart from each
    /// other; see [`SolverBuilder::network_provider`].
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Lets changes of owners seem to work in steps of an ordinary user; see
    /// [`SandboxExecutor::pretend_ownership`]. Default: they fail.
    #[must_use]
    pub fn pretend_ownership(mut self, pretend: bool) -> Self {
        self.pretend_ownership = pretend;
        self
    }

    /// Sets what connects steps with [`Network::Sandbox`] with the outside. Default:
    /// [`UserNetwork`](crate::executor::UserNetwork), which needs no privilege and no program.
    #[must_use]
    pub fn network_provider(mut self, provider: Arc<dyn NetworkProvider>) -> Self {
        self.network_provider = Some(provider);
        self
    }

    /// Sets what the resolver of steps is told: name servers, search domains, options. Default: what
    /// the host's is told, without servers on its loopback interface where steps cannot reach it.
    #[must_use]
    pub fn dns(mut self, dns: Dns) -> Self {
        self.dns = dns;
        self
    }

    /// Sets what definitions may ask for beyond the sandbox. Default: nothing.
    #[must_use]
    pub fn entitlements(mut self, entitlements: Entitlements) -> Self {
        self.entitlements = entitlements;
        self
    }

    /// Sets where the built-in sandbox makes control groups of steps that ask for limits or for a
    /// parent. Default: below those of this process.
    #[must_use]
    pub fn control_groups(mut self, groups: ControlGroups) -> Self {
        self.control_groups = Some(groups);
        self
    }

    /// Sets where the CDI specifications of devices are: files that end in `.json`, `.yaml` or
    /// `.yml`, read anew for each step that asks for a device. Of devices with one name the later
    /// directory's counts; one that a directory has twice is not there. Default: `/etc/cdi` and
    /// `/var/run/cdi`.
    #[must_use]
    pub fn cdi_directories<D: Into<PathBuf>>(
        mut self,
        directories: impl IntoIterator<Item = D>,
    ) -> Self {
        self.cdi_directories = directories.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how registries are spoken to. Default: as public ones want it.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn registry(mut self, config: RegistryConfig) -> Self {
        self.registry = config;
        self
    }

    /// Sets who knows the credentials of registries; it is asked only when one demands them.
    /// Default: nobody. [`DockerConfig`](crate::registry::DockerConfig) knows those of `docker
    /// login`.
    #[cfg(feature = "registry")]
    #[must_use]
    pub fn credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = credentials;
        self
    }

    /// Opens the solver. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build(self) -> Result<Solver, BuildError> {
        let path = self.root.ok_or(BuildError::NoRoot)?;
        let runtime = match self.runtime {
            Some(runtime) => runtime,
            None => Handle::try_current().map_err(|_| BuildError::NoRuntime)?,
        };
        let failed = |failure: Failure| BuildError::Store(FailureSource(failure));
        // Steps mount what is below it, and the host program may change its working directory.
        let path = std::path::absolute(&path).map_err(|source| {
            let action = "make absolute";
            failed(
                RootError::Io {
                    action,
                    path,
                    source,
                }
                .into(),
            )
        })?;
        let root = Arc::new(StateRoot::open(path).map_err(|error| failed(error.into()))?);
        let opened =
            Database::open(root.path(), root.boot_id()).map_err(|error| failed(error.into()))?;
        if let Some(moved) = &opened.damaged {
            tracing::warn!(file = %moved.display(), "the cache database was damaged and moved aside");
        }
        if opened.dropped > 0 {
            let records = opened.dropped;
            tracing::warn!(
                records,
                "cache records that a restart of the machine made uncertain were dropped"
            );
        }
        let meta: Arc<dyn Meta> = Arc::new(opened.database);
        let blobs = BlobStore::of_root(root.dir()).map_err(|error| failed(error.into()))?;
        let layers = LayerStore::new(root.clone(), meta.clone());
        let sandbox = || {
            let sandbox = SandboxExecutor::new(root.tier() == Tier::Root)?;
            let sandbox = sandbox.probing_in(root.path().join("trash"));
            let sandbox = sandbox.pretend_ownership(self.pretend_ownership);
            let sandbox = sandbox.dns(self.dns);
            let sandbox = match self.control_groups {
                Some(groups) => sandbox.control_groups(groups),
                None => sandbox,
            };
            Ok(match self.network_provider {
                Some(provider) => sandbox.network_provider(provider),
                None => sandbox,
            })
        };
        let selected = executor::select(self.executor, sandbox);
        let (executor, executor_kind) = selected.map_err(|error| failed(error.into()))?;
        let cache_mounts = CacheMounts::new(root.path().join("cache-mounts"));
        let locals = Arc::new(LocalCache::new(root.folder("stat").ok()));
        let results = Arc::new(StackResults(layers.clone()));
        let scheduler = Scheduler::new(Cache::new(meta.clone()), results, self.parallelism);
        let scheduler = scheduler.locks(Arc::new(RootLocks(root.clone())));
        let syncer = Syncer::new(root, meta.clone());
        #[cfg(feature = "registry")]
        let registry = Registry::new(
            self.registry,
            self.credentials,
            self.clock.clone(),
            runtime.clone(),
        );
        let store = Store::new(layers, blobs, meta, self.clock).with_limits(self.limits);
        Ok(Solver(Arc::new(Inner {
            store,
            executor,
            executor_kind,
            network: self.network,
            entitlements: self.entitlements,
            cdi_directories: self.cdi_directories.into(),
            cache_mounts,
            locals,
            keys: Arc::default(),
            unpacking: Arc::default(),
            #[cfg(feature = "registry")]
            registry,
            scheduler,
            runtime,
            syncer,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_root_becomes_absolute() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let here = std::env::current_dir().unwrap();
        let mut relative: PathBuf = here.components().skip(1).map(|_| "..").collect();
        relative.push(folder.path().strip_prefix("/").unwrap());
        assert!(relative.is_relative());
        let solver = SolverBuilder::new()
            .root(relative)
            .runtime(runtime.handle().clone())
            .build()
            .unwrap();
        assert!(solver.root().is_absolute());
        assert!(folder.path().join("layers").is_dir());
    }
}
