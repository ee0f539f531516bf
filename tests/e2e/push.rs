//! Images into docker-registry: open, with passwords, with certificates of one's own, with tokens;
//! through connections that break, and by processes that are killed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ashlar_exporters::{Compression, ExportError, Exported, Exporter as _, Oci, Output, Push};
use ashlar_llb::{self as llb, BlobDigest, Reference, State, mkfile};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::registry::{HostConfig, RegistryConfig};
use ashlar_solver::solver::{Solved, Solver};
use ashlar_solver::source::image::ResolveMode;
use serde_json::Value;

use super::export::fixed_context;
use super::registries::{Yard, copied, inspect, me, nobody, passwords, tls, tokens};
use super::support::{self, files, solve, then};

pub async fn app(solver: &Solver, text: &str) -> Solved {
    let state = llb::scratch()
        .file(mkfile("/hello", text.to_owned()).created(then()))
        .file(mkfile("/more", "more\n".repeat(10_000)).created(then()));
    solve(solver, support::request(&state)).await
}

/// An image of three layers of 300,000 bytes that cannot be compressed.
pub async fn noise(solver: &Solver) -> Solved {
    let mut word = 88_172_645_463_325_252_u64;
    let mut state = llb::scratch();
    for number in 0..3 {
        let mut bytes = Vec::new();
        while bytes.len() < 300_000 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            bytes.extend(word.to_le_bytes());
        }
        state = state.file(mkfile(format!("/noise{number}"), bytes).created(then()));
    }
    solve(solver, support::request(&state)).await
}

pub async fn pushed(solver: &Solver, solved: &Solved, name: &str) -> Result<Exported, ExportError> {
    let push = Push::new(solver.registry()).name(name);
    push.export(&solved.result, &Cancel::new()).await
}

pub fn good(exported: Result<Exported, ExportError>) -> Exported {
    exported.unwrap_or_else(|error| panic!("{}", support::chain(&error)))
}

/// What is built on an image says what the image said.
pub async fn says(yard: &Yard, reference: &str, text: &str) {
    let solver = yard.solver();
    let state = State::from(llb::image(reference));
    let solved = solve(&solver, support::request(&state)).await;
    let expected = support::file(0o644, text.as_bytes());
    assert_eq!(files(&solved).await["hello"], expected, "{reference}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_what_is_pulled() {
    let Some(yard) = Yard::enter("what_is_pushed_is_what_is_pulled") else {
        return;
    };
    let (registry, solver) = (yard.open(), yard.solver());
    let solved = app(&solver, "hi").await;
    let reference = format!("{}/app:v1", registry.host());
    for compression in Compression::ALL {
        let push = Push::new(solver.registry())
            .name(&reference)
            .name(format!("{}/other/app", registry.host()))
            .compression(compression);
        let exported = good(push.export(&solved.result, &Cancel::new()).await);
        let digest = exported.digest.unwrap();
        let names: Vec<String> = exported
            .references
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            names,
            [
                format!("{reference}@{digest}"),
                format!("{}/other/app:latest@{digest}", registry.host())
            ]
        );
        for name in &names {
            let name = name.replace(":v1@", "@").replace(":latest@", "@");
            assert_eq!(inspect(&name, &[])["Digest"], digest.to_string());
        }
        assert_eq!(inspect(&reference, &[])["Digest"], digest.to_string());
        says(&yard, &reference, "hi").await;
        // Again, and nothing changes.
        let before = support::tree(&yard.at("store"));
        assert_eq!(
            good(push.export(&solved.result, &Cancel::new()).await),
            exported
        );
        assert!(support::tree(&yard.at("store")) == before);
    }
    copied(&reference, yard.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushing_by_digest_moves_no_tag() {
    let Some(yard) = Yard::enter("pushing_by_digest_moves_no_tag") else {
        return;
    };
    let (registry, solver) = (yard.open(), yard.solver());
    let app_name = format!("{}/app", registry.host());
    let old = good(pushed(&solver, &app(&solver, "old").await, &app_name).await);
    let solved = app(&solver, "new").await;
    let push = Push::new(solver.registry()).by_digest(true);
    let exported = push.clone().name(&app_name);
    let exported = good(exported.export(&solved.result, &Cancel::new()).await);
    let digest = exported.digest.unwrap();
    assert_eq!(
        exported.references[0].to_string(),
        format!("{app_name}@{digest}")
    );
    says(&yard, &format!("{app_name}@{digest}"), "new").await;
    let latest = inspect(&app_name, &[]);
    assert_eq!(latest["Digest"], old.digest.unwrap().to_string());
    for name in ["app:v1", &format!("app@{digest}")] {
        let tagged = push.clone().name(format!("{}/{name}", registry.host()));
        let error = tagged
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap_err();
        assert!(matches!(error, ExportError::Option { .. }), "{error:?}");
    }
    let nameless = Push::new(solver.registry());
    let error = nameless
        .export(&solved.result, &Cancel::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("needs a name"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_push_if_their_attributes_say_so() {
    let Some(yard) = Yard::enter("outputs_push_if_their_attributes_say_so") else {
        return;
    };
    let (registry, solver) = (yard.open(), yard.solver());
    let solved = app(&solver, "hi").await;
    let parse = |text: String| Output::parse(&text).unwrap();
    for (at, (attributes, is_stored)) in [
        ("type=image,push=true", true),
        ("type=image,push=true,store=false", false),
        ("type=registry,oci-mediatypes=true", false),
        ("type=registry,oci-mediatypes=false", false),
        ("type=registry,oci-mediatypes=false,compression=zstd", false),
        ("type=image,push=true,push-by-digest=true", true),
    ]
    .into_iter()
    .enumerate()
    {
        let reference = format!("{}/app{at}", registry.host());
        let output = parse(format!("{attributes},name={reference}"));
        let unable = output
            .exporter()
            .export(&solved.result, &Cancel::new())
            .await;
        let error = unable.unwrap_err();
        assert!(
            error.to_string().contains("client of registries"),
            "{error}"
        );
        let output = output.with_registry(solver.registry());
        let exported = output
            .exporter()
            .export(&solved.result, &Cancel::new())
            .await;
        let exported = good(exported);
        let by_digest = format!("{reference}@{}", exported.digest.unwrap());
        says(&yard, &by_digest, "hi").await;
        if !attributes.contains("push-by-digest") {
            says(&yard, &reference, "hi").await;
        }
        let reference = Reference::parse(&reference).unwrap();
        let stored = solver.store().images().get(&reference).unwrap();
        assert_eq!(stored.is_some(), is_stored, "{attributes}");
        assert_eq!(exported.references.len(), 1);
    }
    let nameless = parse("type=registry".to_owned()).with_registry(solver.registry());
    let exported = nameless
        .exporter()
        .export(&solved.result, &Cancel::new())
        .await;
    assert!(
        exported
            .unwrap_err()
            .to_string()
            .contains("pushing an image needs a name")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_show_passwords_and_tokens_where_they_are_demanded() {
    let Some(yard) = Yard::enter("pushes_show_passwords_and_tokens_where_they_are_demanded") else {
        return;
    };
    for settings in [passwords(yard.path()), tokens(yard.path())] {
        let registry = yard.registry("store", &settings);
        let reference = format!("{}/app:v1", registry.host());
        let as_user = |known| yard.solver_of(RegistryConfig::default(), known);
        let known = as_user(me(&registry.host(), "hunter2"));
        let solved = app(&known, "guarded").await;
        let exported = good(pushed(&known, &solved, &reference).await);
        // The registry has it under its digest.
        let back = State::from(llb::image(exported.references[0].to_string()));
        let back = solve(&known, support::request(&back)).await;
        assert!(files(&back).await.contains_key("hello"));
        for unknown in [nobody(), me(&registry.host(), "hunter3")] {
            let unknown = as_user(unknown);
            let solved = app(&unknown, "refused").await;
            let error = pushed(&unknown, &solved, &reference).await.unwrap_err();
            let text = format!("{} {error:?}", support::chain(&error));
            assert!(matches!(error, ExportError::Push { .. }), "{text}");
            assert!(!text.contains("hunter"), "{text}");
            assert_ne!(error.fault(), Fault::Bug);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_trust_private_authorities_and_insecure_ones_if_told_so() {
    let Some(yard) = Yard::enter("pushes_trust_private_authorities_and_insecure_ones_if_told_so")
    else {
        return;
    };
    let registry = yard.registry("store", &tls(yard.path()));
    let reference = format!("{}/app:v1", registry.host());
    let strict = |host: HostConfig| {
        let mut config = RegistryConfig::default();
        config.retry.tries = 1;
        yard.solver_of(config.host(registry.host(), host), nobody())
    };
    let root = fs::read(yard.at("ca.pem")).unwrap();
    let trusting = strict(HostConfig::default().root(root));
    good(pushed(&trusting, &app(&trusting, "tls").await, &reference).await);
    let mut https = HostConfig::default();
    https.scheme = ashlar_solver::registry::Scheme::Https;
    let distrusting = strict(https);
    let solved = app(&distrusting, "insecure").await;
    let error = pushed(&distrusting, &solved, &reference).await.unwrap_err();
    assert!(matches!(error, ExportError::Push { .. }), "{error:?}");
    // Told to take any certificate, and to do without TLS.
    let plain = yard.registry("plain", "");
    for host in [registry.host(), plain.host()] {
        let push = Push::new(distrusting.registry())
            .name(format!("{host}/app:v2"))
            .insecure(true);
        good(push.export(&solved.result, &Cancel::new()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_the_same_registry_is_mounted_without_being_downloaded() {
    let Some(yard) = Yard::enter("a_base_of_the_same_registry_is_mounted_without_being_downloaded")
    else {
        return;
    };
    let (registry, maker) = (yard.open(), yard.solver());
    let base = format!("{}/base:v1", registry.host());
    good(pushed(&maker, &app(&maker, "base").await, &base).await);

    let solver = yard.solver();
    let image = State::from(llb::image(&base));
    let untouched = solve(&solver, support::request(&image)).await;
    let name = |name: &str| format!("{}/{name}", registry.host());
    assert_eq!(registry.sent("base", "v1"), 3, "layers and config");
    // Under another name in the same repository, which has all of it.
    good(pushed(&solver, &untouched, &name("base:again")).await);
    assert_eq!(registry.sent("base", "again"), 4, "its own config");
    good(pushed(&solver, &untouched, &name("copy:v1")).await);
    says(&yard, &name("copy:v1"), "base").await;
    assert_eq!(registry.sent("copy", "v1"), 1, "the config");
    // Manifest, config, and no layer.
    let blobs = fs::read_dir(solver.root().join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 2, "manifest and config of the base");
    // To another registry they have to be sent. It is not told where they came from.
    let other = yard.registry("other", "");
    let reference = format!("{}/copy:v1", other.host());
    good(pushed(&solver, &untouched, &reference).await);
    says(&yard, &reference, "base").await;
    assert_eq!(other.sent("copy", "v1"), 3);
    assert_eq!(other.requests("from="), 0);
    // One that is built on, and what was built on it.
    let built = image.file(mkfile("/own", "own").created(then()));
    let built = solve(&solver, support::request(&built)).await;
    good(pushed(&solver, &built, &name("built:v1")).await);
    assert_eq!(registry.sent("built", "v1"), 2, "a layer and the config");
    says(&yard, &name("built:v1"), "base").await;
    good(pushed(&solver, &built, &name("more:v1")).await);
    assert_eq!(registry.sent("more", "v1"), 1, "the config");
    says(&yard, &name("more:v1"), "base").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_download_only_what_they_are_to_keep() {
    let Some(yard) = Yard::enter("outputs_download_only_what_they_are_to_keep") else {
        return;
    };
    let (registry, maker) = (yard.open(), yard.solver());
    let base = format!("{}/base:v1", registry.host());
    good(pushed(&maker, &app(&maker, "base").await, &base).await);
    let (incomplete, key) = ("copy:incomplete", "unsafe-internal-store-allow-incomplete");
    // Of the base the manifest and the config are there; two layers are not.
    for (attributes, to, kept) in [
        ("type=registry", "copy:v1", 0),
        ("type=registry,verify=true", "copy:v2", 0),
        ("type=image,push=true,store=false", "copy:v3", 0),
        (&format!("type=image,push=true,{key}="), incomplete, 0),
        ("type=image,push=true", "copy:v4", 2),
        ("type=registry,store=true", "copy:v5", 2),
        ("type=image,store=false", "copy:v6", 2),
        (&format!("type=image,store=false,{key}=true"), "copy:v7", 2),
        (&format!("type=image,{key}=false"), "copy:v8", 2),
    ] {
        let solver = yard.solver();
        let image = State::from(llb::image(&base));
        let untouched = solve(&solver, support::request(&image)).await;
        let name = format!("{}/{to}", registry.host());
        let output = Output::parse(&format!("{attributes},name={name}")).unwrap();
        let output = output.with_registry(solver.registry());
        let cancel = Cancel::new();
        let exported = output.exporter().export(&untouched.result, &cancel);
        good(exported.await);
        let blobs = fs::read_dir(solver.root().join("blobs/sha256")).unwrap();
        let layers = blobs.filter(|blob| {
            let bytes = fs::read(blob.as_ref().unwrap().path()).unwrap();
            bytes.starts_with(&[0x1f, 0x8b])
        });
        assert_eq!(layers.count(), kept, "{attributes}");
        // What lacks layers is as good as complete as long as its registry has them.
        if to == incomplete {
            let named = State::from(llb::image(&name));
            let request = support::request(&named).resolve(ResolveMode::IfMissing);
            let solved = solve(&solver, request).await;
            let expected = support::file(0o644, b"base");
            assert_eq!(files(&solved).await["hello"], expected);
        }
    }
    let both = Output::parse(&format!("type=image,name=a,verify=true,{key}=true")).unwrap();
    let solved = app(&maker, "base").await;
    let error = both.exporter().export(&solved.result, &Cancel::new()).await;
    assert!(
        matches!(error, Err(ExportError::Option { .. })),
        "{error:?}"
    );
}

/// Passes connections on to a registry, and breaks each after so many bytes of what clients send,
/// `times` times.
pub fn breaking(port: u16, after: u64, times: u64) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let broken = Arc::new(AtomicU64::new(0));
    let count = broken.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
                return;
            };
            let (mut answers, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _end = std::io::copy(&mut answers, &mut to);
                let _gone = to.shutdown(std::net::Shutdown::Both);
            });
            let count = count.clone();
            std::thread::spawn(move || {
                let (mut passed, mut buffer) = (0, [0; 16 << 10]);
                while let Ok(length) = client.read(&mut buffer) {
                    if length == 0 || server.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                    passed += length as u64;
                    if passed > after && count.fetch_add(1, Ordering::SeqCst) < times {
                        break;
                    }
                }
                let _gone = server.shutdown(std::net::Shutdown::Both);
                let _gone = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    (own, broken)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_through_a_connection_that_breaks_arrives() {
    let Some(yard) = Yard::enter("a_push_through_a_connection_that_breaks_arrives") else {
        return;
    };
    let registry = yard.open();
    let mut config = RegistryConfig::default();
    config.retry.first = Duration::from_millis(10);
    config.upload_chunk_bytes = 1 << 20;
    let solver = yard.solver_of(config, nobody());
    // Blobs of several MiB.
    let solved = solve(&solver, fixed_context(yard.path())).await;
    // At the first bytes, and in the middle of a blob.
    for (after, times) in [(0, 3), (1_500_000, 4)] {
        let (port, broken) = breaking(registry.port(), after, times);
        let name = format!("app{times}:v1");
        let exported = good(pushed(&solver, &solved, &format!("localhost:{port}/{name}")).await);
        assert!(broken.load(Ordering::SeqCst) >= times, "it broke");
        let reference = format!("{}/{name}", registry.host());
        let found = inspect(&reference, &[]);
        assert_eq!(found["Digest"], exported.digest.unwrap().to_string());
        copied(
            &reference,
            &tempfile::tempdir_in(yard.path()).unwrap().keep(),
        );
    }
}

/// Passes connections on to a registry, and tells how many there were at the same time at most.
fn counting(port: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let (open, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let told = most.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
                return;
            };
            most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let (mut answers, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut to));
            let open = open.clone();
            std::thread::spawn(move || {
                let _end = std::io::copy(&mut client, &mut server);
                let _gone = server.shutdown(std::net::Shutdown::Both);
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (own, told)
}

/// Passes connections on to a registry, and stops answering each after so many bytes; tells how many
/// clients wait for more.
fn stalling(port: u16, after: u64) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let stalled = Arc::new(AtomicU64::new(0));
    let told = stalled.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
                return;
            };
            let (answers, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let stalled = stalled.clone();
            std::thread::spawn(move || {
                let asking = std::thread::spawn(move || {
                    let _end = std::io::copy(&mut client, &mut server);
                    let _gone = server.shutdown(std::net::Shutdown::Both);
                });
                let passed = std::io::copy(&mut answers.take(after), &mut to);
                let waits = u64::from(passed.is_ok_and(|passed| passed == after));
                stalled.fetch_add(waits, Ordering::SeqCst);
                let _client_is_gone = asking.join();
                stalled.fetch_sub(waits, Ordering::SeqCst);
            });
        }
    });
    (own, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_over_downloads_nothing_any_more() {
    let Some(yard) = Yard::enter("a_push_that_is_over_downloads_nothing_any_more") else {
        return;
    };
    let (registry, maker) = (yard.open(), yard.solver());
    let base = format!("{}/base:v1", registry.host());
    good(pushed(&maker, &noise(&maker).await, &base).await);
    let (port, stalled) = stalling(registry.port(), 100_000);
    let solver = yard.solver();
    let image = State::from(llb::image(format!("localhost:{port}/base:v1")));
    let untouched = solve(&solver, support::request(&image)).await;

    // One registry takes the image, which has to be downloaded for it; the other one refuses it then.
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = refusing.local_addr().unwrap().port();
    let waiting = stalled.clone();
    let started = move || {
        for _ in 0..1000 {
            if waiting.load(Ordering::SeqCst) > 0 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    };
    std::thread::spawn(move || {
        for client in refusing.incoming() {
            let Ok(mut client) = client else { return };
            assert!(started(), "nothing is downloaded");
            let _asked = client.read(&mut [0; 4096]);
            let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _told = client.write_all(answer.as_bytes());
        }
    });
    let other = yard.registry("other", "");
    let push = Push::new(solver.registry())
        .name(format!("{}/copy:v1", other.host()))
        .name(format!("localhost:{refused}/copy:v1"));
    let error = push.export(&untouched.result, &Cancel::new()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ExportError::Push { .. }), "{error:?}");
    let until = async |is_waited_for: bool| {
        for _ in 0..500 {
            if (stalled.load(Ordering::SeqCst) > 0) == is_waited_for {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it is not so that {is_waited_for}");
    };
    // Others go on no longer than it takes to see that they are not wanted.
    until(false).await;
    // One that nobody waits for any more is over, too.
    let push = Push::new(solver.registry()).name(format!("{}/copy:v1", other.host()));
    let cancel = Cancel::new();
    tokio::select! {
        exported = push.export(&untouched.result, &cancel) => panic!("{exported:?}"),
        () = until(true) => {}
    }
    until(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_pushed_at_the_same_time_as_far_as_the_client_may() {
    let name = "blobs_are_pushed_at_the_same_time_as_far_as_the_client_may";
    let Some(yard) = Yard::enter(name) else {
        return;
    };
    let registry = yard.open();
    for (connections, alone) in [(8, false), (1, true)] {
        let mut config = RegistryConfig::default();
        config.connections_per_host = connections;
        let solver = yard.solver_of(config, nobody());
        let solved = solve(&solver, fixed_context(yard.path())).await;
        let (port, most) = counting(registry.port());
        let name = format!("localhost:{port}/app{connections}:v1");
        good(pushed(&solver, &solved, &name).await);
        // Four layers and a config. One connection at a time is reused, or followed by another.
        let most = most.load(Ordering::SeqCst);
        assert!(
            if alone {
                most <= 2
            } else {
                most > 2 && most <= 8
            },
            "{most}"
        );
        inspect(&format!("{}/app{connections}:v1", registry.host()), &[]);
    }
}

/// Marks the first layer of the image in a layout as one that only its owner distributes.
pub fn make_foreign(layout: &Path, url: &str) -> String {
    let blob = |digest: &Value| {
        layout
            .join("blobs")
            .join(digest.as_str().unwrap().replace(':', "/"))
    };
    let index = layout.join("index.json");
    let mut entries: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    let manifest = fs::read(blob(&entries["manifests"][0]["digest"])).unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = &mut manifest["layers"][0];
    layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
    layer["urls"] = vec![url].into();
    let digest = layer["digest"].as_str().unwrap().to_owned();
    let text = manifest.to_string();
    let named = BlobDigest::of(text.as_bytes()).to_string();
    entries["manifests"][0]["digest"] = named.into();
    entries["manifests"][0]["size"] = text.len().into();
    fs::write(blob(&entries["manifests"][0]["digest"]), text).unwrap();
    fs::write(index, entries.to_string()).unwrap();
    digest
}

#[tokio::test(flavor = "multi_thread")]
async fn nondistributable_layers_are_pushed_only_as_layers_like_any_other() {
    let Some(yard) =
        Yard::enter("nondistributable_layers_are_pushed_only_as_layers_like_any_other")
    else {
        return;
    };
    let url = "https://example.com/foreign/layer";
    let allowed =
        "validation:\n  manifests:\n    urls:\n      allow: ['^https://example\\.com/']\n";
    let registry = yard.registry("store", allowed);
    let solver = yard.solver();
    let layout = yard.at("base");
    let base = Oci::directory(&layout).name("example.com/base:v1");
    let made = app(&solver, "base").await;
    good(base.export(&made.result, &Cancel::new()).await);
    let foreign = make_foreign(&layout, url);

    let image = State::from(llb::oci_layout("example.com/base:v1").store("base"));
    let built = image.file(mkfile("/own", "own").created(then()));
    let pushed_blob = |digest: &str| {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = yard.at("store/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data").exists()
    };
    // First the untouched image, then one that is built on.
    for prefer in [true, false] {
        for (tag, state) in [("untouched", &image), ("built", &built)] {
            let request = support::request(state).oci_layout("base", &layout);
            let solved = solve(&solver, request).await;
            let reference = format!("{}/foreign:{tag}-{prefer}", registry.host());
            let output = format!(
                "type=registry,name={reference},oci-mediatypes=true,prefer-nondist-layers={prefer}"
            );
            let output = Output::parse(&output).unwrap();
            let output = output.with_registry(solver.registry());
            good(
                output
                    .exporter()
                    .export(&solved.result, &Cancel::new())
                    .await,
            );
            let layers = inspect(&reference, &["--raw"])["layers"].clone();
            let layers = layers.as_array().unwrap();
            assert_eq!(layers[0]["digest"], foreign);
            assert_eq!(pushed_blob(&foreign), !prefer, "{tag}");
            let kind = layers[0]["mediaType"].as_str().unwrap();
            assert_eq!(kind.contains(".nondistributable."), prefer, "{kind}");
            let expected = match prefer {
                true => serde_json::json!([url]),
                false => Value::Null,
            };
            assert_eq!(layers[0]["urls"], expected);
            assert!(layers[0]["annotations"].is_null());
            for layer in &layers[1..] {
                assert!(pushed_blob(layer["digest"].as_str().unwrap()));
                assert!(layer["urls"].is_null());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_refused_moves_no_name() {
    let Some(yard) = Yard::enter("a_push_that_is_refused_moves_no_name") else {
        return;
    };
    // It takes no layers that are elsewhere: the blobs of such an image, and not its manifest. That
    // it calls a failure of its own, which would be tried again.
    let mut config = RegistryConfig::default();
    config.retry.tries = 1;
    let (registry, solver) = (yard.open(), yard.solver_of(config, nobody()));
    let layout = yard.at("base");
    let base = Oci::directory(&layout).name("example.com/base:v1");
    let made = app(&solver, "foreign").await;
    good(base.export(&made.result, &Cancel::new()).await);
    make_foreign(&layout, "https://example.com/foreign/layer");
    let image = State::from(llb::oci_layout("example.com/base:v1").store("base"));
    let built = image.file(mkfile("/own", "own").created(then()));
    let request = support::request(&built).oci_layout("base", &layout);
    let refused = solve(&solver, request).await.result;

    let name = format!("{}/app:v1", registry.host());
    let stored = || {
        let name = Reference::parse(&name).unwrap();
        let found = solver.store().images().get(&name).unwrap();
        found.map(|found| found.digest.to_string())
    };
    let export = async |result, attributes: &str| {
        let text = format!("type=image,push=true,name={name}{attributes}");
        let output = Output::parse(&text).unwrap();
        let output = output.with_registry(solver.registry());
        output.exporter().export(result, &Cancel::new()).await
    };
    let foreign = ",prefer-nondist-layers=true";
    let old = app(&solver, "old").await.result;
    for there in [false, true] {
        let mut digest = None;
        if there {
            let pushed = good(export(&old, "").await);
            digest = pushed.digest.map(|digest| digest.to_string());
        }
        let error = export(&refused, foreign).await.unwrap_err();
        let ExportError::Push { reference, failure } = &error else {
            panic!("{error:?}");
        };
        assert!(reference.starts_with(&name), "{reference}");
        assert_eq!(error.fault(), failure.fault());
        // Neither there nor here does the name lead to what was refused.
        assert_eq!(stored(), digest);
        match &digest {
            Some(digest) => assert_eq!(inspect(&name, &[])["Digest"], digest.as_str()),
            None => {
                let app = yard.at("store/docker/registry/v2/repositories/app");
                assert!(!app.join("_manifests/tags/v1").exists());
            }
        }
    }
    // As a layer like any other it is taken.
    let taken = good(export(&refused, "").await).digest.unwrap();
    assert_eq!(stored(), Some(taken.to_string()));
    assert_eq!(inspect(&name, &[])["Digest"], taken.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_moves_before_all_registries_have_the_image() {
    let Some(yard) = Yard::enter("no_name_moves_before_all_registries_have_the_image") else {
        return;
    };
    let (registry, solver) = (yard.open(), yard.solver());
    let solved = app(&solver, "new").await;
    // It says no when the other one had the time to take all of it.
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = refusing.local_addr().unwrap().port();
    let blobs = yard.at("store/docker/registry/v2/blobs/sha256");
    // `…/ab/ab01…`.
    let count = move || {
        let prefixes = fs::read_dir(&blobs).into_iter().flatten();
        let below = prefixes.map(|prefix| fs::read_dir(prefix.unwrap().path()).unwrap().count());
        below.sum::<usize>()
    };
    std::thread::spawn(move || {
        for client in refusing.incoming() {
            let Ok(mut client) = client else { return };
            while count() < 3 {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(300));
            let _asked = client.read(&mut [0; 4096]);
            let answer = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _told = client.write_all(answer.as_bytes());
        }
    });
    let push = Push::new(solver.registry())
        .name(format!("{}/app:v1", registry.host()))
        .name(format!("{}/app:v2", registry.host()))
        .name(format!("localhost:{refused}/app:v1"));
    let error = push.export(&solved.result, &Cancel::new()).await;
    assert!(matches!(error, Err(ExportError::Push { .. })), "{error:?}");
    let app = yard.at("store/docker/registry/v2/repositories/app");
    assert!(app.join("_layers").exists() && !app.join("_manifests/tags").exists());
}

/// In a process of its own: pushes one image after the other, for ever.
pub fn role(arguments: &[&str]) {
    let [folder, root, host, first] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    support::runtime().block_on(async {
        let solver = support::solver(root);
        let request = fixed_context(folder);
        let base = solve(&solver, request).await;
        println!("@ open");
        for number in first.parse::<u64>().unwrap().. {
            // Another image each time, of layers that are all new to the registry.
            let level = u8::try_from(number % 9 + 1).unwrap();
            let push = Push::new(solver.registry())
                .name(format!("{host}/app{number}:v1"))
                .compression(Compression::Gzip { level });
            let _exported = good(push.export(&base.result, &Cancel::new()).await);
            println!("@ {number}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_nine_and_cancel_during_a_push_leave_a_registry_that_works() {
    let Some(yard) = Yard::enter("kill_nine_and_cancel_during_a_push_leave_a_registry_that_works")
    else {
        return;
    };
    let soak = std::env::var("ASHLAR_SOAK").is_ok_and(|value| value == "1");
    let rounds = if soak { 50 } else { 4 };
    let (folder, registry, root) = (yard.path(), yard.open(), yard.at("state"));
    // Killed at different points of a push.
    for round in 0..rounds {
        let first = (round * 100).to_string();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let arguments = [text(folder), text(&root), registry.host(), first];
        let mut command = support::child("push", &arguments.each_ref().map(String::as_str));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        while !lines.next().unwrap().unwrap().ends_with("@ open") {}
        std::thread::sleep(Duration::from_millis(40 + 37 * (round % 11)));
        child.kill().unwrap();
        child.wait().unwrap();
        let done = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("@ ")?.parse().ok());
        let done: Option<u64> = done.last();
        // What was said to be pushed is there, and the next push of what was cut off works.
        let solver = support::solver(&root);
        let solved = solve(&solver, fixed_context(folder)).await;
        let next = done.map_or(round * 100, |done| done + 1);
        for number in done.into_iter().chain([next]) {
            let level = u8::try_from(number % 9 + 1).unwrap();
            let reference = format!("{}/app{number}:v1", registry.host());
            if number == next {
                let push = Push::new(solver.registry()).name(&reference);
                let push = push.compression(Compression::Gzip { level });
                good(push.export(&solved.result, &Cancel::new()).await);
            }
            let layers = inspect(&reference, &["--raw"])["layers"].clone();
            assert_eq!(layers.as_array().unwrap().len(), 4);
        }
        assert_eq!(
            support::leftovers(&root)
                .iter()
                .filter(|l| !l.starts_with("sessions"))
                .count(),
            0
        );
    }
    // Cancelled at different points.
    let solver = support::solver(&root);
    let solved = solve(&solver, fixed_context(folder)).await;
    let mut cancelled = 0;
    for round in 0..rounds * 3 {
        let cancel = Cancel::new();
        let reference = format!("{}/cancelled{round}:v1", registry.host());
        let push = Push::new(solver.registry()).name(&reference);
        let push = push.compression(Compression::Zstd {
            level: 1 + u8::try_from(round % 5).unwrap(),
        });
        let (later, after) = (cancel.clone(), Duration::from_millis(round * 9 % 150));
        let timer = std::thread::spawn(move || {
            std::thread::sleep(after);
            later.cancel();
        });
        let exported = push.export(&solved.result, &cancel).await;
        timer.join().unwrap();
        if let Err(error) = exported {
            assert!(matches!(error, ExportError::Cancelled), "{error:?}");
            cancelled += 1;
        }
        good(push.export(&solved.result, &Cancel::new()).await);
        let layers = inspect(&reference, &["--raw"])["layers"].clone();
        assert_eq!(layers.as_array().unwrap().len(), 4);
    }
    assert!(cancelled > 0, "none was cancelled in time");
}
