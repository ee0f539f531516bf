//! Ssh agents that a caller lends to steps, with the agent, the clients and the server of OpenSSH.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ashlar_llb::{Network, Run, Ssh};
use ashlar_solver::error::Fault;
use ashlar_solver::ops::Entitlements;
use ashlar_solver::ops::exec::ExecError;
use ashlar_solver::session::AgentSocket;
use ashlar_solver::solver::{SolveError, Solver};

use super::support::{self, Need, lent, output, run, skipped, temp, tool};

const NEEDS: &[Need] = &[
    Need::Root,
    Need::Tool("busybox"),
    Need::Tool("setpriv"),
    Need::Tool("ssh-agent"),
    Need::Tool("ssh"),
    Need::Tool("sshd"),
];

/// A program that is ended with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(10), "no {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An agent with one new key.
struct Agent {
    socket: PathBuf,
    key: PathBuf,
    _process: Background,
}

impl Agent {
    fn new(folder: &Path, name: &str) -> Self {
        let (socket, key) = (folder.join(format!("{name}.sock")), folder.join(name));
        let agent = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn();
        let process = Background(agent.unwrap());
        wait_for("ssh-agent", || socket.exists());
        let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"];
        run(Command::new("ssh-keygen").args(arguments).arg(&key));
        let agent = Self {
            socket,
            key,
            _process: process,
        };
        run(agent.add().arg("-q").arg(&agent.key));
        agent
    }

    /// `ssh-add`, on the host.
    fn add(&self) -> Command {
        let mut command = Command::new("ssh-add");
        command.env("SSH_AUTH_SOCK", &self.socket);
        command
    }

    fn list(&self) -> String {
        run(self.add().arg("-l"))
    }
}

/// The tree of [`support::busybox`] with the clients of OpenSSH and what they are linked to.
fn base(folder: &Path) {
    let base = support::busybox(folder);
    let mut files = Vec::new();
    for name in ["ssh", "ssh-add"] {
        let program = tool(name).unwrap();
        let linked = run(Command::new("ldd").arg(&program));
        let paths = linked
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        files.extend(paths.map(PathBuf::from));
        files.push(program);
    }
    for file in files {
        let to = base.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, &to).unwrap();
    }
    fs::create_dir(base.join("etc")).unwrap();
    fs::write(base.join("etc/passwd"), "root:x:0:0::/tmp:/bin/sh\n").unwrap();
}

fn step(script: &str) -> Run {
    support::busybox_state().run(["sh", "-c", script])
}

/// Sockets below a directory.
fn sockets(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_socket() {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Two agents under their ids, sockets with owner and mode, and what a step may not do.
async fn lend_to_a_step(folder: &Path, solver: &Solver) {
    let (first, second) = (Agent::new(folder, "first"), Agent::new(folder, "second"));
    let script = "
        busybox stat -c '%a %F' $SSH_AUTH_SOCK /other /run/buildkit/ssh_agent.0
        ssh-add -l; SSH_AUTH_SOCK=/other ssh-add -l
        ssh-add -D 2>/dev/null || echo not removed
        ssh-add -x </dev/null 2>/dev/null || echo not locked
        ssh-add /key 2>/dev/null || echo not added
        busybox ls /none 2>/dev/null || echo none";
    let state = step(script)
        .env("SSH_ASKPASS_REQUIRE", "never")
        .ssh(Ssh::new())
        .ssh(
            Ssh::new()
                .id("other")
                .target("/other")
                .owner_and_mode(0, 0, 0o640),
        )
        .ssh(Ssh::new().id("none").target("/none").optional())
        .secret(ashlar_llb::Secret::file("/key").id("key"));
    let request = lent(folder, &state.root())
        .ssh("default", AgentSocket::new(&first.socket))
        .ssh("other", AgentSocket::new(&second.socket))
        .secret(ashlar_solver::session::FileSecret::new("key", &second.key));
    let told = output(solver, request).await;
    let (one, two) = (first.list(), second.list());
    assert!(
        one.contains("first") && two.contains("second"),
        "{one}{two}"
    );
    let expected = format!(
        "600 socket\n640 socket\n600 socket\n{one}{two}not removed\nnot locked\nnot added\nnone\n"
    );
    assert_eq!(told, expected);
    assert_eq!((first.list(), second.list()), (one, two));
    let left = sockets(&folder.join("state"));
    assert!(left.is_empty(), "{left:?}");
}

async fn refuse(folder: &Path, solver: &Solver) {
    let state = step("true").ssh(Ssh::new().id("work")).root();
    let failure = |request| async {
        match solver.solve(request).result().await {
            Err(SolveError::Vertex { failure, .. }) => failure,
            other => panic!("{other:?}"),
        }
    };
    let missing = failure(lent(folder, &state)).await;
    assert_eq!(
        missing.to_string(),
        "no SSH key \"work\" forwarded from the client"
    );
    assert_eq!(missing.fault(), Fault::Input);
    let gone = AgentSocket::new(folder.join("gone"));
    let gone = failure(lent(folder, &state).ssh("work", gone)).await;
    let error = gone.downcast_ref::<ExecError>().unwrap();
    assert!(matches!(error, ExecError::AgentUnreachable { id, .. } if id == "work"));
    assert_eq!(gone.fault(), Fault::Environment);
    assert!(gone.remedy().is_some());
}

/// A socket that is lent raw takes anything.
async fn raw(folder: &Path, solver: &Solver) {
    let agent = Agent::new(folder, "raw");
    assert!(agent.list().contains("raw"));
    let state = step("SSH_AUTH_SOCK=/raw ssh-add -q -D && echo removed");
    let state = state.ssh(Ssh::new().id("raw").target("/raw")).root();
    let request = lent(folder, &state).ssh("raw", AgentSocket::new(&agent.socket).raw());
    assert_eq!(output(solver, request).await, "removed\n");
    let left = agent.add().arg("-l").output().unwrap();
    assert!(!left.status.success());
}

pub fn role(arguments: &[&str]) {
    let [folder] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    support::runtime().block_on(async {
        let solver = support::solver(folder.join("state"));
        let state = step("true").root();
        let first = solver.solve(lent(folder, &state)).result().await;
        if let Err(SolveError::Vertex { failure, .. }) = first {
            assert_eq!(failure.fault(), Fault::Environment, "{}", failure.chain());
            println!("SKIPPED: agents::as_a_user: {}", failure.chain());
            return;
        }
        lend_to_a_step(folder, &solver).await;
        refuse(folder, &solver).await;
        println!("\n@ lent as a user");
    });
}

#[test]
fn steps_are_lent_agents() {
    if skipped("agents::steps_are_lent_agents", NEEDS) {
        return;
    }
    let folder = temp();
    base(folder.path());
    support::runtime().block_on(async {
        let solver = support::solver(folder.path().join("state"));
        lend_to_a_step(folder.path(), &solver).await;
        refuse(folder.path(), &solver).await;
        raw(folder.path(), &solver).await;
        // As root the owner is the one asked for.
        let agent = Agent::new(folder.path(), "owned");
        let socket = Ssh::new().target("/s").owner_and_mode(7, 8, 0o606);
        let state = step("busybox stat -c '%a %u:%g' /s").ssh(socket).root();
        let request = lent(folder.path(), &state);
        let request = request.ssh("default", AgentSocket::new(&agent.socket));
        assert_eq!(output(&solver, request).await, "606 7:8\n");
    });
    assert_eq!(support::leftovers(&folder.path().join("state")), [""; 0]);

    let home = folder.path().join("user");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::symlink("../base", home.join("base")).unwrap();
    let told = run(&mut support::as_user(
        folder.path(),
        &home,
        "agents",
        &[home.to_str().unwrap()],
    ));
    assert!(
        told.contains("@ lent as a user") || told.contains("SKIPPED: "),
        "{told}"
    );
    print!("{told}");
}

/// A step logs in to a server with a key that it never sees.
#[test]
fn a_step_logs_in_with_the_key_of_an_agent() {
    if skipped("agents::a_step_logs_in_with_the_key_of_an_agent", NEEDS) {
        return;
    }
    let folder = temp();
    base(folder.path());
    let agent = Agent::new(folder.path(), "key");
    let host_key = folder.path().join("host");
    let arguments = ["-q", "-t", "ed25519", "-N", "", "-f"];
    run(Command::new("ssh-keygen").args(arguments).arg(&host_key));
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = folder.path().join("sshd_config");
    let lines = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}.pub\n\
         StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
         ForceCommand echo logged in as $USER\nPidFile none\n",
        host_key.display(),
        agent.key.display()
    );
    fs::write(&config, lines).unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    let log = folder.path().join("sshd.log");
    let server = Command::new(tool("sshd").unwrap())
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stderr(fs::File::create(&log).unwrap())
        .spawn();
    let _server = Background(server.unwrap());
    wait_for("sshd", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    support::runtime().block_on(async {
        let entitlements = {
            let mut allowed = Entitlements::default();
            allowed.network_host = true;
            allowed
        };
        let solver = Solver::builder()
            .root(folder.path().join("state"))
            .entitlements(entitlements)
            .build()
            .unwrap();
        let script = format!(
            "ssh -F /dev/null -p {port} -o StrictHostKeyChecking=no -o BatchMode=yes \
             -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@127.0.0.1"
        );
        let state = step(&script).network(Network::Host).ssh(Ssh::new());
        let request = lent(folder.path(), &state.root());
        let request = request.ssh("default", AgentSocket::new(&agent.socket));
        let told = output(&solver, request).await;
        let log = fs::read_to_string(&log).unwrap();
        assert_eq!(told, "logged in as root\n", "{log}");
    });
}
