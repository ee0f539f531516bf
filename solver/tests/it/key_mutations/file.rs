//! File ops.

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::user_opt::User;
use ashlar_solver::ops::keys;
use bytes::Bytes;

use super::{Both, Digest, Inputs, Row, check, rows};

fn named(name: &str, input: i64) -> Option<pb::UserOpt> {
    Some(pb::UserOpt {
        user: Some(User::ByName(pb::NamedUserOpt {
            name: name.into(),
            input,
        })),
    })
}

fn number(id: u32) -> Option<pb::UserOpt> {
    Some(pb::UserOpt {
        user: Some(User::ById(id)),
    })
}

fn owner(input: i64) -> Option<pb::ChownOpt> {
    Some(pb::ChownOpt {
        user: named("u", input),
        group: number(1),
    })
}

/// Positions of actions in the sample.
const COPY: usize = 0;
const MKFILE: usize = 1;
const MKDIR: usize = 2;
const SYMLINK: usize = 3;
const RM: usize = 4;

/// Something in every field; input 0 is changed, inputs 1 to 3 are looked at.
fn sample() -> pb::FileOp {
    let copy = pb::FileActionCopy {
        src: "/dir/base".into(),
        dest: "/to".into(),
        owner: owner(2),
        mode: 0o644,
        timestamp: 1,
        include_patterns: vec!["a".into()],
        exclude_patterns: vec!["b".into()],
        required_paths: vec!["c".into()],
        ..pb::FileActionCopy::default()
    };
    let mkfile = pb::FileActionMkFile {
        path: "/f".into(),
        mode: 0o644,
        data: Bytes::from_static(b"x"),
        owner: owner(2),
        timestamp: 1,
    };
    let mkdir = pb::FileActionMkDir {
        path: "/d".into(),
        mode: 0o755,
        make_parents: true,
        owner: owner(2),
        timestamp: 1,
    };
    let symlink = pb::FileActionSymlink {
        oldpath: "a".into(),
        newpath: "/b".into(),
        owner: owner(2),
        timestamp: 1,
    };
    let rm = pb::FileActionRm {
        path: "/gone".into(),
        allow_not_found: true,
        allow_wildcard: false,
    };
    let action = |at: i64, secondary_input, action| pb::FileAction {
        // The op has 4 inputs; actions follow them.
        input: if at == 0 { 0 } else { 3 + at },
        secondary_input,
        output: if at == 4 { 0 } else { -1 },
        action: Some(action),
    };
    pb::FileOp {
        actions: vec![
            action(0, 1, Action::Copy(copy)),
            action(1, -1, Action::Mkfile(mkfile)),
            action(2, -1, Action::Mkdir(mkdir)),
            action(3, -1, Action::Symlink(symlink)),
            action(4, -1, Action::Rm(rm)),
        ],
    }
}

fn key(op: &pb::FileOp) -> Result<keys::OpKey, keys::KeyError> {
    keys::file(op, 4)
}

macro_rules! action {
    ($kind:ident, $at:ident) => {
        |op| match &mut op.actions[$at].action {
            Some(Action::$kind(action)) => action,
            other => panic!("{other:?}"),
        }
    };
}

fn user(owner: &mut Option<pb::ChownOpt>) -> &mut pb::NamedUserOpt {
    match owner.as_mut().unwrap().user.as_mut().unwrap().user.as_mut() {
        Some(User::ByName(named)) => named,
        other => panic!("{other:?}"),
    }
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

fn no_owner(owner: &mut Option<pb::ChownOpt>) {
    *owner = None;
}

#[test]
fn cve_class_16_every_field_of_file_ops() {
    let mut all: Vec<Row<pb::FileOp>> = Vec::new();
    rows!(all, pb::FileOp, "", FileOp, |op| op, {
        actions: Digest => |actions: &mut Vec<pb::FileAction>| {
            let last = actions.last().unwrap().clone();
            actions.last_mut().unwrap().output = -1;
            actions.push(pb::FileAction { input: 8, ..last });
        },
    }, nested []);
    // Which inputs these are is told by their numbers: the chain is not the usual one.
    rows!(all, pb::FileOp, "copy", FileAction, |op| &mut op.actions[COPY], {
        input: Digest => |input: &mut i64| *input = -1,
        secondary_input: Both => |input: &mut i64| *input = 3,
        output: Digest => |output: &mut i64| *output = 1,
        action: Both => |action: &mut Option<Action>| {
            *action = Some(Action::Rm(pb::FileActionRm::default()));
        },
    }, nested []);
    rows!(all, pb::FileOp, "", FileActionCopy, action!(Copy, COPY), {
        // The last component is in the digest, all of it in what is looked at.
        src: Both => longer,
        dest: Digest => longer,
        // The files that names are looked up in are no longer looked at.
        owner: Both => no_owner,
        mode: Digest => add,
        follow_symlink: Both => flip,
        dir_copy_contents: Digest => flip,
        attempt_unpack_docker_compatibility: Digest => flip,
        create_dest_path: Digest => flip,
        // What is looked at stays the same, as there is no wildcard in the path.
        allow_wildcard: Digest => flip,
        allow_empty_wildcard: Digest => flip,
        timestamp: Digest => add,
        include_patterns: Both => more,
        exclude_patterns: Both => more,
        always_replace_existing_dest_paths: Digest => flip,
        mode_str: Digest => longer,
        required_paths: Both => more,
    }, nested []);
    rows!(all, pb::FileOp, "directory of the source", FileActionCopy, action!(Copy, COPY), {
        src: Inputs => |src: &mut String| *src = "/other/base".into(),
        dest: Digest => longer,
        owner: Digest => |owner: &mut Option<pb::ChownOpt>| user(owner).name.push('x'),
        mode: Digest => |mode: &mut i32| *mode = -1,
        follow_symlink: Both => flip,
        dir_copy_contents: Digest => flip,
        attempt_unpack_docker_compatibility: Digest => flip,
        create_dest_path: Digest => flip,
        allow_wildcard: Digest => flip,
        allow_empty_wildcard: Digest => flip,
        timestamp: Digest => |time: &mut i64| *time = -1,
        include_patterns: Both => |list: &mut Vec<String>| list.clear(),
        exclude_patterns: Both => |list: &mut Vec<String>| list.clear(),
        always_replace_existing_dest_paths: Digest => flip,
        mode_str: Digest => longer,
        required_paths: Both => |list: &mut Vec<String>| list.clear(),
    }, nested []);
    rows!(all, pb::FileOp, "", FileActionMkFile, action!(Mkfile, MKFILE), {
        path: Digest => longer,
        mode: Digest => add,
        data: Digest => |data: &mut Bytes| *data = Bytes::from_static(b"y"),
        owner: Both => no_owner,
        timestamp: Digest => add,
    }, nested []);
    rows!(all, pb::FileOp, "", FileActionMkDir, action!(Mkdir, MKDIR), {
        path: Digest => longer,
        mode: Digest => add,
        make_parents: Digest => flip,
        owner: Both => no_owner,
        timestamp: Digest => add,
    }, nested []);
    rows!(all, pb::FileOp, "", FileActionSymlink, action!(Symlink, SYMLINK), {
        oldpath: Digest => longer,
        newpath: Digest => longer,
        owner: Digest => no_owner,
        timestamp: Digest => add,
    }, nested []);
    rows!(all, pb::FileOp, "", FileActionRm, action!(Rm, RM), {
        path: Digest => longer,
        allow_not_found: Digest => flip,
        allow_wildcard: Digest => flip,
    }, nested []);
    check(&sample(), key, all);
}

#[test]
fn cve_class_16_wildcards_change_what_is_looked_at() {
    let mut wild = sample();
    let copy: fn(&mut pb::FileOp) -> &mut pb::FileActionCopy = action!(Copy, COPY);
    copy(&mut wild).src = "/dir/b*".into();
    let flipped = Row {
        field: "allow_wildcard".to_owned(),
        effect: Both,
        change: Box::new(move |op: &mut pb::FileOp| flip(&mut copy(op).allow_wildcard)),
    };
    check(&wild, key, vec![flipped]);
}

/// The op with only one action whose owner is looked up.
fn sole(at: usize) -> pb::FileOp {
    let mut op = sample();
    let mut action = op.actions.remove(at);
    (action.input, action.output) = (0, 0);
    op.actions = vec![action];
    op
}

#[test]
fn cve_class_16_every_field_of_owners() {
    for at in [COPY, MKFILE, MKDIR] {
        let mut all: Vec<Row<pb::FileOp>> = Vec::new();
        rows!(all, pb::FileOp, "", ChownOpt, |op| owner_of(op).as_mut().unwrap(), {
            // The files that names are looked up in count by content.
            user: Both => |user: &mut Option<pb::UserOpt>| *user = number(3),
            group: Both => |group: &mut Option<pb::UserOpt>| *group = named("g", 2),
        }, nested []);
        rows!(all, pb::FileOp, "", UserOpt, |op| {
            owner_of(op).as_mut().unwrap().group.as_mut().unwrap()
        }, {
            user: Digest => |user: &mut Option<User>| *user = Some(User::ById(9)),
        }, nested []);
        rows!(all, pb::FileOp, "", NamedUserOpt, |op| user(owner_of(op)), {
            name: Digest => longer,
            input: Both => add,
        }, nested []);
        check(&sole(at), key, all);
    }
}

/// As in BuildKit, the owner of a symbolic link is not looked at in its input. Its name counts.
#[test]
fn cve_class_16_owners_of_links_count_by_name() {
    let mut all: Vec<Row<pb::FileOp>> = Vec::new();
    rows!(all, pb::FileOp, "", ChownOpt, |op| owner_of(op).as_mut().unwrap(), {
        user: Digest => |user: &mut Option<pb::UserOpt>| *user = number(3),
        group: Digest => |group: &mut Option<pb::UserOpt>| *group = named("g", 2),
    }, nested []);
    rows!(all, pb::FileOp, "", NamedUserOpt, |op| user(owner_of(op)), {
        name: Digest => longer,
        input: Digest => add,
    }, nested []);
    check(&sole(SYMLINK), key, all);
}

fn owner_of(op: &mut pb::FileOp) -> &mut Option<pb::ChownOpt> {
    match op.actions[0].action.as_mut().unwrap() {
        Action::Copy(action) => &mut action.owner,
        Action::Mkfile(action) => &mut action.owner,
        Action::Mkdir(action) => &mut action.owner,
        Action::Symlink(action) => &mut action.owner,
        Action::Rm(_) => panic!("a removal has no owner"),
    }
}
