//! Ops that were made to hurt: values nobody defined, rights nobody gave, keys that say too little.

use std::collections::BTreeMap;
use std::sync::Arc;

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::user_opt::User;
use ashlar_llb::pb::{CacheSharingOpt, MountContentCache, MountType, NetMode, SecurityMode};
use ashlar_solver::error::OperationError;
use ashlar_solver::executor::{ScriptedExecutor, find_user};
use ashlar_solver::operation::Operation as _;
use ashlar_solver::ops::exec::ExecOperation;
use ashlar_solver::ops::keys;
use ashlar_solver::refs::Ref;
use ashlar_solver::tree::View;

use crate::ops_kit::Kit;

fn platform() -> pb::Platform {
    pb::Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        ..pb::Platform::default()
    }
}

fn root() -> pb::Mount {
    pb::Mount {
        dest: "/".into(),
        ..pb::Mount::default()
    }
}

fn exec(mounts: impl IntoIterator<Item = pb::Mount>) -> pb::ExecOp {
    pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["true".into()],
            cwd: "/".into(),
            ..pb::Meta::default()
        }),
        mounts: [root()].into_iter().chain(mounts).collect(),
        ..pb::ExecOp::default()
    }
}

/// Why an op is refused; the executor has no script and would say so.
fn refused(kit: &Kit, op: &pb::ExecOp) -> String {
    let operation = ExecOperation::new(op, &platform(), 1, &kit.engine);
    let run = |operation: ExecOperation| {
        let context = kit.context();
        let running = operation.run(vec![Ref::scratch()], &context);
        kit.runtime.block_on(running)
    };
    match operation.and_then(run) {
        Err(OperationError::Failed(failure)) => failure.chain(),
        other => panic!("{other:?}"),
    }
}

/// Numbers that no enumeration has, and those that it may have.
fn numbers() -> impl Iterator<Item = i32> {
    (-2..300).chain([i32::MIN, i32::MIN + 1, 1 << 8, 1 << 16, 1 << 30, i32::MAX])
}

#[test]
fn class_4_numbers_without_a_meaning_are_errors() {
    let kit = Kit::with(Arc::new(ScriptedExecutor::default()));
    let unscripted = |text: &str| text.contains("no script");
    assert!(unscripted(&refused(&kit, &exec([]))));
    for number in numbers() {
        let mut op = exec([]);
        op.network = number;
        let text = refused(&kit, &op);
        match NetMode::try_from(number) {
            Ok(NetMode::Host) => assert_eq!(text, "network.host is not allowed"),
            Ok(_) => assert!(unscripted(&text), "{text}"),
            Err(_) => assert_eq!(
                text,
                format!("invalid exec op: unknown network mode {number}")
            ),
        }
        let mut op = exec([]);
        op.security = number;
        let text = refused(&kit, &op);
        match SecurityMode::try_from(number) {
            Ok(SecurityMode::Insecure) => assert_eq!(text, "security.insecure is not allowed"),
            Ok(SecurityMode::Sandbox) => assert!(unscripted(&text), "{text}"),
            Err(_) => assert_eq!(
                text,
                format!("invalid exec op: unknown security mode {number}")
            ),
        }
        let mount = pb::Mount {
            dest: "/m".into(),
            input: -1,
            output: -1,
            ..pb::Mount::default()
        };
        let cache = Some(pb::CacheOpt {
            id: "c".into(),
            sharing: number,
        });
        let sharing = pb::Mount {
            mount_type: MountType::Cache as i32,
            cache_opt: cache,
            ..mount.clone()
        };
        let known = CacheSharingOpt::try_from(number).is_ok();
        let text = refused(&kit, &exec([sharing]));
        assert_eq!(unscripted(&text), known, "sharing {number}: {text}");
        if MountType::try_from(number).is_err() {
            let kind = pb::Mount {
                mount_type: number,
                ..mount.clone()
            };
            let text = refused(&kit, &exec([kind]));
            assert!(!unscripted(&text), "mount type {number}: {text}");
        }
        if MountContentCache::try_from(number).is_err() {
            let content = pb::Mount {
                content_cache: number,
                input: 0,
                ..mount
            };
            let text = refused(&kit, &exec([content]));
            assert!(!unscripted(&text), "content cache {number}: {text}");
        }
    }
}

#[test]
fn cve_2024_40635_no_text_becomes_root() {
    for text in [
        "0x0",
        "0X0",
        "00x0",
        " 0",
        "0 ",
        "0\n",
        "\0",
        "４",
        "1e0",
        "0.0",
        "-1",
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0:x",
        "x:0",
        "0:-1",
        "0:4294967296",
        "4294967296:0",
        "1000:4294967296",
        ":4294967296",
        "a:b:c",
    ] {
        match find_user(&View::empty(), text) {
            Err(_) => {}
            Ok(user) => assert!(
                user.uid != 0 && user.gid != u32::MAX,
                "{text:?} is {user:?}"
            ),
        }
    }
    for (text, ids) in [
        ("1000", (1000, 0)),
        ("1000:50", (1000, 50)),
        ("2147483647", (i32::MAX as u32, 0)),
    ] {
        let user = find_user(&View::empty(), text).unwrap();
        assert_eq!((user.uid, user.gid), ids);
    }
}

/// An exec op with something in each of its fields.
fn full_exec() -> pb::ExecOp {
    let mut op = exec([pb::Mount {
        input: 0,
        selector: "/s".into(),
        dest: "/d".into(),
        output: 1,
        readonly: true,
        mount_type: MountType::Bind as i32,
        result_id: "r".into(),
        ..pb::Mount::default()
    }]);
    op.meta = Some(pb::Meta {
        args: vec!["a".into(), "b".into()],
        env: vec!["A=1".into(), "B=2".into()],
        cwd: "/w".into(),
        user: "u".into(),
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
        cgroup_parent: "c".into(),
        valid_exit_codes: vec![1],
        ..pb::Meta::default()
    });
    op.secretenv = vec![pb::SecretEnv {
        id: "i".into(),
        name: "N".into(),
        optional: true,
    }];
    op.cdi_devices = vec![pb::CdiDevice {
        name: "v/c=d".into(),
        optional: true,
    }];
    op
}

/// Each key, with what was changed: no two may be equal.
fn assert_all_differ(keys: Vec<(&'static str, String)>) {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for (what, key) in keys {
        if let Some(other) = seen.insert(key, what) {
            panic!("{what} and {other} have one key");
        }
    }
}

#[test]
fn class_16_every_field_of_an_exec_op_is_in_its_key() {
    fn meta(op: &mut pb::ExecOp) -> &mut pb::Meta {
        op.meta.as_mut().unwrap()
    }
    type Change = (&'static str, fn(&mut pb::ExecOp));
    let changes: &[Change] = &[
        ("nothing", |_| {}),
        ("args", |op| meta(op).args[1] = "c".into()),
        ("joined args", |op| meta(op).args = vec!["a b".into()]),
        ("more args", |op| meta(op).args.push(String::new())),
        ("env", |op| meta(op).env[1] = "B=3".into()),
        ("order of env", |op| meta(op).env.swap(0, 1)),
        ("cwd", |op| meta(op).cwd = "/x".into()),
        ("user", |op| meta(op).user = "v".into()),
        ("host", |op| meta(op).extra_hosts[0].host = "i".into()),
        ("more hosts", |op| {
            meta(op).extra_hosts.push(pb::HostIp::default());
        }),
        ("hostname", |op| meta(op).hostname = "m".into()),
        ("limit", |op| meta(op).ulimit[0].name = "nproc".into()),
        ("soft limit", |op| meta(op).ulimit[0].soft = 0),
        ("hard limit", |op| meta(op).ulimit[0].hard = 3),
        ("cgroup", |op| meta(op).cgroup_parent = "d".into()),
        ("stubs", |op| meta(op).remove_mount_stubs_recursive = true),
        ("exit codes", |op| meta(op).valid_exit_codes = vec![2]),
        ("network", |op| op.network = NetMode::None as i32),
        ("security", |op| op.security = SecurityMode::Insecure as i32),
        ("secret", |op| op.secretenv[0].id = "j".into()),
        ("variable of secret", |op| op.secretenv[0].name = "M".into()),
        ("needed secret", |op| op.secretenv[0].optional = false),
        ("device", |op| op.cdi_devices[0].name = "v/c=e".into()),
        ("needed device", |op| op.cdi_devices[0].optional = false),
        ("destination", |op| op.mounts[1].dest = "/e".into()),
        ("selector", |op| op.mounts[1].selector = "/t".into()),
        ("output", |op| op.mounts[1].output = -1),
        ("writable", |op| op.mounts[1].readonly = false),
        ("root", |op| op.mounts[0].readonly = true),
        ("order of mounts", |op| op.mounts.swap(0, 1)),
        ("kind", |op| {
            op.mounts[1].mount_type = MountType::Cache as i32;
        }),
        ("no mount", |op| drop(op.mounts.pop())),
        ("size", |op| {
            op.mounts[1].tmpfs_opt = Some(pb::TmpfsOpt { size: 1 });
        }),
        ("secret file", |op| {
            op.mounts[1].secret_opt = Some(pb::SecretOpt {
                uid: 1,
                ..pb::SecretOpt::default()
            });
        }),
        ("agent", |op| {
            op.mounts[1].ssh_opt = Some(pb::SshOpt {
                uid: 1,
                ..pb::SshOpt::default()
            });
        }),
    ];
    let key = |op: &pb::ExecOp, platform: &pb::Platform| {
        format!("{:?}", keys::exec(op, platform, 1).unwrap())
    };
    let mut seen: Vec<_> = changes
        .iter()
        .map(|(what, change)| {
            let mut op = full_exec();
            change(&mut op);
            (*what, key(&op, &platform()))
        })
        .collect();
    type Kind = (&'static str, fn(&mut pb::Platform));
    let kinds: &[Kind] = &[
        ("os", |platform| platform.os = "windows".into()),
        ("architecture", |platform| {
            platform.architecture = "arm64".into();
        }),
        ("variant", |platform| platform.variant = "v8".into()),
        ("version", |platform| platform.os_version = "1".into()),
        ("features", |platform| {
            platform.os_features = vec!["f".into()];
        }),
    ];
    seen.extend(kinds.iter().map(|(what, change)| {
        let mut platform = platform();
        change(&mut platform);
        (*what, key(&full_exec(), &platform))
    }));
    assert_all_differ(seen);
    // What BuildKit leaves out on purpose.
    let mut op = full_exec();
    meta(&mut op).extra_hosts[0].ip = "4.3.2.1".into();
    meta(&mut op).proxy_env = Some(pb::ProxyEnv::default());
    assert_eq!(key(&op, &platform()), key(&full_exec(), &platform()));
}

fn owner(id: u32) -> Option<pb::ChownOpt> {
    Some(pb::ChownOpt {
        user: Some(pb::UserOpt {
            user: Some(User::ById(id)),
        }),
        group: None,
    })
}

#[test]
fn class_16_every_field_of_a_file_op_is_in_its_key() {
    let key = |action: Action| {
        let op = pb::FileOp {
            actions: vec![pb::FileAction {
                input: 0,
                secondary_input: 1,
                output: 0,
                action: Some(action),
            }],
        };
        format!("{:?}", keys::file(&op, 2).unwrap())
    };
    let copy = |change: fn(&mut pb::FileActionCopy)| {
        let mut copy = pb::FileActionCopy {
            src: "/a".into(),
            dest: "/b".into(),
            mode: -1,
            timestamp: -1,
            ..pb::FileActionCopy::default()
        };
        change(&mut copy);
        key(Action::Copy(copy))
    };
    let file = |change: fn(&mut pb::FileActionMkFile)| {
        let mut file = pb::FileActionMkFile {
            path: "/a".into(),
            mode: 0o644,
            data: "x".into(),
            owner: None,
            timestamp: -1,
        };
        change(&mut file);
        key(Action::Mkfile(file))
    };
    let directory = |change: fn(&mut pb::FileActionMkDir)| {
        let mut directory = pb::FileActionMkDir {
            path: "/a".into(),
            mode: 0o644,
            make_parents: false,
            owner: None,
            timestamp: -1,
        };
        change(&mut directory);
        key(Action::Mkdir(directory))
    };
    let rm = |change: fn(&mut pb::FileActionRm)| {
        let mut rm = pb::FileActionRm {
            path: "/a".into(),
            ..pb::FileActionRm::default()
        };
        change(&mut rm);
        key(Action::Rm(rm))
    };
    let link = |change: fn(&mut pb::FileActionSymlink)| {
        let mut link = pb::FileActionSymlink {
            oldpath: "/a".into(),
            newpath: "/b".into(),
            owner: None,
            timestamp: -1,
        };
        change(&mut link);
        key(Action::Symlink(link))
    };
    assert_all_differ(vec![
        ("copy", copy(|_| {})),
        ("copy: source", copy(|copy| copy.src = "/c".into())),
        ("copy: destination", copy(|copy| copy.dest = "/c".into())),
        ("copy: folder", copy(|copy| copy.dest = "/b/".into())),
        ("copy: owner", copy(|copy| copy.owner = owner(0))),
        ("copy: other owner", copy(|copy| copy.owner = owner(1))),
        ("copy: mode", copy(|copy| copy.mode = 0o600)),
        (
            "copy: mode in words",
            copy(|copy| copy.mode_str = "u+x".into()),
        ),
        ("copy: follow", copy(|copy| copy.follow_symlink = true)),
        ("copy: contents", copy(|copy| copy.dir_copy_contents = true)),
        (
            "copy: unpack",
            copy(|copy| copy.attempt_unpack_docker_compatibility = true),
        ),
        (
            "copy: make parents",
            copy(|copy| copy.create_dest_path = true),
        ),
        ("copy: wildcard", copy(|copy| copy.allow_wildcard = true)),
        ("copy: empty", copy(|copy| copy.allow_empty_wildcard = true)),
        ("copy: time", copy(|copy| copy.timestamp = 0)),
        (
            "copy: include",
            copy(|copy| copy.include_patterns = vec!["x".into()]),
        ),
        (
            "copy: exclude",
            copy(|copy| copy.exclude_patterns = vec!["x".into()]),
        ),
        (
            "copy: replace",
            copy(|copy| copy.always_replace_existing_dest_paths = true),
        ),
        (
            "copy: required",
            copy(|copy| copy.required_paths = vec!["x".into()]),
        ),
        ("file", file(|_| {})),
        ("file: path", file(|file| file.path = "/b".into())),
        ("file: mode", file(|file| file.mode = 0o600)),
        ("file: data", file(|file| file.data = "y".into())),
        ("file: owner", file(|file| file.owner = owner(0))),
        ("file: time", file(|file| file.timestamp = 0)),
        ("directory", directory(|_| {})),
        (
            "directory: path",
            directory(|directory| directory.path = "/b".into()),
        ),
        (
            "directory: mode",
            directory(|directory| directory.mode = 0o600),
        ),
        (
            "directory: parents",
            directory(|directory| directory.make_parents = true),
        ),
        (
            "directory: owner",
            directory(|directory| directory.owner = owner(0)),
        ),
        (
            "directory: time",
            directory(|directory| directory.timestamp = 0),
        ),
        ("rm", rm(|_| {})),
        ("rm: path", rm(|rm| rm.path = "/b".into())),
        ("rm: not found", rm(|rm| rm.allow_not_found = true)),
        ("rm: wildcard", rm(|rm| rm.allow_wildcard = true)),
        ("link", link(|_| {})),
        ("link: target", link(|link| link.oldpath = "/c".into())),
        ("link: place", link(|link| link.newpath = "/c".into())),
        ("link: owner", link(|link| link.owner = owner(0))),
        ("link: time", link(|link| link.timestamp = 0)),
    ]);
}
