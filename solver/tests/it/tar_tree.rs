//! Reads a tar file into a view, for tests whose trees are given as tars: independent of the
//! library's own reader, without root and without files on disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::Arc;

use ashlar_solver::tree::entry::Device;
use ashlar_solver::tree::{
    Attributes, Entry, Files, Kind, Node, Timestamp, TreePath, View, Xattrs,
};

/// The bytes of regular files, in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryFiles(pub(crate) HashMap<TreePath, Vec<u8>>);

impl Files for MemoryFiles {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let bytes = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        let mut file = File::from(rustix::fs::memfd_create(
            "file",
            rustix::fs::MemfdFlags::CLOEXEC,
        )?);
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// Adds what the tar holds to `entries` and `files`, as extracting it over them would.
pub(crate) fn read(
    mut tar: &[u8],
    entries: &mut BTreeMap<TreePath, Entry>,
    files: &mut MemoryFiles,
) {
    let mut extended: HashMap<String, Vec<u8>> = HashMap::new();
    while tar.len() >= 512 && tar[..512].iter().any(|byte| *byte != 0) {
        let (header, rest) = tar.split_at(512);
        let number = |from: usize, length: usize| number(&header[from..from + length]);
        let pax_number = |key: &str| -> Option<u64> {
            extended
                .get(key)
                .map(|value| str::from_utf8(value).unwrap().parse().unwrap())
        };
        let size = pax_number("size").unwrap_or_else(|| number(124, 12));
        let size = usize::try_from(size).unwrap();
        let data = &rest[..size];
        tar = &rest[size.next_multiple_of(512)..];
        match header[156] {
            b'x' => {
                extended.extend(pax(data));
                continue;
            }
            b'L' => {
                extended.insert("path".to_owned(), text(data).to_vec());
                continue;
            }
            b'K' => {
                extended.insert("linkpath".to_owned(), text(data).to_vec());
                continue;
            }
            _ => {}
        }
        let prefix = text(&header[345..500]);
        let name = text(&header[..100]);
        let ustar = header[257..263] == *b"ustar\0" && !prefix.is_empty();
        let short = if ustar {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        };
        let path = TreePath::clean(extended.get("path").unwrap_or(&short)).unwrap();
        let link = extended
            .get("linkpath")
            .map_or(text(&header[157..257]), |link| link);
        let xattrs = extended.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("SCHILY.xattr.")?;
            Some((name.as_bytes().into(), value[..].into()))
        });
        let attributes = Attributes {
            mode: u32::try_from(number(100, 8)).unwrap() & 0o7777,
            uid: u32::try_from(pax_number("uid").unwrap_or_else(|| number(108, 8))).unwrap(),
            gid: u32::try_from(pax_number("gid").unwrap_or_else(|| number(116, 8))).unwrap(),
            mtime: Timestamp::default(),
            xattrs: Xattrs::new(xattrs),
        };
        let kind = match header[156] {
            b'1' => {
                let target = TreePath::clean(link).unwrap();
                let bytes = files.0.get(&target).cloned();
                files.0.extend(bytes.map(|bytes| (path.clone(), bytes)));
                entries.insert(path, entries[&target].clone());
                extended.clear();
                continue;
            }
            b'0' | 0 => Kind::File,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => panic!("{path}: tar entry of type {other}"),
        };
        let mut entry = Entry::new(kind, attributes);
        match kind {
            Kind::File => {
                entry.size = size as u64;
                files.0.insert(path.clone(), data.to_vec());
            }
            Kind::Symlink => entry.target = link.into(),
            Kind::CharDevice | Kind::BlockDevice => {
                let part = |from| u32::try_from(number(from, 8)).unwrap();
                entry.device = Device {
                    major: part(329),
                    minor: part(337),
                };
            }
            _ => {}
        }
        entries.insert(path, entry);
        extended.clear();
    }
}

/// Puts the entries together; directories must be among them.
pub(crate) fn view(entries: BTreeMap<TreePath, Entry>, files: MemoryFiles) -> View {
    let files: Arc<dyn Files> = Arc::new(files);
    let mut view = View::empty();
    for (path, entry) in entries {
        assert!(
            path.parent()
                .is_none_or(|parent| view.lookup(&parent).is_some()),
            "{path}"
        );
        let node = if entry.is_directory() {
            Node::directory(entry, Some(files.clone()), Vec::new())
        } else {
            Node::leaf(entry, Some(files.clone()))
        };
        view = view.with(&path, node);
    }
    view
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn number(field: &[u8]) -> u64 {
    if field[0] & 0x80 != 0 {
        return field[1..]
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte));
    }
    let digits = str::from_utf8(text(field)).unwrap().trim();
    if digits.is_empty() {
        0
    } else {
        u64::from_str_radix(digits, 8).unwrap()
    }
}

fn pax(mut data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = str::from_utf8(&data[..space]).unwrap().parse().unwrap();
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').unwrap();
        let key = String::from_utf8(record[..equals].to_vec()).unwrap();
        records.push((key, record[equals + 1..].to_vec()));
        data = &data[length..];
    }
    records
}
