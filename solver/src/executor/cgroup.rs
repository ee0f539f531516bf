//! Control groups of steps: limits of memory and processor, and how many steps fit a machine.
//!
//! Owns what a step asks for ([`Resources`]), the values that stand for it in both versions of the
//! interface (`values`), where groups are made ([`ControlGroups`]), the life of one ([`Group`]),
//! and [`available_parallelism`].
//!
//! Invariants:
//! - A group is made only for a step that asks for one: limits or a parent. It is below the group
//!   of the host process, or below the nearest one above it that may have groups with limits, so
//!   that a step never has more than was given to the host, unless the builder names another base.
//! - It is removed with its [`Group`]. While it lives its directory is locked; what a killed
//!   process left has no lock and is removed the next time a group is made beside it.
//! - Limits are never dropped in silence: root is refused, and an ordinary user, who has no groups
//!   on most machines, is warned (BuildKit without root drops them and says nothing).
//!
//! Leaves to others: putting the process into the group (`ashlar_sandbox`), and limits on single
//! processes (`setrlimit`).

mod directory;
mod group;
mod places;
mod quota;
mod values;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use group::Group;
pub use places::ControlGroups;
pub use quota::{CpuQuota, available_parallelism, parallelism};

use super::probe::Attempt;
use crate::error::{Blame, Fault};

/// What a step may use; zeros and empty texts mean no limit. Numbers are those of
/// `OpMetadata.linux_resources`, which are those of `docker run`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Resources {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of memory and swap together; -1: no limit on swap.
    pub memory_swap: i64,
    /// Relative weight of the processor: 1024 is an ordinary one.
    pub cpu_shares: u64,
    /// Length of a processor period in microseconds; 0 with a quota: 100,000.
    pub cpu_period: u64,
    /// Microseconds of processor time per period; not positive: no limit.
    pub cpu_quota: i64,
    /// Processors that may be used: `0-2,4`.
    pub cpuset_cpus: String,
    /// Memory nodes that may be used.
    pub cpuset_mems: String,
}

impl Resources {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&ashlar_llb::pb::LinuxResources> for Resources {
    fn from(from: &ashlar_llb::pb::LinuxResources) -> Self {
        Self {
            memory: from.memory,
            memory_swap: from.memory_swap,
            cpu_shares: from.cpu_shares,
            cpu_period: from.cpu_period,
            cpu_quota: from.cpu_quota,
            cpuset_cpus: from.cpuset_cpus.clone(),
            cpuset_mems: from.cpuset_mems.clone(),
        }
    }
}

/// A group cannot be made, or lacks something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A limit makes no sense.
    #[error("the limit {name}: {reason}")]
    Limit {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The parent is no name of a group.
    #[error("{parent:?} is not a cgroup parent: {reason}")]
    Parent {
        /// As the definition has it.
        parent: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// There is no group below which one with these limits may be made.
    #[error("no control group here may have groups with a limit of {controller}")]
    NoPlace {
        /// What is to be limited: `memory`, `cpu`, `cpuset`, or `any` if only a group is asked for.
        controller: &'static str,
        /// Why the last place was refused.
        #[source]
        source: Option<io::Error>,
    },
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The group or a file of it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Blame for CgroupError {
    fn fault(&self) -> Fault {
        match self {
            Self::Limit { .. } | Self::Parent { .. } => Fault::Input,
            Self::NoPlace { .. } | Self::Io { .. } => Fault::Environment,
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::NoPlace { .. } | Self::Io { .. } => Some(
                "run in a delegated control group (`systemd-run --user --scope -p Delegate=yes`), \
                 or name one in the builder of the solver"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Makes a group and removes it, to find out whether that works.
pub(super) fn attempt() -> Attempt {
    let groups = ControlGroups::of_host();
    let limits = Resources {
        memory: 1 << 30,
        ..Resources::default()
    };
    let errno = |error: &io::Error| error.raw_os_error().unwrap_or(0);
    match groups.make("", &limits) {
        Ok(_group) => Attempt::Works,
        Err(CgroupError::Io { action, source, .. }) => {
            Attempt::refused(format!("{action} a control group"), "", errno(&source))
        }
        Err(CgroupError::NoPlace { source, .. }) => Attempt::refused(
            "find a place for control groups",
            "",
            source.as_ref().map_or(0, errno),
        ),
        Err(other) => Attempt::refused(other.to_string(), "", 0),
    }
}
