//! Files of credentials, and the programs they name.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use ashlar_solver::registry::{
    Credential, CredentialError, Credentials as _, DockerConfig, Password,
};

async fn ask(config: &DockerConfig, host: &str, repository: &str) -> Option<Credential> {
    config.credential(host, repository).await.unwrap()
}

fn user(password: &str) -> Option<Credential> {
    Some(Credential::password("me", password))
}

#[tokio::test]
async fn entries_of_docker_and_podman() {
    let folder = tempfile::tempdir().unwrap();
    let (docker, podman) = (
        folder.path().join("config.json"),
        folder.path().join("auth.json"),
    );
    // `me:one`, `me:two`, `me:three`, `me:four`.
    let text = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "bWU6b25l"},
        "https://old.test/v2/": {"auth": "bWU6dHdv"},
        "plain.test:5000": {"username": "me", "password": "three"},
        "token.test": {"auth": "bWU6b25l", "identitytoken": "identity"},
        "direct.test": {"registrytoken": "direct"},
        "empty.test": {}
    }, "HttpHeaders": {"X": "y"}}"#;
    std::fs::write(&docker, text).unwrap();
    let text = r#"{"auths": {
        "quay.test/team/app": {"auth": "bWU6b25l"},
        "quay.test/team": {"auth": "bWU6dHdv"},
        "quay.test": {"auth": "bWU6dGhyZWU="},
        "empty.test": {"auth": "bWU6Zm91cg=="}
    }}"#;
    std::fs::write(&podman, text).unwrap();
    let known = DockerConfig::new(&docker)
        .and(&podman)
        .and("/does/not/exist");
    assert_eq!(
        ask(&known, "docker.io", "library/alpine").await,
        user("one")
    );
    assert_eq!(ask(&known, "old.test", "a").await, user("two"));
    assert_eq!(ask(&known, "plain.test:5000", "a").await, user("three"));
    assert_eq!(ask(&known, "plain.test", "a").await, None);
    let identity = Credential::IdentityToken(Password::new("identity"));
    assert_eq!(ask(&known, "token.test", "a").await, Some(identity));
    let direct = Credential::RegistryToken(Password::new("direct"));
    assert_eq!(ask(&known, "direct.test", "a").await, Some(direct));
    assert_eq!(ask(&known, "quay.test", "team/app").await, user("one"));
    assert_eq!(ask(&known, "quay.test", "team/other").await, user("two"));
    assert_eq!(ask(&known, "quay.test", "teams/app").await, user("three"));
    assert_eq!(ask(&known, "empty.test", "a").await, user("four"));
    assert_eq!(ask(&known, "index.docker.io.evil.test", "a").await, None);
}

#[tokio::test]
async fn class_08_a_file_that_is_wrong_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    for text in [
        r#"{"auths": {"a.test": {"auth": ["canary"]}}}"#,
        r#"{"auths": {"a.test": {"auth": "canary!"}}}"#,
        r#"{"auths": {"a.test": {"auth": "Y2FuYXJ5"}}}"#,
        "canary",
    ] {
        std::fs::write(&file, text).unwrap();
        let error = DockerConfig::new(&file)
            .credential("a.test", "a")
            .await
            .unwrap_err();
        assert!(
            matches!(error, CredentialError::Malformed { .. }),
            "{error:?}"
        );
        assert!(!format!("{error} {error:?}").contains("anary"), "{error:?}");
    }
    std::fs::write(&file, " \n").unwrap();
    assert_eq!(ask(&DockerConfig::new(&file), "a.test", "a").await, None);
}

fn helper(folder: &Path, name: &str, script: &str) {
    let path = folder.join(format!("docker-credential-{name}"));
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn helpers_are_asked_by_host_and_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let text = r#"{"credsStore": "all", "credHelpers": {"own.test": "own", "bad.test": "../bad", "none.test": "missing"},
        "auths": {"https://index.docker.io/v1/": {}, "file.test": {"auth": "bWU6b25l"}}}"#;
    std::fs::write(&file, text).unwrap();
    let answer = r#"read server; test "$1" = get; case $server in
        https://index.docker.io/v1/) echo '{"ServerURL":"x","Username":"me","Secret":"hub"}';;
        token.test) echo '{"Username":"<token>","Secret":"identity"}';;
        broken.test) echo 'no store' >&2; exit 1;;
        malformed.test) echo '{"Secret":["canary"]}';;
        *) echo 'credentials not found in native keychain'; exit 1;; esac"#;
    helper(folder.path(), "all", answer);
    helper(
        folder.path(),
        "own",
        r#"cat >/dev/null; echo '{"Username":"me","Secret":"own"}'"#,
    );
    let known = DockerConfig::new(&file).helpers(folder.path());
    assert_eq!(ask(&known, "docker.io", "a/b").await, user("hub"));
    assert_eq!(ask(&known, "own.test", "a").await, user("own"));
    let identity = Credential::IdentityToken(Password::new("identity"));
    assert_eq!(ask(&known, "token.test", "a").await, Some(identity));
    // What the helper does not know is looked for in the file.
    assert_eq!(ask(&known, "file.test", "a").await, user("one"));
    assert_eq!(ask(&known, "other.test", "a").await, None);
    for host in ["broken.test", "malformed.test", "bad.test", "none.test"] {
        let error = known.credential(host, "a").await.unwrap_err();
        assert!(
            matches!(error, CredentialError::Helper { .. }),
            "{host} {error:?}"
        );
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn a_helper_ends_with_who_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, r#"{"credsStore": "slow"}"#).unwrap();
    helper(
        folder.path(),
        "slow",
        "echo $$ > \"${0%/*}/pid\"; exec sleep 100",
    );
    let known = DockerConfig::new(&file).helpers(folder.path());
    let patience = std::time::Duration::from_millis(500);
    assert!(
        tokio::time::timeout(patience, known.credential("a.test", "a"))
            .await
            .is_err()
    );
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}
