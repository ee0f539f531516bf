//! Steps and inputs that try to reach the host: a test for each class of published holes that an
//! executor can have, on the built-in sandbox and on runc.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_llb::pb;
use ashlar_llb::pb::{CacheSharingOpt, MountType};
use ashlar_solver::error::{Fault, OperationError};
use ashlar_solver::executor::{Mount, MountSource};
use ashlar_solver::progress::Stream;
use ashlar_solver::session::SecretValue;

use crate::contract::subject;
use crate::contract::subject::process;
use crate::exec::{base, exec, kit_of, path, run, run_in};

/// A directory of the host that no step may see; returns its handle and its path.
fn canary() -> (tempfile::TempDir, String) {
    let temp = tempfile::Builder::new()
        .prefix("canary")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(temp.path().join("secret"), "of the host").unwrap();
    let path = temp.path().to_str().unwrap().to_owned();
    (temp, path)
}

fn cache(dest: &str, id: &str, selector: &str) -> pb::Mount {
    pb::Mount {
        input: -1,
        output: -1,
        dest: dest.into(),
        selector: selector.into(),
        mount_type: MountType::Cache as i32,
        cache_opt: Some(pb::CacheOpt {
            id: id.into(),
            sharing: CacheSharingOpt::Shared as i32,
        }),
        ..pb::Mount::default()
    }
}

fn class_2_cve_2024_23651_cache_mount_subpath(executor: &str) {
    let kit = kit_of(executor);
    let base = base(&kit);
    let (_canary, host) = canary();
    // Makes the directory of the cache, and tells where it is.
    let mut op = exec("mkdir -p /c/sub");
    op.mounts.push(cache("/c", "shared", ""));
    run(&kit, &op, vec![base.clone()]);
    let caches = kit.engine.layers.root().path().join("cache-mounts");
    let mut found = fs::read_dir(&caches)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let place = found.next().unwrap().join("0/0/fs");
    assert!(found.next().is_none() && place.join("sub").is_dir());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // What another step that shares the cache could do at any moment.
        scope.spawn(|| {
            symlink(&host, place.join("link")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (place.join("sub"), place.join("link"));
                rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, swap).unwrap();
            }
        });
        let mut worked = 0;
        for _ in 0..60 {
            let mut op = exec("ls -A /m; cat /m/secret; true");
            op.mounts.push(cache("/m", "shared", "sub"));
            let logs = std::sync::Arc::new(crate::exec::Logs::default());
            let context = kit.context_of(logs.clone());
            match run_in(&kit, &op, vec![base.clone()], &context) {
                Ok(_) => worked += 1,
                // The link leads nowhere inside the cache.
                Err(OperationError::Failed(failure)) => {
                    let text = failure.chain();
                    assert!(text.contains("sub"), "{text}");
                }
                Err(OperationError::Cancelled) => panic!("cancelled"),
            }
            assert_eq!(logs.text(Stream::Stdout), "");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(worked > 0);
    });
}

fn class_2_ids_of_caches_are_only_names(executor: &str) {
    let kit = kit_of(executor);
    let base = base(&kit);
    let caches = kit.engine.layers.root().path().join("cache-mounts");
    for (count, id) in ["../../../../tmp/x", "/etc", "..", "a/b", &"x".repeat(5000)]
        .iter()
        .enumerate()
    {
        let mut op = exec("ls -A /c; echo > /c/mine");
        op.mounts.push(cache("/c", id, ""));
        let (_, logs) = run(&kit, &op, vec![base.clone()]);
        assert_eq!(logs.text(Stream::Stdout), "", "{id}");
        let names: Vec<_> = fs::read_dir(&caches)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), count + 1);
        assert!(names.iter().all(|name| name.len() == 64), "{names:?}");
    }
    let inside = cache("/c", "a/b", "../../../..");
    let mut op = exec("ls -A /c");
    op.mounts.push(inside);
    let (_, logs) = run(&kit, &op, vec![base]);
    assert_eq!(logs.text(Stream::Stdout), "mine\n");
}

fn class_3_cve_2024_1753_bind_source_through_links(executor: &str) {
    let kit = kit_of(executor);
    let (_canary, host) = canary();
    let script = format!(
        "mkdir /d; ln -s {host} /d/host; ln -s / /d/all; ln -s /proc/self/root /d/p; \
                          ln -s ../../../../../../..{host} /d/up; ln -s d/all /rootdir"
    );
    let base = base(&kit);
    let mut linked = exec(&script.replace("ln -s", "busybox ln -s"));
    linked.meta.as_mut().unwrap().env = vec!["PATH=/bin".into()];
    let (outputs, _) = run(&kit, &linked, vec![base.clone()]);
    let image = outputs.into_iter().next().unwrap();
    assert!(image.view().unwrap().lookup(&path("rootdir")).is_some());
    let selectors = [
        "/d/host",
        "/d/up",
        "/d/p",
        "/rootdir",
        "/d/all",
        "/d/all/d/host",
        "/rootdir/proc/1/root",
    ];
    for selector in selectors {
        for readonly in [true, false] {
            let mut op = exec("ls -A /m /m/secret; true");
            op.mounts.push(pb::Mount {
                input: 1,
                output: -1,
                dest: "/m".into(),
                selector: selector.into(),
                readonly,
                ..pb::Mount::default()
            });
            let logs = std::sync::Arc::new(crate::exec::Logs::default());
            let context = kit.context_of(logs.clone());
            let result = run_in(&kit, &op, vec![base.clone(), image.clone()], &context);
            let out = logs.text(Stream::Stdout);
            match result {
                // The root of the image itself is all that it can lead to.
                Ok(_) => assert!(
                    out.contains("rootdir") && !out.contains("var\n"),
                    "{selector}: {out}"
                ),
                Err(OperationError::Failed(failure)) => {
                    assert_eq!(failure.fault(), Fault::Input, "{}", failure.chain());
                }
                Err(OperationError::Cancelled) => panic!("cancelled"),
            }
            assert!(!out.contains("secret"), "{selector}: {out}");
        }
    }
}

fn class_14_cve_2024_21626_working_directory_in_proc(executor: &str) {
    let kit = kit_of(executor);
    let base = base(&kit);
    for cwd in [
        "/proc/self/fd/7",
        "/proc/self/fd/3/..",
        "/proc/1/root",
        "/proc/self/cwd",
        "/link",
    ] {
        let (outputs, _) = {
            let mut op = exec("busybox ln -s /proc/self/fd/8 /link");
            op.meta.as_mut().unwrap().env = vec!["PATH=/bin".into()];
            run(&kit, &op, vec![base.clone()])
        };
        let mut op = exec("pwd; ls -A ..");
        op.meta.as_mut().unwrap().cwd = cwd.into();
        let error = run_in(&kit, &op, outputs, &kit.context()).unwrap_err();
        let OperationError::Failed(failure) = error else {
            panic!("cancelled")
        };
        assert_eq!(failure.fault(), Fault::Input, "{cwd}: {}", failure.chain());
    }
}

/// A step replaces a mount point by a link to something outside before it is removed.
fn class_1_cve_2024_23652_mount_stub_cleanup(executor: &str) {
    let subject = subject(executor);
    let (canary, host) = canary();
    fs::create_dir(canary.path().join("empty")).unwrap();
    fs::write(canary.path().join("hosts"), "").unwrap();
    // Only a step with all capabilities can unmount; a hole may give them to others.
    let script = format!(
        "umount /new/hosts /new/empty /other /etc/resolv.conf; busybox rm -r /new /other \
         /etc/resolv.conf; busybox ln -s {host} /new; busybox ln -s {host}/empty /other; \
         busybox ln -s {host}/hosts /etc/resolv.conf; busybox umount /full; echo > /full/kept; ls -A /"
    );
    let (source, upper) = subject.overlay();
    let mut step = process(
        source,
        &[
            "/bin/sh",
            "-c",
            &format!("alias umount='busybox umount'; {script}"),
        ],
    );
    step.insecure = true;
    let lent = subject.new_dir();
    fs::write(lent.join("hosts"), "").unwrap();
    let bind = |target: &str, path: std::path::PathBuf| Mount {
        target: target.into(),
        source: MountSource::Bind { path },
        selector: None,
        readonly: false,
        nosuid: false,
        noexec: false,
    };
    step.mounts = vec![
        bind("/new/hosts", lent.join("hosts")),
        bind("/new/empty", lent.clone()),
        bind("/other", lent.clone()),
        bind("/full", lent.clone()),
    ];
    let ended = subject.run(step);
    assert_eq!(ended.status.code(), 0, "{ended:?}");
    assert!(
        upper.join("new").is_symlink() && upper.join("other").is_symlink(),
        "{ended:?}"
    );
    assert!(upper.join("full/kept").exists());
    assert!(canary.path().join("empty").is_dir());
    for name in ["hosts", "secret"] {
        assert!(canary.path().join(name).is_file(), "{name} is gone");
    }
}

/// Fields of ops that are numbers without a name, or ask for what was not granted.
fn class_4_cve_2024_23653_unvalidated_fields_and_entitlements(executor: &str) {
    let kit = kit_of(executor);
    let base = base(&kit);
    let refused = |op: &pb::ExecOp| match run_in(&kit, op, vec![base.clone()], &kit.context()) {
        Ok(_) => panic!("it ran: {op:?}"),
        Err(OperationError::Failed(failure)) => {
            assert_eq!(failure.fault(), Fault::Input, "{}", failure.chain());
            failure.chain()
        }
        Err(OperationError::Cancelled) => panic!("cancelled"),
    };
    let mut op = exec("true");
    op.network = pb::NetMode::Host as i32;
    assert_eq!(refused(&op), "network.host is not allowed");
    let mut op = exec("true");
    op.security = pb::SecurityMode::Insecure as i32;
    assert_eq!(refused(&op), "security.insecure is not allowed");
    let unknown = [-1, 3, 4, 7, 255, 65_536, i32::MIN, i32::MAX];
    for number in unknown {
        let mut op = exec("true");
        op.network = number;
        refused(&op);
        let mut op = exec("true");
        op.security = number;
        refused(&op);
        let mut op = exec("true");
        op.mounts.push(cache("/c", "x", ""));
        op.mounts[1].cache_opt.as_mut().unwrap().sharing = number;
        refused(&op);
    }
    for number in unknown.iter().filter(|&&number| number != 3 && number != 4) {
        let mut op = exec("true");
        op.mounts.push(cache("/c", "x", ""));
        op.mounts[1].mount_type = *number;
        refused(&op);
    }
    // What it runs with if nothing is asked for.
    let (_, logs) = run(&kit, &exec("cat /proc/self/status"), vec![base]);
    let out = logs.text(Stream::Stdout);
    for line in [
        "CapEff:\t00000000a80425fb",
        "CapBnd:\t00000000a80425fb",
        "Seccomp:\t2",
    ] {
        assert!(out.contains(line), "{out}");
    }
}

/// Users whose number is no id, or wraps round to one that is root's.
fn class_13_cve_2024_40635_user_ids(executor: &str) {
    let kit = kit_of(executor);
    let (outputs, _) = run(
        &kit,
        &exec(
            "for n in 4294967296 -1 2147483648 0x0 '' 00000000000000000004294967296; do \
             echo \"evil$n:x:$n:$n::/:/bin/sh\"; done >> /etc/passwd; \
             echo '7:x:0:0::/:/bin/sh' >> /etc/passwd; echo 'wheel:x:4294967296:me' >> /etc/group",
        ),
        vec![base(&kit)],
    );
    let image = outputs.into_iter().next().unwrap();
    for user in [
        "4294967296",
        "4294967295",
        "2147483648",
        "-1",
        "0x0",
        "+4294967296",
        "1e3",
        " 0",
        "0 ",
        "18446744073709551616",
        "4294967296:0",
        "0:4294967296",
        "7:4294967296",
        "4294967295:4294967295",
        "evil4294967296",
        "evil-1",
        "evil2147483648",
        "evil0x0",
        "evil",
        "me:wheel",
        "me",
        "2147483648:2147483648",
        "4294967294:4294967294",
        "7",
    ] {
        let mut op = exec("grep -E '^(Uid|Gid|Groups|CapEff)' /proc/self/status");
        op.meta.as_mut().unwrap().user = user.to_owned();
        op.meta.as_mut().unwrap().args[2] = "cat /proc/self/status".to_owned();
        let logs = std::sync::Arc::new(crate::exec::Logs::default());
        let context = kit.context_of(logs.clone());
        match run_in(&kit, &op, vec![image.clone()], &context) {
            Ok(_) => {
                let out = logs.text(Stream::Stdout);
                let root = ["Uid:\t0\t", "CapEff:\t00000000a80425fb"]
                    .iter()
                    .any(|it| out.contains(it));
                assert!(!root, "{user:?} became root: {out}");
                let known = ["2147483648:2147483648", "4294967294:4294967294", "7"];
                assert!(known.contains(&user), "{user:?} is somebody: {out}");
            }
            Err(OperationError::Failed(failure)) => {
                assert_eq!(
                    failure.fault(),
                    Fault::Input,
                    "{user:?}: {}",
                    failure.chain()
                );
            }
            Err(OperationError::Cancelled) => panic!("cancelled"),
        }
    }
}

/// Descriptors that the host left open do not reach a step.
fn class_14_cve_2024_21626_descriptors(executor: &str) {
    let subject = subject(executor);
    let leaks: Vec<_> = (0..20).map(|_| fs::File::open("/").unwrap()).collect();
    for leak in &leaks {
        rustix::io::fcntl_setfd(leak, rustix::io::FdFlags::empty()).unwrap();
    }
    let out = subject.output("ls /proc/1/fd; ls /proc/self/fd");
    // The shell has a script open in neither, the last one is the directory that is being read.
    assert_eq!(out, "0\n1\n2\n0\n1\n2\n3\n");
    for number in 0..24 {
        let mut step = subject.shell("pwd; ls -A");
        step.cwd = format!("/proc/self/fd/{number}").into();
        let error = subject.try_run(step).unwrap_err();
        assert!(format!("{error:?}").contains("Cwd"), "{number}: {error:?}");
    }
}

/// Images in which links stand for what the kernel shows, and mounts that race with links.
fn class_15_cve_2025_31133_masked_paths_and_races(executor: &str) {
    let subject = subject(executor);
    let (canary, host) = canary();
    let before = listing(canary.path());
    for (name, target) in [
        ("proc", host.as_str()),
        ("sys", "/tmp"),
        ("dev", host.as_str()),
        ("dev", "/proc"),
        ("proc", "."),
    ] {
        symlink(target, subject.base().join(name)).unwrap();
        let error = subject.try_run(subject.shell("true")).unwrap_err();
        assert!(
            format!("{error:?}").contains("TargetRefused"),
            "{name}: {error:?}"
        );
        fs::remove_file(subject.base().join(name)).unwrap();
    }
    // Below them the image has no say.
    fs::create_dir(subject.base().join("dev")).unwrap();
    for name in ["null", "console", "ptmx", "pts", "shm", "tty"] {
        symlink(
            format!("{host}/secret"),
            subject.base().join("dev").join(name),
        )
        .unwrap();
    }
    let out = subject.output(
        "echo gone > /dev/null; cat /dev/null; wc -c < /proc/keys; stat -f -c %T /proc /sys; \
         stat -c %t,%T /dev/null; { echo x > /proc/sys/kernel/core_pattern; } 2>/dev/null || echo fixed",
    );
    assert_eq!(out, "0\nproc\nsysfs\n1,3\nfixed\n");
    fs::remove_dir_all(subject.base().join("dev")).unwrap();
    // CVE-2021-30465: the parent of a mount point is swapped for a link by another step.
    let shared = subject.new_dir();
    fs::create_dir(shared.join("sub")).unwrap();
    symlink(&host, shared.join("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (shared.join("sub"), shared.join("link"));
                rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, swap).unwrap();
            }
        });
        for _ in 0..30 {
            let mut step =
                subject.shell("cat /shared/sub/secret /shared/link/secret 2>/dev/null; true");
            let bind = |target: &str, path: &std::path::Path| Mount {
                target: target.into(),
                source: MountSource::Bind {
                    path: path.to_owned(),
                },
                selector: None,
                readonly: false,
                nosuid: false,
                noexec: false,
            };
            let lent = subject.new_dir();
            step.mounts = vec![
                bind("/shared", &shared),
                bind("/shared/sub/new/deep", &lent),
            ];
            if let Ok(ended) = subject.try_run(step) {
                assert!(!ended.stdout.contains("of the host"), "{ended:?}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(listing(canary.path()), before);
}

fn listing(directory: &std::path::Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.sort();
    names
}

/// What is lent to a step in memory is on no disk afterwards.
fn class_18_secret_persistence(executor: &str) {
    let subject = subject(executor);
    let canary = "canary-0b5e9d6f1c";
    let mut step =
        subject.shell("cat /run/secret | wc -c; [ -n \"$TOKEN\" ] && echo set; sleep 0.3");
    let value = format!("{canary}-in-environment");
    step.secret_env = vec![("TOKEN".to_owned(), SecretValue::new(value))];
    step.mounts = vec![Mount {
        target: "/run/secret".into(),
        source: MountSource::File {
            contents: SecretValue::new(format!("{canary}-in-file")),
            mode: 0o400,
            uid: 0,
            gid: 0,
        },
        selector: None,
        readonly: true,
        nosuid: false,
        noexec: false,
    }];
    assert!(!format!("{step:?}").contains("canary-0b5e9d6f1c-in-file"));
    let watched = ["/run", "/dev/shm"].map(std::path::PathBuf::from);
    let runs = std::thread::scope(|scope| {
        let run = scope.spawn(|| subject.output_of(step));
        // While it runs, too.
        std::thread::sleep(std::time::Duration::from_millis(150));
        assert_eq!(
            found_in(&[subject.path().to_owned()], canary),
            Vec::<String>::new()
        );
        run.join().unwrap()
    });
    assert_eq!(runs, "25\nset\n");
    let all = watched
        .into_iter()
        .chain([subject.path().to_owned()])
        .collect::<Vec<_>>();
    assert_eq!(found_in(&all, canary), Vec::<String>::new());
}

/// The files below `directories` that hold `text`, up to a size no configuration has.
fn found_in(directories: &[std::path::PathBuf], text: &str) -> Vec<String> {
    let mut todo = directories.to_vec();
    let mut found = Vec::new();
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let small = entry.metadata().is_ok_and(|it| it.len() < 1 << 20);
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() && small {
                let data = fs::read(entry.path()).unwrap_or_default();
                if data.windows(text.len()).any(|part| part == text.as_bytes()) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

macro_rules! on_each {
    ($($executor:ident: [$($name:ident,)*])*) => {
        $(
            mod $executor {
                $(
                    #[test]
                    fn $name() {
                        super::$name(stringify!($executor));
                    }
                )*
            }
        )*
    };
    ($($executor:ident)*; $names:tt) => {
        on_each! { $($executor: $names)* }
    };
}

on_each! { sandbox runc; [
    class_1_cve_2024_23652_mount_stub_cleanup,
    class_2_cve_2024_23651_cache_mount_subpath,
    class_2_ids_of_caches_are_only_names,
    class_3_cve_2024_1753_bind_source_through_links,
    class_4_cve_2024_23653_unvalidated_fields_and_entitlements,
    class_13_cve_2024_40635_user_ids,
    class_14_cve_2024_21626_descriptors,
    class_14_cve_2024_21626_working_directory_in_proc,
    class_15_cve_2025_31133_masked_paths_and_races,
    class_18_secret_persistence,
] }
