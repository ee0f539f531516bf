//! Each rule that an op has to follow by itself, broken once.

use ashlar_llb::{Definition, Fault, Graph, pb};
use pb::op::Op;

use crate::support::{definition_at, exec, invalid, op, source};

/// The field that is refused, what to do to an op that is fine, and the fault.
type Case<T> = (&'static str, fn(&mut T), Fault);

#[test]
fn exec_rules() {
    Graph::load(&exec(|_| ())).expect("fine");
    let cases: Vec<Case<pb::ExecOp>> = vec![
        ("exec.meta", |exec| exec.meta = None, Fault::Missing),
        (
            "exec.meta.args",
            |exec| exec.meta.as_mut().unwrap().args.clear(),
            Fault::Missing,
        ),
        (
            "exec.meta.cwd",
            |exec| exec.meta.as_mut().unwrap().cwd.clear(),
            Fault::Missing,
        ),
        ("exec.mounts", |exec| exec.mounts.clear(), Fault::Missing),
        (
            "exec.mounts",
            |exec| exec.mounts[0].dest = "/x".into(),
            Fault::NoRootMount,
        ),
        (
            "exec.network",
            |e| e.network = 3,
            Fault::UnknownEnum {
                value: 3,
                name: "NetMode",
            },
        ),
        (
            "exec.security",
            |exec| exec.security = 7,
            Fault::UnknownEnum {
                value: 7,
                name: "SecurityMode",
            },
        ),
        (
            "exec.mounts[1].mountType",
            |exec| exec.mounts[1].mount_type = -1,
            Fault::UnknownEnum {
                value: -1,
                name: "MountType",
            },
        ),
        (
            "exec.mounts[1].contentCache",
            |exec| exec.mounts[1].content_cache = 9,
            Fault::UnknownEnum {
                value: 9,
                name: "MountContentCache",
            },
        ),
        (
            "exec.mounts[1].cacheOpt.sharing",
            |exec| {
                exec.mounts[1].set_mount_type(pb::MountType::Cache);
                exec.mounts[1].cache_opt = Some(pb::CacheOpt {
                    id: String::new(),
                    sharing: 3,
                });
            },
            Fault::UnknownEnum {
                value: 3,
                name: "CacheSharingOpt",
            },
        ),
        (
            "exec.mounts[1].secretOpt",
            |exec| exec.mounts[1].set_mount_type(pb::MountType::Secret),
            Fault::Missing,
        ),
        (
            "exec.mounts[0].mountType",
            |exec| exec.mounts[0].set_mount_type(pb::MountType::Tmpfs),
            Fault::RootMountType,
        ),
        (
            "exec.mounts[0].input",
            |exec| exec.mounts[0].input = 1,
            Fault::Position { value: 1, count: 1 },
        ),
        (
            "exec.mounts[1].input",
            |exec| exec.mounts[1].input = -2,
            Fault::Position {
                value: -2,
                count: 1,
            },
        ),
        (
            "exec.mounts[1].output",
            |exec| exec.mounts[1].output = i64::MAX,
            Fault::OutputNumber {
                value: i64::MAX,
                expected: 1,
            },
        ),
        (
            "exec.mounts[1].output",
            |exec| exec.mounts[1].output = 0,
            Fault::OutputNumber {
                value: 0,
                expected: 1,
            },
        ),
    ];
    for (field, change, fault) in cases {
        assert_eq!(invalid(&exec(change)), (field.to_owned(), fault), "{field}");
    }
}

/// A file op on one input that is fine but for what `change` does.
fn file(change: impl FnOnce(&mut Vec<pb::FileAction>)) -> Definition {
    let mkdir = pb::FileActionMkDir {
        path: "/d".into(),
        ..Default::default()
    };
    let action = pb::FileAction {
        input: 0,
        secondary_input: -1,
        output: -1,
        action: Some(pb::file_action::Action::Mkdir(mkdir)),
    };
    let mut actions = vec![
        action.clone(),
        pb::FileAction {
            input: 1,
            output: 0,
            ..action
        },
    ];
    change(&mut actions);
    let image = source("docker-image://a");
    let file = op(&[&image], Op::File(pb::FileOp { actions }));
    definition_at(vec![image, file], 0)
}

#[test]
fn file_rules() {
    Graph::load(&file(|_| ())).expect("fine");
    let position = |value, count| Fault::Position { value, count };
    let cases: Vec<Case<Vec<pb::FileAction>>> = vec![
        ("file.actions", Vec::clear, Fault::Missing),
        (
            "file.actions[1].action",
            |actions| actions[1].action = None,
            Fault::Missing,
        ),
        (
            "file.actions[0].input",
            |actions| actions[0].input = 1,
            position(1, 1),
        ),
        (
            "file.actions[1].input",
            |actions| actions[1].input = 2,
            position(2, 2),
        ),
        (
            "file.actions[1].secondaryInput",
            |a| a[1].secondary_input = 2,
            position(2, 2),
        ),
        (
            "file.actions[0].output",
            |actions| actions[0].output = 2,
            position(2, 2),
        ),
        (
            "file.actions[0].output",
            |actions| actions[0].output = -2,
            position(-2, 2),
        ),
        (
            "file.actions[1].output",
            |actions| actions[0].output = 0,
            Fault::DuplicateOutput { value: 0 },
        ),
        (
            "file.actions.output",
            |actions| actions[1].output = -1,
            Fault::Missing,
        ),
        (
            "file.actions.output",
            |actions| actions[1].output = 1,
            Fault::Missing,
        ),
        (
            "file.actions[1].owner.byName.input",
            |actions| {
                let name = pb::NamedUserOpt {
                    name: "root".into(),
                    input: 9,
                };
                let user = pb::UserOpt {
                    user: Some(pb::user_opt::User::ByName(name)),
                };
                let owner = Some(pb::ChownOpt {
                    user: None,
                    group: Some(user),
                });
                let mkfile = pb::FileActionMkFile {
                    owner,
                    ..Default::default()
                };
                actions[1].action = Some(pb::file_action::Action::Mkfile(mkfile));
            },
            position(9, 2),
        ),
    ];
    for (field, change, fault) in cases {
        assert_eq!(invalid(&file(change)), (field.to_owned(), fault), "{field}");
    }
}

#[test]
fn rules_of_the_small_ops() {
    let position = |value, count| Fault::Position { value, count };
    let number = |value, expected| Fault::InputNumber { value, expected };
    let lower = |input| Some(pb::LowerDiffInput { input });
    let upper = |input| Some(pb::UpperDiffInput { input });
    let diff = |below, above| {
        let (lower, upper) = (lower(below), upper(above));
        Op::Diff(pb::DiffOp { lower, upper })
    };
    let merge = |inputs: &[i64]| {
        let inputs = inputs
            .iter()
            .map(|&input| pb::MergeInput { input })
            .collect();
        Op::Merge(pb::MergeOp { inputs })
    };
    let pass = |id: &str, outputs: &[i64]| {
        Op::Passthrough(pb::PassthroughOp {
            id: id.into(),
            outputs: outputs.into(),
        })
    };
    let build = |builder, input| {
        let inputs = [("k".to_owned(), pb::BuildInput { input })].into();
        Op::Build(pb::BuildOp {
            builder,
            inputs,
            ..Default::default()
        })
    };
    let cases = [
        (
            Op::Diff(pb::DiffOp {
                lower: None,
                upper: upper(0),
            }),
            "diff.lower",
            Fault::Missing,
        ),
        (
            Op::Diff(pb::DiffOp {
                lower: lower(0),
                upper: None,
            }),
            "diff.upper",
            Fault::Missing,
        ),
        (
            Op::Diff(pb::DiffOp {
                lower: lower(2),
                upper: upper(-1),
            }),
            "diff.lower.input",
            number(2, 0),
        ),
        (
            Op::Diff(pb::DiffOp {
                lower: lower(-1),
                upper: upper(-2),
            }),
            "diff.upper.input",
            number(-2, 0),
        ),
        (diff(1, 0), "diff.lower.input", number(1, 0)),
        (diff(0, 0), "diff.upper.input", number(0, 1)),
        (
            diff(-1, 0),
            "diff",
            Fault::InputCount { inner: 1, outer: 2 },
        ),
        (
            merge(&[0]),
            "merge.inputs",
            Fault::InputCount { inner: 1, outer: 2 },
        ),
        (merge(&[1, 0]), "merge.inputs[0]", number(1, 0)),
        (pass("", &[0]), "passthrough.id", Fault::Missing),
        (pass("x", &[]), "passthrough.outputs", Fault::Missing),
        (pass("x", &[0, 2]), "passthrough.outputs[1]", position(2, 2)),
        (build(2, 0), "build.builder", position(2, 2)),
        (build(-1, -1), "build.inputs[\"k\"]", position(-1, 2)),
    ];
    let (a, b) = (source("a://"), source("b://"));
    for (what, field, fault) in cases {
        let user = op(&[&a, &b], what);
        let definition = definition_at(vec![a.clone(), b.clone(), user], 0);
        assert_eq!(invalid(&definition), (field.to_owned(), fault), "{field}");
    }
    for fine in [
        merge(&[0, 1]),
        diff(0, 1),
        pass("x", &[1, 1, 0]),
        build(-1, 1),
    ] {
        let user = op(&[&a, &b], fine);
        Graph::load(&definition_at(vec![a.clone(), b.clone(), user], 0)).expect("fine");
    }
}
