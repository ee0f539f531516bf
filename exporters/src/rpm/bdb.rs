//! Hash tables of Berkeley DB, the file `Packages`.
//!
//! Page 0 says that it is one, in which byte order, and how large pages are. Pages of the table have
//! entries from their end upwards, whose offsets stand in pairs of key and value behind the header
//! of 26 bytes. Headers of packages are on chains of overflow pages; the entry has the first page
//! and the length. The table has as many pages as the file: all are looked at in order.

use super::{DatabaseError, HEADER, Pages};

const MAGIC: u32 = 0x0006_1561;

/// Types of pages.
const HASH_UNSORTED: u8 = 2;
const OVERFLOW: u8 = 7;
const HASH: u8 = 13;

/// Types of entries: bytes, and a reference to overflow pages.
const DATA: u8 = 1;
const OFF_PAGE: u8 = 3;

/// The header of a page.
const PAGE: usize = 26;

const SHORT: DatabaseError = DatabaseError::Malformed("a page is too short");

pub(super) fn headers(
    file: Pages,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let mut table = Table::open(file)?;
    for number in 1..table.count {
        let page = table.page(number)?;
        if !matches!(page[25], HASH | HASH_UNSORTED) {
            continue;
        }
        let entries = usize::from(table.u16(&page, 20)?);
        let mut used = 0;
        // Keys have even places.
        for entry in (1..entries).step_by(2) {
            let key = usize::from(table.u16(&page, PAGE + 2 * (entry - 1))?);
            let at = usize::from(table.u16(&page, PAGE + 2 * entry)?);
            match *page.get(at).ok_or(SHORT)? {
                DATA => {
                    // It ends where its key begins.
                    let value = page.get(at + 1..key).ok_or(SHORT)?;
                    used += value.len();
                    if used > page.len() {
                        return Err(DatabaseError::Malformed("its entries overlap"));
                    }
                    // The entry of the key 0 is the highest number in use.
                    if value.len() > 4 {
                        each(value)?;
                    }
                }
                OFF_PAGE => {
                    let (first, length) = (table.u32(&page, at + 4)?, table.u32(&page, at + 8)?);
                    each(&table.chain(first, length)?)?;
                }
                _ => return Err(DatabaseError::Malformed("an entry is of no known type")),
            }
        }
    }
    Ok(())
}

struct Table {
    file: Pages,
    page_size: usize,
    big_endian: bool,
    /// Pages of the file.
    count: u32,
}

impl Table {
    fn open(mut file: Pages) -> Result<Self, DatabaseError> {
        let header = file.bytes(0, 72)?;
        let magic: [u8; 4] = *header[12..].first_chunk().ok_or(SHORT)?;
        let big_endian = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (MAGIC, _) => false,
            (_, MAGIC) => true,
            _ => {
                return Err(DatabaseError::Malformed(
                    "it is no hash table of Berkeley DB",
                ));
            }
        };
        let mut table = Self {
            file,
            page_size: 0,
            big_endian,
            count: 0,
        };
        let page_size = table.u32(&header, 20)?;
        if !page_size.is_power_of_two() || !(512..=65_536).contains(&page_size) {
            return Err(DatabaseError::Malformed("its pages have no valid size"));
        }
        if header[24] != 0 {
            return Err(DatabaseError::Malformed("it is encrypted"));
        }
        table.page_size = page_size as usize;
        table.count = u32::try_from(table.file.size() / u64::from(page_size))
            .map_err(|_| DatabaseError::Malformed("it has too many pages"))?;
        Ok(table)
    }

    fn u16(&self, bytes: &[u8], at: usize) -> Result<u16, DatabaseError> {
        let bytes: [u8; 2] = *bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(SHORT)?;
        Ok(match self.big_endian {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        })
    }

    fn u32(&self, bytes: &[u8], at: usize) -> Result<u32, DatabaseError> {
        let bytes: [u8; 4] = *bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(SHORT)?;
        Ok(match self.big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    fn page(&mut self, number: u32) -> Result<Vec<u8>, DatabaseError> {
        if number >= self.count {
            return Err(DatabaseError::Malformed(
                "it has no page of a number it uses",
            ));
        }
        let offset = u64::from(number) * self.page_size as u64;
        self.file.bytes(offset, self.page_size)
    }

    /// The bytes on a chain of overflow pages.
    fn chain(&mut self, first: u32, length: u32) -> Result<Vec<u8>, DatabaseError> {
        if u64::from(length) > HEADER {
            return Err(DatabaseError::Malformed("a header is too long"));
        }
        let mut bytes = Vec::new();
        let mut next = first;
        while bytes.len() < length as usize {
            let page = self.page(next)?;
            // Of such a page it is the number of bytes.
            let used = usize::from(self.u16(&page, 22)?);
            if page[25] != OVERFLOW || used == 0 {
                return Err(DatabaseError::Malformed("a page is none of a chain"));
            }
            bytes.extend_from_slice(page.get(PAGE..PAGE + used).ok_or(SHORT)?);
            next = self.u32(&page, 16)?;
        }
        bytes.truncate(length as usize);
        Ok(bytes)
    }
}
