//! Pushing: into registries that break, forget, refuse and lead elsewhere.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_llb::digest::BlobDigest;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::oci::media_type::OCI_MANIFEST;
use ashlar_solver::registry::{
    Credential, Pushed, RegistryConfig, RegistryError, Repository, Upload,
};

use super::fake::{Fake, Manner, Reply, Seen, Taken};
use super::kit::{CANARY, Counted, app, app_as, noise, quick};
use super::sink::Sink;

/// Chunks of 100,000 bytes.
fn settings() -> RegistryConfig {
    let mut config = quick();
    config.upload_chunk_bytes = 100_000;
    config
}

fn writable(host: &str) -> Repository {
    app(settings(), host).writable()
}

/// A blob in a file.
fn file(bytes: &[u8]) -> Upload {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Upload::file(file, BlobDigest::of(bytes), bytes.len() as u64)
}

/// An honest registry, whose answers a test may change.
async fn registry(
    change: impl Fn(&Seen, &Sink, usize) -> Option<Reply> + Send + Sync + 'static,
    take: impl Fn(&Seen) -> Taken + Send + Sync + 'static,
) -> (Fake, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    let (own, count) = (sink.clone(), AtomicUsize::new(0));
    let answer = move |seen: &Seen| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        change(seen, &own, number).unwrap_or_else(|| own.reply(seen))
    };
    (Fake::start_taking(answer, take).await, sink)
}

async fn honest() -> (Fake, Arc<Sink>) {
    registry(|_, _, _| None, |_| Taken::Whole).await
}

fn methods(fake: &Fake) -> String {
    let seen = fake.seen();
    let methods: Vec<&str> = seen.iter().map(|seen| &seen.method[..]).collect();
    methods.join(" ")
}

/// Bytes of blobs that were sent.
fn sent(fake: &Fake) -> usize {
    fake.seen().iter().map(|seen| seen.body.len()).sum()
}

#[tokio::test]
async fn what_is_small_is_sent_at_once_and_what_is_there_is_not_sent() {
    let (fake, sink) = honest().await;
    let to = writable(&fake.host);
    for (bytes, upload) in [
        (noise(100_000), Upload::bytes(noise(100_000))),
        (noise(70_000), file(&noise(70_000))),
        (Vec::new(), file(b"")),
    ] {
        let before = fake.seen().len();
        assert_eq!(to.push_blob(&upload, None).await.unwrap(), Pushed::Sent);
        assert_eq!(sink.blob("app", &bytes), Some(bytes));
        assert_eq!(to.push_blob(&upload, None).await.unwrap(), Pushed::There);
        assert_eq!(fake.seen().len() - before, 4);
        assert!(to.contains(&upload.digest()).await.unwrap());
    }
    assert_eq!(sent(&fake), 170_000);
    assert!(!to.contains(&BlobDigest::of(b"?")).await.unwrap());
}

#[tokio::test]
async fn what_is_large_is_sent_in_chunks() {
    for (length, chunks) in [(100_001, 2), (250_000, 3), (300_000, 3)] {
        let bytes = noise(length);
        for upload in [file(&bytes), Upload::bytes(bytes.clone())] {
            let (fake, sink) = honest().await;
            writable(&fake.host).push_blob(&upload, None).await.unwrap();
            assert_eq!(sink.blob("app", &bytes), Some(bytes.clone()));
            assert_eq!(fake.count("/uploads/") - 2, chunks);
            assert_eq!(sent(&fake), length);
        }
    }
    // A registry may want larger ones.
    let least = |seen: &Seen, sink: &Sink, _| {
        let reply = || sink.reply(seen).header("oci-chunk-min-length", "120000");
        (seen.method == "POST").then(reply)
    };
    let (picky, _) = registry(least, |_| Taken::Whole).await;
    let to = writable(&picky.host);
    to.push_blob(&file(&noise(230_000)), None).await.unwrap();
    assert_eq!(methods(&picky), "HEAD POST PATCH PATCH PUT");
}

#[tokio::test]
async fn what_is_reset_goes_on_where_the_registry_says() {
    let bytes = noise(1_000_000);
    // Every other chunk breaks in the middle, and what arrived stays.
    let count = AtomicUsize::new(0);
    let cut = move |seen: &Seen| {
        if seen.method != "PATCH" || !seen.body.is_empty() {
            // It is asked again once the body was read.
            return match seen.body.len() {
                0 | 100_000 => Taken::Whole,
                _ => Taken::Cut(0),
            };
        }
        match count.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => Taken::Cut(61_000),
            _ => Taken::Whole,
        }
    };
    let (fake, sink) = registry(|_, _, _| None, cut).await;
    let to = writable(&fake.host);
    let pushed = to.push_blob(&file(&bytes), None).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    assert!(sink.blob("app", &bytes).unwrap() == bytes);
    let seen = fake.seen();
    assert!(seen.iter().filter(|seen| seen.method == "GET").count() >= 5);
    assert_eq!(seen.iter().filter(|seen| seen.method == "POST").count(), 1);
    assert_eq!(sent(&fake), bytes.len(), "nothing was sent twice");
}

#[tokio::test]
async fn what_the_registry_forgot_is_sent_again() {
    let bytes = noise(350_000);
    // It breaks off in the third chunk, and knows nothing afterwards; or it says so by itself.
    for status in [0, 404, 416, 400] {
        let broken = Arc::new(AtomicUsize::new(0));
        let patches = broken.clone();
        let change = move |seen: &Seen, sink: &Sink, _: usize| {
            let third = seen.method == "PATCH" && patches.fetch_add(1, Ordering::SeqCst) == 2;
            if !third {
                return None;
            }
            sink.forget();
            Some(match status {
                0 => Reply::new(503),
                status => Reply::new(status),
            })
        };
        let (fake, sink) = registry(change, |_| Taken::Whole).await;
        let to = writable(&fake.host);
        to.push_blob(&file(&bytes), None).await.unwrap();
        assert!(sink.blob("app", &bytes).unwrap() == bytes, "{status}");
        let seen = fake.seen();
        let posts = seen.iter().filter(|seen| seen.method == "POST").count();
        assert_eq!(posts, 2, "{status}");
    }
}

#[tokio::test]
async fn busy_and_failing_registries_are_asked_again() {
    let bytes = noise(250_000);
    // Each kind of request fails twice.
    let counts: Mutex<Vec<(String, u16)>> = Mutex::default();
    let change = move |seen: &Seen, _: &Sink, _| {
        let mut counts = counts.lock().unwrap();
        let kind = format!("{}{}", seen.method, seen.path.contains("manifests"));
        let at = counts.iter().position(|(known, _)| *known == kind);
        let at = at.unwrap_or_else(|| {
            counts.push((kind, 0));
            counts.len() - 1
        });
        counts[at].1 += 1;
        match counts[at].1 {
            1 => Some(Reply::new(429).header("retry-after", "0")),
            2 => Some(Reply::new(503)),
            _ => None,
        }
    };
    let (fake, sink) = registry(change, |_| Taken::Whole).await;
    let to = writable(&fake.host);
    to.push_blob(&file(&bytes), None).await.unwrap();
    assert!(sink.blob("app", &bytes).unwrap() == bytes);
    let text = manifest(&bytes);
    to.push_manifest(OCI_MANIFEST, text.clone(), Some("v1"))
        .await
        .unwrap();
    assert_eq!(sink.tag("app", "v1"), Some(BlobDigest::of(text.as_bytes())));
    // One that never gets better is given up on.
    let (fake, _) = registry(|_, _, _| Some(Reply::new(500)), |_| Taken::Whole).await;
    let error = writable(&fake.host)
        .push_blob(&file(&bytes), None)
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 500, .. }));
    assert_eq!(fake.seen().len(), 5);
    // So is one that fails at one kind of request alone, and no kind is tried more often in turn.
    for (failing, expected) in [
        ("POST", "HEAD POST POST POST POST POST"),
        (
            "PATCH",
            "HEAD POST PATCH GET PATCH GET PATCH GET PATCH GET PATCH",
        ),
        ("PATCH GET", "HEAD POST PATCH GET GET GET GET GET"),
    ] {
        let change = move |seen: &Seen, _: &Sink, _| {
            let fails = failing.split(' ').any(|method| method == seen.method);
            fails.then(|| Reply::new(503))
        };
        let (fake, _) = registry(change, |_| Taken::Whole).await;
        let pushed = writable(&fake.host).push_blob(&file(&bytes), None).await;
        assert!(pushed.is_err());
        assert_eq!(methods(&fake), expected);
    }
}

#[tokio::test]
async fn chunks_that_are_too_large_are_followed_by_smaller_ones() {
    let bytes = noise(3_000_000);
    let mut config = quick();
    config.upload_chunk_bytes = 2 << 20;
    let limited = |limit: usize| {
        let change = move |seen: &Seen, _: &Sink, _| {
            let length = seen
                .header("content-length")
                .map_or(0, |text| text.parse().unwrap());
            (length > limit).then(|| Reply::new(413))
        };
        registry(change, |_| Taken::Whole)
    };
    for (limit, patches) in [(1 << 20, 3), (300_000, 12), (64 << 10, 46)] {
        let (fake, sink) = limited(limit).await;
        let to = app(config.clone(), &fake.host).writable();
        to.push_blob(&file(&bytes), None).await.unwrap();
        assert!(sink.blob("app", &bytes).unwrap() == bytes);
        let refused = fake
            .seen()
            .iter()
            .filter(|seen| seen.body.len() > limit)
            .count();
        let all = fake
            .seen()
            .iter()
            .filter(|seen| seen.method == "PATCH")
            .count();
        assert_eq!(all - refused, patches, "{limit}");
        // What was learnt holds for other blobs, those that were to be sent at once too.
        let before = fake.seen().len();
        let other = noise(2_000_000);
        to.push_blob(&file(&other), None).await.unwrap();
        assert!(sink.blob("app", &other).unwrap() == other);
        let seen = fake.seen();
        assert!(seen[before..].iter().all(|seen| seen.body.len() <= limit));
    }
    // One that takes next to nothing, or wants what it does not take.
    let (fake, _) = limited((64 << 10) - 1).await;
    let error = app(config.clone(), &fake.host).writable();
    let error = error.push_blob(&file(&bytes), None).await.unwrap_err();
    let RegistryError::Oversized {
        url,
        bytes: refused,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*refused, 64 << 10);
    assert!(url.contains(&fake.host) && error.remedy().unwrap().contains("65536"));
    let least = |seen: &Seen, sink: &Sink, _| match &seen.method[..] {
        "POST" => Some(sink.reply(seen).header("oci-chunk-min-length", "1000000")),
        "PATCH" if seen.body.len() >= 1_000_000 => Some(Reply::new(413)),
        _ => None,
    };
    let (fake, _) = registry(least, |_| Taken::Whole).await;
    let error = writable(&fake.host).push_blob(&file(&bytes), None).await;
    assert!(matches!(
        error,
        Err(RegistryError::Oversized {
            bytes: 1_000_000,
            ..
        })
    ));
    assert_eq!(methods(&fake), "HEAD POST PATCH");
}

#[tokio::test]
async fn chunks_of_which_nothing_arrives_are_followed_by_smaller_ones() {
    let bytes = noise(900_000);
    // Whatever has more than 200,000 bytes breaks off, and what arrived of it is thrown away.
    let large = |seen: &Seen| {
        let length = seen
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        length > 200_000
    };
    let take = move |seen: &Seen| match large(seen) {
        true => Taken::Cut(100_000),
        false => Taken::Whole,
    };
    let drop = move |seen: &Seen, _: &Sink, _| large(seen).then(|| Reply::new(202));
    let (fake, sink) = registry(drop, take).await;
    let mut config = quick();
    config.upload_chunk_bytes = 1 << 20;
    let to = app(config, &fake.host).writable();
    to.push_blob(&file(&bytes), None).await.unwrap();
    assert!(sink.blob("app", &bytes).unwrap() == bytes);
    // As one, 256 KiB, and 64 KiB.
    let expected = "HEAD POST PUT GET PATCH GET ".to_owned() + &"PATCH ".repeat(14) + "PUT";
    assert_eq!(methods(&fake), expected);
    // Once something arrives they stay as they are.
    let cut = AtomicUsize::new(0);
    let take = move |seen: &Seen| {
        // It is asked again once the body was read.
        let is_first = seen.method == "PATCH" && seen.body.is_empty();
        match (seen.body.len() == 100_000) || (is_first && cut.fetch_add(1, Ordering::SeqCst) == 0)
        {
            true => Taken::Cut(100_000),
            false => Taken::Whole,
        }
    };
    let (fake, sink) = registry(|_, _, _| None, take).await;
    let mut config = quick();
    config.upload_chunk_bytes = 400_000;
    let to = app(config, &fake.host).writable();
    to.push_blob(&file(&bytes), None).await.unwrap();
    assert!(sink.blob("app", &bytes).unwrap() == bytes);
    assert_eq!(methods(&fake), "HEAD POST PATCH GET PATCH PATCH PUT");
}

#[tokio::test]
async fn an_upload_that_cannot_be_asked_about_begins_anew() {
    let bytes = noise(250_000);
    for status in [401, 403, 404, 405, 418] {
        let broken = AtomicUsize::new(0);
        let change = move |seen: &Seen, _: &Sink, _| match &seen.method[..] {
            "PATCH" if broken.fetch_add(1, Ordering::SeqCst) == 1 => Some(Reply::new(503)),
            "GET" => Some(Reply::new(status)),
            _ => None,
        };
        let (fake, sink) = registry(change, |_| Taken::Whole).await;
        writable(&fake.host)
            .push_blob(&file(&bytes), None)
            .await
            .unwrap();
        assert!(sink.blob("app", &bytes).unwrap() == bytes);
        let expected = "HEAD POST PATCH PATCH GET HEAD POST PATCH PATCH PATCH PUT";
        assert_eq!(methods(&fake), expected, "{status}");
    }
}

/// A manifest whose config and only layer is this blob.
fn manifest(blob: &[u8]) -> String {
    let digest = BlobDigest::of(blob);
    let kind = "application/vnd.oci.image.config.v1+json";
    let size = blob.len();
    let descriptor = format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{descriptor},"layers":[{descriptor}]}}"#
    )
}

#[tokio::test]
async fn manifests_get_a_tag_or_only_their_digest() {
    let (fake, sink) = honest().await;
    let to = writable(&fake.host);
    let blob = noise(10);
    let text = manifest(&blob);
    let digest = BlobDigest::of(text.as_bytes());
    let error = to.push_manifest(OCI_MANIFEST, text.clone(), None).await;
    let error = error.unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 400, .. }));
    assert!(error.to_string().contains("MANIFEST_BLOB_UNKNOWN"));
    to.push_blob(&Upload::bytes(blob), None).await.unwrap();
    for (tag, name) in [(None, digest.to_string()), (Some("v1"), "v1".to_owned())] {
        for expected in [Pushed::Sent, Pushed::There] {
            let pushed = to.push_manifest(OCI_MANIFEST, text.clone(), tag).await;
            assert_eq!(pushed.unwrap(), expected);
        }
        assert_eq!(sink.tag("app", &name), Some(digest));
    }
    // A tag is moved.
    let other = text.replace("schemaVersion\":2", "schemaVersion\": 2");
    let pushed = to
        .push_manifest(OCI_MANIFEST, other.clone(), Some("v1"))
        .await;
    assert_eq!(pushed.unwrap(), Pushed::Sent);
    assert_eq!(
        sink.tag("app", "v1"),
        Some(BlobDigest::of(other.as_bytes()))
    );
}

#[tokio::test]
async fn class_11_a_registry_that_stored_something_else_is_not_believed() {
    let other = |seen: &Seen, _: &Sink, _| {
        let digest = BlobDigest::of(b"other").to_string();
        (seen.method == "PUT").then(|| Reply::new(201).header("docker-content-digest", digest))
    };
    let (fake, _) = registry(other, |_| Taken::Whole).await;
    let to = writable(&fake.host);
    let error = to.push_manifest(OCI_MANIFEST, "{}", Some("v1")).await;
    assert!(matches!(error, Err(RegistryError::Content { .. })));
}

#[tokio::test]
async fn an_answer_that_was_lost_is_found_out() {
    let bytes = noise(250_000);
    for length in [50_000, 250_000] {
        let bytes = &bytes[..length];
        // The registry took the blob in, and nobody heard of it.
        let change = |seen: &Seen, sink: &Sink, _| {
            (seen.method == "PUT").then(|| {
                let _taken = sink.reply(seen);
                Reply::new(500).manner(Manner::Reset(0))
            })
        };
        let (fake, sink) = registry(change, |_| Taken::Whole).await;
        let to = writable(&fake.host);
        to.push_blob(&file(bytes), None).await.unwrap();
        assert!(sink.blob("app", bytes).is_some());
        assert_eq!(sent(&fake), length);
    }
}

#[tokio::test]
async fn blobs_of_other_repositories_are_mounted() {
    let (fake, sink) = honest().await;
    let bytes = noise(300_000);
    sink.put("base", &bytes);
    let to = writable(&fake.host);
    let upload = file(&bytes);
    let pushed = to.push_blob(&upload, Some("base")).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    assert!(sink.blob("app", &bytes).is_some());
    assert_eq!((methods(&fake), sent(&fake)), ("HEAD POST".to_owned(), 0));
    // One that does not have it: the upload that was begun instead goes on.
    let other = noise(300_001);
    let pushed = to.push_blob(&file(&other), Some("base")).await.unwrap();
    assert_eq!(pushed, Pushed::Sent);
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| seen.method == "POST").count(), 2);
    // Without the bytes.
    assert!(to.mount(&upload.digest(), "base").await.unwrap());
    assert!(!to.mount(&BlobDigest::of(b"?"), "base").await.unwrap());
    assert_eq!(sink.open(), 0, "what was begun in vain is ended");
}

#[tokio::test]
async fn a_mount_that_is_refused_is_no_reason_not_to_upload() {
    let bytes = noise(50_000);
    for status in [400, 401, 403, 404, 405] {
        let change = move |seen: &Seen, _: &Sink, _| {
            seen.path.contains("mount=").then(|| Reply::new(status))
        };
        let (fake, sink) = registry(change, |_| Taken::Whole).await;
        let to = writable(&fake.host);
        let pushed = to.push_blob(&file(&bytes), Some("secret/base")).await;
        assert_eq!(pushed.unwrap(), Pushed::Sent, "{status}");
        assert!(sink.blob("app", &bytes).is_some());
    }
}

/// A registry whose tokens are good for `uses` requests each, and its token server.
async fn guarded(uses: usize) -> (Fake, Arc<Sink>) {
    let host = Arc::new(Mutex::new(String::new()));
    let (realm, given) = (host.clone(), Mutex::new(Vec::<usize>::new()));
    let change = move |seen: &Seen, _: &Sink, _| {
        let mut given = given.lock().unwrap();
        if seen.path.starts_with("/token") {
            given.push(uses);
            let number = given.len() - 1;
            return Some(Reply::new(200).body(format!(r#"{{"token":"token-{number}"}}"#)));
        }
        let shown = seen.header("authorization");
        let number = shown.and_then(|text| text.strip_prefix("Bearer token-")?.parse().ok());
        match number.and_then(|number: usize| given.get_mut(number)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                None
            }
            _ => {
                let realm = realm.lock().unwrap();
                let text = format!(r#"Bearer realm="http://{realm}/token",service="s""#);
                Some(Reply::new(401).header("www-authenticate", text))
            }
        }
    };
    let (fake, sink) = registry(change, |_| Taken::Whole).await;
    host.lock().unwrap().clone_from(&fake.host);
    (fake, sink)
}

#[tokio::test]
async fn tokens_that_wear_out_on_the_way_are_renewed() {
    let (fake, sink) = guarded(2).await;
    sink.put("base", b"mounted");
    let known = Counted::new(Credential::password("me", CANARY));
    let to = app_as(settings(), &fake.host, known).writable();
    let bytes = noise(1_000_000);
    to.push_blob(&file(&bytes), None).await.unwrap();
    assert!(sink.blob("app", &bytes).unwrap() == bytes);
    let pushed = to.push_blob(&file(b"mounted"), Some("base")).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    let seen = fake.seen();
    let tokens = seen.iter().filter(|seen| seen.path.starts_with("/token"));
    let scopes: Vec<&str> = tokens
        .map(|seen| seen.path.split_once("scope=").unwrap().1)
        .collect();
    assert!(scopes.len() >= 6, "{scopes:?}");
    assert!(scopes[0].starts_with("repository%3Aapp%3Apull%2Cpush&"));
    let both = "repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull&";
    assert!(
        scopes.iter().any(|scope| scope.starts_with(both)),
        "{scopes:?}"
    );
}

/// `me:canary-hunter2`.
const BASIC: &str = "Basic bWU6Y2FuYXJ5LWh1bnRlcjI=";

fn shows_nothing(seen: &[Seen]) {
    for seen in seen {
        let text = seen.text().to_ascii_lowercase();
        for secret in [CANARY, "bwu6y2fuyxj5", "authorization", "cookie", "referer"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn class_08_an_upload_elsewhere_shows_nothing_there() {
    let bytes = noise(250_000);
    // By an address for the upload, or by a redirect of every request.
    for redirects in [false, true] {
        let storage = Arc::new(Sink::default());
        let own = storage.clone();
        let elsewhere = Fake::start(move |seen| own.reply(seen)).await;
        let to = elsewhere.host.clone();
        let sink = storage.clone();
        let change = move |seen: &Seen, _: &Sink, _| {
            if seen.header("authorization") != Some(BASIC) {
                return Some(Reply::new(401).header("www-authenticate", "Basic realm=\"x\""));
            }
            if redirects {
                let address = format!("http://{to}{}", seen.path);
                return Some(Reply::new(307).header("location", address));
            }
            let mut reply = sink.reply(seen);
            for (name, value) in &mut reply.headers {
                if name == "location" {
                    *value = format!("http://{to}{value}");
                }
            }
            Some(reply)
        };
        let (fake, _) = registry(change, |_| Taken::Whole).await;
        let known = Counted::new(Credential::password("me", CANARY));
        let to = app_as(settings(), &fake.host, known).writable();
        to.push_blob(&file(&bytes), None).await.unwrap();
        assert!(storage.blob("app", &bytes).unwrap() == bytes);
        let seen = elsewhere.seen();
        assert!(seen.len() >= 3, "{redirects}");
        shows_nothing(&seen);
    }
}

#[tokio::test]
async fn class_08_nobody_else_says_where_credentials_are_shown() {
    // Where the upload goes wants a token, from a server of its own.
    let thief = Fake::start(|_| {
        let text = r#"Bearer realm="http://127.0.0.1:1/token",service="thief""#;
        Reply::new(401).header("www-authenticate", text)
    })
    .await;
    let to = thief.host.clone();
    let change = move |seen: &Seen, _: &Sink, _| {
        (seen.method == "POST").then(|| {
            let address = format!("http://{to}/upload?signature=canary");
            Reply::new(202).header("location", address)
        })
    };
    let (fake, _) = registry(change, |_| Taken::Whole).await;
    let known = Counted::new(Credential::password("me", CANARY));
    let to = app_as(settings(), &fake.host, known.clone()).writable();
    let error = to.push_blob(&file(&noise(10)), None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&thief.host) && text.contains(&fake.host),
        "{text}"
    );
    assert!(!format!("{error} {error:?}").contains("canary"));
    assert_eq!(known.asked(), 0);
    shows_nothing(&thief.seen());
    // The same where a download leads.
    let to = thief.host.clone();
    let change = move |_: &Seen, _: &Sink, _| {
        let address = format!("http://{to}/blob");
        Some(Reply::new(307).header("location", address))
    };
    let (fake, _) = registry(change, |_| Taken::Whole).await;
    let from = app_as(settings(), &fake.host, known.clone());
    assert!(from.resolve("v1", 1000).await.is_err());
    assert_eq!(known.asked(), 0);
}

#[tokio::test]
async fn class_08_addresses_that_are_not_followed() {
    for address in [
        "ftp://other.test/",
        "http://me:canary@other.test/",
        "file:///etc/passwd",
        "",
    ] {
        let change = move |seen: &Seen, _: &Sink, _| {
            let reply = Reply::new(202);
            (seen.method == "POST").then(|| match address {
                "" => reply,
                address => reply.header("location", address),
            })
        };
        let (fake, _) = registry(change, |_| Taken::Whole).await;
        let error = writable(&fake.host)
            .push_blob(&file(b"x"), None)
            .await
            .unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }
    // A redirect that would turn what is sent into something else.
    let see = |seen: &Seen, _: &Sink, _| {
        (seen.method == "POST").then(|| Reply::new(303).header("location", "/elsewhere"))
    };
    let (fake, _) = registry(see, |_| Taken::Whole).await;
    let error = writable(&fake.host).push_blob(&file(b"x"), None).await;
    assert!(matches!(error, Err(RegistryError::Redirect { .. })));
}

#[tokio::test]
async fn class_12_peers_that_never_get_on_are_given_up_on() {
    let bytes = noise(9_000_000);
    let mut config = quick();
    config.retry.tries = 2;
    config.timeouts.stall = Duration::from_millis(200);
    let ignore = |seen: &Seen| match &seen.method[..] {
        "PATCH" | "PUT" => Taken::Ignored,
        _ => Taken::Whole,
    };
    let (fake, _) = registry(|_, _, _| None, ignore).await;
    for tries in [1, 2] {
        config.retry.tries = tries;
        let to = app(config.clone(), &fake.host).writable();
        let error = to.push_blob(&file(&bytes), None).await.unwrap_err();
        let is_expected = match &error {
            RegistryError::Stuck { .. } => true,
            // The smaller chunk after it may have left for somewhere on the way.
            RegistryError::Timeout { .. } => tries > 1,
            _ => false,
        };
        assert!(is_expected, "{error:?}");
        assert_eq!(error.fault(), Fault::Remote { retryable: true });
    }
    // One that takes everything and says nothing.
    config.timeouts.commit = Duration::from_millis(300);
    let silent = |seen: &Seen, _: &Sink, _| {
        (seen.method == "PUT").then(|| Reply::new(201).manner(Manner::Silent))
    };
    let (fake, _) = registry(silent, |_| Taken::Whole).await;
    let to = app(config.clone(), &fake.host).writable();
    let error = to.push_blob(&file(&bytes[..1000]), None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error:?}");
    // One that says that it took next to nothing.
    config.upload_chunk_bytes = 100_000;
    let stingy = |seen: &Seen, _: &Sink, _| {
        let reply = Reply::new(202).header("location", "/v2/app/blobs/uploads/x");
        (seen.method == "PATCH").then(|| reply.header("range", "0-1"))
    };
    let (fake, _) = registry(stingy, |_| Taken::Whole).await;
    let to = app(config, &fake.host).writable();
    let error = to.push_blob(&file(&bytes[..300_000]), None).await;
    assert!(
        matches!(error, Err(RegistryError::Answer { .. })),
        "{error:?}"
    );
    assert!(fake.seen().len() < 12);
}

#[tokio::test]
async fn a_damaged_blob_is_refused_and_not_sent_for_ever() {
    let (fake, sink) = honest().await;
    let to = writable(&fake.host);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&noise(150_000)).unwrap();
    let wrong = Upload::file(file.try_clone().unwrap(), BlobDigest::of(b"?"), 150_000);
    let error = to.push_blob(&wrong, None).await.unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    assert_eq!(sent(&fake), 150_000);
    // One that lost its end.
    let short = Upload::file(file, BlobDigest::of(b"?"), 150_001);
    let error = to.push_blob(&short, None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Payload { .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::Environment);
    assert_eq!(sink.blob("app", b"?"), None);
}

#[tokio::test]
async fn who_gives_up_leaves_a_registry_that_works() {
    let bytes = noise(400_000);
    let slow = |seen: &Seen, sink: &Sink, _| {
        let manner = Manner::Slow(1, Duration::from_millis(40));
        (seen.method == "PATCH").then(|| sink.reply(seen).body("{}").manner(manner))
    };
    let (fake, sink) = registry(slow, |_| Taken::Whole).await;
    let to = writable(&fake.host);
    for after in [0, 5, 20, 60, 100] {
        let upload = file(&bytes);
        let push = to.push_blob(&upload, None);
        let _late = tokio::time::timeout(Duration::from_millis(after), push).await;
    }
    to.push_blob(&file(&bytes), None).await.unwrap();
    assert!(sink.blob("app", &bytes).unwrap() == bytes);
}

#[tokio::test]
async fn mirrors_are_not_written_to() {
    let (mirror, _) = honest().await;
    let (fake, sink) = honest().await;
    let mut config = settings();
    let host = config.hosts.entry(fake.host.clone()).or_default();
    host.mirrors = vec![ashlar_solver::registry::Mirror::new(&mirror.host)];
    let to = app(config, &fake.host).writable();
    to.push_blob(&file(b"x"), None).await.unwrap();
    assert!(sink.blob("app", b"x").is_some());
    assert!(mirror.seen().is_empty());
}
