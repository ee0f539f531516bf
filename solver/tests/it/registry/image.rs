//! `docker-image://` in whole solves: what is asked for, what is not, and what is kept.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_llb::digest::BlobDigest;
use ashlar_llb::{self as llb, Constraints, Platform, State, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::ContentError;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::limits::Limits;
use ashlar_solver::oci::media_type;
use ashlar_solver::ops::source::SourceError;
use ashlar_solver::registry::{Credential, Credentials, RegistryError};
use ashlar_solver::solver::{SolveError, SolveRequest, Solved, Solver};
use ashlar_solver::source::image::{ImageError, ResolveMode};
use ashlar_solver::tree::TreePath;
use serde_json::{Value, json};

use tokio::time::Instant;

use super::fake::{Fake, Manner, Reply, Store};
use super::kit::{CANARY, Counted, noise, quick};

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// When the images say that they were made.
const CREATED: &str = "2022-04-15T05:20:00Z";

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An archive of files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image of these layers (archives) in a registry; the blobs that it stored.
pub(super) struct Image {
    pub(super) manifest: Value,
    layers: Vec<Vec<u8>>,
}

fn image(store: &mut Store, architecture: &str, archives: &[Vec<u8>]) -> Image {
    let diff_ids: Vec<String> = archives
        .iter()
        .map(|a| BlobDigest::of(a).to_string())
        .collect();
    let config = json!({"architecture": architecture, "os": "linux", "created": CREATED,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = config.to_string();
    let layers: Vec<Vec<u8>> = archives.iter().map(|archive| gzip(archive)).collect();
    let described: Vec<Value> = layers
        .iter()
        .map(|layer| {
            let digest = store.blob(layer.clone());
            json!({"mediaType": GZIP, "digest": digest, "size": layer.len()})
        })
        .collect();
    let digest = store.blob(config.clone());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest, "size": config.len()},
        "layers": described});
    Image { manifest, layers }
}

/// A registry with the image `v1` of three layers.
pub(super) fn three() -> (Store, Image) {
    let mut store = Store::new();
    let archives = [
        tar(&[("etc/one", b"first"), ("etc/noise", &noise(300_000))]),
        tar(&[("etc/two", b"second"), ("etc/.wh.one", b"")]),
        tar(&[("etc/three", &noise(200_000))]),
    ];
    let image = image(&mut store, "amd64", &archives);
    store.manifest("v1", MANIFEST, &image.manifest.to_string());
    (store, image)
}

pub(super) async fn serve(store: Store) -> Fake {
    Fake::start(move |seen| store.reply(seen)).await
}

pub(super) fn solver(root: &Path) -> Solver {
    Solver::builder()
        .root(root)
        .registry(quick())
        .build()
        .unwrap()
}

fn base(fake: &Fake) -> llb::Image {
    llb::image(format!("{}/app:v1", fake.host))
}

pub(super) fn request(state: impl Into<State>) -> SolveRequest {
    let platform = Constraints::new(Platform::linux_amd64());
    SolveRequest::new(state.into().marshal(&platform).unwrap())
}

pub(super) async fn solve(solver: &Solver, request: SolveRequest) -> Result<Solved, SolveError> {
    solver.solve(request).result().await
}

/// What the vertex that failed said.
pub(super) fn failure<E: ashlar_solver::error::Blame>(
    error: &SolveError,
    test: impl Fn(&E) -> bool,
) -> bool {
    match error {
        SolveError::Vertex { failure, .. } => failure.downcast_ref::<E>().is_some_and(test),
        _ => false,
    }
}

/// The layers among the blobs that were asked for.
pub(super) fn layers(fake: &Fake, image: &Image) -> usize {
    let digests = image
        .layers
        .iter()
        .map(|layer| BlobDigest::of(layer).to_string());
    digests.map(|digest| fake.count(&digest)).sum()
}

/// On the runtime's only thread: it must stay free to download.
#[tokio::test]
async fn a_small_file_is_made_on_an_image_that_is_not_there_yet() {
    let (store, _) = three();
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let state = State::from(base(&fake)).file(llb::mkfile("/new", "x"));
    let solved = solve(&solver, request(state)).await.unwrap();
    let reference = solved.result.reference().clone();
    let view = blocking(move || reference.view().unwrap()).await;
    for path in ["new", "etc/two", "etc/three"] {
        let path = TreePath::clean(path.as_bytes()).unwrap();
        assert!(view.lookup(&path).is_some(), "{path}");
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_downloaded_only_when_something_reads_it() {
    let (store, image) = three();
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let solved = solve(&solver, request(base(&fake))).await.unwrap();
    // The head of the manifest, the manifest, the config.
    assert_eq!((fake.seen().len(), layers(&fake, &image)), (3, 0));
    let lazy = solved.result.reference().lazy_layers().unwrap();
    let sizes: Vec<u64> = lazy.iter().map(|layer| layer.blob.size).collect();
    let expected: Vec<u64> = image
        .layers
        .iter()
        .map(|layer| layer.len() as u64)
        .collect();
    assert_eq!(sizes, expected);
    // Not when somebody looked: exporting twice gives the same bytes.
    assert!(
        lazy.iter()
            .all(|layer| layer.created.to_string() == CREATED)
    );
    // The same again asks for nothing but the tag.
    solve(&solver, request(base(&fake))).await.unwrap();
    assert_eq!((fake.seen().len(), layers(&fake, &image)), (4, 0));
    // An output that contains the blobs gets them, without unpacking them.
    let reference = solved.result.reference().clone();
    blocking(move || reference.fetch(&Cancel::new()).unwrap()).await;
    let fetched = layers(&fake, &image);
    assert!(fetched >= 3);
    assert_eq!(
        std::fs::read_dir(folder.path().join("layers"))
            .unwrap()
            .count(),
        0
    );
    for layer in &image.layers {
        let stored = solver.store().blobs().open(&BlobDigest::of(layer)).unwrap();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut stored.unwrap(), &mut bytes).unwrap();
        assert!(&bytes == layer);
    }
    // Who looks at the tree gets it from them.
    let reference = solved.result.reference().clone();
    let view = blocking(move || reference.view().unwrap()).await;
    let has = |path: &str| view.lookup(&TreePath::new(path).unwrap()).is_some();
    assert!(has("etc/two") && has("etc/three") && !has("etc/one"));
    assert_eq!(layers(&fake, &image), fetched);
    assert!(solved.result.reference().lazy_layers().is_none());
    // From now on the image is a stack.
    let solved = solve(&solver, request(base(&fake))).await.unwrap();
    assert_eq!(solved.result.reference().known_stack().unwrap().depth(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_end_with_the_solve_though_layers_may_still_be_downloaded() {
    let (store, image) = three();
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let (mut events, outcome) = solver.solve(request(base(&fake))).split();
    let ended = async { while futures::StreamExt::next(&mut events).await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("the events end");
    let reference = outcome.await.unwrap().result.reference().clone();
    blocking(move || reference.view().unwrap()).await;
    assert!(layers(&fake, &image) >= 3);
    assert!(futures::StreamExt::next(&mut events).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_asks_for_the_tag_alone() {
    let (store, image) = three();
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let state = || llb::scratch().file(copy(State::from(base(&fake)), "/etc/two", "/two"));
    let first = solve(&solver(folder.path()), request(state()))
        .await
        .unwrap();
    assert_eq!(first.ran(), 2);
    assert!(layers(&fake, &image) >= 3);
    let (all, loaded) = (fake.seen().len(), layers(&fake, &image));
    // Another process.
    let solver = solver(folder.path());
    let again = solve(&solver, request(state())).await.unwrap();
    assert_eq!(again.ran(), 0);
    assert_eq!(
        (fake.seen().len(), layers(&fake, &image)),
        (all + 1, loaded)
    );
    assert_eq!(fake.seen().last().unwrap().method, "HEAD");
    for mode in [ResolveMode::IfMissing, ResolveMode::Offline] {
        let again = solve(&solver, request(state()).resolve(mode))
            .await
            .unwrap();
        assert_eq!((again.ran(), fake.seen().len()), (0, all + 1));
    }
    // An op that insists is listened to, but for offline.
    let pull = || request(base(&fake).resolve_mode(llb::ResolveMode::ForcePull));
    solve(&solver, pull().resolve(ResolveMode::Offline))
        .await
        .unwrap();
    assert_eq!(fake.seen().len(), all + 1);
    solve(&solver, pull().resolve(ResolveMode::IfMissing))
        .await
        .unwrap();
    assert_eq!(fake.seen().len(), all + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layers_in_another_image_are_known() {
    let (mut store, image) = three();
    let mut other = image.manifest.clone();
    other["annotations"] = json!({"built": "again"});
    store.manifest("v2", MANIFEST, &other.to_string());
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let state = |tag: &str| {
        let base = llb::image(format!("{}/app:{tag}", fake.host));
        request(llb::scratch().file(copy(State::from(base), "/etc/two", "/two")))
    };
    let first = solve(&solver, state("v1")).await.unwrap();
    assert_eq!(first.ran(), 2);
    let loaded = layers(&fake, &image);
    let second = solve(&solver, state("v2")).await.unwrap();
    assert_eq!(second.ran(), 0, "{:?}", second.vertices);
    assert_eq!(layers(&fake, &image), loaded);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_by_digest_is_never_asked_about_again() {
    let (store, image) = three();
    let digest = BlobDigest::of(image.manifest.to_string().as_bytes());
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let pinned = || request(llb::image(format!("{}/app:v1@{digest}", fake.host)));
    let missing = solve(&solver, pinned().resolve(ResolveMode::Offline))
        .await
        .unwrap_err();
    assert!(
        failure(&missing, |e| matches!(e, SourceError::Offline { .. })),
        "{missing:?}"
    );
    assert_eq!(missing.fault(), Fault::Input);
    assert_eq!(fake.seen().len(), 0);
    solve(&solver, pinned()).await.unwrap();
    assert_eq!(fake.seen().len(), 2);
    solve(&solver, pinned()).await.unwrap();
    let offline = solve(&solver, pinned().resolve(ResolveMode::Offline))
        .await
        .unwrap();
    assert_eq!(fake.seen().len(), 2);
    // What was not loaded is told when it is needed.
    let reference = offline.result.reference().clone();
    let error = blocking(move || reference.view().unwrap_err()).await;
    assert!(error.to_string().contains("not in the store"), "{error}");
    // One that says otherwise is refused.
    let sum = BlobDigest::of(b"other");
    let wrong = request(base(&fake).checksum(sum));
    let error = solve(&solver, wrong).await.unwrap_err();
    let checksum = |e: &SourceError| matches!(e, SourceError::Checksum { expected, found, .. } if *expected == sum && *found == digest);
    assert!(failure(&error, checksum), "{error:?}");
    solve(&solver, request(base(&fake).checksum(digest)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_platform_that_fits() {
    the_platform_that_fits(|text| text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_docker_gives_the_platform_that_fits() {
    let names = [
        (MANIFEST, media_type::DOCKER_MANIFEST),
        (INDEX, media_type::DOCKER_LIST),
        (CONFIG, media_type::DOCKER_CONFIG),
        (GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
    ];
    let renamed = |text: String| {
        names
            .iter()
            .fold(text, |text, (oci, docker)| text.replace(oci, docker))
    };
    the_platform_that_fits(renamed).await;
}

/// `renamed`: what becomes of documents and media types.
async fn the_platform_that_fits(renamed: impl Fn(String) -> String) {
    let mut store = Store::new();
    let [manifest_type, index_type] = [MANIFEST, INDEX].map(|name| renamed(name.to_owned()));
    let mut manifests = Vec::new();
    for (architecture, variant) in [("amd64", ""), ("arm", "v6"), ("arm", "v7"), ("arm64", "")] {
        let name = format!("{architecture}{variant}");
        let image = image(&mut store, architecture, &[tar(&[(&name, b"x")])]);
        let text = renamed(image.manifest.to_string());
        let digest = store.manifest(&name, &manifest_type, &text);
        manifests.push(
            json!({"mediaType": manifest_type, "digest": digest, "size": text.len(),
            "platform": {"os": "linux", "architecture": architecture, "variant": variant}}),
        );
    }
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": manifests});
    store.manifest("v1", &index_type, &index.to_string());
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    for (asked, found) in [
        ("linux/amd64", Some("amd64")),
        ("linux/arm/v7", Some("armv7")),
        ("linux/arm/v6", Some("armv6")),
        ("linux/arm64", Some("arm64")),
        ("linux/s390x", None),
    ] {
        let platform: Platform = asked.parse().unwrap();
        let solved = solve(&solver, request(base(&fake).platform(platform))).await;
        let Some(found) = found else {
            let error = solved.unwrap_err();
            assert!(
                failure(&error, |e| matches!(e, ImageError::NoPlatform { .. })),
                "{error:?}"
            );
            continue;
        };
        let reference = solved.unwrap().result.reference().clone();
        let view = blocking(move || reference.view().unwrap()).await;
        assert!(
            view.lookup(&TreePath::new(found).unwrap()).is_some(),
            "{asked}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layer_limit_keeps_the_lowest() {
    let (store, image) = three();
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let solved = solve(&solver, request(base(&fake).layer_limit(1)))
        .await
        .unwrap();
    let reference = solved.result.reference().clone();
    let view = blocking(move || reference.view().unwrap()).await;
    assert!(view.lookup(&TreePath::new("etc/one").unwrap()).is_some());
    for layer in &image.layers[1..] {
        assert_eq!(fake.count(&BlobDigest::of(layer).to_string()), 0);
    }
    let error = solve(&solver, request(base(&fake).layer_limit(4)))
        .await
        .unwrap_err();
    assert!(
        failure(&error, |e| matches!(e, ImageError::Image { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn class_11_layers_with_other_bytes_fail_closed() {
    let (store, image) = three();
    let second = BlobDigest::of(&image.layers[1]).to_string();
    let whole = image.layers[1].clone();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x40;
    // Another archive altogether, one whose length is right, and one that is cut.
    let mut other = gzip(&tar(&[("etc/evil", b"x")]));
    other.resize(whole.len(), 0);
    let bad = Arc::new(Mutex::new(Vec::new()));
    let served = bad.clone();
    let fake = Fake::start(move |seen| {
        let bad = served.lock().unwrap();
        match seen.path.ends_with(&second) && !bad.is_empty() {
            true => Reply::new(200).body(bad.clone()),
            false => store.reply(seen),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    for body in [flipped, other, whole[..whole.len() - 9].to_vec()] {
        bad.lock().unwrap().clone_from(&body);
        let reference = solve(&solver, request(base(&fake)))
            .await
            .unwrap()
            .result
            .reference()
            .clone();
        let error = blocking(move || reference.view().unwrap_err()).await;
        let error = SolveError::from(error);
        let SolveError::Engine(failure) = &error else {
            panic!("{error:?}");
        };
        let content = failure
            .downcast_ref::<RegistryError>()
            .is_some_and(|error| {
                matches!(
                    error,
                    RegistryError::Content {
                        source: ContentError::Digest { .. } | ContentError::Size { .. },
                        ..
                    }
                )
            });
        assert!(content, "{error:?}");
        assert_eq!(error.fault(), Fault::Remote { retryable: false });
        assert!(
            !solver
                .store()
                .blobs()
                .contains(&BlobDigest::of(&body))
                .unwrap()
        );
    }
    // Nothing of it is left: the right bytes give the right tree.
    bad.lock().unwrap().clear();
    let reference = solve(&solver, request(base(&fake)))
        .await
        .unwrap()
        .result
        .reference()
        .clone();
    let view = blocking(move || reference.view().unwrap()).await;
    assert!(view.lookup(&TreePath::new("etc/evil").unwrap()).is_none());
    assert!(view.lookup(&TreePath::new("etc/two").unwrap()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn class_09_a_layer_from_a_registry_stays_in_its_directory() {
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "alive").unwrap();
    let up = format!("../../../../../../../..{}", canary.display());
    let mut store = Store::new();
    let archive = tar(&[(&up, b"dead"), ("etc/.wh...", b"")]);
    let image = image(&mut store, "amd64", &[archive]);
    store.manifest("v1", MANIFEST, &image.manifest.to_string());
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solved = solve(&solver(folder.path()), request(base(&fake)))
        .await
        .unwrap();
    let reference = solved.result.reference().clone();
    // Whether it is refused or contained, nothing outside changes.
    let _refused = blocking(move || reference.view().map(drop)).await;
    assert_eq!(std::fs::read_to_string(&canary).unwrap(), "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn class_12_bombs_stop_at_the_limit() {
    let mut store = Store::new();
    let bomb = tar(&[("zeros", &vec![0; 16 << 20])]);
    let image = image(&mut store, "amd64", &[bomb]);
    store.manifest("v1", MANIFEST, &image.manifest.to_string());
    // A manifest that says it is larger than is taken.
    store.manifest("huge", MANIFEST, &" ".repeat(3 << 20));
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 20;
    limits.manifest_bytes = 1 << 20;
    let builder = Solver::builder().root(folder.path()).registry(quick());
    let solver = builder.limits(limits).build().unwrap();
    let reference = solve(&solver, request(base(&fake)))
        .await
        .unwrap()
        .result
        .reference()
        .clone();
    let error = SolveError::from(blocking(move || reference.view().unwrap_err()).await);
    assert!(error.to_string().contains("more than"), "{error}");
    let huge = llb::image(format!("{}/app:huge", fake.host));
    let error = solve(&solver, request(huge)).await.unwrap_err();
    assert!(
        failure(&error, |e| matches!(e, ImageError::DocumentTooLarge { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn class_08_credentials_are_nowhere_but_in_the_header() {
    let (store, _) = three();
    let fake = Fake::start(move |seen| match seen.header("authorization") {
        Some("Basic bWU6Y2FuYXJ5LWh1bnRlcjI=") => store.reply(seen),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"x\""),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let known: Arc<dyn Credentials> = Counted::new(Credential::password("me", CANARY));
    let builder = Solver::builder().root(folder.path()).registry(quick());
    let solver = builder.credentials(known).build().unwrap();
    let state = llb::scratch().file(copy(State::from(base(&fake)), "/etc", "/etc"));
    let (mut events, outcome) = solver.solve(request(state)).split();
    let mut told = String::new();
    while let Some(event) = futures::StreamExt::next(&mut events).await {
        told.push_str(&format!("{event:?}\n"));
    }
    outcome.await.unwrap();
    told.push_str(&format!("{solver:?}"));
    let mut files = vec![folder.path().to_path_buf()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(
                std::fs::read_dir(path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.is_file() {
            told.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap()));
        }
    }
    assert!(told.contains("etc/two") || told.contains("two"));
    for secret in [CANARY, "bWU6Y2FuYXJ5LWh1bnRlcjI"] {
        assert!(!told.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_a_download() {
    let (store, image) = three();
    let first = BlobDigest::of(&image.layers[0]).to_string();
    let fake = Fake::start(move |seen| match seen.path.ends_with(&first) {
        true => store.reply(seen).manner(Manner::Silent),
        false => store.reply(seen),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick();
    config.timeouts.answer = Duration::from_secs(60);
    let builder = Solver::builder().root(folder.path()).registry(config);
    let solver = builder.build().unwrap();
    let state = || llb::scratch().file(copy(State::from(base(&fake)), "/etc", "/etc"));
    let (_events, outcome) = solver.solve(request(state())).split();
    let canceller = outcome.canceller();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        canceller.cancel();
    });
    let start = Instant::now();
    let error = outcome.await.unwrap_err();
    assert!(matches!(error, SolveError::Cancelled), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // Nothing is taken for done, and nothing is left half once the unpackers have noticed.
    let left = || {
        std::fs::read_dir(folder.path().join("layers"))
            .unwrap()
            .count()
    };
    while left() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn solves_that_need_the_same_image_load_it_once() {
    let (store, image) = three();
    let fake = serve(store).await;
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path());
    let each = ["/etc/two", "/etc/three", "/etc/noise"].map(|path| {
        let state = llb::scratch().file(copy(State::from(base(&fake)), path, "/x"));
        solve(&solver, request(state))
    });
    for solved in futures::future::join_all(each).await {
        solved.unwrap();
    }
    for layer in &image.layers {
        let digest = BlobDigest::of(layer).to_string();
        let whole = layer.len().div_ceil(64 << 10);
        let ranges = if layer.len() > 128 << 10 { whole } else { 1 };
        assert_eq!(fake.count(&digest), ranges);
    }
}
