//! Archives, good and damaged, as the `tar` crate reads them: the same entries, or one of the two
//! refuses.

use std::io::Read as _;

use ashlar_solver::tree::tar::{TarKind, TarReader};

/// Path, kind, link, size, bytes.
type Seen = (Vec<u8>, TarKind, Vec<u8>, u64, Vec<u8>);

fn ours(bytes: &[u8]) -> Option<Vec<Seen>> {
    let mut reader = TarReader::new(bytes);
    let mut seen = Vec::new();
    while let Some(header) = reader.next_entry().ok()? {
        if header.sparse {
            // The other reader knows one of the formats only.
            return None;
        }
        let mut content = Vec::new();
        loop {
            let piece = reader.data(4096).ok()?;
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(piece);
        }
        seen.push((header.path, header.kind, header.link, header.size, content));
    }
    Some(seen)
}

fn theirs(bytes: &[u8]) -> Option<Vec<Seen>> {
    let mut archive = tar::Archive::new(bytes);
    let mut seen = Vec::new();
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let path = entry.path_bytes().into_owned();
        let kind = match entry.header().entry_type() {
            tar::EntryType::Link => TarKind::HardLink,
            tar::EntryType::Symlink => TarKind::Symlink,
            tar::EntryType::Char => TarKind::CharDevice,
            tar::EntryType::Block => TarKind::BlockDevice,
            tar::EntryType::Directory => TarKind::Directory,
            tar::EntryType::Fifo => TarKind::Fifo,
            tar::EntryType::XGlobalHeader => continue,
            _ => TarKind::File,
        };
        let link = match kind {
            TarKind::HardLink | TarKind::Symlink => entry.link_name_bytes()?.into_owned(),
            _ => Vec::new(),
        };
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        if kind != TarKind::File && entry.size() != 0 {
            // It takes bytes for those of a link; GNU tar and Go do not.
            return None;
        }
        let size = entry.size();
        seen.push((path, kind, link, size, content));
    }
    Some(seen)
}

fn text(seen: &[Seen]) -> String {
    let line = |(path, kind, link, size, content): &Seen| {
        let (path, link, length) = (path.escape_ascii(), link.escape_ascii(), content.len());
        format!("{path} {kind:?} {link} {size} {length}\n")
    };
    seen.iter().map(line).collect()
}

/// An archive of one of everything, in the format of `header`.
fn archive(header: &tar::Header) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "long/".repeat(40);
    let mut add = |path: &str, kind, link: &str, content: &[u8]| {
        let mut header = header.clone();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(1_600_000_000);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            builder.append_data(&mut header, path, content).unwrap();
        } else {
            builder.append_link(&mut header, path, link).unwrap();
        }
    };
    add("dir/", tar::EntryType::Directory, "", b"");
    add("dir/file", tar::EntryType::Regular, "", b"some bytes");
    add("dir/block", tar::EntryType::Regular, "", &[7; 512]);
    add("dir/hard", tar::EntryType::Link, "dir/file", b"");
    add("soft", tar::EntryType::Symlink, "dir/hard", b"");
    add(&format!("{long}name"), tar::EntryType::Regular, "", b"deep");
    add("far", tar::EntryType::Symlink, &format!("{long}name"), b"");
    add("pipe", tar::EntryType::Fifo, "", b"");
    let records: [(&str, &[u8]); 2] = [("path", b"from/pax"), ("comment", b"x")];
    builder.append_pax_extensions(records).unwrap();
    let mut last = header.clone();
    last.set_size(4);
    last.set_mode(0o600);
    last.set_entry_type(tar::EntryType::Regular);
    builder
        .append_data(&mut last, "plain", &b"last"[..])
        .unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn class_10_archives_are_to_us_what_they_are_to_the_tar_crate() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for header in [tar::Header::new_gnu(), tar::Header::new_ustar()] {
        let good = archive(&header);
        let expected = ours(&good).expect("a good archive is read");
        assert_eq!(expected.len(), 9);
        assert_eq!(theirs(&good), Some(expected));
        let (mut both, mut refused) = (0, 0);
        for _ in 0..4000 {
            let mut bad = good.clone();
            for _ in 0..=random(2) {
                let at = random(bad.len());
                bad[at] = [
                    b'/', b'.', 0, b'0', b'1', b'5', b'7', b'x', b'L', b' ', 0x80,
                ][random(11)];
                // The checksum of a header is made right, so that the change is looked at.
                let start = at / 512 * 512;
                let block = &mut bad[start..start + 512];
                if block.get(257..262) == Some(b"ustar") {
                    block[148..156].fill(b' ');
                    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
                }
            }
            match (ours(&bad), theirs(&bad)) {
                (Some(ours), Some(theirs)) => {
                    let same = ours == theirs;
                    assert!(same, "{}\n{}", text(&ours), text(&theirs));
                    both += 1;
                }
                (None, _) => refused += 1,
                (Some(_), None) => {}
            }
        }
        assert!(both > 500 && refused > 100, "{both} {refused}");
    }
}
