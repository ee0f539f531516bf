//! The header of a package: numbered fields.
//!
//! All numbers are big-endian. Two of them tell how many fields there are and how many bytes they
//! take; each field has a number, a type, an offset and a count.

use std::collections::HashSet;

use super::DatabaseError;
use super::pages::{big_u16, big_u32};

/// Most fields of a header, as in rpm.
const FIELDS: u32 = 0xffff;

/// Most files of one package. Larger counts come from no package.
const FILES: u32 = 1_000_000;

const STRING: u32 = 6;
const STRINGS: u32 = 8;
const TRANSLATED: u32 = 9;
const INT16: u32 = 3;
const INT32: u32 = 4;

const SHORT: DatabaseError = DatabaseError::Malformed("a header is too short");

/// What is read of a header.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) version: &'a [u8],
    pub(crate) release: &'a [u8],
    pub(crate) epoch: Option<u32>,
    pub(crate) architecture: &'a [u8],
    pub(crate) license: &'a [u8],
    pub(crate) vendor: &'a [u8],
    pub(crate) address: &'a [u8],
    pub(crate) summary: &'a [u8],
    pub(crate) source: &'a [u8],
    directories: Vec<&'a [u8]>,
    names: Vec<&'a [u8]>,
    places: Vec<u32>,
}

impl<'a> Header<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DatabaseError> {
        let fields = big_u32(bytes, 0).ok_or(SHORT)?;
        let length = big_u32(bytes, 4).ok_or(SHORT)?;
        if fields > FIELDS {
            return Err(DatabaseError::Malformed("a header has too many fields"));
        }
        let start = 8 + 16 * fields as usize;
        let data = bytes.get(start..).ok_or(SHORT)?;
        let data = data.get(..length as usize).ok_or(SHORT)?;
        let mut header = Self::default();
        let mut seen = HashSet::new();
        for field in bytes[8..start].chunks_exact(16) {
            let word = |at| big_u32(field, at).unwrap_or_default();
            let (tag, kind, count) = (word(0), word(4), word(12));
            // Regions have offsets of their own kind; none of their tags is read.
            let Some(data) = data.get(word(8) as usize..) else {
                continue;
            };
            // The first of a tag counts: lists that overlap cannot be read over and over.
            if !seen.insert(tag) {
                continue;
            }
            let text = || string(data, kind);
            match tag {
                1000 => header.name = text()?,
                1001 => header.version = text()?,
                1002 => header.release = text()?,
                1003 if kind == INT32 => header.epoch = big_u32(data, 0),
                1004 => header.summary = text()?,
                1011 => header.vendor = text()?,
                1014 => header.license = text()?,
                1020 => header.address = text()?,
                1022 => header.architecture = text()?,
                1044 => header.source = text()?,
                1116 => header.places = numbers(data, kind, count)?,
                1117 => header.names = strings(data, kind, count)?,
                1118 => header.directories = strings(data, kind, count)?,
                _ => {}
            }
        }
        Ok(header)
    }

    /// The paths of the package's files and directories.
    pub(crate) fn files(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.names
            .iter()
            .zip(&self.places)
            .filter_map(|(name, place)| {
                let directory = self.directories.get(*place as usize)?;
                Some([directory, *name].concat())
            })
    }
}

/// A string; of a list or of translations the first.
fn string(data: &[u8], kind: u32) -> Result<&[u8], DatabaseError> {
    match kind {
        STRING | STRINGS | TRANSLATED => {
            let end = data.iter().position(|&byte| byte == 0).ok_or(SHORT)?;
            Ok(&data[..end])
        }
        _ => Ok(&[]),
    }
}

fn strings(data: &[u8], kind: u32, count: u32) -> Result<Vec<&[u8]>, DatabaseError> {
    if kind != STRINGS {
        return Ok(Vec::new());
    }
    // Each takes one byte at least.
    if count > FILES || count as usize > data.len() {
        return Err(DatabaseError::Malformed("a header has too many files"));
    }
    let mut rest = data;
    let mut all = Vec::new();
    for _ in 0..count {
        let text = string(rest, STRING)?;
        rest = &rest[text.len() + 1..];
        all.push(text);
    }
    Ok(all)
}

fn numbers(data: &[u8], kind: u32, count: u32) -> Result<Vec<u32>, DatabaseError> {
    if count > FILES {
        return Err(DatabaseError::Malformed("a header has too many files"));
    }
    let count = count as usize;
    let all: Option<Vec<u32>> = match kind {
        INT32 if count * 4 <= data.len() => (0..count).map(|at| big_u32(data, 4 * at)).collect(),
        INT16 if count * 2 <= data.len() => (0..count)
            .map(|at| big_u16(data, 2 * at).map(u32::from))
            .collect(),
        _ => None,
    };
    all.ok_or(SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of these fields: tag, type, count, bytes.
    fn header(fields: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let mut index = Vec::new();
        let mut data: Vec<u8> = Vec::new();
        for (tag, kind, count, bytes) in fields {
            let offset = u32::try_from(data.len()).unwrap();
            for word in [*tag, *kind, offset, *count] {
                index.extend(word.to_be_bytes());
            }
            data.extend(*bytes);
        }
        let mut all = Vec::new();
        all.extend(u32::try_from(fields.len()).unwrap().to_be_bytes());
        all.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        all.extend(index);
        all.extend(data);
        all
    }

    #[test]
    fn fields_and_files() {
        let bytes = header(&[
            (1000, STRING, 1, b"bash\0"),
            (1003, INT32, 1, &[0, 0, 0, 2]),
            (1004, TRANSLATED, 2, b"first\0second\0"),
            (1118, STRINGS, 2, b"/usr/bin/\0/etc/\0"),
            (1117, STRINGS, 2, b"bash\0bashrc\0"),
            (1116, INT32, 2, &[0, 0, 0, 0, 0, 0, 0, 1]),
        ]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.name, b"bash");
        assert_eq!(header.epoch, Some(2));
        assert_eq!(header.summary, b"first");
        let files: Vec<_> = header.files().collect();
        assert_eq!(files, [b"/usr/bin/bash".to_vec(), b"/etc/bashrc".to_vec()]);
    }

    #[test]
    fn class_12_lists_are_read_once() {
        let names = b"a\0b\0";
        let bytes = header(&[
            (1000, STRING, 1, b"first\0"),
            (1000, STRING, 1, b"second\0"),
            (1117, STRINGS, 2, names),
            (1117, STRINGS, 1, names),
        ]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.name, b"first");
        assert_eq!(header.names, [b"a", b"b"]);
    }

    #[test]
    fn class_12_counts_that_lie() {
        for bytes in [
            header(&[(1117, STRINGS, u32::MAX, b"a\0")]),
            header(&[(1117, STRINGS, 3, b"a\0")]),
            header(&[(1116, INT32, 999_999, &[0; 4])]),
            header(&[(1000, STRING, 1, b"never ends")]),
            [0xff; 64].to_vec(),
            vec![0, 0, 0, 1],
            Vec::new(),
        ] {
            assert!(Header::parse(&bytes).is_err());
        }
        // An offset behind the end is a field that is not there.
        let mut bytes = header(&[(1000, STRING, 1, b"x\0")]);
        bytes[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Header::parse(&bytes).unwrap().name, b"");
    }
}
