//! The same sandbox without root: a user namespace with one mapped user.

use crate::fixture::{Fixture, bind, in_own_process, with};
use ashlar_sandbox::{IdMap, Mount, Network, SandboxError, SeccompProfile, Source, Spawner, Spec};
use std::os::unix::process::CommandExt;

fn rootless(mut spec: Spec) -> Spec {
    spec.namespaces.user = Some(IdMap::root());
    spec
}

fn scenario(f: &Fixture) {
    let out = f.output_of(rootless(f.shell(
        "u",
        "id -u; id -g; echo x > /etc/file; cat /proc/self/uid_map | tr -s ' '",
    )));
    assert!(out.starts_with("0\n0\n"), "{out}");
    assert_eq!(
        std::fs::read_to_string(f.path().join("u/etc/file")).unwrap(),
        "x\n"
    );
    let list = f.output_of(rootless(f.shell(
        "d",
        "ls /dev | tr '\\n' ' '; echo x > /dev/null && head -c 2 /dev/zero | wc -c",
    )));
    assert!(list.ends_with("urandom zero 2"), "{list}");
    let removed = rootless(f.shell("r", "rm -r /etc && mkdir /etc && ls /etc | wc -l"));
    assert_eq!(f.output_of(removed), "0");
    let host = with(
        rootless(f.shell(
            "h",
            "ls /sys | grep -c kernel; touch /sys/x 2>/dev/null || echo ro",
        )),
        |s| {
            s.namespaces.network = Network::Host;
        },
    );
    assert_eq!(f.output_of(host), "1\nro");
    let cache = f.new_dir("cache");
    let mounts = with(
        rootless(f.shell("m", "touch /c/made; cat /f; stat -c %a /f")),
        |s| {
            let contents = "secret".into();
            s.mounts = vec![
                bind("/c", &cache),
                Mount::new(
                    "/f",
                    Source::File {
                        contents,
                        mode: 0o400,
                        uid: 0,
                        gid: 0,
                    },
                ),
            ];
        },
    );
    assert_eq!(f.output_of(mounts), "secret400");
    assert!(cache.join("made").exists());
    let named = with(rootless(f.shell("n", "id -u")), |s| {
        s.namespaces.user = Some(IdMap::new(1000, 1001));
        (s.uid, s.gid) = (1000, 1001);
    });
    assert_eq!(f.output_of(named), "1000");
    // Nobody else exists to whom a file could belong.
    let change = "touch /f; chown 5:6 /f && echo ok; stat -c %u:%g /f";
    assert_eq!(f.output_of(rootless(f.shell("c", change))), "0:0");
    let pretended = with(rootless(f.shell("p", change)), |s| {
        s.seccomp = s.seccomp.as_ref().map(SeccompProfile::pretending_ownership);
    });
    assert_eq!(f.output_of(pretended), "ok\n0:0");
    let other = with(rootless(f.shell("o", "true")), |s| s.uid = 5);
    assert!(matches!(
        f.error(other),
        SandboxError::InvalidSpec { field: "uid", .. }
    ));
}

#[test]
fn as_root() {
    scenario(&Fixture::new());
}

#[test]
fn as_another_user() {
    in_own_process("user_namespace::inner_user", |c| {
        c.uid(1000).gid(1000).current_dir("/")
    });
}

#[test]
#[ignore = "run by as_another_user"]
fn inner_user() {
    assert!(!crate::fixture::rustix_is_root());
    scenario(&Fixture::unprivileged(Spawner::new().unwrap()));
}
