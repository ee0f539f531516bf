//! What of a directory belongs to a source, compared with what fsutil sends.

use super::*;

struct Case {
    include: &'static [&'static str],
    exclude: &'static [&'static str],
    follow: &'static [&'static str],
    expected: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        include: &[],
        exclude: &["bar"],
        follow: &[],
        expected: &[
            "dir",
            "dir/deep",
            "dir/deep/x.go",
            "dir/file",
            "empty",
            "foo",
            "foo/bar",
            "foo/other",
            "link",
            "to",
            "to/file",
        ],
    },
    // A parent that matches takes everything in it; other directories come only with something.
    Case {
        include: &["foo"],
        exclude: &[],
        follow: &[],
        expected: &["foo", "foo/bar", "foo/other"],
    },
    Case {
        include: &["dir/deep"],
        exclude: &[],
        follow: &[],
        expected: &["dir", "dir/deep", "dir/deep/x.go"],
    },
    Case {
        include: &["**/*.go"],
        exclude: &[],
        follow: &[],
        expected: &["dir", "dir/deep", "dir/deep/x.go"],
    },
    Case {
        include: &["empty"],
        exclude: &[],
        follow: &[],
        expected: &["empty"],
    },
    Case {
        include: &["empty/*"],
        exclude: &[],
        follow: &[],
        expected: &[],
    },
    Case {
        include: &["foo", "!foo/bar"],
        exclude: &[],
        follow: &[],
        expected: &["foo", "foo/other"],
    },
    Case {
        include: &["foo"],
        exclude: &["foo/bar"],
        follow: &[],
        expected: &["foo", "foo/other"],
    },
    Case {
        include: &[],
        exclude: &["*", "!foo/bar"],
        follow: &[],
        expected: &["foo", "foo/bar"],
    },
    Case {
        include: &[],
        exclude: &["*", "!**/file"],
        follow: &[],
        expected: &["dir", "dir/file", "to", "to/file"],
    },
    Case {
        include: &[],
        exclude: &["**/deep", "**/f*"],
        follow: &[],
        expected: &["bar", "dir", "empty", "link", "to"],
    },
    Case {
        include: &["nothing"],
        exclude: &[],
        follow: &[],
        expected: &[],
    },
    // The link itself, and what it leads to.
    Case {
        include: &[],
        exclude: &[],
        follow: &["link"],
        expected: &["link", "to", "to/file"],
    },
    Case {
        include: &[],
        exclude: &[],
        follow: &["link/file"],
        expected: &["link", "to", "to/file"],
    },
    Case {
        include: &[],
        exclude: &[],
        follow: &["l*"],
        expected: &["link", "to", "to/file"],
    },
    Case {
        include: &[],
        exclude: &[],
        follow: &["dir/f*"],
        expected: &["dir", "dir/file"],
    },
    Case {
        include: &["bar"],
        exclude: &[],
        follow: &["foo/bar"],
        expected: &["bar", "foo", "foo/bar"],
    },
    Case {
        include: &[],
        exclude: &[],
        follow: &["missing"],
        expected: &[],
    },
    Case {
        include: &["bar"],
        exclude: &[],
        follow: &["."],
        expected: &["bar"],
    },
    Case {
        include: &[],
        exclude: &["to/file"],
        follow: &["link"],
        expected: &["link", "to"],
    },
];

#[test]
fn patterns_choose_as_fsutil_does() {
    let temp = make(&[
        ("bar", ""),
        ("foo/bar", ""),
        ("foo/other", ""),
        ("dir/deep/x.go", ""),
        ("dir/file", ""),
        ("to/file", ""),
    ]);
    fs::create_dir(temp.path().join("empty")).unwrap();
    symlink("/to", temp.path().join("link")).unwrap();
    let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let cache = LocalCache::default();
    for Case {
        include,
        exclude,
        follow,
        expected,
    } in CASES
    {
        let options = ScanOptions {
            include: own(include),
            exclude: own(exclude),
            follow_paths: own(follow),
            ..ScanOptions::default()
        };
        let tree = LocalTree::scan("ctx", temp.path(), &options, &cache, &Cancel::new()).unwrap();
        assert_eq!(
            names(&tree),
            *expected,
            "{include:?} - {exclude:?} + {follow:?}"
        );
    }
}

#[test]
fn follow_paths_resolve_inside_and_end() {
    let temp = make(&[("a/b/file", ""), ("c", "")]);
    let link = |target: &str, name: &str| symlink(target, temp.path().join(name)).unwrap();
    link("../../../../c", "a/up");
    link("a/b", "chain1");
    link("chain1", "chain2");
    link("loop2/x", "loop1");
    link("loop1/y", "loop2");
    link("self", "self");
    let root = open(temp.path());
    let resolve = |paths: &[&str]| {
        let paths: Vec<String> = paths.iter().map(|&text| text.to_owned()).collect();
        follow::follow(root.as_fd(), &[], &paths).unwrap()
    };
    assert_eq!(resolve(&["a/up"]), ["a/up", "c"]);
    assert_eq!(resolve(&["chain2/file"]), ["a/b/file", "chain1", "chain2"]);
    assert_eq!(
        resolve(&["chain2/file", "chain2/other"]),
        ["a/b/file", "a/b/other", "chain1", "chain2"]
    );
    assert_eq!(resolve(&["loop1", "self"]), ["loop1", "loop2", "self"]);
    assert_eq!(resolve(&["../../c"]), ["c"]);
    assert_eq!(resolve(&["a", "a/b"]), ["a"]);
    assert!(
        resolve(&["c", "/"]).is_empty(),
        "the root: nothing is filtered"
    );
    assert_eq!(resolve(&["ch*/file"]), ["a/b/file", "ch*", "chain1"]);
}
