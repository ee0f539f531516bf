//! The contract of `Executor`, on every implementation that starts processes. The double passes
//! the part that needs no kernel in `tests/it/executor_contract.rs`.

mod errors;
pub(crate) mod kernel;
pub(crate) mod seam;
#[expect(dead_code, reason = "a part of it serves the double")]
pub(crate) mod subject;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use ashlar_solver::executor::{Executor, RuncExecutor, Runtime, SandboxExecutor};

use subject::Subject;

const PROGRAMS: &[&str] = &[
    "sh", "cat", "date", "echo", "env", "grep", "head", "hostname", "ifconfig", "ls", "mknod",
    "mount", "ps", "readlink", "rm", "setsid", "sleep", "stat", "touch", "tr", "true", "tty",
    "unshare", "wc",
];

/// The implementations, by the name they have in names of tests.
pub(crate) fn executor(name: &str) -> Arc<dyn Executor> {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests make mounts and need root"
    );
    let at = |name: &str| {
        let directories = Runtime::search_path();
        let mut paths = directories.iter().map(|directory| directory.join(name));
        let found = paths.find(|path| path.exists());
        found.unwrap_or_else(|| panic!("these tests need {name} (package {name})"))
    };
    let sandbox = || SandboxExecutor::new(true).unwrap();
    match name {
        "sandbox" => Arc::new(sandbox()),
        "runc" => Arc::new(RuncExecutor::new(sandbox(), Runtime::runc(at("runc"))).unwrap()),
        "crun" => Arc::new(RuncExecutor::new(sandbox(), Runtime::crun(at("crun"))).unwrap()),
        other => panic!("no executor is called {other}"),
    }
}

/// A layer of busybox.
fn busybox(base: &Path) {
    for directory in ["bin", "etc", "tmp", "root"] {
        fs::create_dir(base.join(directory)).unwrap();
    }
    fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/bin/busybox", base.join("bin/busybox"))
        .expect("these tests need a static /bin/busybox (package busybox-static)");
    for name in PROGRAMS {
        symlink("busybox", base.join("bin").join(name)).unwrap();
    }
    fs::write(base.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(base.join("etc/gone"), "still here\n").unwrap();
}

pub(crate) fn subject(name: &str) -> Subject {
    Subject::real(executor(name), busybox)
}

/// The same, with its files in `directory`/`subject`, whoever removes them.
pub(crate) fn subject_with(name: &str, directory: &Path) -> Subject {
    Subject::real_in(executor(name), busybox, &directory.join("subject"))
}

/// Makes a test of each item.
macro_rules! tests {
    ($module:ident, $make:expr; $($name:ident,)*) => {
        mod $module {
            $(
                #[test]
                fn $name() {
                    super::super::$module::$name($make);
                }
            )*
        }
    };
}

macro_rules! implementations {
    ($($name:ident,)*) => {
        $(
            mod $name {
                fn make() -> super::Subject {
                    super::subject(stringify!($name))
                }

                super::seam::seam_items!(tests, |_| super::make());
                super::kernel::kernel_items!(tests, super::make);
                super::errors::error_items!(tests, super::make);
            }
        )*
    };
}

implementations! { sandbox, runc, crun, }
