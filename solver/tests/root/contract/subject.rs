//! What the contract of `Executor` is checked on: an implementation, and what it needs around it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::clock::{Clock as _, SystemClock};
use ashlar_solver::executor::{
    Executor, ExecutorError, ExitStatus, Mount, MountSource, Network, Output, Process, Resources,
    Root, Script, ScriptedExecutor, Streams, User,
};
use ashlar_solver::progress::Stream;
use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::Semaphore;

/// What a process does, as every implementation can be told to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behaviour {
    /// Written in this order.
    pub(crate) output: Vec<(Stream, Vec<u8>)>,
    /// The code it ends with; `None`: it waits to be killed.
    pub(crate) code: Option<i32>,
}

impl Behaviour {
    pub(crate) fn exit(code: i32) -> Self {
        Self {
            output: Vec::new(),
            code: Some(code),
        }
    }

    pub(crate) fn writes(mut self, stream: Stream, data: impl Into<Vec<u8>>) -> Self {
        self.output.push((stream, data.into()));
        self
    }

    /// A script; what it writes is kept in `directory`, which it finds as `/behaviour`.
    fn shell(&self, directory: &Path) -> String {
        let mut script = String::new();
        for (number, (stream, data)) in self.output.iter().enumerate() {
            std::fs::write(directory.join(number.to_string()), data).unwrap();
            let redirect = if *stream == Stream::Stderr {
                " >&2"
            } else {
                ""
            };
            writeln!(script, "cat /behaviour/{number}{redirect}").unwrap();
        }
        match self.code {
            Some(code) => writeln!(script, "exit {code}").unwrap(),
            None => script.push_str("while :; do sleep 100; done\n"),
        }
        script
    }
}

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Real,
    Scripted,
}

/// An implementation with a root file system to run processes in.
pub(crate) struct Subject {
    kind: Kind,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) runtime: tokio::runtime::Runtime,
    directory: PathBuf,
    _temp: Option<TempDir>,
    base: PathBuf,
    next: AtomicUsize,
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Subject {
    /// A real implementation, with the directory `base` as the layer that processes find.
    pub(crate) fn real(executor: Arc<dyn Executor>, base: impl FnOnce(&Path)) -> Self {
        let subject = Self::temporary(Kind::Real, executor);
        base(&subject.base);
        subject
    }

    /// The same in a new directory that stays.
    pub(crate) fn real_in(
        executor: Arc<dyn Executor>,
        base: impl FnOnce(&Path),
        directory: &Path,
    ) -> Self {
        std::fs::create_dir(directory).unwrap();
        let subject = Self::with(Kind::Real, executor, directory.to_owned());
        base(&subject.base);
        subject
    }

    fn temporary(kind: Kind, executor: Arc<dyn Executor>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let mut subject = Self::with(kind, executor, temp.path().to_owned());
        subject._temp = Some(temp);
        subject
    }

    fn with(kind: Kind, executor: Arc<dyn Executor>, directory: PathBuf) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
        let base = directory.join("base");
        std::fs::create_dir(&base).unwrap();
        Self {
            kind,
            executor,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            directory,
            _temp: None,
            base,
            next: AtomicUsize::new(0),
        }
    }

    /// The double, for one behaviour or several, played in order.
    pub(crate) fn scripted(behaviours: &[Behaviour]) -> Self {
        let scripts = behaviours.iter().map(|behaviour| {
            let script = behaviour.code.map_or_else(Script::endless, Script::exit);
            let output = behaviour.output.iter();
            output.fold(script, |script, (stream, data)| {
                script.writes(*stream, data.clone())
            })
        });
        Self::temporary(Kind::Scripted, Arc::new(ScriptedExecutor::new(scripts)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// A new directory.
    pub(crate) fn new_dir(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path().join(format!("dir{number}"));
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// A layer with a place for everything that is always mounted.
    pub(crate) fn mount_points(&self) -> PathBuf {
        let path = self.new_dir();
        for name in ["proc", "sys", "dev", "etc"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        for name in ["etc/hosts", "etc/resolv.conf"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        path
    }

    /// The base below a new upper directory, which is given too.
    pub(crate) fn overlay(&self) -> (MountSource, PathBuf) {
        let upper = self.new_dir();
        let source = MountSource::Overlay {
            lower: vec![self.base.clone()],
            upper: upper.clone(),
            work: self.new_dir(),
        };
        (source, upper)
    }

    /// A process that runs these arguments as root.
    pub(crate) fn process(&self, args: &[&str]) -> Process {
        process(self.overlay().0, args)
    }

    /// A process that runs a script as root.
    pub(crate) fn shell(&self, script: &str) -> Process {
        self.process(&["/bin/sh", "-c", script])
    }

    /// A process that behaves like this.
    pub(crate) fn behaving(&self, behaviour: &Behaviour) -> Process {
        match self.kind {
            Kind::Real => {
                let directory = self.new_dir();
                let mut process = self.shell(&behaviour.shell(&directory));
                process.mounts = vec![Mount {
                    target: "/behaviour".into(),
                    source: MountSource::Bind { path: directory },
                    selector: None,
                    readonly: true,
                    nosuid: false,
                    noexec: false,
                }];
                process
            }
            Kind::Scripted => self.process(&["scripted"]),
        }
    }

    pub(crate) async fn run_with(
        &self,
        process: Process,
        sink: Arc<Collected>,
        cancel: &Cancel,
    ) -> Result<ExitStatus, ExecutorError> {
        let streams = Streams::new(sink);
        let exit = self.executor.run(process, streams, cancel).await?;
        Ok(exit.status)
    }

    pub(crate) fn try_run(&self, process: Process) -> Result<Ended, ExecutorError> {
        let (sink, cancel) = (Arc::new(Collected::default()), Cancel::new());
        let ran = self.run_with(process, sink.clone(), &cancel);
        let status = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), ran)
                .await
                .expect("a process of the contract ends within a minute")
        })?;
        Ok(Ended {
            status,
            stdout: sink.text(Stream::Stdout),
            stderr: sink.text(Stream::Stderr),
        })
    }

    pub(crate) fn run(&self, process: Process) -> Ended {
        self.try_run(process).unwrap_or_else(|error| {
            panic!("{}", ashlar_solver::error::Failure::new(error).chain());
        })
    }

    /// The output of a script that succeeds.
    pub(crate) fn output(&self, script: &str) -> String {
        self.output_of(self.shell(script))
    }

    pub(crate) fn output_of(&self, process: Process) -> String {
        let ended = self.run(process);
        assert_eq!(ended.status, ExitStatus::Exited(0), "{ended:?}");
        ended.stdout
    }
}

/// A process with nothing special about it.
pub(crate) fn process(root: MountSource, args: &[&str]) -> Process {
    Process {
        root: Root {
            source: root,
            readonly: false,
        },
        mounts: Vec::new(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec!["PATH=/bin".to_owned(), "HOME=/root".to_owned()],
        secret_env: Vec::new(),
        cwd: "/".into(),
        user: User::default(),
        hostname: "contract".to_owned(),
        extra_hosts: Vec::new(),
        network: Network::None,
        insecure: false,
        limits: Vec::new(),
        cgroup_parent: String::new(),
        resources: Resources::default(),
        hooks: Vec::new(),
    }
}

/// Takes output, as fast as it is allowed to.
#[derive(Debug)]
pub(crate) struct Collected {
    pieces: Mutex<Vec<(Stream, Vec<u8>)>>,
    /// One permit for each piece that is taken.
    gate: Semaphore,
}

impl Default for Collected {
    fn default() -> Self {
        Self {
            pieces: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        }
    }
}

impl Collected {
    /// Takes nothing until [`Collected::open`].
    pub(crate) fn closed() -> Self {
        Self {
            gate: Semaphore::new(0),
            ..Self::default()
        }
    }

    pub(crate) fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    pub(crate) fn bytes(&self, wanted: Stream) -> Vec<u8> {
        let pieces = self.pieces.lock().unwrap();
        let wanted = pieces.iter().filter(|piece| piece.0 == wanted);
        wanted.flat_map(|piece| piece.1.clone()).collect()
    }

    pub(crate) fn text(&self, wanted: Stream) -> String {
        String::from_utf8_lossy(&self.bytes(wanted)).into_owned()
    }
}

#[async_trait::async_trait]
impl Output for Collected {
    async fn write(&self, stream: Stream, data: Bytes) {
        self.gate.acquire().await.unwrap().forget();
        self.pieces.lock().unwrap().push((stream, data.to_vec()));
    }
}

/// Waits until `done` says so.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = SystemClock.monotonic();
    while !done() {
        let waited = SystemClock.monotonic() - start;
        assert!(waited < Duration::from_secs(20), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
