//! The profile as rules by name, as the OCI runtime specification has them.

use super::profile::{Compare, Verdict};
use super::table::{NO, ROWS};
use crate::CapabilitySet;

/// What becomes of a system call, unless its argument does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeccompRule {
    /// The name of the call.
    pub name: &'static str,
    /// The answer.
    pub action: SeccompAction,
    /// Which argument, counted from 0, has to be what; `None`: any will do.
    pub argument: Option<(u32, SeccompCompare)>,
}

/// The answer to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a rule must not be passed over because it is new"
)]
pub enum SeccompAction {
    /// It is made.
    Allow,
    /// It fails with this error number.
    Errno(i32),
}

/// A test of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a rule must not be passed over because it is new"
)]
pub enum SeccompCompare {
    /// It is this.
    Equal(u32),
    /// It is less.
    Less(u32),
    /// It is more.
    Greater(u32),
    /// It has none of these bits.
    NoneOf(u32),
}

/// The rules of the calls that one of the `columns` of the table has.
pub(super) fn rules(columns: &[usize], capabilities: CapabilitySet) -> Vec<SeccompRule> {
    let mut rules = Vec::with_capacity(ROWS.len());
    for (name, when, numbers) in ROWS {
        if columns.iter().all(|&column| numbers[column] == NO) {
            continue;
        }
        let mut rule = |action, argument| {
            rules.push(SeccompRule {
                name,
                action,
                argument,
            });
        };
        match when.verdict(capabilities) {
            Verdict::Allow => rule(SeccompAction::Allow, None),
            Verdict::Errno(libc::EPERM) => {}
            Verdict::Errno(errno) => rule(SeccompAction::Errno(errno), None),
            Verdict::IfAny(tests) => {
                for test in tests {
                    let compare = match test.is {
                        Compare::Equal(value) => SeccompCompare::Equal(value),
                        Compare::Less(value) => SeccompCompare::Less(value),
                        Compare::Greater(value) => SeccompCompare::Greater(value),
                        Compare::NoneOf(mask) => SeccompCompare::NoneOf(mask),
                    };
                    rule(SeccompAction::Allow, Some((test.argument, compare)));
                }
            }
        }
    }
    rules
}
