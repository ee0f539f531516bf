//! Files with holes.

use super::block::number;
use super::pax::decimal;

/// The parts of a file that have data, and the size of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    /// Offset and length, in order, not overlapping.
    pub(super) parts: Vec<(u64, u64)>,
    pub(super) size: u64,
}

impl SparseMap {
    /// Checks a map against the bytes of data that the archive has for it.
    pub(super) fn new(
        parts: Vec<(u64, u64)>,
        size: u64,
        stored: u64,
    ) -> Result<Self, &'static str> {
        let mut end = 0_u64;
        let mut sum = 0_u64;
        for &(offset, length) in &parts {
            if offset < end {
                return Err("the parts of a sparse file overlap");
            }
            end = offset
                .checked_add(length)
                .ok_or("a sparse file is too large")?;
            sum += length;
        }
        if end > size {
            return Err("a part of a sparse file is behind its end");
        }
        if sum != stored {
            return Err("a sparse file has not the data that its map tells");
        }
        if i64::try_from(size).is_err() {
            return Err("a sparse file is too large");
        }
        Ok(Self { parts, size })
    }
}

/// Reads offsets and lengths out of the fields of an old GNU header or of one of the blocks that
/// follow it.
pub(super) fn old_gnu(fields: &[u8], parts: &mut Vec<(u64, u64)>) -> Result<(), &'static str> {
    const BAD: &str = "the map of a sparse file is malformed";
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        let offset = number(&field[..12]).map_err(|_| BAD)?;
        let length = number(&field[12..]).map_err(|_| BAD)?;
        parts.push((
            u64::try_from(offset).map_err(|_| BAD)?,
            u64::try_from(length).map_err(|_| BAD)?,
        ));
    }
    Ok(())
}

/// Takes the numbers of a map in pairs.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, &'static str> {
    if !numbers.len().is_multiple_of(2) {
        return Err("the map of a sparse file is malformed");
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

/// Reads the map that version 1.0 stores before the data: lines of decimal numbers, the first the
/// number of parts. `None` if `text` ends before the map does.
pub(super) fn lines(text: &[u8]) -> Result<Option<Vec<(u64, u64)>>, &'static str> {
    const BAD: &str = "the map of a sparse file is malformed";
    let mut rest = text;
    let mut next = || -> Result<Option<u64>, &'static str> {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return if rest.len() > 20 { Err(BAD) } else { Ok(None) };
        };
        let value = decimal(&rest[..end]).ok_or(BAD)?;
        rest = &rest[end + 1..];
        Ok(Some(value))
    };
    let Some(count) = next()? else {
        return Ok(None);
    };
    let mut parts = Vec::new();
    for _ in 0..count {
        let (Some(offset), Some(length)) = (next()?, next()?) else {
            return Ok(None);
        };
        parts.push((offset, length));
    }
    Ok(Some(parts))
}
