//! `/etc/hosts` and `/etc/resolv.conf` of a process.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::Network;

/// Name servers for a host whose own cannot be reached from another network, as in BuildKit.
const PUBLIC_SERVERS: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// What the resolver of steps is told in place of what the host's is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Dns {
    /// Name servers; none: those of the host.
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked up; none: those of the host.
    pub search: Vec<String>,
    /// Options of resolv.conf(5); none: those of the host.
    pub options: Vec<String>,
}

impl Dns {
    /// Asks these name servers.
    pub fn servers(servers: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            servers: servers.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Sets the domains in which short names are looked up.
    #[must_use]
    pub fn search<S: Into<String>>(mut self, domains: impl IntoIterator<Item = S>) -> Self {
        self.search = domains.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options<S: Into<String>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options = options.into_iter().map(Into::into).collect();
        self
    }

    /// The configuration of the host with what is told here.
    pub(super) fn over(&self, host: &str) -> String {
        let words = |list: &[String]| list.join(" ").replace(['\n', '\r'], " ");
        let mut said = Vec::new();
        if !self.servers.is_empty() {
            let servers = self.servers.iter().map(IpAddr::to_string).collect();
            said.push((&["nameserver"][..], servers));
        }
        if !self.search.is_empty() {
            // Either of the two counts, the last one.
            said.push((&["search", "domain"][..], vec![words(&self.search)]));
        }
        if !self.options.is_empty() {
            said.push((&["options"][..], vec![words(&self.options)]));
        }
        let is_said = |line: &&str| {
            let word = line.split_ascii_whitespace().next().unwrap_or_default();
            said.iter().any(|(names, _)| names.contains(&word))
        };
        let kept = host.lines().filter(|line| !is_said(line));
        let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
        for (names, values) in &said {
            for value in values {
                let name = names[0];
                writeln!(text, "{name} {value}").expect("BUG: writing to a string cannot fail");
            }
        }
        text
    }
}

/// Whether the host asks nobody but the resolver of systemd on its own loopback interface.
pub(super) fn asks_only_systemd(host: &str) -> bool {
    let stub = |it: Option<IpAddr>| it.is_some_and(|it| it.to_string() == "127.0.0.53");
    let mut servers = host.lines().filter_map(server).peekable();
    servers.peek().is_some() && servers.all(stub)
}

/// The hosts file: the process itself, then what was asked for.
pub(super) fn hosts(hostname: &str, extra: &[(String, String)]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (address, name) in extra {
        writeln!(text, "{address}\t{name}").expect("BUG: writing to a string cannot fail");
    }
    text
}

/// The resolver configuration, made from the host's. Servers on the host's loopback interface are
/// of no use in another network.
pub(super) fn resolv_conf(host: &str, network: Network) -> String {
    let has_server = host.lines().any(|line| server(line).is_some());
    if network == Network::Host && has_server {
        return host.to_owned();
    }
    // The networks of providers have no IPv6.
    let usable = |it: IpAddr| !it.is_loopback() && (network != Network::Sandbox || it.is_ipv4());
    let reachable = |line: &str| server(line).is_none_or(|server| server.is_none_or(usable));
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines().filter(|line| reachable(line)) {
        servers += usize::from(server(line).is_some());
        text.push_str(line);
        text.push('\n');
    }
    if servers == 0 {
        for server in PUBLIC_SERVERS {
            writeln!(text, "nameserver {server}").expect("BUG: writing to a string cannot fail");
        }
    }
    text
}

/// The address of a `nameserver` line; `Some(None)` if it cannot be read.
fn server(line: &str) -> Option<Option<IpAddr>> {
    let mut words = line.split_ascii_whitespace();
    if words.next() != Some("nameserver") {
        return None;
    }
    let address = words.next().unwrap_or_default();
    Some(address.split('%').next().unwrap_or_default().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_name_the_process_and_what_was_asked_for() {
        let extra = [("1.2.3.4".to_owned(), "db".to_owned())];
        let expected = "127.0.0.1\tlocalhost me\n\
                        ::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\tdb\n";
        assert_eq!(hosts("me", &extra), expected);
    }

    #[test]
    fn what_is_told_takes_the_place_of_the_hosts() {
        let host = "# c\ndomain x\nnameserver 10.0.0.1\nsearch y\noptions ndots:1\n";
        assert_eq!(Dns::default().over(host), host);
        let servers = Dns::servers(["10.0.0.2", "fd00::1"].map(|it| it.parse().unwrap()));
        assert_eq!(
            servers.over(host),
            "# c\ndomain x\nsearch y\noptions ndots:1\nnameserver 10.0.0.2\nnameserver fd00::1\n"
        );
        let all = servers
            .search(["a", "b"])
            .options(["edns0", "x\nnameserver 1.1.1.1"]);
        assert_eq!(
            all.over(host),
            "# c\nnameserver 10.0.0.2\nnameserver fd00::1\nsearch a b\n\
             options edns0 x nameserver 1.1.1.1\n"
        );
        let options = Dns::default().options(["timeout:1"]);
        assert_eq!(
            resolv_conf(&options.over(""), Network::Host).lines().next(),
            Some("options timeout:1")
        );
    }

    #[test]
    fn servers_of_the_host_itself_are_left_out_elsewhere() {
        let host = "# c\nnameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch x\n";
        assert_eq!(resolv_conf(host, Network::Host), host);
        assert_eq!(
            resolv_conf(host, Network::None),
            "# c\nnameserver 10.0.0.1\nsearch x\n"
        );
        let both = "nameserver fd00::1\nnameserver 10.0.0.1\n";
        assert_eq!(resolv_conf(both, Network::Sandbox), "nameserver 10.0.0.1\n");
        assert_eq!(resolv_conf(both, Network::None), both);
        for (host, expected) in [
            ("nameserver 127.0.0.53\n", true),
            ("nameserver 127.0.0.53\nnameserver 10.0.0.1\n", false),
            ("nameserver 127.0.0.1\n", false),
            ("search x\n", false),
        ] {
            assert_eq!(asks_only_systemd(host), expected, "{host}");
        }
        let only_local = resolv_conf("nameserver ::1\noptions ndots:0\n", Network::None);
        assert!(
            only_local.starts_with("options ndots:0\nnameserver 8.8.8.8\n"),
            "{only_local}"
        );
        assert!(resolv_conf("", Network::Host).contains("nameserver 8.8.8.8"));
    }
}
