//! Following an archive that passes by.

use std::io;

use super::block::Block;
use super::{BLOCK, Header, MAX_METADATA, TarError, TarKind, TarReader};

/// What the next bytes of an archive are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the parts of the format")]
pub enum TarPart {
    /// Headers; the entry they are about is not complete yet.
    Head,
    /// The end of the headers of an entry.
    Entry(Box<Header>),
    /// Bytes of a file.
    Data,
    /// Padding, or what follows the last entry.
    Filler,
}

/// Tells what the bytes of an archive are while they are pushed through, where a
/// [`TarReader`](super::TarReader) would pull them. Sparse files are refused.
///
/// ```
/// use ashlar_solver::tree::tar::{TarPart, TarScanner};
///
/// let mut scanner = TarScanner::new();
/// // The end of an archive.
/// let (length, part) = scanner.next(&[0; 1024])?;
/// assert_eq!((length, part), (512, TarPart::Filler));
/// # Ok::<(), ashlar_solver::tree::tar::TarError>(())
/// ```
#[derive(Debug, Default)]
pub struct TarScanner {
    /// The headers of the next entry, so far.
    head: Vec<u8>,
    /// Bytes of a header about the next entry that are missing, padding included.
    metadata: u64,
    /// Bytes of the current file that are missing, and of its padding.
    data: u64,
    padding: u64,
    ended: bool,
    offset: u64,
}

impl TarScanner {
    /// At the start of an archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// What `bytes` start with, and how many of them that is: at least one, unless there are none.
    /// The next call takes up behind them.
    ///
    /// # Errors
    /// [`TarError`]; the scanner is of no use after one.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, TarPart), TarError> {
        if self.ended {
            return Ok((bytes.len(), TarPart::Filler));
        }
        for (left, part) in [
            (&mut self.data, TarPart::Data),
            (&mut self.padding, TarPart::Filler),
        ] {
            if *left > 0 {
                let length = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                *left -= length as u64;
                self.offset += length as u64;
                return Ok((length, part));
            }
        }
        self.head(bytes)
    }

    /// Whether the archive may end here.
    pub fn complete(&self) -> bool {
        self.ended || (self.head.is_empty() && self.data == 0)
    }

    fn head(&mut self, bytes: &[u8]) -> Result<(usize, TarPart), TarError> {
        if self.metadata > 0 {
            let length = usize::try_from(self.metadata).map_or(bytes.len(), |n| n.min(bytes.len()));
            self.keep(&bytes[..length]);
            self.metadata -= length as u64;
            return Ok((length, TarPart::Head));
        }
        // What is kept otherwise ends with a part of a block.
        let partial = self.head.len() % BLOCK;
        let length = (BLOCK - partial).min(bytes.len());
        self.keep(&bytes[..length]);
        if partial + length < BLOCK {
            return Ok((length, TarPart::Head));
        }
        let start = self.head.len() - BLOCK;
        let mut block = [0; BLOCK];
        block.copy_from_slice(&self.head[start..]);
        let block = Block(&block);
        if block.is_zero() && start == 0 {
            self.head.clear();
            self.ended = true;
            return Ok((length, TarPart::Filler));
        }
        if matches!(block.kind(), b'x' | b'g' | b'L' | b'K') && block.checksum_holds() {
            let size = block.size().ok().and_then(|size| u64::try_from(size).ok());
            // One byte more than the reader takes is as good as all of them.
            let size = size.unwrap_or(0).min(MAX_METADATA + 1);
            self.metadata = size.next_multiple_of(BLOCK as u64);
            if self.head.len() as u64 + self.metadata <= 4 * MAX_METADATA {
                return Ok((length, TarPart::Head));
            }
        }
        let header = self.entry()?;
        self.head.clear();
        Ok((length, TarPart::Entry(Box::new(header))))
    }

    /// Reads the headers that were kept.
    fn entry(&mut self) -> Result<Header, TarError> {
        let offset = self.offset - self.head.len() as u64;
        let sparse = TarError::Unsupported {
            offset,
            feature: "a sparse file",
        };
        let mut reader = TarReader::with_buffer(&self.head[..], BLOCK);
        let header = match reader.next_entry() {
            Ok(Some(header)) => header,
            // Maps of sparse files follow the header.
            Err(TarError::Truncated { .. }) => return Err(sparse),
            Ok(None) => {
                let problem = "a block of zeros is in the middle of the archive";
                return Err(TarError::Malformed { offset, problem });
            }
            Err(TarError::Malformed {
                problem,
                offset: at,
            }) => {
                let offset = offset + at;
                return Err(TarError::Malformed { offset, problem });
            }
            Err(TarError::Unsupported {
                feature,
                offset: at,
            }) => {
                let offset = offset + at;
                return Err(TarError::Unsupported { offset, feature });
            }
            Err(error @ TarError::Read { .. }) => return Err(error),
        };
        if header.sparse {
            return Err(sparse);
        }
        if header.kind == TarKind::File {
            self.data = header.size;
            self.padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
        }
        Ok(header)
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.head.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
    }
}

/// Checks an archive as it passes: [`io::ErrorKind::InvalidData`] with a [`TarError`] inside.
impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Read { source } => source,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Timestamp;
    use crate::tree::entry::Device;
    use crate::tree::tar::{TarFormat, TarWriter};

    fn file(name: &str, size: u64) -> Header {
        Header {
            path: name.as_bytes().to_vec(),
            kind: TarKind::File,
            link: Vec::new(),
            mode: 0o644,
            uid: 1,
            gid: 2,
            size,
            mtime: Timestamp {
                seconds: 1_650_000_000,
                nanoseconds: 5,
            },
            device: Device::default(),
            xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
            sparse: false,
        }
    }

    /// An archive, and the entries in it with their bytes.
    fn archive() -> (Vec<u8>, Vec<(Header, Vec<u8>)>) {
        let (mut bytes, mut entries) = (Vec::new(), Vec::new());
        let mut tar = TarWriter::new(&mut bytes);
        for (at, size) in [0_u8, 1, 200].into_iter().zip([0, 511, 3000]) {
            let name = format!("{}/{at}", "long".repeat(usize::from(at)));
            let (header, data) = (file(&name, size), vec![at; usize::try_from(size).unwrap()]);
            tar.header(&header, TarFormat::Pax).unwrap();
            tar.data(&data).unwrap();
            entries.push((header, data));
        }
        tar.finish().unwrap();
        (bytes, entries)
    }

    fn scan(bytes: &[u8], step: usize) -> Result<Vec<(Header, Vec<u8>)>, TarError> {
        let mut scanner = TarScanner::new();
        let mut found: Vec<(Header, Vec<u8>)> = Vec::new();
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                let (length, part) = scanner.next(piece)?;
                assert!(length > 0);
                match part {
                    TarPart::Entry(header) => found.push((*header, Vec::new())),
                    TarPart::Data => {
                        let last = found.last_mut().unwrap();
                        last.1.extend_from_slice(&piece[..length]);
                    }
                    TarPart::Head | TarPart::Filler => {}
                }
                piece = &piece[length..];
            }
        }
        assert!(scanner.complete());
        Ok(found)
    }

    #[test]
    fn whatever_the_pieces_the_entries_are_found() {
        let (bytes, entries) = archive();
        for step in [1, 7, 511, 512, 513, 100_000] {
            assert_eq!(scan(&bytes, step).unwrap(), entries, "{step}");
        }
        // What follows an archive is not looked at.
        let more = [&bytes[..], &[7; 2000]].concat();
        assert_eq!(scan(&more, 100).unwrap(), entries);
    }

    #[test]
    fn class_12_headers_without_end_are_refused() {
        let mut scanner = TarScanner::new();
        let mut header = archive().0[..512].to_vec();
        assert_eq!(header[156], b'x');
        header[124..136].copy_from_slice(b"77777777777\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = 0;
        let result = loop {
            match scanner.next(&header) {
                Ok((length, _)) => bytes += length,
                Err(error) => break error,
            }
            assert!(bytes < 8 << 20);
        };
        assert!(matches!(result, TarError::Malformed { .. }), "{result}");
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let (bytes, _) = archive();
        let mut scanner = TarScanner::new();
        let mut piece = &bytes[..700];
        while !piece.is_empty() {
            let (length, _) = scanner.next(piece).unwrap();
            piece = &piece[length..];
        }
        assert!(!scanner.complete());
    }
}
