//! Logins: nobody is asked before a registry demands it, and nobody else sees it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::Clock;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::oci::media_type::OCI_MANIFEST;
use ashlar_solver::registry::{Credential, Password, Registry, RegistryError, Scope};

use super::fake::{Fake, Manner, Reply, Seen, Store};
use super::kit::{CANARY, Counted, Hand, LIMIT, app, app_as, descriptor, noise, quick, reference};

fn store() -> Store {
    let mut store = Store::new();
    store.manifest("v1", OCI_MANIFEST, r#"{"schemaVersion":2}"#);
    store
}

fn secret() -> Arc<Counted> {
    Counted::new(Credential::password("me", CANARY))
}

/// `me:canary-hunter2`.
const BASIC: &str = "Basic bWU6Y2FuYXJ5LWh1bnRlcjI=";

/// A registry and its token server in one: a request needs a token that the server gave, which is
/// good for `uses` requests.
async fn guarded(
    uses: usize,
    token: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
) -> Fake {
    let (store, given) = (store(), AtomicUsize::new(0));
    let host = Arc::new(Mutex::new(String::new()));
    let (realm, left) = (host.clone(), Mutex::new(Vec::new()));
    let fake = Fake::start(move |seen| {
        let mut left = left.lock().unwrap();
        if seen.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::SeqCst);
            left.push(uses);
            return token(seen, number);
        }
        let number = seen.header("authorization");
        let number = number.and_then(|text| text.strip_prefix("Bearer token-")?.parse().ok());
        match number.and_then(|number: usize| left.get_mut(number)) {
            Some(uses) if *uses > 0 => {
                *uses -= 1;
                store.reply(seen)
            }
            _ => {
                let realm = realm.lock().unwrap();
                let challenge = format!(
                    r#"Bearer realm="http://{realm}/token",service="the registry",scope="repository:app:pull""#
                );
                Reply::new(401).header("www-authenticate", challenge)
            }
        }
    })
    .await;
    host.lock().unwrap().clone_from(&fake.host);
    fake
}

fn token(number: usize) -> Reply {
    Reply::new(200).body(format!(r#"{{"token":"token-{number}","expires_in":100}}"#))
}

#[tokio::test]
async fn nobody_is_asked_before_a_registry_demands_it() {
    let open = store();
    let fake = Fake::start(move |seen| open.reply(seen)).await;
    let known = secret();
    let from = app_as(quick(), &fake.host, known.clone());
    from.resolve("v1", LIMIT).await.unwrap();
    assert_eq!(known.asked(), 0);
    assert!(
        fake.seen()
            .iter()
            .all(|seen| !seen.headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn a_password_is_shown_once_it_is_demanded() {
    let store = store();
    let fake = Fake::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => store.reply(seen),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let known = secret();
    let from = app_as(quick(), &fake.host, known.clone());
    from.resolve("v1", LIMIT).await.unwrap();
    from.resolve("v1", LIMIT).await.unwrap();
    assert_eq!((known.asked(), fake.seen().len()), (1, 3));
    assert_eq!(known.hosts.lock().unwrap().join(" "), fake.host);
    // A wrong one is told, without repeating it, and asked for anew.
    *known.credential.lock().unwrap() = Some(Credential::password("me", "wrong-canary"));
    let from = app_as(quick(), &fake.host, known.clone());
    let error = from.resolve("v1", LIMIT).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Unauthorized { shown: true, .. }),
        "{error:?}"
    );
    assert_eq!(error.fault(), Fault::Input);
    assert!(!format!("{error:?} {error}").contains("canary"));
    *known.credential.lock().unwrap() = Some(Credential::password("me", CANARY));
    from.resolve("v1", LIMIT).await.unwrap();
    let error = app(quick(), &fake.host)
        .resolve("v1", LIMIT)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        RegistryError::Unauthorized { shown: false, .. }
    ));
    assert!(error.remedy().unwrap().contains(&fake.host));
}

#[tokio::test]
async fn tokens_are_fetched_once_for_many_and_for_nobody_too() {
    let fake = guarded(1000, |_, number| token(number)).await;
    let known = secret();
    let from = app_as(quick(), &fake.host, known.clone());
    let all = (0..20).map(|_| from.resolve("v1", LIMIT));
    for found in futures::future::join_all(all).await {
        found.unwrap();
    }
    assert_eq!((fake.count("/token"), known.asked()), (1, 1));
    let seen = fake.seen();
    let asked = seen
        .iter()
        .find(|seen| seen.path.starts_with("/token"))
        .unwrap();
    assert_eq!(asked.header("authorization"), Some(BASIC));
    let wanted = "/token?service=the+registry&scope=repository%3Aapp%3Apull&account=me";
    assert_eq!(asked.path, wanted);
    // The password went to the token server, and the token to the registry.
    for seen in seen.iter().filter(|seen| !seen.path.starts_with("/token")) {
        assert!(!seen.text().contains("bWU6"));
    }
    let fake = guarded(1000, |_, number| token(number)).await;
    app(quick(), &fake.host).resolve("v1", LIMIT).await.unwrap();
    let seen = fake.seen();
    let asked = seen
        .iter()
        .find(|seen| seen.path.starts_with("/token"))
        .unwrap();
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn tokens_are_renewed_before_they_expire_and_when_they_have() {
    let fake = guarded(1000, |_, number| token(number)).await;
    let clock = Arc::new(Hand::default());
    let runtime = tokio::runtime::Handle::current();
    let shared: Arc<dyn Clock> = clock.clone();
    let registry = Registry::new(quick(), secret(), shared, runtime);
    let from = registry.repository(&reference(&fake.host));
    for (forward, tokens) in [(0, 1), (79, 1), (1, 2), (79, 2), (10, 3)] {
        clock.forward(forward);
        from.resolve("v1", LIMIT).await.unwrap();
        assert_eq!(fake.count("/token"), tokens, "{forward}");
    }
    // The registry refused no one but the first time.
    assert_eq!(fake.count("/manifests/"), 6);
    // Tokens that wear out unexpectedly: each is good for two requests.
    let fake = guarded(2, |_, number| token(number)).await;
    let known = secret();
    let from = app_as(quick(), &fake.host, known.clone());
    for _ in 0..6 {
        from.resolve("v1", LIMIT).await.unwrap();
    }
    assert_eq!((fake.count("/token"), known.asked()), (3, 1));
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let fake = guarded(1000, |seen, number| match &seen.method[..] {
        "POST" => token(number),
        _ => Reply::new(400),
    })
    .await;
    let known = Counted::new(Credential::IdentityToken(Password::new(CANARY)));
    app_as(quick(), &fake.host, known)
        .resolve("v1", LIMIT)
        .await
        .unwrap();
    let seen = fake.seen();
    let asked = seen.iter().find(|seen| seen.path == "/token").unwrap();
    let wanted = format!(
        "grant_type=refresh_token&refresh_token={CANARY}&service=the+registry&client_id=ashlar\
         &scope=repository%3Aapp%3Apull"
    );
    assert_eq!(asked.body_text(), wanted);
    assert_eq!(
        asked.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(asked.header("authorization"), None);
}

#[tokio::test]
async fn servers_that_know_the_newer_way_alone_get_a_password_in_a_form() {
    let fake = guarded(1, |seen, number| match (&seen.method[..], number) {
        ("GET", _) => Reply::new(405),
        // What is given to exchange is exchanged from then on.
        (_, 1) => Reply::new(200)
            .body(r#"{"access_token":"token-1","expires_in":100,"refresh_token":"again"}"#),
        _ => token(number),
    })
    .await;
    let from = app_as(quick(), &fake.host, secret());
    from.resolve("v1", LIMIT).await.unwrap();
    from.resolve("v1", LIMIT).await.unwrap();
    let seen = fake.seen();
    let bodies: Vec<_> = seen
        .iter()
        .filter(|s| s.method == "POST")
        .map(Seen::body_text)
        .collect();
    assert_eq!(bodies.len(), 2);
    assert!(bodies[0].starts_with(&format!(
        "grant_type=password&username=me&password={CANARY}&"
    )));
    assert!(bodies[1].starts_with("grant_type=refresh_token&refresh_token=again&"));
}

#[tokio::test]
async fn tokens_for_two_repositories_name_both() {
    let fake = guarded(1000, |_, number| token(number)).await;
    let from = app_as(quick(), &fake.host, secret());
    let both = from.with_scope(Scope::push("other"));
    both.resolve("v1", LIMIT).await.unwrap();
    from.resolve("v1", LIMIT).await.unwrap();
    both.resolve("v1", LIMIT).await.unwrap();
    let seen = fake.seen();
    let asked: Vec<_> = seen
        .iter()
        .filter(|s| s.path.starts_with("/token"))
        .collect();
    assert_eq!(asked.len(), 2);
    let wanted = "scope=repository%3Aapp%3Apull&scope=repository%3Aother%3Apull%2Cpush";
    assert!(asked[0].path.contains(wanted), "{}", asked[0].path);
    assert!(!asked[1].path.contains("other"));
}

#[tokio::test]
async fn class_08_a_redirect_shows_nothing_to_another_host() {
    let bytes = noise(300_000);
    let mut elsewhere = Store::new();
    elsewhere.blob(bytes.clone());
    let elsewhere = Fake::start(move |seen| elsewhere.reply(seen)).await;
    let to = elsewhere.host.clone();
    let fake = Fake::start(move |seen| match seen.header("authorization") {
        Some(BASIC) => {
            let digest = seen.path.rsplit('/').next().unwrap();
            let location = format!("http://{to}/signed/{digest}?signature=s3cret");
            let path = location.replace("?signature=s3cret", "");
            Reply::new(307).header("location", path)
        }
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let from = app_as(quick(), &fake.host, secret());
    let mut reader = from.blob(&descriptor(&bytes), &Cancel::new());
    let read = move || {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut all).map(|_| all)
    };
    assert_eq!(
        tokio::task::spawn_blocking(read).await.unwrap().unwrap(),
        bytes
    );
    let seen = elsewhere.seen();
    assert!(seen.len() > 1);
    for seen in &seen {
        let text = seen.text().to_ascii_lowercase();
        for secret in [
            CANARY,
            "bwu6y2fuyxj5lwh1bnrlcji",
            "authorization",
            "cookie",
            "referer",
        ] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn class_08_messages_hold_no_signatures_and_no_users() {
    let fake = Fake::start(|seen| match seen.path.contains("signed") {
        true => Reply::new(403),
        false => Reply::new(307).header("location", "/signed/x?signature=canary"),
    })
    .await;
    let error = app(quick(), &fake.host)
        .manifest("v1", LIMIT)
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert!(
        !format!("{error} {error:?}").contains("canary"),
        "{error:?}"
    );
    for location in [
        "http://me:canary@other.test/",
        "file:///etc/passwd",
        "/loop",
        "",
    ] {
        let fake = Fake::start(move |_| Reply::new(302).header("location", location)).await;
        let error = app(quick(), &fake.host)
            .manifest("v1", LIMIT)
            .await
            .unwrap_err();
        assert!(
            matches!(error, RegistryError::Redirect { .. }),
            "{location} {error:?}"
        );
        assert!(
            !format!("{error} {error:?}").contains("canary"),
            "{error:?}"
        );
        assert!(fake.seen().len() <= 6);
    }
}

#[tokio::test]
async fn class_08_a_token_server_that_fails_repeats_nothing() {
    let answers = [
        Reply::new(401).body(format!(r#"{{"errors":[{{"message":"{CANARY}"}}]}}"#)),
        Reply::new(200).body(format!(r#"{{"token":["{CANARY}"]}}"#)),
        Reply::new(200).body("{}"),
        Reply::new(200).body(r#"{"token":"line\nbreak"}"#),
        Reply::new(302).header("location", "http://other.test/"),
        Reply::new(200).manner(Manner::Endless),
    ];
    for reply in answers {
        let fake = guarded(1, move |_, _| reply.clone()).await;
        let known = secret();
        let error = app_as(quick(), &fake.host, known)
            .resolve("v1", LIMIT)
            .await
            .unwrap_err();
        let typed = matches!(
            error,
            RegistryError::Token { .. } | RegistryError::TooLarge { .. }
        );
        assert!(typed, "{error:?}");
        match &error {
            RegistryError::Token { refused: true, .. } => {
                assert_eq!(error.fault(), Fault::Input);
                assert!(error.to_string().contains("pull from app"), "{error}");
                assert!(error.remedy().unwrap().contains("pull from app"));
            }
            _ => assert_eq!(error.fault(), Fault::Remote { retryable: false }),
        }
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
    }
    // One that is down for a moment is waited for.
    let fake = guarded(9, |_, number| match number {
        0 | 1 => Reply::new(503),
        _ => token(number),
    })
    .await;
    app_as(quick(), &fake.host, secret())
        .resolve("v1", LIMIT)
        .await
        .unwrap();
    // One that is down for long is given up on, by all who wait for it.
    let fake = guarded(9, |_, _| Reply::new(503)).await;
    let from = app_as(quick(), &fake.host, secret());
    let all = (0..3).map(|_| from.resolve("v1", LIMIT));
    for found in futures::future::join_all(all).await {
        let error = found.unwrap_err();
        assert!(matches!(error, RegistryError::Status { status: 503, .. }));
    }
    assert_eq!(fake.count("/token"), 15);
}
