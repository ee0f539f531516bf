//! Networks of steps with a way out: what they reach, what they do not, and what they leave.
//!
//! The builds run in another process, in a network namespace made for the test: it plays the host,
//! with an address of its own, so that the tests need no network and change none.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use ashlar_llb::{self as llb, State};
use ashlar_solver::error::Blame as _;
use ashlar_solver::executor::{Network, NetworkProvider, SlirpNetwork, UserNetwork};
use ashlar_solver::progress::Event;
use ashlar_solver::solver::{SolveError, Solver};
use futures::StreamExt as _;

use super::support::{self, Need, run, skipped, temp, wrapped};

/// The address of the host that the test makes.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// What the step sends to be counted.
const BULK: usize = 16 << 20;

/// A server that counts what it gets until the end, and then says how much it was.
fn counter(address: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind(SocketAddrV4::new(address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let (mut total, mut buffer) = (0, vec![0; 64 << 10]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    total += length;
                }
                // A client that is gone does not want to know.
                let _gone = stream.write_all(format!("got {total}\n").as_bytes());
            });
        }
    });
    port
}

/// A server that sends a lot to whoever comes.
fn sender(address: Ipv4Addr) -> u16 {
    let listener = TcpListener::bind(SocketAddrV4::new(address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _gone = stream.unwrap().write_all(&vec![b'x'; BULK]);
        }
    });
    port
}

/// A name server that knows one address for every name.
fn names() {
    let socket = UdpSocket::bind(SocketAddrV4::new(HOST, 53)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            // The question of type A ends the packet: type and class, four bytes.
            let has_address = answer[length - 4..] == [0, 1, 0, 1];
            answer[2..4].copy_from_slice(&[0x81, 0x80]);
            answer[7] = u8::from(has_address);
            if has_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9]);
            }
            let _gone = socket.send_to(&answer, from);
        }
    });
}

fn step(script: &str) -> State {
    support::busybox_state().run(["sh", "-c", script]).root()
}

/// What a solve's steps wrote, and the networks that were told.
async fn output(solver: &Solver, state: &State, base: &Path) -> (String, Vec<&'static str>) {
    let request = support::request(state).local("base", base);
    let (mut events, outcome) = solver.solve(request).split();
    let (mut text, mut networks) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event {
            Event::Log { data, .. } => text.extend_from_slice(&data),
            Event::DefaultNetwork { network } => networks.push(network),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if let Err(error) = outcome.await {
        panic!("{}\n{text}", support::chain(&error));
    }
    (text, networks)
}

fn provider(name: &str) -> Arc<dyn NetworkProvider> {
    match name {
        "user" => Arc::new(UserNetwork::new()),
        _ => Arc::new(SlirpNetwork::new()),
    }
}

fn solver(folder: &Path, name: &str, network: Network) -> Solver {
    let root = folder.join(format!("state-{name}"));
    let solver = Solver::builder().root(root).network(network);
    solver.network_provider(provider(name)).build().unwrap()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Plays the host. Arguments: a folder and the name of the provider.
pub fn role(arguments: &[&str]) {
    let (folder, name) = (Path::new(arguments[0]), arguments[1]);
    let base = &folder.join("base");
    let devices = fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    let (open, local, bulk) = (counter(HOST), counter(Ipv4Addr::LOCALHOST), sender(HOST));
    names();
    support::runtime().block_on(async {
        {
            let solver = solver(folder, name, Network::Sandbox);
            reaches(&solver, name, base, [open, local, bulk]).await;
            apart(&solver, base).await;
            many(&solver, base, open).await;
            stops(&solver, base, open).await;
        }
        let without = solver(folder, &format!("{name}-none"), Network::None);
        let script = format!("echo x | nc -w 2 {HOST} {open} || echo unreachable");
        let (text, networks) = output(&without, &step(&script), base).await;
        assert!(text.contains("unreachable"), "{text}");
        assert_eq!(networks, ["none"]);
    });
    // What the solvers started ended with them.
    let now = fs::read_to_string("/proc/net/dev").unwrap().lines().count();
    assert_eq!(now, devices, "a device was left behind");
    let children = fs::read_to_string("/proc/thread-self/children").unwrap();
    assert_eq!(children.trim(), "", "a process was left behind");
    println!("\n@ done");
}

async fn reaches(solver: &Solver, name: &str, base: &Path, ports: [u16; 3]) {
    let [open, local, bulk] = ports;
    // Both directions, with the end of one told while the other goes on.
    let script = format!("dd if=/dev/zero bs=65536 count=256 2>/dev/null | nc {HOST} {open}");
    let (text, networks) = output(solver, &step(&script), base).await;
    assert_eq!(text, format!("got {BULK}"));
    assert_eq!(
        networks,
        [if name == "user" {
            "user"
        } else {
            "slirp4netns"
        }]
    );
    let (text, _) = output(
        solver,
        &step(&format!("nc {HOST} {bulk} </dev/null | wc -c")),
        base,
    )
    .await;
    assert_eq!(text, BULK.to_string());
    // Of the host's name servers the one on its loopback interface is left out.
    let (text, _) = output(solver, &step("cat /etc/resolv.conf"), base).await;
    assert_eq!(text, format!("nameserver {HOST}"));
    let (text, _) = output(solver, &step("nslookup some.example"), base).await;
    assert!(text.contains("203.0.113.9"), "{text}");

    // Both: the first of a flow is not lost.
    let (text, _) = output(
        solver,
        &step(&format!("busybox ping -c 2 -i 0.1 -W 5 {HOST}")),
        base,
    )
    .await;
    assert!(text.contains("2 packets received"), "{text}");

    // Nobody listens there, and the step is told at once.
    let script = format!("echo x | timeout 5 nc {HOST} 9; echo $?");
    let (text, _) = output(solver, &step(&script), base).await;
    assert!(text.lines().any(|line| line == "1"), "{text}");

    // The loopback interface is the step's own, by all its names, and the router is not the host. All
    // at once: some are waited for.
    let script = format!(
        "ip route add 127.0.0.5/32 dev eth0 2>/dev/null
        for address in 127.0.0.1 0.0.0.0 127.0.0.5 192.0.2.1 10.0.2.2; do
            (echo x | timeout 2 nc $address {local} || echo none at $address) & done; wait"
    );
    let (text, _) = output(solver, &step(&script), base).await;
    assert!(!text.contains("got"), "{text}");
    assert_eq!(text.matches("none at ").count(), 5, "{text}");
}

/// Two steps at the same time: the one does not see what the other listens on.
async fn apart(solver: &Solver, base: &Path) {
    let listens = step("timeout 2 nc -l -p 7000 -s 127.0.0.1; echo over");
    let knocks = step("sleep 0.7; echo x | timeout 1 nc 127.0.0.1 7000 && echo met || echo apart");
    let (text, _) = output(solver, &llb::merge([listens, knocks]), base).await;
    assert!(text.contains("apart") && !text.contains("met"), "{text}");
}

/// Many connections of one step, one after the other and side by side.
async fn many(solver: &Solver, base: &Path, open: u16) {
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \
         for j in 1 2 3 4; do (echo abc | nc {HOST} {open}) & done; wait; done"
    );
    let (text, _) = output(solver, &step(&script), base).await;
    assert_eq!(text.matches("got 4").count(), 64, "{text}");
}

/// A cancelled step leaves neither descriptors nor helpers.
async fn stops(solver: &Solver, base: &Path, open: u16) {
    let before = descriptors();
    for round in 0..3 {
        let script = format!(": {round}; echo begun; (echo x; sleep 60) | nc {HOST} {open}");
        let request = support::request(&step(&script)).local("base", base);
        let (mut events, outcome) = solver.solve(request).split();
        while let Some(event) = events.next().await {
            if matches!(event, Event::Log { .. }) {
                break;
            }
        }
        drop(outcome);
    }
    for _ in 0..100 {
        if descriptors() <= before {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{before} descriptors became {}", descriptors());
}

/// Runs [`role`] in a namespace that plays the host, as root or as an ordinary user.
fn play(test: &str, name: &str, user: bool) {
    let mut needs = vec![Need::Root, Need::Tool("busybox"), Need::Tool("unshare")];
    needs.extend([Need::Tool("ip"), Need::Tool("setpriv")]);
    if name != "user" {
        needs.push(Need::Tool("slirp4netns"));
    }
    if skipped(test, &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    support::busybox(folder);
    let binary = folder.join("binary");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    if user {
        std::os::unix::fs::chown(folder, Some(1000), Some(1000)).unwrap();
    }
    // The device for everyone, as most distributions have it, wherever this one does not.
    let script = format!(
        "set -e; ip link set lo up; ip addr add {HOST}/32 dev lo; mkdir -p /dev/net; \
         mkdir {0}/dev; mount -t tmpfs none {0}/dev; mknod {0}/dev/tun c 10 200; \
         chmod 666 {0}/dev/tun; [ -e /dev/net/tun ] || touch /dev/net/tun; \
         mount --bind {0}/dev/tun /dev/net/tun; \
         echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start; \
         echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range; \
         printf 'nameserver 127.0.0.1\\nnameserver {HOST}\\n' > {0}/dev/resolv; \
         mount --bind {0}/dev/resolv /etc/resolv.conf; exec \"$@\"",
        folder.display()
    );
    let mut wrapper = vec!["unshare", "--net", "--mount", "sh", "-c", &script, "sh"];
    if user {
        let setpriv = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
        wrapper.extend(setpriv);
    }
    let arguments = [folder.to_str().unwrap(), name];
    let mut command = wrapped(&wrapper, &binary, "wired", &arguments);
    let text = run(command.current_dir("/").env("HOME", folder));
    assert!(text.contains("@ done"), "{text}");
}

#[test]
fn the_built_in_network_as_root() {
    play(
        "sandbox_network::the_built_in_network_as_root",
        "user",
        false,
    );
}

#[test]
fn the_built_in_network_as_a_user() {
    play(
        "sandbox_network::the_built_in_network_as_a_user",
        "user",
        true,
    );
}

#[test]
fn slirp4netns_as_root() {
    play("sandbox_network::slirp4netns_as_root", "slirp4netns", false);
}

#[test]
fn slirp4netns_as_a_user() {
    play(
        "sandbox_network::slirp4netns_as_a_user",
        "slirp4netns",
        true,
    );
}

#[test]
fn a_provider_that_is_not_there_is_named_with_a_remedy() {
    if skipped(
        "sandbox_network::a_provider_that_is_not_there_is_named_with_a_remedy",
        &[Need::Root, Need::Tool("busybox")],
    ) {
        return;
    }
    support::runtime().block_on(async {
        let folder = temp();
        let base = support::busybox(folder.path());
        let absent = Arc::new(SlirpNetwork::with_program("/nowhere/slirp"));
        let solver = Solver::builder().root(folder.path().join("state"));
        let solver = solver.network(Network::Sandbox).network_provider(absent);
        let solver = solver.build().unwrap();
        let request = support::request(&step("true")).local("base", base);
        let error: SolveError = solver.solve(request).result().await.unwrap_err();
        let text = support::chain(&error);
        assert!(text.contains("cannot run /nowhere/slirp"), "{text}");
        assert_eq!(error.remedy().as_deref(), Some("install /nowhere/slirp"));
    });
}

/// A killed host leaves no helper and no device.
#[test]
fn a_killed_solver_leaves_no_helper() {
    let needs = [Need::Root, Need::Tool("busybox"), Need::Tool("slirp4netns")];
    if skipped("sandbox_network::a_killed_solver_leaves_no_helper", &needs) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    let marker = folder.path().join("slirp");
    // A copy has a name that no other process has.
    fs::copy(support::tool("slirp4netns").unwrap(), &marker).unwrap();
    let arguments = [folder.path().to_str().unwrap(), marker.to_str().unwrap()];
    let mut host = support::child("wired-killed", &arguments);
    let mut host = host.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut text = Vec::new();
    let mut out = host.stdout.take().unwrap();
    while !String::from_utf8_lossy(&text).contains("@ runs") {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    assert!(running(&marker) > 0);
    host.kill().unwrap();
    host.wait().unwrap();
    for _ in 0..100 {
        if running(&marker) == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} is still running", marker.display());
}

/// How many processes run that program.
fn running(program: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let runs = |entry: &fs::DirEntry| {
        fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == program)
    };
    processes.filter(runs).count()
}

/// Runs a step until it is killed. Arguments: a folder and the program of the provider.
pub fn killed(arguments: &[&str]) {
    let (folder, program) = (Path::new(arguments[0]), arguments[1]);
    support::runtime().block_on(async {
        let solver = Solver::builder().root(folder.join("state"));
        let provider = Arc::new(SlirpNetwork::with_program(program));
        let solver = solver.network(Network::Sandbox).network_provider(provider);
        let request = support::request(&step("echo begun; sleep 60"));
        let request = request.local("base", folder.join("base"));
        let (mut events, outcome) = solver.build().unwrap().solve(request).split();
        while let Some(event) = events.next().await {
            if matches!(event, Event::Log { .. }) {
                println!("\n@ runs");
            }
        }
        drop(outcome.await);
    });
}
