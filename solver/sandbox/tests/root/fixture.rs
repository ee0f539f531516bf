//! A root file system made of busybox, with overlay directories beside it.

use ashlar_sandbox::{
    Child, ExitStatus, Mount, Root, SandboxError, Source, SpawnError, Spawner, Spec, Stdio, Stub,
};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

const PROGRAMS: &[&str] = &[
    "sh", "cat", "ls", "id", "echo", "env", "pwd", "hostname", "sleep", "true", "false", "stat",
    "find", "ifconfig", "mkdir", "rm", "ln", "chmod", "mknod", "touch", "unshare", "mount", "wc",
    "grep", "kill", "stty", "tty", "sed", "tr", "sort", "readlink", "head", "dd", "umount",
    "chroot", "chown", "mv",
];

pub(crate) struct Fixture {
    pub(crate) spawner: Spawner,
    dir: TempDir,
    pub(crate) base: PathBuf,
    works: AtomicUsize,
}

/// A finished process.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    #[expect(dead_code, reason = "shown by failing assertions")]
    pub(crate) stderr: String,
    pub(crate) stubs: Vec<Stub>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_spawner(Spawner::new().unwrap())
    }

    pub(crate) fn with_spawner(spawner: Spawner) -> Self {
        assert!(rustix_is_root(), "these tests make mounts and need root");
        Self::unprivileged(spawner)
    }

    /// Without the check: for the tests of user namespaces.
    pub(crate) fn unprivileged(spawner: Spawner) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let base = dir.path().join("base");
        for sub in ["bin", "etc", "tmp", "dev", "proc", "sys", "root"] {
            fs::create_dir_all(base.join(sub)).unwrap();
        }
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/busybox", base.join("bin/busybox"))
            .expect("these tests need a static /bin/busybox (package busybox-static)");
        for name in PROGRAMS {
            symlink("busybox", base.join("bin").join(name)).unwrap();
        }
        Self {
            spawner,
            dir,
            base,
            works: AtomicUsize::new(0),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new directory of this name.
    pub(crate) fn new_dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// The base under an upper directory called `name`, with a fresh work directory.
    pub(crate) fn overlay(&self, name: &str) -> Source {
        Source::Overlay {
            lower: vec![self.base.clone()],
            upper: self.new_dir(name),
            work: self.new_dir(&format!(
                "work{}",
                self.works.fetch_add(1, Ordering::Relaxed)
            )),
        }
    }

    pub(crate) fn spec(&self, name: &str, args: &[&str]) -> Spec {
        let mut spec = Spec::new(Root::new(self.overlay(name)), args);
        spec.env = vec!["PATH=/bin".into()];
        spec
    }

    pub(crate) fn shell(&self, name: &str, script: &str) -> Spec {
        self.spec(name, &["sh", "-c", script])
    }

    /// Runs to the end with pipes on the output streams.
    pub(crate) fn run(&self, spec: Spec) -> Output {
        self.try_run(spec)
            .unwrap_or_else(|e| panic!("{:?}", e.error))
    }

    pub(crate) fn try_run(&self, spec: Spec) -> Result<Output, SpawnError> {
        let (mut out, out_write) = std::io::pipe().unwrap();
        let (mut err, err_write) = std::io::pipe().unwrap();
        let stdio = Stdio::default().stdout(out_write).stderr(err_write);
        let child = self.spawner.spawn(spec, stdio)?;
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).unwrap();
            text
        });
        let mut stdout = String::new();
        out.read_to_string(&mut stdout).unwrap();
        let stderr = reader.join().unwrap();
        let status = child.wait();
        Ok(Output {
            status,
            stdout,
            stderr,
            stubs: child.stubs().to_vec(),
        })
    }

    /// The trimmed output of a shell script that succeeds.
    pub(crate) fn output(&self, name: &str, script: &str) -> String {
        self.output_of(self.shell(name, script))
    }

    pub(crate) fn output_of(&self, spec: Spec) -> String {
        let output = self.run(spec);
        assert_eq!(output.status, ExitStatus::Exited(0), "{output:?}");
        output.stdout.trim().to_owned()
    }

    /// The open descriptors of a process without a shell in between.
    pub(crate) fn descriptors(&self, name: &str) -> String {
        let list = self
            .output_of(self.spec(name, &["ls", "/proc/self/fd"]))
            .replace('\n', " ");
        // The last one is the directory that is being read.
        list.strip_suffix(" 3").unwrap_or(&list).to_owned()
    }

    pub(crate) fn error(&self, spec: Spec) -> SandboxError {
        match self.try_run(spec) {
            Ok(output) => panic!("started: {output:?}"),
            Err(error) => error.error,
        }
    }

    /// Starts a shell script with nothing attached.
    pub(crate) fn start(&self, name: &str, script: &str) -> Child {
        self.spawner
            .spawn(self.shell(name, script), Stdio::default())
            .unwrap()
    }
}

pub(crate) fn with(mut spec: Spec, change: impl FnOnce(&mut Spec)) -> Spec {
    change(&mut spec);
    spec
}

pub(crate) fn bind(target: &str, path: &Path) -> Mount {
    Mount::new(
        target,
        Source::Bind {
            path: path.to_owned(),
        },
    )
}

pub(crate) fn open_dir(path: &Path) -> File {
    File::open(path).unwrap()
}

pub(crate) fn rustix_is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| {
        use std::os::unix::fs::MetadataExt;
        m.uid() == 0
    })
}

/// Runs the ignored test `name` of this binary in a process of its own, so that it may change and
/// measure process-wide state. `prepare` may change how that process starts.
#[expect(clippy::disallowed_methods, reason = "the test binary runs itself")]
pub(crate) fn in_own_process(
    name: &str,
    prepare: impl FnOnce(&mut std::process::Command) -> &mut std::process::Command,
) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([
        name,
        "--exact",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    let output = prepare(&mut command).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
