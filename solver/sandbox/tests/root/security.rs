//! One test per class of published sandbox escapes.

use crate::fixture::{Fixture, bind, open_dir, with};
use ashlar_sandbox::{ExitStatus, Mount, SandboxError, Source, remove_stubs};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;

fn file() -> Source {
    Source::File {
        contents: "x".into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
    }
}

/// A process swaps a mount stub, or a directory above one, for a link to something outside.
#[test]
fn cve_2024_23652_mount_stub_cleanup() {
    let f = Fixture::new();
    let canary = f.new_dir("canary");
    fs::write(canary.join("hosts"), "").unwrap();
    fs::create_dir(canary.join("empty")).unwrap();
    let upper = f.path().join("swap");
    let spec = with(f.shell("swap", "true"), |s| {
        s.mounts = vec![
            Mount::new("/new/hosts", file()),
            bind("/new/empty", &canary),
            bind("/other", &canary),
            bind("/full", &canary),
            Mount::new("/content", file()),
        ];
    });
    let output = f.run(spec);
    assert_eq!(output.stubs.len(), 6, "{output:?}");
    // What the process could do after unmounting in a namespace of its own.
    fs::remove_dir_all(upper.join("new")).unwrap();
    symlink(&canary, upper.join("new")).unwrap();
    fs::remove_dir(upper.join("other")).unwrap();
    symlink(canary.join("empty"), upper.join("other")).unwrap();
    fs::write(upper.join("full/kept"), "").unwrap();
    fs::write(upper.join("content"), "kept").unwrap();
    assert_eq!(
        remove_stubs(open_dir(&upper).as_fd(), &output.stubs).unwrap(),
        0
    );
    assert!(canary.join("hosts").exists() && canary.join("empty").is_dir());
    assert!(
        fs::symlink_metadata(upper.join("new"))
            .unwrap()
            .is_symlink()
    );
    assert!(
        fs::symlink_metadata(upper.join("other"))
            .unwrap()
            .is_symlink()
    );
    assert!(upper.join("full/kept").exists());
    assert_eq!(fs::read_to_string(upper.join("content")).unwrap(), "kept");
}

/// A descriptor of the host leaks, or the working directory leads through one.
#[test]
fn cve_2024_21626_fd_leak() {
    let f = Fixture::new();
    let leak = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    for fd in 0..40 {
        for path in [
            format!("/proc/self/fd/{fd}"),
            format!("/proc/1/fd/{fd}/etc"),
            format!("/dev/fd/{fd}"),
        ] {
            let spec = with(f.shell("leak", "pwd"), |s| s.cwd = path.clone().into());
            match f.try_run(spec).map_err(|e| e.error) {
                Err(SandboxError::CwdRefused { .. }) => {}
                // A number that is not open.
                Err(SandboxError::Setup { .. }) => {}
                other => panic!("{path}: {other:?}"),
            }
        }
    }
    // The same through links of the image.
    symlink("/proc/self/cwd", f.base.join("cwd")).unwrap();
    symlink("/proc/self/root", f.base.join("escape")).unwrap();
    for path in ["/cwd", "/escape/tmp", "/cwd/.."] {
        let spec = with(f.shell("link", "pwd"), |s| s.cwd = path.into());
        assert!(
            matches!(f.error(spec), SandboxError::CwdRefused { .. }),
            "{path}"
        );
    }
    assert_eq!(f.descriptors("fds"), "0 1 2");
    let up = with(f.shell("up", "pwd"), |s| {
        s.cwd = "/../../../tmp/./x/..//y".into();
    });
    assert_eq!(f.output_of(up), "/tmp/y");
}

/// An image in which the places of kernel file systems and devices are links.
#[test]
fn cve_2025_31133_linked_proc_and_devices() {
    let f = Fixture::new();
    let canary = f.new_dir("canary");
    for name in ["proc", "sys", "dev"] {
        let real = f.base.join(name);
        fs::remove_dir(&real).unwrap();
        for target in [
            "/tmp".to_owned(),
            canary.to_str().unwrap().to_owned(),
            "bin".into(),
        ] {
            symlink(&target, &real).unwrap();
            match f.error(f.shell("linked", "true")) {
                SandboxError::TargetRefused { target } => assert!(target.ends_with(name)),
                other => panic!("{name}: {other:?}"),
            }
            fs::remove_file(&real).unwrap();
        }
        fs::write(&real, "a file").unwrap();
        assert!(matches!(
            f.error(f.shell("linked", "true")),
            SandboxError::TargetRefused { .. }
        ));
        fs::remove_file(&real).unwrap();
        fs::create_dir(&real).unwrap();
    }
    // Links below /dev are covered by the sandbox's own.
    for name in ["null", "console", "ptmx", "pts"] {
        symlink(canary.join("target"), f.base.join("dev").join(name)).unwrap();
    }
    let out = f.output("dev", "stat -c %F /dev/null; echo x > /dev/null; ls /dev/console 2>/dev/null | wc -l; stat -f -c %t /proc");
    assert_eq!(out, "character special file\n0\n9fa0");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
}

/// A mount point that leads out of the root through links.
#[test]
fn cve_2021_30465_linked_mount_points() {
    let f = Fixture::new();
    let canary = f.new_dir("canary");
    let cache = f.new_dir("cache");
    fs::write(cache.join("inside"), "").unwrap();
    symlink("../../../../../../../..", f.base.join("up")).unwrap();
    symlink(&canary, f.base.join("out")).unwrap();
    symlink("/proc/1/root", f.base.join("magic")).unwrap();
    symlink("loop", f.base.join("loop")).unwrap();
    let run = |target: &str| {
        let spec = with(
            f.shell("linked", "find / -name inside -not -path '/proc/*'"),
            |s| {
                s.mounts = vec![bind(target, &cache)];
            },
        );
        f.try_run(spec).map_err(|e| e.error)
    };
    assert_eq!(run("/up/tmp/m").unwrap().stdout, "/tmp/m/inside\n");
    let inside = run("/out/m").unwrap().stdout;
    assert_eq!(
        inside.trim(),
        format!("{}/m/inside", canary.to_str().unwrap())
    );
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 0);
    assert!(matches!(
        run("/magic/m"),
        Err(SandboxError::TargetRefused { .. })
    ));
    assert!(matches!(
        run("/proc/self/cwd"),
        Err(SandboxError::TargetRefused { .. })
    ));
    assert!(matches!(run("/loop/m"), Err(SandboxError::Setup { .. })));
    assert!(matches!(
        run("/bin/busybox/m"),
        Err(SandboxError::Setup { .. })
    ));
}

/// Root in the sandbox is kept from the host's kernel settings, memory and processes.
#[test]
fn root_inside_has_no_way_to_the_host() {
    let f = Fixture::new();
    let script = "for w in /proc/sys/kernel/core_pattern /proc/sys/vm/panic_on_oom /sys/kernel/mm/ksm/run; do \
          (echo 1 > $w) 2>/dev/null && echo wrote $w; done; \
        (umount /proc/sys || umount /proc/keys || mount -o remount,rw /sys) 2>/dev/null && echo changed; \
        chroot / /bin/true && ls -d /proc/1/root/bin; dd if=/dev/mem of=/dev/null bs=1 count=1 2>/dev/null && echo mem; true";
    assert_eq!(f.output("host", script), "/proc/1/root/bin");
    let output = f.run(f.shell("kill", "kill -9 -1; exit 5"));
    assert_eq!(output.status, ExitStatus::Exited(5));
}

/// The host's tree is not merely covered: no mount of it is left in the namespace.
#[test]
fn the_old_root_is_gone() {
    let f = Fixture::new();
    let devices = |text: &str| -> Vec<String> {
        text.lines()
            // There is one for the whole machine.
            .filter(|l| !l.contains(" - cgroup2 "))
            .filter_map(|l| l.split(' ').nth(2))
            .map(str::to_owned)
            .collect()
    };
    let host = devices(&fs::read_to_string("/proc/self/mountinfo").unwrap());
    let cache = f.new_dir("cache");
    let spec = with(
        f.shell("gone", "ls /..; echo mounts:; cat /proc/self/mountinfo"),
        |s| {
            let lower = vec![cache.clone(), f.base.clone()];
            s.mounts = vec![Mount::new("/m", Source::ReadOnlyOverlay { lower }).selector("etc")];
        },
    );
    let out = f.output_of(spec);
    let (listing, mounts) = out.split_once("mounts:\n").unwrap();
    assert!(listing.starts_with("bin\n"), "{out}");
    let inside = devices(mounts);
    assert!(inside.len() > 10, "{mounts}");
    let shared: Vec<_> = inside.iter().filter(|d| host.contains(d)).collect();
    assert!(shared.is_empty(), "{shared:?} in {mounts}");
}

/// The debug form of a specification does not show what may be a secret.
#[test]
fn secrets_are_not_printed() {
    let mount = Mount::new(
        "/run/secrets/a",
        Source::File {
            contents: "hunter2".into(),
            mode: 0,
            uid: 0,
            gid: 0,
        },
    );
    let text = format!("{mount:?}");
    assert!(
        !text.contains("hunter2") && !text.contains("104, 117") && text.contains("/run/secrets/a")
    );
}
