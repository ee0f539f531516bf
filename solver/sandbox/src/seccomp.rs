//! The system call filter.
//!
//! Owns: containerd's default profile as data, and its compilation to BPF. What it decides is in
//! [`profile`], the numbers are in [`table`], the code generation is in [`bpf`].
//!
//! Differences from containerd's filter, all towards refusing more: programs of the x32 ABI get
//! ENOSYS, and arguments are compared as the 32-bit values that the kernel reads.

mod bpf;
mod profile;
mod rules;
mod table;
#[cfg(test)]
mod tests;

pub use rules::{SeccompAction, SeccompCompare, SeccompRule};

use crate::CapabilitySet;
use std::sync::{Arc, OnceLock};

/// A system call filter, compiled once and cheap to clone.
#[derive(Clone)]
pub struct SeccompProfile {
    program: Arc<[libc::sock_filter]>,
    capabilities: CapabilitySet,
}

impl SeccompProfile {
    /// containerd's default profile for a process with this bounding set: calls that need a
    /// capability outside it are refused with EPERM.
    ///
    /// Compiling takes some 50 microseconds, except for containerd's default set, which is
    /// compiled once in a process.
    #[must_use]
    pub fn containerd_default(capabilities: CapabilitySet) -> Self {
        static DEFAULT: OnceLock<SeccompProfile> = OnceLock::new();
        let default = CapabilitySet::containerd_default();
        if capabilities == default {
            return DEFAULT.get_or_init(|| Self::compiled(default)).clone();
        }
        Self::compiled(capabilities)
    }

    fn compiled(capabilities: CapabilitySet) -> Self {
        Self {
            program: bpf::compile(&sections(capabilities, Ownership::Real)).into(),
            capabilities,
        }
    }

    /// The same filter, which answers every change of an owner with success and does nothing. For
    /// a user namespace with one user, where no change is possible: programs that unpack archives
    /// or install packages as root go on, and what they make belongs to the one user.
    #[must_use]
    pub fn pretending_ownership(&self) -> Self {
        let sections = sections(self.capabilities, Ownership::Pretended);
        Self {
            program: bpf::compile(&sections).into(),
            capabilities: self.capabilities,
        }
    }

    /// The same as rules by name, for container runtimes: the first that fits a call decides, and
    /// without one the answer is EPERM. They say nothing of calls that are newer than the profile.
    #[must_use]
    pub fn rules(&self) -> Vec<SeccompRule> {
        let columns = if cfg!(target_arch = "aarch64") {
            [table::AARCH64, table::ARM]
        } else {
            [table::X86_64, table::X86]
        };
        rules::rules(&columns, self.capabilities)
    }

    pub(crate) fn program(&self) -> Arc<[libc::sock_filter]> {
        Arc::clone(&self.program)
    }
}

impl std::fmt::Debug for SeccompProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SeccompProfile")
            .field("instructions", &self.program.len())
            .finish_non_exhaustive()
    }
}

/// `AUDIT_ARCH_*`: the ELF machine, 64 bit and little-endian marks.
const LITTLE_ENDIAN: u32 = 0x4000_0000;
const BITS_64: u32 = 0x8000_0000;
const AUDIT_X86_64: u32 = 62 | LITTLE_ENDIAN | BITS_64;
const AUDIT_X86: u32 = 3 | LITTLE_ENDIAN;
const AUDIT_AARCH64: u32 = 183 | LITTLE_ENDIAN | BITS_64;
const AUDIT_ARM: u32 = 40 | LITTLE_ENDIAN;

/// x32 calls come in under the `x86_64` architecture with this bit set.
const X32_BIT: u32 = 0x4000_0000;

/// What becomes of calls that change an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    Real,
    Pretended,
}

fn sections(capabilities: CapabilitySet, ownership: Ownership) -> Vec<bpf::Section> {
    let section = |architecture, ceiling, column| bpf::Section {
        architecture,
        ceiling,
        ranges: profile::ranges(column, capabilities, ownership),
    };
    if cfg!(target_arch = "aarch64") {
        vec![
            section(AUDIT_AARCH64, None, table::AARCH64),
            section(AUDIT_ARM, None, table::ARM),
        ]
    } else {
        vec![
            section(AUDIT_X86_64, Some(X32_BIT), table::X86_64),
            section(AUDIT_X86, None, table::X86),
        ]
    }
}
