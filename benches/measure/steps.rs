//! Processes in a chain and side by side, as root and as an ordinary user.
//!
//! Each sample is a process of its own, so that user and resident memory can be chosen; what it
//! tells is the time of the solve alone. Between two samples the peers start as many processes in
//! the same root, in the same order: one after the other, or one on each processor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ashlar_llb::{State, copy, local, merge, scratch};
use ashlar_solver::executor::Network;
use ashlar_solver::solver::{Durability, SolveRequest, Solver};

use crate::child::FLAG;
use crate::sample::{Times, definition, has, runtime, shell, solve};
use crate::space::Space;
use crate::table::{Row, note};
use crate::{Outcome, Size, trees};

/// Resident memory of the host in some rows.
const BALLAST: usize = 2 << 30;

/// The ordinary user.
const USER: u32 = 1000;

/// Processes that a peer starts for one sample.
const PEER_STEPS: u32 = 30;

/// What one row measures.
#[derive(Debug, Clone, Copy)]
struct Case {
    side_by_side: bool,
    length: usize,
    user: bool,
    /// Steps have a network namespace of their own, as the peers then do.
    own_network: bool,
    resident: bool,
    durable: bool,
}

impl Case {
    fn name(&self) -> String {
        let mut name = format!("{} times `RUN true`", self.length);
        let parts = [
            (self.side_by_side, " side by side", " in a chain"),
            (self.user, ", as a user", ""),
            (self.own_network, ", own network namespace", ""),
            (self.resident, ", 2 GiB resident", ""),
            (self.durable, ", until durable", ""),
        ];
        for (is, then, otherwise) in parts {
            name += if is { then } else { otherwise };
        }
        name + ", a step"
    }

    /// What a step may take, in milliseconds.
    fn target(&self) -> f64 {
        let base = match (self.side_by_side, self.user) {
            (true, _) => 2.5,
            (false, true) => 5.0,
            (false, false) => 4.0,
        };
        base * if self.resident { 1.3 } else { 1.0 }
    }

    fn flags(&self) -> String {
        let flags = [
            (self.side_by_side, 's'),
            (self.own_network, 'n'),
            (self.resident, 'r'),
            (self.durable, 'd'),
        ];
        flags
            .iter()
            .filter(|flag| flag.0)
            .map(|flag| flag.1)
            .collect()
    }
}

pub(crate) fn measure(size: Size) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        note("steps are left out: they need root");
        return Ok(());
    }
    let space = Space::new(4)?;
    space.announce();
    let bench = Bench::new(space.path())?;
    let lengths = size.pick([30, 300], [10, 20]);
    let case = |side_by_side, length, user| Case {
        side_by_side,
        length,
        user,
        own_network: false,
        resident: false,
        durable: false,
    };
    for user in [false, true] {
        if user && !bench.runs_as_user() {
            note("steps of an ordinary user are left out: setpriv or the kernel refuses");
            continue;
        }
        for side_by_side in [false, true] {
            for length in lengths {
                let case = case(side_by_side, length, user);
                let resident = Case {
                    resident: true,
                    ..case
                };
                bench.rows(&[case, resident], size)?;
            }
        }
        let case = case(false, lengths[0], user);
        let durable = Case {
            durable: true,
            ..case
        };
        let own_network = Case {
            own_network: true,
            ..case
        };
        bench.rows(&[durable], size)?;
        bench.rows(&[own_network], size)?;
    }
    Ok(())
}

struct Bench {
    space: PathBuf,
    root: PathBuf,
    binary: PathBuf,
}

impl Bench {
    fn new(space: &Path) -> Outcome<Self> {
        let root = space.join("rootfs");
        trees::small_root(&root)?;
        // Where the ordinary user can read it.
        let binary = space.join("measure");
        fs::copy(std::env::current_exe()?, &binary)?;
        for (name, owner) in [("root", 0), ("user", USER)] {
            let folder = space.join(name);
            fs::create_dir(&folder)?;
            std::os::unix::fs::chown(&folder, Some(owner), Some(owner))?;
        }
        shell(&format!("chmod 755 {0} {0}/..", space.display()))?;
        Ok(Self {
            space: space.to_owned(),
            root,
            binary,
        })
    }

    fn folder(&self, user: bool) -> PathBuf {
        self.space.join(if user { "user" } else { "root" })
    }

    /// The words before a command that is to run as that user.
    fn prefix(user: bool) -> String {
        let ids = format!("--reuid={USER} --regid={USER} --clear-groups");
        let command = format!("setpriv {ids} --inh-caps=-all -- ");
        if user { command } else { String::new() }
    }

    fn runs_as_user(&self) -> bool {
        let case = Case {
            side_by_side: false,
            length: 1,
            user: true,
            own_network: false,
            resident: false,
            durable: false,
        };
        self.ours(&case, "try").is_ok()
    }

    /// Rows of cases that have the same peers, measured in turns.
    fn rows(&self, cases: &[Case], size: Size) -> Outcome {
        let first = &cases[0];
        let peers: Vec<_> = [self.runc(first)?, self.unshare(first)]
            .into_iter()
            .flatten()
            .collect();
        let mut ours = vec![Times::default(); cases.len()];
        let mut theirs = vec![Times::default(); peers.len()];
        for sample in 0..size.pick(7, 1) {
            for (case, times) in cases.iter().zip(&mut ours) {
                times.add(self.ours(case, &sample.to_string())?);
            }
            for ((_, command), times) in peers.iter().zip(&mut theirs) {
                times.add(peer(command)? / PEER_STEPS);
            }
        }
        for (case, times) in cases.iter().zip(&ours) {
            let (name, target) = (case.name(), format!("{:.1} ms", case.target()));
            let mut row = Row::times(&name, times).target(&target);
            for ((name, _), theirs) in peers.iter().zip(&theirs) {
                row = row.peer(name, times, theirs);
            }
            row.print();
        }
        Ok(())
    }

    /// The time of a step in a new process.
    fn ours(&self, case: &Case, name: &str) -> Outcome<Duration> {
        let state = self.folder(case.user).join("state");
        let command = format!(
            "exec {}{} {FLAG} steps {} {} {}- {} {name}",
            Self::prefix(case.user),
            self.binary.display(),
            state.display(),
            self.root.display(),
            case.flags(),
            case.length,
        );
        let output = Command::new("sh").args(["-c", &command]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let nanoseconds: u64 = text
            .trim()
            .parse()
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
        Ok(Duration::from_nanos(nanoseconds) / u32::try_from(case.length)?)
    }

    /// Starts a command, in which `{}` is a number, as often as a peer does.
    fn repeated(case: &Case, command: &str) -> String {
        let jobs = if case.side_by_side { "$(nproc)" } else { "1" };
        let prefix = Self::prefix(case.user);
        format!("seq {PEER_STEPS} | {prefix}xargs -P {jobs} -I '{{}}' {command}")
    }

    /// The same with runc, if it works here.
    fn runc(&self, case: &Case) -> Outcome<Option<(&'static str, String)>> {
        if !has("runc") {
            note("runc is not installed");
            return Ok(None);
        }
        let folder = self.folder(case.user);
        let bundle = folder.join("bundle");
        let prefix = Self::prefix(case.user);
        let rootless = if case.user { " --rootless" } else { "" };
        shell(&format!(
            "{prefix}sh -c 'mkdir -p {0} && cd {0} && rm -f config.json && runc spec{rootless}'",
            bundle.display()
        ))?;
        let path = bundle.join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = serde_json::json!(["/bin/true"]);
        config["root"]["path"] = self.root.to_str().ok_or("a path in UTF-8")?.into();
        if let Some(namespaces) = config["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|it| it["type"] != "network");
            if case.own_network {
                namespaces.push(serde_json::json!({ "type": "network" }));
            }
        }
        fs::write(&path, serde_json::to_vec(&config)?)?;
        let command = format!(
            "runc --root {} run --bundle {} step-{{}}",
            folder.join("runc").display(),
            bundle.display(),
        );
        let command = Self::repeated(case, &command);
        match peer(&format!("{{ {command}; }} 2>/dev/null")) {
            Ok(_) => Ok(Some(("runc run", command))),
            Err(_) => {
                note("runc does not work here");
                Ok(None)
            }
        }
    }

    /// The same with unshare, which mounts nothing, if it works here.
    fn unshare(&self, case: &Case) -> Option<(&'static str, String)> {
        let user = if case.user { " --map-root-user" } else { "" };
        let network = if case.own_network { " --net" } else { "" };
        let command = format!(
            "unshare{user} --mount --pid --fork --ipc --uts --cgroup{network} --root={} /bin/true",
            self.root.display()
        );
        let command = Self::repeated(case, &command);
        let works = peer(&format!("{{ {command}; }} 2>/dev/null")).is_ok();
        if !works {
            note("unshare does not work here");
        }
        works.then_some(("unshare", command))
    }
}

/// Takes the time of a peer, up to three times: runc of an ordinary user copies itself into memory,
/// and fails now and then because the kernel still holds a page of the copy that it seals.
fn peer(command: &str) -> Outcome<Duration> {
    shell(command)
        .or_else(|_| shell(command))
        .or_else(|_| shell(command))
}

/// `true`, `length` times on a small base; `name` tells runs apart.
fn graph(name: &str, length: usize, side_by_side: bool) -> State {
    let base = scratch()
        .file(copy(local("files"), "/", "/"))
        .env("NAME", name);
    let step =
        |state: &State, at: usize| state.env("STEP", at.to_string()).run(["/bin/true"]).root();
    if side_by_side {
        return merge((0..length).map(|at| step(&base, at))).into();
    }
    (0..length).fold(base, |state, at| step(&state, at))
}

/// What a process of this program does for [`Bench::ours`]: prints the nanoseconds of a solve.
pub(crate) fn child(arguments: &[String]) -> Outcome {
    let [state, files, flags, length, name] = arguments else {
        return Err("expected a state root, files, flags, a length and a name".into());
    };
    let runtime = runtime()?;
    let network = match flags.contains('n') {
        true => Network::None,
        false => Network::Host,
    };
    let solver = Solver::builder()
        .root(state)
        .runtime(runtime.handle().clone())
        .network(network)
        .build()?;
    let request = |name: &str, length, side_by_side| -> Outcome<SolveRequest> {
        let definition = definition(&graph(name, length, side_by_side))?;
        Ok(SolveRequest::new(definition).local("files", files))
    };
    let moment = std::process::id();
    solve(
        &runtime,
        &solver,
        request(&format!("warm{moment}"), 3, false)?,
    )?;
    let ballast = flags.contains('r').then(|| vec![1_u8; BALLAST]);
    let length = length.parse()?;
    let request = request(
        &format!("{name}-{flags}-{moment}"),
        length,
        flags.contains('s'),
    )?;
    let request = request.durability(match flags.contains('d') {
        true => Durability::Synced,
        false => Durability::Background,
    });
    let (time, solved) = solve(&runtime, &solver, request)?;
    if solved.ran() < length {
        return Err(format!("only {} of {length} steps ran", solved.ran()).into());
    }
    drop(std::hint::black_box(ballast));
    println!("{}", time.as_nanos());
    Ok(())
}
