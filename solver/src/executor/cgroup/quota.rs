//! How many steps a machine, or the part of it that was given to this process, can run at once.

use std::num::NonZero;

use super::places::ControlGroups;

/// A share of processor time: `quota` microseconds in each `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a pair of numbers")]
pub struct CpuQuota {
    /// Microseconds that may be used in a period.
    pub quota: u64,
    /// Length of a period in microseconds.
    pub period: u64,
}

impl CpuQuota {
    /// Reads `cpu.max` of a group; `None` if it sets no limit.
    #[must_use]
    pub fn from_cpu_max(text: &str) -> Option<Self> {
        let (quota, period) = text.trim().split_once(' ')?;
        Self::checked(quota.parse().ok()?, period.parse().ok()?)
    }

    /// Reads `cpu.cfs_quota_us` and `cpu.cfs_period_us`; `None` if they set no limit.
    #[must_use]
    pub fn from_cfs(quota: &str, period: &str) -> Option<Self> {
        let quota: i64 = quota.trim().parse().ok()?;
        Self::checked(u64::try_from(quota).ok()?, period.trim().parse().ok()?)
    }

    fn checked(quota: u64, period: u64) -> Option<Self> {
        (quota > 0 && period > 0).then_some(Self { quota, period })
    }

    /// Processors that it amounts to, rounded up: half a processor still runs one step.
    #[must_use]
    pub fn processors(self) -> usize {
        usize::try_from(self.quota.div_ceil(self.period)).unwrap_or(usize::MAX)
    }
}

/// How many processors can be kept busy: those the process may run on, cut down by every quota of
/// the groups it is in. At least 1. A pure function.
///
/// ```
/// use ashlar_solver::executor::{CpuQuota, parallelism};
///
/// let quota = CpuQuota::from_cpu_max("150000 100000").expect("a limit");
/// assert_eq!(parallelism(8, &[quota]), 2);
/// ```
#[must_use]
pub fn parallelism(processors: usize, quotas: &[CpuQuota]) -> usize {
    let quotas = quotas.iter().map(|quota| quota.processors());
    quotas.fold(processors, usize::min).max(1)
}

/// [`parallelism`] of the host process: its affinity, and the quotas of its own control group and
/// of all above it, in both versions of the interface. Reads a few small files.
#[must_use]
pub fn available_parallelism() -> usize {
    let mask = rustix::thread::sched_getaffinity(None);
    let processors = mask.map_or_else(
        |_| std::thread::available_parallelism().map_or(1, NonZero::get),
        |mask| usize::try_from(mask.count()).unwrap_or(1),
    );
    parallelism(processors, &ControlGroups::of_host().quotas())
}
