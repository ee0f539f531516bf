//! The table of contents of an eStargz layer.

use std::collections::BTreeMap;
use std::io;

use ashlar_llb::BlobDigest;
use ashlar_solver::tree::Timestamp;
use ashlar_solver::tree::tar::{Header, TarFormat, TarKind, TarWriter};
use base64::Engine as _;
use serde::Serialize;

use super::estargz::{TABLE, plain};

/// The most bytes of a table, as counted while it grows: a few million files.
const LIMIT: usize = 512 << 20;

/// What the table says of a file, or of one more chunk of it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) size: u64,
    #[serde(skip_serializing_if = "String::is_empty", rename = "modtime")]
    time: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    dev_minor: u64,
    /// The values in base 64.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) chunk_digest: Option<String>,
    /// The block and the member in it that hold the bytes.
    #[serde(skip)]
    pub(super) place: Option<(u64, usize)>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An error of a layer that cannot be made into eStargz.
pub(super) fn unsupported(problem: &str) -> io::Error {
    let text = format!("the layer cannot be made into eStargz: {problem}");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// A name as JSON can hold it.
fn text(bytes: &[u8]) -> io::Result<String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned)
        .map_err(|_| unsupported("a name in it is not UTF-8"))
}

impl Entry {
    pub(super) fn of(header: &Header) -> io::Result<Self> {
        let mut entry = Self {
            name: text(&header.path)?,
            kind: match header.kind {
                TarKind::File => "reg",
                TarKind::HardLink => "hardlink",
                TarKind::Symlink => "symlink",
                TarKind::CharDevice => "char",
                TarKind::BlockDevice => "block",
                TarKind::Directory => "dir",
                TarKind::Fifo => "fifo",
            },
            size: match header.kind {
                TarKind::File => header.size,
                _ => 0,
            },
            link_name: text(&header.link)?,
            mode: header.mode.into(),
            uid: header.uid.into(),
            gid: header.gid.into(),
            dev_major: header.device.major.into(),
            dev_minor: header.device.minor.into(),
            ..Self::default()
        };
        let seconds = Timestamp {
            nanoseconds: 0,
            ..header.mtime
        };
        if seconds != Timestamp::default() {
            entry.time = seconds.to_string();
        }
        for (name, value) in &header.xattrs {
            let value = base64::engine::general_purpose::STANDARD.encode(value);
            entry.xattrs.insert(text(name)?, value);
        }
        Ok(entry)
    }

    /// One more chunk of the file `name`.
    pub(super) fn chunk(name: String, offset: u64) -> Self {
        Self {
            name,
            kind: "chunk",
            chunk_offset: offset,
            ..Self::default()
        }
    }

    /// Whether it has this name, however that is written.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let parts = self.name.split('/');
        let mut parts = parts.filter(|part| !matches!(*part, "" | "."));
        parts.next() == Some(name) && parts.next().is_none()
    }

    /// About as many bytes as it has in the table and in memory.
    fn weight(&self) -> usize {
        let xattrs = self.xattrs.iter();
        let xattrs: usize = xattrs
            .map(|(name, value)| written(name) + value.len())
            .sum();
        400 + written(&self.name) + written(&self.link_name) + xattrs
    }
}

/// Bytes of a text in JSON, at most.
fn written(text: &str) -> usize {
    let bytes = text.bytes();
    bytes
        .map(|byte| match byte {
            0..0x20 | 0x7f => 6,
            b'"' | b'\\' => 2,
            _ => 1,
        })
        .sum()
}

/// The table while it grows.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    weight: usize,
}

/// A table as it is written.
pub(super) struct Table {
    /// As the one entry of a tar.
    pub(super) tar: Vec<u8>,
    /// The digest of the file in there.
    pub(super) digest: BlobDigest,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u8,
    entries: &'a [Entry],
}

impl Contents {
    /// Adds an entry, and returns its number.
    pub(super) fn add(&mut self, entry: Entry) -> io::Result<usize> {
        self.weight += entry.weight();
        if self.weight > LIMIT {
            return Err(unsupported("its table of contents would be too large"));
        }
        self.entries.push(entry);
        Ok(self.entries.len() - 1)
    }

    /// Writes the table. `members`: where the members of each block begin in the blob.
    pub(super) fn write(mut self, members: &[Vec<u64>]) -> io::Result<Table> {
        for entry in &mut self.entries {
            let Some((block, member)) = entry.place else {
                continue;
            };
            let block = usize::try_from(block).ok().and_then(|at| members.get(at));
            let offset = block.and_then(|block| block.get(member)).copied();
            entry.offset = offset.expect("BUG: a file is in a member");
        }
        let json = serde_json::to_vec(&Document {
            version: 1,
            entries: &self.entries,
        })?;
        let mut tar = Vec::with_capacity(json.len() + 2048);
        let mut writer = TarWriter::new(&mut tar);
        writer.header(&plain(TABLE, json.len() as u64), TarFormat::Any)?;
        writer.data(&json)?;
        writer.finish()?;
        Ok(Table {
            tar,
            digest: BlobDigest::of(&json),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_12_an_entry_weighs_at_least_what_is_written_of_it() {
        for name in ["plain", "\u{1}\u{2}\u{3}", "\"\\\"", "ä\u{7f}\u{1f}\n"] {
            let name = name.repeat(1000);
            let mut header = plain(&name, u64::MAX);
            header.link = name.clone().into();
            header.xattrs = vec![(name.into(), vec![0xff; 1000])];
            let entry = Entry::of(&header).unwrap();
            let text = serde_json::to_vec(&entry).unwrap();
            assert!(entry.weight() >= text.len(), "{}", text.len());
        }
    }
}
