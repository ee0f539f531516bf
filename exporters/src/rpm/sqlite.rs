//! SQLite files, as far as the table `Packages` of rpm needs it.
//!
//! The [file format](https://sqlite.org/fileformat2.html): page 1 begins with a header of 100 bytes
//! and holds the table of all tables. A table is a tree of pages; a row that is larger than a page
//! goes on in a chain of others. Pages of a write-ahead log replace those of the file.

use std::fs::File;

use super::pages::{big_u16, big_u32};
use super::wal::Log;
use super::{DatabaseError, HEADER, Pages};

const MAGIC: &[u8] = b"SQLite format 3\0";

/// Largest row of the table of tables that is read.
const SCHEMA_ROW: u64 = 1 << 20;

const SHORT: DatabaseError = DatabaseError::Malformed("a page is too short");

pub(super) fn headers(
    pages: Pages,
    log: Option<File>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
) -> Result<(), DatabaseError> {
    let mut database = Database::open(pages, log)?;
    let mut root = None;
    database.rows(1, SCHEMA_ROW, &mut |row| {
        let columns = columns(row).ok_or(SHORT)?;
        if let [
            Column::Bytes(b"table"),
            Column::Bytes(b"Packages"),
            _,
            Column::Number(page),
            ..,
        ] = columns[..]
        {
            root = u32::try_from(page).ok();
        }
        Ok(())
    })?;
    let root = root.ok_or(DatabaseError::Malformed("there is no table of packages"))?;
    database.rows(
        root,
        HEADER,
        &mut |row| match columns(row).ok_or(SHORT)?[..] {
            [_, Column::Bytes(header), ..] => each(header),
            _ => Err(DatabaseError::Malformed("a row has no header")),
        },
    )
}

struct Database {
    pages: Pages,
    log: Option<Log>,
    page_size: usize,
    /// Bytes of a page that are in use.
    usable: usize,
    /// Pages of the file, and of what the log makes of it.
    count: u32,
}

impl Database {
    fn open(mut pages: Pages, log: Option<File>) -> Result<Self, DatabaseError> {
        let header = pages.bytes(0, 100)?;
        if !header.starts_with(MAGIC) {
            return Err(DatabaseError::Malformed("it is no SQLite file"));
        }
        let page_size = match big_u16(&header, 16) {
            Some(1) => 65_536,
            Some(size) if size >= 512 && size.is_power_of_two() => usize::from(size),
            _ => return Err(DatabaseError::Malformed("its pages have no valid size")),
        };
        let usable = page_size - usize::from(header[20]);
        if usable < 480 {
            return Err(DatabaseError::Malformed("its pages have no room"));
        }
        let log = log
            .map(|log| Log::open(log, page_size))
            .transpose()?
            .flatten();
        let in_file = u32::try_from(pages.size() / page_size as u64)
            .map_err(|_| DatabaseError::Malformed("it has too many pages"))?;
        let count = log.as_ref().map_or(in_file, |log| log.pages(in_file));
        Ok(Self {
            pages,
            log,
            page_size,
            usable,
            count,
        })
    }

    /// Page `number`, from 1.
    fn page(&mut self, number: u32) -> Result<Vec<u8>, DatabaseError> {
        if number == 0 || number > self.count {
            return Err(DatabaseError::Malformed(
                "it has no page of a number it uses",
            ));
        }
        if let Some(page) = self
            .log
            .as_mut()
            .map(|log| log.page(number))
            .transpose()?
            .flatten()
        {
            return Ok(page);
        }
        let offset = u64::from(number - 1) * self.page_size as u64;
        self.pages.bytes(offset, self.page_size)
    }

    /// Calls `each` with the rows of a table, each at most `most` bytes.
    fn rows(
        &mut self,
        root: u32,
        most: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), DatabaseError>,
    ) -> Result<(), DatabaseError> {
        // The budget of the file ends a tree that leads back to itself, too; this tells what it is.
        let mut seen = vec![false; self.count as usize + 1];
        let mut todo = vec![root];
        while let Some(number) = todo.pop() {
            let page = self.page(number)?;
            if std::mem::replace(&mut seen[number as usize], true) {
                return Err(DatabaseError::Malformed("its pages are no tree"));
            }
            let start = if number == 1 { 100 } else { 0 };
            let cells = usize::from(big_u16(&page, start + 3).ok_or(SHORT)?);
            let (interior, first) = match page.get(start) {
                Some(5) => (true, start + 12),
                Some(13) => (false, start + 8),
                _ => return Err(DatabaseError::Malformed("a page is none of a table")),
            };
            let mut children = Vec::new();
            let mut used = 0;
            for cell in 0..cells {
                let at = usize::from(big_u16(&page, first + 2 * cell).ok_or(SHORT)?);
                if interior {
                    children.push(big_u32(&page, at).ok_or(SHORT)?);
                } else {
                    let (row, here) = self.row(&page, at, most)?;
                    used += here;
                    if used > page.len() {
                        return Err(DatabaseError::Malformed("its rows overlap"));
                    }
                    each(&row)?;
                }
            }
            if interior {
                children.push(big_u32(&page, start + 8).ok_or(SHORT)?);
                if todo.len() + children.len() > seen.len() {
                    return Err(DatabaseError::Malformed("its pages are no tree"));
                }
                todo.extend(children.into_iter().rev());
            }
        }
        Ok(())
    }

    /// The row whose cell is at `at` of a page, and how much of it is in the page.
    fn row(
        &mut self,
        page: &[u8],
        at: usize,
        most: u64,
    ) -> Result<(Vec<u8>, usize), DatabaseError> {
        let (length, used) = varint(page.get(at..).ok_or(SHORT)?).ok_or(SHORT)?;
        let at = at + used;
        let (_row_id, used) = varint(page.get(at..).ok_or(SHORT)?).ok_or(SHORT)?;
        let at = at + used;
        if length > most {
            return Err(DatabaseError::Malformed("a row is too long"));
        }
        let length = usize::try_from(length).map_err(|_| SHORT)?;
        // How much of a row is in the page itself.
        let largest = self.usable - 35;
        let here = if length <= largest {
            length
        } else {
            let least = (self.usable - 12) * 32 / 255 - 23;
            let wanted = least + (length - least) % (self.usable - 4);
            if wanted <= largest { wanted } else { least }
        };
        let mut row = page.get(at..at + here).ok_or(SHORT)?.to_vec();
        let mut next = match length > here {
            true => big_u32(page, at + here).ok_or(SHORT)?,
            false => 0,
        };
        while row.len() < length {
            let page = self.page(next)?;
            let part = (length - row.len()).min(self.usable - 4);
            row.extend_from_slice(page.get(4..4 + part).ok_or(SHORT)?);
            next = big_u32(&page, 0).ok_or(SHORT)?;
        }
        Ok((row, here))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column<'a> {
    Number(i64),
    Bytes(&'a [u8]),
    /// Null, or a number with a fraction.
    Other,
}

/// Most columns that are looked at.
const COLUMNS: usize = 8;

/// The columns of a row: a header with the type of each, then their bytes.
fn columns(row: &[u8]) -> Option<Vec<Column<'_>>> {
    let (header, mut at) = varint(row)?;
    let header = usize::try_from(header)
        .ok()
        .filter(|end| *end <= row.len())?;
    let mut data = header;
    let mut columns = Vec::new();
    while at < header && columns.len() < COLUMNS {
        let (kind, used) = varint(&row[at..header])?;
        at += used;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => usize::try_from(kind).ok()?,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return None,
            kind => usize::try_from((kind - 12) / 2).ok()?,
        };
        let bytes = row.get(data..data.checked_add(length)?)?;
        data += length;
        columns.push(match kind {
            8 => Column::Number(0),
            9 => Column::Number(1),
            1..=6 => Column::Number(
                bytes
                    .iter()
                    .fold(if bytes[0] >= 0x80 { -1 } else { 0 }, |number, byte| {
                        number << 8 | i64::from(*byte)
                    }),
            ),
            0 | 7 => Column::Other,
            _ => Column::Bytes(bytes),
        });
    }
    Some(columns)
}

/// A number of 1 to 9 bytes, and how many they are.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (at, byte) in bytes.iter().take(8).enumerate() {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((number, at + 1));
        }
    }
    Some((number << 8 | u64::from(*bytes.get(8)?), 9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length() {
        assert_eq!(varint(&[0x7f]), Some((127, 1)));
        assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0xff; 8]), None);
        assert_eq!(varint(&[]), None);
    }

    #[test]
    fn rows_are_taken_apart() {
        // Header of 5 bytes: null, a number of 1 byte, text of 2, the number 1.
        let row = [5, 0, 1, 17, 9, 0xfe, b'h', b'i'];
        assert_eq!(
            columns(&row),
            Some(vec![
                Column::Other,
                Column::Number(-2),
                Column::Bytes(b"hi"),
                Column::Number(1)
            ])
        );
        assert_eq!(columns(&[9, 0]), None);
        assert_eq!(columns(&[2, 200]), None);
        assert_eq!(columns(&[]), None);
    }
}
