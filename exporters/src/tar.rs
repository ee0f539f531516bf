//! The files of a result as one tar.

use std::collections::{HashMap, hash_map};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::BuildResult;
use ashlar_solver::solver::Durability;
use ashlar_solver::tree::tar::{Header, TarFormat, TarKind, TarWriter};
use ashlar_solver::tree::{Entry, Kind, Node, Opener, TreePath};
use async_trait::async_trait;
use sha2::{Digest as _, Sha256};

use crate::ExportError;
use crate::archive::padding;
use crate::destination::{Checks, Destination, Sink};
use crate::durable::durability_option;
use crate::exporter::{self, Exported, Exporter, Prepared};
use crate::files::{
    FileOptions, Item, Part, directory_entry, file_options, link_group, parts, statement_entry,
};
use crate::notes::{add_file, content_of};
use crate::written::Written;

/// Exports the files of a result as one tar, as BuildKit writes it: owners, modes, devices and
/// extended attributes are those of the result, times are rounded to seconds.
///
/// A result in map form has a directory for each platform. Statements that are attested of it stand
/// beside the files.
#[derive(Debug, Clone)]
pub struct Tar {
    destination: Destination,
    verify: bool,
    durability: Durability,
    pub(crate) options: FileOptions,
}

impl Tar {
    /// Writes one tar file. An existing file is replaced once the new one is complete, and stays if
    /// it is what an export from the same state directory wrote of the same, and nobody changed it since;
    /// a pipe or a device is written to.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Destination::File(path.into()))
    }

    /// Writes the tar to a stream, which `open` opens once per export.
    pub fn writer(
        open: impl Fn() -> io::Result<Box<dyn Write + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Destination::Writer(Arc::new(open)))
    }

    fn new(destination: Destination) -> Self {
        Self {
            destination,
            verify: false,
            durability: Durability::default(),
            options: FileOptions::default(),
        }
    }

    /// Sets whether the file is read again, and compared with what was to be written, before it
    /// replaces an old one, which it does in any case then. Streams are not read. Default: no.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    durability_option!();

    file_options!();

    fn run(&self, result: &BuildResult, cancel: &Cancel) -> Result<Prepared, ExportError> {
        let mut parts = parts(result, &self.options, result.is_map(), cancel)?;
        // As in BuildKit.
        parts.sort_by(|a, b| a.directory.cmp(&b.directory));
        let checks = Checks {
            verify: self.verify,
            durability: self.durability,
        };
        let content = match self.destination {
            Destination::File(_) => content_of_parts(&parts, cancel)?,
            Destination::Writer(_) => None,
        };
        let parts = Arc::new(parts);
        let written = parts.clone();
        self.destination.write(
            Exported::default(),
            checks,
            Written::new(&result.store, content),
            cancel,
            move |sink, cancel| archive(&written, sink, cancel),
            |file, path, cancel| check(&parts, file, path, cancel),
        )
    }
}

#[async_trait]
impl Exporter for Tar {
    async fn prepare(
        &self,
        result: &BuildResult,
        cancel: &Cancel,
    ) -> Result<Prepared, ExportError> {
        exporter::prepare("tar", self, result, cancel, Self::run).await
    }
}

/// Where the pieces of an archive go.
trait Take {
    /// Bytes of the archive itself.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError>;

    /// The content of a file of the result.
    fn file(
        &mut self,
        node: &Node,
        open: &mut dyn FnMut() -> io::Result<File>,
        cancel: &Cancel,
    ) -> Result<io::Result<()>, ExportError>;
}

impl Take for Sink<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.put(bytes)
    }

    fn file(
        &mut self,
        node: &Node,
        open: &mut dyn FnMut() -> io::Result<File>,
        cancel: &Cancel,
    ) -> Result<io::Result<()>, ExportError> {
        match open() {
            Ok(mut file) => self.append(&mut file, node.entry().size, cancel),
            Err(error) => Ok(Err(error)),
        }
    }
}

/// Compares what is to be written with what a file has.
struct Compare<'a> {
    written: io::BufReader<&'a mut File>,
    path: &'a Path,
    /// How much of it was compared.
    at: u64,
    buffers: [Vec<u8>; 2],
}

impl Compare<'_> {
    fn same(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let found = &mut self.buffers[0];
        found.resize(bytes.len(), 0);
        match io::Read::read_exact(&mut self.written, found) {
            Ok(()) if *found == bytes => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(ExportError::io("read", self.path)(error))
            }
            _ => Err(self.damaged()),
        }
    }

    fn damaged(&self) -> ExportError {
        ExportError::verify(format!("what begins at byte {}", self.at), self.path)
    }
}

impl Take for Compare<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.same(bytes)
    }

    fn file(
        &mut self,
        node: &Node,
        open: &mut dyn FnMut() -> io::Result<File>,
        cancel: &Cancel,
    ) -> Result<io::Result<()>, ExportError> {
        let mut file = match open() {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut size = node.entry().size;
        let mut buffer = std::mem::take(&mut self.buffers[1]);
        buffer.resize(128 << 10, 0);
        while size > 0 {
            cancel.check()?;
            let wanted = usize::try_from(size).unwrap_or(buffer.len());
            let part = &mut buffer[..wanted.min(128 << 10)];
            if let Err(error) = io::Read::read_exact(&mut file, part) {
                return Ok(Err(error));
            }
            self.same(part)?;
            size -= part.len() as u64;
        }
        self.buffers[1] = buffer;
        Ok(Ok(()))
    }
}

/// Hashes all that an archive is made of: its own bytes, and of each file what tells its content.
struct Name {
    hasher: Sha256,
    /// Whether there is something that tells the content of each file.
    tells: bool,
}

impl Take for Name {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.hasher.update(bytes);
        Ok(())
    }

    fn file(
        &mut self,
        node: &Node,
        open: &mut dyn FnMut() -> io::Result<File>,
        _: &Cancel,
    ) -> Result<io::Result<()>, ExportError> {
        if let Some(digest) = node.entry().digest {
            self.hasher.update([1]);
            self.hasher.update(digest.as_bytes());
        } else if node.files().is_some_and(|files| files.immutable()) {
            self.hasher.update([2]);
            return Ok(open().and_then(|file| Ok(add_file(&mut self.hasher, file)?)));
        } else {
            self.tells = false;
        }
        Ok(Ok(()))
    }
}

/// All that an archive is made of, if it can be told.
fn content_of_parts(parts: &[Part], cancel: &Cancel) -> Result<Option<Sha256>, ExportError> {
    let mut name = Name {
        hasher: content_of("files"),
        tells: true,
    };
    archive(parts, &mut name, cancel)?;
    Ok(name.tells.then_some(name.hasher))
}

fn check(parts: &[Part], file: &mut File, path: &Path, cancel: &Cancel) -> Result<(), ExportError> {
    let failed = |error: io::Error| ExportError::io("read", path)(error);
    io::Seek::rewind(file).map_err(failed)?;
    let mut compare = Compare {
        written: io::BufReader::with_capacity(128 << 10, file),
        path,
        at: 0,
        buffers: Default::default(),
    };
    archive(parts, &mut compare, cancel)?;
    let mut rest = [0];
    match io::Read::read(&mut compare.written, &mut rest).map_err(failed)? {
        0 => Ok(()),
        _ => Err(compare.damaged()),
    }
}

fn archive(parts: &[Part], take: &mut dyn Take, cancel: &Cancel) -> Result<(), ExportError> {
    for part in parts {
        let mut links: HashMap<_, Vec<u8>> = HashMap::new();
        let mut opener = Opener::default();
        if let Some(directory) = &part.directory {
            put_header(take, &header(directory, &directory_entry(part), None))?;
        }
        for (path, item) in part.items() {
            cancel.check()?;
            let whole = part.prefix().join_path(&path);
            match item {
                Item::Statement(text) => {
                    put_header(take, &header(&whole, &statement_entry(part, text), None))?;
                    take.bytes(text)?;
                    take.bytes(padding(text.len() as u64))?;
                }
                Item::Node(node) => {
                    let first = link_group(node).and_then(|group| match links.entry(group) {
                        hash_map::Entry::Occupied(first) => Some(first.get().clone()),
                        hash_map::Entry::Vacant(none) => {
                            none.insert(whole.as_bytes().to_vec());
                            None
                        }
                    });
                    let mut header = header(&whole, node.entry(), first);
                    header.mtime = part.time(header.mtime);
                    if header.kind == TarKind::Symlink {
                        header.link = part.link_target(&header.link).into_owned();
                    }
                    put_header(take, &header)?;
                    if header.kind == TarKind::File && header.size > 0 {
                        content(take, &path, node, &mut opener, cancel)?;
                    }
                }
            }
        }
    }
    take.bytes(&[0; 1024])
}

/// Writes the bytes of a regular file.
fn content<'a>(
    take: &mut dyn Take,
    path: &TreePath,
    node: &'a Node,
    opener: &mut Opener<'a>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let failed = |error| ExportError::io("read", path.as_relative())(error);
    let files = node.files().ok_or_else(|| ExportError::Unsupported {
        path: path.to_string(),
        reason: "its bytes are nowhere",
    })?;
    let mut open = || opener.open(&**files, path);
    take.file(node, &mut open, cancel)?.map_err(failed)?;
    take.bytes(padding(node.entry().size))
}

fn put_header(take: &mut dyn Take, header: &Header) -> Result<(), ExportError> {
    let mut bytes = Vec::with_capacity(512);
    let mut writer = TarWriter::new(&mut bytes);
    writer.header(header, TarFormat::Any).map_err(|source| {
        let path = String::from_utf8_lossy(&header.path).into_owned();
        ExportError::io("write an archive member for", path)(source)
    })?;
    take.bytes(&bytes)
}

/// The header of an object; `first` is the path that it is a hard link of.
fn header(path: &TreePath, entry: &Entry, first: Option<Vec<u8>>) -> Header {
    let attributes = &entry.attributes;
    let mut name = path.as_bytes().to_vec();
    let kind = match entry.kind {
        _ if first.is_some() => TarKind::HardLink,
        Kind::Directory => TarKind::Directory,
        Kind::File | Kind::Whiteout => TarKind::File,
        Kind::Symlink => TarKind::Symlink,
        Kind::CharDevice => TarKind::CharDevice,
        Kind::BlockDevice => TarKind::BlockDevice,
        Kind::Fifo => TarKind::Fifo,
    };
    if kind == TarKind::Directory {
        name.push(b'/');
    }
    let xattrs = attributes.xattrs.iter();
    Header {
        path: name,
        kind,
        size: if kind == TarKind::File { entry.size } else { 0 },
        link: first.unwrap_or_else(|| entry.target.to_vec()),
        mode: attributes.mode,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime: attributes.mtime,
        device: entry.device,
        xattrs: xattrs
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect(),
        sparse: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ashlar_solver::refs::Ref;
    use ashlar_solver::tree::Timestamp;

    use super::*;

    #[test]
    fn what_is_not_what_was_written_is_told_by_file_and_place() {
        let statements = ["a", "b"].map(|name| (name.into(), b"text".as_slice().into()));
        let part = Part {
            directory: None,
            view: Ref::scratch().view().unwrap(),
            epoch: None,
            statements: BTreeMap::from(statements),
            now: Timestamp::default(),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("files.tar");
        let mut written = Vec::new();
        let mut sink = Sink::stream(&mut written);
        let cancel = Cancel::new();
        archive(std::slice::from_ref(&part), &mut sink, &cancel).unwrap();
        sink.finish().unwrap();
        let checked = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut file = File::open(&path).unwrap();
            check(std::slice::from_ref(&part), &mut file, &path, &cancel)
        };
        checked(&written).unwrap();
        let mut other = written.clone();
        other[3 * 512] ^= 1;
        let longer = [&written[..], b"x"].concat();
        for (bytes, at) in [
            // The content of the second file, which is what differs.
            (&other[..], 3 * 512),
            (&written[..512 + 2], 512),
            (&longer[..], written.len()),
        ] {
            let error = checked(bytes).unwrap_err().to_string();
            let told = format!("what begins at byte {at} in {}", path.display());
            assert!(error.starts_with(&told), "{error}");
        }
    }
}
