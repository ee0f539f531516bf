//! A process as `config.json` of the OCI runtime specification.
//!
//! Owns: the parts of the specification that we use, as structures that are only written, and
//! what of a [`Spec`] they say. Everything that the sandbox has made ready before the runtime
//! begins is left out: mounts, host name, and every namespace but PID and mount.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;

use ashlar_sandbox::{
    Capability, CapabilitySet, INNER_ROOT, SandboxError, SeccompAction, SeccompCompare,
    SeccompProfile, Spec,
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::Runtime;
use crate::executor::Hook;

/// Where a program is looked up if the process has no `PATH`; a runtime looks nowhere then.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The answer to system calls that no rule names.
const DENY: &str = "SCMP_ACT_ERRNO";
const ALLOW: &str = "SCMP_ACT_ALLOW";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Config<'a> {
    oci_version: &'static str,
    process: Process<'a>,
    root: Root,
    mounts: Vec<Mount>,
    linux: Linux<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    hooks: BTreeMap<&'static str, Vec<JsonHook<'a>>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Process<'a> {
    terminal: bool,
    user: User<'a>,
    args: Vec<&'a str>,
    env: Vec<&'a str>,
    cwd: &'a str,
    capabilities: Capabilities,
    rlimits: Vec<Rlimit>,
    no_new_privileges: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct User<'a> {
    uid: u32,
    gid: u32,
    umask: u32,
    additional_gids: &'a [u32],
}

#[derive(Debug, Serialize)]
struct Capabilities {
    bounding: Vec<&'static str>,
    effective: Vec<&'static str>,
    permitted: Vec<&'static str>,
    inheritable: Vec<&'static str>,
    ambient: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Rlimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
}

#[derive(Debug, Serialize)]
struct Root {
    path: &'static str,
    readonly: bool,
}

#[derive(Debug, Serialize)]
struct Mount {
    destination: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    source: String,
    options: &'static [&'static str],
}

#[derive(Debug, Serialize)]
struct JsonHook<'a> {
    path: &'a str,
    args: Vec<&'a str>,
    env: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u32>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Linux<'a> {
    namespaces: [Namespace; 2],
    masked_paths: &'a [PathBuf],
    readonly_paths: &'a [PathBuf],
    #[serde(skip_serializing_if = "Option::is_none")]
    seccomp: Option<Seccomp>,
}

#[derive(Debug, Serialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    default_action: &'static str,
    default_errno_ret: u32,
    architectures: &'static [&'static str],
    syscalls: Vec<Syscall>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Syscall {
    names: [&'static str; 1],
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno_ret: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<Argument>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u32,
    value_two: u32,
    op: &'static str,
}

/// The configuration of the process `spec`, whose root is at [`INNER_ROOT`]. Values of secret
/// variables are in no other memory afterwards.
///
/// # Errors
/// [`SandboxError::InvalidSpec`] for what cannot be said in JSON.
pub(super) fn config(
    spec: &Spec,
    runtime: &Runtime,
    hooks: &[Hook],
) -> Result<Vec<u8>, SandboxError> {
    let texts = |field, list: &[std::ffi::OsString]| {
        let texts = list.iter().map(|it| text(field, it));
        texts
            .map(|it| it.map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()
    };
    check_ids(spec)?;
    let args = texts("args", &spec.args)?;
    let mut env = texts("env", &spec.env)?;
    let is_path = |entry: &String| entry.starts_with("PATH=");
    if !env.iter().any(is_path) {
        env.push(DEFAULT_PATH.to_owned());
    }
    let secrets = spec.secret_env.iter();
    let secrets = secrets.map(|(name, value)| secret(name, value));
    let secrets = secrets.collect::<Result<Vec<_>, _>>()?;
    let config = Config {
        oci_version: "1.0.2",
        process: Process {
            terminal: spec.terminal.is_some(),
            user: User {
                uid: spec.uid,
                gid: spec.gid,
                umask: spec.umask,
                additional_gids: &spec.additional_gids,
            },
            args: args.iter().map(String::as_str).collect(),
            env: env
                .iter()
                .map(String::as_str)
                .chain(secrets.iter().map(|it| it.as_str()))
                .collect(),
            cwd: text("cwd", spec.cwd.as_os_str())?,
            capabilities: capabilities(spec),
            rlimits: spec.rlimits.iter().map(rlimit).collect(),
            no_new_privileges: spec.no_new_privileges,
        },
        root: Root {
            path: INNER_ROOT,
            // It is so already; to make it so, a runtime would take other flags off it.
            readonly: false,
        },
        mounts: root_flags(spec, runtime)
            .into_iter()
            .chain(mounts())
            .collect(),
        linux: linux(spec),
        hooks: by_stage(hooks)?,
    };
    // As long as it gets: a vector that grows leaves copies behind.
    let mut length = Length(0);
    let written = serde_json::to_writer(&mut length, &config);
    let mut json = Vec::with_capacity(length.0);
    written
        .and_then(|()| serde_json::to_writer(&mut json, &config))
        .expect("BUG: the structures hold nothing but text and numbers");
    Ok(json)
}

fn by_stage(hooks: &[Hook]) -> Result<BTreeMap<&'static str, Vec<JsonHook<'_>>>, SandboxError> {
    let mut stages: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for hook in hooks {
        let path = text("hooks", hook.path.as_os_str())?;
        let args = match &*hook.args {
            [] => vec![path],
            args => args.iter().map(String::as_str).collect(),
        };
        stages.entry(hook.stage.name()).or_default().push(JsonHook {
            path,
            args,
            env: &hook.env,
            timeout: hook.timeout,
        });
    }
    Ok(stages)
}

/// Counts what is written.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 += data.len();
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A secret variable as a line of the environment.
fn secret(name: &OsStr, value: &[u8]) -> Result<Zeroizing<String>, SandboxError> {
    let invalid = |reason| SandboxError::InvalidSpec {
        field: "secret_env",
        reason,
    };
    let name = text("secret_env", name)?;
    let value = std::str::from_utf8(value)
        .ok()
        .filter(|it| !it.contains('\0'));
    let value = value.ok_or_else(|| {
        invalid(format!(
            "the value of {name:?} is not UTF-8 or holds a zero byte"
        ))
    })?;
    if name.is_empty() || name.contains('=') {
        return Err(invalid(format!("{name:?} is no name of a variable")));
    }
    let mut line = Zeroizing::new(String::with_capacity(name.len() + value.len() + 1));
    line.push_str(name);
    line.push('=');
    line.push_str(value);
    Ok(line)
}

fn text<'a>(field: &'static str, text: &'a OsStr) -> Result<&'a str, SandboxError> {
    let invalid = |reason| SandboxError::InvalidSpec { field, reason };
    let found = text.to_str().filter(|it| !it.contains('\0'));
    found.ok_or_else(|| invalid(format!("{text:?} is not UTF-8 or holds a zero byte")))
}

/// Runtimes take ids up to here; the kernel knows more.
const MAX_ID: u32 = i32::MAX.unsigned_abs();

fn check_ids(spec: &Spec) -> Result<(), SandboxError> {
    let ids = [("uid", spec.uid), ("gid", spec.gid)];
    let groups = spec
        .additional_gids
        .iter()
        .map(|&gid| ("additional_gids", gid));
    match ids.into_iter().chain(groups).find(|&(_, id)| id > MAX_ID) {
        Some((field, id)) => Err(SandboxError::InvalidSpec {
            field,
            reason: format!("{id} is more than {MAX_ID}, the most that a container runtime takes"),
        }),
        None => Ok(()),
    }
}

/// crun takes all flags off the mount of the root: what keeps device nodes in it from working, and
/// what keeps the process from writing to it. They are set once more, first of all.
fn root_flags(spec: &Spec, runtime: &Runtime) -> Option<Mount> {
    // In a user namespace no device node works whatever the flags are.
    let nodev = !spec.host_devices && spec.namespaces.user.is_none();
    let options: &[_] = match (nodev, spec.root.readonly) {
        (_, true) if !spec.host_devices => &["remount", "bind", "nodev", "ro"],
        (_, true) => &["remount", "bind", "ro"],
        (true, false) => &["remount", "bind", "nodev"],
        (false, false) => return None,
    };
    runtime.drops_root_flags().then(|| Mount {
        // Plain `/` is refused.
        destination: "/.",
        kind: "bind",
        source: INNER_ROOT.to_owned(),
        options,
    })
}

/// `/proc` belongs to the PID namespace that the runtime makes. `/dev` is complete; the runtime is
/// told that it is mounted, so that it makes no devices in it.
fn mounts() -> Vec<Mount> {
    vec![
        Mount {
            destination: "/proc",
            kind: "proc",
            source: "proc".to_owned(),
            options: &["nosuid", "nodev", "noexec"],
        },
        Mount {
            destination: "/dev",
            kind: "bind",
            source: format!("{INNER_ROOT}/dev"),
            options: &["rbind", "nosuid", "nodev"],
        },
    ]
}

/// As in the sandbox: a user other than root has capabilities only if they are ambient.
fn capabilities(spec: &Spec) -> Capabilities {
    // In a user namespace the runtime has all there are; elsewhere what the host process has, and
    // it fails if it is told to give more.
    let held = match spec.namespaces.user {
        Some(_) => CapabilitySet::ALL,
        None => CapabilitySet::held(),
    };
    let all = spec.capabilities.intersection(held);
    let all: Vec<_> = all.iter().map(Capability::name).collect();
    let some = |condition: bool| {
        if condition { all.clone() } else { Vec::new() }
    };
    let own = spec.uid == 0 || spec.ambient_capabilities;
    Capabilities {
        effective: some(own),
        permitted: some(own),
        inheritable: some(spec.ambient_capabilities),
        ambient: some(spec.ambient_capabilities),
        bounding: all,
    }
}

fn rlimit(limit: &ashlar_sandbox::Rlimit) -> Rlimit {
    Rlimit {
        kind: format!("RLIMIT_{}", limit.resource.name().to_ascii_uppercase()),
        soft: limit.soft,
        hard: limit.hard,
    }
}

fn linux(spec: &Spec) -> Linux<'_> {
    Linux {
        namespaces: [Namespace { kind: "pid" }, Namespace { kind: "mount" }],
        masked_paths: &spec.masked_paths,
        readonly_paths: &spec.readonly_paths,
        seccomp: spec.seccomp.as_ref().map(seccomp),
    }
}

fn seccomp(profile: &SeccompProfile) -> Seccomp {
    let architectures: &[_] = if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    };
    let syscalls = profile.rules().into_iter().map(|rule| {
        let (action, errno_ret) = match rule.action {
            SeccompAction::Errno(errno) => (DENY, Some(errno)),
            SeccompAction::Allow => (ALLOW, None),
        };
        let argument = |(index, compare)| {
            let (op, value, value_two) = match compare {
                SeccompCompare::Less(value) => ("SCMP_CMP_LT", value, 0),
                SeccompCompare::Greater(value) => ("SCMP_CMP_GT", value, 0),
                SeccompCompare::NoneOf(mask) => ("SCMP_CMP_MASKED_EQ", mask, 0),
                SeccompCompare::Equal(value) => ("SCMP_CMP_EQ", value, 0),
            };
            Argument {
                index,
                value,
                value_two,
                op,
            }
        };
        Syscall {
            names: [rule.name],
            action,
            errno_ret,
            args: rule.argument.into_iter().map(argument).collect(),
        }
    });
    Seccomp {
        default_action: DENY,
        default_errno_ret: 1,
        architectures,
        syscalls: syscalls.collect(),
    }
}
