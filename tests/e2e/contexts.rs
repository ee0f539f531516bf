//! Local directories as contexts: what is read of them, and what of them arrives.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use ashlar_exporters::{Exporter as _, Local};
use ashlar_llb::{self as llb, Differ, State, copy};
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::progress::Event;
use ashlar_solver::session::LocalDirectory;
use ashlar_solver::solver::{SolveRequest, Solved, Solver};
use futures::StreamExt as _;
use rustix::fs::XattrFlags;

use super::support::{self, build, chain, file, files, ran, solve, temp, write};

fn copied(local: llb::Local) -> State {
    llb::scratch().file(copy(local, "/", "/").contents_only())
}

fn lend(local: llb::Local, path: &Path) -> SolveRequest {
    support::request(&copied(local)).local("context", path)
}

/// Files and bytes that a solve read, from its report; the event says the same.
async fn read(solver: &Solver, request: SolveRequest) -> (u64, u64) {
    let (mut events, outcome) = solver.solve(request).split();
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::LocalRead { name, files, bytes } = event {
            told.push((name, files, bytes));
        }
    }
    let solved: Solved = outcome.await.unwrap();
    let [report] = &solved.locals[..] else {
        panic!("{:?}", solved.locals)
    };
    assert_eq!(told, [(report.name.clone(), report.files, report.bytes)]);
    assert_eq!(&*report.name, "context");
    (report.files, report.bytes)
}

/// Longer than a file must be untouched for its checksum to be remembered.
fn settle() {
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn the_report_says_what_was_read() {
    support::runtime().block_on(async {
        let folder = temp();
        let context = folder.path().join("context");
        write(context.join("a"), "1");
        write(context.join("d/b"), "22");
        settle();
        let state = folder.path().join("state");
        let solver = support::solver(&state);
        let request = || lend(llb::local("context"), &context);
        assert_eq!(read(&solver, request()).await, (2, 3));
        assert_eq!(read(&solver, request()).await, (0, 0));
        drop(solver);
        let solver = support::solver(&state);
        assert_eq!(read(&solver, request()).await, (0, 0), "another process");
        write(context.join("a"), "4444");
        settle();
        assert_eq!(read(&solver, request()).await, (1, 4));
        // Nothing is believed that was not read.
        for _ in 0..2 {
            let all = lend(llb::local("context").differ(Differ::None), &context);
            assert_eq!(read(&solver, all).await, (2, 6));
        }
        let metadata = lend(llb::local("context").differ(Differ::Metadata), &context);
        assert_eq!(read(&solver, metadata).await, (0, 0));
    });
}

#[test]
fn checkouts_with_another_umask_are_the_same_on_request() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let context = folder.path().join("context");
        write(context.join("d/plain"), "text");
        write(context.join("d/program"), "#!");
        let modes = |directory, plain, program| {
            for (name, mode) in [("d", directory), ("d/plain", plain), ("d/program", program)] {
                fs::set_permissions(context.join(name), Permissions::from_mode(mode)).unwrap();
            }
        };
        let request = |git_modes| {
            let mut directory = LocalDirectory::new(&context);
            directory.git_modes = git_modes;
            support::request(&copied(llb::local("context"))).local_directory("context", directory)
        };
        modes(0o755, 0o644, 0o755);
        let first = solve(&solver, request(true)).await;
        let plain = solve(&solver, request(false)).await;
        assert_eq!(files(&first).await, files(&plain).await);
        modes(0o2775, 0o664, 0o4775);
        let second = solve(&solver, request(true)).await;
        assert!(ran(&second).is_empty(), "{:?}", ran(&second));
        let tree = files(&solve(&solver, request(false)).await).await;
        assert_eq!(
            tree["d/program"],
            file(0o4775, b"#!"),
            "as they are if nothing is asked for"
        );
        assert_eq!(files(&second).await["d/plain"], file(0o644, b"text"));
    });
}

/// The paths, Go modes, sizes and links of a `.fsutil-metadata`.
fn stats(mut bytes: &[u8]) -> BTreeMap<String, (u64, u64, String)> {
    let varint = |bytes: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    let mut found = BTreeMap::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (mut message, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        bytes = rest;
        let (mut path, mut mode, mut size, mut link) = (String::new(), 0, 0, String::new());
        while !message.is_empty() {
            let tag = varint(&mut message);
            let value = varint(&mut message);
            if tag & 7 == 2 {
                let (text, rest) = message.split_at(usize::try_from(value).unwrap());
                message = rest;
                let text = String::from_utf8_lossy(text).into_owned();
                match tag >> 3 {
                    1 => path = text,
                    7 => link = text,
                    field => assert_eq!(field, 10),
                }
            } else {
                match tag >> 3 {
                    2 => mode = value,
                    5 => size = value,
                    field => assert!([3, 4, 6, 8, 9].contains(&field), "{field}"),
                }
            }
        }
        found.insert(path, (mode, size, link));
    }
    found
}

#[test]
fn metadata_alone_lists_all_and_has_what_is_excepted() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let context = folder.path().join("context");
        write(context.join("go.mod"), "module");
        write(context.join("src/main.go"), "package main");
        write(context.join("src/deep/go.mod"), "deep");
        write(context.join("out/binary"), "x".repeat(5000));
        write(context.join(".fsutil-metadata"), "not this one");
        fs::hard_link(context.join("go.mod"), context.join("go.mod.link")).unwrap();
        std::os::unix::fs::symlink("main.go", context.join("src/link")).unwrap();
        settle();
        let local = || llb::local("context").exclude(["out"]);
        let local = local().metadata_only(["**/go.mod"]);
        let read = read(&solver, lend(local.clone(), &context)).await;
        assert_eq!(read, (2, 10), "no other file is opened");
        let tree = files(&solve(&solver, lend(local, &context)).await).await;
        let names: Vec<&str> = tree.keys().map(String::as_str).collect();
        let expected = [
            ".fsutil-metadata",
            "go.mod",
            "src",
            "src/deep",
            "src/deep/go.mod",
        ];
        assert_eq!(names, expected);
        assert_eq!(tree["src/deep/go.mod"], file(0o644, b"deep"));
        let out = temp();
        let none = llb::local("context").metadata_only([""; 0]);
        let solved = solve(&solver, lend(none, &context)).await;
        Local::new(out.path())
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap();
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
        let stats = stats(&fs::read(out.path().join(".fsutil-metadata")).unwrap());
        let of = |name: &str| stats[name].clone();
        assert_eq!(stats.len(), 9, "{stats:?}");
        assert_eq!(of("go.mod"), (0o644, 6, String::new()));
        assert_eq!(of("go.mod.link"), (0o644, 6, "go.mod".to_owned()));
        assert_eq!(of("src"), (1 << 31 | 0o755, 0, String::new()));
        assert_eq!(of("src/link"), (1 << 27 | 0o777, 7, "main.go".to_owned()));
        assert_eq!(of("out/binary").1, 5000);
    });
}

#[test]
fn links_holes_and_attributes_arrive_and_sockets_do_not() {
    support::runtime().block_on(async {
        let folder = temp();
        let solver = support::solver(folder.path().join("state"));
        let context = folder.path().join("context");
        write(context.join("d/one"), "linked");
        fs::hard_link(context.join("d/one"), context.join("two")).unwrap();
        let sparse = File::create(context.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 8 << 20).unwrap();
        drop(sparse);
        let _socket = std::os::unix::net::UnixListener::bind(context.join("socket")).unwrap();
        let attribute = rustix::fs::setxattr(
            context.join("d/one"),
            "user.kept",
            b"value",
            XattrFlags::empty(),
        );
        let out = temp();
        let solved = solve(&solver, lend(llb::local("context"), &context)).await;
        Local::new(out.path())
            .export(&solved.result, &Cancel::new())
            .await
            .unwrap();
        let at = |name: &str| out.path().join(name);
        let meta = |name: &str| at(name).symlink_metadata().unwrap();
        assert!(!at("socket").exists());
        assert_eq!(meta("sparse").len(), (8 << 20) + 3);
        let layers = fs::read_dir(folder.path().join("state/layers")).unwrap();
        let copies = layers.map(|layer| layer.unwrap().path().join("fs/sparse"));
        let copies: Vec<_> = copies.filter_map(|copy| copy.metadata().ok()).collect();
        assert_eq!(copies.len(), 1);
        assert!(copies[0].blocks() * 512 < 1 << 20, "holes stay holes");
        assert_eq!(
            (meta("two").ino(), meta("two").nlink()),
            (meta("d/one").ino(), 2)
        );
        if attribute.is_ok() {
            let mut value = [0; 16];
            let length = rustix::fs::getxattr(at("two"), "user.kept", &mut value).unwrap();
            assert_eq!(&value[..length], b"value");
        } else {
            println!("SKIPPED: contexts::links_holes_and_attributes: no attributes here");
        }
    });
}

#[test]
fn class_17_what_is_not_a_file_any_more_is_an_error_with_its_path() {
    support::runtime().block_on(async {
        let folder = temp();
        let state = folder.path().join("state");
        let solver = support::solver(&state);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        let context = folder.path().join("context");
        write(context.join("d/file"), "text");
        let secret = folder.path().join("secret");
        write(&secret, "secret");
        // A link that takes the place of the directory leads nowhere, whenever it is made.
        fs::rename(context.join("d"), context.join("moved")).unwrap();
        std::os::unix::fs::symlink(folder.path(), context.join("d")).unwrap();
        let state = llb::scratch().file(copy(llb::local("context"), "/d/secret", "/"));
        let request = support::request(&state).local("context", &context);
        let error = solver.solve(request).result().await.unwrap_err();
        assert!(chain(&error).contains("secret"), "{}", chain(&error));
        assert_eq!(error.fault(), Fault::Input);
    });
}

/// The inodes of a file in the layers of a state root that have it: one per layer, in any order.
fn inodes(state: &Path, file: &str) -> Vec<u64> {
    let layers = fs::read_dir(state.join("layers")).unwrap();
    let copies = layers.map(|layer| layer.unwrap().path().join("fs").join(file));
    copies
        .filter_map(|copy| Some(copy.metadata().ok()?.ino()))
        .collect()
}

/// How many of the layers that have a file have an inode of their own for it, and how many there
/// are.
fn apart(state: &Path, file: &str) -> (usize, usize) {
    let all = inodes(state, file);
    let mut distinct = all.clone();
    distinct.sort_unstable();
    distinct.dedup();
    (distinct.len(), all.len())
}

#[test]
fn of_a_changed_directory_only_what_changed_is_copied_again() {
    support::runtime().block_on(async {
        let local = || llb::local("context").exclude(["left-out"]);
        let plain = || copied(local());
        let owned = || {
            let copy = copy(local(), "/", "/app/").contents_only();
            let copy = copy.create_dest_path().owner((1000, 1000)).mode(0o640);
            llb::scratch().file(copy)
        };
        // A merge needs the directory itself as a layer.
        let merged = || {
            let below = llb::scratch().file(llb::mkdir("/d"));
            State::from(llb::merge([below, State::from(local())]))
        };
        let states: [(&str, &dyn Fn() -> State, &str); 3] = [
            ("plain", &plain, ""),
            ("owned", &owned, "app/"),
            ("merged", &merged, ""),
        ];
        for (what, state, below) in states {
            let folder = temp();
            let context = folder.path().join("context");
            for number in 0..50 {
                write(context.join(format!("d/{number}")), format!("{number}"));
            }
            write(context.join("changing"), "1");
            write(context.join("left-out"), "never");
            settle();
            let root = folder.path().join("state");
            let solver = support::solver(&root);
            let request = || support::request(&state()).local("context", &context);
            let first = build(&solver, request()).await;
            write(context.join("changing"), "2");
            fs::remove_file(context.join("d/7")).unwrap();
            write(context.join("d/new"), "new");
            settle();
            let second = solve(&solver, request()).await;
            assert_eq!(second.locals[0].files, 2, "{what}");
            let tree = files(&second).await;
            let mode = if what == "owned" { 0o640 } else { 0o644 };
            assert_eq!(tree[&format!("{below}changing")], file(mode, b"2"));
            assert_eq!(tree[&format!("{below}d/new")], file(mode, b"new"));
            assert!(!tree.contains_key(&format!("{below}d/7")));
            assert_eq!(tree.len(), first.len(), "{what}");
            let at = |name: &str| apart(&root, &format!("{below}{name}"));
            assert_eq!(at("d/8"), (1, 2), "{what}");
            assert_eq!(at("changing"), (2, 2), "{what}");

            // The same by another process, once the first layer is gone.
            drop((solver, second));
            let solver = support::solver(&root);
            let store = solver.store().layers();
            for layer in fs::read_dir(root.join("layers")).unwrap() {
                let layer = layer.unwrap();
                if layer.path().join("fs").join(below).join("d/7").exists() {
                    let id = layer.file_name().into_string().unwrap().parse().unwrap();
                    assert!(store.remove_unused(id).unwrap(), "{what}");
                }
            }
            assert_eq!(at("d/8"), (1, 1), "{what}");
            assert_eq!(build(&solver, request()).await, tree);
            write(context.join("changing"), "3");
            settle();
            let third = build(&solver, request()).await;
            assert_eq!(third[&format!("{below}changing")], file(mode, b"3"));
            // A merge has no key by content, so it was made in between too.
            let layers = if what == "merged" { 3 } else { 2 };
            assert_eq!(at("d/8"), (1, layers), "{what}");
        }
    });
}

#[test]
fn a_directory_whose_last_copy_is_damaged_is_copied() {
    support::runtime().block_on(async {
        let folder = temp();
        let context = folder.path().join("context");
        write(context.join("d/kept"), "kept");
        write(context.join("changing"), "1");
        settle();
        let root = folder.path().join("state");
        let solver = support::solver(&root);
        let request = || lend(llb::local("context"), &context);
        build(&solver, request()).await;
        drop(solver);
        let layer = fs::read_dir(root.join("layers")).unwrap().next();
        let layer = layer.unwrap().unwrap().path();
        fs::write(layer.join("index"), "not an index").unwrap();
        write(context.join("changing"), "2");
        settle();
        let solver = support::solver(&root);
        let tree = build(&solver, request()).await;
        assert_eq!(tree["d/kept"], file(0o644, b"kept"));
        assert_eq!(tree["changing"], file(0o644, b"2"));
        assert_eq!(apart(&root, "d/kept"), (2, 2));
    });
}

#[test]
fn copies_of_checkouts_with_one_hint_follow_each_other() {
    support::runtime().block_on(async {
        for (hints, distinct) in [(["project", "project"], 1), (["project", "other"], 2)] {
            let folder = temp();
            let root = folder.path().join("state");
            let solver = support::solver(&root);
            for (number, hint) in hints.into_iter().enumerate() {
                let checkout = folder.path().join(format!("checkout{number}"));
                write(checkout.join("d/same"), "same");
                write(checkout.join("changed"), format!("{number}"));
                settle();
                let local = llb::local("context").shared_key_hint(hint);
                let tree = build(&solver, lend(local, &checkout)).await;
                assert_eq!(tree["d/same"], file(0o644, b"same"));
                assert_eq!(tree["changed"], file(0o644, number.to_string().as_bytes()));
            }
            assert_eq!(apart(&root, "d/same"), (distinct, 2), "{hints:?}");
        }
    });
}
