//! What is remembered of content, so that a later change can be told by its paths.
//!
//! Owns [`ContentListing`], a summary of what an op saw of an input: names with checksums, of large
//! directories one checksum for all below. It is stored under the content key when the op has run.
//! It decides nothing: whether something changed is told by the keys, a listing says where.

use std::fmt;

/// Entries of a listing. Larger directories are not listed file by file.
pub const MOST_ENTRIES: usize = 1000;

/// Paths that are told of a change; of more only the number.
pub const MOST_CHANGES: usize = 100;

const MAGIC: &[u8] = b"ashlar listing 1\n";

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "what is stored of an entry")]
pub struct ListedEntry {
    /// Which of the parts of the input that the op looks at, in the op's order.
    pub part: u8,
    /// Where, from the top of that part; empty for the top.
    pub path: Box<[u8]>,
    /// Whether the checksum is of a directory and all below it, which is not listed then.
    pub whole: bool,
    /// The first bytes of the checksum.
    pub digest: [u8; 8],
}

/// A summary of content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::exhaustive_structs, reason = "a list of entries")]
pub struct ContentListing {
    /// The entries, a directory before what is in it.
    pub entries: Vec<ListedEntry>,
}

impl ContentListing {
    /// The bytes that are stored:
    ///
    /// ```text
    /// "ashlar listing 1\n" { part:u8 whole:u8 digest:8 length:u16 path }*
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for entry in &self.entries {
            // A path that is longer is none that a tree has.
            let length = u16::try_from(entry.path.len()).unwrap_or(u16::MAX);
            bytes.extend([entry.part, u8::from(entry.whole)]);
            bytes.extend(entry.digest);
            bytes.extend(length.to_le_bytes());
            bytes.extend(&entry.path[..length.into()]);
        }
        bytes
    }

    /// Reads what was stored; `None` if it is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (&[part, whole], after) = rest.split_first_chunk()?;
            let (&digest, after) = after.split_first_chunk()?;
            let (&length, after) = after.split_first_chunk()?;
            let (path, after) = after.split_at_checked(u16::from_le_bytes(length).into())?;
            entries.push(ListedEntry {
                part,
                path: path.into(),
                whole: whole == 1,
                digest,
            });
            rest = after;
        }
        Some(Self { entries })
    }
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// It was not there.
    Added,
    /// It is not there any more, and what was below it neither.
    Removed,
    /// Its bytes or attributes are others. Of a large directory: something below it.
    Changed,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a path and what became of it")]
pub struct PathChange {
    /// Where, from the root of the input. Names need not be UTF-8.
    pub path: Box<[u8]>,
    /// What became of it.
    pub change: Change,
}

impl fmt::Display for PathChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = String::from_utf8_lossy(&self.path);
        let path = path.escape_debug();
        match self.change {
            Change::Added => write!(f, "{path} was added"),
            Change::Removed => write!(f, "{path} was removed"),
            Change::Changed => write!(f, "{path} changed"),
        }
    }
}

/// How content differs from what it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ContentChanges {
    /// The paths, at most [`MOST_CHANGES`].
    pub paths: Vec<PathChange>,
    /// How many more there are.
    pub more: usize,
}

impl ContentChanges {
    /// These paths and no more.
    pub fn of(paths: Vec<PathChange>) -> Self {
        Self { paths, more: 0 }
    }

    /// Adds a path, or counts it.
    pub fn push(&mut self, path: impl Into<Box<[u8]>>, change: Change) {
        if self.paths.len() < MOST_CHANGES {
            let path = path.into();
            self.paths.push(PathChange { path, change });
        } else {
            self.more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_read_what_they_write() {
        let entry = |path: &[u8], whole| ListedEntry {
            part: 3,
            path: path.into(),
            whole,
            digest: *b"12345678",
        };
        let listing = ContentListing {
            entries: vec![entry(b"", false), entry(b"a/\xff", true)],
        };
        let bytes = listing.encode();
        assert_eq!(ContentListing::decode(&bytes), Some(listing));
        for length in 0..bytes.len() {
            let read = ContentListing::decode(&bytes[..length]);
            assert!(read.is_none_or(|read| read.entries.len() < 2), "{length}");
        }
    }

    #[test]
    fn paths_are_shown_on_one_line() {
        let change = Change::Added;
        let path = b"/a\n\x1b[31m\xff".as_slice().into();
        let shown = PathChange { path, change }.to_string();
        assert_eq!(shown, "/a\\n\\u{1b}[31m\u{fffd} was added");
    }
}
