//! Compiles verdicts into a classic BPF program.
//!
//! The program is a binary tree over ranges of system call numbers: a call costs about eight
//! comparisons instead of several hundred, and installing it is cheap because the kernel tries
//! every number once. Only instructions that the kernel's own allow-cache understands come before
//! an argument is read.

use super::profile::{Compare, Test, Verdict};
use libc::sock_filter;

/// One architecture's part of a filter.
pub(super) struct Section {
    /// `AUDIT_ARCH_*`.
    pub(super) architecture: u32,
    /// Numbers from here on are answered ENOSYS before the tree is asked (x32 on `x86_64`).
    pub(super) ceiling: Option<u32>,
    /// See [`super::profile::ranges`].
    pub(super) ranges: Vec<(u32, Verdict)>,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn errno(number: i32) -> sock_filter {
    statement(RETURN, ERRNO | number.unsigned_abs())
}

/// The whole program. A call from an architecture without a section kills the process.
pub(super) fn compile(sections: &[Section]) -> Vec<sock_filter> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for section in sections {
        let mut body = vec![statement(LOAD, NUMBER)];
        if let Some(ceiling) = section.ceiling {
            body.push(branch(AT_LEAST, ceiling, 0, 1));
            body.push(errno(libc::ENOSYS));
        }
        body.extend(tree(&section.ranges));
        program.push(branch(EQUAL, section.architecture, 1, 0));
        program.push(statement(JUMP, length(&body)));
        program.extend(body);
    }
    program.push(statement(RETURN, KILL_PROCESS));
    program
}

fn length(block: &[sock_filter]) -> u32 {
    u32::try_from(block.len()).expect("BUG: a filter of the table has fewer than 4096 instructions")
}

fn tree(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    if let [(_, verdict)] = ranges {
        return leaf(*verdict);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let below = tree(low);
    let pivot = high[0].0;
    let mut block = match u8::try_from(below.len()) {
        Ok(skip) => vec![branch(AT_LEAST, pivot, skip, 0)],
        // Conditional jumps reach 255 instructions, unconditional ones everything.
        Err(_) => vec![
            branch(AT_LEAST, pivot, 0, 1),
            statement(JUMP, length(&below)),
        ],
    };
    block.extend(below);
    block.extend(tree(high));
    block
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    match verdict {
        Verdict::Allow => vec![statement(RETURN, ALLOW)],
        Verdict::Errno(number) => vec![errno(number)],
        Verdict::IfAny(tests) => {
            let mut block: Vec<_> = tests.iter().flat_map(|test| check(*test)).collect();
            block.push(errno(libc::EPERM));
            block
        }
    }
}

/// Loads the low half of the argument and returns ALLOW if the test holds.
fn check(test: Test) -> [sock_filter; 3] {
    // Both supported architectures are little-endian: the low half comes first.
    let load = statement(LOAD, ARGUMENTS + 8 * test.argument);
    let jump = match test.is {
        Compare::Equal(value) => branch(EQUAL, value, 0, 1),
        Compare::Less(value) => branch(AT_LEAST, value, 1, 0),
        Compare::Greater(value) => branch(GREATER, value, 0, 1),
        Compare::NoneOf(mask) => branch(ANY_BIT, mask, 1, 0),
    };
    [load, jump, statement(RETURN, ALLOW)]
}
