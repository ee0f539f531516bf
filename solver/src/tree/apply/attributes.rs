//! Which attributes of an entry are taken: those that containerd takes.
//!
//! - Times before 1970, and those that nanoseconds in 64 bits cannot tell (after April 2262), are 0.
//! - Extended attributes are those of `user.` and `security.`, and access control lists. What the
//!   kernel has no name for (`com.apple.`) is dropped, and so is `trusted.`, which is the host's.
//!   Only files and directories have `user.`.
//! - An entry for a hard link sets the attributes of the file, for all of its names. As a change of
//!   owner does in Linux, it takes the capabilities of the file away; the entry may have others.

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
    with(header, kind, &Xattrs::default())
}

/// The attributes of `entry` after an entry for a hard link to it.
pub(super) fn linked(entry: &Entry, header: &Header) -> Attributes {
    let before = &entry.attributes;
    let mut attributes = with(header, entry.kind, &before.xattrs.without(CAPABILITY));
    if entry.kind == Kind::Symlink {
        attributes.mode = before.mode;
    }
    attributes
}

/// The attributes of the header, and of the extended ones `before` those that it does not have.
fn with(header: &Header, kind: Kind, before: &Xattrs) -> Attributes {
    let new = header.xattrs.iter();
    let new = new.map(|(name, value)| (&name[..], &value[..]));
    let new = new.filter(|(name, _)| is_taken(name, kind));
    let all = before.iter().chain(new);
    Attributes {
        mode: header.mode,
        uid: header.uid,
        gid: header.gid,
        mtime: time(header.mtime),
        xattrs: Xattrs::new(all.map(|(name, value)| (name.into(), value.into()))),
    }
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
