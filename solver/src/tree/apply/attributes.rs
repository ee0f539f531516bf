//! Which attributes of an entry are taken: those that containerd takes.
//!
//! - Times before 1970, and those that nanoseconds in 64 bits cannot tell (after April 2262), are 0.
//! - Extended attributes are those of `user.` and `security.`, and access control lists. What the
//!   kernel has no name for (`com.apple.`) is dropped, and so is `trusted.`, which is the host's.
//!   Only files and directories have `user.`.
//! - An entry for a hard link sets the attributes of the file, for all of its names. As a change of
//!   owner does in Linux, it takes the capabilities of the file away; the entry may have others.

use std::collections::BTreeMap;

use crate::tree::index::is_overlay_xattr;
use crate::tree::tar::Header;
use crate::tree::{Attributes, Entry, Kind, Timestamp, Xattrs};

/// The last moment that nanoseconds since 1970 can tell in 64 bits.
const LAST: Timestamp = Timestamp {
    seconds: 9_223_372_036,
    nanoseconds: 854_775_807,
};

/// What the kernel takes away when an owner is set.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// The attributes of a new entry.
pub(super) fn attributes(header: &Header, kind: Kind) -> Attributes {
    let new = taken(header, kind);
    Attributes {
        xattrs: Xattrs::new(new.map(|(name, value)| (name.into(), value.into()))),
        ..plain(header)
    }
}

/// The attributes of a file while entries for hard links to it set them, one after the other.
#[derive(Debug)]
pub(super) struct Linked {
    kind: Kind,
    /// Without extended ones.
    attributes: Attributes,
    xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Linked {
    pub(super) fn new(entry: &Entry) -> Self {
        let Attributes { xattrs, .. } = &entry.attributes;
        Self {
            kind: entry.kind,
            attributes: without_xattrs(&entry.attributes),
            xattrs: xattrs.iter().map(|(n, v)| (n.into(), v.into())).collect(),
        }
    }

    /// Sets what the entry of a hard link says.
    pub(super) fn set(&mut self, header: &Header) {
        let mode = match self.kind {
            Kind::Symlink => self.attributes.mode,
            _ => header.mode,
        };
        self.attributes = Attributes {
            mode,
            ..plain(header)
        };
        self.xattrs.remove(CAPABILITY);
        for (name, value) in taken(header, self.kind) {
            self.xattrs.insert(name.into(), value.into());
        }
    }

    /// Those of all names of the file.
    pub(super) fn attributes(self) -> Attributes {
        Attributes {
            xattrs: Xattrs::new(self.xattrs),
            ..self.attributes
        }
    }
}

/// The same, but for extended ones.
pub(super) fn without_xattrs(attributes: &Attributes) -> Attributes {
    Attributes {
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: attributes.mtime,
        xattrs: Xattrs::default(),
    }
}

fn plain(header: &Header) -> Attributes {
    Attributes {
        mode: header.mode,
        uid: header.uid,
        gid: header.gid,
        mtime: time(header.mtime),
        xattrs: Xattrs::default(),
    }
}

/// The extended attributes that are taken.
fn taken(header: &Header, kind: Kind) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = header.xattrs.iter();
    let all = all.map(|(name, value)| (&name[..], &value[..]));
    all.filter(move |(name, _)| is_taken(name, kind))
}

fn is_taken(name: &[u8], kind: Kind) -> bool {
    let list = matches!(
        name,
        b"system.posix_acl_access" | b"system.posix_acl_default"
    );
    let user = name.starts_with(b"user.") && matches!(kind, Kind::File | Kind::Directory);
    (list || user || name.starts_with(b"security.")) && !is_overlay_xattr(name)
}

fn time(time: Timestamp) -> Timestamp {
    if (Timestamp::default()..=LAST).contains(&time) {
        time
    } else {
        Timestamp::default()
    }
}
