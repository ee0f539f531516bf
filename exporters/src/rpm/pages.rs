//! A file, read at checked offsets within a budget.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    /// It is not what its name promises.
    #[error("{0}")]
    Malformed(&'static str),
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[from] io::Error),
    /// The caller does not want more.
    #[error("{0}")]
    Stopped(#[from] Box<crate::sbom::ScanError>),
}

/// Bytes that may be read of a small file in any case.
const SLACK: u64 = 1 << 20;

/// A file of which at most twice its size is read.
#[derive(Debug)]
pub(super) struct Pages {
    file: File,
    size: u64,
    /// Bytes that may still be read.
    budget: u64,
}

impl Pages {
    pub(super) fn new(file: File) -> Result<Self, DatabaseError> {
        let size = file.metadata()?.len();
        Ok(Self {
            file,
            size,
            budget: size.saturating_mul(2).saturating_add(SLACK),
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), DatabaseError> {
        let length = buffer.len() as u64;
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.size) {
            return Err(DatabaseError::Malformed("an offset is behind its end"));
        }
        self.budget = self
            .budget
            .checked_sub(length)
            .ok_or(DatabaseError::Malformed("its parts overlap"))?;
        self.file.read_exact_at(buffer, offset)?;
        Ok(())
    }

    /// Bytes from `offset` on.
    pub(super) fn bytes(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, DatabaseError> {
        if length as u64 > self.size {
            return Err(DatabaseError::Malformed("a length is more than its size"));
        }
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// Numbers at an offset of a slice; `None` behind its end.
pub(super) fn big_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn big_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn little_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
