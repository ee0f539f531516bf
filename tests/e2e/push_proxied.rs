//! Pushes to docker-registry through nginx, which refuses, breaks off, limits and leads astray.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ashlar_exporters::{ExportError, Exporter as _, Push};
use ashlar_llb::BlobDigest;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::registry::{
    HostConfig, RegistryConfig, RegistryError, Scheme, StaticCredentials,
};
use ashlar_solver::solver::{Solved, Solver};

use super::export::fixed_context;
use super::nginx::{Nginx, Rules};
use super::push::{app, breaking, good, noise, pushed};
use super::registries::{Registry, Yard, certificates, copied, inspect, me, nobody};
use super::support::{self, Need, skipped, solve};

/// A place with nginx; none if a tool is missing.
fn enter(test: &str) -> Option<Yard> {
    (!skipped(test, &[Need::Tool("nginx")])).then(|| Yard::enter(test))?
}

/// A solver that speaks plain text to nginx, or trusts its authority. It waits shortly.
fn solver(yard: &Yard, nginx: &Nginx, tls: bool, known: StaticCredentials) -> Solver {
    let host = match tls {
        true => {
            let mut host = HostConfig::default().root(fs::read(yard.at("ca.pem")).unwrap());
            host.scheme = Scheme::Https;
            host
        }
        false => HostConfig::plain_http(),
    };
    let mut config = RegistryConfig::default().host(nginx.host(), host);
    config.retry.first = Duration::from_millis(10);
    config.upload_chunk_bytes = 256 << 10;
    yard.solver_of(config, known)
}

/// The registry itself has this image, as skopeo sees it.
fn has(yard: &Yard, registry: &Registry, name: &str, digest: Option<BlobDigest>) {
    let reference = format!("{}/{name}", registry.host());
    let found = inspect(&reference, &[])["Digest"].clone();
    assert_eq!(found, digest.unwrap().to_string());
    copied(
        &reference,
        &tempfile::tempdir_in(yard.path()).unwrap().keep(),
    );
}

/// What the client says of a push that fails.
async fn failure(solver: &Solver, solved: &Solved, name: &str) -> (ExportError, String) {
    let error = pushed(solver, solved, name).await.unwrap_err();
    let text = support::chain(&error);
    assert!(text.contains(name), "{text}");
    (error, text)
}

fn cause(error: &ExportError) -> &RegistryError {
    let ExportError::Push { failure, .. } = error else {
        panic!("{error:?}");
    };
    failure.downcast_ref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_now_and_then_is_tried_again() {
    let Some(yard) = enter("what_fails_now_and_then_is_tried_again") else {
        return;
    };
    certificates(yard.path());
    // Some requests of each connection: failures, refusals, and an end without an answer. The
    // connection ends in good order after some more.
    let http = "map $connection_requests $trouble { 3 503; 6 429; 9 502; 12 444; default ''; }\n\
                keepalive_requests 15;";
    let location = "if ($trouble = 503) { return 503; }\nif ($trouble = 429) { return 429; }\n\
                    if ($trouble = 502) { return 502; }\nif ($trouble = 444) { return 444; }\n";
    for tls in [false, true] {
        let registry = yard.registry(if tls { "tls" } else { "plain" }, "");
        let rules = Rules {
            http,
            location,
            tls,
            ..Rules::default()
        };
        let nginx = Nginx::start(yard.path(), registry.port(), &rules);
        let solver = solver(&yard, &nginx, tls, nobody());
        let solved = match tls {
            true => noise(&solver).await,
            false => solve(&solver, fixed_context(yard.path())).await,
        };
        let exported = pushed(&solver, &solved, &format!("{}/app:v1", nginx.host())).await;
        has(&yard, &registry, "app:v1", good(exported).digest);
        for status in [503, 429] {
            assert!(nginx.answers(status) > 0, "{status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_fewer_requests_is_waited_for() {
    let Some(yard) = enter("a_proxy_that_wants_fewer_requests_is_waited_for") else {
        return;
    };
    let registry = yard.open();
    // A manifest in half a second, and who is faster is told to wait for a second.
    let rules = Rules {
        http: "map $request_method$uri $manifest { ~^PUT.*/manifests/ 1; default ''; }\n\
               limit_req_zone $manifest zone=manifests:1m rate=2r/s;\nlimit_req_status 429;",
        location: "limit_req zone=manifests;\nadd_header Retry-After 1 always;",
        ..Rules::default()
    };
    let nginx = Nginx::start(yard.path(), registry.port(), &rules);
    let solver = solver(&yard, &nginx, false, nobody());
    let solved = app(&solver, "limited").await;
    let name = |tag: &str| format!("{}/app:{tag}", nginx.host());
    // On a machine that is busy it may be slow enough by itself: once more then.
    for attempt in 1.. {
        assert!(attempt < 10, "it is never told to wait");
        let start = Instant::now();
        let push = Push::new(solver.registry());
        let push = push.name(name(&format!("a{attempt}")));
        let push = push.name(name(&format!("b{attempt}")));
        let exported = good(push.export(&solved.result, &Cancel::new()).await);
        let took = start.elapsed();
        has(
            &yard,
            &registry,
            &format!("app:b{attempt}"),
            exported.digest,
        );
        if nginx.answered("PUT", 429) > 0 {
            assert!(took >= Duration::from_secs(1), "{took:?}");
            break;
        }
    }
    // A limit that is not lifted is told.
    let rules = Rules {
        location: "if ($request_method = POST) { return 429; }\nadd_header Retry-After 3600 always;",
        ..Rules::default()
    };
    let nginx = Nginx::start(yard.path(), registry.port(), &rules);
    let solver = self::solver(&yard, &nginx, false, nobody());
    let solved = app(&solver, "too much").await;
    let (error, text) = failure(&solver, &solved, &format!("{}/more:v1", nginx.host())).await;
    assert!(
        matches!(cause(&error), RegistryError::TooManyRequests { .. }),
        "{text}"
    );
    assert_eq!(error.fault(), Fault::Remote { retryable: true });
    assert!(text.contains("3600 s"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_bodies_makes_chunks_smaller() {
    let Some(yard) = enter("a_limit_of_bodies_makes_chunks_smaller") else {
        return;
    };
    let registry = yard.open();
    let limited = |limit: &str| {
        let location = format!("client_max_body_size {limit};");
        let rules = Rules {
            location: &location,
            ..Rules::default()
        };
        Nginx::start(yard.path(), registry.port(), &rules)
    };
    for limit in ["256k", "100k"] {
        let nginx = limited(limit);
        let mut config = RegistryConfig::default();
        config = config.host(nginx.host(), HostConfig::plain_http());
        let solver = yard.solver_of(config, nobody());
        let solved = noise(&solver).await;
        let name = format!("app-{limit}:v1");
        let exported = pushed(&solver, &solved, &format!("{}/{name}", nginx.host())).await;
        has(&yard, &registry, &name, good(exported).digest);
        assert!(nginx.answers(413) > 0);
    }
    // What cannot be sent in parts is refused with its size.
    let nginx = limited("100");
    let solver = solver(&yard, &nginx, false, nobody());
    let solved = app(&solver, "much").await;
    let (error, text) = failure(&solver, &solved, &format!("{}/small:v1", nginx.host())).await;
    let RegistryError::Oversized { bytes, .. } = cause(&error) else {
        panic!("{text}");
    };
    assert!(
        *bytes > 100 && text.contains(&format!("{bytes} bytes")),
        "{text}"
    );
    let remedy = error.remedy().unwrap();
    assert!(remedy.contains("client_max_body_size"), "{remedy}");
    assert!(remedy.contains(&bytes.to_string()), "{remedy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_way_on_which_large_chunks_break_off_is_gone_in_small_ones() {
    let name = "a_way_on_which_large_chunks_break_off_is_gone_in_small_ones";
    let Some(yard) = enter(name) else {
        return;
    };
    // The registry sees nothing of a request that nginx does not have as a whole, and each
    // connection ends after half of a blob.
    let registry = yard.open();
    let nginx = Nginx::start(yard.path(), registry.port(), &Rules::default());
    let (port, broken) = breaking(nginx.port(), 150_000, u64::MAX);
    let host = format!("localhost:{port}");
    let mut config = RegistryConfig::default().host(&host, HostConfig::plain_http());
    config.retry.first = Duration::from_millis(10);
    let solver = yard.solver_of(config, nobody());
    let solved = noise(&solver).await;
    let exported = pushed(&solver, &solved, &format!("{host}/app:v1")).await;
    has(&yard, &registry, "app:v1", good(exported).digest);
    // Each of three blobs as a whole, and as a large chunk.
    assert!(broken.load(Ordering::SeqCst) >= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_go_where_the_proxy_or_the_registry_says() {
    let Some(yard) = enter("uploads_go_where_the_proxy_or_the_registry_says") else {
        return;
    };
    certificates(yard.path());
    let [relative, absolute] =
        ["true", "false"].map(|value| yard.registry(value, &format!("  relativeurls: {value}\n")));
    let behind =
        |registry: &Registry, rules: &Rules<'_>| Nginx::start(yard.path(), registry.port(), rules);
    let plain = behind(&absolute, &Rules::default());
    let elsewhere = format!("127.0.0.1:{}", plain.port());
    let onward = format!("return 307 http://{elsewhere}$request_uri;");
    let usual = Rules::default();
    let secure = Rules { tls: true, ..usual };
    let cases = [
        // Paths alone, in plain text and with TLS.
        ("relative", &relative, usual),
        ("relative-tls", &relative, secure),
        // Addresses as docker-registry makes them: in plain text, which it speaks itself.
        ("absolute", &absolute, usual),
        ("absolute-tls", &absolute, secure),
        // The same without the port.
        (
            "portless",
            &absolute,
            Rules {
                host: "$host",
                ..secure
            },
        ),
        // Another name of the host, and a redirect there.
        (
            "other",
            &absolute,
            Rules {
                host: &elsewhere,
                ..usual
            },
        ),
        (
            "redirected",
            &absolute,
            Rules {
                location: &onward,
                ..usual
            },
        ),
    ];
    for (name, registry, rules) in cases {
        let nginx = behind(registry, &rules);
        let solver = solver(&yard, &nginx, rules.tls, nobody());
        let solved = app(&solver, name).await;
        let exported = pushed(&solver, &solved, &format!("{}/{name}:v1", nginx.host())).await;
        has(
            &yard,
            registry,
            &format!("{name}:v1"),
            good(exported).digest,
        );
    }
    // A redirect that makes another request of it, one that never ends, a host that does not know
    // the upload, and plain text after TLS.
    let see_other = onward.replace("307", "302");
    let circle = "return 308 http://$http_host$request_uri;";
    let cases = [
        (
            "see-other",
            Rules {
                location: &see_other,
                ..usual
            },
        ),
        (
            "circle",
            Rules {
                location: circle,
                ..usual
            },
        ),
        (
            "nowhere",
            Rules {
                host: "127.0.0.1:1",
                ..usual
            },
        ),
        (
            "plain",
            Rules {
                location: &onward,
                ..secure
            },
        ),
    ];
    for (name, rules) in cases {
        let nginx = behind(&absolute, &rules);
        let solver = solver(&yard, &nginx, rules.tls, nobody());
        let solved = app(&solver, name).await;
        let (error, text) = failure(&solver, &solved, &format!("{}/{name}:v1", nginx.host())).await;
        let is_expected = match cause(&error) {
            RegistryError::Redirect { .. } => name != "nowhere",
            RegistryError::Elsewhere { host, url, .. } => {
                assert_eq!(*host, nginx.host());
                assert!(error.remedy().unwrap().contains(host));
                name == "nowhere" && url.starts_with("http://127.0.0.1:1/v2/nowhere/")
            }
            _ => false,
        };
        assert!(is_expected, "{name}: {text}");
        println!("{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_wants_a_password_gets_it_and_nobody_else() {
    let Some(yard) = enter("a_proxy_that_wants_a_password_gets_it_and_nobody_else") else {
        return;
    };
    certificates(yard.path());
    fs::write(yard.at("passwords"), "me:{PLAIN}hunter2\n").unwrap();
    let registry = yard.open();
    let passwords = "auth_basic registry; auth_basic_user_file ../passwords;";
    for tls in [false, true] {
        let rules = Rules {
            server: passwords,
            tls,
            ..Rules::default()
        };
        let nginx = Nginx::start(yard.path(), registry.port(), &rules);
        let known = solver(&yard, &nginx, tls, me(&nginx.host(), "hunter2"));
        let solved = noise(&known).await;
        let name = format!("{}/app:{tls}", nginx.host());
        let exported = pushed(&known, &solved, &name).await;
        has(
            &yard,
            &registry,
            &format!("app:{tls}"),
            good(exported).digest,
        );
        for (credentials, was_shown) in [(me(&nginx.host(), "hunter3"), true), (nobody(), false)] {
            let unknown = solver(&yard, &nginx, tls, credentials);
            let solved = app(&unknown, "refused").await;
            let (error, text) = failure(&unknown, &solved, &name).await;
            let RegistryError::Unauthorized { host, shown, .. } = cause(&error) else {
                panic!("{text}");
            };
            assert_eq!((host, *shown), (&nginx.host(), was_shown));
            assert!(!text.contains("hunter"), "{text}");
            let remedy = error.remedy().unwrap();
            assert!(
                remedy.contains(host) && remedy.contains("push to app"),
                "{remedy}"
            );
        }
    }
    // Another name of the same proxy is somebody else, who is not shown the password.
    let rules = Rules {
        server: passwords,
        ..Rules::default()
    };
    let guarded = Nginx::start(yard.path(), registry.port(), &rules);
    let other = format!("127.0.0.1:{}", guarded.port());
    let rules = Rules {
        host: &other,
        ..rules
    };
    let nginx = Nginx::start(yard.path(), registry.port(), &rules);
    let known = solver(&yard, &nginx, false, me(&nginx.host(), "hunter2"));
    let solved = app(&known, "astray").await;
    let (error, text) = failure(&known, &solved, &format!("{}/new:v1", nginx.host())).await;
    assert!(
        matches!(cause(&error), RegistryError::Denied { .. }),
        "{text}"
    );
    assert!(
        text.contains(&other) && text.contains(&nginx.host()),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_authority_is_trusted_if_it_is_named() {
    let Some(yard) = enter("a_private_authority_is_trusted_if_it_is_named") else {
        return;
    };
    certificates(yard.path());
    let registry = yard.open();
    // Each connection ends after three requests, and takes one at a time.
    let rules = Rules {
        server: "keepalive_requests 3; http2_max_concurrent_streams 1;",
        tls: true,
        ..Rules::default()
    };
    let nginx = Nginx::start(yard.path(), registry.port(), &rules);
    let trusting = solver(&yard, &nginx, true, nobody());
    let solved = noise(&trusting).await;
    let name = format!("{}/app:v1", nginx.host());
    let exported = pushed(&trusting, &solved, &name).await;
    has(&yard, &registry, "app:v1", good(exported).digest);
    let mut config = RegistryConfig::default();
    config.retry.tries = 1;
    let mut host = HostConfig::default();
    host.scheme = Scheme::Https;
    let strict = yard.solver_of(config.host(nginx.host(), host), nobody());
    let solved = app(&strict, "strict").await;
    let (error, text) = failure(&strict, &solved, &name).await;
    assert!(
        matches!(cause(&error), RegistryError::Unreachable { .. }),
        "{text}"
    );
    assert!(text.contains("certificate"), "{text}");
}
