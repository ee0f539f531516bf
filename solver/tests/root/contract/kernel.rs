//! What an `Executor` promises that starts real processes. The double starts none and is not
//! asked.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use ashlar_solver::executor::{ExitStatus, Mount, MountSource, Network, ResourceLimit, User};

use ashlar_solver::session::SecretValue;

use super::subject::{Collected, Subject, process, until};

/// Calls `$callback!` with the name of every item.
macro_rules! kernel_items {
    ($callback:ident, $make:expr) => {
        $callback! { kernel, $make;
            arguments_environment_and_directory_are_as_given,
            users_and_groups_are_as_given,
            the_root_is_writable_or_not,
            every_kind_of_mount_appears,
            a_tmpfs_has_its_size,
            a_tmpfs_has_the_mode_of_what_it_covers,
            names_of_hosts_are_known,
            without_a_network_there_is_a_loopback,
            the_network_of_the_host_is_the_hosts,
            limits_are_in_force,
            paths_are_masked_and_read_only,
            capabilities_and_filter_are_containerds,
            device_nodes_cannot_be_opened,
            an_insecure_process_has_everything,
            nothing_of_the_host_is_open,
            a_signal_is_told_by_its_code,
            a_tree_that_ignores_sigterm_is_killed,
            what_a_dropped_run_started_is_gone,
            mount_points_are_removed_and_times_restored,
            what_was_made_before_a_failed_start_is_removed,
            the_directory_is_made_for_its_user,
            children_do_not_outlive_their_parent,
            two_hundred_run_at_once,
        }
    };
}
pub(crate) use kernel_items;

pub(crate) type Make = fn() -> Subject;

fn mount(target: &str, source: MountSource) -> Mount {
    Mount {
        target: target.into(),
        source,
        selector: None,
        readonly: false,
        nosuid: false,
        noexec: false,
    }
}

fn bind(target: &str, path: &Path) -> Mount {
    mount(
        target,
        MountSource::Bind {
            path: path.to_owned(),
        },
    )
}

fn limit(name: &str, soft: u64, hard: u64) -> ResourceLimit {
    ResourceLimit {
        name: name.to_owned(),
        soft,
        hard,
    }
}

fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
    let mut user = User::default();
    (user.uid, user.gid, user.groups) = (uid, gid, groups.to_vec());
    user
}

pub(crate) fn arguments_environment_and_directory_are_as_given(make: Make) {
    let subject = make();
    let odd = "a  b\n'\"$x\\ü\t*";
    let script = "printf '%s|' \"$@\"; echo; pwd; env";
    let mut process = subject.process(&["/bin/sh", "-c", script, "name", odd, "", "-x"]);
    process.env = ["PATH=/bin", "ODD=a b=c'\"\\ü", "EMPTY=", "HOME=/h"]
        .map(str::to_owned)
        .to_vec();
    process.cwd = "/tmp/../etc".into();
    let out = subject.output_of(process);
    let (arguments, rest) = out.split_once("||-x|\n").unwrap();
    assert_eq!(arguments, odd);
    let mut lines: Vec<_> = rest.lines().collect();
    assert_eq!(lines.remove(0), "/etc");
    lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("SHLVL="));
    lines.sort_unstable();
    assert_eq!(lines, ["EMPTY=", "HOME=/h", "ODD=a b=c'\"\\ü", "PATH=/bin"]);
    // The program is looked up where the environment of the process says, inside the root.
    let mut process = subject.process(&["found"]);
    process.env = vec!["PATH=/nowhere:/etc:/tmp".to_owned(), "HOME=/".to_owned()];
    fs::write(
        subject.base().join("tmp/found"),
        "#!/bin/sh\necho found $0\n",
    )
    .unwrap();
    fs::set_permissions(
        subject.base().join("tmp/found"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    assert_eq!(subject.output_of(process), "found /tmp/found\n");
}

pub(crate) fn users_and_groups_are_as_given(make: Make) {
    let subject = make();
    for (user, expected) in [
        (user(0, 0, &[]), "0 0 0"),
        (user(7, 8, &[]), "7 8 8"),
        (user(7, 8, &[9, 2_147_483_647]), "7 8 8 9 2147483647"),
        (user(0, 5, &[6]), "0 5 5 6"),
        (
            user(2_147_483_647, 2_147_483_647, &[]),
            "2147483647 2147483647 2147483647",
        ),
    ] {
        let mut process = subject.shell("grep -E '^(Uid|Gid|Groups)' /proc/self/status");
        process.user = user;
        let out = subject.output_of(process);
        let numbers = |name: &str| -> Vec<u32> {
            let line = out
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.split_ascii_whitespace()
                .map(|it| it.parse().unwrap())
                .collect()
        };
        let (uid, gid) = (numbers("Uid:"), numbers("Gid:"));
        assert!(
            uid.iter().all(|&it| it == uid[0]) && gid.iter().all(|&it| it == gid[0]),
            "{out}"
        );
        let mut groups = numbers("Groups:");
        // The kernel sorts them.
        let own = groups.iter().position(|&it| it == gid[0]);
        groups.remove(own.expect("the group of the process is one of its groups"));
        let text = [vec![uid[0], gid[0], gid[0]], groups].concat();
        let text: Vec<_> = text.iter().map(u32::to_string).collect();
        assert_eq!(text.join(" "), expected);
    }
}

pub(crate) fn the_root_is_writable_or_not(make: Make) {
    let subject = make();
    let (source, upper) = subject.overlay();
    subject.output_of(process(
        source,
        &["/bin/sh", "-c", "echo new > /new; rm /etc/gone"],
    ));
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new\n");
    assert!(upper.join("etc/gone").symlink_metadata().unwrap().rdev() == 0);
    assert!(!subject.base().join("new").exists() && subject.base().join("etc/gone").exists());
    let (source, upper) = subject.overlay();
    let mut readonly = process(
        source,
        &["/bin/sh", "-c", "cat /etc/gone; touch /new /etc/x"],
    );
    readonly.root.readonly = true;
    let ended = subject.run(readonly);
    assert_ne!(ended.status.code(), 0);
    assert_eq!(ended.stdout, "still here\n");
    assert!(ended.stderr.contains("Read-only file system"), "{ended:?}");
    assert!(!upper.join("new").exists());
    // Layers alone are a root too.
    let lower = vec![subject.mount_points(), subject.base().to_owned()];
    let root = MountSource::Layers { lower };
    let layers = process(root, &["/bin/sh", "-c", "touch /etc/new || cat /etc/gone"]);
    assert_eq!(subject.output_of(layers), "still here\n");
}

pub(crate) fn every_kind_of_mount_appears(make: Make) {
    let subject = make();
    let host = subject.new_dir();
    fs::create_dir(host.join("sub")).unwrap();
    fs::write(host.join("sub/file"), "bound\n").unwrap();
    let second = subject.new_dir();
    fs::write(second.join("top"), "second\n").unwrap();
    let upper = subject.new_dir();
    let lower = vec![second.clone(), subject.base().to_owned()];
    let file = MountSource::File {
        contents: SecretValue::new("secret"),
        mode: 0o640,
        uid: 5,
        gid: 6,
    };
    let mut process = subject.shell(
        "cat /rw/sub/file /ro/sub/file /sel/file /one; touch /rw/new; touch /ro/new 2>/dev/null || \
         echo readonly; cat /layers/top /layer/etc/gone /over/top; echo changed > /over/top; \
         touch /layers/x 2>/dev/null || echo readonly; cat /run/file; stat -c ' %a %u %g' /run/file; \
         touch /mem/x && stat -c '%a' /mem; cat /rw/deeper/top",
    );
    let readonly = |mut mount: Mount| {
        mount.readonly = true;
        mount
    };
    let select = |mut mount: Mount, selector: &str| {
        mount.selector = Some(selector.into());
        mount
    };
    process.mounts = vec![
        bind("/rw", &host),
        readonly(bind("/ro", &host)),
        select(bind("/sel", &host), "/sub"),
        select(bind("/one", &host), "sub/file"),
        mount(
            "/layers",
            MountSource::Layers {
                lower: lower.clone(),
            },
        ),
        mount(
            "/layer",
            MountSource::Layers {
                lower: vec![subject.base().to_owned()],
            },
        ),
        mount(
            "/over",
            MountSource::Overlay {
                lower,
                upper: upper.clone(),
                work: subject.new_dir(),
            },
        ),
        mount("/run/file", file),
        mount("/mem", MountSource::Tmpfs { size: None }),
        bind("/rw/deeper", &second),
    ];
    let out = subject.output_of(process);
    let expected = "bound\nbound\nbound\nbound\nreadonly\nsecond\nstill here\nsecond\nreadonly\n\
                    secret 640 5 6\n1777\nsecond\n";
    assert_eq!(out, expected);
    assert!(host.join("new").exists());
    assert_eq!(fs::read_to_string(upper.join("top")).unwrap(), "changed\n");
    assert_eq!(fs::read_to_string(second.join("top")).unwrap(), "second\n");
}

pub(crate) fn a_tmpfs_has_its_size(make: Make) {
    let subject = make();
    let mut process = subject.shell(
        "head -c 1000000 /dev/zero > /mem/a && ! head -c 2000000 /dev/zero > /mem/b 2>/dev/null && \
         stat -c %s /mem/a",
    );
    let size = Some(2 << 20);
    process.mounts = vec![mount("/mem", MountSource::Tmpfs { size })];
    assert_eq!(subject.output_of(process), "1000000\n");
}

pub(crate) fn a_tmpfs_has_the_mode_of_what_it_covers(make: Make) {
    let subject = make();
    let private = subject.base().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o2710)).unwrap();
    let mut process = subject.shell(
        "stat -c %a /private /new /private/below; touch /private/x && echo written; \
         touch /private/below/x 2>/dev/null || echo readonly",
    );
    let size = None;
    let mut readonly = mount("/private/below", MountSource::Tmpfs { size });
    readonly.readonly = true;
    process.mounts = vec![
        mount("/private", MountSource::Tmpfs { size }),
        mount("/new", MountSource::Tmpfs { size }),
        readonly,
    ];
    let expected = "2710\n1777\n1777\nwritten\nreadonly\n";
    assert_eq!(subject.output_of(process), expected);
}

pub(crate) fn names_of_hosts_are_known(make: Make) {
    let subject = make();
    let script = "hostname; cat /etc/hosts; stat -c '%a %u' /etc/hosts /etc/resolv.conf; \
                  grep -c nameserver /etc/resolv.conf; touch /etc/hosts 2>/dev/null || echo fixed";
    let mut process = subject.shell(script);
    process.hostname = "somebody".to_owned();
    process.extra_hosts = vec![("1.2.3.4".to_owned(), "db".to_owned())];
    let out = subject.output_of(process);
    let (hosts, rest) = out.split_once("644 0\n644 0\n").unwrap();
    let expected = "somebody\n127.0.0.1\tlocalhost somebody\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n1.2.3.4\tdb\n";
    assert_eq!(hosts, expected);
    let (count, rest) = rest.split_once('\n').unwrap();
    assert!(count.parse::<u32>().unwrap() > 0);
    assert_eq!(rest, "fixed\n");
}

pub(crate) fn without_a_network_there_is_a_loopback(make: Make) {
    let subject = make();
    let out = subject.output("ls /sys/class/net; ifconfig lo | grep -c UP; cat /proc/net/route");
    let (names, rest) = out.split_once('\n').unwrap();
    assert_eq!(names, "lo");
    assert_eq!(rest.lines().count(), 2, "{out}");
    assert!(rest.starts_with("1\nIface"), "{out}");
}

pub(crate) fn the_network_of_the_host_is_the_hosts(make: Make) {
    let subject = make();
    let script = "readlink /proc/self/ns/net";
    let mut process = subject.shell(script);
    process.network = Network::Host;
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(Path::new(subject.output_of(process).trim()), own);
    assert_ne!(Path::new(subject.output(script).trim()), own);
}

pub(crate) fn limits_are_in_force(make: Make) {
    let subject = make();
    let mut process = subject.shell("ulimit -n; ulimit -Hn; ulimit -c; ulimit -Hf");
    process.limits = vec![
        limit("nofile", 77, 99),
        limit("CORE", 0, 0),
        limit("fsize", 1 << 20, 1 << 21),
    ];
    assert_eq!(subject.output_of(process), "77\n99\n0\n4096\n");
}

pub(crate) fn paths_are_masked_and_read_only(make: Make) {
    let subject = make();
    let out = subject.output(
        "for f in kcore keys timer_list; do [ -e /proc/$f ] && wc -c < /proc/$f; done; \
         for d in /proc/acpi /proc/scsi /sys/firmware; do [ -e $d ] && ls -A $d; done; \
         for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq/default_smp_affinity \
         /sys/kernel/uevent_seqnum /sys/fs/x; do \
         { echo x > $f; } 2>/dev/null && echo wrote $f; done; true",
    );
    assert_eq!(out.replace("0\n", ""), "");
    assert!(out.contains("0\n"), "not one of the files was there");
}

pub(crate) fn capabilities_and_filter_are_containerds(make: Make) {
    let subject = make();
    let script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\n\
                    CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
                    CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n";
    assert_eq!(subject.output(script), expected);
    let mut other = subject.shell(script);
    other.user = user(7, 8, &[]);
    let none = expected.replace("Prm:\t00000000a80425fb", "Prm:\t0000000000000000");
    let none = none.replace("Eff:\t00000000a80425fb", "Eff:\t0000000000000000");
    assert_eq!(subject.output_of(other), none);
    let refused = subject.output(
        "for c in 'unshare -U true' 'unshare -m true' 'mount -t tmpfs x /tmp'; \
         do $c 2>/dev/null && echo $c; done; true",
    );
    assert_eq!(refused, "");
}

/// A node can be made, and be in an image, but not be opened, wherever it is. The ones here are of a
/// device that every machine has.
pub(crate) fn device_nodes_cannot_be_opened(make: Make) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let subject = make();
    let zero = |path: &Path| {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(1, 5)).unwrap();
    };
    zero(&subject.base().join("tmp/old"));
    let (layer, host) = (subject.new_dir(), subject.new_dir());
    zero(&layer.join("old"));
    zero(&host.join("old"));
    let script = "for d in /tmp /dev /host /mem; do mknod $d/new c 1 5 && echo made; done; \
                  for f in /tmp/old /layer/old /host/old /tmp/new /dev/new /host/new /mem/new; do \
                  head -c 1 $f 2> /dev/null && echo opened $f; done; true";
    let mounts = || {
        let layers = MountSource::Layers {
            lower: vec![layer.clone()],
        };
        vec![
            mount("/layer", layers),
            bind("/host", &host),
            mount("/mem", MountSource::Tmpfs { size: None }),
        ]
    };
    let mut process = subject.shell(script);
    process.mounts = mounts();
    assert_eq!(subject.output_of(process), "made\n".repeat(4));
    fs::remove_file(host.join("new")).unwrap();
    let mut readonly = subject.shell(&format!("{script} 2> /dev/null"));
    readonly.mounts = mounts();
    readonly.root.readonly = true;
    // Not in the root, which is still as it should be.
    let out = subject.output_of(readonly);
    assert_eq!(out, "made\n".repeat(3));
    fs::remove_file(host.join("new")).unwrap();
    let mut insecure = subject.shell(script);
    insecure.mounts = mounts();
    insecure.insecure = true;
    let out = subject.output_of(insecure);
    assert!(out.contains("opened /tmp/old\n"), "{out}");
}

pub(crate) fn an_insecure_process_has_everything(make: Make) {
    let subject = make();
    let mut process = subject.shell(
        "grep -E '^(CapEff|CapAmb|Seccomp:)' /proc/self/status; mount -t tmpfs x /tmp && echo mounted; \
         mknod /etc/n c 1 3 && echo > /etc/n && echo opened; echo x > /proc/sysrq-trigger-not 2>&1; \
         ls -d /sys/firmware/* > /dev/null 2>&1; true",
    );
    process.insecure = true;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .unwrap();
    let out = subject.output_of(process);
    let expected = format!("CapEff:\t{own}\nCapAmb:\t{own}\nSeccomp:\t0\nmounted\nopened\n");
    assert!(out.starts_with(&expected), "{out}");
}

pub(crate) fn nothing_of_the_host_is_open(make: Make) {
    let subject = make();
    let out = subject.output_of(subject.process(&["/bin/ls", "/proc/self/fd"]));
    // The last one is the directory that is being read.
    assert_eq!(out, "0\n1\n2\n3\n");
    assert_eq!(
        subject.output("cat; tty; ps -o pid,comm | head -2; echo $$"),
        "not a tty\nPID   COMMAND\n    1 sh\n1\n"
    );
    let environment = subject.output("cat /proc/1/environ | tr '\\0' '\\n'; true");
    assert_eq!(environment, "PATH=/bin\nHOME=/root\n");
    let places = "for p in /proc/1/root /proc/1/cwd /proc/self/root; do ls -A $p; done";
    let out = subject.output(places);
    assert!(!out.contains("var") && !out.contains("boot"), "{out}");
}

pub(crate) fn a_signal_is_told_by_its_code(make: Make) {
    let subject = make();
    // The init process of a namespace is killed from outside only; the kernel does so here.
    let mut process = subject.shell("while :; do :; done");
    process.limits = vec![limit("cpu", 1, 1)];
    let status = subject.run(process).status;
    assert_eq!(status.code(), 128 + 9, "{status:?}");
}

/// Starts a tree of processes that ignore what can be ignored and hide in sessions of their own;
/// each holds a lock on a file of the host.
pub(crate) fn stubborn(subject: &Subject, host: &Path) -> ashlar_solver::executor::Process {
    let mut process = subject.shell(
        "trap '' TERM INT HUP QUIT; \
         for i in 1 2 3; do setsid sh -c 'trap \"\" TERM INT HUP; (while :; do date > /host/'$i'; \
         sleep 0.02; done) & while :; do sleep 1; done' & done; \
         while [ ! -e /host/3 ]; do sleep 0.01; done; echo begun; while :; do sleep 1; done",
    );
    process.mounts = vec![bind("/host", host)];
    process
}

/// Fails if anything still writes below `host`.
pub(crate) fn assert_still(host: &Path) {
    for number in 1..=3 {
        drop(fs::remove_file(host.join(number.to_string())));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(
        fs::read_dir(host).unwrap().count(),
        0,
        "something still runs"
    );
}

pub(crate) fn a_tree_that_ignores_sigterm_is_killed(make: Make) {
    use ashlar_solver::cancel::Cancel;
    use ashlar_solver::clock::{Clock as _, SystemClock};
    let subject = make();
    let host = subject.new_dir();
    let process = stubborn(&subject, &host);
    let (sink, cancel) = (Arc::new(Collected::default()), Cancel::new());
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let ran = subject.run_with(process, sink.clone(), &cancel);
            subject.runtime.block_on(ran)
        });
        until("the start", || {
            sink.text(ashlar_solver::progress::Stream::Stdout) == "begun\n"
        });
        let start = SystemClock.monotonic();
        cancel.cancel();
        // When the cancel returns, they are dead.
        let spent = SystemClock.monotonic() - start;
        assert_still(&host);
        assert!(spent < std::time::Duration::from_secs(1), "{spent:?}");
        let result = run.join().unwrap();
        assert!(
            matches!(
                result,
                Err(ashlar_solver::executor::ExecutorError::Cancelled(_))
            ),
            "{result:?}"
        );
    });
}

pub(crate) fn what_a_dropped_run_started_is_gone(make: Make) {
    use ashlar_solver::cancel::Cancel;
    let subject = make();
    let host = subject.new_dir();
    let process = stubborn(&subject, &host);
    let sink = Arc::new(Collected::default());
    subject.runtime.block_on(async {
        let cancel = Cancel::new();
        let mut ran = Box::pin(subject.run_with(process, sink.clone(), &cancel));
        while sink
            .text(ashlar_solver::progress::Stream::Stdout)
            .is_empty()
        {
            let wait = std::time::Duration::from_millis(20);
            let early = tokio::time::timeout(wait, &mut ran).await;
            assert!(early.is_err(), "{early:?}");
        }
        drop(ran);
        assert_still(&host);
    });
}

pub(crate) fn mount_points_are_removed_and_times_restored(make: Make) {
    let subject = make();
    let (source, upper) = subject.overlay();
    let host = subject.new_dir();
    let old = subject.base().join("etc").metadata().unwrap();
    let mut process = process(
        source,
        &["/bin/sh", "-c", "echo kept > /kept/file; ls -d /a/b/c"],
    );
    process.mounts = vec![
        bind("/a/b/c", &host),
        bind("/etc/below", &host),
        mount("/kept/mem", MountSource::Tmpfs { size: None }),
        mount(
            "/etc/new",
            MountSource::File {
                contents: SecretValue::new(""),
                mode: 0o600,
                uid: 0,
                gid: 0,
            },
        ),
    ];
    assert_eq!(subject.output_of(process), "/a/b/c\n");
    let mut names: Vec<_> = fs::read_dir(&upper)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.sort();
    // `etc` was copied up to hold mount points; it is as it was.
    assert_eq!(names, ["etc", "kept"]);
    let etc = upper.join("etc");
    assert_eq!(fs::read_dir(&etc).unwrap().count(), 0);
    let now = etc.metadata().unwrap();
    assert_eq!(
        (now.mtime(), now.mtime_nsec()),
        (old.mtime(), old.mtime_nsec())
    );
    let kept: Vec<_> = fs::read_dir(upper.join("kept")).unwrap().collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

pub(crate) fn what_was_made_before_a_failed_start_is_removed(make: Make) {
    let subject = make();
    let host = subject.new_dir();
    for program in ["/nowhere", "nowhere"] {
        let (source, upper) = subject.overlay();
        let mut process = process(source, &[program]);
        process.mounts = vec![bind("/a/b/c", &host)];
        subject.try_run(process).unwrap_err();
        let left: Vec<_> = fs::read_dir(&upper)
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert!(left.iter().all(|name| name == "etc"), "{left:?}");
    }
}

pub(crate) fn the_directory_is_made_for_its_user(make: Make) {
    let subject = make();
    let (source, upper) = subject.overlay();
    let mut process = process(
        source,
        &["/bin/sh", "-c", "pwd; touch mine; stat -c '%a %u %g' ."],
    );
    process.cwd = "/new/deep".into();
    process.user = user(7, 8, &[]);
    assert_eq!(subject.output_of(process), "/new/deep\n755 7 8\n");
    assert!(upper.join("new/deep/mine").exists());
    symlink("/tmp", subject.base().join("link")).unwrap();
    let mut process = subject.shell("pwd -P");
    process.cwd = "/link".into();
    assert_eq!(subject.output_of(process), "/tmp\n");
}

pub(crate) fn children_do_not_outlive_their_parent(make: Make) {
    let subject = make();
    let host = subject.new_dir();
    let script = "(while :; do date > /host/1; sleep 0.02; done) & \
                  while [ ! -e /host/1 ]; do sleep 0.01; done; exit 9";
    let mut process = subject.shell(script);
    process.mounts = vec![bind("/host", &host)];
    assert_eq!(subject.run(process).status, ExitStatus::Exited(9));
    assert_still(&host);
}

pub(crate) fn two_hundred_run_at_once(make: Make) {
    use std::io::Write as _;

    use ashlar_solver::cancel::Cancel;
    use rustix::fs::{CWD, FileType};
    const RUNS: usize = 200;
    let subject = make();
    let host = subject.new_dir();
    let gate = host.join("gate");
    let mode = rustix::fs::Mode::from(0o666);
    rustix::fs::mknodat(CWD, &gate, FileType::Fifo, mode, 0).unwrap();
    // Each waits for all: they really are there at the same time.
    let script = "echo > /host/$0; busybox dd if=/host/gate of=/dev/null bs=1 count=1 \
                  2> /dev/null || exit 255; echo run $0; exit $(($0 % 100))";
    // Opened for both, so that nobody waits for the other side.
    let mut open = fs::File::options();
    let mut open = open.read(true).write(true).open(&gate).unwrap();
    let opens = async {
        while fs::read_dir(&host).unwrap().count() <= RUNS {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        open.write_all(&[0; RUNS]).unwrap();
    };
    let cancel = Cancel::new();
    let runs = (0..RUNS).map(|number| {
        let mut process = subject.process(&["/bin/sh", "-c", script, &number.to_string()]);
        process.mounts = vec![bind("/host", &host)];
        let sink = Arc::new(Collected::default());
        let (subject, cancel) = (&subject, &cancel);
        async move {
            let status = subject.run_with(process, sink.clone(), cancel).await;
            (status, sink.text(ashlar_solver::progress::Stream::Stdout))
        }
    });
    let limit = std::time::Duration::from_secs(100);
    let all = async { futures::join!(futures::future::join_all(runs), opens).0 };
    let ended = subject
        .runtime
        .block_on(async { tokio::time::timeout(limit, all).await.unwrap() });
    for (number, (status, out)) in ended.into_iter().enumerate() {
        let code = i32::try_from(number % 100).unwrap();
        assert_eq!(status.unwrap(), ExitStatus::Exited(code));
        assert_eq!(out, format!("run {number}\n"));
    }
}
