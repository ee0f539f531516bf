//! Which hosts a reference leads to.

use super::{RegistryConfig, Scheme};

/// The host that has the repositories of `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// One place to ask for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// What the host is called in settings and in files of credentials.
    pub(super) name: String,
    /// Host and port of the address.
    pub(super) authority: String,
    /// The repository, with what a mirror wants before it.
    pub(super) repository: String,
}

impl Endpoint {
    /// The places for a repository, in the order in which they are asked.
    pub(super) fn all(config: &RegistryConfig, domain: &str, path: &str) -> Vec<Self> {
        let mirrors = config.hosts.get(domain).map(|host| &host.mirrors[..]);
        let mut all: Vec<Self> = mirrors
            .unwrap_or_default()
            .iter()
            .map(|mirror| {
                let prefix = mirror.prefix.trim_matches('/');
                let repository = match prefix {
                    "" => path.to_owned(),
                    prefix => format!("{prefix}/{path}"),
                };
                Self {
                    name: mirror.host.clone(),
                    authority: authority(&mirror.host),
                    repository,
                }
            })
            .collect();
        all.push(Self {
            name: domain.to_owned(),
            authority: authority(domain),
            repository: path.to_owned(),
        });
        all
    }
}

fn authority(host: &str) -> String {
    match host {
        "docker.io" | "index.docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// The schemes to try for a host, the first first.
pub(super) fn schemes(scheme: Scheme, authority: &str) -> &'static [&'static str] {
    match scheme {
        Scheme::Https => &["https"],
        Scheme::Http => &["http"],
        Scheme::Auto if is_loopback(authority) => &["https", "http"],
        Scheme::Any => &["https", "http"],
        Scheme::Auto => &["https"],
    }
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::super::{HostConfig, Mirror};
    use super::*;

    #[test]
    fn mirrors_come_first_and_keep_their_prefix() {
        let hub = HostConfig::default()
            .mirror(Mirror::new("cache.example.com").prefix("/hub/"))
            .mirror(Mirror::new("localhost:5000"));
        let config = RegistryConfig::default().host("docker.io", hub);
        let all = Endpoint::all(&config, "docker.io", "library/alpine");
        let seen: Vec<_> = all
            .iter()
            .map(|e| (&e.name[..], &e.authority[..], &e.repository[..]))
            .collect();
        assert_eq!(
            seen,
            [
                (
                    "cache.example.com",
                    "cache.example.com",
                    "hub/library/alpine"
                ),
                ("localhost:5000", "localhost:5000", "library/alpine"),
                ("docker.io", "registry-1.docker.io", "library/alpine"),
            ]
        );
        assert_eq!(Endpoint::all(&config, "quay.io", "a/b").len(), 1);
    }

    #[test]
    fn plain_text_is_for_this_machine_alone() {
        for (host, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:80", true),
            ("127.8.8.8", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
            ("example.com:5000", false),
        ] {
            let tried = schemes(Scheme::Auto, host);
            assert_eq!(tried.contains(&"http"), plain, "{host}");
            assert_eq!(tried[0], "https");
            assert_eq!(schemes(Scheme::Https, host), ["https"]);
            assert_eq!(schemes(Scheme::Http, host), ["http"]);
        }
    }
}
