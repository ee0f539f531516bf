//! Exec ops.

use ashlar_llb::pb;
use ashlar_llb::pb::{MountContentCache, MountType, NetMode, SecurityMode};
use ashlar_solver::ops::keys;

use super::{Both, Digest, Inputs, Nothing, Row, check, rows};

#[derive(Debug, Clone)]
struct Exec {
    op: pb::ExecOp,
    platform: pb::Platform,
}

fn mount(input: i64, selector: &str, dest: &str, output: i64) -> pb::Mount {
    pb::Mount {
        input,
        selector: selector.into(),
        dest: dest.into(),
        output,
        ..pb::Mount::default()
    }
}

fn special(kind: MountType, dest: &str) -> pb::Mount {
    pb::Mount {
        mount_type: kind as i32,
        ..mount(-1, "", dest, -1)
    }
}

/// Positions of mounts in the sample.
const READ: usize = 1;
const TMPFS: usize = 2;
const NAMED_CACHE: usize = 3;
const PLAIN_CACHE: usize = 4;
const SECRET: usize = 5;
const SSH: usize = 6;

/// An op with something in every field.
fn sample() -> Exec {
    let read = pb::Mount {
        readonly: true,
        result_id: "r".into(),
        ..mount(1, "/sel", "/read", -1)
    };
    let mut tmpfs = special(MountType::Tmpfs, "/tmp");
    tmpfs.tmpfs_opt = Some(pb::TmpfsOpt { size: 1 });
    let cache = |id: &str, dest: &str| {
        let mut cache = special(MountType::Cache, dest);
        cache.cache_opt = Some(pb::CacheOpt {
            id: id.into(),
            sharing: 0,
        });
        cache
    };
    let mut secret = special(MountType::Secret, "/secret");
    secret.secret_opt = Some(pb::SecretOpt {
        id: "s".into(),
        uid: 1,
        gid: 2,
        mode: 0o400,
        optional: false,
    });
    let mut ssh = special(MountType::Ssh, "/ssh");
    ssh.ssh_opt = Some(pb::SshOpt {
        id: "s".into(),
        uid: 1,
        gid: 2,
        mode: 0o600,
        optional: false,
    });
    let meta = pb::Meta {
        args: vec!["a".into(), "b".into()],
        env: vec!["A=1".into()],
        cwd: "/".into(),
        user: "root".into(),
        proxy_env: Some(pb::ProxyEnv::default()),
        extra_hosts: vec![pb::HostIp {
            host: "h".into(),
            ip: "1.2.3.4".into(),
        }],
        hostname: "n".into(),
        ulimit: vec![pb::Ulimit {
            name: "nofile".into(),
            soft: 1,
            hard: 2,
        }],
        cgroup_parent: "p".into(),
        remove_mount_stubs_recursive: true,
        valid_exit_codes: vec![0],
    };
    Exec {
        op: pb::ExecOp {
            meta: Some(meta),
            mounts: vec![
                mount(0, "", "/", 0),
                read,
                tmpfs,
                cache("id", "/cache"),
                cache("/plain", "/plain"),
                secret,
                ssh,
            ],
            network: NetMode::None as i32,
            security: SecurityMode::Sandbox as i32,
            secretenv: vec![pb::SecretEnv {
                id: "s".into(),
                name: "S".into(),
                optional: false,
            }],
            cdi_devices: vec![pb::CdiDevice {
                name: "d".into(),
                optional: false,
            }],
        },
        platform: pb::Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            ..pb::Platform::default()
        },
    }
}

fn key(exec: &Exec) -> Result<keys::OpKey, keys::KeyError> {
    keys::exec(&exec.op, &exec.platform, 3)
}

fn more(list: &mut Vec<String>) {
    list.push("more".into());
}

fn longer(text: &mut String) {
    text.push('x');
}

fn flip(flag: &mut bool) {
    *flag = !*flag;
}

fn add<N: std::ops::AddAssign + From<u8>>(number: &mut N) {
    *number += N::from(1);
}

#[test]
fn cve_class_16_every_field_of_exec_ops() {
    let mut all: Vec<Row<Exec>> = Vec::new();
    rows!(all, Exec, "", ExecOp, |exec| &mut exec.op, {
        network: Digest => add,
        security: Digest => add,
    }, nested [meta, mounts, secretenv, cdi_devices]);
    rows!(all, Exec, "", Meta, |exec| exec.op.meta.as_mut().unwrap(), {
        args: Digest => more,
        env: Digest => more,
        cwd: Digest => longer,
        user: Digest => longer,
        hostname: Digest => longer,
        cgroup_parent: Digest => longer,
        remove_mount_stubs_recursive: Digest => flip,
        valid_exit_codes: Digest => |codes: &mut Vec<i32>| codes.push(7),
    }, nested [proxy_env, extra_hosts, ulimit]);
    // Which way to the outside there is must not cause a miss.
    rows!(all, Exec, "", ProxyEnv, |exec| {
        exec.op.meta.as_mut().unwrap().proxy_env.as_mut().unwrap()
    }, {
        http_proxy: Nothing => longer,
        https_proxy: Nothing => longer,
        ftp_proxy: Nothing => longer,
        no_proxy: Nothing => longer,
        all_proxy: Nothing => longer,
    }, nested []);
    rows!(all, Exec, "", HostIp, |exec| &mut exec.op.meta.as_mut().unwrap().extra_hosts[0], {
        host: Digest => longer,
        ip: Nothing => longer,
    }, nested []);
    rows!(all, Exec, "", Ulimit, |exec| &mut exec.op.meta.as_mut().unwrap().ulimit[0], {
        name: Digest => longer,
        soft: Digest => add,
        hard: Digest => add,
    }, nested []);
    rows!(all, Exec, "", SecretEnv, |exec| &mut exec.op.secretenv[0], {
        id: Digest => longer,
        name: Digest => longer,
        optional: Digest => flip,
    }, nested []);
    rows!(all, Exec, "", CdiDevice, |exec| &mut exec.op.cdi_devices[0], {
        name: Digest => longer,
        optional: Digest => flip,
    }, nested []);
    rows!(all, Exec, "", Platform, |exec| &mut exec.platform, {
        architecture: Digest => longer,
        os: Digest => longer,
        variant: Digest => longer,
        os_version: Digest => longer,
        os_features: Digest => more,
    }, nested []);
    check(&sample(), key, all);
}

#[test]
fn cve_class_16_every_field_of_mounts() {
    let mut all: Vec<Row<Exec>> = Vec::new();
    rows!(all, Exec, "read-only", Mount, |exec| &mut exec.op.mounts[READ], {
        input: Both => add,
        // The selector of the input tells it.
        selector: Inputs => longer,
        dest: Digest => longer,
        output: Digest => |output: &mut i64| *output = 5,
        readonly: Digest => flip,
        mount_type: Both => |kind: &mut i32| *kind = MountType::Tmpfs as i32,
        tmpfs_opt: Digest => |it: &mut Option<_>| *it = Some(pb::TmpfsOpt::default()),
        cache_opt: Digest => |it: &mut Option<_>| *it = Some(pb::CacheOpt::default()),
        secret_opt: Digest => |it: &mut Option<_>| *it = Some(pb::SecretOpt::default()),
        ssh_opt: Digest => |it: &mut Option<_>| *it = Some(pb::SshOpt::default()),
        result_id: Digest => longer,
        content_cache: Both => |mode: &mut i32| *mode = MountContentCache::Off as i32,
    }, nested []);
    rows!(all, Exec, "", TmpfsOpt, |exec| exec.op.mounts[TMPFS].tmpfs_opt.as_mut().unwrap(), {
        size: Digest => add,
    }, nested []);
    // What is kept in a cache mount is no part of the result.
    rows!(all, Exec, "named", CacheOpt, |exec| {
        exec.op.mounts[NAMED_CACHE].cache_opt.as_mut().unwrap()
    }, {
        id: Nothing => longer,
        sharing: Nothing => add,
    }, nested []);
    // The name that a Dockerfile gives a cache when none is said is in old keys.
    rows!(all, Exec, "plain", CacheOpt, |exec| {
        exec.op.mounts[PLAIN_CACHE].cache_opt.as_mut().unwrap()
    }, {
        id: Digest => longer,
        sharing: Digest => add,
    }, nested []);
    rows!(all, Exec, "", SecretOpt, |exec| exec.op.mounts[SECRET].secret_opt.as_mut().unwrap(), {
        id: Digest => longer,
        uid: Digest => add,
        gid: Digest => add,
        mode: Digest => add,
        optional: Digest => flip,
    }, nested []);
    rows!(all, Exec, "", SshOpt, |exec| exec.op.mounts[SSH].ssh_opt.as_mut().unwrap(), {
        id: Digest => longer,
        uid: Digest => add,
        gid: Digest => add,
        mode: Digest => add,
        optional: Digest => flip,
    }, nested []);
    check(&sample(), key, all);
}

/// An op whose only mount is its writable root has no mounts in its key, as in old versions.
#[test]
fn cve_class_16_every_field_of_a_sole_root_mount() {
    let mut only = sample();
    only.op.mounts.truncate(1);
    let mut all: Vec<Row<Exec>> = Vec::new();
    rows!(all, Exec, "root", Mount, |exec| &mut exec.op.mounts[0], {
        // The key of the input tells which one it is.
        input: Inputs => add,
        selector: Inputs => longer,
        dest: Both => longer,
        // Outputs are told apart beside the digest.
        output: Nothing => add,
        readonly: Digest => flip,
        mount_type: Both => |kind: &mut i32| *kind = MountType::Tmpfs as i32,
        tmpfs_opt: Nothing => |it: &mut Option<_>| *it = Some(pb::TmpfsOpt::default()),
        cache_opt: Digest => |it: &mut Option<_>| *it = Some(pb::CacheOpt::default()),
        secret_opt: Digest => |it: &mut Option<_>| *it = Some(pb::SecretOpt::default()),
        ssh_opt: Digest => |it: &mut Option<_>| *it = Some(pb::SshOpt::default()),
        result_id: Digest => longer,
        content_cache: Inputs => |mode: &mut i32| *mode = MountContentCache::On as i32,
    }, nested []);
    check(&only, key, all);
}
