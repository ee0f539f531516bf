//! What a process is told: environment, names, limits.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;

use ashlar_llb::pb;
use ashlar_llb::pb::{NetMode, SecurityMode};

use super::ExecError;
use crate::executor::{Network, ResourceLimit};
use crate::ops::Engine;
use crate::tree::TreePath;

/// The search path of a process that is told none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The host name of a process that is told none.
const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

/// Bytes of arguments and environment with which Linux starts a process at most, whatever its limits:
/// three quarters of 8 MiB.
pub(super) const MOST_WORDS: usize = 6 << 20;

/// Bytes that the arguments and the environment take in a process, pointers to them included.
pub(super) fn words(meta: &pb::Meta) -> usize {
    let words = meta.args.iter().chain(&meta.env);
    words.map(|word| word.len() + 1 + size_of::<usize>()).sum()
}

/// The environment: what the op says, proxies, a search path, and where the user is at `home`, which
/// in BuildKit is runc's doing. Variables that are secret come after it, and instead of those of
/// their names.
pub(super) fn environment(
    op: &pb::ExecOp,
    meta: &pb::Meta,
    home: impl FnOnce() -> String,
) -> Vec<String> {
    let mut env = meta.env.clone();
    if let Some(proxy) = &meta.proxy_env {
        for (name, value) in [
            ("http_proxy", &proxy.http_proxy),
            ("https_proxy", &proxy.https_proxy),
            ("ftp_proxy", &proxy.ftp_proxy),
            ("no_proxy", &proxy.no_proxy),
            ("all_proxy", &proxy.all_proxy),
        ] {
            if !value.is_empty() {
                env.push(format!("{}={value}", name.to_ascii_uppercase()));
                env.push(format!("{name}={value}"));
            }
        }
    }
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.push(format!("PATH={DEFAULT_PATH}"));
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home()));
    }
    let secret = |entry: &String| {
        let name = entry.split('=').next();
        op.secretenv.iter().any(|it| Some(it.name.as_str()) == name)
    };
    env.retain(|entry| !secret(entry));
    keep_last(&mut env);
    env
}

/// Removes all but the last entry of each name, as runc does: programs look at the first.
fn keep_last(env: &mut Vec<String>) {
    let mut seen = HashSet::new();
    let mut keep: Vec<bool> = env
        .iter()
        .rev()
        .map(|entry| seen.insert(entry.split_once('=').map_or(&**entry, |(name, _)| name)))
        .collect();
    env.retain(|_| keep.pop().unwrap_or(true));
}

/// `path` in normal form; a relative one is below `base`.
pub(super) fn absolute(path: &str, base: &str) -> Result<PathBuf, ExecError> {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{base}/{path}")
    };
    let clean = TreePath::clean(joined.as_bytes()).map_err(|_| ExecError::Invalid {
        reason: format!("{path:?} is not a path"),
    })?;
    let root = PathBuf::from("/");
    Ok(if clean.is_root() {
        root
    } else {
        root.join(clean.as_relative())
    })
}

/// The host name.
pub(super) fn hostname(meta: &pb::Meta) -> String {
    let name = if meta.hostname.is_empty() {
        DEFAULT_HOSTNAME
    } else {
        &meta.hostname
    };
    name.to_owned()
}

/// Lines for the hosts file: address and name.
pub(super) fn extra_hosts(meta: &pb::Meta) -> Result<Vec<(String, String)>, ExecError> {
    meta.extra_hosts
        .iter()
        .map(|host| {
            let address: IpAddr = host.ip.parse().map_err(|_| ExecError::Invalid {
                reason: format!("{:?} is not the address of a host", host.ip),
            })?;
            Ok((address.to_string(), host.host.clone()))
        })
        .collect()
}

/// Limits; a negative number means none.
pub(super) fn limits(meta: &pb::Meta) -> Vec<ResourceLimit> {
    let limit = |limit: &pb::Ulimit| ResourceLimit {
        name: limit.name.clone(),
        soft: u64::try_from(limit.soft).unwrap_or(u64::MAX),
        hard: u64::try_from(limit.hard).unwrap_or(u64::MAX),
    };
    meta.ulimit.iter().map(limit).collect()
}

/// The network; that of the host must be allowed if it is asked for by name.
pub(super) fn network(op: &pb::ExecOp, engine: &Engine) -> Result<Network, ExecError> {
    match NetMode::try_from(op.network) {
        Ok(NetMode::Unset) => Ok(engine.network),
        Ok(NetMode::None) => Ok(Network::None),
        Ok(NetMode::Host) if engine.entitlements.network_host => Ok(Network::Host),
        Ok(NetMode::Host) => Err(ExecError::NotAllowed {
            what: "network.host",
        }),
        Err(_) => Err(ExecError::Invalid {
            reason: format!("unknown network mode {}", op.network),
        }),
    }
}

/// Whether the process gets all capabilities, which must be allowed.
pub(super) fn insecure(op: &pb::ExecOp, engine: &Engine) -> Result<bool, ExecError> {
    match SecurityMode::try_from(op.security) {
        Ok(SecurityMode::Sandbox) => Ok(false),
        Ok(SecurityMode::Insecure) if engine.entitlements.security_insecure => Ok(true),
        Ok(SecurityMode::Insecure) => Err(ExecError::NotAllowed {
            what: "security.insecure",
        }),
        Err(_) => Err(ExecError::Invalid {
            reason: format!("unknown security mode {}", op.security),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_proxies_and_a_path() {
        let mut meta = pb::Meta {
            env: vec!["A=b".into()],
            proxy_env: Some(pb::ProxyEnv {
                no_proxy: "x".into(),
                ..pb::ProxyEnv::default()
            }),
            ..pb::Meta::default()
        };
        let mut op = pb::ExecOp::default();
        let path = format!("PATH={DEFAULT_PATH}");
        let home = || "/h".to_owned();
        assert_eq!(
            environment(&op, &meta, home),
            ["A=b", "NO_PROXY=x", "no_proxy=x", &path, "HOME=/h"]
        );
        meta.env = ["PATH=/x", "N=1", "NO=2", "HOME="]
            .map(str::to_owned)
            .to_vec();
        meta.proxy_env = None;
        op.secretenv.push(pb::SecretEnv {
            id: "i".into(),
            name: "N".into(),
            optional: true,
        });
        let expected = ["PATH=/x", "NO=2", "HOME="];
        assert_eq!(environment(&op, &meta, home), expected);
        op.secretenv[0].name = "HOME".into();
        meta.env.pop();
        let expected = ["PATH=/x", "N=1", "NO=2"];
        assert_eq!(environment(&op, &meta, home), expected);
    }

    #[test]
    fn the_last_value_of_a_variable_counts() {
        let meta = pb::Meta {
            env: ["PATH=/a", "HTTP_PROXY=a", "X=1", "PATH=/b", "X=2"]
                .map(str::to_owned)
                .to_vec(),
            proxy_env: Some(pb::ProxyEnv {
                http_proxy: "b".into(),
                ..pb::ProxyEnv::default()
            }),
            ..pb::Meta::default()
        };
        let env = environment(&pb::ExecOp::default(), &meta, || "/".to_owned());
        let expected = ["PATH=/b", "X=2", "HTTP_PROXY=b", "http_proxy=b", "HOME=/"];
        assert_eq!(env, expected);
    }

    #[test]
    fn paths_are_absolute() {
        for (path, base, expected) in [
            ("/a/../b", "/w", "/b"),
            ("x", "/w", "/w/x"),
            ("", "", "/"),
            ("../..", "/w", "/"),
        ] {
            assert_eq!(
                absolute(path, base).unwrap(),
                PathBuf::from(expected),
                "{path} {base}"
            );
        }
        assert!(absolute("a\0", "").is_err());
    }
}
