//! Checks a [`Spec`] and turns it into a [`Plan`].

use super::{
    Inner, Object, Parameter, Plan, PlannedMount, PlannedSource, PlannedWire, Report, TargetRule,
};
use crate::overlay::{self, MAX_LOWER, Writable};
use crate::setup::mount_api::{
    ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, ATTR_STRICTATIME, ParameterKind,
};
use crate::{Contents, ControlGroups, Network, NodeKind, SandboxError, Source, Spec, Wire};
use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

type Built<T> = Result<T, SandboxError>;

/// Where programs are looked up when the environment has no PATH: BuildKit's default.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PROC_MAGIC: i64 = 0x9fa0;
const TMPFS_MAGIC: i64 = 0x0102_1994;
const SYSFS_MAGIC: i64 = 0x6265_6572;

/// Linux's limit on a host name.
const MAX_HOSTNAME: usize = 64;

/// The group that owns terminals, as containerd sets it.
const TTY_GROUP: &CStr = c"5";

fn invalid<T>(field: &'static str, reason: impl Into<String>) -> Built<T> {
    Err(SandboxError::InvalidSpec {
        field,
        reason: reason.into(),
    })
}

fn c_string(field: &'static str, text: impl AsRef<OsStr>) -> Built<CString> {
    CString::new(text.as_ref().as_bytes())
        .or_else(|_| invalid(field, format!("{:?} holds a zero byte", text.as_ref())))
}

fn absolute(field: &'static str, path: &Path) -> Built<CString> {
    if !path.is_absolute() {
        return invalid(field, format!("{path:?} is not absolute"));
    }
    c_string(field, path)
}

/// A host path. `..` in it would lead to what is mounted above `/` while mounts are prepared.
fn host(path: &Path) -> Built<CString> {
    if path.components().any(|c| c == Component::ParentDir) {
        return invalid("source", format!("{path:?} contains `..`"));
    }
    absolute("source", path)
}

/// What the plan is made with beside the specification.
pub(crate) struct Host {
    /// Effective ids of the host process.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `/sys/fs/cgroup` is the unified hierarchy.
    pub(crate) unified_cgroup: bool,
    pub(crate) classic_overlay: bool,
}

struct Builder<'a> {
    spec: &'a Spec,
    /// User and group of the process before it becomes another user, as it sees them.
    maker: (u32, u32),
    objects: Vec<OsString>,
    files: usize,
}

/// Prepares the start of the process that `spec` describes.
pub(crate) fn build(spec: &Spec, host: &Host) -> Built<Plan> {
    check(spec)?;
    let mut builder = Builder {
        spec,
        maker: spec
            .namespaces
            .user
            .map_or((host.uid, host.gid), |map| (map.uid, map.gid)),
        objects: vec![OsString::new()],
        files: 0,
    };
    let (root, mounts) = builder.tree(host)?;
    let inner = match &spec.inner {
        Some(inner) => Some(builder.inner(inner, host)?),
        None => None,
    };
    let masked = builder.paths("masked_paths", &spec.masked_paths)?;
    let readonly = builder.paths("readonly_paths", &spec.readonly_paths)?;
    let strings = |field, list: &[OsString]| -> Built<Vec<CString>> {
        list.iter().map(|text| c_string(field, text)).collect()
    };
    let args = strings("args", &spec.args)?;
    let env = strings("env", &spec.env)?;
    let secrets = secret_env(&spec.secret_env)?;
    let pointers = |list: &[CString]| -> Vec<*const c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let program = spec.args.first().cloned().unwrap_or_default();
    let cwd_object = builder.object(spec.cwd.as_os_str());
    let program_object = builder.object(&program);
    let (groups, wire) = lent(spec)?;
    Ok(Plan {
        namespaces: namespaces(spec),
        stdio: [-1; 3],
        messages: -1,
        host: -1,
        id_map: spec.namespaces.user.map(|map| {
            let line = |inside: u32, outside: u32| format!("{inside} {outside} 1").into_bytes();
            (line(map.uid, host.uid), line(map.gid, host.gid))
        }),
        root,
        root_readonly: spec.root.readonly,
        mounts,
        inner,
        masked,
        readonly,
        terminal: spec.terminal.map(|size| [size.rows, size.columns]),
        console: -1,
        hostname: (spec.namespaces.uts && !spec.hostname.is_empty())
            .then(|| spec.hostname.as_bytes().to_vec()),
        loopback: spec.namespaces.network == Network::None,
        cgroup: groups.unified.as_ref().map_or(-1, |fd| fd.as_raw_fd()),
        cgroup_procs: groups.procs.iter().map(|fd| fd.as_raw_fd()).collect(),
        late_cgroup_namespace: late_cgroup_namespace(spec),
        wire: wire.as_ref().map(|wire| PlannedWire {
            socket: wire.socket.as_raw_fd(),
            tunnel: wire.tunnel,
            wait: wire.wait,
        }),
        _lent: (groups, wire),
        rlimits: spec
            .rlimits
            .iter()
            .map(|r| (r.resource.number(), [r.soft, r.hard]))
            .collect(),
        cwd: absolute("cwd", &spec.cwd)?,
        umask: spec.umask,
        uid: spec.uid,
        gid: spec.gid,
        groups: spec.additional_gids.clone(),
        capabilities: spec.capabilities.bits(),
        ambient: spec.ambient_capabilities,
        no_new_privileges: spec.no_new_privileges,
        seccomp: spec.seccomp.as_ref().map(crate::SeccompProfile::program),
        candidates: candidates(&program, &spec.env)?,
        argv: pointers(&args),
        envp: env
            .iter()
            .chain(secrets.iter().map(|secret| &**secret))
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect(),
        _strings: args.into_iter().chain(env).collect(),
        _secrets: secrets,
        objects: builder.objects,
        cwd_object,
        program_object,
        classic_overlay: host.classic_overlay,
        report: Report {
            step: 0,
            object: 0,
            errno: 0,
        },
    })
}

/// Puts secret variables together in memory that is zeroed in the end. No error shows a value.
fn secret_env(list: &[(OsString, Contents)]) -> Built<Vec<Zeroizing<CString>>> {
    let join = |(name, value): &(OsString, Contents)| {
        if name.is_empty() || name.as_bytes().contains(&b'=') || name.as_bytes().contains(&0) {
            return invalid("secret_env", format!("{name:?} is no name of a variable"));
        }
        if value.contains(&0) {
            return invalid(
                "secret_env",
                format!("the value of {name:?} holds a zero byte"),
            );
        }
        // Exactly as long as it gets with the zero byte at the end, so that it never moves.
        let mut text = Vec::with_capacity(name.len() + value.len() + 2);
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value);
        let text = CString::new(text).or_else(|_| invalid("secret_env", "holds a zero byte"))?;
        Ok(Zeroizing::new(text))
    };
    list.iter().map(join).collect()
}

/// Whether the values can be used at all.
pub(crate) fn check(spec: &Spec) -> Built<()> {
    if spec.args.first().is_none_or(|program| program.is_empty()) {
        return invalid("args", "there is no program");
    }
    if spec.hostname.len() > MAX_HOSTNAME {
        return invalid("hostname", format!("longer than {MAX_HOSTNAME} bytes"));
    }
    if spec.uid == u32::MAX || spec.gid == u32::MAX || spec.additional_gids.contains(&u32::MAX) {
        return invalid("uid", "4294967295 is not an id");
    }
    if spec.umask > 0o777 {
        return invalid("umask", format!("{:#o} is more than 0o777", spec.umask));
    }
    if spec.wire.is_some() && spec.namespaces.network != Network::None {
        return invalid("wire", "there is no network namespace to connect");
    }
    if let Some(map) = spec.namespaces.user {
        if (map.uid, map.gid) != (spec.uid, spec.gid) {
            return invalid(
                "uid",
                "only the mapped user and group exist in the user namespace",
            );
        }
        if !spec.additional_gids.is_empty() {
            return invalid(
                "additional_gids",
                "a user namespace with one group has no others",
            );
        }
    }
    Ok(())
}

fn namespaces(spec: &Spec) -> u64 {
    let chosen = &spec.namespaces;
    let flags = [
        (true, libc::CLONE_NEWNS | libc::CLONE_NEWPID),
        (chosen.user.is_some(), libc::CLONE_NEWUSER),
        (chosen.ipc, libc::CLONE_NEWIPC),
        (chosen.uts, libc::CLONE_NEWUTS),
        (
            chosen.cgroup && !late_cgroup_namespace(spec),
            libc::CLONE_NEWCGROUP,
        ),
        (chosen.network == Network::None, libc::CLONE_NEWNET),
    ];
    let flag = |&(on, flag): &(bool, i32)| {
        if on {
            u64::from(flag.cast_unsigned())
        } else {
            0
        }
    };
    flags.iter().map(flag).sum()
}

/// The descriptors of the caller, above the standard streams that the child puts in place first.
fn lent(spec: &Spec) -> Built<(ControlGroups, Option<Wire>)> {
    let high = |fd: &Arc<OwnedFd>| -> Built<Arc<OwnedFd>> {
        if fd.as_raw_fd() > 2 {
            return Ok(fd.clone());
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3);
        copy.map(Arc::new).map_err(|errno| SandboxError::Clone {
            source: errno.into(),
        })
    };
    let mut groups = spec.control_groups.clone();
    groups.procs = groups.procs.iter().map(high).collect::<Built<_>>()?;
    let wire = spec.wire.clone().map(|mut wire| {
        wire.socket = high(&wire.socket)?;
        Ok::<_, SandboxError>(wire)
    });
    Ok((groups, wire.transpose()?))
}

/// A namespace made together with the process would begin at the host's group.
fn late_cgroup_namespace(spec: &Spec) -> bool {
    spec.namespaces.cgroup && !spec.control_groups.is_empty()
}

/// The paths under which the program may be.
fn candidates(program: &OsStr, env: &[OsString]) -> Built<Vec<CString>> {
    let program = program.as_bytes();
    if program.contains(&b'/') {
        return Ok(vec![c_string("args", OsStr::from_bytes(program))?]);
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    path.unwrap_or(DEFAULT_PATH)
        .split(|&b| b == b':')
        .filter(|dir| !dir.is_empty())
        .map(|dir| c_string("env", OsStr::from_bytes(&[dir, b"/", program].concat())))
        .collect()
}

impl Builder<'_> {
    fn object(&mut self, text: impl AsRef<OsStr>) -> Object {
        self.objects.push(text.as_ref().to_owned());
        u32::try_from(self.objects.len() - 1).unwrap_or(0)
    }

    fn paths(&mut self, field: &'static str, paths: &[PathBuf]) -> Built<Vec<(CString, Object)>> {
        paths
            .iter()
            .map(|path| Ok((absolute(field, path)?, self.object(path))))
            .collect()
    }

    /// The root and everything below it.
    fn tree(&mut self, host: &Host) -> Built<(PlannedMount, Vec<PlannedMount>)> {
        let root = self.root()?;
        let mut mounts = self.system_mounts(host)?;
        let spec = self.spec;
        for mount in &spec.mounts {
            mounts.push(self.mount(mount)?);
        }
        Ok((root, mounts))
    }

    /// The same for the process that a runtime will start.
    fn inner(&mut self, spec: &Spec, host: &Host) -> Built<Inner> {
        check(spec)?;
        if spec.inner.is_some() {
            return invalid("inner", "it has an inner process itself");
        }
        let mut builder = Builder {
            spec,
            maker: self.maker,
            objects: std::mem::take(&mut self.objects),
            files: self.files,
        };
        let (root, mounts) = builder.tree(host)?;
        let cwd_object = builder.object(spec.cwd.as_os_str());
        self.objects = builder.objects;
        Ok(Inner {
            root,
            readonly: spec.root.readonly,
            mounts,
            cwd: absolute("cwd", &spec.cwd)?,
            cwd_object,
            owner: (spec.uid, spec.gid),
        })
    }

    fn root(&mut self) -> Built<PlannedMount> {
        let spec = self.spec;
        if matches!(
            spec.root.source,
            Source::File { .. } | Source::Device { .. } | Source::Node(_)
        ) {
            return invalid("root", "the source is not a directory tree");
        }
        let root = &spec.root;
        let mut made = self.planned(&root.source, root.selector.as_deref(), 0)?;
        made.target = c"/".to_owned();
        made.target_object = self.object("/");
        Ok(made)
    }

    fn mount(&mut self, mount: &crate::Mount) -> Built<PlannedMount> {
        if !mount
            .target
            .components()
            .any(|c| matches!(c, Component::Normal(_)))
        {
            return invalid(
                "mounts",
                format!("{:?} cannot be a mount point", mount.target),
            );
        }
        let attributes = [
            (mount.readonly, ATTR_RDONLY),
            (mount.nosuid, ATTR_NOSUID),
            (mount.noexec, ATTR_NOEXEC),
        ];
        let attributes = attributes.into_iter().filter(|it| it.0);
        let attributes = attributes.fold(0, |all, it| all | it.1);
        let mut made = self.planned(&mount.source, mount.selector.as_deref(), attributes)?;
        made.target = absolute("mounts", &mount.target)?;
        made.target_object = self.object(&mount.target);
        Ok(made)
    }

    fn planned(
        &mut self,
        source: &Source,
        selector: Option<&Path>,
        mut attributes: u64,
    ) -> Built<PlannedMount> {
        if !self.spec.host_devices {
            attributes |= ATTR_NODEV;
        }
        let user_namespace = self.spec.namespaces.user.is_some();
        let single = matches!(
            source,
            Source::Tmpfs { .. }
                | Source::Cgroup
                | Source::File { .. }
                | Source::Device { .. }
                | Source::Node(_)
        );
        if single && selector.is_some() {
            return invalid("selector", "the source has nothing to select from");
        }
        let takes_mode = matches!(source, Source::Tmpfs { .. });
        let (source, name) = match source {
            Source::Overlay { lower, upper, work } if !lower.is_empty() => {
                let writable = Writable { upper, work };
                (
                    self.overlay(lower, Some(&writable), user_namespace)?,
                    upper.as_os_str(),
                )
            }
            Source::ReadOnlyOverlay { lower } if lower.len() > 1 => {
                attributes |= ATTR_RDONLY;
                (
                    self.overlay(lower, None, user_namespace)?,
                    lower[0].as_os_str(),
                )
            }
            Source::ReadOnlyOverlay { lower } => {
                let Some(path) = lower.first() else {
                    return invalid("source", "an overlay needs a layer");
                };
                attributes |= ATTR_RDONLY;
                (PlannedSource::Clone { path: host(path)? }, path.as_os_str())
            }
            Source::Overlay { upper: path, .. } | Source::Bind { path } => {
                (PlannedSource::Clone { path: host(path)? }, path.as_os_str())
            }
            Source::Device { path } => {
                attributes &= !ATTR_NODEV;
                (
                    PlannedSource::Device { path: host(path)? },
                    path.as_os_str(),
                )
            }
            Source::Node(node) => {
                attributes &= !ATTR_NODEV;
                if user_namespace {
                    return invalid("mounts", "a user namespace has no nodes of its own");
                }
                self.files += 1;
                let kind = match node.kind {
                    NodeKind::Character => libc::S_IFCHR,
                    NodeKind::Block => libc::S_IFBLK,
                    NodeKind::Fifo => libc::S_IFIFO,
                };
                let source = PlannedSource::Node {
                    name: c_string("mounts", format!("node{}", self.files))?,
                    mode: kind | node.mode & 0o7777,
                    device: libc::makedev(node.major, node.minor),
                    uid: node.uid,
                    gid: node.gid,
                };
                (source, OsStr::new("node"))
            }
            Source::Tmpfs { size } => {
                attributes |= ATTR_NOSUID;
                let size = size.map(|bytes| bytes.to_string());
                (tmpfs("1777", size.as_deref()), OsStr::new("tmpfs"))
            }
            Source::Cgroup => {
                attributes |= ATTR_NOSUID | ATTR_NOEXEC | ATTR_RDONLY;
                (fs(c"cgroup2"), OsStr::new("cgroup2"))
            }
            Source::File {
                contents,
                mode,
                uid,
                gid,
            } => {
                self.files += 1;
                let name = c_string("mounts", format!("file{}", self.files))?;
                let (contents, mode) = (contents.clone(), mode & 0o7777);
                attributes |= ATTR_NOSUID;
                if mode & 0o111 == 0 {
                    attributes |= ATTR_NOEXEC;
                }
                let source = PlannedSource::File {
                    name,
                    contents,
                    mode,
                    owner: Some((*uid, *gid)).filter(|&owner| owner != self.maker),
                };
                (source, OsStr::new("file"))
            }
        };
        Ok(PlannedMount {
            source,
            selector: selector
                .map(|path| c_string("selector", path))
                .transpose()?,
            attributes,
            target: CString::default(),
            rule: TargetRule::Follow,
            is_dev: false,
            takes_mode,
            source_object: self.object(name),
            target_object: 0,
            fd: -1,
        })
    }

    fn overlay(
        &mut self,
        lower: &[PathBuf],
        writable: Option<&Writable<'_>>,
        user_namespace: bool,
    ) -> Built<PlannedSource> {
        if lower.len() > MAX_LOWER {
            return Err(SandboxError::TooManyLayers { count: lower.len() });
        }
        let dirs = writable.iter().flat_map(|w| [w.upper, w.work]);
        for path in lower.iter().map(PathBuf::as_path).chain(dirs) {
            host(path)?;
        }
        let plan = overlay::plan(lower, writable, user_namespace, |path| self.object(path));
        Ok(PlannedSource::Overlay(plan))
    }

    /// `/proc`, `/dev` and `/sys` with what belongs below them, as containerd's default
    /// specification has them, without its `/run`.
    fn system_mounts(&mut self, host: &Host) -> Built<Vec<PlannedMount>> {
        let spec = self.spec;
        let hardened = ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        let ordinary = |magic| TargetRule::OrdinaryDirectory { magic };
        let sys = if spec.writable_sys {
            hardened
        } else {
            hardened | ATTR_RDONLY
        };
        let dev = ATTR_NOSUID | ATTR_STRICTATIME | ATTR_NODEV;

        let mut mounts = vec![
            self.system(c"/proc", fs(c"proc"), hardened, ordinary(PROC_MAGIC)),
            self.system(
                c"/dev",
                tmpfs("755", Some("65536k")),
                dev,
                ordinary(TMPFS_MAGIC),
            ),
        ];
        mounts[1].is_dev = true;
        let mut pts = vec![
            parameter(c"newinstance", None),
            parameter(c"ptmxmode", Some(c"0666")),
            parameter(c"mode", Some(c"0620")),
        ];
        if spec.namespaces.user.is_none() {
            pts.push(parameter(c"gid", Some(TTY_GROUP)));
        }
        let pts = PlannedSource::FileSystem {
            kind: c"devpts",
            parameters: pts,
        };
        let in_dev = TargetRule::InDev;
        mounts.push(self.system(c"/dev/pts", pts, ATTR_NOSUID | ATTR_NOEXEC, in_dev));
        mounts.push(self.system(c"/dev/shm", tmpfs("1777", Some("65536k")), hardened, in_dev));
        if spec.namespaces.ipc {
            mounts.push(self.system(c"/dev/mqueue", fs(c"mqueue"), hardened, in_dev));
        }
        // A user namespace may mount sysfs only with a network namespace of its own.
        let borrowed = spec.namespaces.user.is_some() && spec.namespaces.network == Network::Host;
        let source = if borrowed {
            PlannedSource::Clone {
                path: c"/sys".to_owned(),
            }
        } else {
            fs(c"sysfs")
        };
        mounts.push(self.system(c"/sys", source, sys, ordinary(SYSFS_MAGIC)));
        if host.unified_cgroup && spec.namespaces.cgroup && !borrowed {
            let follow = TargetRule::Follow;
            mounts.push(self.system(c"/sys/fs/cgroup", fs(c"cgroup2"), sys, follow));
        }
        Ok(mounts)
    }

    fn system(
        &mut self,
        target: &CStr,
        source: PlannedSource,
        attributes: u64,
        rule: TargetRule,
    ) -> PlannedMount {
        let object = self.object(OsStr::from_bytes(target.to_bytes()));
        PlannedMount {
            source,
            selector: None,
            attributes,
            target: target.to_owned(),
            rule,
            is_dev: false,
            takes_mode: false,
            source_object: object,
            target_object: object,
            fd: -1,
        }
    }
}

fn parameter(key: &CStr, value: Option<&CStr>) -> Parameter {
    let kind = if value.is_some() {
        ParameterKind::String
    } else {
        ParameterKind::Flag
    };
    Parameter {
        kind,
        key: key.to_owned(),
        value: value.map(CStr::to_owned),
        object: 0,
    }
}

fn fs(kind: &'static CStr) -> PlannedSource {
    PlannedSource::FileSystem {
        kind,
        parameters: Vec::new(),
    }
}

fn tmpfs(mode: &str, size: Option<&str>) -> PlannedSource {
    let text = |t: &str| CString::new(t).expect("BUG: numbers hold no zero byte");
    let mut parameters = vec![parameter(c"mode", Some(&text(mode)))];
    if let Some(size) = size {
        parameters.push(parameter(c"size", Some(&text(size))));
    }
    PlannedSource::FileSystem {
        kind: c"tmpfs",
        parameters,
    }
}
