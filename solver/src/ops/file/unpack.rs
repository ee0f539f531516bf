//! Sources of copies that are archives.

use std::io::{self, Read};

use super::FileProblem;
use super::resolve::root_path;
use crate::tree::{Kind, TreePath, View};

/// A tar is told by the checksum of its first header.
const BLOCK: usize = 512;

/// Fails if the regular file at `path` is an archive that the copy would have to unpack. Anything
/// else is copied as it is.
pub(super) fn refuse_archive(source: &View, path: &TreePath) -> Result<(), FileProblem> {
    let path = root_path(source, path.as_bytes(), true)?;
    let Some(node) = source.lookup(&path) else {
        return Ok(());
    };
    let Some(files) = node.files().filter(|_| node.entry().kind == Kind::File) else {
        return Ok(());
    };
    let file = files.open(&path).map_err(|source| FileProblem::Read {
        path: path.clone(),
        source,
    })?;
    match archive_format(file) {
        Ok(Some(format)) => Err(FileProblem::Unpack { path, format }),
        Ok(None) => Ok(()),
        Err(source) => Err(FileProblem::Read { path, source }),
    }
}

/// Which archive it is, if any.
fn archive_format(mut file: impl Read) -> io::Result<Option<&'static str>> {
    let mut start = [0; BLOCK];
    let read = fill(&mut file, &mut start)?;
    let start = &start[..read];
    let rest = io::Cursor::new(start.to_vec()).chain(file);
    Ok(match start {
        [0x1f, 0x8b, 0x08, ..] => {
            is_tar(flate2::read::MultiGzDecoder::new(rest)).then_some("tar.gz")
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::Decoder::new(rest)
            .is_ok_and(is_tar)
            .then_some("tar.zst"),
        // What is inside cannot be told without a decompressor.
        [
            b'B',
            b'Z',
            b'h',
            b'1'..=b'9',
            0x31,
            0x41,
            0x59,
            0x26,
            0x53,
            0x59,
            ..,
        ] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        _ => is_tar(start).then_some("tar"),
    })
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether it begins with a tar header. Damaged compressed data is none.
fn is_tar(mut from: impl Read) -> bool {
    let mut header = [0; BLOCK];
    if !fill(&mut from, &mut header).is_ok_and(|length| length == BLOCK) {
        return false;
    }
    let stored = header[148..156]
        .iter()
        .copied()
        .filter(|byte| (b'0'..=b'7').contains(byte));
    let stored = stored.fold(0_u32, |sum, digit| {
        sum.wrapping_mul(8) + u32::from(digit - b'0')
    });
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header.iter().any(|&byte| byte != 0 && byte != b' ') && sum == stored
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn tar() -> Vec<u8> {
        let mut header = [0; BLOCK];
        header[..4].copy_from_slice(b"name");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.to_vec()
    }

    #[test]
    fn archives_are_told_from_other_files() {
        let gzip = |data: &[u8]| {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            out.write_all(data).unwrap();
            out.finish().unwrap()
        };
        let format = |data: &[u8]| archive_format(data).unwrap();
        assert_eq!(format(&tar()), Some("tar"));
        assert_eq!(format(&gzip(&tar())), Some("tar.gz"));
        assert_eq!(
            format(&zstd::encode_all(&tar()[..], 1).unwrap()),
            Some("tar.zst")
        );
        for other in [
            &b""[..],
            b"text",
            &[0; 1024],
            &gzip(b"text"),
            &[0x1f, 0x8b, 0x08, 1],
        ] {
            assert_eq!(format(other), None);
        }
    }
}
