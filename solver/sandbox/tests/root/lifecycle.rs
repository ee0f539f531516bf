//! Starting, ending, killing, waiting.

use crate::fixture::{Fixture, with};
use ashlar_sandbox::{
    Child, ExitStatus, Resource, Rlimit, Root, SandboxError, Source, Spawner, Spec, Stdio,
};
use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "the test bounds real time")]
fn now() -> Instant {
    Instant::now()
}

/// A shell that goes on to `then` when the pipe is dropped.
fn held(f: &Fixture, name: &str, then: &str) -> (Child, PipeWriter) {
    let (input, hold) = std::io::pipe().unwrap();
    let spec = f.shell(name, &format!("read line; {then}"));
    (
        f.spawner
            .spawn(spec, Stdio::default().stdin(input))
            .unwrap(),
        hold,
    )
}

fn processes_with(needle: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|line| line.windows(needle.len()).any(|w| w == needle.as_bytes()))
        .count()
}

#[test]
fn exit_codes_and_signals_come_back() {
    let f = Fixture::new();
    for code in [0, 1, 42, 255] {
        let output = f.run(f.shell("exit", &format!("exit {code}")));
        assert_eq!(output.status, ExitStatus::Exited(code));
    }
    // An init process ignores signals of its own namespace without a handler: kill a descendant.
    let output = f.run(f.shell("signal", "sh -c 'kill -TERM $$'; exit $?"));
    assert_eq!(output.status, ExitStatus::Exited(128 + 15));
}

#[test]
fn output_input_and_usage_pass() {
    let f = Fixture::new();
    let (input, mut input_write) = std::io::pipe().unwrap();
    let (mut out, out_write) = std::io::pipe().unwrap();
    let stdio = Stdio::default().stdin(input).stdout(out_write);
    let child = f.spawner.spawn(
        f.shell(
            "io",
            "cat; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
        ),
        stdio,
    );
    let child = child.unwrap();
    input_write.write_all(b"hello").unwrap();
    drop(input_write);
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(child.wait(), ExitStatus::Exited(0));
    let usage = child.usage().unwrap();
    assert!(usage.user + usage.system > Duration::ZERO, "{usage:?}");
    assert!(usage.max_resident > 100 * 1024, "{usage:?}");
}

#[test]
fn without_streams_there_is_the_null_device() {
    let f = Fixture::new();
    let output = f.run(f.shell("null", "cat; echo lost >&2; readlink /proc/self/fd/0"));
    assert_eq!(output.status, ExitStatus::Exited(0));
    assert_eq!(output.stdout.trim(), "/dev/null");
    // Changing its mode must not reach the host's device.
    f.output("chmod", "chmod 000 /dev/stdin /dev/null");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata("/dev/null").unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[test]
fn the_exit_is_announced_in_every_way() {
    let f = Fixture::new();
    let (child, hold) = held(&f, "announce", "exit 3");
    assert_eq!(child.try_wait(), None);
    assert_eq!(child.usage(), None);
    let (send, receive) = std::sync::mpsc::channel();
    let later = send.clone();
    child.on_exit(move |status| send.send(status).unwrap());
    drop(hold);
    assert_eq!(
        receive.recv_timeout(Duration::from_secs(5)),
        Ok(ExitStatus::Exited(3))
    );
    assert_eq!(child.wait(), ExitStatus::Exited(3));
    assert_eq!(child.try_wait(), Some(ExitStatus::Exited(3)));
    child.on_exit(move |status| later.send(status).unwrap());
    assert_eq!(receive.try_recv(), Ok(ExitStatus::Exited(3)));
    let pidfd = child.pidfd();
    let mut set = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    assert_eq!(
        rustix::event::poll(&mut set, Some(&rustix::time::Timespec::default())),
        Ok(1)
    );
    child.kill();
}

#[test]
fn a_panicking_callback_harms_nobody() {
    let f = Fixture::new();
    let (child, hold) = held(&f, "panic", "exit 0");
    child.on_exit(|_| panic!("expected by the test"));
    drop(hold);
    assert_eq!(child.wait(), ExitStatus::Exited(0));
    assert_eq!(f.output("after", "echo fine"), "fine");
}

#[test]
fn kill_ends_the_whole_tree_at_once() {
    let f = Fixture::new();
    let script = "trap '' TERM INT HUP; \
                  for i in 1 2 3 4 5 6 7 8; do (trap '' TERM; while :; do sleep 77123 & sleep 77123; done) & done; \
                  echo up; while :; do sleep 77123; done";
    let (mut out, out_write) = std::io::pipe().unwrap();
    let stdio = Stdio::default().stdout(out_write);
    let child = f.spawner.spawn(f.shell("bomb", script), stdio).unwrap();
    let mut up = [0; 2];
    out.read_exact(&mut up).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(processes_with("77123") > 8);
    let start = now();
    child.kill();
    assert_eq!(child.wait(), ExitStatus::Signaled(9));
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(processes_with("77123"), 0);
}

/// How many processes a user of the host has.
fn processes_of(uid: u32) -> usize {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter(|entry| entry.metadata().is_ok_and(|data| data.uid() == uid))
        .count()
}

fn killed_within_a_second(child: &Child) {
    let start = now();
    child.kill();
    assert_eq!(child.wait(), ExitStatus::Signaled(9));
    let spent = start.elapsed();
    assert!(spent < Duration::from_secs(1), "{spent:?}");
}

#[test]
fn kill_ends_stopped_processes() {
    let f = Fixture::new();
    let script = "sleep 77128 & kill -STOP $!; (sleep 77128 & kill -STOP $!; wait) & echo up; wait";
    let (mut out, out_write) = std::io::pipe().unwrap();
    let stdio = Stdio::default().stdout(out_write);
    let child = f.spawner.spawn(f.shell("stopped", script), stdio).unwrap();
    out.read_exact(&mut [0; 2]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    // The init process too: only the kernel can take it out of that.
    child.signal(19);
    assert!(processes_with("77128") >= 2);
    killed_within_a_second(&child);
    assert_eq!(processes_with("77128"), 0);
}

#[test]
fn kill_ends_a_fork_bomb() {
    const USER: u32 = 51_234;
    let f = Fixture::new();
    // The shells that cannot fork any more end; what they started stays.
    let script = "b() { sleep 1000 & b & b & wait; }; b 2>/dev/null & echo up; while :; do :; done";
    let spec = with(f.shell("fork-bomb", script), |spec| {
        (spec.uid, spec.gid) = (USER, USER);
        spec.rlimits.push(Rlimit::new(Resource::Nproc, 60, 60));
    });
    let (mut out, out_write) = std::io::pipe().unwrap();
    let stdio = Stdio::default().stdout(out_write);
    let child = f.spawner.spawn(spec, stdio).unwrap();
    out.read_exact(&mut [0; 2]).unwrap();
    let start = now();
    let mut most = 0;
    while most < 10 && start.elapsed() < Duration::from_secs(5) {
        most = most.max(processes_of(USER));
    }
    assert!((10..=60).contains(&most), "{most}");
    killed_within_a_second(&child);
    assert_eq!(processes_of(USER), 0);
}

#[test]
fn dropping_a_child_kills_it() {
    let f = Fixture::new();
    let child = f.start("drop", "sleep 77124 & sleep 77124");
    std::thread::sleep(Duration::from_millis(50));
    assert!(processes_with("77124") > 0);
    drop(child);
    assert_eq!(processes_with("77124"), 0);
}

#[test]
fn dropping_the_spawner_kills_its_children() {
    let f = Fixture::new();
    let other = Spawner::new().unwrap();
    let child = other
        .spawn(f.shell("owner", "sleep 77125"), Stdio::default())
        .unwrap();
    drop(other);
    assert_eq!(child.try_wait(), Some(ExitStatus::Signaled(9)));
    assert_eq!(processes_with("77125"), 0);
}

#[test]
fn many_run_at_the_same_time() {
    let f = Fixture::new();
    std::thread::scope(|scope| {
        for i in 0..20 {
            let f = &f;
            scope.spawn(move || {
                let out = f.output(&format!("many{i}"), &format!("sleep 0.1; echo {i}"));
                assert_eq!(out, i.to_string());
            });
        }
    });
}

#[test]
fn programs_are_found_like_in_a_shell() {
    let f = Fixture::new();
    std::fs::create_dir_all(f.base.join("first/true")).unwrap();
    std::fs::write(f.base.join("tmp/data"), "no program").unwrap();
    std::fs::write(f.base.join("tmp/script"), "#!/no/interpreter\n").unwrap();
    std::fs::write(f.base.join("tmp/elf"), [0x7f; 64]).unwrap();
    for name in ["script", "elf"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(f.base.join("tmp").join(name), mode).unwrap();
    }
    let run = |name: &str, path: &str| {
        let mut spec = f.spec("find", &[name]);
        spec.env = vec![path.into()];
        f.try_run(spec).map(|o| o.status).map_err(|e| e.error)
    };
    let found = Ok::<_, SandboxError>(ExitStatus::Exited(0));
    for path in ["PATH=/nothing:/first:/tmp/data:/bin", "OTHER=/first"] {
        assert_eq!(run("true", path).unwrap(), *found.as_ref().unwrap());
    }
    assert!(
        matches!(run("true", "PATH=/nothing"), Err(SandboxError::ProgramNotFound { name }) if name == "true")
    );
    assert!(matches!(
        run("/bin/absent", "PATH=/bin"),
        Err(SandboxError::ProgramNotFound { .. })
    ));
    assert!(matches!(
        run("true", "PATH=/first"),
        Err(SandboxError::ProgramPermission { .. })
    ));
    assert!(matches!(
        run("/tmp/data", "PATH=/bin"),
        Err(SandboxError::ProgramPermission { .. })
    ));
    assert!(matches!(
        run("/tmp/elf", "PATH=/bin"),
        Err(SandboxError::ProgramFormat { .. })
    ));
    assert!(matches!(
        run("script", "PATH=/tmp"),
        Err(SandboxError::InterpreterNotFound { .. })
    ));
}

#[test]
fn a_specification_is_checked() {
    let f = Fixture::new();
    let check = |change: &dyn Fn(&mut Spec), field: &str| {
        let spec = with(f.shell("check", "true"), |spec| change(spec));
        match f.error(spec) {
            SandboxError::InvalidSpec { field: found, .. } => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    };
    check(&|s| s.args.clear(), "args");
    check(&|s| s.args = vec!["a\0b".into()], "args");
    check(&|s| s.env = vec!["a\0b".into()], "env");
    check(&|s| s.cwd = "relative".into(), "cwd");
    check(&|s| s.hostname = "h".repeat(65).into(), "hostname");
    check(&|s| s.uid = u32::MAX, "uid");
    check(
        &|s| {
            s.root = Root::new(Source::Bind {
                path: "relative".into(),
            });
        },
        "source",
    );
    check(
        &|s| {
            s.root = Root::new(Source::Bind {
                path: "/tmp/../etc".into(),
            });
        },
        "source",
    );
    check(
        &|s| s.root = Root::new(Source::ReadOnlyOverlay { lower: vec![] }),
        "source",
    );
    check(
        &|s| s.mounts = vec![crate::fixture::bind("/", Path::new("/tmp"))],
        "mounts",
    );
}

#[test]
fn a_missing_layer_is_named() {
    let f = Fixture::new();
    let mut spec = f.shell("layer", "true");
    spec.root = Root::new(Source::ReadOnlyOverlay {
        lower: vec![f.base.clone(), f.path().join("absent")],
    });
    match f.error(spec) {
        SandboxError::Setup { object, source, .. } => {
            assert_eq!(object, f.path().join("absent").into_os_string());
            assert_eq!(source.raw_os_error(), Some(2));
        }
        other => panic!("{other:?}"),
    }
    assert!(
        f.spawner
            .spawn(f.shell("next", "true"), Stdio::default())
            .is_ok()
    );
    let fd = f.start("fd", "sleep 5");
    assert!(fd.pidfd().as_fd().try_clone_to_owned().is_ok());
}
