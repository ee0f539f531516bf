//! Definitions that were made to hurt, given to a solver as any other.

use std::time::Duration;

use ashlar_llb::{Definition, LoadError, OpDigest, encode, pb};
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::ops::Entitlements;
use ashlar_solver::ops::exec::ExecError;
use ashlar_solver::solver::{SolveError, SolveRequest, Solver};
use bytes::Bytes;
use pb::op::Op;

use super::support::{self, chain, temp};

fn op(inputs: &[(&[u8], i64)], op: Op) -> Vec<u8> {
    let inputs = inputs.iter().map(|(input, index)| pb::Input {
        digest: OpDigest::of(input).to_string(),
        index: *index,
    });
    encode::op_bytes(&pb::Op {
        inputs: inputs.collect(),
        op: Some(op),
        platform: Some(pb::Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            ..pb::Platform::default()
        }),
        constraints: Some(pb::WorkerConstraints::default()),
    })
}

/// A definition whose result is output `index` of the last op.
fn definition(ops: Vec<Vec<u8>>, index: i64) -> Definition {
    let last = OpDigest::of(ops.last().unwrap()).to_string();
    ending(ops, last, index)
}

fn ending(ops: Vec<Vec<u8>>, digest: String, index: i64) -> Definition {
    let terminal = encode::op_bytes(&pb::Op {
        inputs: vec![pb::Input { digest, index }],
        ..pb::Op::default()
    });
    let ops = ops.into_iter().chain([terminal]).map(Bytes::from);
    Definition::new(ops.collect(), [].into(), None)
}

fn source(identifier: &str) -> Vec<u8> {
    let source = pb::SourceOp {
        identifier: identifier.into(),
        ..pb::SourceOp::default()
    };
    op(&[], Op::Source(source))
}

/// A file op that makes a directory on nothing.
fn directory() -> pb::FileOp {
    let action = pb::FileAction {
        input: -1,
        secondary_input: -1,
        output: 0,
        action: Some(pb::file_action::Action::Mkdir(pb::FileActionMkDir {
            path: "/a".into(),
            mode: 0o755,
            ..pb::FileActionMkDir::default()
        })),
    };
    pb::FileOp {
        actions: vec![action],
    }
}

/// A step on nothing, but for what `change` does.
fn step(change: impl FnOnce(&mut pb::ExecOp)) -> Definition {
    let mut exec = pb::ExecOp {
        meta: Some(pb::Meta {
            args: vec!["true".into()],
            cwd: "/".into(),
            ..pb::Meta::default()
        }),
        mounts: vec![pb::Mount {
            dest: "/".into(),
            input: -1,
            ..pb::Mount::default()
        }],
        ..pb::ExecOp::default()
    };
    change(&mut exec);
    definition(vec![op(&[], Op::Exec(exec))], 0)
}

fn mount(change: impl FnOnce(&mut pb::Mount)) -> Definition {
    let mut mount = pb::Mount {
        dest: "/m".into(),
        input: -1,
        output: -1,
        ..pb::Mount::default()
    };
    change(&mut mount);
    step(|exec| exec.mounts.push(mount))
}

/// Solves what has to be refused.
async fn refused(solver: &Solver, what: &str, definition: Definition) -> SolveError {
    let solved = solver.solve(SolveRequest::new(definition)).result();
    let solved = tokio::time::timeout(Duration::from_secs(60), solved).await;
    let solved = solved.unwrap_or_else(|_| panic!("{what}: no end"));
    let error = solved.err().unwrap_or_else(|| panic!("{what}: solved"));
    assert_eq!(error.fault(), Fault::Input, "{what}: {}", chain(&error));
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn class_4_malformed_definitions_are_refused_with_a_type() {
    let folder = temp();
    let solver = support::solver(folder.path().join("state"));
    let make = || op(&[], Op::File(directory()));
    let on = |input: &[u8], index: i64| {
        let copy = pb::MergeOp {
            inputs: vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 0 }],
        };
        op(&[(input, index)], Op::Merge(copy))
    };
    let absent = OpDigest::of(b"absent").to_string();
    // An op can only be below itself by a digest that is wrong.
    let itself = encode::op_bytes(&pb::Op {
        inputs: vec![pb::Input {
            digest: format!("sha256:{}", "0".repeat(64)),
            index: 0,
        }],
        op: Some(Op::Merge(pb::MergeOp::default())),
        ..pb::Op::default()
    });
    let action = |input: i64, secondary: i64, output: i64| {
        let mut file = directory();
        file.actions[0].input = input;
        file.actions[0].secondary_input = secondary;
        file.actions[0].output = output;
        definition(vec![op(&[], Op::File(file))], 0)
    };
    let cases: Vec<(&str, Definition)> = vec![
        (
            "nothing but the end",
            ending(vec![], OpDigest::of(&make()).to_string(), 0),
        ),
        ("no digest", ending(vec![make()], "sha256:XYZ".into(), 0)),
        (
            "another algorithm",
            ending(vec![make()], format!("md5:{}", "0".repeat(32)), 0),
        ),
        ("a digest of nothing", ending(vec![make()], absent, 0)),
        (
            "an input that is missing",
            definition(vec![on(&make(), 0)], 0),
        ),
        ("a cycle", definition(vec![make(), itself], 0)),
        ("a negative output", definition(vec![make()], -1)),
        ("the least output", definition(vec![make()], i64::MIN)),
        ("an output too far", definition(vec![make()], 1)),
        ("the last output", definition(vec![make()], i64::MAX)),
        (
            "a negative output of an input",
            definition(vec![make(), on(&make(), -1)], 0),
        ),
        ("bytes that are no op", definition(vec![vec![0xff; 40]], 0)),
        (
            "an op of no kind",
            definition(vec![encode::op_bytes(&pb::Op::default())], 0),
        ),
        ("an action on its own outcome", action(0, -1, 0)),
        ("an action on a negative input", action(-2, -1, 0)),
        ("an action without an output", action(-1, -1, -1)),
        ("an output with a gap", action(-1, -1, 7)),
    ];
    for (what, definition) in cases {
        let error = refused(&solver, what, definition).await;
        assert!(
            matches!(error, SolveError::Definition(_)),
            "{what}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn class_4_numbers_that_mean_nothing_are_refused() {
    let folder = temp();
    let solver = support::solver(folder.path().join("state"));
    for number in [-1, 77, i32::MIN, i32::MAX] {
        let cases = [
            ("network", step(|exec| exec.network = number)),
            ("security", step(|exec| exec.security = number)),
            ("mount type", mount(|mount| mount.mount_type = number)),
            ("content cache", mount(|mount| mount.content_cache = number)),
            (
                "sharing",
                mount(|mount| {
                    mount.mount_type = pb::MountType::Cache.into();
                    mount.cache_opt = Some(pb::CacheOpt {
                        id: "a".into(),
                        sharing: number,
                    });
                }),
            ),
        ];
        for (what, definition) in cases {
            let what = format!("{what} {number}");
            let error = refused(&solver, &what, definition).await;
            let SolveError::Definition(error) = error else {
                panic!("{what}: {error:?}");
            };
            assert!(
                matches!(*error, LoadError::Invalid { .. }),
                "{what}: {error:?}"
            );
        }
    }
}

/// Class 5: what nobody granted is refused.
#[tokio::test(flavor = "multi_thread")]
async fn class_5_what_was_not_granted_is_refused() {
    let folder = temp();
    let solver = support::solver(folder.path().join("state"));
    let cases = [
        (
            "network.host",
            step(|exec| exec.network = pb::NetMode::Host.into()),
        ),
        (
            "security.insecure",
            step(|exec| exec.security = pb::SecurityMode::Insecure.into()),
        ),
    ];
    for (what, definition) in cases {
        let error = refused(&solver, what, definition).await;
        let text = chain(&error);
        assert!(
            matches!(error, SolveError::Vertex { .. }),
            "{what}: {error:?}"
        );
        assert!(
            text.contains(what) && text.contains("not allowed"),
            "{what}: {text}"
        );
    }
}

/// Class 5: a device that is there, that a step needs, and that nobody granted.
#[tokio::test(flavor = "multi_thread")]
async fn class_5_devices_that_were_not_granted_are_refused() {
    let folder = temp();
    let cdi = folder.path().join("cdi");
    let text = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
        "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"]}}]}"#;
    support::write(cdi.join("gpu.json"), text);
    let wanted = |optional: bool| {
        step(|exec| {
            exec.cdi_devices.push(pb::CdiDevice {
                name: "vendor.com/gpu=0".into(),
                optional,
            });
        })
    };
    for allow in ["network.host", "device=vendor.com/gpu=1"] {
        let solver = Solver::builder()
            .root(folder.path().join("state"))
            .cdi_directories([&cdi])
            .entitlements(Entitlements::default().allow(allow).unwrap());
        let solver = solver.build().unwrap();
        for optional in [false, true] {
            let error = refused(&solver, allow, wanted(optional)).await;
            let SolveError::Vertex { failure, .. } = &error else {
                panic!("{allow}: {error:?}");
            };
            let told = failure.downcast_ref::<ExecError>();
            assert!(
                matches!(told, Some(ExecError::DeviceNotAllowed { name }) if name == "vendor.com/gpu=0"),
                "{allow}: {}",
                failure.chain()
            );
        }
    }
}

/// A million ops that are one, more than there may be, and a chain that no stack could hold.
#[tokio::test(flavor = "multi_thread")]
async fn class_4_a_million_ops_take_bounded_time() {
    let folder = temp();
    let solver = support::solver(folder.path().join("state"));
    let make = Bytes::from(op(&[], Op::File(directory())));
    let end = definition(vec![make.to_vec()], 0).ops()[1].clone();
    let many = |count: usize| {
        let ops = std::iter::repeat_n(make.clone(), count).chain([end.clone()]);
        SolveRequest::new(Definition::new(ops.collect(), [].into(), None))
    };
    let error = solver.solve(many(1_000_000)).result().await.unwrap_err();
    let SolveError::Definition(error) = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*error, LoadError::TooManyOps { .. }), "{error:?}");
    let solved = support::solve(&solver, many(999_999)).await;
    assert_eq!(solved.vertices.len(), 1);
    // A chain of merges of itself, the last of which uses a source that cannot be had.
    let mut ops = vec![source("local://absent")];
    for _ in 0..20_000 {
        let last = ops.last().unwrap().clone();
        let inputs = vec![pb::MergeInput { input: 0 }, pb::MergeInput { input: 1 }];
        let twice = [(&last[..], 0), (&last[..], 0)];
        ops.push(op(&twice, Op::Merge(pb::MergeOp { inputs })));
    }
    let error = refused(&solver, "a chain", definition(ops, 0)).await;
    assert!(matches!(error, SolveError::Vertex { .. }), "{error:?}");
}
