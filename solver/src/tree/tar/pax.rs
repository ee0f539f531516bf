//! PAX extended headers.

use crate::tree::Timestamp;

/// What stands before the name of an extended attribute.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of an extended header that are used.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// The `GNU.sparse.` records.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) any: bool,
    pub(super) version: (Option<u64>, Option<u64>),
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Offsets and lengths as they follow each other.
    pub(super) map: Vec<u64>,
}

/// Calls `each` with every key and value.
fn records<'a>(
    mut data: &'a [u8],
    mut each: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    const BAD: &str = "a PAX record is malformed";
    while !data.is_empty() {
        let space = data
            .iter()
            .take(20)
            .position(|&byte| byte == b' ')
            .ok_or(BAD)?;
        let length = usize::try_from(decimal(&data[..space]).ok_or(BAD)?).map_err(|_| BAD)?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err(BAD);
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|&byte| byte == b'=').ok_or(BAD)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(BAD);
        }
        each(key, value)?;
        data = &data[length..];
    }
    Ok(())
}

/// All records; of equal keys the last counts.
pub(super) fn all(data: &[u8]) -> Result<super::original::AllRecords, &'static str> {
    let mut found = super::original::AllRecords::new();
    records(data, |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Ok(())
    })?;
    Ok(found)
}

/// Reads the records that apply to one entry.
pub(super) fn parse(data: &[u8]) -> Result<Records, &'static str> {
    let mut found = Records::default();
    records(data, |key, value| {
        if let Some(name) = key.strip_prefix(XATTR) {
            if name.is_empty() {
                return Err("an extended attribute has no name");
            }
            found.xattrs.retain(|(other, _)| other != name);
            found.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return sparse(&mut found.sparse, key, value);
        }
        // An empty value takes a record back; the header block counts then.
        match key {
            b"path" => found.path = name(value)?,
            b"linkpath" => found.link = name(value)?,
            b"size" => found.size = optional(value, decimal, "a PAX size is not a number")?,
            b"uid" => found.uid = optional(value, signed, "a PAX uid is not a number")?,
            b"gid" => found.gid = optional(value, signed, "a PAX gid is not a number")?,
            b"mtime" => found.mtime = optional(value, time, "a PAX time is not a number")?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// Checks the records that apply to all entries: they are read over, as containerd does, so they
/// must not be such that another reader would see other entries.
pub(super) fn check_global(data: &[u8]) -> Result<(), &'static str> {
    records(data, |key, _| {
        let changes = matches!(key, b"path" | b"linkpath" | b"size")
            || key.starts_with(b"GNU.sparse.")
            || key.starts_with(XATTR);
        if changes {
            Err("a global PAX header changes what entries are")
        } else {
            Ok(())
        }
    })
}

fn sparse(found: &mut SparseRecords, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    const BAD: &str = "a record of a sparse file is not a number";
    found.any = true;
    match key {
        b"major" => found.version.0 = Some(decimal(value).ok_or(BAD)?),
        b"minor" => found.version.1 = Some(decimal(value).ok_or(BAD)?),
        b"name" => found.name = name(value)?,
        b"size" | b"realsize" => found.real_size = Some(decimal(value).ok_or(BAD)?),
        b"numblocks" => {}
        b"offset" if found.map.len().is_multiple_of(2) => {
            found.map.push(decimal(value).ok_or(BAD)?);
        }
        b"numbytes" if !found.map.len().is_multiple_of(2) => {
            found.map.push(decimal(value).ok_or(BAD)?);
        }
        b"map" => {
            if !found.map.is_empty() {
                return Err("a sparse file has two maps");
            }
            for part in value.split(|&byte| byte == b',') {
                found.map.push(decimal(part).ok_or(BAD)?);
            }
        }
        _ => return Err("an unknown record of a sparse file"),
    }
    Ok(())
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a PAX name contains a NUL byte");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn optional<T>(
    value: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
    problem: &'static str,
) -> Result<Option<T>, &'static str> {
    if value.is_empty() {
        Ok(None)
    } else {
        read(value).map(Some).ok_or(problem)
    }
}

/// Decimal digits, nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn signed(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction; more than nanoseconds are cut off.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = signed(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanoseconds = (0..9).fold(0_u32, |value, at| {
        value * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'))
    });
    if nanoseconds > 0 && text.starts_with(b"-") {
        let seconds = seconds.checked_sub(1)?;
        return Some(Timestamp {
            seconds,
            nanoseconds: 1_000_000_000 - nanoseconds,
        });
    }
    Some(Timestamp {
        seconds,
        nanoseconds,
    })
}
