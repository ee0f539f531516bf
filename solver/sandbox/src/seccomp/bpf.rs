//! Compiles verdicts into a classic BPF program.
//!
//! The program is a binary tree over ranges of system call numbers: a call costs about eight
//! comparisons instead of several hundred, and installing it is cheap because the kernel tries
//! every number once. Only instructions that the kernel's own allow-cache understands come before
//! an argument is read.

use super::profile::{Compare, Test, Verdict};
use libc::sock_filter;
use std::collections::HashMap;

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

/// How far a conditional jump reaches, less what may still be put in between.
const REACH: usize = 250;

const fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// The whole program. A call from an architecture without a section kills the process.
pub(super) fn compile(sections: &[Section]) -> Vec<sock_filter> {
    let mut program = Backwards::default();
    let mut next = Target::Answer(KILL_PROCESS);
    for section in sections.iter().rev() {
        let mut body = program.tree(&section.ranges);
        if let Some(ceiling) = section.ceiling {
            body = program.branch(AT_LEAST, ceiling, errno(libc::ENOSYS), body);
        }
        body = program.load(NUMBER, body);
        next = program.branch(EQUAL, section.architecture, body, next);
    }
    program.load(ARCHITECTURE, next);
    program.code.reverse();
    program.code
}

const fn errno(number: i32) -> Target {
    Target::Answer(ERRNO | number.unsigned_abs())
}

/// Where to go on.
#[derive(Clone, Copy)]
enum Target {
    /// The instruction of this number, counted from the end of the program.
    At(usize),
    /// Any instruction that gives this answer.
    Answer(u32),
}

/// A program that is written from its end. Jumps only lead forwards, so that where they lead to is
/// known, and answers that are near enough are used again: the kernel translates every
/// instruction for every process.
#[derive(Default)]
struct Backwards {
    /// The last instruction first.
    code: Vec<sock_filter>,
    /// The latest place of each answer.
    answers: HashMap<u32, usize>,
}

impl Backwards {
    fn push(&mut self, instruction: sock_filter) -> usize {
        self.code.push(instruction);
        self.code.len() - 1
    }

    /// A place that a conditional jump which is written soon can reach.
    fn near(&mut self, target: Target) -> usize {
        match target {
            Target::At(at) if self.code.len() - at <= REACH => at,
            // Unconditional jumps reach everything.
            Target::At(at) => {
                let distance = self.code.len() - at - 1;
                let distance = u32::try_from(distance).expect("BUG: a filter is short");
                self.push(statement(JUMP, distance))
            }
            Target::Answer(answer) => match self.answers.get(&answer) {
                Some(&at) if self.code.len() - at <= REACH => at,
                _ => {
                    let at = self.push(statement(RETURN, answer));
                    self.answers.insert(answer, at);
                    at
                }
            },
        }
    }

    /// A comparison with what was loaded last.
    fn branch(&mut self, code: u16, k: u32, then: Target, otherwise: Target) -> Target {
        let (then, otherwise) = (self.near(then), self.near(otherwise));
        let skip = |at: usize| {
            let skip = u8::try_from(self.code.len() - at - 1);
            skip.expect("BUG: what is near can be reached")
        };
        let (jt, jf) = (skip(then), skip(otherwise));
        Target::At(self.push(sock_filter { code, jt, jf, k }))
    }

    /// Loads a word of `struct seccomp_data` and goes on.
    fn load(&mut self, offset: u32, then: Target) -> Target {
        let then = self.near(then);
        if then + 1 != self.code.len() {
            let distance = self.code.len() - then - 1;
            let distance = u32::try_from(distance).expect("BUG: a filter is short");
            self.push(statement(JUMP, distance));
        }
        Target::At(self.push(statement(LOAD, offset)))
    }

    fn tree(&mut self, ranges: &[(u32, Verdict)]) -> Target {
        if let [(_, verdict)] = ranges {
            return self.leaf(*verdict);
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let above = self.tree(high);
        let below = self.tree(low);
        self.branch(AT_LEAST, high[0].0, above, below)
    }

    fn leaf(&mut self, verdict: Verdict) -> Target {
        match verdict {
            Verdict::Allow => Target::Answer(ALLOW),
            Verdict::Errno(number) => errno(number),
            Verdict::IfAny(tests) => {
                let refused = errno(libc::EPERM);
                let after = |next, test: &Test| self.check(*test, next);
                tests.iter().rev().fold(refused, after)
            }
        }
    }

    /// Loads the low half of the argument and allows the call if the test holds.
    fn check(&mut self, test: Test, next: Target) -> Target {
        let allow = Target::Answer(ALLOW);
        let branch = match test.is {
            Compare::Equal(value) => self.branch(EQUAL, value, allow, next),
            Compare::Less(value) => self.branch(AT_LEAST, value, next, allow),
            Compare::Greater(value) => self.branch(GREATER, value, allow, next),
            Compare::NoneOf(mask) => self.branch(ANY_BIT, mask, next, allow),
        };
        // Both supported architectures are little-endian: the low half comes first.
        self.load(ARGUMENTS + 8 * test.argument, branch)
    }
}
