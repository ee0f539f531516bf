//! Pushes to docker-registry with tokens: what they ask for, and what happens when they expire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ashlar_exporters::ExportError;
use ashlar_llb::{self as llb, State};
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::registry::{HostConfig, RegistryConfig, RegistryError};
use serde_json::Value;

use super::export::fixed_context;
use super::gate::{Gate, Head, Passage};
use super::push::{app, good, pushed};
use super::registries::{Yard, inspect, me, nobody};
use super::support::{self, run, solve};
use super::token_server::{TokenServer, left};

const CREDENTIAL: &str = "me:hunter2";

/// skopeo takes all of an image, verifying every digest, and tells which it is.
fn taken(yard: &Yard, reference: &str) -> Value {
    let layout = tempfile::tempdir_in(yard.path()).unwrap().keep();
    run(std::process::Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet"])
        .args(["--src-tls-verify=false", "--src-creds", CREDENTIAL])
        .arg(format!("docker://{reference}"))
        .arg(format!("oci:{}:v1", layout.display())));
    inspect(reference, &["--creds", CREDENTIAL])["Digest"].clone()
}

/// Waits until the token of a request has expired; false if it is a long-lived one.
fn outlived(head: &Head) -> bool {
    let header = head.header("authorization").unwrap();
    let token = header.strip_prefix("Bearer ").unwrap();
    if left(token) > Duration::from_secs(5) {
        return false;
    }
    while !left(token).is_zero() {
        std::thread::sleep(left(token));
    }
    true
}

fn is_chunk_in_the_midst(head: &Head) -> bool {
    head.is("PATCH", "/blobs/uploads/") && head.chunk_from().is_some_and(|from| from > 0)
}

fn is_tag(head: &Head) -> bool {
    head.is("PUT", "/manifests/v")
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_expire_in_the_midst_of_a_push_are_renewed() {
    let Some(yard) = Yard::enter("tokens_that_expire_in_the_midst_of_a_push_are_renewed") else {
        return;
    };
    let server = TokenServer::start(yard.path(), &[("app", "pull,push")]);
    let mut registry = yard.registry("store", &server.settings());
    let mut config = RegistryConfig::default();
    config.upload_chunk_bytes = 1 << 20;
    config.retry.first = Duration::from_millis(10);
    for (moment, is_moment) in [
        ("chunk", is_chunk_in_the_midst as fn(&Head) -> bool),
        ("tag", is_tag),
    ] {
        // On a machine that is busy it may have expired before: once more then.
        let mut attempts = 1..=9;
        loop {
            let attempt = attempts.next().expect("it expires at the right moment");
            let held = AtomicBool::new(false);
            let gate = Gate::open(registry.port(), move |head| {
                // The first of them.
                if is_moment(head) && !held.swap(true, Ordering::SeqCst) {
                    outlived(head);
                }
                Passage::Through
            });
            let config = config.clone().host(gate.host(), HostConfig::plain_http());
            let solver = yard.solver_of(config, me(&gate.host(), "hunter2"));
            let solved = match moment {
                "chunk" => solve(&solver, fixed_context(yard.path())).await,
                _ => app(&solver, moment).await,
            };
            server.next_is_short();
            let exported = pushed(&solver, &solved, &format!("{}/app:v1", gate.host())).await;
            let digest = good(exported).digest.unwrap().to_string();
            let reference = format!("{}/app:v1", registry.host());
            assert_eq!(taken(&yard, &reference), digest.as_str());
            if gate.answered(401).iter().any(is_moment) {
                println!("{moment}: at attempt {attempt}");
                break;
            }
            registry = yard.registry(&format!("{moment}{attempt}"), &server.settings());
        }
        registry = yard.registry(moment, &server.settings());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_ask_for_both_repositories_and_are_not_insisted_on() {
    let name = "mounts_ask_for_both_repositories_and_are_not_insisted_on";
    let Some(yard) = Yard::enter(name) else {
        return;
    };
    let server = TokenServer::start(yard.path(), &[("base", "pull,push")]);
    let registry = yard.registry("store", &server.settings());
    let gate = Gate::open(registry.port(), |_| Passage::Through);
    let solver = || {
        let config = RegistryConfig::default().host(gate.host(), HostConfig::plain_http());
        yard.solver_of(config, me(&gate.host(), "hunter2"))
    };
    let named = |name: &str| format!("{}/{name}:v1", gate.host());
    let there = |name: &str| format!("{}/{name}:v1", registry.host());
    let is_mount = |head: &Head| head.is("POST", "mount=");
    // Layers that are in the store, which remembers where they were pushed to; and layers that are
    // in the registry alone.
    let maker = solver();
    let made = app(&maker, "base").await;
    let digest = good(pushed(&maker, &made, &named("base")).await).digest;
    let other = solver();
    let image = State::from(llb::image(named("base")));
    let lazy = solve(&other, support::request(&image)).await;
    for (solver, solved, to) in [(&maker, &made, "copy"), (&other, &lazy, "lazy")] {
        let mounted = gate.answered(201).into_iter().filter(is_mount).count();
        server.change(|grants| {
            grants.known.insert(to, "pull,push");
        });
        let pushed = good(pushed(solver, solved, &named(to)).await)
            .digest
            .unwrap();
        let now = gate.answered(201).into_iter().filter(is_mount).count();
        assert_eq!(now - mounted, 2, "both layers are mounted");
        let both = format!("repository:base:pull repository:{to}:pull,push");
        assert!(server.asked().contains(&both), "{:?}", server.asked());
        assert_eq!(taken(&yard, &there(to)), pushed.to_string());
    }
    // Who may not read the other repository sends the layers: if the token server gives less than
    // it is asked for, and if it gives nothing then.
    let mounted = gate.answered(201).into_iter().filter(is_mount).count();
    for (to, strict) in [("less", false), ("nothing", true)] {
        server.change(|grants| {
            grants.known = [(to, "pull,push")].into();
            grants.strict = strict;
        });
        let asked = server.asked().len();
        assert_eq!(good(pushed(&maker, &made, &named(to)).await).digest, digest);
        let wanted = server.asked()[asked..]
            .iter()
            .any(|scopes| scopes.contains(' '));
        assert!(wanted, "it was asked for two repositories");
        assert_eq!(taken(&yard, &there(to)), digest.unwrap().to_string());
    }
    assert_eq!(
        gate.answered(201).into_iter().filter(is_mount).count(),
        mounted
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_push_is_told_where_to_and_what_to_do() {
    let Some(yard) = Yard::enter("who_may_not_push_is_told_where_to_and_what_to_do") else {
        return;
    };
    let server = TokenServer::start(yard.path(), &[("app", "pull")]);
    let registry = yard.registry("store", &server.settings());
    let reference = format!("{}/app:v1", registry.host());
    // Somebody who may only pull, from servers that give less than they are asked for, or nothing;
    // and nobody, who may pull everywhere.
    for (known, strict) in [(true, false), (true, true), (false, false), (false, true)] {
        server.change(|grants| {
            grants.strict = strict;
            grants.anyone = [("app", "pull")].into();
        });
        let credentials = match known {
            true => me(&registry.host(), "hunter2"),
            false => nobody(),
        };
        let solver = yard.solver_of(RegistryConfig::default(), credentials);
        let solved = app(&solver, "refused").await;
        let error = pushed(&solver, &solved, &reference).await.unwrap_err();
        let ExportError::Push { failure, .. } = &error else {
            panic!("{error:?}");
        };
        let text = support::chain(&error);
        match failure.downcast_ref::<RegistryError>() {
            Some(RegistryError::Unauthorized { host, shown, .. }) if !strict => {
                assert_eq!((host, *shown), (&registry.host(), known));
            }
            Some(RegistryError::Token { refused: true, .. }) if strict => {}
            other => panic!("{other:?}"),
        }
        assert!(
            text.contains(&reference) && text.contains("push to app"),
            "{text}"
        );
        let remedy = error.remedy().unwrap();
        assert!(remedy.contains("may push to app"), "{remedy}");
        assert_eq!(error.fault(), Fault::Input);
        println!("{text}; {remedy}");
    }
    assert!(!yard.at("store/docker").exists(), "nothing was begun");
    // It was asked once to push, and once again: nobody waits for what will not come.
    let pushes = server
        .asked()
        .into_iter()
        .filter(|scopes| scopes.contains("push"));
    assert!(pushes.count() <= 4 * 2 * 3);
}
