//! What the process sees of files, and what it leaves behind.

use crate::fixture::{Fixture, bind, open_dir, with};
use ashlar_sandbox::{ExitStatus, Mount, Root, SandboxError, Source, StubKind, remove_stubs};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

#[test]
fn writes_go_to_the_upper_directory_only() {
    let f = Fixture::new();
    f.output("upper", "echo new > /etc/file; rm /bin/false; mkdir /made");
    assert_eq!(
        fs::read_to_string(f.path().join("upper/etc/file")).unwrap(),
        "new\n"
    );
    assert!(f.path().join("upper/made").is_dir());
    // A whiteout took the link's place.
    assert!(
        !fs::symlink_metadata(f.path().join("upper/bin/false"))
            .unwrap()
            .is_symlink()
    );
    assert!(!f.base.join("etc/file").exists() && f.base.join("bin/false").exists());
}

#[test]
fn layers_cover_each_other_from_the_top() {
    let f = Fixture::new();
    let layers: Vec<PathBuf> = (0..3).map(|i| f.new_dir(&format!("l{i}"))).collect();
    for (i, layer) in layers.iter().enumerate() {
        fs::write(layer.join("who"), i.to_string()).unwrap();
        fs::write(layer.join(format!("only{i}")), "").unwrap();
    }
    let lower: Vec<_> = layers
        .iter()
        .rev()
        .cloned()
        .chain([f.base.clone()])
        .collect();
    let read_only = with(
        f.shell(
            "x",
            "cat /who; ls / | grep -c only; touch /new 2>&1 || true",
        ),
        |s| {
            s.root = Root::new(Source::ReadOnlyOverlay {
                lower: lower.clone(),
            });
        },
    );
    let out = f.output_of(read_only);
    assert!(
        out.starts_with("23\n") && out.contains("Read-only"),
        "{out}"
    );
}

#[test]
fn three_hundred_layers_mount() {
    let f = Fixture::new();
    let mut lower: Vec<PathBuf> = (0..300)
        .map(|i| {
            let dir = f.new_dir(&format!("layers/{i}"));
            fs::write(dir.join(format!("f{i}")), "").unwrap();
            dir
        })
        .collect();
    lower.push(f.base.clone());
    let spec = with(
        f.shell("x", "ls / | grep -c '^f[0-9]'; echo x > /f17"),
        |s| {
            let (upper, work) = (f.new_dir("u"), f.new_dir("w"));
            s.root = Root::new(Source::Overlay {
                lower: lower.clone(),
                upper,
                work,
            });
        },
    );
    assert_eq!(f.output_of(spec), "300");
    assert_eq!(fs::read_to_string(f.path().join("u/f17")).unwrap(), "x\n");
    let many = with(f.shell("y", "true"), |s| {
        let lower = vec![f.base.clone(); 501];
        s.root = Root::new(Source::ReadOnlyOverlay { lower });
    });
    assert!(matches!(
        f.error(many),
        SandboxError::TooManyLayers { count: 501 }
    ));
}

#[test]
fn a_bound_root_works_and_a_single_layer_is_read_only() {
    let f = Fixture::new();
    let bound = with(f.shell("x", "echo hi > /file"), |s| {
        s.root = Root::new(Source::Bind {
            path: f.base.clone(),
        });
    });
    f.output_of(bound);
    assert!(f.base.join("file").exists());
    let single = with(f.shell("y", "touch /z 2>/dev/null || echo refused"), |s| {
        s.root = Root::new(Source::ReadOnlyOverlay {
            lower: vec![f.base.clone()],
        });
    });
    assert_eq!(f.output_of(single), "refused");
    let read_only = with(f.shell("z", "touch /z 2>/dev/null || echo refused"), |s| {
        s.root.readonly = true;
        s.cwd = "/made/first".into();
    });
    assert_eq!(f.output_of(read_only), "refused");
}

#[test]
fn every_kind_of_mount_appears() {
    let f = Fixture::new();
    let cache = f.new_dir("cache");
    fs::create_dir_all(cache.join("sub/dir")).unwrap();
    fs::write(cache.join("sub/dir/file"), "inner").unwrap();
    symlink("/sub", cache.join("link")).unwrap();
    let layer = f.new_dir("layer");
    fs::write(layer.join("from"), "overlay").unwrap();
    let spec = with(
        f.shell(
            "kinds",
            "cat /c/sub/dir/file /s/file /o/from /f1 /etc/hosts /secret; echo w > /c/written; \
             touch /s/no 2>/dev/null || echo ro; stat -f -c %T /t; stat -c '%a %u' /secret /t; \
             dd if=/dev/zero of=/t/big bs=1k count=2000 2>/dev/null || echo full; \
             cat /o2/from; touch /o2/up",
        ),
        |s| {
            let text = |t: &str, mode| Source::File {
                contents: t.into(),
                mode,
                uid: 7,
                gid: 8,
            };
            s.mounts = vec![
                bind("/c", &cache),
                bind("/s", &cache).selector("link/dir").readonly(true),
                Mount::new(
                    "/o",
                    Source::ReadOnlyOverlay {
                        lower: vec![layer.clone(), f.base.clone()],
                    },
                ),
                bind("/f1", &cache.join("sub/dir/file")),
                Mount::new("/etc/hosts", text("hosts", 0o644)),
                Mount::new("/secret", text("hush", 0o400)),
                Mount::new(
                    "/t",
                    Source::Tmpfs {
                        size: Some(1 << 20),
                    },
                ),
                Mount::new(
                    "/o2",
                    Source::Overlay {
                        lower: vec![layer.clone()],
                        upper: f.new_dir("u2"),
                        work: f.new_dir("w2"),
                    },
                ),
            ];
        },
    );
    assert_eq!(
        f.output_of(spec),
        "innerinneroverlayinnerhostshushro\ntmpfs\n400 7\n1777 0\nfull\noverlay"
    );
    assert_eq!(fs::read_to_string(cache.join("written")).unwrap(), "w\n");
    assert!(f.path().join("u2/up").exists());
}

#[test]
fn selectors_stay_inside_their_source() {
    let f = Fixture::new();
    let cache = f.new_dir("cache");
    fs::create_dir(cache.join("etc")).unwrap();
    fs::write(cache.join("etc/passwd"), "mine").unwrap();
    symlink("/etc", cache.join("absolute")).unwrap();
    symlink("../../../../../../etc", cache.join("relative")).unwrap();
    for selector in [
        "absolute/passwd",
        "relative/passwd",
        "../../../../etc/passwd",
        "/etc/passwd",
    ] {
        for source in [
            Source::Bind {
                path: cache.clone(),
            },
            Source::ReadOnlyOverlay {
                lower: vec![cache.clone(), f.base.clone()],
            },
        ] {
            let spec = with(f.shell("sel", "cat /m"), |s| {
                s.mounts = vec![Mount::new("/m", source).selector(selector)];
            });
            assert_eq!(f.output_of(spec), "mine", "{selector}");
        }
    }
    let missing = with(f.shell("missing", "true"), |s| {
        s.mounts = vec![bind("/m", &cache).selector("no/where")];
    });
    match f.error(missing) {
        SandboxError::SelectorNotFound { target, selector } => {
            assert_eq!(
                (target.as_path(), selector.as_path()),
                (Path::new("/m"), Path::new("no/where"))
            );
        }
        other => panic!("{other:?}"),
    }
    // A selector of the root.
    let inner = f.new_dir("outer/inner");
    fs::rename(&f.base, inner.join("root")).unwrap();
    let spec = with(f.shell("r", "ls /bin/busybox"), |s| {
        s.root = Root::new(Source::Bind {
            path: f.path().join("outer"),
        })
        .selector("inner/root");
    });
    assert_eq!(f.output_of(spec), "/bin/busybox");
}

#[test]
fn overlays_with_a_selector_and_the_same_layer_do_not_hide_each_other() {
    let f = Fixture::new();
    let (a, b, c) = (f.new_dir("a"), f.new_dir("b"), f.new_dir("c"));
    for (dir, name) in [(&a, "a"), (&b, "b"), (&c, "c")] {
        fs::create_dir(dir.join("d")).unwrap();
        fs::write(dir.join("d").join(name), "").unwrap();
    }
    let over = |one: &PathBuf, two: &PathBuf| Source::ReadOnlyOverlay {
        lower: vec![one.clone(), two.clone()],
    };
    let spec = with(f.shell("hide", "ls /1 /2/d | tr '\\n' ' '"), |s| {
        s.mounts = vec![
            Mount::new("/1", over(&a, &b)).selector("d"),
            Mount::new("/2", over(&a, &c)),
        ];
    });
    assert_eq!(f.output_of(spec), "/1: a b  /2/d: a c");
}

#[test]
fn dev_has_what_containerd_gives() {
    let f = Fixture::new();
    let list = f.output("dev", "ls /dev | tr '\\n' ' '");
    // Where the kernel has a file for its memory, there is a link to it.
    assert_eq!(
        list.trim_start_matches("core "),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    let script = "stat -c '%t:%T %a' /dev/null /dev/tty; echo x > /dev/null; head -c 4 /dev/zero | wc -c; \
                  stat -f -c %T /dev/shm; readlink /dev/ptmx; stat -c %a /dev/shm; ls /dev/pts";
    assert_eq!(
        f.output("dev2", script),
        "1:3 666\n5:0 666\n4\ntmpfs\npts/ptmx\n1777\nptmx"
    );
}

#[test]
fn masked_and_read_only_paths_are_in_force() {
    let f = Fixture::new();
    let script = "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; cat /proc/timer_list | wc -c; \
        for p in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_seqnum; do \
          (echo x > $p) 2>/dev/null && echo wrote $p; done; echo end";
    assert_eq!(f.output("masked", script), "0\n0\n0\nend");
    let own = with(
        f.shell(
            "own",
            "ls /etc | wc -l; cat /bin/false | wc -c; touch /tmp/x 2>/dev/null || echo ro",
        ),
        |s| {
            s.masked_paths = vec![
                "/etc".into(),
                "/bin/busybox.not".into(),
                "/bin/false".into(),
            ];
            s.readonly_paths = vec!["/tmp".into(), "/absent".into()];
        },
    );
    fs::write(f.base.join("etc/x"), "").unwrap();
    fs::remove_file(f.base.join("bin/false")).unwrap();
    fs::write(f.base.join("bin/false"), "content").unwrap();
    assert_eq!(f.output_of(own), "0\n0\nro");
}

#[test]
fn stubs_are_listed_and_removed_and_times_restored() {
    let f = Fixture::new();
    fs::remove_dir(f.base.join("sys")).unwrap();
    fs::create_dir(f.base.join("run")).unwrap();
    fs::create_dir_all(f.base.join("var")).unwrap();
    symlink("../run/real", f.base.join("var/link")).unwrap();
    symlink("/run/resolv.conf", f.base.join("etc/resolv.conf")).unwrap();
    let cache = f.new_dir("cache");
    let file = || Source::File {
        contents: "x".into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
    };
    let before = |name: &str| fs::metadata(f.base.join(name)).unwrap().mtime_nsec();
    let (etc, run) = (before("etc"), before("run"));
    let spec = with(
        f.shell("stubs", "cat /etc/resolv.conf; touch /run/by-step"),
        |s| {
            s.mounts = vec![
                Mount::new("/etc/hosts", file()),
                Mount::new("/etc/resolv.conf", file()),
                bind("/var/link/cache", &cache),
                bind("/var/link/cache/below", &cache),
                bind("/a/../b/c", &cache),
            ];
        },
    );
    let output = f.run(spec);
    assert_eq!(output.status, ExitStatus::Exited(0), "{output:?}");
    let listed: Vec<_> = output
        .stubs
        .iter()
        .map(|s| (s.path.to_str().unwrap(), s.kind))
        .collect();
    use StubKind::{Directory, File};
    assert_eq!(
        listed,
        [
            ("sys", Directory),
            ("etc/hosts", File),
            ("run/resolv.conf", File),
            ("run/real", Directory),
            ("run/real/cache", Directory),
            ("a", Directory),
            ("b", Directory),
            ("b/c", Directory),
        ]
    );
    // A stub inside another mount belongs to that mount.
    assert!(cache.join("below").is_dir());
    let upper = f.path().join("stubs");
    assert_eq!(
        remove_stubs(open_dir(&upper).as_fd(), &output.stubs).unwrap(),
        8
    );
    assert_eq!(
        remove_stubs(open_dir(&upper).as_fd(), &output.stubs).unwrap(),
        0
    );
    let mut left: Vec<_> = fs::read_dir(&upper)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["etc", "run"]);
    assert_eq!(fs::metadata(upper.join("etc")).unwrap().mtime_nsec(), etc);
    // The step changed this one itself.
    assert_ne!(fs::metadata(upper.join("run")).unwrap().mtime_nsec(), run);
}

#[test]
fn stubs_of_a_failed_start_are_reported() {
    let f = Fixture::new();
    fs::remove_dir(f.base.join("sys")).unwrap();
    let error = f.try_run(f.spec("failed", &["absent"])).unwrap_err();
    assert!(matches!(error.error, SandboxError::ProgramNotFound { .. }));
    assert_eq!(error.stubs.len(), 1);
    assert!(f.path().join("failed/sys").is_dir());
}

#[test]
fn set_user_id_programs_work_and_found_device_nodes_do_not() {
    let f = Fixture::new();
    let tool = f.base.join("tmp/stat");
    fs::copy("/bin/busybox", &tool).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    // busybox gives the privilege up again, but a process that had it is root's in /proc.
    for (no_new_privileges, owner) in [(false, "0"), (true, "1000")] {
        let user = with(f.shell("suid", "/tmp/stat -c %u /proc/self/status"), |s| {
            (s.uid, s.no_new_privileges) = (1000, no_new_privileges);
        });
        assert_eq!(f.output_of(user), owner);
    }
    let script = "mknod /tmp/zero c 1 5 && (head -c 1 /tmp/zero 2>&1 || true) | wc -c";
    let refused: usize = f.output("node", script).parse().unwrap();
    assert!(refused > 1, "the node could be read");
    let opened = with(f.shell("node2", script), |s| s.host_devices = true);
    assert_eq!(f.output_of(opened), "1");
    let device = with(f.shell("node3", "head -c 1 /dev/mine | wc -c"), |s| {
        s.mounts = vec![Mount::new(
            "/dev/mine",
            Source::Device {
                path: "/dev/zero".into(),
            },
        )];
    });
    assert_eq!(f.output_of(device), "1");
    let not_device = with(f.shell("node4", "true"), |s| {
        s.mounts = vec![Mount::new(
            "/dev/mine",
            Source::Device {
                path: "/etc/passwd".into(),
            },
        )];
    });
    assert!(matches!(f.error(not_device), SandboxError::Setup { .. }));
}

#[test]
fn nothing_is_mounted_in_the_host() {
    let f = Fixture::new();
    let dir = f.path().to_str().unwrap().to_owned();
    let child = f.start("host", "sleep 5");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&dir), "{mounts}");
    child.kill();
    let _ = child.wait();
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!after.contains(&dir));
}
