//! One file system object, without its bytes.

use std::fmt;

use super::Timestamp;
use crate::id::ContentDigest;

/// What kind of object an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "the kinds of Unix, and the whiteout of layers"
)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link; its text is [`Entry::target`].
    Symlink,
    /// A character device; its number is [`Entry::device`]. Never 0:0.
    CharDevice,
    /// A block device; its number is [`Entry::device`].
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// Not an object but its removal from the layers below. Occurs in an index, never in a view.
    Whiteout,
}

/// Extended attributes: names and values, sorted by name, each name once.
#[derive(Clone, PartialEq, Eq, Default, Hash)]
pub struct Xattrs(Box<[Xattr]>);

/// Name and value.
pub(crate) type Xattr = (Box<[u8]>, Box<[u8]>);

impl Xattrs {
    /// Sorts `pairs`; of equal names the last wins.
    pub fn new(pairs: impl IntoIterator<Item = (Box<[u8]>, Box<[u8]>)>) -> Self {
        let map: std::collections::BTreeMap<_, _> = pairs.into_iter().collect();
        Self(map.into_iter().collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name`.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// All but `name`.
    #[must_use]
    pub fn without(&self, name: &[u8]) -> Self {
        Self(
            self.0
                .iter()
                .filter(|(key, _)| **key != *name)
                .cloned()
                .collect(),
        )
    }

    /// Names and values in the order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(k, v)| (k.escape_ascii(), v.escape_ascii())),
            )
            .finish()
    }
}

/// What can be set on an object apart from its kind and bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission, setuid, setgid and sticky bits: `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change of content.
    pub mtime: Timestamp,
    /// Extended attributes. Never those of the overlay file system (`trusted.overlay.*`,
    /// `user.overlay.*`).
    pub xattrs: Xattrs,
}

/// A number of a device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// One file system object, without its name and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Mode, owner, time, extended attributes. All zero for a whiteout.
    pub attributes: Attributes,
    /// Bytes of a regular file; 0 for everything else.
    pub size: u64,
    /// Number of a device file; 0:0 for everything else.
    pub device: Device,
    /// Text of a symbolic link; empty for everything else.
    pub target: Box<[u8]>,
    /// Objects of one layer that are one inode share a number here; 0 stands alone. Numbers mean
    /// nothing outside their layer.
    pub link_group: u32,
    /// Bytes allocated on disk for a regular file, for usage reports.
    pub allocated: u64,
    /// The checksum of the object as `cache/contenthash` computes it (header and bytes); `None`
    /// if nobody has needed it yet. Never set for whiteouts. For a directory it is the checksum of
    /// its header alone, and set only where that is not computed from the attributes: at the root
    /// of a local source, where BuildKit takes the checksum of no bytes.
    pub digest: Option<ContentDigest>,
    /// For a directory: nothing of the layers below shows through. Only where it replaces
    /// something that is not a directory.
    pub opaque: bool,
}

/// The mode on disk of what has `mode` in the index, where the engine is an ordinary user: all stays
/// open to its owner, who is the engine.
pub(crate) fn open_mode(kind: Kind, mode: u32) -> u32 {
    mode | if kind == Kind::Directory {
        0o700
    } else {
        0o400
    }
}

impl Entry {
    /// An entry of `kind` with nothing but attributes.
    pub fn new(kind: Kind, attributes: Attributes) -> Self {
        Self {
            kind,
            attributes,
            size: 0,
            device: Device::default(),
            target: Box::default(),
            link_group: 0,
            allocated: 0,
            digest: None,
            opaque: false,
        }
    }

    /// A whiteout.
    pub fn whiteout() -> Self {
        Self::new(Kind::Whiteout, Attributes::default())
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}
