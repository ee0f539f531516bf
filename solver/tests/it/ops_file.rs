//! File ops from their message to the tree they make.

use std::io::Read as _;
use std::sync::Arc;

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::user_opt::User;
use ashlar_solver::error::OperationError;
use ashlar_solver::executor::ScriptedExecutor;
use ashlar_solver::operation::Operation as _;
use ashlar_solver::ops::diff::DiffOperation;
use ashlar_solver::ops::file::FileOperation;
use ashlar_solver::refs::Ref;
use ashlar_solver::snapshot::Stack;
use ashlar_solver::tree::{Kind, TreePath};

use crate::ops_kit::Kit;

fn kit() -> Kit {
    Kit::with(Arc::new(ScriptedExecutor::default()))
}

fn action(input: i64, secondary_input: i64, output: i64, action: Action) -> pb::FileAction {
    pb::FileAction {
        input,
        secondary_input,
        output,
        action: Some(action),
    }
}

fn mkdir(path: &str, mode: i32) -> Action {
    let path = path.into();
    Action::Mkdir(pb::FileActionMkDir {
        path,
        mode,
        make_parents: true,
        owner: None,
        timestamp: 7,
    })
}

fn mkfile(path: &str, data: &str) -> Action {
    Action::Mkfile(pb::FileActionMkFile {
        path: path.into(),
        mode: 0o640,
        data: data.to_owned().into(),
        owner: None,
        timestamp: 7,
    })
}

fn copy(src: &str, dest: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        mode: -1,
        timestamp: -1,
        create_dest_path: true,
        ..pb::FileActionCopy::default()
    }
}

fn run(
    kit: &Kit,
    actions: Vec<pb::FileAction>,
    inputs: Vec<Ref>,
) -> Result<Vec<Ref>, OperationError> {
    let op = pb::FileOp { actions };
    let operation = FileOperation::new(&op, inputs.len(), "test", &kit.engine)?;
    kit.runtime.block_on(operation.run(inputs, &kit.context()))
}

fn listing(tree: &Ref) -> String {
    let view = tree.view().unwrap();
    let line = |(path, node): (TreePath, &Arc<ashlar_solver::tree::Node>)| {
        let mode = node.entry().attributes.mode;
        match node.entry().kind {
            Kind::Directory => format!("{path}/ {mode:o}"),
            Kind::Symlink => {
                format!(
                    "{path} -> {}",
                    String::from_utf8_lossy(&node.entry().target)
                )
            }
            _ => {
                let mut text = String::new();
                let files = node.files().expect("a file has bytes");
                files
                    .open(&path)
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
                format!("{path} {mode:o} {text:?}")
            }
        }
    };
    view.walk().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn actions_build_on_each_other_in_one_layer() {
    let kit = kit();
    let link = Action::Symlink(pb::FileActionSymlink {
        oldpath: "d/f".into(),
        newpath: "/link".into(),
        owner: None,
        timestamp: 7,
    });
    let out = run(
        &kit,
        vec![
            action(-1, -1, -1, mkdir("/d/e", 0o750)),
            action(0, -1, -1, mkfile("/d/f", "one")),
            action(1, -1, -1, link),
            action(2, -1, 0, mkfile("/link", "two")),
        ],
        vec![],
    )
    .unwrap();
    assert_eq!(
        listing(&out[0]),
        "/d/ 750\n/d/e/ 750\n/d/f 640 \"two\"\n/link -> d/f"
    );
    assert_eq!(out[0].known_stack().unwrap().depth(), 1);
    let view = out[0].view().unwrap();
    let file = view.lookup(&TreePath::new("d/f").unwrap()).unwrap();
    assert_eq!(file.entry().attributes.mtime.nanoseconds, 7);
}

#[test]
fn copies_take_files_from_another_input() {
    let kit = kit();
    let source = run(
        &kit,
        vec![
            action(-1, -1, -1, mkfile("/a.txt", "a")),
            action(0, -1, -1, mkfile("/b.txt", "b")),
            action(1, -1, -1, mkdir("/etc", 0o755)),
            action(2, -1, 0, mkfile("/etc/passwd", "bin:x:2:3:::\n")),
        ],
        vec![],
    )
    .unwrap();
    let owner = pb::ChownOpt {
        user: Some(pb::UserOpt {
            user: Some(User::ByName(pb::NamedUserOpt {
                name: "bin".into(),
                input: 0,
            })),
        }),
        group: None,
    };
    let wild = pb::FileActionCopy {
        allow_wildcard: true,
        owner: Some(owner),
        mode_str: "u+x".into(),
        ..copy("/*.txt", "/to/")
    };
    let out = run(
        &kit,
        vec![action(-1, 0, 0, Action::Copy(wild))],
        source.clone(),
    )
    .unwrap();
    assert_eq!(
        listing(&out[0]),
        "/to/ 755\n/to/a.txt 740 \"a\"\n/to/b.txt 740 \"b\""
    );
    let view = out[0].view().unwrap();
    let attributes = |path: &str| {
        view.lookup(&TreePath::new(path).unwrap())
            .unwrap()
            .entry()
            .attributes
            .clone()
    };
    assert_eq!(
        (attributes("to/a.txt").uid, attributes("to/a.txt").gid),
        (2, 3)
    );
    let rm = Action::Rm(pb::FileActionRm {
        path: "/to/a*".into(),
        allow_not_found: false,
        allow_wildcard: true,
    });
    let out = run(&kit, vec![action(0, -1, 0, rm)], out).unwrap();
    assert_eq!(listing(&out[0]), "/to/ 755\n/to/b.txt 740 \"b\"");
    assert_eq!(out[0].known_stack().unwrap().depth(), 2);

    let missing = Action::Copy(copy("/a.tx", "/x"));
    let Err(OperationError::Failed(error)) = run(&kit, vec![action(-1, 0, 0, missing)], source)
    else {
        panic!("a missing source was copied");
    };
    let expected = "action 0 (copy /a.tx /x): \
                    /a.tx: no such file or directory; did you mean /a.txt or /b.txt?";
    assert_eq!(error.chain(), expected);
}

#[test]
fn patterns_that_cannot_be_taken_say_why() {
    let kit = kit();
    let tree = run(&kit, vec![action(-1, -1, 0, mkfile("/f", "x"))], vec![]).unwrap();
    let cases = [
        (vec!["[".to_owned()], "syntax error"),
        (vec!["a".repeat((64 << 10) + 1)], "more than 64 KiB"),
        (vec!["?".repeat(64 << 10); 5], "too many"),
    ];
    for (patterns, reason) in cases {
        let copy = pb::FileActionCopy {
            exclude_patterns: patterns,
            ..copy("/", "/")
        };
        let copied = run(
            &kit,
            vec![action(-1, 0, 0, Action::Copy(copy))],
            tree.clone(),
        );
        let Err(OperationError::Failed(failure)) = copied else {
            panic!("{copied:?}");
        };
        assert!(failure.chain().contains(reason), "{}", failure.chain());
    }
}

#[test]
fn directories_hand_down_their_group_if_they_are_setgid() {
    let kit = kit();
    let source = run(
        &kit,
        vec![action(-1, -1, 0, mkdir("/d", 0o775))],
        Vec::new(),
    )
    .unwrap();
    let number = |id| {
        Some(pb::UserOpt {
            user: Some(User::ById(id)),
        })
    };
    let staff = pb::FileActionCopy {
        mode_str: "g+s".into(),
        owner: Some(pb::ChownOpt {
            user: number(0),
            group: number(50),
        }),
        ..copy("/d", "/s")
    };
    let owned = Action::Mkdir(pb::FileActionMkDir {
        path: "/s/mine".into(),
        mode: 0o700,
        make_parents: false,
        owner: Some(pb::ChownOpt {
            user: number(7),
            group: number(8),
        }),
        timestamp: 7,
    });
    let out = run(
        &kit,
        vec![
            action(-1, 0, -1, Action::Copy(staff)),
            action(1, -1, -1, mkdir("/s/a/b", 0o755)),
            action(2, -1, -1, mkfile("/s/a/f", "")),
            action(3, -1, -1, owned),
            action(4, 0, 0, Action::Copy(copy("/d", "/s/to/c"))),
        ],
        source,
    )
    .unwrap();
    let view = out[0].view().unwrap();
    let line = |(path, node): (TreePath, &Arc<ashlar_solver::tree::Node>)| {
        let it = &node.entry().attributes;
        format!("{path} {:o} {}:{}", it.mode, it.uid, it.gid)
    };
    let all: Vec<_> = view.walk().map(line).collect();
    let expected = [
        "/s 2775 0:50",
        "/s/a 2755 0:50",
        "/s/a/b 2755 0:50",
        "/s/a/f 640 0:50",
        "/s/mine 2700 7:8",
        "/s/to 2755 0:50",
        // A copy has the mode and the owner of what it is a copy of.
        "/s/to/c 775 0:0",
    ];
    assert_eq!(all, expected);
}

#[test]
fn removals_ask_for_what_they_name_and_files_keep_their_mode() {
    let kit = kit();
    let link = Action::Symlink(pb::FileActionSymlink {
        oldpath: "nowhere".into(),
        newpath: "/dangling".into(),
        owner: None,
        timestamp: 7,
    });
    let tree = run(
        &kit,
        vec![
            action(-1, -1, -1, mkfile("/f", "one")),
            action(0, -1, 0, link),
        ],
        Vec::new(),
    )
    .unwrap();
    let change = |it: Action| run(&kit, vec![action(0, -1, 0, it)], tree.clone());
    let remove = |path: &str, allow_not_found, allow_wildcard| {
        change(Action::Rm(pb::FileActionRm {
            path: path.into(),
            allow_not_found,
            allow_wildcard,
        }))
    };
    for missing in ["/dangling", "/none", "/f/x"] {
        assert!(remove(missing, false, false).is_err(), "{missing}");
    }
    assert!(
        remove("/f/x", true, false).is_err(),
        "a file has nothing below it"
    );
    let both = "/dangling -> nowhere\n/f 640 \"one\"";
    assert_eq!(listing(&remove("/none", true, false).unwrap()[0]), both);
    assert_eq!(listing(&remove("/x*", false, true).unwrap()[0]), both);
    let rest = "/f 640 \"one\"";
    assert_eq!(listing(&remove("/dangling", true, false).unwrap()[0]), rest);
    let again = Action::Mkfile(pb::FileActionMkFile {
        path: "/f".into(),
        mode: 0o755,
        data: "two".to_owned().into(),
        owner: None,
        timestamp: 7,
    });
    assert_eq!(
        listing(&change(again).unwrap()[0]),
        "/dangling -> nowhere\n/f 640 \"two\""
    );
}

/// As in BuildKit: only what comes and goes changes the time of a directory.
#[test]
fn a_file_that_gets_other_bytes_leaves_the_time_of_its_directory() {
    let kit = kit();
    let made = vec![
        action(-1, -1, -1, mkdir("/d", 0o755)),
        action(0, -1, 0, mkfile("/d/f", "one")),
    ];
    let base = run(&kit, made, vec![]).unwrap();
    let time = |tree: &Ref, path: &str| {
        let view = tree.view().unwrap();
        let node = view.lookup(&TreePath::new(path).unwrap()).unwrap();
        node.entry().attributes.mtime
    };
    let before = time(&base[0], "d");
    let other = run(
        &kit,
        vec![action(0, -1, 0, mkfile("/d/f", "two"))],
        base.clone(),
    )
    .unwrap();
    assert_eq!(time(&other[0], "d"), before);
    assert_eq!(listing(&other[0]), "/d/ 755\n/d/f 640 \"two\"");
    let another = run(&kit, vec![action(0, -1, 0, mkfile("/d/g", "new"))], base).unwrap();
    assert_ne!(time(&another[0], "d"), before);
}

#[test]
fn outputs_of_their_own_do_not_share_a_layer() {
    let kit = kit();
    let out = run(
        &kit,
        vec![
            action(-1, -1, 1, mkfile("/base", "1")),
            action(0, -1, 0, mkfile("/more", "2")),
        ],
        vec![],
    )
    .unwrap();
    assert_eq!(listing(&out[0]), "/base 640 \"1\"\n/more 640 \"2\"");
    assert_eq!(listing(&out[1]), "/base 640 \"1\"");
}

/// A hundred ops on top of each other must cost far less than their processes ever would.
#[test]
fn a_chain_of_small_ops_is_cheap() {
    let kit = kit();
    let start = kit.engine.clock.monotonic();
    let mut tree = Ref::scratch();
    for number in 0..100 {
        let actions = vec![action(0, -1, 0, mkfile(&format!("/f{number}"), "x"))];
        tree = run(&kit, actions, vec![tree]).unwrap().remove(0);
    }
    let spent = kit.engine.clock.monotonic() - start;
    println!("100 ops in {spent:?}");
    assert_eq!(tree.view().unwrap().walk().count(), 100);
    // A debug build on a loaded machine; a release build takes a small part of it.
    assert!(spent.as_millis() < 3000, "{spent:?}");
}

#[test]
fn a_diff_has_what_one_tree_lacks() {
    let kit = kit();
    let base = run(
        &kit,
        vec![
            action(-1, -1, -1, mkdir("/d", 0o755)),
            action(0, -1, -1, mkfile("/d/gone", "1")),
            action(1, -1, 0, mkfile("/d/kept", "2")),
        ],
        vec![],
    )
    .unwrap();
    let rm = Action::Rm(pb::FileActionRm {
        path: "/d/gone".into(),
        ..pb::FileActionRm::default()
    });
    let changed = vec![
        action(0, -1, -1, rm),
        action(1, -1, 0, mkfile("/d/new", "3")),
    ];
    let upper = run(&kit, changed, base.clone()).unwrap();
    let diff = |lower: &Ref, upper: &Ref| {
        let op = pb::DiffOp {
            lower: Some(pb::LowerDiffInput { input: 0 }),
            upper: Some(pb::UpperDiffInput { input: 1 }),
        };
        let operation = DiffOperation::new(&op, 2, "test", &kit.engine).unwrap();
        let inputs = vec![lower.clone(), upper.clone()];
        kit.runtime
            .block_on(operation.run(inputs, &kit.context()))
            .unwrap()
            .remove(0)
    };
    // The upper tree grew from the lower one: its layer is the answer.
    let grown = diff(&base[0], &upper[0]);
    assert_eq!(grown.known_stack().unwrap().layer_ids(), {
        upper[0].known_stack().unwrap().layer_ids()[1..].to_vec()
    });
    // Two trees that know nothing of each other: the difference is worked out.
    let other = run(
        &kit,
        vec![
            action(-1, -1, -1, mkdir("/d", 0o700)),
            action(0, -1, 0, mkfile("/d/kept", "555")),
        ],
        vec![],
    )
    .unwrap();
    let made = diff(&base[0], &other[0]).known_stack().unwrap();
    let stacked = Ref::from(Stack::merge([&base[0].known_stack().unwrap(), &made]));
    assert_eq!(listing(&stacked), listing(&other[0]));
    assert!(diff(&base[0], &base[0]).is_scratch());
}
