//! Values and places on their own, groups in a plain directory that plays a hierarchy, and on the
//! hierarchies of this machine.

use std::path::{Path, PathBuf};

use super::places::{Hierarchy, PREFIX, find};
use super::values::{Version, settings};
use super::*;

fn resources() -> Resources {
    Resources {
        memory: 64 << 20,
        memory_swap: 96 << 20,
        cpu_shares: 1024,
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpuset_cpus: "0-1".into(),
        cpuset_mems: "0".into(),
    }
}

fn written(resources: &Resources, version: Version) -> Vec<(&'static str, String)> {
    let all = settings(resources, version).unwrap();
    all.into_iter().map(|set| (set.file, set.value)).collect()
}

fn pairs(expected: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let own = |&(file, value): &(&'static str, &str)| (file, value.to_owned());
    expected.iter().map(own).collect()
}

#[test]
fn values_of_the_old_interface() {
    let expected = pairs(&[
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "100663296"),
        ("cpu.shares", "1024"),
        ("cpu.cfs_period_us", "50000"),
        ("cpu.cfs_quota_us", "25000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]);
    assert_eq!(written(&resources(), Version::One), expected);
}

#[test]
fn values_of_the_new_interface() {
    let expected = pairs(&[
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("cpu.weight", "39"),
        ("cpu.max", "25000 50000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
    ]);
    assert_eq!(written(&resources(), Version::Two), expected);
    let open = Resources {
        memory: 1,
        memory_swap: -1,
        cpu_shares: 1 << 40,
        cpu_quota: -1,
        ..Resources::default()
    };
    let expected = pairs(&[
        ("memory.max", "1"),
        ("memory.swap.max", "max"),
        ("cpu.weight", "10000"),
        ("cpu.max", "max 100000"),
    ]);
    assert_eq!(written(&open, Version::Two), expected);
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let with = |change: fn(&mut Resources)| {
        let mut resources = Resources::default();
        change(&mut resources);
        resources
    };
    for (resources, name) in [
        (with(|r| r.memory = -5), "memory"),
        (with(|r| r.memory_swap = -2), "memory_swap"),
        (with(|r| r.memory_swap = 5), "memory_swap"),
        (with(|r| (r.memory, r.memory_swap) = (9, 8)), "memory_swap"),
        (with(|r| r.cpuset_cpus = "0\n".into()), "cpuset_cpus"),
        (with(|r| r.cpuset_mems = "a".into()), "cpuset_mems"),
    ] {
        let error = settings(&resources, Version::Two).unwrap_err();
        assert!(
            matches!(error, CgroupError::Limit { name: n, .. } if n == name),
            "{error}"
        );
        assert_eq!(error.fault(), Fault::Input);
    }
}

#[test]
fn hierarchies_are_found_with_the_own_group() {
    let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                  32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  35 31 0:32 /pod /sys/fs/cgroup/memory rw,nosuid shared:3 - cgroup cgroup rw,memory\n\
                  36 31 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  42 31 0:38 / /elsewhere rw - cgroup2 cgroup2 rw\n";
    let own = "9:name=systemd:/s\n4:memory:/pod/a/b\n2:cpu,cpuacct:/c\n0::/user.slice/x.scope\n";
    let short = |hierarchy: &Hierarchy| {
        (
            hierarchy.mount.to_str().unwrap().to_owned(),
            hierarchy.own.to_str().unwrap().to_owned(),
        )
    };
    let expected = [
        ("/sys/fs/cgroup/cpu,cpuacct", "c"),
        ("/sys/fs/cgroup/memory", "a/b"),
        ("/sys/fs/cgroup/unified", "user.slice/x.scope"),
    ];
    let found: Vec<_> = find(mounts, own).iter().map(short).collect();
    let expected: Vec<_> = expected.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
    assert_eq!(found, expected);
    assert_eq!(find("nonsense - \n1 2 - cgroup\n", "0::\n:\n"), []);
}

/// A plain directory as the new interface, with the host in `host/inner`.
fn fake() -> (tempfile::TempDir, ControlGroups) {
    let directory = tempfile::tempdir().unwrap();
    let mount = directory.path().to_owned();
    std::fs::create_dir_all(mount.join("host/inner")).unwrap();
    std::fs::write(mount.join("cgroup.controllers"), "cpuset cpu memory\n").unwrap();
    let hierarchy = Hierarchy {
        version: Version::Two,
        controllers: Vec::new(),
        mount,
        own: PathBuf::from("host/inner"),
    };
    let hierarchies = vec![hierarchy];
    (directory, ControlGroups { hierarchies })
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|e| panic!("{:?}: {e}", path.as_ref()))
}

fn groups_in(path: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    all.filter(|path| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(PREFIX)
    })
    .collect()
}

#[test]
fn a_group_of_the_new_interface() {
    let (directory, groups) = fake();
    let inner = directory.path().join("host/inner");
    let group = groups.make("a/b", &resources()).unwrap();
    let made = groups_in(&inner.join("a/b"));
    assert_eq!(made.len(), 1);
    for (file, value) in written(&resources(), Version::Two) {
        assert_eq!(text(made[0].join(file)), value, "{file}");
    }
    // Every group on the way lets the ones below have limits. The kernel adds, a file keeps the
    // last line.
    for way in ["", "a", "a/b"] {
        assert_eq!(
            text(inner.join(way).join("cgroup.subtree_control")),
            "+cpuset",
            "{way}"
        );
    }
    std::fs::write(made[0].join("memory.events"), "low 0\noom 3\noom_kill 2\n").unwrap();
    assert_eq!(group.out_of_memory_kills(), Some(2));
    std::fs::write(made[0].join("memory.peak"), "4096\n").unwrap();
    assert_eq!(group.peak_memory(), Some(4096));
    assert!(group.lend().unwrap().unified.is_some());
}

#[test]
fn a_busy_group_is_passed_over_for_the_one_above() {
    let (directory, groups) = fake();
    // Whoever writes here is refused, as by the kernel in a group that has processes.
    let busy = directory.path().join("host/inner/cgroup.subtree_control");
    std::fs::create_dir(busy).unwrap();
    let _group = groups.make("", &resources()).unwrap();
    assert_eq!(groups_in(&directory.path().join("host/inner")).len(), 0);
    assert_eq!(groups_in(&directory.path().join("host")).len(), 1);
}

#[test]
fn a_controller_that_is_not_there_is_told() {
    let (directory, groups) = fake();
    std::fs::write(directory.path().join("cgroup.controllers"), "cpu\n").unwrap();
    let error = groups.make("", &resources()).unwrap_err();
    assert!(
        matches!(
            error,
            CgroupError::NoPlace {
                controller: "memory",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.remedy().unwrap().contains("Delegate=yes"));
    let none = ControlGroups {
        hierarchies: Vec::new(),
    };
    let error = none.make("x", &Resources::default()).unwrap_err();
    assert!(
        matches!(
            error,
            CgroupError::NoPlace {
                controller: "any",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_killed_processes_left_is_collected_and_the_living_stay() {
    let (directory, groups) = fake();
    let inner = directory.path().join("host/inner");
    let only_a_group = Resources::default();
    let living = groups.make("p", &only_a_group).unwrap();
    let left = inner.join("p").join(format!("{PREFIX}0123"));
    std::fs::create_dir(&left).unwrap();
    let second = groups.make("p", &only_a_group).unwrap();
    assert!(!left.exists());
    assert_eq!(groups_in(&inner.join("p")).len(), 2);
    drop((living, second));
    assert_eq!(groups_in(&inner.join("p")).len(), 0);
}

#[test]
fn parents_that_lead_elsewhere_are_refused() {
    let (directory, groups) = fake();
    for parent in ["../x", "a/../../x", "a\0", "x.slice:"] {
        let error = groups.make(parent, &Resources::default()).unwrap_err();
        assert_eq!(error.fault(), Fault::Input, "{parent}");
    }
    std::os::unix::fs::symlink("/tmp", directory.path().join("host/inner/link")).unwrap();
    let error = groups.make("link", &Resources::default()).unwrap_err();
    assert!(matches!(error, CgroupError::Io { .. }), "{error}");
}

#[test]
fn processors_are_cut_down_by_quotas() {
    let max = CpuQuota::from_cpu_max;
    assert_eq!(max("max 100000\n"), None);
    assert_eq!(max("0 100000"), None);
    assert_eq!(max("nonsense"), None);
    assert_eq!(CpuQuota::from_cfs("-1\n", "100000\n"), None);
    let half = CpuQuota::from_cfs("50000\n", "100000\n").unwrap();
    let three = max("250000 100000\n").unwrap();
    for (processors, quotas, expected) in [
        (8, vec![], 8),
        (8, vec![three], 3),
        (2, vec![three], 2),
        (8, vec![three, half], 1),
        (0, vec![], 1),
    ] {
        assert_eq!(parallelism(processors, &quotas), expected, "{quotas:?}");
    }
    let here = available_parallelism();
    assert!(here >= 1 && here <= std::thread::available_parallelism().unwrap().get() + 1);
}

#[test]
fn quotas_of_all_groups_above_count() {
    let (directory, groups) = fake();
    std::fs::write(directory.path().join("host/cpu.max"), "300000 100000\n").unwrap();
    std::fs::write(directory.path().join("host/inner/cpu.max"), "max 100000\n").unwrap();
    assert_eq!(parallelism(16, &groups.quotas()), 3);
}
