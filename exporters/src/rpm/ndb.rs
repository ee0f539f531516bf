//! rpm's own format, `Packages.db`.
//!
//! All numbers are little-endian. A header of 32 bytes says how many pages of 4,096 bytes the slots
//! take; slots of 16 bytes follow the header, each with the index of a package and where its blob
//! is, in units of 16 bytes. A blob has a header of 16 bytes that repeats the index and tells the
//! length.

use super::pages::little_u32;
use super::{DatabaseError, HEADER, Pages};

const MAGIC: u32 = u32::from_le_bytes(*b"RpmP");
const SLOT: u32 = u32::from_le_bytes(*b"Slot");
const BLOB: u32 = u32::from_le_bytes(*b"BlbS");

/// Bytes of a page of slots, of a slot, and the unit in which blobs are placed.
const PAGE: usize = 4096;
const UNIT: usize = 16;

pub(super) fn headers(
    mut file: Pages,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let header = file.bytes(0, 32)?;
    let field = |at| little_u32(&header, at).unwrap_or_default();
    if field(0) != MAGIC || field(4) != 0 {
        return Err(DatabaseError::Malformed("it is no database of rpm"));
    }
    let slots = usize::try_from(field(12))
        .ok()
        .and_then(|pages| pages.checked_mul(PAGE))
        .filter(|bytes| *bytes as u64 <= file.size())
        .ok_or(DatabaseError::Malformed("its slots are behind its end"))?;
    let slots = file.bytes(0, slots)?;
    // The header takes the place of two slots.
    for slot in slots.chunks_exact(UNIT).skip(2) {
        let field = |at| little_u32(slot, at).unwrap_or_default();
        if field(0) != SLOT {
            return Err(DatabaseError::Malformed("a slot is none"));
        }
        let (package, place) = (field(4), u64::from(field(8)) * UNIT as u64);
        if place == 0 {
            continue;
        }
        let blob = file.bytes(place, UNIT)?;
        let field = |at| little_u32(&blob, at).unwrap_or_default();
        let length = field(12);
        if field(0) != BLOB || field(4) != package {
            return Err(DatabaseError::Malformed("a blob is none"));
        }
        if u64::from(length) > HEADER {
            return Err(DatabaseError::Malformed("a header is too long"));
        }
        each(&file.bytes(place + UNIT as u64, length as usize)?)?;
    }
    Ok(())
}
