//! What network a step gets that does not ask for one, and that the caller is told.

use ashlar_llb::{self as llb, Run, State, mkfile, pb::ProxyEnv};
use ashlar_solver::executor::{Dns, Network};
use ashlar_solver::progress::Event;
use ashlar_solver::solver::Solver;
use futures::StreamExt as _;

use super::support::{self, Need, skipped, temp};

/// Solves with that default; returns what was told, and the network interfaces that a step saw.
async fn told(network: Network, state: &State) -> (Vec<&'static str>, String) {
    let folder = temp();
    let base = support::busybox(folder.path());
    let root = folder.path().join("state");
    let solver = Solver::builder().root(root).network(network).build();
    let request = support::request(state).local("base", base);
    let (mut events, outcome) = solver.unwrap().solve(request).split();
    let (mut networks, mut output) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event {
            Event::DefaultNetwork { network } => networks.push(network),
            Event::Log { data, .. } => output.extend_from_slice(&data),
            _ => {}
        }
    }
    outcome.await.unwrap();
    let output = String::from_utf8(output).unwrap();
    let names = output.lines().filter_map(|line| line.split_once(':'));
    let names: Vec<&str> = names.map(|(name, _)| name.trim()).collect();
    (networks, names.join(" "))
}

#[test]
fn the_default_network_is_told_once_and_is_what_steps_get() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped(
        "network::the_default_network_is_told_once_and_is_what_steps_get",
        &needs,
    ) {
        return;
    }
    support::runtime().block_on(async {
        let step = |number: u8| {
            let step = support::busybox_state().run(["cat", "/proc/net/dev"]);
            step.env("N", number.to_string()).root()
        };
        let both = llb::merge([step(1), step(2)]);
        let (networks, interfaces) = told(Network::None, &both).await;
        assert_eq!((networks, &*interfaces), (vec!["none"], "lo lo"));
        let (networks, interfaces) = told(Network::Host, &step(1)).await;
        assert_eq!(networks, ["host"]);
        assert!(interfaces.contains("lo"), "{interfaces}");
        let alone = step(1)
            .network(llb::Network::None)
            .run(["cat", "/proc/net/dev"]);
        let (networks, _) = told(Network::Host, &alone.root()).await;
        assert_eq!(networks, ["host"], "its input still takes the default");
        let file = llb::scratch().file(mkfile("/x", "x"));
        assert!(told(Network::Host, &file).await.0.is_empty());
    });
}

#[test]
fn the_resolver_of_steps_is_told_what_the_caller_says() {
    let test = "network::the_resolver_of_steps_is_told_what_the_caller_says";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let base = support::busybox(folder.path());
        let servers = ["192.0.2.53", "2001:db8::53"].map(|it| it.parse().unwrap());
        let dns = Dns::servers(servers).search(["a.example", "example"]);
        let solver = Solver::builder()
            .root(folder.path().join("state"))
            .dns(dns.options(["ndots:2"]))
            .build()
            .unwrap();
        let script = "busybox grep -E '^(nameserver|search|options)' /etc/resolv.conf > /told";
        let step = support::busybox_state().run(["sh", "-c", script]);
        let request = support::request(&step.root()).local("base", base);
        let solved = support::solve(&solver, request).await;
        let expected = "nameserver 192.0.2.53\nnameserver 2001:db8::53\n\
                        search a.example example\noptions ndots:2\n";
        let files = support::files(&solved).await;
        assert_eq!(files["told"], support::file(0o644, expected.as_bytes()));
    });
}

/// Behind a proxy and without one a step is the same to the cache, as in BuildKit.
#[test]
fn proxies_are_variables_of_a_step_and_not_of_its_key() {
    let test = "network::proxies_are_variables_of_a_step_and_not_of_its_key";
    if skipped(test, &[Need::Root, Need::Tool("busybox")]) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        support::busybox(folder.path());
        let solver = support::solver(folder.path().join("state"));
        let script = "echo $http_proxy $HTTP_PROXY $no_proxy $NO_PROXY $https_proxy; exit 3";
        let step = || {
            let run = support::busybox_state().run(["sh", "-c", script]);
            run.valid_exit_codes([3])
        };
        let proxied = step().proxy(ProxyEnv {
            http_proxy: "http://proxy:3128".to_owned(),
            no_proxy: "localhost".to_owned(),
            ..ProxyEnv::default()
        });
        let output = async |run: Run| {
            let request = support::lent(folder.path(), &run.root());
            support::output(&solver, request).await
        };
        let told = output(proxied).await;
        assert_eq!(
            told,
            "http://proxy:3128 http://proxy:3128 localhost localhost\n"
        );
        assert_eq!(output(step()).await, "");
    });
}
