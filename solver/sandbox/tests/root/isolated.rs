//! Tests that change or measure state of the whole process; each runs in a process of its own.
#![expect(
    unsafe_code,
    reason = "the tests change the state of a process of their own"
)]

use crate::fixture::{Fixture, in_own_process};
use ashlar_sandbox::{ExitStatus, Spawner};
use std::fs;

#[test]
fn a_host_that_ignores_sigchld() {
    in_own_process("isolated::inner_sigchld", |c| c);
}

#[test]
#[ignore = "run by a_host_that_ignores_sigchld"]
fn inner_sigchld() {
    // SAFETY: no handler is installed, only the disposition changes.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    let f = Fixture::new();
    assert_eq!(f.run(f.shell("a", "exit 7")).status, ExitStatus::Exited(7));
    let child = f.start("b", "sleep 60");
    child.kill();
    assert_eq!(child.wait(), ExitStatus::Signaled(9));
    assert_eq!(
        f.output("c", "grep SigIgn /proc/self/status | tr -d 'SigIgn:\\t0'"),
        ""
    );
}

#[test]
fn a_host_that_reaps_everything() {
    in_own_process("isolated::inner_reaper", |c| c);
}

#[test]
#[ignore = "run by a_host_that_reaps_everything"]
fn inner_reaper() {
    std::thread::spawn(|| {
        loop {
            // SAFETY: the status is not asked for.
            unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
            std::thread::yield_now();
        }
    });
    let f = Fixture::new();
    for i in 0..20 {
        assert_eq!(
            f.run(f.shell(&format!("r{i}"), "exit 9")).status,
            ExitStatus::Exited(9)
        );
    }
}

#[test]
fn a_host_with_a_strict_umask_and_closed_streams() {
    in_own_process("isolated::inner_umask", |c| c);
}

#[test]
#[ignore = "run by a_host_with_a_strict_umask_and_closed_streams"]
fn inner_umask() {
    let f = Fixture::new();
    fs::remove_dir(f.base.join("sys")).unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let mut spec = f.shell(
        "u",
        "stat -c %a /sys /work /dev /dev/null; umask; touch /tmp/f; stat -c %a /tmp/f",
    );
    spec.cwd = "/work".into();
    assert_eq!(f.output_of(spec), "555\n755\n755\n666\n0022\n644");
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    assert_eq!(mask.as_raw_mode(), 0o077);
    let saved: Vec<_> = (0..3)
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(unsafe_fd(fd), 10).unwrap())
        .collect();
    for fd in 0..3 {
        // SAFETY: the test's streams are saved above and put back below.
        unsafe { libc::close(fd) };
    }
    let outcome = std::panic::catch_unwind(|| {
        let closed = Fixture::new();
        closed.descriptors("c")
    });
    for (fd, saved) in (0..3).zip(&saved) {
        use std::os::fd::AsRawFd;
        // SAFETY: puts the saved stream back.
        unsafe { libc::dup2(saved.as_raw_fd(), fd) };
    }
    let count = outcome.unwrap_or_else(|e| panic!("{:?}", e.downcast_ref::<String>()));
    assert_eq!(count, "0 1 2");
}

fn unsafe_fd(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for the standard streams only, which are open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}

fn count(dir: &str) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// The mounts of the kinds that a sandbox makes; other programs may mount disks meanwhile.
fn sandbox_mounts() -> Vec<String> {
    let kinds = [
        " - overlay ",
        " - proc ",
        " - sysfs ",
        " - devpts ",
        " - mqueue ",
        " - tmpfs ",
    ];
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |line: &&str| kinds.iter().any(|kind| line.contains(kind));
    all.lines().filter(ours).map(str::to_owned).collect()
}

#[test]
fn nothing_leaks() {
    in_own_process("isolated::inner_leaks", |c| c);
}

#[test]
#[ignore = "run by nothing_leaks"]
fn inner_leaks() {
    drop(Spawner::new().unwrap());
    // A thread that was waited for may be seen a little longer.
    let mut threads = count("/proc/self/task");
    loop {
        std::thread::sleep(std::time::Duration::from_millis(20));
        match std::mem::replace(&mut threads, count("/proc/self/task")) {
            before if before == threads => break,
            _ => {}
        }
    }
    let fds = count("/proc/self/fd");
    let mounts = sandbox_mounts();
    let cwd = std::env::current_dir().unwrap();
    {
        let f = Fixture::new();
        assert_eq!(count("/proc/self/task"), threads + 1);
        let open = count("/proc/self/fd");
        for i in 0..50 {
            f.output(&format!("l{i}"), "true");
            let mut user = f.shell(&format!("lu{i}"), "true");
            user.uid = 1000;
            f.output_of(user);
            drop(f.error(f.spec(&format!("le{i}"), &["absent"])));
        }
        assert_eq!(count("/proc/self/fd"), open);
    }
    assert_eq!(count("/proc/self/fd"), fds);
    assert_eq!(count("/proc/self/task"), threads);
    assert_eq!(sandbox_mounts(), mounts);
    assert_eq!(std::env::current_dir().unwrap(), cwd);
    // Children of other users must not leave the host process undumpable.
    // SAFETY: the option takes no pointer.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 1);
    // No zombie is left.
    // SAFETY: the status is not asked for.
    let waited = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) };
    assert_eq!(waited, -1);
}

#[test]
fn starts_at_the_same_time_leave_the_host_as_it_was() {
    in_own_process("isolated::inner_starts", |c| c);
}

/// Two spawners, so that there is more than one thread on a machine with one processor too.
#[test]
#[ignore = "run by starts_at_the_same_time_leave_the_host_as_it_was"]
fn inner_starts() {
    let threads = count("/proc/self/task");
    {
        let (one, other) = (Fixture::new(), Fixture::new());
        std::thread::scope(|scope| {
            for (number, f) in [&one, &other, &one, &other].into_iter().enumerate() {
                scope.spawn(move || {
                    for i in 0..25 {
                        let mut spec = f.shell(&format!("s{number}-{i}"), "id -u");
                        spec.uid = 1000;
                        assert_eq!(f.output_of(spec), "1000");
                    }
                });
            }
        });
        let held = [&one, &other, &one, &other].map(|f| f.start("held", "sleep 60"));
        drop((one, other));
        for child in held {
            assert_eq!(child.try_wait(), Some(ExitStatus::Signaled(9)));
        }
    }
    // SAFETY: the option takes no pointer.
    assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 1);
    assert_eq!(count("/proc/self/task"), threads);
}

#[test]
fn children_die_with_the_host() {
    let marker = "77126";
    in_own_process("isolated::inner_crash_parent", |c| c);
    let deadline = 200;
    for _ in 0..deadline {
        let alive = fs::read_dir("/proc")
            .unwrap()
            .filter_map(Result::ok)
            .any(|e| {
                fs::read(e.path().join("cmdline")).is_ok_and(|line| {
                    line.windows(12)
                        .any(|w| w == format!("sleep\0{marker}\0").as_bytes())
                })
            });
        if !alive {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the child survived its host");
}

#[test]
#[ignore = "run by children_die_with_the_host"]
#[expect(
    clippy::disallowed_methods,
    reason = "the test binary runs itself and kills it"
)]
fn inner_crash_parent() {
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "isolated::inner_crash",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = host.stdout.take().unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains("running-inside") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut out, &mut byte).unwrap();
        text.push(byte[0]);
    }
    host.kill().unwrap();
    host.wait().unwrap();
}

#[test]
#[ignore = "run by inner_crash_parent"]
fn inner_crash() {
    let f = Fixture::new();
    let mut spec = f.shell("crash", "exec sleep 77126");
    spec.uid = 1000;
    let child = f
        .spawner
        .spawn(spec, ashlar_sandbox::Stdio::default())
        .unwrap();
    println!("running-inside");
    let _ = child.wait();
}
