//! The group of one step: made, locked, filled, removed.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::CgroupError;
use super::directory::Directory;
use super::places::{Hierarchy, PREFIX};
use super::values::{Setting, Version};

/// How often removing a group is tried: its processes are dead, but the kernel may still be
/// clearing up after them.
const ATTEMPTS: u32 = 200;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// How often making a group is tried: a collector may remove it before it is locked.
const RETRIES: u32 = 8;

/// A control group for one step, in one or more hierarchies. Dropping it removes it; its
/// processes have to be gone by then.
#[derive(Debug)]
pub struct Group {
    name: String,
    members: Vec<Member>,
}

/// The group's directory in one hierarchy.
#[derive(Debug)]
pub(super) struct Member {
    version: Version,
    controllers: Vec<&'static str>,
    parent: Directory,
    name: String,
    /// Locked as long as the group is in use.
    directory: Directory,
}

impl Group {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            members: Vec::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn add(&mut self, member: Member) {
        self.members.push(member);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        let mut all = self.members.iter().flat_map(|member| &member.controllers);
        all.any(|known| *known == controller)
    }

    /// What the sandbox needs to put a process into the group.
    ///
    /// # Errors
    /// [`CgroupError::Io`].
    pub(in crate::executor) fn lend(&self) -> Result<ashlar_sandbox::ControlGroups, CgroupError> {
        let mut lent = ashlar_sandbox::ControlGroups::default();
        for member in &self.members {
            match member.version {
                Version::Two => {
                    let fd = member.directory.fd.as_fd().try_clone_to_owned();
                    let fd = fd.map_err(|source| CgroupError::Io {
                        action: "open",
                        path: member.directory.path.clone(),
                        source,
                    })?;
                    lent.unified = Some(Arc::new(fd));
                }
                Version::One => {
                    let procs: OwnedFd = member.directory.open_for_writing("cgroup.procs")?;
                    lent.procs.push(Arc::new(procs));
                }
            }
        }
        Ok(lent)
    }

    /// How many processes of the group the kernel killed because memory ran out; `None` if that
    /// cannot be told.
    #[must_use]
    pub fn out_of_memory_kills(&self) -> Option<u64> {
        self.members.iter().find_map(|member| {
            let file = match member.version {
                Version::Two => "memory.events",
                Version::One => "memory.oom_control",
            };
            let text = member.directory.read(file)?;
            let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
            count?.trim().parse().ok()
        })
    }

    /// The most memory that the group used, in bytes; `None` if that cannot be told.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        self.members.iter().find_map(|member| {
            let file = match member.version {
                Version::Two => "memory.peak",
                Version::One => "memory.max_usage_in_bytes",
            };
            member.directory.read(file)?.trim().parse().ok()
        })
    }
}

impl Member {
    /// Makes a group called `name` below `parent`, itself below `base`, and writes its settings.
    pub(super) fn make(
        base: Directory,
        hierarchy: &Hierarchy,
        parent: &[String],
        name: &str,
        wanted: &[Setting],
    ) -> Result<Self, CgroupError> {
        let mut controllers: Vec<&'static str> =
            wanted.iter().map(|setting| setting.controller).collect();
        controllers.dedup();
        let mut directory = base;
        for name in parent {
            allow_below(&directory, hierarchy.version, &controllers)?;
            directory = directory.child_or_new(name)?;
            inherit_cpuset(&directory, hierarchy)?;
        }
        allow_below(&directory, hierarchy.version, &controllers)?;
        collect(&directory);
        let parent = directory;
        let mut tries = 0;
        let directory = loop {
            let made = parent.child_or_new(name)?;
            // A collector that saw it before the lock has removed it, so that the name is gone.
            if made.lock(FlockOperation::NonBlockingLockShared) && parent.child(name).is_ok() {
                break made;
            }
            tries += 1;
            if tries == RETRIES {
                return Err(CgroupError::Io {
                    action: "lock",
                    path: made.path,
                    source: Errno::AGAIN.into(),
                });
            }
        };
        let member = Self {
            version: hierarchy.version,
            controllers,
            parent,
            name: name.to_owned(),
            directory,
        };
        inherit_cpuset(&member.directory, hierarchy)?;
        for setting in wanted {
            member.directory.write(setting.file, &setting.value)?;
        }
        Ok(member)
    }
}

/// Lets groups below `directory` have limits: the new interface wants that said.
fn allow_below(
    directory: &Directory,
    version: Version,
    controllers: &[&'static str],
) -> Result<(), CgroupError> {
    const FILE: &str = "cgroup.subtree_control";
    if version == Version::One {
        return Ok(());
    }
    let allowed = directory.read(FILE).unwrap_or_default();
    for controller in controllers {
        if !allowed.split_whitespace().any(|known| known == *controller) {
            directory.write(FILE, &format!("+{controller}"))?;
        }
    }
    Ok(())
}

/// A new group of the old interface has no processors and no memory nodes, and takes no process
/// before it has.
fn inherit_cpuset(directory: &Directory, hierarchy: &Hierarchy) -> Result<(), CgroupError> {
    let is_cpuset = hierarchy.controllers.iter().any(|name| name == "cpuset");
    if hierarchy.version == Version::Two || !is_cpuset {
        return Ok(());
    }
    let Some(parent) = directory.path.parent() else {
        return Ok(());
    };
    let parent = Directory::open(parent)?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mine = directory.read(file).unwrap_or_default();
        if let (true, Some(theirs)) = (mine.trim().is_empty(), parent.read(file)) {
            directory.write(file, theirs.trim())?;
        }
    }
    Ok(())
}

/// Removes groups that killed processes left: nobody holds their locks.
fn collect(directory: &Directory) {
    for name in directory.names().unwrap_or_default() {
        if !name.starts_with(PREFIX) {
            continue;
        }
        if let Ok(left) = directory.child(&name)
            && left.lock(FlockOperation::NonBlockingLockExclusive)
        {
            // Not empty: its processes are still dying, and the next one removes it.
            let _later = directory.remove(&name);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        for _ in 0..ATTEMPTS {
            match self.parent.remove(&self.name) {
                Err(Errno::BUSY) => std::thread::sleep(PAUSE),
                // Anything else is left to a later collector.
                _ => return,
            }
        }
    }
}
