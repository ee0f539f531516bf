//! Layers in a store, stacks of them, and what is mounted for a deep stack.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ashlar_solver::id::{LayerId, StackId};
use ashlar_solver::meta::{Database, Memory};
use ashlar_solver::root::{StateRoot, Tier};
use ashlar_solver::snapshot::{Layer, LayerDescription, LayerStore, SnapshotError, Stack};
use ashlar_solver::tree::{
    Attributes, Entry, Index, Kind, LayerWriter, Timestamp, TreePath, View, WriteError,
    WriterOptions,
};
use proptest::prelude::*;

use crate::kernel_view::{Want, config, layers, normal, without_root_time, write};
use crate::overlay::{assert_same, kernel_listing, may_mount, mount_deep, root_of, view_listing};

/// Tells a test that runs itself once more what to work on.
const SHARED: &str = "ASHLAR_TEST_SHARED_ROOT";

/// The kernel takes no more lower directories than this.
const KERNEL: usize = 500;

struct Store {
    layers: LayerStore,
    _temp: tempfile::TempDir,
}

fn store() -> Store {
    let temp = tempfile::tempdir().unwrap();
    let root = Arc::new(StateRoot::open(temp.path().join("root")).unwrap());
    Store {
        layers: LayerStore::new(root, Arc::new(Memory::new())),
        _temp: temp,
    }
}

/// The store of a root that several processes use.
fn shared(path: &Path) -> LayerStore {
    let root = Arc::new(StateRoot::open(path).unwrap());
    let database = Database::open(path, root.boot_id()).unwrap().database;
    LayerStore::new(root, Arc::new(database))
}

type Wanted = BTreeMap<TreePath, Want>;

fn wanted<'a>(wants: impl IntoIterator<Item = (&'a str, Want)>) -> Wanted {
    wants
        .into_iter()
        .map(|(path, want)| (TreePath::new(path).unwrap(), want))
        .collect()
}

fn described(text: &str) -> LayerDescription {
    LayerDescription {
        text: text.to_owned(),
        ..LayerDescription::default()
    }
}

/// Makes a layer that is in normal form on `base`.
fn layer(store: &LayerStore, wanted: &Wanted, base: &View) -> Layer {
    let (index, contents) = normal(wanted, base);
    let active = store.new_layer().unwrap();
    // Only mounts look at the disk, and only root mounts here.
    if store.root().tier() == Tier::Root {
        write(&index, &contents, &active.path().join("fs"));
    }
    active.commit(index, &described("made")).unwrap()
}

fn pushed(store: &LayerStore, stack: &Stack, wanted: &Wanted) -> Stack {
    stack.push(layer(store, wanted, &stack.view().unwrap()))
}

fn stacked(store: &LayerStore, layers: &[Wanted]) -> Stack {
    layers.iter().fold(Stack::scratch(), |stack, wanted| {
        pushed(store, &stack, wanted)
    })
}

fn names(path: PathBuf) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What the kernel shows for the stack is what its view says.
fn assert_mounts(store: &LayerStore, stack: &Stack) -> usize {
    let lower = store.lower_paths(stack).unwrap();
    assert!(lower.len() <= KERNEL, "{} directories", lower.len());
    if let [one] = &lower[..] {
        // One directory is no overlay.
        assert!(one.is_dir());
        return 1;
    }
    let handle = mount_deep(&lower).unwrap();
    let kernel = without_root_time(kernel_listing(&root_of(&handle)));
    let view = without_root_time(view_listing(&stack.view().unwrap()));
    assert_same(&kernel, &view, "stack");
    lower.len()
}

#[test]
fn a_layer_is_what_was_committed_after_a_restart_too() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("root");
    let (id, row) = {
        let store = shared(&path);
        let wants = wanted([("dir", Want::Directory(1)), ("dir/file", Want::Symlink(7))]);
        let made = layer(&store, &wants, &View::empty());
        let same = store.layer(made.id()).unwrap();
        assert!(Arc::ptr_eq(
            &same.content().unwrap(),
            &made.content().unwrap()
        ));
        let stack = Stack::scratch().push(made.clone());
        let row = store.save(&stack).unwrap();
        assert_eq!(store.save(&stack).unwrap(), row);
        (made.id(), row)
    };
    let store = shared(&path);
    let content = store.layer(id).unwrap().content().unwrap();
    assert_eq!(content.1, described("made"));
    let paths: Vec<String> = content
        .0
        .entries()
        .iter()
        .map(|(path, _)| path.to_string())
        .collect();
    assert_eq!(paths, ["/dir", "/dir/file"]);
    let stack = store.stack(row).unwrap().unwrap();
    assert_eq!(stack.layer_ids(), [id]);
    assert!(
        stack
            .view()
            .unwrap()
            .lookup(&TreePath::new("dir/file").unwrap())
            .is_some()
    );
    assert_eq!(store.save(&stack).unwrap(), row);
    assert!(store.stack(StackId(row.0 + 1)).unwrap().is_none());
    assert!(store.stack(Stack::SCRATCH).unwrap().unwrap().is_scratch());
}

#[test]
fn an_unfinished_layer_leaves_nothing() {
    let store = store();
    let root = store.layers.root().path().to_owned();
    let active = store.layers.new_layer().unwrap();
    fs::create_dir_all(active.path().join("fs/a/b")).unwrap();
    let id = active.id();
    assert!(matches!(store.layers.layer(id), Err(SnapshotError::Gone { layer }) if layer == id));
    drop(active);
    assert_eq!(names(root.join("layers")), [""; 0]);
    assert_eq!(names(root.join("trash")), [""; 0]);
}

#[test]
fn data_that_is_gone_or_damaged_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("root");
    let made = {
        let store = shared(&path);
        let wants = wanted([("dir", Want::Directory(1))]);
        let ids = (0..4).map(|_| layer(&store, &wants, &View::empty()).id());
        ids.collect::<Vec<LayerId>>()
    };
    let index = |at: usize| path.join("layers").join(made[at].to_string()).join("index");
    fs::remove_file(index(0)).unwrap();
    let bytes = fs::read(index(1)).unwrap();
    fs::write(index(1), &bytes[..bytes.len() - 1]).unwrap();
    fs::write(index(2), b"\xff\xff\xff\xff").unwrap();
    let mut turned = bytes.clone();
    *turned.last_mut().unwrap() ^= 1;
    fs::write(index(3), turned).unwrap();
    let store = shared(&path);
    let gone = store.layer(made[0]).unwrap_err();
    assert!(gone.is_gone() && matches!(gone, SnapshotError::Gone { .. }));
    for id in &made[1..] {
        let error = store.layer(*id).unwrap().content().unwrap_err();
        assert!(error.is_gone(), "{error:?}");
    }
}

#[test]
fn a_merge_is_the_layers_of_all() {
    let store = store();
    let store = &store.layers;
    let base = stacked(
        store,
        &[wanted([
            ("a", Want::Directory(1)),
            ("a/old", Want::Symlink(1)),
        ])],
    );
    let one = pushed(
        store,
        &base,
        &wanted([("a/old", Want::Whiteout), ("a/x", Want::Symlink(2))]),
    );
    let two = stacked(store, &[wanted([("a", Want::Symlink(3))])]);
    let three = stacked(
        store,
        &[wanted([
            ("a", Want::Directory(5)),
            ("a/y", Want::Symlink(4)),
        ])],
    );
    let merged = Stack::merge([&Stack::scratch(), &one, &two, &Stack::scratch(), &three]);
    let ids = [one.layer_ids(), two.layer_ids(), three.layer_ids()].concat();
    assert_eq!(merged.layer_ids(), ids);
    assert_eq!(merged.depth(), 4);
    let view = merged.view().unwrap();
    let seen: Vec<String> = view.walk().map(|(path, _)| path.to_string()).collect();
    assert_eq!(seen, ["/a", "/a/y"]);
    let row = store.save(&merged).unwrap();
    assert_eq!(store.stack(row).unwrap().unwrap().layer_ids(), ids);
    // Merged the other way round it is another tree, of the same layers.
    let other = Stack::merge([&three, &one]);
    let view = other.view().unwrap();
    let seen: Vec<String> = view.walk().map(|(path, _)| path.to_string()).collect();
    assert_eq!(seen, ["/a", "/a/x", "/a/y"]);
    assert_ne!(store.save(&other).unwrap(), row);
    assert!(Stack::merge([]).is_scratch());
}

#[test]
fn a_deep_stack_is_saved_opened_and_dropped_without_recursion() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("root");
    let store = shared(&path);
    let made = layer(&store, &wanted([("a", Want::Symlink(1))]), &View::empty());
    let deep = Stack::scratch().push_all(std::iter::repeat_n(made, 10_000));
    let work = std::thread::Builder::new()
        .stack_size(128 << 10)
        .spawn(move || {
            let row = store.save(&deep).unwrap();
            deep.view().unwrap();
            drop(deep);
            let again = store.stack(row).unwrap().unwrap();
            again.view().unwrap();
            again.depth()
        });
    assert_eq!(work.unwrap().join().unwrap(), 10_000);
}

/// Layers that change a little tree again and again, in every way there is.
fn churn(number: usize) -> Wanted {
    let seed = u8::try_from(number % 251).unwrap();
    let mut wants = vec![("log", Want::Directory(seed))];
    let name = format!("log/{number}");
    match number % 7 {
        0 => wants.extend([
            ("dir", Want::Directory(seed)),
            ("dir/in", Want::Directory(1)),
        ]),
        1 => wants.extend([
            ("dir/in/file", Want::File(seed)),
            ("dir/in/other", Want::Linked(1)),
        ]),
        2 => wants.extend([
            ("dir/in/one", Want::Linked(0)),
            ("dir/two", Want::Linked(0)),
        ]),
        3 => wants.push(("dir/in", Want::Whiteout)),
        4 => wants.extend([("dir/in", Want::File(seed)), ("pipe", Want::Fifo(seed))]),
        5 => wants.extend([
            ("dir/in", Want::Directory(3)),
            ("dir/in/new", Want::File(seed)),
        ]),
        _ => wants.push((
            if number.is_multiple_of(2) {
                "dir"
            } else {
                "pipe"
            },
            Want::Whiteout,
        )),
    }
    wants.push((&name, Want::File(seed)));
    wanted(wants)
}

#[test]
fn a_thousand_layers_mount_as_the_view_shows_them() {
    if !may_mount("a_thousand_layers_mount_as_the_view_shows_them") {
        return;
    }
    let store = store();
    let store = &store.layers;
    let flat = || names(store.root().path().join("flat")).len();
    let mut stack = Stack::scratch();
    for number in 0..1_000 {
        stack = pushed(store, &stack, &churn(number));
        if number == 119 {
            assert_eq!((assert_mounts(store, &stack), flat()), (120, 0));
        }
    }
    assert_eq!((assert_mounts(store, &stack), flat()), (15 + 40, 15));
    // What was flattened is used again by a stack that grew.
    for number in 1_000..1_024 {
        stack = pushed(store, &stack, &churn(number));
    }
    assert_eq!((assert_mounts(store, &stack), flat()), (16, 16));
    assert_eq!(names(store.root().path().join("layers")).len(), 1_024);
    assert_eq!(names(store.root().path().join("trash")), [""; 0]);
}

/// The layer that `change` makes on `base`.
fn written(
    store: &LayerStore,
    base: &View,
    change: impl FnOnce(&mut LayerWriter) -> Result<(), WriteError>,
) -> Layer {
    let active = store.new_layer().unwrap();
    let privileged = store.root().tier() == Tier::Root;
    let options = WriterOptions {
        privileged,
        now: Timestamp::default(),
    };
    let fs = active.fs_handle().unwrap();
    let mut writer = LayerWriter::new(fs, active.files(), base.clone(), options).unwrap();
    change(&mut writer).unwrap();
    active
        .commit(writer.finish().unwrap(), &described("written"))
        .unwrap()
}

#[test]
fn removals_do_not_show_where_a_merge_has_nothing_to_remove() {
    if !may_mount("removals_do_not_show_where_a_merge_has_nothing_to_remove") {
        return;
    }
    let store = store();
    let store = &store.layers;
    let path = |path: &str| TreePath::new(path).unwrap();
    let attributes = || Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let link = || Attributes {
        mode: 0o777,
        ..Attributes::default()
    };
    let base = written(store, &View::empty(), |writer| {
        writer.make_directory(&path("dir"), attributes())?;
        writer.make_directory(&path("dir/old"), attributes())?;
        writer.make_directory(&path("dir/old/inside"), attributes())?;
        writer.make_symlink(&path("dir/gone"), b"x", link())
    });
    let base = Stack::scratch().push(base);
    let change = written(store, &base.view().unwrap(), |writer| {
        writer.remove(&path("dir/gone"))?;
        writer.remove(&path("dir/old"))?;
        writer.make_directory(&path("dir/old"), attributes())?;
        writer.make_symlink(&path("dir/new"), b"x", link())
    });
    assert_mounts(store, &base.push(change.clone()));
    let other = written(store, &View::empty(), |writer| {
        writer.make_directory(&path("elsewhere"), attributes())
    });
    let merged = Stack::scratch().push(other).push(change);
    let seen: Vec<String> = merged
        .view()
        .unwrap()
        .walk()
        .map(|(path, _)| path.to_string())
        .collect();
    assert_eq!(seen, ["/dir", "/dir/new", "/dir/old", "/elsewhere"]);
    assert_eq!(assert_mounts(store, &merged), 2);
}

#[test]
fn a_layer_that_is_there_twice_is_mounted_once() {
    if !may_mount("a_layer_that_is_there_twice_is_mounted_once") {
        return;
    }
    let store = store();
    proptest!(config(40), |(layers in layers(), order in prop::collection::vec(any::<u8>(), 2..9))| {
        let made = stacked(&store.layers, &layers).layers();
        let chosen = order.into_iter().map(|at| made[usize::from(at) % made.len()].clone());
        let stack = Stack::scratch().push_all(chosen);
        let base = stacked(&store.layers, &[wanted([("a", Want::Directory(2))]), Wanted::new()]);
        assert_mounts(&store.layers, &Stack::merge([&base, &stack]));
    });
}

/// A layer of symbolic links.
fn many_links(store: &LayerStore, count: usize) -> Layer {
    let active = store.new_layer().unwrap();
    let links = (0..count).map(|number| {
        let path = TreePath::new(format!("{number:05}")).unwrap();
        std::os::unix::fs::symlink("target", active.path().join("fs").join(path.as_relative()))
            .unwrap();
        let now = fs::symlink_metadata(active.path().join("fs").join(path.as_relative())).unwrap();
        let mut entry = Entry::new(Kind::Symlink, Attributes::default());
        entry.target = b"target".as_slice().into();
        entry.attributes.mode = 0o777;
        entry.attributes.mtime = Timestamp {
            seconds: std::os::unix::fs::MetadataExt::mtime(&now),
            nanoseconds: u32::try_from(std::os::unix::fs::MetadataExt::mtime_nsec(&now)).unwrap(),
        };
        (path, entry)
    });
    let index = Index::new(links.collect()).unwrap();
    active.commit(index, &described("links")).unwrap()
}

#[test]
fn large_layers_everywhere_still_mount() {
    if !may_mount("large_layers_everywhere_still_mount") {
        return;
    }
    let store = store();
    let store = &store.layers;
    let mut stack = Stack::scratch();
    for number in 0..600 {
        stack = if number % 50 == 49 {
            stack.push(many_links(store, 4_097))
        } else {
            pushed(
                store,
                &stack,
                &wanted([(&*format!("small-{number}"), Want::File(1))]),
            )
        };
    }
    assert_eq!(assert_mounts(store, &stack), 600 / 64 + 600 % 64);
}

#[test]
fn random_deep_stacks_mount_as_the_view_shows_them() {
    if !may_mount("random_deep_stacks_mount_as_the_view_shows_them") {
        return;
    }
    let deep = prop::collection::vec(layers(), 40..60);
    proptest!(config(6), |(layers in deep)| {
        let store = store();
        let layers: Vec<Wanted> = layers.into_iter().flatten().collect();
        let stack = stacked(&store.layers, &layers);
        assert_mounts(&store.layers, &stack);
    });
}

#[test]
fn the_longest_path_is_written_read_and_flattened() {
    let store = store();
    let store = &store.layers;
    // 16 components of 255 bytes are 4,095 with the slashes between them.
    for (ends, length) in [(&[255][..], 4_095), (&[240, 15], 4_096)] {
        let mut parts = vec!["d".repeat(255); 15];
        parts.extend(ends.iter().map(|&length| "e".repeat(length)));
        let path = TreePath::new(parts.join("/")).unwrap();
        assert_eq!(path.as_bytes().len(), length);
        let mut stack = Stack::scratch();
        for number in 0..130 {
            stack = stack.push(one_file(store, &path, number));
        }
        let view = stack.view().unwrap();
        let node = view.lookup(&path).unwrap();
        let mut text = String::new();
        let mut file = node.files().unwrap().open(&path).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "129");
        let lower = store.lower_paths(&stack).unwrap();
        assert_eq!(lower.len(), 2 + 2);
        let root = fs::File::open(lower.last().unwrap()).unwrap();
        let mut file = ashlar_solver::dir::open_file(&root, path.as_bytes()).unwrap();
        text.clear();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "63");
    }
}

/// A layer with one file, however long its path is.
fn one_file(store: &LayerStore, path: &TreePath, number: usize) -> Layer {
    let active = store.new_layer().unwrap();
    let mut entries = Vec::new();
    let mut here = active.fs_handle().unwrap();
    let mut at = TreePath::root();
    let mode = rustix::fs::Mode::from(0o755);
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    let parts: Vec<&[u8]> = path.components().collect();
    let (name, directories) = parts.split_last().unwrap();
    for part in directories {
        at = at.join(part).unwrap();
        rustix::fs::mkdirat(&here, *part, mode).unwrap();
        here = ashlar_solver::dir::open_directory(&here, part).unwrap();
        entries.push((at.clone(), Entry::new(Kind::Directory, attributes.clone())));
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let mut file = fs::File::from(rustix::fs::openat(&here, *name, flags, mode).unwrap());
    let text = number.to_string();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let mut entry = Entry::new(Kind::File, attributes);
    entry.size = text.len() as u64;
    entries.push((path.clone(), entry));
    active
        .commit(Index::new(entries).unwrap(), &described("long"))
        .unwrap()
}

#[test]
fn processes_flatten_the_same_run_once() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the child is told what to work on"
    )]
    let shared_root = std::env::var(SHARED);
    if let Ok(shared_root) = shared_root {
        let (row, path) = shared_root.split_once(':').unwrap();
        let store = shared(Path::new(path));
        let stack = store.stack(StackId(row.parse().unwrap())).unwrap().unwrap();
        let lower = store.lower_paths(&stack).unwrap();
        assert!(lower.iter().all(|path| path.is_dir()));
        let flat = lower
            .iter()
            .filter(|path| path.to_string_lossy().contains("/flat/"));
        assert_eq!(flat.count(), 4);
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("root");
    let store = shared(&path);
    let privileged = store.root().tier() == Tier::Root;
    let layers: Vec<Wanted> = (0..256).map(churn).collect();
    let mut stack = Stack::scratch();
    for wants in &layers {
        if privileged {
            stack = pushed(&store, &stack, wants);
        } else {
            let files = TreePath::new(format!("file-{}", stack.depth())).unwrap();
            stack = stack.push(one_file(&store, &files, stack.depth()));
        }
    }
    let row = store.save(&stack).unwrap();
    let binary = std::env::current_exe().unwrap();
    let run = || {
        #[expect(clippy::disallowed_methods, reason = "this is about processes")]
        let mut command = Command::new(&binary);
        command.args(["--exact", "snapshot::processes_flatten_the_same_run_once"]);
        command.env(SHARED, format!("{}:{}", row.0, path.display()));
        command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| run()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    assert_eq!(names(path.join("flat")).len(), 4);
    assert_eq!(names(path.join("layers")).len(), 256);
    assert_eq!(names(path.join("trash")), [""; 0]);
    if privileged {
        assert_eq!(assert_mounts(&store, &stack), 4);
    }
}

#[test]
fn only_a_layer_that_nobody_uses_can_be_removed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("root");
    let wants = [
        wanted([("below", Want::Directory(1))]),
        wanted([("above", Want::Directory(2))]),
    ];
    let maker = shared(&path);
    let made = stacked(&maker, &wants);
    let row = maker.save(&made).unwrap();
    let ids: Vec<LayerId> = made.layer_ids();
    let (below, top) = (ids[0], ids[1]);
    let remover = shared(&path);
    assert!(!maker.remove_unused(top).unwrap(), "it is held");
    drop(made);
    assert!(!remover.remove_unused(top).unwrap(), "its maker still runs");
    drop(maker);

    let user = shared(&path);
    let used = user.stack(row).unwrap().unwrap();
    assert!(!remover.remove_unused(top).unwrap(), "it is pinned");
    assert!(
        !remover.remove_unused(below).unwrap(),
        "something stands on it"
    );
    assert!(
        used.view()
            .unwrap()
            .lookup(&TreePath::new("below").unwrap())
            .is_some()
    );
    drop(used);

    // A layer that is seen as one of many first is pinned when it is the top of a result.
    let again = user.stack(row).unwrap().unwrap();
    let lower = user.save(&again.parent()).unwrap();
    let held = user.stack(lower).unwrap().unwrap();
    drop(again);
    assert!(remover.remove_unused(top).unwrap());
    assert!(user.stack(row).unwrap().is_none(), "its rows are gone");
    assert!(!remover.remove_unused(below).unwrap(), "it is pinned");
    assert_eq!(held.view().unwrap().walk().count(), 1);
    drop(held);
    assert!(remover.remove_unused(below).unwrap());
    assert!(!remover.remove_unused(below).unwrap(), "it is gone");
    assert_eq!(names(path.join("layers")), [""; 0]);
    assert_eq!(names(path.join("trash")), [""; 0]);
}
