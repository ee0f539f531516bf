//! From the table to a verdict for every system call number of one architecture.

use super::Ownership;
use super::table::{NO, ROWS};
use crate::{Capability, CapabilitySet};

/// When a system call of the table is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Without condition.
    Always,
    /// If the bounding set holds one of these.
    Needs(&'static [Capability]),
    /// If it makes no namespace, or with `CAP_SYS_ADMIN`.
    Clone,
    /// With `CAP_SYS_ADMIN`; otherwise the answer is ENOSYS, which makes C libraries fall back to
    /// `clone`, whose flags a filter can see.
    Clone3,
    /// For every address family but `AF_ALG` and `AF_VSOCK`.
    Socket,
    /// For the personalities that only ask or only turn off address space randomisation.
    Personality,
}

/// What the filter answers to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Errno(i32),
    /// Allow if one of the tests holds, otherwise EPERM.
    IfAny(&'static [Test]),
}

/// A test of the low 32 bits of an argument. The kernel reads no more of the arguments tested
/// here, so that the high half cannot be used to get around a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) argument: u32,
    pub(super) is: Compare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Equal(u32),
    Less(u32),
    Greater(u32),
    NoneOf(u32),
}

const SOCKET: &[Test] = &[
    Test {
        argument: 0,
        is: Compare::Less(libc::AF_ALG.cast_unsigned()),
    },
    Test {
        argument: 0,
        is: Compare::Equal(libc::AF_ALG.cast_unsigned() + 1),
    },
    Test {
        argument: 0,
        is: Compare::Greater(libc::AF_VSOCK.cast_unsigned()),
    },
];

const PERSONALITY: &[Test] = &[
    Test {
        argument: 0,
        is: Compare::Equal(0x0),
    },
    Test {
        argument: 0,
        is: Compare::Equal(0x8),
    },
    Test {
        argument: 0,
        is: Compare::Equal(0x2_0000),
    },
    Test {
        argument: 0,
        is: Compare::Equal(0x2_0008),
    },
    Test {
        argument: 0,
        is: Compare::Equal(0xffff_ffff),
    },
];

const NO_NAMESPACES: &[Test] = &[Test {
    argument: 0,
    is: Compare::NoneOf(
        (libc::CLONE_NEWNS
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWCGROUP)
            .cast_unsigned(),
    ),
}];

/// The calls that change the owner of a file.
const CHANGE_OWNERS: &[&str] = &[
    "chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32",
];

/// Numbers from here on are private calls of 32-bit ARM, far above the common table.
const ARM_PRIVATE: u32 = 0x0f_0000;

impl When {
    pub(super) fn verdict(self, capabilities: CapabilitySet) -> Verdict {
        let admin = capabilities.contains(Capability::SysAdmin);
        match self {
            Self::Always => Verdict::Allow,
            Self::Needs(any) if any.iter().any(|&c| capabilities.contains(c)) => Verdict::Allow,
            Self::Needs(_) => Verdict::Errno(libc::EPERM),
            Self::Clone | Self::Clone3 if admin => Verdict::Allow,
            Self::Clone => Verdict::IfAny(NO_NAMESPACES),
            Self::Clone3 => Verdict::Errno(libc::ENOSYS),
            Self::Socket => Verdict::IfAny(SOCKET),
            Self::Personality => Verdict::IfAny(PERSONALITY),
        }
    }
}

/// The verdicts of one architecture as sorted ranges: each holds from its number to the next
/// one's. The first starts at 0.
///
/// A number that the profile does not name is refused with EPERM; one above every named call is
/// answered ENOSYS, as runc does, so that programs fall back when a call is newer than the
/// profile.
pub(super) fn ranges(
    column: usize,
    capabilities: CapabilitySet,
    ownership: Ownership,
) -> Vec<(u32, Verdict)> {
    let verdict = |name: &str, when: When| match ownership {
        Ownership::Pretended if CHANGE_OWNERS.contains(&name) => Verdict::Errno(0),
        _ => when.verdict(capabilities),
    };
    let mut named: Vec<(u32, Verdict)> = ROWS
        .iter()
        .filter(|row| row.2[column] != NO)
        .map(|row| (row.2[column].unsigned_abs(), verdict(row.0, row.1)))
        .collect();
    named.sort_by_key(|&(number, _)| number);
    named.dedup_by_key(|&mut (number, _)| number);
    let top = named
        .iter()
        .map(|&(n, _)| n)
        .filter(|&n| n < ARM_PRIVATE)
        .max()
        .unwrap_or(0);

    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut push = |start: u32, verdict: Verdict| {
        if ranges.last().is_none_or(|&(_, last)| last != verdict) {
            ranges.push((start, verdict));
        }
    };
    let mut next = 0;
    let unnamed = |number: u32| {
        Verdict::Errno(if number > top {
            libc::ENOSYS
        } else {
            libc::EPERM
        })
    };
    for (number, verdict) in named {
        if number > next {
            push(next, unnamed(next));
        }
        push(number, verdict);
        next = number + 1;
    }
    push(next, unnamed(next));
    ranges
}
