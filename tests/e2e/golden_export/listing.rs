//! Archives and directories as lists of entries. The reader of archives here knows no more than
//! USTAR and PAX, and shares nothing with the one of the engine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// An entry of an archive, in the words of the recordings.
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) fields: Map<String, Value>,
    pub(super) content: Vec<u8>,
}

fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        return field[1..]
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
    }
    let digits = field.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |all, byte| all * 8 + u64::from(byte - b'0'))
}

fn name(field: &[u8]) -> String {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Entries of a tar; panics unless it ends as it should.
pub(super) fn entries(tar: &[u8]) -> Vec<Entry> {
    let (mut at, mut entries) = (0, Vec::new());
    let mut pax: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let block = &tar[at..at + 512];
        at += 512;
        if block.iter().all(|byte| *byte == 0) {
            assert!(
                tar[at..].iter().all(|byte| *byte == 0),
                "bytes after the end"
            );
            return entries;
        }
        let told = |key: &str, field: &[u8]| {
            pax.get(key)
                .map_or_else(|| number(field), |text| text.parse().unwrap())
        };
        let size = usize::try_from(told("size", &block[124..136])).unwrap();
        let kind = block[156];
        let has_content = matches!(kind, b'0' | 0 | b'x');
        let content = if has_content {
            &tar[at..at + size]
        } else {
            &[]
        };
        at += if has_content {
            size.next_multiple_of(512)
        } else {
            0
        };
        if kind == b'x' {
            let mut rest = content;
            while !rest.is_empty() {
                let space = rest.iter().position(|byte| *byte == b' ').unwrap();
                let length: usize = std::str::from_utf8(&rest[..space])
                    .unwrap()
                    .parse()
                    .unwrap();
                let record = std::str::from_utf8(&rest[space + 1..length - 1]).unwrap();
                let (key, value) = record.split_once('=').unwrap();
                pax.insert(key.to_owned(), value.to_owned());
                rest = &rest[length..];
            }
            continue;
        }
        let prefix = name(&block[345..500]);
        let short = name(&block[..100]);
        let plain = if prefix.is_empty() {
            short
        } else {
            format!("{prefix}/{short}")
        };
        let path = pax.get("path").cloned().unwrap_or(plain);
        let types = [
            (b'0', "file"),
            (b'1', "hardlink"),
            (b'2', "symlink"),
            (b'3', "char"),
            (b'4', "block"),
            (b'5', "dir"),
            (b'6', "fifo"),
        ];
        let kind_name = types
            .iter()
            .find(|(letter, _)| *letter == kind.max(b'0'))
            .unwrap()
            .1;
        let mtime = pax.get("mtime").cloned();
        let mut fields = Map::new();
        fields.insert("path".to_owned(), json!(path));
        fields.insert("type".to_owned(), json!(kind_name));
        let mode = number(&block[100..108]);
        fields.insert("mode".to_owned(), json!(format!("{mode:04o}")));
        fields.insert("uid".to_owned(), json!(told("uid", &block[108..116])));
        fields.insert("gid".to_owned(), json!(told("gid", &block[116..124])));
        fields.insert("size".to_owned(), json!(size));
        let seconds = number(&block[136..148]).to_string();
        fields.insert("mtime".to_owned(), json!(mtime.unwrap_or(seconds)));
        let link = pax
            .get("linkpath")
            .cloned()
            .unwrap_or_else(|| name(&block[157..257]));
        if !link.is_empty() {
            fields.insert("link".to_owned(), json!(link));
        }
        if matches!(kind, b'3' | b'4') {
            let device = (number(&block[329..337]), number(&block[337..345]));
            fields.insert(
                "dev".to_owned(),
                json!(format!("{}:{}", device.0, device.1)),
            );
        }
        if kind_name == "file" {
            fields.insert("sha256".to_owned(), json!(sha256(content)));
        }
        let format = if pax.is_empty() { "USTAR" } else { "PAX" };
        fields.insert("format".to_owned(), json!(format));
        if !pax.is_empty() {
            fields.insert("pax".to_owned(), json!(std::mem::take(&mut pax)));
        }
        entries.push(Entry {
            path,
            fields,
            content: content.to_vec(),
        });
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is in a directory, sorted by path.
pub(super) fn directory(root: &Path) -> Vec<Map<String, Value>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_path_buf()];
    let mut names: BTreeMap<(u64, u64), String> = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let data = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(root).unwrap().to_str().unwrap();
        let shown = if relative.is_empty() { "." } else { relative };
        if data.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        let kind = data.file_type();
        let kind_name = match () {
            () if kind.is_dir() => "dir",
            () if kind.is_symlink() => "symlink",
            () if kind.is_fifo() => "fifo",
            () if kind.is_char_device() => "char",
            () if kind.is_block_device() => "block",
            () => "file",
        };
        let mut fields = Map::new();
        fields.insert("path".to_owned(), json!(shown));
        fields.insert("type".to_owned(), json!(kind_name));
        fields.insert(
            "mode".to_owned(),
            json!(format!("{:04o}", data.mode() & 0o7777)),
        );
        fields.insert("uid".to_owned(), json!(data.uid()));
        fields.insert("gid".to_owned(), json!(data.gid()));
        let size = if kind.is_file() { data.size() } else { 0 };
        fields.insert("size".to_owned(), json!(size));
        let mtime = match data.mtime_nsec() {
            0 => data.mtime().to_string(),
            nanoseconds => format!("{}.{nanoseconds:09}", data.mtime()),
        };
        fields.insert("mtime".to_owned(), json!(mtime));
        if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            fields.insert("link".to_owned(), json!(target.to_str().unwrap()));
        }
        if kind.is_file() {
            fields.insert(
                "sha256".to_owned(),
                json!(sha256(&fs::read(&path).unwrap())),
            );
            if data.nlink() > 1 {
                let inode = (data.dev(), data.ino());
                let first = names.entry(inode).or_insert_with(|| shown.to_owned());
                if first != shown {
                    fields.insert("link".to_owned(), json!(first));
                }
            }
        }
        all.insert(shown.to_owned(), fields);
    }
    all.into_values().collect()
}
