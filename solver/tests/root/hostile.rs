//! Steps and inputs that try to reach the host through what is mounted.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use ashlar_llb::pb;
use ashlar_llb::pb::{CacheSharingOpt, MountType};
use ashlar_solver::error::{Fault, OperationError};
use ashlar_solver::progress::Stream;

use crate::exec::{base, exec, kit, path, run, run_in};

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

#[test]
fn cve_2024_23651_cache_mount_subpath() {
    let kit = kit();
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
    let place = found.next().unwrap().join("0/fs");
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

#[test]
fn class_2_ids_of_caches_are_only_names() {
    let kit = kit();
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

#[test]
fn cve_2024_1753_bind_source_through_links() {
    let kit = kit();
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

#[test]
fn cve_2024_21626_working_directory_in_proc() {
    let kit = kit();
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
