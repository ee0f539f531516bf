//! Nothing that the engine writes or tells holds a secret.
//!
//! Builds use secrets in every way there is, succeed, fail and are cancelled; then every byte below
//! the state root, of exports, events, logs, errors, debug output and command lines is searched for
//! the secrets, raw, in base64 and in hex.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ashlar_exporters::{Compression, Exporter as _, Local, Oci};
use ashlar_llb::{Run, Secret, State};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::executor::{Executor, ExecutorError, Exit, Process, SandboxExecutor, Streams};
use ashlar_solver::progress::Event;
use ashlar_solver::session::{CommandSecret, EnvSecret, FileSecret, MemorySecret};
use ashlar_solver::solver::{SolveRequest, Solver};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use futures::StreamExt as _;

use super::support::{self, Need, run, skipped, temp};

/// What is looked for: a name and bytes.
struct Canaries(Vec<(String, Vec<u8>)>);

impl Canaries {
    fn new(secrets: &[(&str, &str)]) -> Self {
        let mut all = Vec::new();
        for (name, secret) in secrets {
            let mut add = |form: &str, bytes: &[u8]| {
                all.push((format!("{name} {form}"), bytes.to_vec()));
            };
            let hex = secret.bytes().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            });
            let numbers: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
            add("raw", secret.as_bytes());
            add("hex", hex.as_bytes());
            add("HEX", hex.to_uppercase().as_bytes());
            add("as numbers", numbers.join(", ").as_bytes());
            // Base64 looks different at each of three positions; the edges mix with neighbours.
            for skipped in 0..3 {
                for (form, engine) in [("base64", STANDARD_NO_PAD), ("base64url", URL_SAFE_NO_PAD)]
                {
                    let rest = &secret.as_bytes()[skipped..];
                    let whole = rest.len() / 3 * 3;
                    add(form, engine.encode(&rest[..whole]).as_bytes());
                }
            }
        }
        Self(all)
    }

    fn found(&self, bytes: &[u8]) -> Vec<&str> {
        let has = |needle: &[u8]| memchr::memmem::find(bytes, needle).is_some();
        let found = self.0.iter().filter(|(_, needle)| has(needle));
        found.map(|(name, _)| name.as_str()).collect()
    }

    fn check(&self, place: &str, bytes: &[u8]) {
        let found = self.found(bytes);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }

    /// Searches every name and byte below a directory and returns how many bytes there were.
    fn check_files(&self, root: &Path) -> usize {
        let mut bytes = 0;
        let mut todo = vec![root.to_path_buf()];
        while let Some(folder) = todo.pop() {
            // A build may be at work here.
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.map_while(Result::ok) {
                let path = entry.path();
                let name = path.display().to_string();
                self.check("a name", name.as_bytes());
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_symlink() {
                    let target = fs::read_link(&path).unwrap_or_default();
                    self.check(&name, target.display().to_string().as_bytes());
                } else if kind.is_file() && !name.ends_with("busybox") {
                    let content = fs::read(&path).unwrap_or_default();
                    bytes += content.len();
                    self.check(&name, &content);
                }
            }
        }
        bytes
    }
}

#[test]
fn canaries_are_found() {
    let canaries = Canaries::new(&[("it", "canary-0123456789")]);
    let text = "canary-0123456789";
    for prefix in ["", "a", "ab"] {
        let inside = format!("{prefix}{text}z");
        let encoded = STANDARD_NO_PAD.encode(&inside);
        assert!(!canaries.found(encoded.as_bytes()).is_empty(), "{prefix}");
        assert_eq!(canaries.found(inside.as_bytes()), ["it raw"]);
    }
    let debug = format!("{:?}", text.as_bytes());
    assert_eq!(canaries.found(debug.as_bytes()), ["it as numbers"]);
    let folder = temp();
    fs::create_dir(folder.path().join("a")).unwrap();
    fs::write(
        folder.path().join("a/b"),
        "x63616E6172792D30313233343536373839x",
    )
    .unwrap();
    let files = std::panic::catch_unwind(|| canaries.check_files(folder.path()));
    assert!(files.is_err());
}

/// Notes what it is given to run.
#[derive(Debug)]
struct Noting(SandboxExecutor, Arc<Mutex<String>>);

#[async_trait::async_trait]
impl Executor for Noting {
    async fn run(
        &self,
        process: Process,
        streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError> {
        writeln!(self.1.lock().unwrap(), "{process:?} {process:#?}").unwrap();
        self.0.run(process, streams, cancel).await
    }
}

/// Keeps everything that is logged.
struct Subscriber(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0, "{field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut Fields(&mut self.0.lock().unwrap()));
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// A step with every secret, as files and as variables.
fn step(script: &str) -> Run {
    let mut run = support::busybox_state().run(["sh", "-c", script]);
    for id in ["memory", "file", "variable", "command"] {
        run = run
            .secret(Secret::file(format!("/run/secrets/{id}")).id(id))
            .secret(Secret::env(id, format!("S_{id}")));
    }
    run
}

struct Build<'a> {
    folder: &'a Path,
    canaries: Canaries,
    solver: Solver,
    values: [String; 4],
}

impl Build<'_> {
    fn request(&self, state: &State) -> SolveRequest {
        let [memory, _, _, _] = &self.values;
        let command = self.folder.join("command");
        support::request(state)
            .local("base", self.folder.join("base"))
            .secret(MemorySecret::new("memory", memory.clone()))
            .secret(FileSecret::new("file", self.folder.join("file")))
            .secret(EnvSecret::new("variable", VARIABLE))
            .secret(CommandSecret::new("command", "cat", [command]))
    }

    /// What can be seen from outside, at any moment.
    fn check(&self) {
        self.canaries.check_files(&self.folder.join("state"));
        for process in fs::read_dir("/proc").unwrap().map_while(Result::ok) {
            let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
            self.canaries.check("a command line", &arguments);
        }
        let mounts = fs::read("/proc/self/mountinfo").unwrap();
        self.canaries.check("the mounts of the host", &mounts);
    }

    /// Solves; the events are searched but for output, which is returned with the error.
    async fn solve(&self, state: &State, stop: bool) -> (String, Option<String>) {
        let request = self.request(state);
        self.canaries
            .check("a request", format!("{request:?} {request:#?}").as_bytes());
        let handle = self.solver.solve(request);
        self.canaries
            .check("a handle", format!("{handle:?}").as_bytes());
        let (mut events, outcome) = handle.split();
        let mut output = Vec::new();
        while let Some(event) = events.next().await {
            if let Event::Log { data, .. } = &event {
                output.extend_from_slice(data);
                // The step runs and has what it was lent.
                self.check();
                if stop {
                    outcome.cancel();
                }
            } else {
                self.canaries
                    .check("an event", format!("{event:?}").as_bytes());
            }
        }
        let outcome = outcome.await;
        self.check();
        let text = format!("{outcome:?} {outcome:#?} {:?}", self.solver);
        self.canaries.check("an outcome", text.as_bytes());
        let error = outcome.as_ref().err().map(|error| {
            let text = support::chain(error);
            self.canaries.check("an error", text.as_bytes());
            text
        });
        if let Ok(solved) = &outcome {
            self.export(&solved.result).await;
        }
        (String::from_utf8_lossy(&output).into_owned(), error)
    }

    async fn export(&self, result: &ashlar_solver::result::BuildResult) {
        let out = temp();
        let image = Oci::directory(out.path().join("image"));
        let image = image.compression(Compression::Uncompressed).name("a:b");
        let exported = image.export(result, &Cancel::new()).await.unwrap();
        self.canaries
            .check("an export", format!("{exported:?}").as_bytes());
        let files = Local::new(out.path().join("files"));
        files.export(result, &Cancel::new()).await.unwrap();
        // There was something to search.
        assert!(self.canaries.check_files(out.path()) > 1000);
    }
}

const VARIABLE: &str = "ASHLAR_E2E_CANARY";

/// Runs with the variable that holds a secret.
pub fn role(arguments: &[&str]) {
    let [folder] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(folder);
    let value = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let values = [
        value("memory"),
        value("file"),
        value("variable"),
        value("command"),
    ];
    let names = ["memory", "file", "variable", "command"];
    let named: Vec<(&str, &str)> = names
        .iter()
        .copied()
        .zip(values.iter().map(String::as_str))
        .collect();
    let logs = Arc::new(Mutex::new(String::new()));
    tracing::subscriber::set_global_default(Subscriber(logs.clone())).unwrap();
    let runs = Arc::new(Mutex::new(String::new()));
    support::runtime().block_on(async {
        let executor = Noting(SandboxExecutor::new(true).unwrap(), runs.clone());
        let build = Build {
            folder,
            canaries: Canaries::new(&named),
            solver: Solver::builder()
                .root(folder.join("state"))
                .executor(Arc::new(executor))
                .build()
                .unwrap(),
            values: values.clone(),
        };
        // It has the secrets: the sums are those of the values.
        let use_all = "for i in memory file variable command; do
            busybox sha256sum < /run/secrets/$i; eval \"echo -n \\\"\\$S_$i\\\"\" | busybox sha256sum
            done > /sums; echo used; sleep 0.2";
        let state = step(use_all).root();
        let (output, error) = build.solve(&state, false).await;
        assert_eq!((&*output, error), ("used\n", None));
        let solved = support::solve(&build.solver, build.request(&state)).await;
        let sums: String = values
            .iter()
            .flat_map(|value| [value, value])
            .map(|value| format!("{}  -\n", sha256(value.as_bytes())))
            .collect();
        let files = support::files(&solved).await;
        assert_eq!(files["sums"], support::file(0o644, sums.as_bytes()));

        // It fails: the error carries the root, not the secrets mounted in it.
        let (_, error) = build.solve(&step("echo failing; exit 3").root(), false).await;
        assert!(error.unwrap().contains("exit code: 3"));
        // The program cannot be started at all.
        let missing = support::busybox_state().run(["/no/such/program"]);
        let missing = missing.secret(Secret::env("memory", "S")).secret(Secret::new("file"));
        assert!(build.solve(&missing.root(), false).await.1.is_some());
        // One is missing, with all the others in memory.
        let missing = step("true").secret(Secret::file("/m").id("missing"));
        assert!(build.solve(&missing.root(), false).await.1.is_some());
        // It is cancelled while it has them.
        let (_, error) = build.solve(&step("echo on; sleep 60").root(), true).await;
        assert!(error.unwrap().contains("cancelled"));
        // What a step prints goes to the caller as it is, and nowhere else.
        let told = step("cat /run/secrets/file; echo $S_memory >&2").root();
        let (output, error) = build.solve(&told, false).await;
        assert_eq!(error, None);
        assert!(output.contains(&values[1]) && output.contains(&values[0]));

        build.canaries.check("logs", logs.lock().unwrap().as_bytes());
        let runs = runs.lock().unwrap();
        assert!(runs.contains("/run/secrets/memory") && runs.contains("S_memory"));
        build.canaries.check("a process", runs.as_bytes());
    });
    println!("\n@ searched");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn class_18_no_secret_persists() {
    let needs = [Need::Root, Need::Tool("busybox")];
    if skipped("leaks::class_18_no_secret_persists", &needs) {
        return;
    }
    let folder = temp();
    support::busybox(folder.path());
    let mut variable = String::new();
    for name in ["memory", "file", "variable", "command"] {
        let random = fs::read("/proc/sys/kernel/random/uuid").unwrap();
        let value = format!(
            "canary-{name}-{}",
            String::from_utf8(random).unwrap().trim()
        );
        fs::write(folder.path().join(name), &value).unwrap();
        variable = if name == "variable" { value } else { variable };
    }
    let mut child = support::child("leaks", &[folder.path().to_str().unwrap()]);
    let told = run(child.env(VARIABLE, variable));
    assert!(told.contains("@ searched"), "{told}");
}
