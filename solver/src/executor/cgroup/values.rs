//! What limits are called and how they are written, as a pure function of what is asked for.
//!
//! The conversions from the old interface to the new are runc's, because definitions carry the
//! numbers of the old one.

use super::{CgroupError, Resources};

/// The two interfaces of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// A hierarchy per controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// A file of a group and what is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) controller: &'static str,
    pub(super) file: &'static str,
    pub(super) value: String,
}

/// The period that the kernel takes when none is given, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// What has to be written for `resources`, in order.
pub(super) fn settings(
    resources: &Resources,
    version: Version,
) -> Result<Vec<Setting>, CgroupError> {
    check(resources)?;
    let mut all = Vec::new();
    let mut set = |controller, file, value: String| {
        all.push(Setting {
            controller,
            file,
            value,
        });
    };
    let Resources {
        memory,
        memory_swap: swap,
        cpu_shares: shares,
        cpu_period: period,
        cpu_quota: quota,
        ..
    } = *resources;
    match version {
        Version::One => {
            if memory > 0 {
                set("memory", "memory.limit_in_bytes", memory.to_string());
            }
            if swap != 0 {
                set("memory", "memory.memsw.limit_in_bytes", swap.to_string());
            }
            if shares > 0 {
                set("cpu", "cpu.shares", shares.to_string());
            }
            if period > 0 {
                set("cpu", "cpu.cfs_period_us", period.to_string());
            }
            if quota != 0 {
                set("cpu", "cpu.cfs_quota_us", quota.max(-1).to_string());
            }
        }
        Version::Two => {
            if memory > 0 {
                set("memory", "memory.max", memory.to_string());
            }
            match swap {
                0 => {}
                -1 => set("memory", "memory.swap.max", "max".to_owned()),
                // The new interface counts swap alone.
                _ => set("memory", "memory.swap.max", (swap - memory).to_string()),
            }
            if shares > 0 {
                set("cpu", "cpu.weight", weight(shares).to_string());
            }
            if period > 0 || quota != 0 {
                let period = if period == 0 { DEFAULT_PERIOD } else { period };
                let quota = if quota > 0 {
                    quota.to_string()
                } else {
                    "max".to_owned()
                };
                set("cpu", "cpu.max", format!("{quota} {period}"));
            }
        }
    }
    if !resources.cpuset_cpus.is_empty() {
        set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone());
    }
    if !resources.cpuset_mems.is_empty() {
        set("cpuset", "cpuset.mems", resources.cpuset_mems.clone());
    }
    Ok(all)
}

/// From 2..=262144 to 1..=10000, in a straight line.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn check(resources: &Resources) -> Result<(), CgroupError> {
    let wrong = |name, reason: &str| {
        Err(CgroupError::Limit {
            name,
            reason: reason.to_owned(),
        })
    };
    let Resources {
        memory,
        memory_swap: swap,
        ..
    } = *resources;
    if memory < 0 {
        return wrong("memory", "it is negative");
    }
    if swap < -1 {
        return wrong("memory_swap", "it is negative");
    }
    if swap > 0 && memory == 0 {
        return wrong("memory_swap", "it needs a limit of memory");
    }
    if swap > 0 && swap < memory {
        return wrong("memory_swap", "it is less than the limit of memory");
    }
    for (name, list) in [
        ("cpuset_cpus", &resources.cpuset_cpus),
        ("cpuset_mems", &resources.cpuset_mems),
    ] {
        let plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b',');
        if list.len() > 4096 || !list.bytes().all(plain) {
            return wrong(name, "it is not a list like 0-2,4");
        }
    }
    Ok(())
}
