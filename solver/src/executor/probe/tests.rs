//! Each obstacle, from findings that were never made.

use super::findings::{CLONE, ID_MAP, errno};
use super::*;

const USER: u32 = 1000;

fn clone_refused(errno: i32) -> Findings {
    let mut findings = Findings::all_works(USER);
    findings.processes = Attempt::refused(CLONE, "", errno);
    findings
}

fn refused(step: &str, object: &str, errno: i32) -> Findings {
    let mut findings = Findings::all_works(USER);
    findings.processes = Attempt::refused(step, object, errno);
    findings
}

fn with(mut findings: Findings, change: impl FnOnce(&mut Findings)) -> Findings {
    change(&mut findings);
    findings
}

/// The obstacle to exec, and that its remedy holds `hint`.
fn stops_exec(findings: &Findings, hint: &str) -> Obstacle {
    let capabilities = Capabilities::decide(findings);
    assert_eq!(capabilities.tier, ExecTier::None, "{capabilities:?}");
    let obstacle = capabilities.exec_obstacle().unwrap().clone();
    let remedy = obstacle.remedy();
    assert!(remedy.contains(hint), "{obstacle:?}: {remedy}");
    obstacle
}

#[test]
fn a_machine_that_lacks_nothing() {
    let capabilities = Capabilities::decide(&Findings::all_works(0));
    assert_eq!(capabilities.tier, ExecTier::Root);
    assert_eq!(capabilities.obstacles, []);
    let capabilities = Capabilities::decide(&Findings::all_works(USER));
    assert_eq!(capabilities.tier, ExecTier::SingleId);
    assert_eq!(capabilities.exec_obstacle(), None);
}

#[test]
fn remedy_for_the_switch_of_debian() {
    let findings = with(clone_refused(errno::EPERM), |f| {
        f.unprivileged_namespaces = false;
    });
    let obstacle = stops_exec(&findings, "kernel.unprivileged_userns_clone=1");
    assert_eq!(obstacle, Obstacle::UnprivilegedNamespacesOff);
}

#[test]
fn remedy_for_apparmor() {
    let hint = "kernel.apparmor_restrict_unprivileged_userns=0";
    for findings in [
        clone_refused(errno::EPERM),
        refused(ID_MAP, "", errno::EPERM),
        refused("make mounts private", "", errno::EACCES),
    ] {
        let findings = with(findings, |f| f.apparmor_restricts_namespaces = true);
        assert_eq!(stops_exec(&findings, hint), Obstacle::AppArmor);
    }
}

#[test]
fn remedy_for_a_limit_of_namespaces() {
    let hint = "user.max_user_namespaces";
    for (code, limit) in [
        (errno::ENOSPC, Some(0)),
        (errno::EUSERS, None),
        (errno::EPERM, Some(0)),
    ] {
        let findings = with(clone_refused(code), |f| f.max_user_namespaces = limit);
        let obstacle = stops_exec(&findings, hint);
        assert_eq!(obstacle, Obstacle::NamespaceLimit { limit });
    }
}

#[test]
fn remedy_for_a_system_call_filter() {
    for code in [errno::EPERM, errno::ENOSYS] {
        let findings = with(clone_refused(code), |f| f.has_seccomp = true);
        assert_eq!(
            stops_exec(&findings, "seccomp=unconfined"),
            Obstacle::Seccomp
        );
    }
}

#[test]
fn remedy_for_root_without_privileges() {
    let findings = with(clone_refused(errno::EPERM), |f| {
        (f.uid, f.has_seccomp) = (0, true);
    });
    let obstacle = stops_exec(&findings, "--privileged");
    assert_eq!(obstacle, Obstacle::RootWithoutPower { seccomp: true });
}

#[test]
fn remedy_for_a_masked_proc() {
    let findings = refused("prepare the mount source", "/proc", errno::EPERM);
    let obstacle = stops_exec(&findings, "systempaths=unconfined");
    let path = "/proc".to_owned();
    assert_eq!(obstacle, Obstacle::MaskedProc { path });
}

#[test]
fn remedy_for_a_missing_overlay() {
    let overlay = |uid, code| {
        with(Findings::all_works(uid), |f| {
            f.overlay = Attempt::refused("prepare the mount source", "upper", code);
            f.kernel = (5, 4);
            f.directory = "/state".into();
        })
    };
    let missing = stops_exec(&overlay(0, errno::ENODEV), "module `overlay`");
    assert_eq!(missing, Obstacle::NoOverlay);
    let kernel = (5, 4);
    let old = stops_exec(&overlay(USER, errno::EPERM), "5.11");
    assert_eq!(old, Obstacle::OverlayNotForUsers { kernel });
    let directory = "/state".into();
    let unfit = stops_exec(&overlay(0, errno::EINVAL), "ext4");
    assert_eq!(unfit, Obstacle::OverlayFileSystem { directory });
}

#[test]
fn remedy_for_an_old_kernel() {
    let obstacle = stops_exec(&clone_refused(errno::ENOSYS), "5.12");
    let what = "clone3".to_owned();
    assert_eq!(obstacle, Obstacle::OldKernel { what });
}

#[test]
fn what_is_not_known_is_told_as_it_is() {
    let obstacle = stops_exec(&refused("mount", "/dev", errno::EPERM), "security modules");
    assert!(
        obstacle.to_string().starts_with("mount /dev: "),
        "{obstacle}"
    );
}

#[test]
fn what_stops_only_a_part_leaves_the_rest() {
    let capabilities = Capabilities::decide(&with(Findings::all_works(USER), |f| {
        f.network_namespace = Attempt::refused(CLONE, "", errno::EPERM);
        f.tunnel_device = Attempt::refused("open", "/dev/net/tun", errno::EACCES);
        f.control_groups = Attempt::refused("make a control group", "", errno::EACCES);
    }));
    assert_eq!(capabilities.tier, ExecTier::SingleId);
    assert_eq!(capabilities.exec_obstacle(), None);
    for (what, hint) in [
        (Stops::NetworkNamespace, "network of the host"),
        (Stops::SandboxNetwork, "0666"),
        (Stops::ControlGroups, "Delegate=yes"),
        (Stops::OtherUsers, "run as root"),
    ] {
        let remedy = capabilities.obstacle_to(what).unwrap().remedy();
        assert!(remedy.contains(hint), "{what:?}: {remedy}");
    }
    let no_device = Capabilities::decide(&with(Findings::all_works(0), |f| {
        f.tunnel_device = Attempt::refused("open", "/dev/net/tun", errno::ENOENT);
    }));
    let remedy = no_device
        .obstacle_to(Stops::SandboxNetwork)
        .unwrap()
        .remedy();
    assert!(remedy.contains("module `tun`"), "{remedy}");
}

#[test]
fn remedy_for_steps_with_one_user() {
    let capabilities = Capabilities::decide(&Findings::all_works(USER));
    assert_eq!(capabilities.obstacles, [Obstacle::OneUser]);
    let remedy = Obstacle::OneUser.remedy();
    assert!(remedy.contains("pretend_ownership"), "{remedy}");
    let root = Capabilities::decide(&Findings::all_works(0));
    assert_eq!(root.obstacle_to(Stops::OtherUsers), None);
}

#[test]
fn this_machine_answers_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let capabilities = Capabilities::probe(directory.path()).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        // Tests as root run where steps run.
        assert_eq!(capabilities.tier, ExecTier::Root, "{capabilities:?}");
        assert_eq!(capabilities.obstacle_to(Stops::NetworkNamespace), None);
    } else {
        assert_ne!(capabilities.tier, ExecTier::Root);
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// The same as an ordinary user, in a process of its own.
#[test]
fn this_machine_answers_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        println!(
            "SKIPPED: this_machine_answers_an_ordinary_user: not root, so it was that already"
        );
        return;
    }
    use std::os::unix::process::CommandExt as _;
    #[expect(clippy::disallowed_methods, reason = "the test binary runs itself")]
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["probe::tests::inner_user", "--ignored", "--nocapture"])
        .uid(USER)
        .gid(USER)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let done = output.status.success() && text.contains("1 passed");
    assert!(done, "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by this_machine_answers_an_ordinary_user"]
fn inner_user() {
    let directory = tempfile::tempdir().unwrap();
    let capabilities = Capabilities::probe(directory.path()).unwrap();
    assert_eq!(capabilities.tier, ExecTier::SingleId, "{capabilities:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    for obstacle in &capabilities.obstacles {
        println!("{obstacle}: {}", obstacle.remedy());
    }
}
