//! Linux capabilities as a set of bits.

/// One capability; the discriminants are the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are the names of capabilities(7)")]
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    LinuxImmutable = 9,
    NetBindService = 10,
    NetBroadcast = 11,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    IpcOwner = 15,
    SysModule = 16,
    SysRawio = 17,
    SysChroot = 18,
    SysPtrace = 19,
    SysPacct = 20,
    SysAdmin = 21,
    SysBoot = 22,
    SysNice = 23,
    SysResource = 24,
    SysTime = 25,
    SysTtyConfig = 26,
    Mknod = 27,
    Lease = 28,
    AuditWrite = 29,
    AuditControl = 30,
    Setfcap = 31,
    MacOverride = 32,
    MacAdmin = 33,
    Syslog = 34,
    WakeAlarm = 35,
    BlockSuspend = 36,
    AuditRead = 37,
    Perfmon = 38,
    Bpf = 39,
    CheckpointRestore = 40,
}

const NAMES: [(Capability, &str); 41] = [
    (Capability::Chown, "CAP_CHOWN"),
    (Capability::DacOverride, "CAP_DAC_OVERRIDE"),
    (Capability::DacReadSearch, "CAP_DAC_READ_SEARCH"),
    (Capability::Fowner, "CAP_FOWNER"),
    (Capability::Fsetid, "CAP_FSETID"),
    (Capability::Kill, "CAP_KILL"),
    (Capability::Setgid, "CAP_SETGID"),
    (Capability::Setuid, "CAP_SETUID"),
    (Capability::Setpcap, "CAP_SETPCAP"),
    (Capability::LinuxImmutable, "CAP_LINUX_IMMUTABLE"),
    (Capability::NetBindService, "CAP_NET_BIND_SERVICE"),
    (Capability::NetBroadcast, "CAP_NET_BROADCAST"),
    (Capability::NetAdmin, "CAP_NET_ADMIN"),
    (Capability::NetRaw, "CAP_NET_RAW"),
    (Capability::IpcLock, "CAP_IPC_LOCK"),
    (Capability::IpcOwner, "CAP_IPC_OWNER"),
    (Capability::SysModule, "CAP_SYS_MODULE"),
    (Capability::SysRawio, "CAP_SYS_RAWIO"),
    (Capability::SysChroot, "CAP_SYS_CHROOT"),
    (Capability::SysPtrace, "CAP_SYS_PTRACE"),
    (Capability::SysPacct, "CAP_SYS_PACCT"),
    (Capability::SysAdmin, "CAP_SYS_ADMIN"),
    (Capability::SysBoot, "CAP_SYS_BOOT"),
    (Capability::SysNice, "CAP_SYS_NICE"),
    (Capability::SysResource, "CAP_SYS_RESOURCE"),
    (Capability::SysTime, "CAP_SYS_TIME"),
    (Capability::SysTtyConfig, "CAP_SYS_TTY_CONFIG"),
    (Capability::Mknod, "CAP_MKNOD"),
    (Capability::Lease, "CAP_LEASE"),
    (Capability::AuditWrite, "CAP_AUDIT_WRITE"),
    (Capability::AuditControl, "CAP_AUDIT_CONTROL"),
    (Capability::Setfcap, "CAP_SETFCAP"),
    (Capability::MacOverride, "CAP_MAC_OVERRIDE"),
    (Capability::MacAdmin, "CAP_MAC_ADMIN"),
    (Capability::Syslog, "CAP_SYSLOG"),
    (Capability::WakeAlarm, "CAP_WAKE_ALARM"),
    (Capability::BlockSuspend, "CAP_BLOCK_SUSPEND"),
    (Capability::AuditRead, "CAP_AUDIT_READ"),
    (Capability::Perfmon, "CAP_PERFMON"),
    (Capability::Bpf, "CAP_BPF"),
    (Capability::CheckpointRestore, "CAP_CHECKPOINT_RESTORE"),
];

impl Capability {
    /// The name of capabilities(7): `CAP_CHOWN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(known, _)| *known == self);
        found.map_or("", |(_, name)| name)
    }
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability.
    pub const EMPTY: Self = Self(0);

    /// Every capability this crate knows.
    pub const ALL: Self = Self((1 << (Capability::CheckpointRestore as u64 + 1)) - 1);

    /// The fourteen capabilities that containerd, and so BuildKit's sandbox mode, gives.
    #[must_use]
    pub const fn containerd_default() -> Self {
        Self::EMPTY
            .with(Capability::Chown)
            .with(Capability::DacOverride)
            .with(Capability::Fsetid)
            .with(Capability::Fowner)
            .with(Capability::Mknod)
            .with(Capability::NetRaw)
            .with(Capability::Setgid)
            .with(Capability::Setuid)
            .with(Capability::Setfcap)
            .with(Capability::Setpcap)
            .with(Capability::NetBindService)
            .with(Capability::SysChroot)
            .with(Capability::Kill)
            .with(Capability::AuditWrite)
    }

    /// What the calling thread has in effect; nothing if that cannot be found out.
    #[must_use]
    pub fn held() -> Self {
        rustix::thread::capabilities(None).map_or(Self::EMPTY, |sets| Self(sets.effective.bits()))
    }

    /// What both sets hold.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set and `capability`.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability as u64)
    }

    /// This set without `capability`.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability as u64))
    }

    /// Whether `capability` is in the set.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u64 != 0
    }

    /// The capabilities in the set, in the kernel's order.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        let all = NAMES.iter().map(|&(capability, _)| capability);
        all.filter(move |&capability| self.contains(capability))
    }

    /// The set as the kernel writes it in `/proc/<pid>/status`: bit n is capability number n.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(iter: I) -> Self {
        iter.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::{Capability, CapabilitySet};

    #[test]
    fn the_default_set_is_containerds() {
        // The value that `grep CapBnd /proc/self/status` shows in a container of containerd.
        assert_eq!(
            CapabilitySet::containerd_default().bits(),
            0x0000_0000_a804_25fb
        );
    }

    #[test]
    fn every_capability_has_its_name() {
        assert_eq!(CapabilitySet::ALL.iter().count(), 41);
        let names: Vec<_> = CapabilitySet::ALL.iter().map(Capability::name).collect();
        assert_eq!(names.first(), Some(&"CAP_CHOWN"));
        assert!(names.contains(&"CAP_SYS_RAWIO") && names.contains(&"CAP_MAC_OVERRIDE"));
        assert_eq!(names.last(), Some(&"CAP_CHECKPOINT_RESTORE"));
    }

    #[test]
    fn a_set_adds_and_removes() {
        let set: CapabilitySet = [Capability::SysAdmin, Capability::Bpf]
            .into_iter()
            .collect();
        assert!(set.contains(Capability::Bpf) && !set.contains(Capability::Chown));
        assert_eq!(set.without(Capability::Bpf).bits(), 1 << 21);
        assert_eq!(CapabilitySet::ALL.bits(), 0x1ff_ffff_ffff);
    }
}
