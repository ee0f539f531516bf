//! Random sequences of operations: what the writer says must be what the kernel shows when the
//! layers are mounted on each other.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use proptest::prelude::*;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Directory(TreePath, u32),
    File(TreePath, u32, usize),
    Symlink(TreePath),
    Pipe(TreePath),
    Device(TreePath),
    Link(TreePath, TreePath),
    Remove(TreePath),
    Set(TreePath, u32),
    /// Everything below the first, to below the second.
    Copy(TreePath, TreePath, bool),
}

fn any_path() -> impl Strategy<Value = TreePath> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    prop::collection::vec(name, 1..4).prop_map(|names| path(&names.join("/")))
}

fn any_op() -> impl Strategy<Value = Op> {
    let mode = prop::sample::select(vec![0o755_u32, 0o644, 0o4711, 0o2770, 0o1777, 0o400, 0]);
    prop_oneof![
        4 => (any_path(), mode.clone()).prop_map(|(path, mode)| Op::Directory(path, mode)),
        4 => (any_path(), mode.clone(), 0..9000_usize).prop_map(|(path, m, n)| Op::File(path, m, n)),
        1 => any_path().prop_map(Op::Symlink),
        1 => any_path().prop_map(Op::Pipe),
        1 => any_path().prop_map(Op::Device),
        2 => (any_path(), any_path()).prop_map(|(path, existing)| Op::Link(path, existing)),
        3 => any_path().prop_map(Op::Remove),
        2 => (any_path(), mode).prop_map(|(path, mode)| Op::Set(path, mode)),
        2 => (any_path(), any_path(), any::<bool>()).prop_map(|(from, to, chown)| Op::Copy(from, to, chown)),
    ]
}

fn given(mode: u32) -> Attributes {
    let value: Box<[u8]> = mode.to_string().into_bytes().into();
    let xattrs = match mode & 1 {
        1 => Xattrs::new([(b"trusted.mode"[..].into(), value)]),
        _ => Xattrs::default(),
    };
    Attributes {
        uid: mode % 7,
        gid: mode % 5,
        xattrs,
        ..attributes(mode)
    }
}

fn perform(writer: &mut LayerWriter, op: &Op) -> Result<(), WriteError> {
    match op {
        Op::Directory(path, mode) => writer.make_directory(path, given(*mode)),
        Op::File(path, mode, size) => {
            let bytes: Vec<u8> = path
                .as_bytes()
                .iter()
                .copied()
                .cycle()
                .take(*size)
                .collect();
            writer.write_file(path, given(*mode), &mut &bytes[..])
        }
        Op::Symlink(path) => writer.make_symlink(path, b"../x", given(0o777)),
        Op::Pipe(path) => writer.make_node(path, Kind::Fifo, Device::default(), given(0o600)),
        Op::Device(path) => writer.make_node(
            path,
            Kind::CharDevice,
            Device { major: 1, minor: 3 },
            given(0o666),
        ),
        Op::Link(path, existing) => writer.hard_link(path, existing),
        Op::Remove(path) => writer.remove(path),
        Op::Set(path, mode) => writer.set_attributes(path, given(*mode)),
        Op::Copy(from, to, chown) => {
            let view = writer.view().clone();
            let Some(top) = view.lookup(from).cloned() else {
                return Ok(());
            };
            let mut items = Vec::new();
            let mut add = |node: &Arc<Node>, below: &TreePath| {
                let mut attributes = node.entry().attributes.clone();
                attributes.uid += u32::from(*chown);
                items.push(CopyItem {
                    source: node.clone(),
                    source_path: from.join_path(below),
                    destination: to.join_path(below),
                    attributes,
                    link_group: Some(node.entry().link_group.into()).filter(|group| *group > 0),
                });
            };
            if !to.starts_with(from) && !from.starts_with(to) {
                add(&top, &TreePath::root());
                for (below, node) in View::new_or_empty(&top).walk() {
                    add(node, &below);
                }
            }
            let conflict = items.iter().any(|item| {
                let there = view.lookup(&item.destination);
                there.is_some_and(|there| {
                    there.entry().is_directory() != item.source.entry().is_directory()
                })
            });
            if conflict {
                Ok(())
            } else {
                writer.copy(items, &Cancel::new())
            }
        }
    }
}

impl View {
    fn new_or_empty(node: &Arc<Node>) -> Self {
        if node.entry().is_directory() {
            Self::new(node.clone())
        } else {
            Self::empty()
        }
    }
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Everything that a process would see: bytes as a checksum of the entry.
type Seen = BTreeMap<String, (Entry, Option<Vec<u8>>)>;

fn kernel(top: &Path, at: &Path, inodes: &mut HashMap<String, u64>, seen: &mut Seen) {
    let stat = fs::symlink_metadata(at).unwrap();
    let kind = stat.file_type();
    let mut entry = Entry::new(Kind::File, attributes(stat.mode() & 0o7777));
    entry.attributes.uid = stat.uid();
    entry.attributes.gid = stat.gid();
    let nanoseconds = u32::try_from(stat.mtime_nsec()).unwrap();
    entry.attributes.mtime = Timestamp {
        seconds: stat.mtime(),
        nanoseconds,
    };
    let mut bytes = None;
    if kind.is_dir() {
        entry.kind = Kind::Directory;
        for child in fs::read_dir(at).unwrap() {
            kernel(top, &child.unwrap().path(), inodes, seen);
        }
    } else if kind.is_symlink() {
        entry.kind = Kind::Symlink;
        entry.target = fs::read_link(at).unwrap().as_os_str().as_bytes().into();
    } else if kind.is_fifo() {
        entry.kind = Kind::Fifo;
    } else if kind.is_char_device() {
        entry.kind = Kind::CharDevice;
        let (major, minor) = (
            rustix::fs::major(stat.rdev()),
            rustix::fs::minor(stat.rdev()),
        );
        entry.device = Device { major, minor };
    } else {
        entry.size = stat.len();
        bytes = Some(fs::read(at).unwrap());
    }
    let parent = open(at.parent().unwrap());
    let found = crate::dir::xattrs(parent, at.file_name().unwrap().as_bytes()).unwrap();
    entry.attributes.xattrs = Xattrs::new(found.into_iter().filter(|(name, _)| {
        !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"security.")
    }));
    let name = at.strip_prefix(top).unwrap().to_str().unwrap().to_owned();
    inodes.insert(name.clone(), stat.ino());
    seen.insert(name, (entry, bytes));
}

fn said(view: &View) -> Seen {
    let mut seen = Seen::new();
    for (path, mut entry) in dump(view) {
        let bytes = (entry.kind == Kind::File).then(|| {
            let node = view.lookup(&path).unwrap();
            let mut bytes = Vec::new();
            let mut file = node.files().unwrap().open(&path).unwrap();
            file.read_to_end(&mut bytes).unwrap();
            if let Some(digest) = entry.digest {
                assert_eq!(
                    file_digest(&entry, Some(&mut &bytes[..])).unwrap(),
                    digest,
                    "{path}"
                );
            }
            bytes
        });
        entry.link_group = 0;
        entry.allocated = 0;
        entry.digest = None;
        entry.opaque = false;
        if entry.kind == Kind::Symlink {
            entry.attributes.mode = 0o777;
        }
        seen.insert(
            String::from_utf8(path.as_bytes().to_vec()).unwrap(),
            (entry, bytes),
        );
    }
    seen
}

fn compare(below: &[Op], above: &[Op]) {
    let temp = tempfile::tempdir().unwrap();
    let mut view = View::empty();
    let mut index = Index::default();
    for (name, ops) in [("0", below), ("1", above)] {
        let folder = temp.path().join(name);
        fs::create_dir(&folder).unwrap();
        let (mut writer, files) = writer(&folder, &view);
        for op in ops {
            use WriteError::{Entry, IsADirectory, NotADirectory, NotFound};
            match perform(&mut writer, op) {
                Ok(()) | Err(NotFound { .. } | NotADirectory { .. } | IsADirectory { .. }) => {}
                Err(Entry { .. }) => {}
                Err(error) => panic!("{op:?}: {error:?}"),
            }
        }
        (index, view) = finish(writer, &view, &files);
    }
    let merged = temp.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let (low, high) = (temp.path().join("0/fs"), temp.path().join("1/fs"));
    let options = format!("lowerdir={}:{}", high.display(), low.display());
    let options = CString::new(options).unwrap();
    mount(
        "overlay",
        &merged,
        "overlay",
        MountFlags::RDONLY,
        options.as_c_str(),
    )
    .unwrap();
    let mounted = Mounted(&merged);
    let (mut seen, mut inodes) = (Seen::new(), HashMap::new());
    kernel(&merged, &merged, &mut inodes, &mut seen);
    drop(mounted);
    let said = said(&view);
    for (path, expected) in &said {
        assert_eq!(seen.get(path), Some(expected), "{path}");
    }
    assert_eq!(seen.len(), said.len());
    let mut groups: HashMap<u32, u64> = HashMap::new();
    for (path, entry) in index
        .entries()
        .iter()
        .filter(|(_, entry)| entry.link_group != 0)
    {
        let inode = inodes[std::str::from_utf8(path.as_bytes()).unwrap()];
        assert_eq!(
            *groups.entry(entry.link_group).or_insert(inode),
            inode,
            "{path}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_kernel_shows_what_the_view_says(
        below in prop::collection::vec(any_op(), 0..25),
        above in prop::collection::vec(any_op(), 0..25),
    ) {
        if is_root() {
            compare(&below, &above);
        } else {
            eprintln!("SKIPPED: mounting needs root");
        }
    }
}
