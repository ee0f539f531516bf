//! File trees as data: what a layer contains, what a stack of layers looks like, and what both
//! mean for checksums, diffs and archives.
//!
//! Owns [`Entry`] (one file system object without its bytes), [`Index`] (the entries of one
//! layer), [`View`] (the merged tree of a stack, in memory) and everything computed from them.
//!
//! Invariants:
//! - **Inodes serve the kernel only.** Owners, modes, devices, times and extended attributes are
//!   those of the entries; the inodes of the store may differ where the user may not set them.
//! - **A [`TreePath`] never leaves its tree**: it has no `..`, no `.` and no empty component.
//! - **A [`View`] never changes.** Edits make a new view that shares what did not change.
//!
//! Leaves to others: where layers are stored and how they are stacked and mounted (`snapshot`).

pub mod apply;
pub mod capture;
pub mod checksum;
pub mod diff;
pub mod entry;
pub mod files;
pub mod index;
pub mod pack;
pub mod path;
pub mod room;
pub mod tar;
pub mod view;
pub(crate) mod whiteout;
pub mod writer;

pub use crate::clock::{ParseTimestampError, Timestamp};
pub use entry::{Attributes, Entry, Kind, Xattrs};
pub use files::{Files, Opener};
pub use index::Index;
pub use path::TreePath;
pub use room::{Lent, Room};
pub use view::{Node, View};
pub use writer::{CopyItem, LayerWriter, WriteError, WriterOptions};
