//! The programs that can start a container.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where programs are looked for unless the caller says otherwise.
const SEARCH_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// A container runtime of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    path: PathBuf,
    kind: Kind,
}

/// How it wants to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Runc,
    Crun,
}

impl Runtime {
    /// The program at `path`, called as runc is.
    pub fn runc(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Runc,
        }
    }

    /// The program at `path`, called as crun is.
    pub fn crun(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            kind: Kind::Crun,
        }
    }

    /// The directories that [`Runtime::find`] is to look through if the caller knows no better:
    /// `/usr/local/sbin`, `/usr/local/bin`, `/usr/sbin`, `/usr/bin`, `/sbin` and `/bin`.
    pub fn search_path() -> Vec<PathBuf> {
        SEARCH_PATH.iter().map(PathBuf::from).collect()
    }

    /// The first `runc` in one of the `directories`, or else the first `crun`.
    pub fn find(directories: &[PathBuf]) -> Option<Self> {
        let find = |name: &str| {
            let mut paths = directories.iter().map(|directory| directory.join(name));
            paths.find(|path| is_program(path))
        };
        find("runc")
            .map(Self::runc)
            .or_else(|| find("crun").map(Self::crun))
    }

    /// Where the program is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a program that may be executed.
    pub(super) fn is_there(&self) -> bool {
        self.path.is_absolute() && is_program(&self.path)
    }

    /// Its name, `runc` or `crun`, whatever the file is called.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Runc => "runc",
            Kind::Crun => "crun",
        }
    }

    /// Whether it takes the flags off the mount that becomes the root.
    pub(super) fn drops_root_flags(&self) -> bool {
        self.kind == Kind::Crun
    }

    /// The arguments, with `program` as the first, that start what is described in `bundle`. Its
    /// own messages go to descriptor 3, a line of JSON each.
    ///
    /// Neither makes a cgroup: both would lie in the host's hierarchy and stay there if they are
    /// killed. runc has a mode for users who may not make one; crun can be told.
    pub(super) fn arguments(&self, program: &Path, state: &str, bundle: &str) -> Vec<OsString> {
        let options: &[&str] = match self.kind {
            Kind::Runc => &["--rootless=true", "--log", "/proc/self/fd/3"],
            Kind::Crun => &["--cgroup-manager=disabled", "--log", "file:/proc/self/fd/3"],
        };
        let rest = ["--log-format", "json", "--root", state, "run"];
        // The keyring would be one that the sandbox has made already.
        let run = ["--no-new-keyring", "--bundle", bundle, "step"];
        let words = options.iter().chain(&rest).chain(&run);
        std::iter::once(program.as_os_str())
            .chain(words.map(OsStr::new))
            .map(OsStr::to_owned)
            .collect()
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.path.display())
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runc_is_preferred_and_only_programs_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let directories: Vec<_> = ["a", "b", "c"]
            .iter()
            .map(|it| temp.path().join(it))
            .collect();
        for directory in &directories {
            std::fs::create_dir(directory).unwrap();
        }
        let put = |directory: usize, name: &str, mode| {
            let path = directories[directory].join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        assert_eq!(Runtime::find(&directories), None);
        put(0, "runc", 0o644);
        let crun = put(1, "crun", 0o755);
        assert_eq!(Runtime::find(&directories), Some(Runtime::crun(crun)));
        std::fs::create_dir(directories[1].join("runc")).unwrap();
        let runc = put(2, "runc", 0o755);
        assert_eq!(Runtime::find(&directories), Some(Runtime::runc(runc)));
        assert_eq!(Runtime::find(&[]), None);
    }
}
