//! A root made ready for a container runtime.

use crate::fixture::{Fixture, bind, open_dir};
use ashlar_sandbox::{
    CapabilitySet, ExitStatus, INNER_ROOT, Mount, Root, SandboxError, Source, Spec, Stdio,
    StubKind, remove_stubs,
};
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};

/// A shell in a root of its own that plays the runtime of `inner`.
fn outer(fixture: &Fixture, inner: Spec, script: &str) -> Spec {
    let root = Root::new(Source::Tmpfs { size: None });
    let mut spec = Spec::new(root, ["/bin/busybox", "sh", "-c", script]);
    spec.env = vec!["PATH=/bin".into()];
    spec.mounts = vec![bind("/bin", &fixture.base.join("bin")).readonly(true)];
    spec.capabilities = CapabilitySet::ALL;
    spec.seccomp = None;
    spec.masked_paths.clear();
    spec.readonly_paths.clear();
    spec.inner = Some(Box::new(inner));
    spec
}

#[test]
fn the_inner_root_is_complete_but_for_proc() {
    let fixture = Fixture::new();
    fs::remove_dir(fixture.base.join("sys")).unwrap();
    symlink("/etc", fixture.base.join("config")).unwrap();
    let lent = fixture.new_dir("lent");
    fs::write(lent.join("file"), "lent").unwrap();
    let mut inner = fixture.spec("upper", &["/bin/true"]);
    let file = Source::File {
        contents: "hosts".into(),
        mode: 0o600,
        uid: 0,
        gid: 0,
    };
    inner.mounts = vec![
        Mount::new("/config/hosts", file),
        bind("/deep/er/lent", &lent),
        Mount::new("/../up", Source::Tmpfs { size: None }),
    ];
    inner.cwd = "/new/here".into();
    (inner.uid, inner.gid) = (7, 8);
    let script = format!(
        "cd {INNER_ROOT} && cat etc/hosts deep/er/lent/file && ls -A proc && ls dev && \
         stat -c '%u %g' new/here && ls -d up && touch dev/null && echo > dev/null && \
         ls -d sys/kernel && echo to messages >&3"
    );
    let (mut read, write) = std::io::pipe().unwrap();
    let (mut out, stdout) = std::io::pipe().unwrap();
    let stdio = Stdio::default().stdout(stdout).messages(write);
    let spec = outer(&fixture, inner, &script);
    let child = fixture.spawner.spawn(spec, stdio).unwrap();
    let (mut text, mut messages) = (String::new(), String::new());
    out.read_to_string(&mut text).unwrap();
    read.read_to_string(&mut messages).unwrap();
    assert_eq!(child.wait(), ExitStatus::Exited(0), "{text}");
    let nodes = "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\n\
                 urandom\nzero\n";
    // Where the kernel has a file for its memory, there is a link to it.
    let text = text.replace("lentcore\n", "lent");
    assert_eq!(text, format!("hostslent{nodes}7 8\nup\nsys/kernel\n"));
    assert_eq!(messages, "to messages\n");
    let stubs: Vec<_> = child
        .stubs()
        .iter()
        .map(|s| (s.path.to_str().unwrap(), s.kind))
        .collect();
    let directory = StubKind::Directory;
    let expected = [
        ("sys", directory),
        ("etc/hosts", StubKind::File),
        ("deep", directory),
        ("deep/er", directory),
        ("deep/er/lent", directory),
        ("up", directory),
    ];
    assert_eq!(stubs, expected);
    let upper = fixture.path().join("upper");
    remove_stubs(open_dir(&upper).as_fd(), child.stubs()).unwrap();
    let mut left: Vec<_> = fs::read_dir(&upper)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    // What was copied up to hold a stub stays, and so does the working directory.
    assert_eq!(left, ["etc", "new"]);
    assert_eq!(upper.join("new/here").metadata().unwrap().uid(), 7);
}

#[test]
fn the_inner_root_is_not_left_while_it_is_made_ready() {
    let fixture = Fixture::new();
    let refused = |name: &str, cwd: &str, link: Option<(&str, &str)>| {
        if let Some((at, to)) = link {
            let at = fixture.base.join(at);
            drop(fs::remove_dir(&at));
            symlink(to, at).unwrap();
        }
        let mut inner = fixture.spec(name, &["/bin/true"]);
        inner.cwd = cwd.into();
        fixture.error(outer(&fixture, inner, "exit 0"))
    };
    for cwd in ["/proc/self/fd/3", "/proc/1/root/x", "/proc/self/cwd"] {
        let error = refused("a", cwd, None);
        assert!(
            matches!(
                error,
                SandboxError::CwdRefused { .. } | SandboxError::TargetRefused { .. }
            ),
            "{cwd}: {error:?}"
        );
    }
    let error = refused("b", "/", Some(("sys", "/etc")));
    assert!(
        matches!(&error, SandboxError::TargetRefused { target } if target.as_os_str() == "/sys"),
        "{error:?}"
    );
    fs::remove_file(fixture.base.join("sys")).unwrap();
    // Links and `..` lead to the inner root, not to that of the runtime.
    symlink("/../../..", fixture.base.join("sys2")).unwrap();
    let mut inner = fixture.spec("c", &["/bin/true"]);
    inner.mounts = vec![Mount::new("/sys2/found", Source::Tmpfs { size: None })];
    let spec = outer(&fixture, inner, "ls -d /dev/inner/found && ! ls -d /found");
    let output = fixture.run(spec);
    assert_eq!(output.stdout, "/dev/inner/found\n", "{output:?}");
    // Read-only if it has to be, with all its mount points in it.
    let mut inner = fixture.spec("d", &["/bin/true"]);
    inner.root = inner.root.readonly(true);
    inner.mounts = vec![Mount::new("/new/mem", Source::Tmpfs { size: None })];
    let script = "touch /dev/inner/new/mem/x && ! touch /dev/inner/x 2>/dev/null && echo fixed";
    let output = fixture.run(outer(&fixture, inner, script));
    assert_eq!(output.stdout, "fixed\n", "{output:?}");
}
