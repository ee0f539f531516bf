//! Manifests: what tags lead to, mirrors, and answers that are refused.

use std::sync::Mutex;
use std::time::Duration;

use ashlar_llb::digest::BlobDigest;
use ashlar_solver::content::ContentError;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::oci::Descriptor;
use ashlar_solver::oci::media_type::{DOCKER_LIST, OCI_MANIFEST};
use ashlar_solver::registry::{HostConfig, Mirror, RegistryError};

use tokio::time::Instant;

use super::fake::{Fake, Manner, Reply, Store};
use super::kit::{LIMIT, app, quick};

const TEXT: &str = r#"{"schemaVersion":2}"#;

fn store() -> Store {
    let mut store = Store::new();
    store.manifest("v1", OCI_MANIFEST, TEXT);
    store
}

fn expected() -> Descriptor {
    let digest = BlobDigest::of(TEXT.as_bytes());
    Descriptor::new(OCI_MANIFEST, digest, TEXT.len() as u64)
}

#[tokio::test]
async fn a_tag_is_resolved_by_its_head_alone() {
    let store = store();
    let fake = Fake::start(move |seen| store.reply(seen)).await;
    let from = app(quick(), &fake.host);
    assert_eq!(from.resolve("v1", LIMIT).await.unwrap(), expected());
    let seen = fake.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (&seen[0].method[..], &seen[0].path[..]),
        ("HEAD", "/v2/app/manifests/v1")
    );
    let accepted = seen[0].header("accept").unwrap();
    assert!(accepted.contains(OCI_MANIFEST) && accepted.contains(DOCKER_LIST));
    let document = from.document(&expected(), LIMIT).await.unwrap();
    assert_eq!(document, TEXT.as_bytes());
    let unknown = from.resolve("v2", LIMIT).await.unwrap_err();
    assert!(
        matches!(unknown, RegistryError::NotFound { .. }),
        "{unknown:?}"
    );
    assert_eq!(unknown.fault(), Fault::Input);
    let told = from.manifest("v2", LIMIT).await.unwrap_err().to_string();
    assert!(told.contains("manifest unknown"), "{told}");
}

#[tokio::test]
async fn a_head_that_says_too_little_is_followed_by_the_document() {
    for head in [
        Reply::new(405),
        Reply::new(200),
        Reply::new(200).header("docker-content-digest", "sha512:00"),
    ] {
        let store = store();
        let fake = Fake::start(move |seen| match &seen.method[..] {
            "HEAD" => head.clone(),
            _ => store.reply(seen),
        })
        .await;
        let from = app(quick(), &fake.host);
        assert_eq!(from.resolve("v1", LIMIT).await.unwrap(), expected());
        assert_eq!(fake.seen().len(), 2);
    }
}

#[tokio::test]
async fn failures_that_pass_are_waited_for() {
    for (status, wait) in [
        (429, Some(1)),
        (503, Some(1)),
        (500, None),
        (502, None),
        (504, None),
    ] {
        let store = store();
        let left = Mutex::new(2);
        let fake = Fake::start(move |seen| {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                return store.reply(seen);
            }
            *left -= 1;
            let reply = Reply::new(status);
            match wait {
                Some(seconds) if *left == 0 => reply.header("retry-after", seconds.to_string()),
                _ => reply,
            }
        })
        .await;
        let start = Instant::now();
        let found = app(quick(), &fake.host).resolve("v1", LIMIT).await.unwrap();
        assert_eq!(found, expected());
        assert_eq!(fake.seen().len(), 3);
        let waited = start.elapsed() >= Duration::from_secs(1);
        assert_eq!(waited, wait.is_some(), "{status}");
    }
}

#[tokio::test]
async fn failures_that_do_not_pass_are_told() {
    let answer = |status| async move {
        let fake = Fake::start(move |_| Reply::new(status).header("retry-after", "0")).await;
        let error = app(quick(), &fake.host)
            .resolve("v1", LIMIT)
            .await
            .unwrap_err();
        (error, fake.seen().len())
    };
    let (error, tries) = answer(429).await;
    assert!(
        matches!(error, RegistryError::TooManyRequests { .. }),
        "{error:?}"
    );
    assert_eq!(
        (error.fault(), tries),
        (Fault::Remote { retryable: true }, 5)
    );
    let (error, tries) = answer(503).await;
    assert!(
        matches!(error, RegistryError::Status { status: 503, .. }),
        "{error:?}"
    );
    assert_eq!(
        (error.fault(), tries),
        (Fault::Remote { retryable: true }, 5)
    );
    let (error, tries) = answer(418).await;
    assert!(
        matches!(error, RegistryError::Status { status: 418, .. }),
        "{error:?}"
    );
    assert_eq!(
        (error.fault(), tries),
        (Fault::Remote { retryable: false }, 1)
    );
    let (error, tries) = answer(403).await;
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert_eq!((error.fault(), tries), (Fault::Input, 1));
    // One that wants more patience than we have is given up on at once.
    let fake = Fake::start(|_| Reply::new(429).header("retry-after", "86400")).await;
    let start = Instant::now();
    let error = app(quick(), &fake.host)
        .resolve("v1", LIMIT)
        .await
        .unwrap_err();
    let day = Some(Duration::from_secs(86400));
    assert!(
        matches!(error, RegistryError::TooManyRequests { retry_after, .. } if retry_after == day)
    );
    assert!(start.elapsed() < Duration::from_secs(1));
    // Nobody there.
    let gone = fake.host.clone();
    drop(fake);
    let error = app(quick(), &gone).resolve("v1", LIMIT).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unreachable { .. }),
        "{error:?}"
    );
    assert_eq!(error.fault(), Fault::Remote { retryable: true });
}

#[tokio::test]
async fn class_11_documents_with_other_bytes_are_refused() {
    let mut bad = TEXT.as_bytes().to_vec();
    bad[3] ^= 1;
    let mut long = TEXT.as_bytes().to_vec();
    long.push(b' ');
    for body in [bad, long, TEXT.as_bytes()[1..].to_vec()] {
        let store = store();
        let fake = Fake::start(move |seen| Reply {
            body: body.clone(),
            ..store.reply(seen)
        })
        .await;
        let from = app(quick(), &fake.host);
        let error = from.document(&expected(), LIMIT).await.unwrap_err();
        let content = |error: &RegistryError| {
            matches!(
                error,
                RegistryError::Content {
                    source: ContentError::Digest { .. } | ContentError::Size { .. },
                    ..
                }
            )
        };
        assert!(content(&error), "{error:?}");
        assert_eq!(error.fault(), Fault::Remote { retryable: false });
        let digest = expected().digest.to_string();
        let error = from.manifest(&digest, LIMIT).await.unwrap_err();
        assert!(content(&error), "{error:?}");
        // By tag, the registry contradicts itself.
        let error = from.manifest("v1", LIMIT).await.unwrap_err();
        assert!(content(&error), "{error:?}");
    }
}

#[tokio::test]
async fn class_12_documents_without_end_are_refused() {
    let lie = || Reply::new(200).header("content-length", "1099511627776");
    for reply in [Reply::new(200).manner(Manner::Endless), lie()] {
        let fake = Fake::start(move |_| reply.clone()).await;
        let from = app(quick(), &fake.host);
        let error = from.manifest("v1", LIMIT).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::TooLarge { limit: LIMIT, .. }),
            "{error:?}"
        );
    }
    // Error messages are bounded too, and harmless on a terminal.
    let text = format!(
        r#"{{"errors":[{{"message":"\u001b[31m{}"}}]}}"#,
        "x".repeat(5000)
    );
    let fake = Fake::start(move |_| Reply::new(404).body(text.clone())).await;
    let told = app(quick(), &fake.host)
        .manifest("v1", LIMIT)
        .await
        .unwrap_err()
        .to_string();
    assert!(told.len() < 500 && !told.contains('\u{1b}'), "{told}");
    let fake = Fake::start(|_| Reply::new(404).manner(Manner::Endless)).await;
    assert!(
        app(quick(), &fake.host)
            .manifest("v1", LIMIT)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn mirrors_are_asked_first_and_are_no_risk() {
    let good = store();
    let origin = Fake::start(move |seen| good.reply(seen)).await;
    let mirrored = store();
    let mirror = Fake::start(move |seen| mirrored.reply(seen)).await;
    let bad = Fake::start(|_| Reply::new(404)).await;
    let lying = Fake::start(|_| Reply::new(200).body("no")).await;
    let gone = Fake::start(|_| Reply::new(500)).await.host.clone();
    let with = |mirrors: &[&str]| {
        let mut host = HostConfig::default();
        for mirror in mirrors {
            host = host.mirror(Mirror::new(*mirror).prefix("copies"));
        }
        app(quick().host(&origin.host, host), &origin.host)
    };
    let from = with(&[&bad.host, &mirror.host]);
    assert_eq!(from.resolve("v1", LIMIT).await.unwrap(), expected());
    assert_eq!(mirror.seen()[0].path, "/v2/copies/app/manifests/v1");
    assert!(origin.seen().is_empty());
    let from = with(&[&gone, &lying.host]);
    let document = from.document(&expected(), LIMIT).await.unwrap();
    assert_eq!(document, TEXT.as_bytes());
    assert_eq!((lying.seen().len(), origin.seen().len()), (1, 1));
}
