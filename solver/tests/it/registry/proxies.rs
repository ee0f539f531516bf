//! Proxies: for all hosts, for one, for none; their passwords are theirs alone.

use ashlar_llb::Reference;
use ashlar_solver::oci::media_type::OCI_MANIFEST;
use ashlar_solver::registry::{
    Anonymous, HostConfig, Password, Registry, RegistryConfig, RegistryError, Repository,
};
use std::sync::Arc;

use super::fake::{Fake, Reply, Store};
use super::kit::{CANARY, Hand, LIMIT, quick};

/// `proxy:canary-hunter2`.
const SHOWN: &str = "Basic cHJveHk6Y2FuYXJ5LWh1bnRlcjI=";

async fn serve() -> Fake {
    let mut store = Store::new();
    store.manifest("v1", OCI_MANIFEST, r#"{"schemaVersion":2}"#);
    Fake::start(move |seen| store.reply(seen)).await
}

fn proxy(fake: &Fake) -> Option<Password> {
    Some(Password::new(format!(
        "http://proxy:{CANARY}@{}",
        fake.host
    )))
}

fn app(config: RegistryConfig, host: &str) -> Repository {
    let runtime = tokio::runtime::Handle::current();
    let registry = Registry::new(
        config,
        Arc::new(Anonymous),
        Arc::new(Hand::default()),
        runtime,
    );
    registry.repository(&Reference::parse(&format!("{host}/app")).unwrap())
}

#[tokio::test]
async fn a_proxy_is_asked_for_hosts_that_only_it_knows() {
    let fake = serve().await;
    let mut config = quick().host("registry.test", HostConfig::plain_http());
    config.proxy = proxy(&fake);
    app(config, "registry.test")
        .resolve("v1", LIMIT)
        .await
        .unwrap();
    let [seen] = &fake.seen()[..] else {
        panic!("{:?}", fake.seen());
    };
    assert_eq!(seen.path, "http://registry.test/v2/app/manifests/v1");
    assert_eq!(seen.header("proxy-authorization"), Some(SHOWN));
}

#[tokio::test]
async fn a_host_has_a_proxy_of_its_own_or_none() {
    let (fake, other) = (serve().await, serve().await);
    let mut own = HostConfig::plain_http();
    own.proxy = proxy(&other);
    let mut direct = HostConfig::plain_http();
    direct.no_proxy = true;
    let mut config = quick().host("registry.test", own).host(&fake.host, direct);
    config.proxy = proxy(&fake);
    app(config.clone(), "registry.test")
        .resolve("v1", LIMIT)
        .await
        .unwrap();
    assert_eq!((fake.seen().len(), other.seen().len()), (0, 1));
    app(config, &fake.host).resolve("v1", LIMIT).await.unwrap();
    let seen = fake.seen();
    assert_eq!(seen[0].path, "/v2/app/manifests/v1");
    assert_eq!(seen[0].header("proxy-authorization"), None);
    assert_eq!(other.seen().len(), 1);
}

#[tokio::test]
async fn class_08_the_password_of_a_proxy_is_in_no_message() {
    // One that refuses, one that is not there, one that is no address.
    let fake = Fake::start(|_| Reply::new(407)).await;
    let mut all = vec![proxy(&fake)];
    let gone = serve().await;
    all.push(proxy(&gone));
    drop(gone);
    all.push(Some(Password::new(format!("http://proxy:{CANARY}@[::1"))));
    for proxy in all {
        let mut config = quick().host("registry.test", HostConfig::plain_http());
        config.proxy = proxy;
        config.retry.tries = 1;
        assert!(!format!("{config:?}").contains(CANARY));
        let error = app(config, "registry.test")
            .resolve("v1", LIMIT)
            .await
            .unwrap_err();
        let typed = matches!(
            error,
            RegistryError::Status { status: 407, .. }
                | RegistryError::Unreachable { .. }
                | RegistryError::Config { .. }
        );
        assert!(typed, "{error:?}");
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
    }
}
