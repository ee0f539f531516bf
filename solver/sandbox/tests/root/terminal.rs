//! Controlling terminals.

use crate::fixture::{Fixture, with};
use ashlar_sandbox::{Child, ExitStatus, IdMap, Spec, Stdio, WindowSize};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};

fn start(f: &Fixture, spec: Spec) -> (Child, File) {
    let spec = with(spec, |spec| spec.terminal = Some(WindowSize::new(33, 99)));
    let child = f.spawner.spawn(spec, Stdio::default()).unwrap();
    let master = child.terminal().unwrap().try_clone_to_owned().unwrap();
    (child, File::from(master))
}

/// All that comes until no process has the terminal open.
fn rest(master: &mut File) -> String {
    let mut text = Vec::new();
    let end = master.read_to_end(&mut text).unwrap_err();
    assert_eq!(end.raw_os_error(), Some(5), "{end}");
    String::from_utf8(text).unwrap().replace('\r', "")
}

/// Reads on until `end` came.
fn until(master: &mut File, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        master.read_exact(&mut byte).unwrap();
        text.push(byte[0].into());
    }
    text
}

#[test]
fn a_terminal_has_a_name_a_size_and_an_owner() {
    let f = Fixture::new();
    let script =
        "tty; stty size; stat -c %u:%a /dev/pts/0; echo ctty > /dev/tty; ls /proc/self/fd | wc -l";
    let spec = with(f.shell("tty", script), |spec| spec.uid = 1000);
    let (child, mut master) = start(&f, spec);
    assert_eq!(rest(&mut master), "/dev/pts/0\n33 99\n1000:620\nctty\n4\n");
    assert_eq!(child.wait(), ExitStatus::Exited(0));
}

#[test]
fn a_terminal_works_in_a_user_namespace() {
    let f = Fixture::new();
    let spec = with(f.shell("userns", "tty; id -u; echo x > /dev/tty"), |spec| {
        spec.namespaces.user = Some(IdMap::new(7, 8));
        (spec.uid, spec.gid) = (7, 8);
    });
    let (child, mut master) = start(&f, spec);
    assert_eq!(rest(&mut master), "/dev/pts/0\n7\nx\n");
    assert_eq!(child.wait(), ExitStatus::Exited(0));
}

#[test]
fn input_a_new_size_and_an_interrupt_arrive() {
    let f = Fixture::new();
    // A signal that comes just before `read` waits would be minded after it.
    let script = "trap 'stty size; w=1' WINCH; trap 'echo interrupted' INT; echo up; read a; echo got $a; \
                  until [ \"$w\" ]; do sleep 0.02; done; echo on; sleep 1000; echo $?";
    let (child, mut master) = start(&f, f.shell("input", script));
    until(&mut master, "up\r\n");
    let size = Winsize {
        ws_row: 5,
        ws_col: 6,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    master.write_all(b"word\n").unwrap();
    until(&mut master, "got word\r\n");
    tcsetwinsize(&master, size).unwrap();
    until(&mut master, "5 6\r\n");
    until(&mut master, "on\r\n");
    // The process that the shell starts now must have let go of the shell's handler.
    while !child_minds_interrupts(child.pid()) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    master.write_all(b"\x03").unwrap();
    let end = rest(&mut master);
    assert!(end.ends_with("interrupted\n130\n"), "{end:?}");
    assert_eq!(child.wait(), ExitStatus::Exited(0));
}

/// Whether `pid` has a child that an interrupt would end: one that neither catches nor ignores it.
fn child_minds_interrupts(pid: u32) -> bool {
    const INTERRUPT: u64 = 1 << (2 - 1);
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let Some(child) = children.split_whitespace().next() else {
        return false;
    };
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    ["SigCgt:", "SigIgn:"].iter().all(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(mask.unwrap().trim(), 16).unwrap() & INTERRUPT == 0
    })
}

#[test]
fn a_terminal_that_is_covered_by_a_mount_is_refused() {
    let f = Fixture::new();
    let fake = f.new_dir("fake");
    std::fs::write(fake.join("ptmx"), "").unwrap();
    let spec = with(f.shell("covered", "true"), |spec| {
        spec.mounts.push(crate::fixture::bind("/dev/pts", &fake));
        spec.terminal = Some(WindowSize::new(1, 1));
    });
    let text = f.error(spec).to_string();
    assert!(text.starts_with("make the terminal"), "{text}");
}
