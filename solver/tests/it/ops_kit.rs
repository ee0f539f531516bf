//! An engine for operations, on a state root of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ashlar_llb::{Definition, OpDigest};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::SystemClock;
use ashlar_solver::content::BlobStore;
use ashlar_solver::error::OperationError;
use ashlar_solver::executor::{Executor, Network};
use ashlar_solver::limits::Limits;
use ashlar_solver::meta::Memory;
use ashlar_solver::operation::{Context, SubSolve, SubSolved};
use ashlar_solver::ops::{CacheMounts, Engine, Entitlements};
use ashlar_solver::progress::{Ignore, Reporter, Sink};
use ashlar_solver::refs::Ref;
use ashlar_solver::root::StateRoot;
use ashlar_solver::session::Session;
use ashlar_solver::snapshot::LayerStore;
use ashlar_solver::source::image::ResolveMode;
use ashlar_solver::source::local::LocalCache;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Notes the definitions that it is to solve, and makes nothing of them.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    pub(crate) asked: Mutex<Vec<Definition>>,
    pub(crate) changing: AtomicBool,
}

#[async_trait::async_trait]
impl SubSolve<Ref> for Definitions {
    async fn sub_solve(
        &self,
        definition: Definition,
        _: &Context,
    ) -> Result<SubSolved<Ref>, OperationError> {
        self.asked.lock().unwrap().push(definition);
        Ok(SubSolved {
            value: Ref::scratch(),
            fixed: !self.changing.load(Ordering::Relaxed),
            origins: Vec::new(),
        })
    }
}

pub(crate) struct Kit {
    pub(crate) engine: Arc<Engine>,
    #[allow(dead_code, reason = "not every test program has build ops")]
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) runtime: Runtime,
    _directory: TempDir,
}

impl Kit {
    pub(crate) fn with(executor: Arc<dyn Executor>) -> Self {
        Self::limited(executor, Limits::default())
    }

    pub(crate) fn limited(executor: Arc<dyn Executor>, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Arc::new(StateRoot::open(directory.path().join("root")).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let meta = Arc::new(Memory::new());
        let definitions = Arc::new(Definitions::default());
        let engine = Engine {
            blobs: BlobStore::new(root.folder("blobs").unwrap()),
            meta: meta.clone(),
            locals: Arc::new(LocalCache::new(None)),
            keys: Arc::default(),
            unpacking: Arc::default(),
            resolve: ResolveMode::default(),
            #[cfg(feature = "registry")]
            registry: ashlar_solver::registry::Registry::new(
                ashlar_solver::registry::RegistryConfig::default(),
                Arc::new(ashlar_solver::registry::Anonymous),
                Arc::new(SystemClock),
                runtime.handle().clone(),
            ),
            scanned: Arc::default(),
            sources: Mutex::default(),
            sub_solve: definitions.clone(),
            layers: LayerStore::new(root, meta),
            executor,
            clock: Arc::new(SystemClock),
            limits,
            session: Session::default(),
            entitlements: Entitlements::default(),
            cdi_directories: [].into(),
            network: Network::None,
            cache_mounts: CacheMounts::new(directory.path().join("root/cache-mounts")),
        };
        Self {
            engine: Arc::new(engine),
            definitions,
            runtime,
            _directory: directory,
        }
    }

    pub(crate) fn context(&self) -> Context {
        self.context_of(Arc::new(Ignore))
    }

    /// A context whose events go to `sink`.
    pub(crate) fn context_of(&self, sink: Arc<dyn Sink>) -> Context {
        let digest = OpDigest::of(b"test");
        Context::new(
            Cancel::new(),
            Reporter::new(sink, digest, self.engine.clock.clone()),
        )
    }
}
