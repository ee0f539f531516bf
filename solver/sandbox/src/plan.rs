//! Everything a new process needs, prepared before it exists.
//!
//! Owns: the checked, allocated form of a [`Spec`]: C strings, option lists, buffers and the report
//! that the child fills in. The child shares this memory and only writes to the places made for
//! it; it never allocates.
//!
//! [`Spec`]: crate::Spec

mod build;
mod failure;

pub(crate) use build::{Host, build, check};
pub(crate) use failure::stubs;

use crate::overlay::OverlayPlan;
use crate::setup::mount_api::ParameterKind;
use crate::{Contents, ControlGroups, Step, Tunnel, Wire};
use std::ffi::{CString, OsString, c_char, c_int, c_long};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Index into [`Plan::objects`]: what a failing step was about.
pub(crate) type Object = u32;

/// One parameter of a file system: kind, key, value, object.
pub(crate) struct Parameter {
    pub(crate) kind: ParameterKind,
    pub(crate) key: CString,
    pub(crate) value: Option<CString>,
    pub(crate) object: Object,
}

/// What a mount is made from.
pub(crate) enum PlannedSource {
    Overlay(OverlayPlan),
    /// A copy of the host's mounts from a path on.
    Clone {
        path: CString,
    },
    /// A node that must be a device.
    Device {
        path: CString,
    },
    /// A node in the scratch file system.
    Node {
        name: CString,
        /// With the type.
        mode: u32,
        device: u64,
        uid: u32,
        gid: u32,
    },
    /// A file system of its own.
    FileSystem {
        kind: &'static std::ffi::CStr,
        parameters: Vec<Parameter>,
    },
    /// A file in the scratch file system.
    File {
        name: CString,
        contents: Contents,
        mode: u32,
        /// `None`: whoever makes it.
        owner: Option<(u32, u32)>,
    },
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetRule {
    /// Symbolic links are followed inside the root.
    Follow,
    /// An ordinary directory, directly below the root; afterwards the file system there must have
    /// this magic number.
    OrdinaryDirectory { magic: i64 },
    /// Directly below `/dev`, which was mounted before and is still empty.
    InDev,
}

/// A mount with everything the child needs to make it.
pub(crate) struct PlannedMount {
    pub(crate) source: PlannedSource,
    pub(crate) selector: Option<CString>,
    /// `MOUNT_ATTR_*`.
    pub(crate) attributes: u64,
    pub(crate) target: CString,
    pub(crate) rule: TargetRule,
    /// Fill it with device nodes and links once it is attached, and then give it its attributes.
    pub(crate) is_dev: bool,
    /// Give it the mode of the directory that it is attached to, if that was there.
    pub(crate) takes_mode: bool,
    pub(crate) source_object: Object,
    pub(crate) target_object: Object,
    /// The detached mount, once the child has made it.
    pub(crate) fd: c_int,
}

/// A root that is prepared beside the one of the process.
pub(crate) struct Inner {
    pub(crate) root: PlannedMount,
    pub(crate) readonly: bool,
    /// The first is `/proc`, which is there only while paths are looked up.
    pub(crate) mounts: Vec<PlannedMount>,
    pub(crate) cwd: CString,
    pub(crate) cwd_object: Object,
    /// Of a working directory that has to be made.
    pub(crate) owner: (u32, u32),
}

/// The way out of the network namespace.
pub(crate) struct PlannedWire {
    pub(crate) socket: c_int,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) wait: bool,
}

/// What the child tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report {
    /// The step it is at, or failed at.
    pub(crate) step: u32,
    pub(crate) object: Object,
    /// Not zero: the step failed with this error number or mark.
    pub(crate) errno: i32,
}

/// The prepared start of one process.
pub(crate) struct Plan {
    /// Namespace flags for `clone3`.
    pub(crate) namespaces: u64,
    /// Descriptors that become 0, 1 and 2; -1: `/dev/null` of the sandbox.
    pub(crate) stdio: [c_int; 3],
    /// What becomes descriptor 3; -1: nothing.
    pub(crate) messages: c_int,
    /// A pidfd of the host process, above 3. It also holds the place of missing streams until there
    /// is a `/dev/null`.
    pub(crate) host: c_int,
    /// Rows and columns of the terminal to make.
    pub(crate) terminal: Option<[u16; 2]>,
    /// The socket that takes the master side of the terminal; -1: none.
    pub(crate) console: c_int,
    /// Lines for `uid_map` and `gid_map`.
    pub(crate) id_map: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) root: PlannedMount,
    pub(crate) root_readonly: bool,
    pub(crate) mounts: Vec<PlannedMount>,
    pub(crate) inner: Option<Inner>,
    pub(crate) masked: Vec<(CString, Object)>,
    pub(crate) readonly: Vec<(CString, Object)>,
    pub(crate) hostname: Option<Vec<u8>>,
    pub(crate) loopback: bool,
    /// The descriptor of the unified group that the process is born in; -1: that of the host.
    pub(crate) cgroup: c_int,
    /// Open `cgroup.procs` files of groups to join.
    pub(crate) cgroup_procs: Vec<c_int>,
    /// The view of the hierarchies is cut off only after joining, by the process itself.
    pub(crate) late_cgroup_namespace: bool,
    pub(crate) wire: Option<PlannedWire>,
    /// Keeps the descriptors above open until the process runs.
    pub(crate) _lent: (ControlGroups, Option<Wire>),
    pub(crate) rlimits: Vec<(c_long, [u64; 2])>,
    pub(crate) cwd: CString,
    pub(crate) umask: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) capabilities: u64,
    pub(crate) ambient: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Option<Arc<[libc::sock_filter]>>,
    /// Paths to try, in order.
    pub(crate) candidates: Vec<CString>,
    /// Null-terminated arrays into the strings below.
    pub(crate) argv: Vec<*const c_char>,
    pub(crate) envp: Vec<*const c_char>,
    /// Keeps the strings that `argv` and `envp` point to.
    _strings: Vec<CString>,
    /// The same for variables that are secret.
    _secrets: Vec<Zeroizing<CString>>,
    /// What errors are about; the first is empty.
    pub(crate) objects: Vec<OsString>,
    pub(crate) cwd_object: Object,
    pub(crate) program_object: Object,
    /// Skips `lowerdir+`, as on kernels without it.
    pub(crate) classic_overlay: bool,
    pub(crate) report: Report,
}

// SAFETY: the pointers in `argv` and `envp` lead to heap memory that the plan itself owns and
// never changes; sending the plan moves them together.
unsafe impl Send for Plan {}

/// A step that failed in the child.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) object: Object,
    pub(crate) errno: i32,
}

/// Marks beyond the kernel's error numbers.
pub(crate) const REFUSED: i32 = 5000;
pub(crate) const NO_INTERPRETER: i32 = 5001;
pub(crate) const TOO_MANY_LAYERS: i32 = 5002;
