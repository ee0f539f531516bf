//! What a step sees, and what it may do, beside steps of BuildKit and containers of runc.
//!
//! A program in C, `tests/support/sight.c`, tells what it finds: `/proc`, `/sys`, `/dev`, mounts,
//! capabilities, limits, the answers to every system call. It runs here as a step of the built-in
//! sandbox, of runc and crun, and of an ordinary user; in dockerd's BuildKit; and in a container of
//! runc with the specification that `runc spec` writes. Each difference from the built-in sandbox
//! has to be in `tests/support/sight.txt`, under its reason, and what is there has to be found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ashlar_llb::{self as llb, copy};
use ashlar_solver::executor::{ExecutorChoice, Network, Runtime};
use ashlar_solver::solver::Solver;

use super::support::{self, Need, run, skipped, temp, tool, wrapped};

/// The groups that the daemon makes are below one of this name.
const GROUP: &str = "ashlar-sight";

/// What the program told: values by key. Of mounts in one place, all of them.
type Report = BTreeMap<String, String>;

fn report(path: &Path) -> Report {
    let mut report = Report::new();
    let text = fs::read_to_string(path).unwrap();
    for line in text.lines() {
        let (key, value) = line.split_once('\t').unwrap();
        let mut value = value.trim().to_owned();
        if let Some(name) = key.strip_prefix("namespace ") {
            let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
            let is_host = host.to_str() == Some(&value);
            value = if is_host { "host's" } else { "own" }.to_owned();
        }
        match report.get_mut(key) {
            Some(all) => *all += &format!(" & {value}"),
            None => drop(report.insert(key.to_owned(), value)),
        }
    }
    assert!(report.len() > 1000, "{text}");
    report
}

/// Compiles the program into a root of its own.
fn make_root(folder: &Path) -> PathBuf {
    let root = folder.join("base");
    fs::create_dir_all(&root).unwrap();
    let calls = "echo '#include <sys/syscall.h>' | cc -E -dM - |
        sed -n 's/^#define __NR_\\([a-z0-9_]*\\) .*/CALL(\\1)/p' > calls.h";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/sight.c");
    let compile = format!("cc -static -O1 -I . -o base/sight {}", source.display());
    let script = format!("set -e\n{calls}\n{compile}");
    run(Command::new("sh").args(["-c", &script]).current_dir(folder));
    root
}

/// The words before a command that make what it inherits the same for everybody.
const PLAIN: [&str; 8] = [
    "env",
    "-i",
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "prlimit",
    "--nofile=1024:4096",
    "sh",
    "-c",
    "umask 022 && exec \"$@\"",
];

fn plain(variables: &[&str], words: &[&str]) -> Command {
    let (before, after) = PLAIN.split_at(3);
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).args(variables).args(after);
    command.arg("sh").args(words).stdin(Stdio::null());
    command
}

/// Runs the program in a step. Arguments: a folder and what is to run it.
pub fn role(arguments: &[&str]) {
    let [folder, name] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    let choice = match name {
        "runc" => Runtime::runc(tool("runc").unwrap()).into(),
        "crun" => Runtime::crun(tool("crun").unwrap()).into(),
        _ => ExecutorChoice::Sandbox,
    };
    support::runtime().block_on(async {
        let solver = Solver::builder()
            .root(folder.join(name).join("state"))
            .network(Network::None)
            .executor(choice);
        let solver = solver.build().unwrap();
        let base = llb::scratch().file(copy(llb::local("base"), "/", "/").contents_only());
        let step = base.run(["/sight", "/report"]).root();
        let request = support::request(&step).local("base", folder.join("base"));
        let solved = support::solve(&solver, request).await;
        let path = ashlar_solver::tree::TreePath::new("report").unwrap();
        let view = solved.result.reference().view().unwrap();
        let files = view.lookup(&path).unwrap().files().unwrap().clone();
        let mut file = files.open(&path).unwrap();
        let mut out = fs::File::create(folder.join(name).join("report")).unwrap();
        std::io::copy(&mut file, &mut out).unwrap();
    });
}

/// A step of this engine.
fn ours(folder: &Path, name: &str) -> Report {
    let place = folder.join(name);
    fs::create_dir(&place).unwrap();
    let binary = folder.join("binary");
    let mut words: Vec<_> = Vec::new();
    if name == "user" {
        std::os::unix::fs::chown(&place, Some(1000), Some(1000)).unwrap();
        words.extend(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]);
    }
    let arguments = [folder.to_str().unwrap(), name];
    let variables = [
        format!("{}=sight", support::ROLE),
        format!("{}={}", support::ARGUMENTS, arguments.join("\n")),
    ];
    let variables = variables.each_ref().map(String::as_str);
    let inner = wrapped(&words, &binary, "sight", &arguments);
    let mut all = vec![inner.get_program().to_str().unwrap().to_owned()];
    all.extend(
        inner
            .get_args()
            .map(|word| word.to_str().unwrap().to_owned()),
    );
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    run(plain(&variables, &all).current_dir("/"));
    report(&place.join("report"))
}

/// A container with the specification that runc writes.
fn runc(folder: &Path) -> Report {
    let bundle = folder.join("bundle");
    fs::create_dir(&bundle).unwrap();
    run(Command::new("runc").arg("spec").current_dir(&bundle));
    let config = bundle.join("config.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    value["process"]["terminal"] = false.into();
    value["process"]["args"] = serde_json::json!(["/sight"]);
    value["root"]["path"] = folder.join("base").to_str().into();
    fs::write(&config, value.to_string()).unwrap();
    let (state, bundle) = (folder.join("runc-state"), bundle.to_str().unwrap());
    let words = [
        "runc",
        "--root",
        state.to_str().unwrap(),
        "run",
        "--bundle",
        bundle,
        GROUP,
    ];
    let told = folder.join("runc-report");
    fs::write(&told, run(&mut plain(&[], &words))).unwrap();
    report(&told)
}

/// dockerd in namespaces of its own, with which all of it ends.
struct Daemon {
    process: Child,
    address: String,
    log: PathBuf,
}

impl Daemon {
    fn start(folder: &Path) -> Self {
        let place = folder.join("docker");
        fs::create_dir(&place).unwrap();
        fs::write(place.join("config.json"), "{}").unwrap();
        let at = |name: &str| place.join(name).to_str().unwrap().to_owned();
        let address = format!("unix://{}", at("socket"));
        let options = [
            format!("--config-file={}", at("config.json")),
            format!("--data-root={}", at("data")),
            format!("--exec-root={}", at("exec")),
            format!("--pidfile={}", at("pid")),
            format!("--host={address}"),
            format!("--cgroup-parent={GROUP}"),
        ];
        let alone = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ];
        let mut words = alone.to_vec();
        words.extend(["dockerd", "--bridge=none", "--iptables=false"]);
        words.extend(options.iter().map(String::as_str));
        let log = place.join("log");
        let file = fs::File::create(&log).unwrap();
        let mut command = plain(&[], &words);
        let command = command.stdout(file.try_clone().unwrap()).stderr(file);
        let process = command.spawn().unwrap();
        let this = Self {
            process,
            address,
            log,
        };
        let began = Instant::now();
        while !this.answers() {
            let log = || fs::read_to_string(&this.log).unwrap();
            assert!(began.elapsed() < Duration::from_secs(60), "{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }

    /// The client that comes with the daemon: others lack what a build needs.
    fn client(&self) -> Command {
        let usual = Path::new("/usr/bin/docker");
        let mut client = match usual.exists() {
            true => Command::new(usual),
            false => Command::new("docker"),
        };
        client.args(["--host", &self.address]);
        client
    }

    fn answers(&self) -> bool {
        let asked = self.client().arg("version").output();
        asked.unwrap().status.success()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        // Deepest first, as soon as nothing dies in them any more.
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do \
             find /sys/fs/cgroup -depth -type d -path '*/{GROUP}*' -exec rmdir {{}} + 2>/dev/null; \
             find /sys/fs/cgroup -name '{GROUP}*' | grep -q . || break; sleep 0.1; done"
        );
        drop(Command::new("sh").args(["-c", &script]).status());
    }
}

/// A step of the BuildKit in dockerd.
fn buildkit(folder: &Path) -> Report {
    let (context, out) = (folder.join("context"), folder.join("out"));
    fs::create_dir(&context).unwrap();
    fs::copy(folder.join("base/sight"), context.join("sight")).unwrap();
    let steps = "FROM scratch AS step\nCOPY sight /sight\nRUN [\"/sight\", \"/report\"]\n\
                 FROM scratch\nCOPY --from=step /report /report\n";
    fs::write(context.join("Dockerfile"), steps).unwrap();
    let daemon = Daemon::start(folder);
    let output = format!("type=local,dest={}", out.display());
    let mut build = daemon.client();
    build.args([
        "build",
        "--network=none",
        "--progress=plain",
        "--output",
        &output,
    ]);
    run(build
        .arg(&context)
        .env("DOCKER_BUILDKIT", "1")
        .env("HOME", folder));
    report(&out.join("report"))
}

/// Whether `text` is what `pattern` says, in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(before) else {
        return false;
    };
    let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    ends.any(|at| fits(after, &rest[at..]))
}

/// A difference that has a reason, or a family of them.
#[derive(Debug)]
struct Known<'a> {
    /// As it is written.
    line: &'a str,
    /// Not every machine has it.
    optional: bool,
    /// With whom, of what, here, there.
    parts: [&'a str; 4],
}

/// Reads the file: lines of four parts, in paragraphs that begin with a reason.
fn known(text: &str) -> Vec<Known<'_>> {
    let mut all = Vec::new();
    let mut reason = false;
    for line in text.lines() {
        if line.is_empty() {
            reason = false;
        } else if line.starts_with("# ") {
            reason = true;
        } else {
            assert!(reason, "no reason is given for {line}");
            let parts: Vec<_> = line
                .trim_start_matches('?')
                .split(" | ")
                .map(str::trim)
                .collect();
            let parts: [&str; 4] = parts.try_into().unwrap_or_else(|_| panic!("{line}"));
            all.push(Known {
                line,
                optional: line.starts_with('?'),
                parts,
            });
        }
    }
    all
}

/// The differences, as the file writes them.
fn differences(name: &str, here: &Report, there: &Report) -> Vec<[String; 4]> {
    let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
    let value = |report: &Report, key: &str| {
        let value = report.get(key).map_or("-", String::as_str);
        value.replace(" | ", " ; ")
    };
    let rows = keys.into_iter().map(|key| {
        let (here, there) = (value(here, key), value(there, key));
        [name.to_owned(), key.clone(), here, there]
    });
    rows.filter(|row| row[2] != row[3]).collect()
}

#[test]
fn what_a_step_sees_differs_from_others_for_a_reason_only() {
    let test = "sight::what_a_step_sees_differs_from_others_for_a_reason_only";
    let tools = [
        "cc", "dockerd", "runc", "crun", "prlimit", "setpriv", "unshare",
    ];
    let needs: Vec<_> = [Need::Root]
        .into_iter()
        .chain(tools.map(Need::Tool))
        .collect();
    if skipped(test, &needs) {
        return;
    }
    let folder = temp();
    let folder = folder.path();
    make_root(folder);
    fs::copy(std::env::current_exe().unwrap(), folder.join("binary")).unwrap();
    // The daemon first: it loads modules, which bring files of their own.
    let buildkit = buildkit(folder);
    let here = ours(folder, "sandbox");
    let others = [
        ("buildkit", buildkit),
        ("runc-spec", runc(folder)),
        ("runc", ours(folder, "runc")),
        ("crun", ours(folder, "crun")),
        ("user", ours(folder, "user")),
    ];
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/sight.txt");
    let text = fs::read_to_string(file).unwrap();
    let known = known(&text);
    let mut used = vec![false; known.len()];
    let mut problems = String::new();
    for (name, there) in &others {
        for row in differences(name, &here, there) {
            let fitting = known.iter().zip(&mut used).filter(|(known, _)| {
                let mut pairs = known.parts.iter().zip(&row);
                pairs.all(|(pattern, text)| fits(pattern, text))
            });
            let mut found = false;
            for (_, used) in fitting {
                (found, *used) = (true, true);
            }
            if !found {
                writeln!(problems, "{}", row.join(" | ")).unwrap();
            }
        }
    }
    for (known, used) in known.iter().zip(used) {
        if !used && !known.optional {
            writeln!(problems, "not found: {}", known.line).unwrap();
        }
    }
    assert!(
        problems.is_empty(),
        "differences without a reason:\n{problems}"
    );
}

#[test]
fn patterns_of_differences() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("*", "", true),
        ("a*b*c", "axbybzc", true),
        ("a*b", "a", false),
        ("b", "ab", false),
    ] {
        assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
    }
    let all = known("# why\n? user | file /a | - | x ; y\n");
    assert!(all[0].optional);
    assert_eq!(all[0].parts, ["user", "file /a", "-", "x ; y"]);
    assert!(std::panic::catch_unwind(|| known("user | a | b | c\n").len()).is_err());
}
