//! Where groups can be made: the hierarchies that are mounted, and the host's own groups in them.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::directory::Directory;
use super::group::{Group, Member};
use super::values::{Setting, Version, settings};
use super::{CgroupError, CpuQuota, Resources};

/// Bytes of a parent's name at most: the kernel's limit on a path.
const MAX_PARENT: usize = 4096;

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Controllers of a hierarchy of the old interface.
    pub(super) controllers: Vec<String>,
    /// Where it can be seen.
    pub(super) mount: PathBuf,
    /// The group of the host process, relative to `mount`.
    pub(super) own: PathBuf,
}

/// Makes groups for steps.
#[derive(Debug, Clone)]
pub struct ControlGroups {
    pub(super) hierarchies: Vec<Hierarchy>,
}

/// Tells groups of one process apart; their names also hold something random.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl ControlGroups {
    /// Makes groups below those of the host process.
    #[must_use]
    pub fn of_host() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let hierarchies = find(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        Self { hierarchies }
    }

    /// Makes no groups: limits are refused, or warned of where an ordinary user runs steps.
    #[must_use]
    pub fn none() -> Self {
        Self {
            hierarchies: Vec::new(),
        }
    }

    /// Makes groups below `base`, a path from the top of each hierarchy, instead; `/` is what
    /// BuildKit does. The caller has to own that group.
    #[must_use]
    pub fn below(base: impl AsRef<Path>) -> Self {
        let mut groups = Self::of_host();
        let clean: PathBuf = base
            .as_ref()
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        for hierarchy in &mut groups.hierarchies {
            hierarchy.own.clone_from(&clean);
        }
        groups
    }

    /// Makes a group with `resources`, below `parent` if that is not empty. One of them has to
    /// be given. The parent is made if it is missing, and stays. Blocks.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left behind.
    pub fn make(&self, parent: &str, resources: &Resources) -> Result<Group, CgroupError> {
        let parent = parent_path(parent)?;
        let mut random = [0; 8];
        // Without random bytes, names of one process still differ.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let name = format!(
            "{PREFIX}{:016x}-{}",
            u64::from_ne_bytes(random),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut group = Group::new(name);
        for version in [Version::Two, Version::One] {
            let wanted = settings(resources, version)?;
            let here = |hierarchy: &&Hierarchy| hierarchy.version == version;
            for hierarchy in self.hierarchies.iter().filter(here) {
                let missing = |setting: &&Setting| !group.has(setting.controller);
                let wanted: Vec<Setting> = wanted
                    .iter()
                    .filter(missing)
                    .filter(|setting| hierarchy.has(setting.controller))
                    .cloned()
                    .collect();
                if !wanted.is_empty() || !parent.is_empty() {
                    self.join(hierarchy, &parent, &wanted, &mut group)?;
                }
            }
        }
        // The names of controllers are the same in both versions.
        for setting in settings(resources, Version::Two)? {
            if !group.has(setting.controller) {
                return Err(CgroupError::NoPlace {
                    controller: setting.controller,
                    source: None,
                });
            }
        }
        if group.is_empty() {
            return Err(CgroupError::NoPlace {
                controller: "any",
                source: None,
            });
        }
        Ok(group)
    }

    /// Makes the group's part in one hierarchy: in the host's own group, or in the nearest one
    /// above it that may have groups with these limits.
    fn join(
        &self,
        hierarchy: &Hierarchy,
        parent: &[String],
        wanted: &[Setting],
        group: &mut Group,
    ) -> Result<(), CgroupError> {
        let mut last = None;
        for place in hierarchy.own.ancestors() {
            let tried = Directory::open(&hierarchy.mount.join(place))
                .and_then(|base| Member::make(base, hierarchy, parent, group.name(), wanted));
            match tried {
                Ok(member) => {
                    group.add(member);
                    return Ok(());
                }
                Err(error) => last = last.or(Some(error)),
            }
            // Without limits any group will do, and those of the old interface can be set in any.
            if hierarchy.version == Version::One || wanted.is_empty() {
                break;
            }
        }
        match last {
            Some(CgroupError::Io { source, .. }) if !wanted.is_empty() => {
                Err(CgroupError::NoPlace {
                    controller: wanted.first().map_or("any", |setting| setting.controller),
                    source: Some(source),
                })
            }
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The processor quotas of the host's own groups and of those above.
    pub(super) fn quotas(&self) -> Vec<CpuQuota> {
        let mut quotas = Vec::new();
        for hierarchy in &self.hierarchies {
            for place in hierarchy.own.ancestors() {
                let Ok(group) = Directory::open(&hierarchy.mount.join(place)) else {
                    continue;
                };
                quotas.extend(match hierarchy.version {
                    Version::Two => group
                        .read("cpu.max")
                        .and_then(|text| CpuQuota::from_cpu_max(&text)),
                    Version::One => group
                        .read("cpu.cfs_quota_us")
                        .zip(group.read("cpu.cfs_period_us"))
                        .and_then(|(quota, period)| CpuQuota::from_cfs(&quota, &period)),
                });
            }
        }
        quotas
    }
}

/// What names of groups begin with.
pub(super) const PREFIX: &str = "ashlar-";

impl Hierarchy {
    fn has(&self, controller: &str) -> bool {
        match self.version {
            Version::One => self.controllers.iter().any(|known| known == controller),
            Version::Two => {
                let top = Directory::open(&self.mount).ok();
                let known = top.and_then(|top| top.read("cgroup.controllers"));
                known.is_some_and(|known| known.split_whitespace().any(|it| it == controller))
            }
        }
    }
}

/// The components of a parent's name.
fn parent_path(parent: &str) -> Result<Vec<String>, CgroupError> {
    let refused = |reason| CgroupError::Parent {
        parent: parent.to_owned(),
        reason,
    };
    if parent.len() > MAX_PARENT || parent.contains('\0') {
        return Err(refused("it is not a path"));
    }
    if parent.ends_with(':') && parent.contains(".slice") {
        return Err(refused("groups of systemd are not supported"));
    }
    let parts = Path::new(parent)
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Ok(name.to_string_lossy().into_owned())),
            Component::ParentDir => Some(Err(refused("it leads upwards"))),
            _ => None,
        });
    parts.collect()
}

/// The hierarchies that are mounted, from the texts of `/proc/self/mountinfo` and
/// `/proc/self/cgroup`.
pub(super) fn find(mountinfo: &str, cgroup: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((mount, kind)) = line.split_once(" - ") else {
            continue;
        };
        let mount: Vec<&str> = mount.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let (Some(root), Some(point)) = (mount.get(3), mount.get(4)) else {
            continue;
        };
        let (version, controllers) = match kind.first() {
            Some(&"cgroup2") => (Version::Two, Vec::new()),
            Some(&"cgroup") => {
                let options = kind.get(2).copied().unwrap_or_default().split(',');
                let names = options.filter(|name| !matches!(*name, "rw" | "ro"));
                (Version::One, names.map(str::to_owned).collect())
            }
            _ => continue,
        };
        // Hierarchies with a name instead of a controller belong to an init system.
        if controllers
            .iter()
            .any(|name: &String| name.starts_with("name="))
        {
            continue;
        }
        let Some(own) = own_group(cgroup, version, &controllers) else {
            continue;
        };
        // What is mounted may be a part of the hierarchy only.
        let Ok(own) = Path::new(own).strip_prefix(root) else {
            continue;
        };
        let hierarchy = Hierarchy {
            version,
            controllers,
            mount: PathBuf::from(point),
            own: own.to_owned(),
        };
        let same = |known: &Hierarchy| {
            known.version == hierarchy.version && known.controllers == hierarchy.controllers
        };
        if !found.iter().any(same) {
            found.push(hierarchy);
        }
    }
    found
}

/// The path of the group of the host process in a hierarchy: `4:memory:/a`, `0::/a`.
fn own_group<'a>(cgroup: &'a str, version: Version, controllers: &[String]) -> Option<&'a str> {
    cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let same = match version {
            Version::Two => names.is_empty(),
            Version::One => {
                let mut names = names.split(',');
                names.any(|name| !name.is_empty() && controllers.iter().any(|it| it == name))
            }
        };
        same.then_some(path)
    })
}
