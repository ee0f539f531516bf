//! The kernel's overlay and the view are two readings of one stack and must agree.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::tree::capture::{CaptureOptions, capture};
use ashlar_solver::tree::entry::Device;
use ashlar_solver::tree::view::walk_order;
use ashlar_solver::tree::{
    Attributes, Entry, Files, Index, Kind, Timestamp, TreePath, View, Xattrs,
};
use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

use crate::overlay::{
    DirectoryFiles, assert_same, kernel_listing, may_mount, mount, root_of, view_listing,
};

/// What a generated layer wants at a path; [`normal`] makes a layer of it.
#[derive(Debug, Clone)]
pub(crate) enum Want {
    Directory(u8),
    File(u8),
    /// Files of one number in one layer are hard links.
    Linked(u8),
    Symlink(u8),
    Device(u8),
    Fifo(u8),
    Whiteout,
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        4 => any::<u8>().prop_map(Want::Directory),
        4 => any::<u8>().prop_map(Want::File),
        2 => (0..2_u8).prop_map(Want::Linked),
        1 => any::<u8>().prop_map(Want::Symlink),
        1 => any::<u8>().prop_map(Want::Device),
        1 => any::<u8>().prop_map(Want::Fifo),
        3 => Just(Want::Whiteout),
    ]
}

pub(crate) fn path() -> impl Strategy<Value = TreePath> {
    prop::collection::vec(prop_oneof!["a", "b", "a-b", "\u{e9}"], 1..4)
        .prop_map(|parts| TreePath::new(parts.join("/")).unwrap())
}

pub(crate) fn layers() -> impl Strategy<Value = Vec<BTreeMap<TreePath, Want>>> {
    prop::collection::vec(prop::collection::btree_map(path(), want(), 0..10), 2..6)
}

fn attributes(seed: u8, extended: bool) -> Attributes {
    let pairs: Vec<(&[u8], &[u8])> = match seed % 5 {
        1 => vec![(b"user.one", b"1"), (b"trusted.two", b"\0\xff")],
        2 => vec![(b"user.empty", b"")],
        _ => vec![],
    };
    let pairs = if extended { pairs } else { Vec::new() };
    Attributes {
        mode: [0o644, 0o755, 0o600, 0o4755, 0o2750, 0o1777, 0][usize::from(seed) % 7],
        uid: u32::from(seed % 3) * 1000,
        gid: u32::from(seed % 2) * 7,
        mtime: Timestamp {
            seconds: 1_000_000_000 + i64::from(seed),
            nanoseconds: seed.into(),
        },
        xattrs: Xattrs::new(pairs.into_iter().map(|(k, v)| (k.into(), v.into()))),
    }
}

fn content(want: &Want) -> Vec<u8> {
    match want {
        Want::File(seed) => vec![*seed; usize::from(*seed % 9)],
        Want::Linked(number) => vec![b'0' + number; 5],
        _ => Vec::new(),
    }
}

fn entry(want: &Want) -> Entry {
    let mut entry = match want {
        Want::Directory(seed) => Entry::new(Kind::Directory, attributes(*seed, true)),
        Want::File(seed) => Entry::new(Kind::File, attributes(*seed, true)),
        Want::Linked(number) => Entry::new(Kind::File, attributes(*number, true)),
        Want::Symlink(seed) => Entry::new(
            Kind::Symlink,
            Attributes {
                mode: 0o777,
                ..attributes(*seed, false)
            },
        ),
        Want::Device(seed) if *seed == 0 => Entry::new(Kind::BlockDevice, attributes(0, false)),
        Want::Device(seed) => Entry::new(Kind::CharDevice, attributes(*seed, false)),
        Want::Fifo(seed) => Entry::new(Kind::Fifo, attributes(*seed, false)),
        Want::Whiteout => Entry::whiteout(),
    };
    match want {
        Want::Symlink(seed) => entry.target = format!("../{seed}").into_bytes().into(),
        Want::Device(seed) => {
            entry.device = Device {
                major: (*seed).into(),
                minor: 3,
            }
        }
        Want::Linked(number) => entry.link_group = u32::from(*number) + 1,
        _ => {}
    }
    entry.size = content(want).len() as u64;
    entry
}

/// The entries that make sense on `base`, with the parents they need.
pub(crate) fn normal(
    wanted: &BTreeMap<TreePath, Want>,
    base: &View,
) -> (Index, BTreeMap<TreePath, Want>) {
    let mut all: Vec<(TreePath, Option<Want>)> = Vec::new();
    for (path, want) in wanted {
        let parents = std::iter::successors(path.parent(), TreePath::parent);
        all.extend(
            parents
                .filter(|path| !path.is_root())
                .map(|path| (path, None)),
        );
        all.push((path.clone(), Some(want.clone())));
    }
    // What is wanted comes before what is only a parent.
    all.sort_by(|a, b| walk_order(&a.0, &b.0).then(b.1.is_some().cmp(&a.1.is_some())));
    all.dedup_by(|later, first| later.0 == first.0);
    let mut entries: Vec<(TreePath, Entry)> = Vec::new();
    let mut contents = BTreeMap::new();
    for (path, want) in all {
        let parent = path.parent().unwrap();
        let mut upwards = entries.iter().filter(|(other, _)| path.starts_with(other));
        let closed = upwards.clone().any(|(_, entry)| !entry.is_directory());
        let hidden = upwards.any(|(_, entry)| entry.opaque);
        let complete = parent.is_root() || entries.iter().any(|(other, _)| *other == parent);
        if closed || !complete {
            continue;
        }
        let below = base
            .lookup(&path)
            .filter(|_| !hidden)
            .map(|node| node.entry());
        let want = want.unwrap_or(Want::Directory(1));
        let mut entry = entry(&want);
        match (entry.kind, below) {
            (Kind::Whiteout, None) => continue,
            (Kind::Directory, Some(below)) if !below.is_directory() => entry.opaque = true,
            _ => {}
        }
        contents.insert(path.clone(), want);
        entries.push((path, entry));
    }
    (Index::new(entries).unwrap(), contents)
}

/// Writes a layer as a lower directory. Adds marks that only an unprivileged overlay would heed.
pub(crate) fn write(index: &Index, contents: &BTreeMap<TreePath, Want>, root: &Path) {
    let mut groups: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for (path, entry) in index.entries() {
        let place = root.join(path.as_relative());
        let node = |kind, device: Device| {
            let device = rustix::fs::makedev(device.major, device.minor);
            mknodat(CWD, &place, kind, Mode::empty(), device).unwrap();
        };
        match entry.kind {
            Kind::Directory => fs::create_dir(&place).unwrap(),
            Kind::File => match groups
                .get(&entry.link_group)
                .filter(|_| entry.link_group != 0)
            {
                Some(first) => {
                    fs::hard_link(first, &place).unwrap();
                    continue;
                }
                None => {
                    groups.insert(entry.link_group, place.clone());
                    fs::write(&place, content(&contents[path])).unwrap();
                }
            },
            Kind::Symlink => {
                symlink(
                    std::ffi::OsStr::new(str::from_utf8(&entry.target).unwrap()),
                    &place,
                )
                .unwrap();
            }
            Kind::CharDevice => node(FileType::CharacterDevice, entry.device),
            Kind::BlockDevice => node(FileType::BlockDevice, entry.device),
            Kind::Fifo => node(FileType::Fifo, Device::default()),
            Kind::Whiteout => {
                node(FileType::CharacterDevice, Device::default());
                set_xattr(place.parent().unwrap(), "trusted.overlay.origin", b"");
                continue;
            }
        }
        let attributes = &entry.attributes;
        lchown(&place, Some(attributes.uid), Some(attributes.gid)).unwrap();
        for (name, value) in attributes.xattrs.iter() {
            set_xattr(&place, str::from_utf8(name).unwrap(), value);
        }
        if matches!(entry.kind, Kind::Directory | Kind::File) {
            for name in ["opaque", "redirect", "metacopy", "whiteout"] {
                set_xattr(&place, &format!("user.overlay.{name}"), b"y");
            }
        }
        if entry.opaque {
            set_xattr(&place, "trusted.overlay.opaque", b"y");
        }
        if entry.kind != Kind::Symlink {
            fs::set_permissions(&place, fs::Permissions::from_mode(attributes.mode)).unwrap();
        }
    }
    // Last and upwards: making something changes the time of its directory.
    for (path, entry) in index
        .entries()
        .iter()
        .rev()
        .filter(|(_, e)| e.kind != Kind::Whiteout)
    {
        let mtime = entry.attributes.mtime;
        let time = Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        let place = root.join(path.as_relative());
        utimensat(CWD, &place, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn set_xattr(place: &Path, name: &str, value: &[u8]) {
    lsetxattr(place, name, value, XattrFlags::empty()).unwrap();
}

/// A stack on disk: lower directories, topmost first, and what they show.
struct Stack {
    temp: tempfile::TempDir,
    lower: Vec<PathBuf>,
    view: View,
}

fn stack(layers: &[BTreeMap<TreePath, Want>]) -> Stack {
    let temp = tempfile::tempdir().unwrap();
    let (mut lower, mut view) = (Vec::new(), View::empty());
    for (number, wanted) in layers.iter().enumerate() {
        let (index, contents) = normal(wanted, &view);
        let place = temp.path().join(number.to_string());
        fs::create_dir(&place).unwrap();
        write(&index, &contents, &place);
        let files: Arc<dyn Files> = Arc::new(DirectoryFiles(place.clone()));
        // As it is when it comes from the store.
        let index = Index::decode(&index.encode()).unwrap();
        view = index.onto(&view, files);
        lower.insert(0, place);
    }
    for place in &lower {
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    Stack { temp, lower, view }
}

/// The root of a mount is the topmost directory; its time is nobody's.
pub(crate) fn without_root_time(mut listing: crate::overlay::Listing) -> crate::overlay::Listing {
    listing.get_mut(&TreePath::root()).unwrap().mtime = None;
    listing
}

/// What a process does to a mount.
#[derive(Debug, Clone)]
enum Act {
    Write(TreePath, u8),
    Directory(TreePath),
    Remove(TreePath),
    Rename(TreePath, TreePath),
    Link(TreePath, TreePath),
    Symlink(TreePath),
    Mode(TreePath, u8),
    Owner(TreePath),
    Xattr(TreePath, u8),
    /// Opens for writing and writes nothing: copied up, and as before.
    Touch(TreePath),
    Socket(TreePath),
    Fifo(TreePath),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(p, n)| Act::Write(p, n)),
        4 => path().prop_map(Act::Directory),
        5 => path().prop_map(Act::Remove),
        3 => (path(), path()).prop_map(|(a, b)| Act::Rename(a, b)),
        3 => (path(), path()).prop_map(|(a, b)| Act::Link(a, b)),
        1 => path().prop_map(Act::Symlink),
        2 => (path(), any::<u8>()).prop_map(|(p, n)| Act::Mode(p, n)),
        2 => path().prop_map(Act::Owner),
        2 => (path(), any::<u8>()).prop_map(|(p, n)| Act::Xattr(p, n)),
        2 => path().prop_map(Act::Touch),
        1 => path().prop_map(Act::Socket),
        1 => path().prop_map(Act::Fifo),
    ]
}

/// Does it, or fails as a process would.
fn perform(root: &Path, act: &Act) {
    let place = |path: &TreePath| root.join(path.as_relative());
    let plain = |path: &TreePath| {
        fs::symlink_metadata(place(path)).is_ok_and(|data| data.is_file() || data.is_dir())
    };
    match act {
        Act::Write(path, seed) => {
            if fs::symlink_metadata(place(path)).is_ok_and(|data| !data.is_file()) {
                return;
            }
            drop(fs::write(place(path), vec![*seed; usize::from(*seed)]));
        }
        Act::Directory(path) => drop(fs::create_dir_all(place(path))),
        Act::Remove(path) => {
            if fs::remove_file(place(path)).is_err() {
                drop(fs::remove_dir_all(place(path)));
            }
        }
        Act::Rename(from, to) => drop(fs::rename(place(from), place(to))),
        Act::Link(from, to) => drop(fs::hard_link(place(from), place(to))),
        Act::Symlink(path) => drop(symlink("somewhere", place(path))),
        Act::Mode(path, seed) if plain(path) => {
            let mode = 0o700 | u32::from(*seed);
            fs::set_permissions(place(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        Act::Owner(path) if plain(path) => chown(place(path), Some(5), None).unwrap(),
        Act::Xattr(path, seed) if plain(path) => set_xattr(&place(path), "user.new", &[*seed]),
        Act::Touch(path) if plain(path) => {
            drop(File::options().append(true).open(place(path)));
        }
        Act::Socket(path) => drop(UnixListener::bind(place(path))),
        Act::Fifo(path) => {
            let _result = mknodat(CWD, place(path), FileType::Fifo, Mode::from(0o600), 0);
        }
        Act::Mode(..) | Act::Owner(_) | Act::Xattr(..) | Act::Touch(_) => {}
    }
}

/// What a layer does not tell: which links there are to what was not changed.
fn without_links(mut listing: crate::overlay::Listing) -> crate::overlay::Listing {
    listing.values_mut().for_each(|seen| seen.same_as = None);
    listing
}

/// A directory that only was looked at may have another time; BuildKit does not tell either.
fn without_directory_times(mut listing: crate::overlay::Listing) -> crate::overlay::Listing {
    for seen in listing
        .values_mut()
        .filter(|seen| seen.kind == Kind::Directory)
    {
        seen.mtime = None;
    }
    listing
}

pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

#[test]
fn kernel_and_view_show_the_same_stack() {
    if !may_mount("kernel_and_view_show_the_same_stack") {
        return;
    }
    proptest!(config(120), |(layers in layers())| {
        let stack = stack(&layers);
        let handle = mount(&stack.lower, None).unwrap();
        let kernel = without_root_time(kernel_listing(&root_of(&handle)));
        let view = without_root_time(view_listing(&stack.view));
        assert_same(&kernel, &view, "stack");
    });
}

#[test]
fn a_captured_layer_shows_what_the_process_saw() {
    if !may_mount("a_captured_layer_shows_what_the_process_saw") {
        return;
    }
    proptest!(config(120), |(layers in layers(), acts in prop::collection::vec(act(), 0..25))| {
        let stack = stack(&layers);
        let upper = stack.temp.path().join("upper");
        let work = stack.temp.path().join("work");
        fs::create_dir(&upper).unwrap();
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(&work).unwrap();
        let handle = mount(&stack.lower, Some((&upper, &work))).unwrap();
        for act in &acts {
            perform(&root_of(&handle), act);
        }
        let seen = kernel_listing(&root_of(&handle));
        drop(handle);

        let fs = OwnedFd::from(File::open(&upper).unwrap());
        let index = capture(fs, &stack.view, &CaptureOptions::default()).unwrap();
        let files: Arc<dyn Files> = Arc::new(DirectoryFiles(upper.clone()));
        let view = index.onto(&stack.view, files);

        // The view is what the process saw.
        let shown = |listing| without_directory_times(without_links(listing));
        assert_same(&shown(seen), &shown(view_listing(&view)), "capture");
        // So is the directory as a lower one.
        let mut lower = stack.lower.clone();
        lower.insert(0, upper);
        let again = mount(&lower, None).unwrap();
        let kernel = without_root_time(kernel_listing(&root_of(&again)));
        let view = without_root_time(view_listing(&view));
        assert_same(&kernel, &view, "mounted again");
        // And it is in normal form.
        for (path, entry) in index.entries() {
            let below = stack.view.lookup(path).map(|node| node.entry().kind);
            match entry.kind {
                Kind::Whiteout => prop_assert!(below.is_some(), "{path}"),
                Kind::Directory if entry.opaque => {
                    prop_assert!(below.is_some_and(|kind| kind != Kind::Directory), "{path}");
                }
                _ => {}
            }
        }
    });
}
