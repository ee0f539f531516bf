//! Pushes to docker-registry that is killed on the way, and starts again or does not.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_exporters::{ExportError, Exporter as _, Push};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::registry::{HostConfig, RegistryConfig, RegistryError};
use ashlar_solver::solver::Solved;

use super::gate::{Gate, Head, Passage};
use super::push::{good, noise, pushed};
use super::registries::{Registry, Yard, copied, inspect, nobody};
use super::support;

const CHUNK: u64 = 64 << 10;

/// Chunks of 64 KiB, one request at a time.
fn settings(host: &str) -> RegistryConfig {
    let mut config = RegistryConfig::default().host(host, HostConfig::plain_http());
    config.upload_chunk_bytes = CHUNK;
    config.connections_per_host = 1;
    config.retry.first = Duration::from_millis(10);
    config
}

fn is_second_chunk(head: &Head) -> bool {
    head.is("PATCH", "/blobs/uploads/") && head.chunk_from() == Some(CHUNK)
}

/// Ends the registry with `kill -9`, and perhaps starts another in its place.
fn killed(registry: &Mutex<Option<Registry>>, next: impl FnOnce() -> Option<Registry>) {
    let mut registry = registry.lock().unwrap();
    drop(registry.take());
    *registry = next();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_killed_during_an_upload_and_starts_again_gets_all_of_it() {
    let name = "a_registry_that_is_killed_during_an_upload_and_starts_again_gets_all_of_it";
    let Some(yard) = Yard::enter(name) else {
        return;
    };
    let folder = yard.path().to_path_buf();
    // Whether it remembers uploads (it signs what it is to remember), where in the upload it is
    // killed, whether its files are cleared up, and whether a blob is sent from its start again:
    // within a chunk that depends on how much of it was on disk.
    for (round, secret, within, cleared, again) in [
        (
            "between chunks",
            "  secret: same\n",
            None,
            false,
            Some(false),
        ),
        (
            "within a chunk",
            "  secret: same\n",
            Some(30_000),
            false,
            None,
        ),
        ("forgotten", "", None, false, Some(true)),
        ("cleared up", "  secret: same\n", None, true, Some(true)),
    ] {
        let store = yard.at(round);
        let first = Registry::start(&folder, &store, secret);
        let port = first.port();
        let registry = Arc::new(Mutex::new(Some(first)));
        let gates: Arc<Mutex<Option<Gate>>> = Arc::default();
        let (own, keeper_gates, done) = (registry.clone(), gates.clone(), AtomicBool::new(false));
        let (folder, posts) = (folder.clone(), Arc::new(AtomicUsize::new(0)));
        let seen = posts.clone();
        let gate = Gate::open(port, move |head| {
            if head.is("POST", "/blobs/uploads/") {
                seen.fetch_add(1, Ordering::SeqCst);
            }
            if !is_second_chunk(head) || done.swap(true, Ordering::SeqCst) {
                return Passage::Through;
            }
            let (own, gates) = (own.clone(), keeper_gates.clone());
            let (folder, store) = (folder.clone(), store.clone());
            let kill = move || {
                killed(&own, || {
                    if cleared {
                        let app = store.join("docker/registry/v2/repositories/app");
                        fs::remove_dir_all(app.join("_uploads")).unwrap();
                    }
                    let next = Registry::start(&folder, &store, secret);
                    let gate = gates.lock().unwrap();
                    gate.as_ref().unwrap().lead_to(next.port());
                    Some(next)
                });
            };
            match within {
                Some(bytes) => Passage::Part(bytes, Box::new(kill)),
                None => {
                    kill();
                    Passage::Part(0, Box::new(|| {}))
                }
            }
        });
        *gates.lock().unwrap() = Some(gate.clone());
        let solver = yard.solver_of(settings(&gate.host()), nobody());
        let solved = noise(&solver).await;
        let exported = pushed(&solver, &solved, &format!("{}/app:v1", gate.host())).await;
        let digest = good(exported).digest.unwrap();
        // Three layers and a config; an upload that was begun in vain is begun again.
        let posts = posts.load(Ordering::SeqCst);
        match again {
            Some(false) => assert_eq!(posts, 4, "{round}"),
            Some(true) => assert!(posts > 4, "{round}"),
            None => assert!(posts >= 4, "{round}"),
        }
        let now = registry.lock().unwrap().take().unwrap();
        let reference = format!("{}/app:v1", now.host());
        assert_eq!(inspect(&reference, &[])["Digest"], digest.to_string());
        copied(
            &reference,
            &tempfile::tempdir_in(yard.path()).unwrap().keep(),
        );
    }
}

/// A registry that is killed within the second chunk of an upload.
struct Dying {
    gate: Gate,
    registry: Arc<Mutex<Option<Registry>>>,
    /// Requests to it since it is dead.
    since: Arc<AtomicUsize>,
}

impl Dying {
    fn start(yard: &Yard) -> Self {
        let first = yard.open();
        let port = first.port();
        let registry = Arc::new(Mutex::new(Some(first)));
        let since = Arc::new(AtomicUsize::new(0));
        let (own, count) = (registry.clone(), since.clone());
        let gate = Gate::open(port, move |head| {
            if own.lock().unwrap().is_none() {
                count.fetch_add(1, Ordering::SeqCst);
                return Passage::Through;
            }
            let own = own.clone();
            match is_second_chunk(head) {
                true => Passage::Part(30_000, Box::new(move || drop(own.lock().unwrap().take()))),
                false => Passage::Through,
            }
        });
        Self {
            gate,
            registry,
            since,
        }
    }

    /// Another one on the same files gets the image.
    async fn revived(&self, yard: &Yard, push: &Push, solved: &Solved) {
        let registry = yard.open();
        self.gate.lead_to(registry.port());
        let exported = good(push.export(&solved.result, &Cancel::new()).await);
        let reference = format!("{}/app:v1", registry.host());
        let found = inspect(&reference, &[])["Digest"].clone();
        assert_eq!(found, exported.digest.unwrap().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_come_back_is_given_up_on() {
    let Some(yard) = Yard::enter("a_registry_that_does_not_come_back_is_given_up_on") else {
        return;
    };
    let dying = Dying::start(&yard);
    let host = dying.gate.host();
    let solver = yard.solver_of(settings(&host), nobody());
    let solved = noise(&solver).await;
    let push = Push::new(solver.registry()).name(format!("{host}/app:v1"));
    let error = push.export(&solved.result, &Cancel::new()).await;
    let error = error.unwrap_err();
    let ExportError::Push { failure, .. } = &error else {
        panic!("{error:?}");
    };
    let found = failure.downcast_ref::<RegistryError>();
    assert!(
        matches!(found, Some(RegistryError::Unreachable { .. })),
        "{error:?}"
    );
    assert!(support::chain(&error).contains(&host));
    assert_eq!(error.fault(), Fault::Remote { retryable: true });
    // Four blobs, each tried five times at most; the first that is given up on ends it.
    let since = dying.since.load(Ordering::SeqCst);
    assert!((4..=20).contains(&since), "{since}");
    dying.revived(&yard, &push, &solved).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_the_wait_for_a_registry() {
    let Some(yard) = Yard::enter("cancelling_ends_the_wait_for_a_registry") else {
        return;
    };
    let dying = Dying::start(&yard);
    let host = dying.gate.host();
    let mut config = settings(&host);
    let hour = Duration::from_secs(3600);
    (config.retry.first, config.retry.longest) = (hour, hour);
    let solver = yard.solver_of(config, nobody());
    let solved = noise(&solver).await;
    let push = Push::new(solver.registry()).name(format!("{host}/app:v1"));
    let cancel = Cancel::new();
    let (own, result, raised) = (push.clone(), solved.result.clone(), cancel.clone());
    let task = tokio::spawn(async move { own.export(&result, &raised).await });
    while dying.registry.lock().unwrap().is_some() {
        assert!(!task.is_finished());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It is dead, and will be asked again in an hour: very likely that is what is waited for now.
    tokio::time::sleep(Duration::from_millis(50)).await;
    cancel.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
    let error = ended.expect("it ends at once").unwrap().unwrap_err();
    assert!(matches!(error, ExportError::Cancelled), "{error:?}");
    dying.revived(&yard, &push, &solved).await;
}
