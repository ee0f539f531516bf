//! Who and where the process is, and what it may do.

use crate::fixture::{Fixture, with};
use ashlar_sandbox::{
    Capability, CapabilitySet, ExitStatus, Network, Resource, Rlimit, SandboxError,
};

#[test]
fn arguments_environment_and_directory_are_as_given() {
    let f = Fixture::new();
    let mut spec = f.spec(
        "args",
        &[
            "sh",
            "-c",
            "printf '%s|' \"$0\" \"$@\"; env; pwd",
            "a b",
            "",
            "ü\n",
        ],
    );
    spec.env = vec!["PATH=/bin".into(), "EMPTY=".into(), "A=b=c".into()];
    spec.cwd = "/new/deep/er".into();
    spec.uid = 1000;
    spec.gid = 1001;
    let out = f.output_of(spec);
    assert!(out.starts_with("a b||ü\n|"), "{out}");
    for line in ["PATH=/bin", "EMPTY=", "A=b=c"] {
        assert!(out.lines().any(|l| l.ends_with(line)), "{line} in {out}");
    }
    assert!(out.ends_with("/new/deep/er"), "{out}");
    use std::os::unix::fs::MetadataExt;
    for dir in ["args/new", "args/new/deep", "args/new/deep/er"] {
        let meta = std::fs::metadata(f.path().join(dir)).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (1000, 1001, 0o755)
        );
    }
}

#[test]
fn user_groups_mask_and_limits_are_set() {
    let f = Fixture::new();
    let mut spec = f.shell(
        "user",
        "id -u; id -g; id -G; umask; ulimit -n; touch /tmp/new; stat -c %a /tmp/new",
    );
    (spec.uid, spec.gid) = (1234, 2345);
    spec.additional_gids = vec![10, 20];
    spec.rlimits = vec![Rlimit::new(Resource::Nofile, 77, 99)];
    assert_eq!(f.output_of(spec), "1234\n2345\n2345 10 20\n0022\n77\n644");
    let plain = f.output("root", "id -u; id -G");
    assert_eq!(plain, "0\n0");
    assert_eq!(Resource::from_name("NOFILE"), Some(Resource::Nofile));
    assert_eq!(Resource::from_name("nothing"), None);
}

#[test]
fn the_hostname_is_its_own() {
    let f = Fixture::new();
    assert_eq!(f.output("host", "hostname"), "buildkitsandbox");
    let named = with(f.shell("named", "hostname"), |s| {
        s.hostname = "other".into();
    });
    assert_eq!(f.output_of(named), "other");
}

#[test]
fn the_process_is_the_first_of_its_namespace() {
    let f = Fixture::new();
    let out = f.output("pid", "echo $$; ls -d /proc/[0-9]*");
    assert!(out.starts_with("1\n/proc/1"), "{out}");
    // The shell and at most ls, nothing of the host.
    assert!(out.lines().count() <= 3, "{out}");
}

#[test]
fn exactly_three_descriptors_are_open() {
    let f = Fixture::new();
    // Opened without close-on-exec, as careless hosts do.
    let leak = std::fs::File::open("/etc").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    assert_eq!(f.descriptors("fds"), "0 1 2");
}

#[test]
fn signals_start_out_unblocked_and_default() {
    let f = Fixture::new();
    let out = f.output(
        "signals",
        "exec grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
    );
    for line in out.lines() {
        assert!(line.ends_with("0000000000000000"), "{out}");
    }
}

fn capability_lines(out: &str) -> Vec<u64> {
    out.lines()
        .map(|l| u64::from_str_radix(l.split_whitespace().last().unwrap(), 16).unwrap())
        .collect()
}

const STATUS: &str = "grep ^Cap /proc/self/status";

#[test]
fn capabilities_are_containerds() {
    let f = Fixture::new();
    let default = CapabilitySet::containerd_default().bits();
    // Inheritable, permitted, effective, bounding, ambient.
    assert_eq!(
        capability_lines(&f.output("caps", STATUS)),
        [0, default, default, default, 0]
    );
    let user = with(f.shell("caps-user", STATUS), |s| s.uid = 1000);
    assert_eq!(capability_lines(&f.output_of(user)), [0, 0, 0, default, 0]);
    let few = [Capability::Chown, Capability::Kill]
        .into_iter()
        .collect::<CapabilitySet>();
    let few_spec = with(f.shell("caps-few", STATUS), |s| s.capabilities = few);
    let bits = few.bits();
    assert_eq!(
        capability_lines(&f.output_of(few_spec)),
        [0, bits, bits, bits, 0]
    );
    let ambient = with(f.shell("caps-ambient", STATUS), |s| {
        (s.uid, s.capabilities, s.ambient_capabilities) = (1000, few, true);
    });
    assert_eq!(capability_lines(&f.output_of(ambient)), [bits; 5]);
    let none = with(f.shell("caps-none", STATUS), |s| {
        s.capabilities = CapabilitySet::EMPTY;
    });
    assert_eq!(capability_lines(&f.output_of(none)), [0; 5]);
}

#[test]
fn the_filter_is_on_and_new_privileges_are_a_choice() {
    let f = Fixture::new();
    let status = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t\\n'";
    assert_eq!(f.output("filter", status), "NoNewPrivs:0Seccomp:2");
    let strict = with(f.shell("strict", status), |s| {
        (s.no_new_privileges, s.uid) = (true, 1000);
    });
    assert_eq!(f.output_of(strict), "NoNewPrivs:1Seccomp:2");
    let open = with(f.shell("open", status), |s| s.seccomp = None);
    assert_eq!(f.output_of(open), "NoNewPrivs:0Seccomp:0");
}

#[test]
fn the_insecure_mode_has_everything() {
    let f = Fixture::new();
    let script = "grep ^Cap /proc/self/status; mount -t tmpfs x /tmp && umount /tmp && echo mounted; \
                  echo other > /proc/sys/kernel/hostname && echo set; grep -c ' /sys sysfs rw' /proc/mounts";
    let spec = with(f.shell("insecure", script), |s| {
        (s.capabilities, s.ambient_capabilities, s.seccomp) = (CapabilitySet::ALL, true, None);
        (s.host_devices, s.writable_sys) = (true, true);
        s.masked_paths.clear();
        s.readonly_paths.clear();
    });
    let out = f.output_of(spec);
    let (sets, rest) = out.split_once("mounted").unwrap();
    assert_eq!(rest, "\nset\n1");
    let host = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = host
        .lines()
        .filter(|l| l.starts_with("CapBnd"))
        .collect::<String>();
    let all = capability_lines(&bounding)[0] & CapabilitySet::ALL.bits();
    assert_eq!(capability_lines(sets), [all; 5]);
}

#[test]
fn filtered_calls_are_refused() {
    let f = Fixture::new();
    let script = "unshare -m true 2>&1; mount -t tmpfs x /tmp 2>&1; true";
    let filtered = f.output("refused", script);
    assert_eq!(
        filtered.matches("Operation not permitted").count()
            + filtered.matches("permission denied").count(),
        2,
        "{filtered}"
    );
    // With the capability in the set, the same profile lets the call through.
    let admin = CapabilitySet::containerd_default().with(Capability::SysAdmin);
    let allowed = with(f.shell("allowed", "unshare -m true && echo done"), |s| {
        s.capabilities = admin;
        s.seccomp = Some(ashlar_sandbox::SeccompProfile::containerd_default(admin));
    });
    assert_eq!(f.output_of(allowed), "done");
}

#[test]
fn without_network_only_the_loopback_is_there_and_up() {
    let f = Fixture::new();
    let script = "sed 1,2d /proc/net/dev | sed 's/:.*//' | tr -d ' \\n'; ifconfig lo | grep -o 'UP LOOPBACK RUNNING'";
    assert_eq!(f.output("lo", script), "loUP LOOPBACK RUNNING");
    let host = with(f.shell("hostnet", "readlink /proc/self/ns/net"), |s| {
        s.namespaces.network = Network::Host;
    });
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(f.output_of(host), own.to_str().unwrap());
}

#[test]
fn every_namespace_is_fresh() {
    let f = Fixture::new();
    for name in ["mnt", "pid", "ipc", "uts", "cgroup", "net"] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let inside = f.output(
            &format!("ns-{name}"),
            &format!("readlink /proc/self/ns/{name}"),
        );
        assert!(
            inside.starts_with(name) && inside != host.to_str().unwrap(),
            "{inside}"
        );
    }
}

#[test]
fn a_program_is_executed_with_the_users_rights() {
    let f = Fixture::new();
    use std::os::unix::fs::PermissionsExt;
    let private = f.base.join("root/true");
    std::fs::copy("/bin/busybox", &private).unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    let spec = |uid| with(f.spec("rights", &["/root/true"]), |s| s.uid = uid);
    assert_eq!(f.run(spec(0)).status, ExitStatus::Exited(0));
    assert!(matches!(
        f.error(spec(1000)),
        SandboxError::ProgramPermission { .. }
    ));
}
