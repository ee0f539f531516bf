//! What operations are lent by the engine.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_llb::digest::{ChainId, OpDigest};

use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::content::BlobStore;
use crate::error::{Blame, Fault, OperationError};
use crate::executor::{Executor, Network};
use crate::limits::Limits;
use crate::meta::Meta;
use crate::operation::SubSolve;
use crate::ops::exec::CacheMounts;
use crate::ops::keys::KnownKeys;
use crate::provenance::ResolvedSource;
use crate::refs::Ref;
use crate::root::Tier;
use crate::session::Session;
use crate::snapshot::LayerStore;
use crate::source::image::ResolveMode;
use crate::source::local::{LocalCache, LocalTree};
use crate::turns::Turns;

/// What a build may ask for beyond the ordinary.
///
/// ```
/// use ashlar_solver::ops::{DeviceGrant, Entitlements};
///
/// # fn main() -> Result<(), ashlar_solver::ops::UnknownEntitlement> {
/// let allowed = Entitlements::default().allow("network.host")?.allow("device=vendor.com/gpu")?;
/// assert!(allowed.network_host && !allowed.security_insecure);
/// assert!(matches!(allowed.devices, DeviceGrant::Named(names) if names.len() == 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Entitlements {
    /// Steps may ask for the host's network (`network.host`). Default: no.
    pub network_host: bool,
    /// Steps may ask for all capabilities (`security.insecure`). Default: no.
    pub security_insecure: bool,
    /// The CDI devices that steps may have (`device`). Default: those whose specification says
    /// that everybody may.
    pub devices: DeviceGrant,
}

/// Which CDI devices steps may have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DeviceGrant {
    /// Those whose specification says that everybody may.
    #[default]
    Free,
    /// Also those that these names lead to. A name with a second one stands for the device of that
    /// name, wherever a step asks for it.
    Named(BTreeMap<String, Option<String>>),
    /// All.
    All,
}

/// A text names no entitlement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown entitlement {text}")]
#[non_exhaustive]
pub struct UnknownEntitlement {
    /// The text.
    pub text: String,
}

impl Entitlements {
    /// Adds an entitlement as `buildctl build --allow` takes it: `network.host`,
    /// `security.insecure`, `device`, `device=NAME` or `device=NAME,alias=OTHER`.
    ///
    /// # Errors
    /// [`UnknownEntitlement`].
    pub fn allow(mut self, text: &str) -> Result<Self, UnknownEntitlement> {
        let unknown = || UnknownEntitlement {
            text: text.to_owned(),
        };
        match text.split_once('=').unwrap_or((text, "")) {
            ("network.host", _) if !text.contains('=') => self.network_host = true,
            ("security.insecure", _) if !text.contains('=') => self.security_insecure = true,
            ("device", "") => self.devices = DeviceGrant::All,
            ("device", rest) => {
                let (name, options) = rest.split_once(',').unwrap_or((rest, ""));
                let alias = match options {
                    "" => None,
                    options => Some(options.strip_prefix("alias=").ok_or_else(unknown)?),
                };
                let entry = match alias {
                    Some(alias) => (alias.to_owned(), Some(name.to_owned())),
                    None => (name.to_owned(), None),
                };
                match &mut self.devices {
                    DeviceGrant::All => {}
                    DeviceGrant::Named(names) => {
                        names.insert(entry.0, entry.1);
                    }
                    DeviceGrant::Free => self.devices = DeviceGrant::Named([entry].into()),
                }
            }
            _ => return Err(unknown()),
        }
        Ok(self)
    }
}

/// Everything that operations need beside their op.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct Engine {
    /// Where layers are kept.
    pub layers: LayerStore,
    /// Runs processes.
    pub executor: Arc<dyn Executor>,
    /// Tells the time that new files get.
    pub clock: Arc<dyn Clock>,
    /// Ceilings on foreign input.
    pub limits: Limits,
    /// What the caller lends to this solve.
    pub session: Session,
    /// What this solve may ask for.
    pub entitlements: Entitlements,
    /// Where CDI specifications are; of devices with one name the later directory's counts.
    pub cdi_directories: Arc<[PathBuf]>,
    /// The network of steps that ask for none in particular.
    pub network: Network,
    /// Where cache mounts are kept.
    pub cache_mounts: CacheMounts,
    /// Where blobs are kept.
    pub blobs: BlobStore,
    /// The database of the store.
    pub meta: Arc<dyn Meta>,
    /// The keys of large ops.
    pub keys: Arc<KnownKeys>,
    /// Images that are being unpacked.
    pub unpacking: Arc<Turns<ChainId>>,
    /// Whether registries are asked what references lead to.
    pub resolve: ResolveMode,
    /// Where images come from.
    #[cfg(feature = "registry")]
    pub registry: crate::registry::Registry,
    /// What is remembered of local directories.
    pub locals: Arc<LocalCache>,
    /// The local directories that this solve looked at, builds inside of it included.
    pub scanned: Arc<Mutex<Vec<Arc<LocalTree>>>>,
    /// What the sources of this solve led to.
    pub sources: Mutex<HashMap<OpDigest, ResolvedSource>>,
    /// Solves definitions that are found in the course of this solve.
    pub sub_solve: Arc<dyn SubSolve<Ref>>,
}

impl Engine {
    /// Whether files may be given any owner and devices may be made.
    pub(crate) fn is_privileged(&self) -> bool {
        self.layers.root().tier() == Tier::Root
    }

    /// Notes a directory that was looked at, for [`Engine::remember_locals`].
    pub(crate) fn note_local(&self, tree: Arc<LocalTree>) {
        self.scanned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(tree);
    }

    /// Notes what a source led to, for provenance.
    pub(crate) fn note_source(&self, vertex: OpDigest, source: ResolvedSource) {
        self.sources
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(vertex, source);
    }

    /// What a source led to; `None` if it was not asked.
    pub fn resolved_source(&self, vertex: &OpDigest) -> Option<ResolvedSource> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(vertex).cloned()
    }

    /// Whether [`Engine::remember_locals`] has anything to do.
    pub fn has_locals(&self) -> bool {
        !self
            .scanned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// What this solve read of each directory it looked at: its name, files, bytes. Before
    /// [`Engine::remember_locals`].
    pub fn locals_read(&self) -> Vec<(String, u64, u64)> {
        let trees = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |tree: &Arc<LocalTree>| {
            let name = tree.name().to_owned();
            (name, tree.files_read(), tree.bytes_read())
        };
        trees.iter().map(read).collect()
    }

    /// Writes down what this solve learnt of local directories by reading them. What cannot be
    /// written is read again by the next solve. Blocks.
    pub fn remember_locals(&self) {
        let trees =
            std::mem::take(&mut *self.scanned.lock().unwrap_or_else(PoisonError::into_inner));
        for tree in trees {
            let _only_time_is_lost = tree.store_stat_cache(&self.locals);
        }
    }
}

/// The thread that did the blocking part of an operation ended without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the blocking part of an operation was interrupted")]
struct Interrupted;

impl Blame for Interrupted {
    fn fault(&self) -> Fault {
        Fault::Bug
    }
}

/// Does blocking work on a thread for it. Its `Cancel` is raised if `cancel` is, or if the future
/// is dropped.
pub(super) async fn unblock<T: Send + 'static>(
    cancel: &Cancel,
    work: impl FnOnce(Cancel) -> Result<T, OperationError> + Send + 'static,
) -> Result<T, OperationError> {
    struct Stop(Cancel);

    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }

    let stop = Stop(cancel.child());
    let inner = stop.0.clone();
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(|| work(inner))).await;
    done.unwrap_or_else(|_| Err(Interrupted.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entitlements_are_read_as_buildctl_does() {
        let allow = |texts: &[&str]| {
            let none = Entitlements::default();
            texts.iter().try_fold(none, |all, text| all.allow(text))
        };
        let both = allow(&["network.host", "security.insecure"]).unwrap();
        assert!(both.network_host && both.security_insecure);
        assert_eq!(both.devices, DeviceGrant::Free);
        let named = allow(&["device=a/b=c", "device=d,alias=e"]).unwrap();
        let names = [
            ("a/b=c".to_owned(), None),
            ("e".to_owned(), Some("d".to_owned())),
        ];
        assert_eq!(named.devices, DeviceGrant::Named(names.into()));
        for all in [&["device", "device=x"][..], &["device=x", "device"]] {
            assert_eq!(allow(all).unwrap().devices, DeviceGrant::All);
        }
        for unknown in ["", "network", "network.host=1", "device=a,b", "devices"] {
            assert_eq!(allow(&[unknown]).unwrap_err().text, unknown);
        }
    }
}
