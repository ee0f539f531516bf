//! Overlay mounts that nothing but their handle leads to, and listings of what they show.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::tree::{Files, Kind, Timestamp, TreePath, View};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

/// The files of a layer directory.
#[derive(Debug)]
pub(crate) struct DirectoryFiles(pub(crate) PathBuf);

impl Files for DirectoryFiles {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        File::open(self.0.join(path.as_relative()))
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// Mounts `lower`, topmost first, below `upper` (with its work directory). The mount goes away
/// with the handle.
pub(crate) fn mount(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let lower: Vec<&[u8]> = lower
        .iter()
        .map(|path| path.as_os_str().as_bytes())
        .collect();
    fsconfig_set_string(&context, "lowerdir", OsStr::from_bytes(&lower.join(&b':')))?;
    if let Some((upper, work)) = upper {
        fsconfig_set_string(&context, "upperdir", upper)?;
        fsconfig_set_string(&context, "workdir", work)?;
    }
    for (key, value) in [
        ("redirect_dir", "nofollow"),
        ("metacopy", "off"),
        ("index", "off"),
        ("xino", "off"),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

/// As [`mount`], for any number of directories, none of them writable.
pub(crate) fn mount_deep(lower: &[PathBuf]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in lower {
        fsconfig_set_string(&context, "lowerdir+", lower)?;
    }
    for (key, value) in [
        ("redirect_dir", "nofollow"),
        ("metacopy", "off"),
        ("xino", "off"),
    ] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

/// Whether this process may mount; says so if not.
#[expect(
    clippy::print_stdout,
    reason = "a skipped test is counted by this line"
)]
pub(crate) fn may_mount(test: &str) -> bool {
    let temp = tempfile::tempdir().unwrap();
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    match mount(&[a, b], None) {
        Ok(_) => true,
        Err(error) => {
            println!("SKIPPED: {test}: overlay cannot be mounted: {error}");
            false
        }
    }
}

/// The path of the root of a mount.
pub(crate) fn root_of(mount: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()))
}

/// One object as a user of the tree sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) device: (u32, u32),
    /// The bytes of a file, the target of a link.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first of the paths that are the same inode.
    pub(crate) same_as: Option<TreePath>,
}

pub(crate) type Listing = BTreeMap<TreePath, Seen>;

/// What the kernel shows. Sockets are left out: no layer has them.
pub(crate) fn kernel_listing(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut inodes: BTreeMap<(u64, u64), TreePath> = BTreeMap::new();
    let mut todo = vec![TreePath::root()];
    while let Some(path) = todo.pop() {
        let place = root.join(path.as_relative());
        let data = fs::symlink_metadata(&place).unwrap();
        let data = if path.is_root() {
            fs::metadata(&place).unwrap()
        } else {
            data
        };
        let file_type = data.file_type();
        let mut content = Vec::new();
        let kind = if file_type.is_dir() {
            for item in fs::read_dir(&place).unwrap() {
                todo.push(path.join(&item.unwrap().file_name().into_vec()).unwrap());
            }
            // In the order of names, so that the first path of an inode is the same everywhere.
            todo.sort_by(|a, b| b.cmp(a));
            Kind::Directory
        } else if file_type.is_file() {
            content = fs::read(&place).unwrap();
            Kind::File
        } else if file_type.is_symlink() {
            content = fs::read_link(&place).unwrap().into_os_string().into_vec();
            Kind::Symlink
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else if file_type.is_char_device() {
            Kind::CharDevice
        } else if file_type.is_block_device() {
            Kind::BlockDevice
        } else {
            continue;
        };
        let mut same_as = None;
        if kind != Kind::Directory && data.nlink() > 1 {
            let first = inodes
                .entry((data.dev(), data.ino()))
                .or_insert_with(|| path.clone());
            same_as = (*first != path).then(|| first.clone());
        }
        let seen = Seen {
            kind,
            mode: data.mode() & 0o7777,
            owner: (data.uid(), data.gid()),
            mtime: Some(Timestamp {
                seconds: data.mtime(),
                nanoseconds: u32::try_from(data.mtime_nsec()).unwrap(),
            }),
            device: (
                rustix::fs::major(data.rdev()),
                rustix::fs::minor(data.rdev()),
            ),
            content,
            xattrs: xattrs(&place, path.is_root()),
            same_as,
        };
        listing.insert(path, seen);
    }
    listing
}

fn xattrs(place: &Path, follow: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let place = if follow {
        place.join(".")
    } else {
        place.to_owned()
    };
    let mut names = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(&place, &mut names[..]).unwrap();
    let mut found = Vec::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let label = name.starts_with(b"security.") || name.starts_with(b"system.");
        if label || name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 1 << 12];
        let length =
            rustix::fs::lgetxattr(&place, OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.push((name.to_vec(), value[..length].to_vec()));
    }
    found.sort();
    found
}

/// What the view shows.
pub(crate) fn view_listing(view: &View) -> Listing {
    let mut listing = Listing::new();
    let mut groups: Vec<(Arc<dyn Files>, u32, TreePath)> = Vec::new();
    let mut nodes: Vec<_> = view.walk().collect();
    nodes.push((TreePath::root(), view.root()));
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, node) in nodes {
        let entry = node.entry();
        let mut content = entry.target.to_vec();
        if entry.kind == Kind::File {
            let mut file = node.files().unwrap().open(&path).unwrap();
            io::Read::read_to_end(&mut file, &mut content).unwrap();
            assert_eq!(content.len() as u64, entry.size, "{path}");
        }
        let mut same_as = None;
        if entry.link_group != 0 {
            let files = node.files().unwrap();
            let same = |other: &&(Arc<dyn Files>, u32, TreePath)| {
                Arc::ptr_eq(&other.0, files) && other.1 == entry.link_group
            };
            match groups.iter().find(same) {
                Some((.., first)) => same_as = Some(first.clone()),
                None => groups.push((files.clone(), entry.link_group, path.clone())),
            }
        }
        let attributes = &entry.attributes;
        let seen = Seen {
            kind: entry.kind,
            mode: attributes.mode,
            owner: (attributes.uid, attributes.gid),
            mtime: Some(attributes.mtime),
            device: (entry.device.major, entry.device.minor),
            content,
            xattrs: attributes
                .xattrs
                .iter()
                .map(|(k, v)| (k.to_vec(), v.to_vec()))
                .collect(),
            same_as,
        };
        listing.insert(path, seen);
    }
    listing
}

/// Tells the first difference.
pub(crate) fn assert_same(kernel: &Listing, view: &Listing, what: &str) {
    for (path, seen) in kernel {
        assert_eq!(
            Some(seen),
            view.get(path),
            "{what}: {path}: kernel left, view right"
        );
    }
    for path in view.keys() {
        assert!(
            kernel.contains_key(path),
            "{what}: {path} is only in the view"
        );
    }
}
