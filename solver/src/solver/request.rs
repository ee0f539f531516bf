//! What a caller asks of a solver.

use std::path::PathBuf;
use std::sync::Arc;

use ashlar_llb::{Definition, Platform};

use super::{CacheImport, Durability};
use crate::session::{LocalDirectory, SecretProvider, Session, SshAgent};
use crate::source::image::ResolveMode;

/// One solve: a definition and what the caller lends to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SolveRequest {
    /// What to build.
    pub definition: Definition,
    /// Directories and layouts lent to this solve.
    pub session: Session,
    /// Run every vertex, whatever is in the cache; results are stored all the same. Cache mounts
    /// begin anew. Default: false.
    pub no_cache: bool,
    /// Keeps the cache mounts of this solve apart from those of solves in other namespaces. Default:
    /// empty, the common one.
    pub cache_mount_namespace: String,
    /// Whether registries are asked what tags lead to. Default: [`ResolveMode::Always`].
    pub resolve: ResolveMode,
    /// When the result is safe from a power cut. Default: [`Durability::Background`].
    pub durability: Durability,
    /// Records from elsewhere, looked at after those of the store; of equally good ones those of the
    /// first import count. Default: none.
    pub imports: Vec<CacheImport>,
    /// The platform of the result; goes into image configs that do not name one. Default: that of
    /// the vertex the result comes from, else that of this machine.
    pub platform: Option<Platform>,
}

impl SolveRequest {
    /// Asks for `definition`, lending nothing.
    pub fn new(definition: Definition) -> Self {
        Self {
            definition,
            session: Session::default(),
            no_cache: false,
            cache_mount_namespace: String::new(),
            resolve: ResolveMode::default(),
            durability: Durability::default(),
            imports: Vec::new(),
            platform: None,
        }
    }

    /// Lends a directory under the name that `llb::local` uses.
    #[must_use]
    pub fn local(mut self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.session
            .locals
            .insert(name.into(), LocalDirectory::new(path));
        self
    }

    /// Lends a directory under the name that `llb::local` uses, with a say in how owners and
    /// permissions count.
    #[must_use]
    pub fn local_directory(mut self, name: impl Into<String>, directory: LocalDirectory) -> Self {
        self.session.locals.insert(name.into(), directory);
        self
    }

    /// Lends an OCI image layout under the store id that `llb::oci_layout` uses: a directory, or an
    /// archive as `docker save`, `podman save` and `skopeo copy` write them. It is read in place.
    #[must_use]
    pub fn oci_layout(mut self, store: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.session.oci_layouts.insert(store.into(), path.into());
        self
    }

    /// Lends a secret. Of secrets with the same id the last counts.
    ///
    /// ```
    /// use ashlar_llb::Definition;
    /// use ashlar_solver::session::{EnvSecret, FileSecret, MemorySecret};
    /// use ashlar_solver::solver::SolveRequest;
    ///
    /// let request = SolveRequest::new(Definition::default())
    ///     .secret(FileSecret::new("npmrc", "/home/me/.npmrc"))
    ///     .secret(EnvSecret::new("token", "GITHUB_TOKEN"))
    ///     .secret(MemorySecret::new("password", "hunter2"));
    /// assert!(!format!("{request:?}").contains("hunter2"));
    /// ```
    #[must_use]
    pub fn secret(mut self, secret: impl SecretProvider + 'static) -> Self {
        self.session.secrets.push(Arc::new(secret));
        self
    }

    /// Lends an ssh agent under an id; `default` is that of steps that name none.
    #[must_use]
    pub fn ssh(mut self, id: impl Into<String>, agent: impl SshAgent + 'static) -> Self {
        self.session.ssh.insert(id.into(), Arc::new(agent));
        self
    }

    /// Lets the solve use records from elsewhere.
    #[must_use]
    pub fn import_cache(mut self, import: CacheImport) -> Self {
        self.imports.push(import);
        self
    }

    /// Sets whether every vertex runs, with cache mounts that begin anew.
    #[must_use]
    pub fn no_cache(mut self, no_cache: bool) -> Self {
        self.no_cache = no_cache;
        self
    }

    /// Keeps the cache mounts of this solve apart from those of solves in other namespaces, for
    /// builds of others that use the same ids; what BuildKit's Dockerfile frontend calls
    /// `BUILDKIT_CACHE_MOUNT_NS`. Results are shared between namespaces all the same.
    #[must_use]
    pub fn cache_mount_namespace(mut self, namespace: impl Into<String>) -> Self {
        self.cache_mount_namespace = namespace.into();
        self
    }

    /// Sets whether registries are asked.
    #[must_use]
    pub fn resolve(mut self, mode: ResolveMode) -> Self {
        self.resolve = mode;
        self
    }

    /// Sets when the result is safe from a power cut.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }
}
