use super::Ownership;
use super::profile::{Compare, Verdict, ranges};
use super::table::{ROWS, X86, X86_64};
use super::{
    AUDIT_AARCH64, AUDIT_ARM, AUDIT_X86, AUDIT_X86_64, SeccompProfile, X32_BIT, bpf, sections,
    table,
};
use crate::{Capability, CapabilitySet};

#[expect(
    clippy::cast_possible_truncation,
    reason = "the filter sees the low half"
)]
fn low(value: u64) -> u32 {
    value as u32
}

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;

fn refuse(errno: i32) -> u32 {
    0x0005_0000 | errno.unsigned_abs()
}

/// Runs a filter as the kernel would.
fn run(program: &[libc::sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let (mut pc, mut value) = (0usize, 0u32);
    loop {
        let at = program[pc];
        pc += 1;
        let mut jump = |taken: bool| pc += usize::from(if taken { at.jt } else { at.jf });
        match at.code {
            0x20 => {
                value = match at.k {
                    0 => number,
                    4 => architecture,
                    k => low(arguments[(k as usize - 16) / 8]),
                }
            }
            0x05 => pc += at.k as usize,
            0x15 => jump(value == at.k),
            0x25 => jump(value > at.k),
            0x35 => jump(value >= at.k),
            0x45 => jump(value & at.k != 0),
            0x06 => return at.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn expected(verdict: Verdict, arguments: [u64; 6]) -> u32 {
    match verdict {
        Verdict::Allow => ALLOW,
        Verdict::Errno(errno) => refuse(errno),
        Verdict::IfAny(tests) => {
            let holds = tests.iter().any(|test| {
                let value = low(arguments[test.argument as usize]);
                match test.is {
                    Compare::Equal(other) => value == other,
                    Compare::Less(other) => value < other,
                    Compare::Greater(other) => value > other,
                    Compare::NoneOf(mask) => value & mask == 0,
                }
            });
            if holds { ALLOW } else { refuse(libc::EPERM) }
        }
    }
}

#[test]
fn the_tree_answers_as_the_ranges_do() {
    for capabilities in [
        CapabilitySet::EMPTY,
        CapabilitySet::containerd_default(),
        CapabilitySet::EMPTY.with(Capability::SysAdmin),
        CapabilitySet::ALL,
    ] {
        let all = sections(capabilities, Ownership::Real);
        let program = bpf::compile(&all);
        // The kernel translates all of it for each process.
        assert!(program.len() < 300, "{} instructions", program.len());
        for section in &all {
            for number in (0..2000)
                .chain(0x0f_0000..0x0f_0010)
                .chain([u32::MAX - 1, u32::MAX])
            {
                if section.ceiling.is_some_and(|ceiling| number >= ceiling) {
                    continue;
                }
                let at = section
                    .ranges
                    .partition_point(|&(start, _)| start <= number)
                    - 1;
                for first in [0, 1, 8, 38, 39, 40, 41, 0x2_0008, 0x1000_0000, 0xffff_ffff] {
                    let arguments = [first, 0, 0, 0, 0, 0];
                    assert_eq!(
                        run(&program, section.architecture, number, arguments),
                        expected(section.ranges[at].1, arguments),
                        "call {number} with {first:#x} on {:#x}",
                        section.architecture
                    );
                }
            }
        }
    }
}

#[test]
fn every_row_is_once_in_the_table_and_has_one_number() {
    let mut names: Vec<_> = ROWS.iter().map(|row| row.0).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
    for column in [X86_64, X86, table::AARCH64] {
        let mut numbers: Vec<_> = ROWS
            .iter()
            .map(|r| r.2[column])
            .filter(|&n| n >= 0)
            .collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "column {column}");
    }
}

#[test]
fn the_default_profile_decides_like_containerds() {
    let native = if cfg!(target_arch = "aarch64") {
        AUDIT_AARCH64
    } else {
        AUDIT_X86_64
    };
    let default = SeccompProfile::containerd_default(CapabilitySet::containerd_default());
    let ask = |number: i64, first: u64| {
        run(
            &default.program(),
            native,
            u32::try_from(number).unwrap(),
            [first, 0, 0, 0, 0, 0],
        )
    };
    let denied = refuse(libc::EPERM);
    let cases = [
        (libc::SYS_read, 0, ALLOW),
        (libc::SYS_ptrace, 0, ALLOW),
        (libc::SYS_chroot, 0, ALLOW),
        (libc::SYS_unshare, 0, denied),
        (libc::SYS_mount, 0, denied),
        (libc::SYS_keyctl, 0, denied),
        (libc::SYS_io_uring_setup, 0, denied),
        (libc::SYS_bpf, 0, denied),
        (libc::SYS_clone3, 0, refuse(libc::ENOSYS)),
        (libc::SYS_clone, 17, ALLOW),
        (libc::SYS_clone, libc::CLONE_NEWUSER as u64, denied),
        (libc::SYS_clone, libc::CLONE_NEWNS as u64 | 17, denied),
        (libc::SYS_socket, libc::AF_INET as u64, ALLOW),
        (libc::SYS_socket, libc::AF_ALG as u64, denied),
        (libc::SYS_socket, libc::AF_ALG as u64 | 1 << 32, denied),
        (libc::SYS_socket, libc::AF_VSOCK as u64, denied),
        (libc::SYS_socket, libc::AF_VSOCK as u64 + 1, ALLOW),
        (libc::SYS_personality, 0xffff_ffff, ALLOW),
        (libc::SYS_personality, 0x40_0000, denied),
        (467, 0, refuse(libc::ENOSYS)),
        (600, 0, refuse(libc::ENOSYS)),
    ];
    for (number, first, want) in cases {
        assert_eq!(ask(number, first), want, "call {number} with {first:#x}");
    }
}

#[test]
fn other_architectures_are_handled() {
    let default = SeccompProfile::containerd_default(CapabilitySet::containerd_default());
    let ask = |architecture, number| run(&default.program(), architecture, number, [0; 6]);
    // Of the calls of the 32-bit kind, read is 3 on both.
    if cfg!(target_arch = "aarch64") {
        assert_eq!(ask(AUDIT_ARM, 3), ALLOW);
        assert_eq!(ask(AUDIT_ARM, 337), refuse(libc::EPERM), "unshare");
        assert_eq!(ask(AUDIT_X86, 3), KILL);
        assert_eq!(ask(AUDIT_X86_64, 0), KILL);
    } else {
        assert_eq!(ask(AUDIT_X86, 3), ALLOW);
        assert_eq!(ask(AUDIT_X86, 310), refuse(libc::EPERM), "unshare");
        assert_eq!(ask(AUDIT_X86_64, X32_BIT), refuse(libc::ENOSYS));
        assert_eq!(ask(AUDIT_ARM, 3), KILL);
        assert_eq!(ask(AUDIT_AARCH64, 63), KILL);
    }
}

#[test]
fn capabilities_open_their_calls() {
    let verdict = |capabilities, number: u32| {
        let ranges = ranges(X86_64, capabilities, Ownership::Real);
        ranges[ranges.partition_point(|&(start, _)| start <= number) - 1].1
    };
    let syslog = 103;
    assert_eq!(
        verdict(CapabilitySet::EMPTY, syslog),
        Verdict::Errno(libc::EPERM)
    );
    for capability in [Capability::Syslog, Capability::SysAdmin] {
        assert_eq!(
            verdict(CapabilitySet::EMPTY.with(capability), syslog),
            Verdict::Allow
        );
    }
    assert!(ranges(X86, CapabilitySet::EMPTY, Ownership::Real).len() > 20);
}
