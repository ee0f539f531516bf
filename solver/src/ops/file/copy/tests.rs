//! Plans of copies, as text.

use super::*;
use crate::ops::file::tests::{directory, file, link, path, view};
use crate::tree::Timestamp;

const NOW: Timestamp = Timestamp {
    seconds: 99,
    nanoseconds: 0,
};

fn settings() -> Settings {
    Settings {
        owner: None,
        time: None,
        now: NOW,
    }
}

fn action(src: &str, dest: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: src.into(),
        dest: dest.into(),
        mode: -1,
        timestamp: -1,
        create_dest_path: true,
        ..pb::FileActionCopy::default()
    }
}

/// The plan as text: `+path` made, `-path` removed, `path<source` copied, `=path` set.
fn planned(action: &pb::FileActionCopy, source: &View, view: &View) -> String {
    let copy = Copy::new(action, settings()).unwrap();
    let run = || -> Result<Vec<Step>, Stop> {
        let mut steps = Vec::new();
        for from in copy.sources(source, view)? {
            steps.extend(copy.plan(source, &from, view, &Cancel::new())?.steps());
        }
        Ok(steps)
    };
    let mut text = Vec::new();
    match run() {
        Err(Stop::Problem(problem)) => return problem.to_string(),
        Err(other) => return format!("{other:?}"),
        Ok(steps) => {
            for step in steps {
                match step {
                    Step::MakeDirectory(path, _) => text.push(format!("+{path}")),
                    Step::Remove(path) => text.push(format!("-{path}")),
                    Step::SetAttributes(path, _) => text.push(format!("={path}")),
                    Step::Copy(items) => text.extend(
                        items
                            .iter()
                            .map(|it| format!("{}<{}", it.destination, it.source_path)),
                    ),
                    other => text.push(format!("{other:?}")),
                }
            }
        }
    }
    text.join(" ")
}

fn sources() -> View {
    view([
        ("a.txt", file()),
        ("dir", directory()),
        ("dir/one", file()),
        ("dir/sub", directory()),
        ("dir/sub/two.txt", file()),
        ("link", link("dir")),
    ])
}

#[test]
fn destinations_follow_the_rules_of_cp() {
    let scratch = View::empty();
    let there = view([("d", directory()), ("f", file()), ("l", link("d"))]);
    for (src, dest, onto, expected) in [
        ("/a.txt", "/b", &scratch, "/b</a.txt"),
        ("/a.txt", "/x/", &scratch, "+/x /x/a.txt</a.txt"),
        ("/a.txt", "/x/y", &scratch, "+/x /x/y</a.txt"),
        ("/a.txt", "/d", &there, "/d/a.txt</a.txt"),
        ("/a.txt", "/l", &there, "/d/a.txt</a.txt"),
        ("/a.txt", "/f", &there, "/f</a.txt"),
        (
            "/dir/sub",
            "/new",
            &there,
            "/new</dir/sub /new/two.txt</dir/sub/two.txt",
        ),
        (
            "/dir/sub",
            "/d",
            &there,
            "/d/sub</dir/sub /d/sub/two.txt</dir/sub/two.txt",
        ),
        (
            "/dir/sub/.",
            "/d",
            &there,
            "/d/two.txt</dir/sub/two.txt =/d",
        ),
        ("/dir/sub", "/f", &there, "/f: not a directory"),
        ("/link", "/new", &there, "/new</link"),
        ("/a.txt", "/f/x", &there, "/f: not a directory"),
        (
            "/b.txt",
            "/x",
            &scratch,
            "/b.txt: no such file or directory; did you mean /a.txt?",
        ),
    ] {
        assert_eq!(
            planned(&action(src, dest), &sources(), onto),
            expected,
            "{src} {dest}"
        );
    }
}

#[test]
fn contents_go_into_a_directory_of_their_own() {
    let mut copy = action("/dir", "/new");
    copy.dir_copy_contents = true;
    let expected = "+/new /new/one</dir/one /new/sub</dir/sub \
                    /new/sub/two.txt</dir/sub/two.txt =/new";
    assert_eq!(planned(&copy, &sources(), &View::empty()), expected);
}

#[test]
fn filters_make_only_what_holds_a_match() {
    let mut copy = action("/dir", "/new");
    copy.include_patterns = vec!["**/*.txt".into()];
    let expected = "/new</dir /new/sub</dir/sub /new/sub/two.txt</dir/sub/two.txt";
    assert_eq!(planned(&copy, &sources(), &View::empty()), expected);
    copy.include_patterns = vec!["none".into()];
    assert_eq!(planned(&copy, &sources(), &View::empty()), "/new</dir");
    copy.include_patterns.clear();
    copy.exclude_patterns = vec!["sub".into()];
    assert_eq!(
        planned(&copy, &sources(), &View::empty()),
        "/new</dir /new/one</dir/one"
    );
    copy.exclude_patterns = vec!["sub".into(), "!sub/two.txt".into()];
    let expected = "/new</dir /new/one</dir/one /new/sub</dir/sub \
                    /new/sub/two.txt</dir/sub/two.txt";
    assert_eq!(planned(&copy, &sources(), &View::empty()), expected);
}

#[test]
fn what_is_in_the_way_is_replaced_only_if_asked() {
    let there = view([("sub", file()), ("two.txt", directory())]);
    let mut copy = action("/dir/sub", "/");
    let onto_file = "cannot copy a directory to non-directory /sub";
    assert_eq!(planned(&copy, &sources(), &there), onto_file);
    copy.always_replace_existing_dest_paths = true;
    let expected = "-/sub /sub</dir/sub /sub/two.txt</dir/sub/two.txt";
    assert_eq!(planned(&copy, &sources(), &there), expected);
    let mut copy = action("/dir/sub/.", "/");
    let replaces = "cannot replace directory /two.txt with a file";
    assert_eq!(planned(&copy, &sources(), &there), replaces);
    copy.always_replace_existing_dest_paths = true;
    assert_eq!(
        planned(&copy, &sources(), &there),
        "-/two.txt /two.txt</dir/sub/two.txt =/"
    );
}

#[test]
fn wildcards_and_links() {
    let mut copy = action("/*.txt", "/to/");
    copy.allow_wildcard = true;
    assert_eq!(
        planned(&copy, &sources(), &View::empty()),
        "+/to /to/a.txt</a.txt"
    );
    copy.src = "/*.md".into();
    assert_eq!(
        planned(&copy, &sources(), &View::empty()),
        "/*.md not found"
    );
    copy.allow_empty_wildcard = true;
    assert_eq!(planned(&copy, &sources(), &View::empty()), "");
    let mut copy = action("/link", "/new");
    copy.follow_symlink = true;
    assert!(planned(&copy, &sources(), &View::empty()).starts_with("/new</dir "));
    let mut copy = action("/a.txt", "/no/such/b");
    copy.create_dest_path = false;
    let missing = "/no/such: no such file or directory";
    assert_eq!(planned(&copy, &sources(), &View::empty()), missing);
}

#[test]
fn attributes_and_hard_links() {
    let mut linked = Entry::new(
        Kind::File,
        Attributes {
            mode: 0o4640,
            uid: 5,
            ..Attributes::default()
        },
    );
    linked.link_group = 3;
    let source = view([
        ("x", Node::leaf(linked.clone(), None)),
        ("y", Node::leaf(linked, None)),
    ]);
    let mut copy = action("/", "/new");
    copy.mode_str = "go=u".into();
    copy.timestamp = 1_500_000_001;
    let settings = Settings {
        owner: Some(crate::ops::file::plan::Owner { uid: 7, gid: 8 }),
        time: crate::ops::file::plan::timestamp(copy.timestamp),
        now: NOW,
    };
    let copy = Copy::new(&copy, settings).unwrap();
    let from = Source {
        path: TreePath::root(),
        contents: false,
    };
    let plan = copy
        .plan(&source, &from, &View::empty(), &Cancel::new())
        .unwrap();
    let [_, x, y] = &plan.items[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (x.attributes.mode, x.attributes.uid, x.attributes.gid),
        (0o4666, 7, 8)
    );
    assert_eq!(
        x.attributes.mtime,
        Timestamp {
            seconds: 1,
            nanoseconds: 500_000_001
        }
    );
    assert_eq!(x.destination, path("new/x"));
    assert!(x.link_group.is_some() && x.link_group == y.link_group);
}
