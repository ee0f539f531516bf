//! Mounts of run steps.
//!
//! Owns the description of one mount: what is mounted and how. Which target it gets, and which
//! output number, is decided by the step ([`exec`](crate::exec)).

use crate::{CacheId, GuestPath, State, pb};

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Sharing {
    /// Any number of steps, all in one directory.
    #[default]
    Shared,
    /// One step; others get a directory of their own.
    Private,
    /// One step; others wait.
    Locked,
}

/// Whether the content of a mounted input decides if the step is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentCache {
    /// The engine decides: yes for what the step cannot change.
    #[default]
    Default,
    /// Yes.
    On,
    /// No: where the input comes from decides.
    Off,
}

/// A directory that outlives the build.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::Cache;
///
/// let run = llb::image("rust").run(["cargo", "fetch"])
///     .mount("/usr/local/cargo/registry", Cache::locked("cargo"));
/// # let _ = run;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    id: CacheId,
    sharing: Sharing,
}

impl Cache {
    /// The directory `id`, used as `sharing` says. With an empty id the mount is none of a
    /// cache but an ordinary one, as in BuildKit.
    #[must_use]
    pub fn new(id: impl Into<CacheId>, sharing: Sharing) -> Self {
        let id = id.into();
        Self { id, sharing }
    }

    /// The directory `id`, in which any number of steps may work at once.
    #[must_use]
    pub fn shared(id: impl Into<CacheId>) -> Self {
        Self::new(id, Sharing::Shared)
    }

    /// The directory `id`, or a new one if another step is using it.
    #[must_use]
    pub fn private(id: impl Into<CacheId>) -> Self {
        Self::new(id, Sharing::Private)
    }

    /// The directory `id`, for one step at a time.
    #[must_use]
    pub fn locked(id: impl Into<CacheId>) -> Self {
        Self::new(id, Sharing::Locked)
    }

    /// Fills the directory with `state` when it is made.
    #[must_use]
    pub fn seeded_with(self, state: impl Into<State>) -> Mount {
        Mount::bind(state).cache(self)
    }
}

/// A file system in memory that is gone when the step ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tmpfs {
    size: i64,
}

impl Tmpfs {
    /// One without a limit but that of the machine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One of at most `bytes`; 0 means no limit.
    #[must_use]
    pub fn sized(bytes: u64) -> Self {
        let size = i64::try_from(bytes).unwrap_or(i64::MAX);
        Self { size }
    }
}

/// What is mounted in a run step, and how.
///
/// A [`State`] is mounted writable; what the step changes is an output of the step and leaves
/// the state alone.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::Mount;
///
/// let headers = Mount::bind(llb::image("gcc")).source_path("/usr/include").readonly();
/// let run = llb::image("alpine").run(["ls", "/include"]).mount("/include", headers);
/// # let _ = run;
/// ```
#[derive(Clone, Debug)]
pub struct Mount {
    pub(crate) source: State,
    pub(crate) readonly: bool,
    pub(crate) selector: GuestPath,
    pub(crate) no_output: bool,
    pub(crate) content_cache: ContentCache,
    cache: Option<Cache>,
    tmpfs: Option<Tmpfs>,
}

impl Mount {
    /// Mounts `state`, writable.
    #[must_use]
    pub fn bind(state: impl Into<State>) -> Self {
        Self {
            source: state.into(),
            readonly: false,
            selector: GuestPath::default(),
            no_output: false,
            content_cache: ContentCache::Default,
            cache: None,
            tmpfs: None,
        }
    }

    /// Keeps the step from writing; the step's output there is the mounted state itself.
    #[must_use]
    pub fn readonly(mut self) -> Self {
        self.readonly = true;
        self
    }

    /// Mounts only this path of the state.
    #[must_use]
    pub fn source_path(mut self, path: impl Into<GuestPath>) -> Self {
        self.selector = path.into();
        self
    }

    /// Drops what the step writes there.
    #[must_use]
    pub fn no_output(mut self) -> Self {
        self.no_output = true;
        self
    }

    /// Decides whether the content of the state, rather than its origin, decides if the step
    /// is cached.
    #[must_use]
    pub fn content_cache(mut self, content_cache: ContentCache) -> Self {
        self.content_cache = content_cache;
        self
    }

    /// Makes it a cache that starts as a copy of the state.
    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Makes it a tmpfs. The state has to be scratch.
    #[must_use]
    pub fn tmpfs(mut self, tmpfs: Tmpfs) -> Self {
        self.tmpfs = Some(tmpfs);
        self
    }

    pub(crate) fn cache_fields(&self) -> Option<pb::CacheFields<'_>> {
        let cache = self.cache.as_ref().filter(|cache| !cache.id.is_empty())?;
        let sharing = match cache.sharing {
            Sharing::Shared => pb::CacheSharingOpt::Shared,
            Sharing::Private => pb::CacheSharingOpt::Private,
            Sharing::Locked => pb::CacheSharingOpt::Locked,
        };
        Some(pb::CacheFields {
            id: cache.id.as_str(),
            sharing: sharing.into(),
        })
    }

    pub(crate) fn is_cache(&self) -> bool {
        self.cache
            .as_ref()
            .is_some_and(|cache| !cache.id.is_empty())
    }

    pub(crate) fn tmpfs_opt(&self) -> Option<pb::TmpfsOpt> {
        self.tmpfs.map(|tmpfs| pb::TmpfsOpt { size: tmpfs.size })
    }

    /// Whether what the step writes there becomes an output of the step.
    pub(crate) fn has_output(&self) -> bool {
        !self.no_output && !self.readonly && !self.is_cache() && self.tmpfs.is_none()
    }
}

impl From<State> for Mount {
    fn from(state: State) -> Self {
        Self::bind(state)
    }
}

impl From<&State> for Mount {
    fn from(state: &State) -> Self {
        Self::bind(state)
    }
}

impl From<Cache> for Mount {
    fn from(cache: Cache) -> Self {
        Self::bind(crate::scratch()).cache(cache)
    }
}

impl From<Tmpfs> for Mount {
    fn from(tmpfs: Tmpfs) -> Self {
        Self::bind(crate::scratch()).tmpfs(tmpfs)
    }
}
