//! Starts and reaps processes in fresh Linux namespaces.
//!
//! Owns: everything between a description of a process ([`Spec`]) and its exit status. A
//! [`Spawner`] holds a few threads that start children with `clone3`, reap them and die with them;
//! a [`Child`] is a running process together with the process tree below it.
//!
//! Invariants:
//! - Nothing of the host process changes: no working directory, umask, environment, user id or
//!   signal handler; nothing is mounted in the host's mount namespace, so nothing has to be
//!   unmounted, even after a crash.
//! - A child is the init process of its own PID namespace. Killing it kills every process it
//!   started, however they hide; it also dies when the thread that started it ends.
//! - The process sees exactly the file descriptors 0, 1 and 2, and only files below its root.
//! - Between `clone3` and `execve` only raw system calls run, on memory prepared beforehand.
//! - Device nodes work only where [`Source::Device`], [`Source::Node`] or the built-in `/dev` put
//!   them: every other mount is `nodev` unless [`Spec::host_devices`] says otherwise, because there is no device
//!   cgroup to stop a root process that makes or finds a node for the host's disk.
//!
//! Left to others: what the layers contain, caching, entitlements, name resolution files, and the
//! removal of mount stubs, for which [`remove_stubs`] is the safe tool.
//!
//! This crate is the only one of the workspace that contains `unsafe` code. It needs Linux 5.12 or
//! newer on `x86_64` or `aarch64`; it does not need root (see [`IdMap`]).
//!
//! ```no_run
//! use ashlar_sandbox::{ExitStatus, Root, Source, Spawner, Spec, Stdio};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spawner = Spawner::new()?;
//! let root = Root::new(Source::Overlay {
//!     lower: vec!["/store/layers/b".into(), "/store/layers/a".into()],
//!     upper: "/store/w/upper".into(),
//!     work: "/store/w/work".into(),
//! });
//! let child = spawner.spawn(Spec::new(root, ["/bin/true"]), Stdio::default())?;
//! assert_eq!(child.wait(), ExitStatus::Exited(0));
//! # Ok(())
//! # }
//! ```
#![cfg(target_os = "linux")]
#![expect(
    unsafe_code,
    reason = "clone3, the raw system calls of the child and its shared memory have no safe form"
)]

mod capabilities;
mod child;
mod clone;
mod contents;
mod error;
mod mount;
mod overlay;
mod plan;
mod reap;
mod seccomp;
mod setup;
mod spawner;
mod spec;
mod stubs;
mod sys;

pub use capabilities::{Capability, CapabilitySet};
pub use child::{Child, ExitStatus, ResourceUsage};
pub use contents::Contents;
pub use error::{SandboxError, SpawnError, Step};
pub use mount::{Mount, Node, NodeKind, Root, Source};
pub use seccomp::{SeccompAction, SeccompCompare, SeccompProfile, SeccompRule};
pub use spawner::Spawner;
pub use spec::{
    ControlGroups, INNER_ROOT, IdMap, Namespaces, Network, Resource, Rlimit, Spec, Stdio, Tunnel,
    WindowSize, Wire,
};
pub use stubs::{Stub, StubKind, remove_stubs};
