//! Blobs: in ranges, taken up where they broke off, and given up on.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::ContentError;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::oci::Descriptor;
use ashlar_solver::registry::{RegistryError, Repository};

use tokio::time::Instant;

use super::fake::{Fake, Manner, Reply, Store};
use super::kit::{app, descriptor, noise, quick};

/// Downloads on a thread of its own, as an unpacker does.
async fn download(from: &Repository, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut reader = from.blob(blob, &Cancel::new());
    let read = move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap();
    read.map_err(|error| error.downcast::<RegistryError>().unwrap())
}

const RETRYABLE: Fault = Fault::Remote { retryable: true };

#[tokio::test]
async fn ranges_are_loaded_at_the_same_time_and_read_in_order() {
    let bytes = noise(1_000_001);
    let mut store = Store::new();
    store.blob(bytes.clone());
    // The first range but one is the last to come.
    let fake = Fake::start(move |seen| {
        let late = seen
            .header("range")
            .is_some_and(|r| r.starts_with("bytes=65536-"));
        let pause = Duration::from_millis(if late { 3 } else { 0 });
        store.reply(seen).manner(Manner::Slow(16 << 10, pause))
    })
    .await;
    let from = app(quick(), &fake.host);
    assert_eq!(download(&from, &descriptor(&bytes)).await.unwrap(), bytes);
    assert_eq!(fake.count("/blobs/"), 16);
    let ranges: Vec<_> = fake
        .seen()
        .iter()
        .map(|s| s.headers["range"].clone())
        .collect();
    assert!(
        ranges.contains(&"bytes=983040-1000000".to_owned()),
        "{ranges:?}"
    );
    // A small one is one request without a range.
    let small = noise(100_000);
    let mut store = Store::new();
    store.blob(small.clone());
    let fake = Fake::start(move |seen| store.reply(seen)).await;
    let got = download(&app(quick(), &fake.host), &descriptor(&small)).await;
    assert_eq!(got.unwrap(), small);
    assert_eq!(fake.seen()[0].header("range"), None);
    assert_eq!(fake.count("/blobs/"), 1);
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_as_one_stream() {
    let bytes = noise(700_000);
    let mut store = Store::new();
    store.ranges = false;
    store.blob(bytes.clone());
    let fake = Fake::start(move |seen| store.reply(seen)).await;
    let from = app(quick(), &fake.host);
    assert_eq!(download(&from, &descriptor(&bytes)).await.unwrap(), bytes);
    assert_eq!(fake.count("/blobs/"), 1);
}

#[tokio::test]
async fn what_is_reset_is_taken_up_where_it_broke_off() {
    for (ranges, size) in [
        (true, 900_000),
        (true, 90_000),
        (false, 90_000),
        (false, 900_000),
    ] {
        let bytes = noise(size);
        let mut store = Store::new();
        store.ranges = ranges;
        store.blob(bytes.clone());
        let count = AtomicUsize::new(0);
        let fake = Fake::start(move |seen| {
            let at = count.fetch_add(1, Ordering::SeqCst);
            // Every other answer breaks, each a little later than the one before.
            match at % 2 {
                0 => store
                    .reply(seen)
                    .manner(Manner::Reset(10_000 + at * 30_000)),
                _ => store.reply(seen),
            }
        })
        .await;
        let from = app(quick(), &fake.host);
        let got = download(&from, &descriptor(&bytes)).await.unwrap();
        assert!(got == bytes, "{ranges} {size}");
        let seen = fake.seen();
        assert!(seen.len() > 1);
        assert!(
            seen.iter().any(|s| s.headers.contains_key("range")),
            "{ranges} {size}"
        );
    }
}

#[tokio::test]
async fn answers_that_never_get_on_are_given_up_on() {
    let bytes = noise(50_000);
    let mut store = Store::new();
    store.blob(bytes.clone());
    let fake = Fake::start(move |seen| store.reply(seen).manner(Manner::Reset(0))).await;
    let error = download(&app(quick(), &fake.host), &descriptor(&bytes))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::BrokeOff { bytes: 0, .. }),
        "{error:?}"
    );
    assert_eq!(error.fault(), RETRYABLE);
    assert_eq!(fake.seen().len(), 5);
}

#[tokio::test]
async fn class_12_a_peer_that_trickles_is_given_up_on() {
    let bytes = noise(50_000);
    let mut store = Store::new();
    store.blob(bytes.clone());
    let slow = Manner::Slow(1, Duration::from_millis(20));
    let fake = Fake::start(move |seen| store.reply(seen).manner(slow)).await;
    let mut config = quick();
    // It does get on, so that each try counts as the first; the second stall must end it.
    config.retry.tries = 1;
    let start = Instant::now();
    let error = download(&app(config, &fake.host), &descriptor(&bytes))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
    assert_eq!(error.fault(), RETRYABLE);
    assert!(start.elapsed() < Duration::from_secs(5));

    let fake = Fake::start(|_| Reply::new(200).manner(Manner::Silent)).await;
    let mut config = quick();
    config.retry.tries = 2;
    let error = download(&app(config, &fake.host), &descriptor(&bytes))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Timeout { .. }), "{error:?}");
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_slow_reader_is_no_slow_peer() {
    let bytes = noise(400_000);
    let mut store = Store::new();
    store.blob(bytes.clone());
    let fake = Fake::start(move |seen| store.reply(seen)).await;
    let from = app(quick(), &fake.host);
    let mut reader = from.blob(&descriptor(&bytes), &Cancel::new());
    let read = move || {
        let mut all = Vec::new();
        let mut piece = [0; 50_000];
        loop {
            let length = reader.read(&mut piece).unwrap();
            if length == 0 {
                return all;
            }
            all.extend_from_slice(&piece[..length]);
            std::thread::sleep(Duration::from_millis(40));
        }
    };
    assert_eq!(tokio::task::spawn_blocking(read).await.unwrap(), bytes);
}

#[tokio::test]
async fn class_11_a_size_that_is_told_otherwise_is_refused() {
    let bytes = noise(300_000);
    for (size, ranged) in [
        (299_999, true),
        (300_001, true),
        (100_000, true),
        (300_001, false),
    ] {
        let mut store = Store::new();
        store.ranges = ranged;
        store.blob(bytes.clone());
        let fake = Fake::start(move |seen| store.reply(seen)).await;
        let mut wrong = descriptor(&bytes);
        wrong.size = size;
        let error = download(&app(quick(), &fake.host), &wrong)
            .await
            .unwrap_err();
        let content = matches!(
            &error,
            RegistryError::Content {
                source: ContentError::Size { found: 300_000, .. },
                ..
            }
        );
        assert!(content, "{size} {error:?}");
        assert_eq!(error.fault(), Fault::Remote { retryable: false });
    }
}

#[tokio::test]
async fn many_requests_keep_to_the_limit_of_their_host() {
    let bytes = noise(2_000_000);
    let mut store = Store::new();
    store.blob(bytes.clone());
    let slow = Manner::Slow(16 << 10, Duration::from_millis(2));
    let fake = Fake::start(move |seen| store.reply(seen).manner(slow)).await;
    let mut config = quick();
    config.connections_per_host = 2;
    let from = app(config, &fake.host);
    let blob = descriptor(&bytes);
    let both = futures::future::join(download(&from, &blob), download(&from, &blob)).await;
    assert!(both.0.unwrap() == bytes && both.1.unwrap() == bytes);
    assert_eq!(fake.peak(), 2);
}

#[tokio::test]
async fn cancelling_wakes_who_reads() {
    let bytes = noise(50_000);
    let fake = Fake::start(|_| Reply::new(200).manner(Manner::Silent)).await;
    let mut config = quick();
    config.timeouts.answer = Duration::from_secs(60);
    let cancel = Cancel::new();
    let mut reader = app(config, &fake.host).blob(&descriptor(&bytes), &cancel);
    let reading = tokio::task::spawn_blocking(move || reader.read(&mut [0; 10]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    cancel.cancel();
    let error = reading.await.unwrap().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(2));
    let error = error.downcast::<RegistryError>().unwrap();
    assert!(matches!(error, RegistryError::Interrupted { .. }));
}
