use std::io::Read;
use std::os::fd::AsFd as _;

use ashlar_llb::BlobDigest;

use super::*;
use crate::cancel::Cancel;
use crate::tree::entry::Device;

/// Bytes that the files of a rewritten archive may have together.
const LIMIT: u64 = 1 << 30;

/// A header block as other writers make it; `change` edits it before the checksum.
fn block(name: &str, kind: u8, size: u64, change: impl Fn(&mut [u8; BLOCK])) -> Vec<u8> {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    for field in [100..107, 108..115, 116..123, 136..147] {
        block[field].fill(b'0');
    }
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block.to_vec()
}

fn data(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(BLOCK), 0);
    padded
}

fn pax(records: &[&str]) -> Vec<u8> {
    let text: String = records
        .iter()
        .map(|record| {
            let length =
                (record.len() + 3..).find(|n| n.to_string().len() + record.len() + 2 == *n);
            format!("{} {record}\n", length.unwrap())
        })
        .collect();
    [
        block("PaxHeaders.0/x", b'x', text.len() as u64, |_| ()),
        data(text.as_bytes()),
    ]
    .concat()
}

fn raw_pax(text: &[u8], kind: u8) -> Vec<u8> {
    [block("x", kind, text.len() as u64, |_| ()), data(text)].concat()
}

fn file(name: &str, content: &str) -> Vec<u8> {
    [
        block(name, b'0', content.len() as u64, |_| ()),
        data(content.as_bytes()),
    ]
    .concat()
}

type Entries = Vec<(Header, Vec<u8>)>;

fn read(parts: &[Vec<u8>]) -> Result<Entries, TarError> {
    read_bytes(&[parts.concat(), vec![0; 2 * BLOCK]].concat())
}

fn read_bytes(bytes: &[u8]) -> Result<Entries, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(header) = reader.next_entry()? {
        let parts = reader.parts().map(<[_]>::to_vec);
        let mut stored = Vec::new();
        loop {
            let piece = reader.data(100)?;
            if piece.is_empty() {
                break;
            }
            stored.extend_from_slice(piece);
        }
        let mut content = stored.clone();
        if let Some(parts) = parts {
            content = vec![0; usize::try_from(header.size).unwrap()];
            let mut rest = &stored[..];
            for (offset, length) in parts {
                let number = |value: u64| usize::try_from(value).unwrap();
                let (offset, length) = (number(offset), number(length));
                content[offset..offset + length].copy_from_slice(&rest[..length]);
                rest = &rest[length..];
            }
        }
        entries.push((header, content));
    }
    Ok(entries)
}

fn malformed(parts: &[Vec<u8>]) {
    let result = read(parts);
    assert!(
        matches!(result, Err(TarError::Malformed { .. })),
        "{result:?}"
    );
}

#[test]
fn what_is_written_is_read() {
    let header = |path: String, kind, link: String| Header {
        path: path.into_bytes(),
        kind,
        link: link.into_bytes(),
        mode: 0o6755,
        uid: 3_000_000,
        gid: 5,
        size: if kind == TarKind::File { 700 } else { 0 },
        mtime: Timestamp {
            seconds: -7,
            nanoseconds: 30,
        },
        device: Device::default(),
        xattrs: vec![(b"user.x".to_vec(), b"a\n=\0".to_vec())],
        sparse: false,
    };
    let mut device = header("dev".to_owned(), TarKind::BlockDevice, String::new());
    device.device = Device {
        major: 259,
        minor: 70_000,
    };
    let headers = [
        header("a".to_owned(), TarKind::File, String::new()),
        header("ümlaut".repeat(40), TarKind::File, String::new()),
        header(
            format!("{}/", "long/".repeat(60)),
            TarKind::Directory,
            String::new(),
        ),
        header("link".to_owned(), TarKind::Symlink, "t".repeat(300)),
        header("hard".to_owned(), TarKind::HardLink, "a".to_owned()),
        device,
        header("pipe".to_owned(), TarKind::Fifo, String::new()),
    ];
    let mut out = Vec::new();
    let mut writer = TarWriter::new(&mut out);
    for header in &headers {
        writer.header(header, TarFormat::Pax).unwrap();
        writer
            .data(&vec![b'x'; usize::try_from(header.size).unwrap()])
            .unwrap();
    }
    assert_eq!(writer.finish().unwrap(), out.len() as u64);
    let found = read(&[out]).unwrap();
    assert_eq!(
        found
            .iter()
            .map(|(header, _)| header.clone())
            .collect::<Vec<_>>(),
        headers
    );
}

#[test]
fn class_10_sizes_of_pax_and_header_are_one() {
    // What one reader takes for the data of a file is another file to the next one.
    let inner = file("smuggled", "evil");
    let told = format!("size={}", inner.len());
    malformed(&[
        pax(&[&told]),
        block("outer", b'0', 0, |_| ()),
        inner.clone(),
    ]);
    let whole = |size| block("outer", b'0', size, |_| ());
    malformed(&[pax(&["size=0"]), whole(inner.len() as u64), inner.clone()]);
    let found = read(&[pax(&[&told]), whole(inner.len() as u64), inner.clone()]).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, inner);
    // Where the header has no room for the size, it says what it likes.
    for own in [0, 5, 0o77_777_777_777] {
        let error = read(&[pax(&["size=8589934592"]), whole(own)]).unwrap_err();
        assert!(matches!(error, TarError::Truncated { .. }), "{error:?}");
    }
    // A size on something without data: readers disagree about what follows.
    for kind in [b'2', b'3', b'5', b'6'] {
        let mut with_link = block("x", kind, inner.len() as u64, |block| block[157] = b't');
        malformed(&[with_link.clone(), inner.clone()]);
        with_link = block("x", kind, 0, |block| block[157] = b't');
        malformed(&[pax(&["size=1024"]), with_link, inner.clone()]);
    }
    for size in [
        "-1",
        "+1",
        "0x10",
        " 1",
        "1 ",
        "99999999999999999999",
        "9223372036854775808",
    ] {
        malformed(&[pax(&[&format!("size={size}")]), file("f", "x")]);
    }
}

#[test]
fn class_10_malformed_records_are_errors_not_ends() {
    for text in [
        &b"path=x\n"[..],
        b"9 path=x\n",
        b"99 path=x\n",
        b"11 path=x\n",
        b"8 path=x\n",
        b"7 path\n\n",
        b"6 =xx\n",
        b"0 path=x\n",
        b"-9 path=x\n",
        b" 9 path=x\n",
        b"99999999999999999999999 path=x\n",
        b"11 path=x\0y\n",
        b"9 path=x\nrest",
    ] {
        let good = text == b"9 path=x\n";
        let result = read(&[raw_pax(text, b'x'), file("f", "")]);
        assert_eq!(result.is_ok(), good, "{}", text.escape_ascii());
    }
}

#[test]
fn class_10_names_in_two_ways_and_headers_out_of_place() {
    let long = [block("././@LongLink", b'L', 2, |_| ()), data(b"n\0")].concat();
    malformed(&[long.clone(), pax(&["path=p"]), file("f", "")]);
    malformed(&[long.clone(), long.clone(), file("f", "")]);
    malformed(&[pax(&["uid=1"]), pax(&["uid=2"]), file("f", "")]);
    malformed(&[pax(&["uid=1"]), raw_pax(b"", b'g'), file("f", "")]);
    malformed(&[pax(&["uid=1"])]);
    malformed(&[vec![0; BLOCK], file("f", "")]);
    malformed(&[raw_pax(b"10 size=512\n".as_slice(), b'g'), file("f", "")]);
    malformed(&[raw_pax(b"9 path=x\n", b'g'), file("f", "")]);
    malformed(&[file("f/", "")]);
    malformed(&[pax(&["uid=4294967296"]), file("f", "")]);
    malformed(&[pax(&["uid=-1"]), file("f", "")]);
    let comment = raw_pax(b"13 comment=x\n", b'g');
    assert_eq!(
        read(&[comment, long, file("f", "")]).unwrap()[0].0.path,
        b"n"
    );
}

#[test]
fn class_10_numbers_in_base_256() {
    let with = |field: std::ops::Range<usize>, bytes: [u8; 12]| {
        let kind = if field.start == 136 { b'5' } else { b'0' };
        block("f", kind, 0, |block| {
            let length = field.len();
            block[field.clone()].copy_from_slice(&bytes[12 - length..]);
        })
    };
    let negative = with(136..148, [0xff; 12]);
    assert_eq!(read(&[negative]).unwrap()[0].0.mtime.seconds, -1);
    // More than 64 bits: others cut them off, and see a small size.
    let mut huge = [0; 12];
    (huge[0], huge[2], huge[11]) = (0x80, 1, 4);
    malformed(&[with(124..136, huge)]);
    malformed(&[with(124..136, [0xff; 12])]);
    let mut small = [0; 12];
    (small[0], small[11]) = (0x80, 4);
    let found = read(&[with(124..136, small), data(b"four")]).unwrap();
    assert_eq!(found[0].1, b"four");
}

/// umoci ends an archive with the data of its last file.
#[test]
fn what_follows_the_last_file_may_be_missing() {
    let whole = [file("one", "1"), file("two", "22")].concat();
    let last = whole.len() - BLOCK;
    for end in last + 2..=whole.len() {
        let entries = read_bytes(&whole[..end]).unwrap();
        assert_eq!(entries[1].1, b"22", "{end}");
        assert_eq!(entries.len(), 2);
    }
    for end in [last - 1, last, last + 1] {
        let result = read_bytes(&whole[..end]);
        assert!(
            matches!(result, Err(TarError::Truncated { .. })),
            "{end}: {result:?}"
        );
    }
}

#[test]
fn checksums_and_kinds() {
    let mut bad = file("f", "");
    bad[0] = b'g';
    malformed(&[bad]);
    let result = read(&[block("f", b'M', 0, |_| ())]);
    assert!(matches!(result, Err(TarError::Unsupported { .. })));
    let old = block("dir/", 0, 0, |block| block[257..265].fill(0));
    assert_eq!(read(&[old]).unwrap()[0].0.kind, TarKind::Directory);
    let prefixed = block("name", b'0', 0, |block| {
        block[345..351].copy_from_slice(b"pre/fi");
    });
    assert_eq!(read(&[prefixed]).unwrap()[0].0.path, b"pre/fi/name");
}

#[test]
fn class_12_metadata_is_bounded() {
    let huge = block("x", b'x', MAX_METADATA + 1, |_| ());
    malformed(&[huge]);
    let long = block("././@LongLink", b'L', 1 << 32, |_| ());
    malformed(&[long]);
}

#[test]
fn class_12_global_headers_that_are_kept_are_bounded() {
    let value = "x".repeat(600 << 10);
    // The length that a record begins with counts itself.
    let text = format!("{} comment={value}\n", value.len() + 16);
    let global = raw_pax(text.as_bytes(), b'g');
    let end = [file("a", "1"), vec![0; 2 * BLOCK]].concat();
    let rewritten = |globals: usize| {
        let archive = [global.repeat(globals), end.clone()].concat();
        let mut out = Vec::new();
        rewrite_times(
            &archive[..],
            &mut out,
            Timestamp::default(),
            LIMIT,
            &Cancel::new(),
        )
    };
    assert!(rewritten(1).is_ok());
    assert!(rewritten(2).is_err());
}

#[test]
fn sparse_files_of_all_versions() {
    let whole: Vec<u8> = [&b"head"[..], &[0; 1000], b"tail"].concat();
    let stored = data(b"headtail");
    let v01 = [
        pax(&[
            "GNU.sparse.size=1008",
            "GNU.sparse.numblocks=2",
            "GNU.sparse.map=0,4,1004,4",
        ]),
        block("f", b'0', 8, |_| ()),
        stored.clone(),
    ];
    let v00 = [
        pax(&[
            "GNU.sparse.size=1008",
            "GNU.sparse.offset=0",
            "GNU.sparse.numbytes=4",
            "GNU.sparse.offset=1004",
            "GNU.sparse.numbytes=4",
        ]),
        block("f", b'0', 8, |_| ()),
        stored.clone(),
    ];
    let map = data(b"2\n0\n4\n1004\n4\n");
    let head = [
        "GNU.sparse.major=1",
        "GNU.sparse.minor=0",
        "GNU.sparse.name=f",
    ];
    let v10 = [
        pax(&[head[0], head[1], head[2], "GNU.sparse.realsize=1008"]),
        block("GNUSparseFile.0/f", b'0', 520, |_| ()),
        map,
        stored.clone(),
    ];
    let old = [
        block("f", b'S', 8, |block| {
            block[257..265].copy_from_slice(b"ustar  \0");
            for (at, number) in [(386, 0), (398, 4), (410, 1004), (422, 4), (483, 1008)] {
                block[at..at + 11].copy_from_slice(format!("{number:011o}").as_bytes());
            }
        }),
        stored.clone(),
    ];
    for archive in [&v00[..], &v01, &v10, &old] {
        let found = read(&[&archive.concat()[..], &file("next", "n")].map(<[u8]>::to_vec)).unwrap();
        assert_eq!(
            (found[0].0.path.clone(), found[0].0.sparse),
            (b"f".to_vec(), true)
        );
        assert_eq!(found[0].1, whole);
        assert_eq!(found[1].0.path, b"next");
    }
    for map in [
        "0,4,3,4",
        "0,4,1005,4",
        "0,4",
        "0,4,1004",
        "0,4,1004,5",
        "1,18446744073709551615",
    ] {
        malformed(&[
            pax(&["GNU.sparse.size=1008", &format!("GNU.sparse.map={map}")]),
            block("f", b'0', 8, |_| ()),
            stored.clone(),
        ]);
    }
    let unknown = pax(&[
        "GNU.sparse.major=2",
        "GNU.sparse.minor=0",
        "GNU.sparse.realsize=8",
    ]);
    let result = read(&[unknown, file("f", "headtail")]);
    assert!(matches!(result, Err(TarError::Unsupported { .. })));
}

#[test]
fn long_names_are_split_before_they_need_pax() {
    let deep = format!("{}/deep/", "y".repeat(101));
    let plain = |format| {
        let header = Header {
            path: deep.clone().into_bytes(),
            kind: TarKind::Directory,
            ..read(&[block("d/", b'5', 0, |_| ())]).unwrap()[0].0.clone()
        };
        let mut out = Vec::new();
        TarWriter::new(&mut out).header(&header, format).unwrap();
        out
    };
    for format in [TarFormat::Any, TarFormat::Pax] {
        let out = plain(format);
        assert_eq!(out.len(), BLOCK, "a header alone");
        assert_eq!(&out[..6], b"deep/\0");
        assert_eq!(&out[345..446], "y".repeat(101).as_bytes());
    }
}

fn rewritten(archive: &[u8], latest: i64) -> Vec<u8> {
    let latest = Timestamp {
        seconds: latest,
        nanoseconds: 0,
    };
    let mut out = Vec::new();
    let size = rewrite_times(archive, &mut out, latest, LIMIT, &Cancel::new()).unwrap();
    assert_eq!(size, out.len() as u64);
    out
}

fn put(block: &mut [u8; BLOCK], at: usize, text: &[u8]) {
    block[at..at + text.len()].copy_from_slice(text);
}

/// Entries as GNU tar, bsdtar and others write them, in all formats.
fn archive_of_all_formats() -> Vec<u8> {
    let time = |block: &mut [u8; BLOCK]| put(block, 136, b"17000000000");
    let gnu = |block: &mut [u8; BLOCK]| {
        time(block);
        put(block, 257, b"ustar  \0");
        put(block, 265, b"root");
        put(block, 297, b"wheel");
    };
    let owned = |block: &mut [u8; BLOCK]| {
        time(block);
        put(block, 100, b"100644 \0");
        put(block, 265, b"root");
        put(block, 297, b"root");
    };
    let long = "n".repeat(120);
    let name = [long.as_bytes(), b"\0"].concat();
    let parts = [
        block("old/", b'5', 0, gnu),
        block("accessed", b'0', 2, |block| {
            gnu(block);
            put(block, 345, b"14000000000\x0017000000000\0");
        }),
        data(b"ab"),
        block("././@LongLink", b'L', 121, |block| {
            put(block, 257, b"ustar  \0");
        }),
        data(&name),
        block(&long[..100], b'0', 5, |block| {
            gnu(block);
            put(block, 108, &[0x80, 0, 0, 0, 0xee, 0x6b, 0x28, 0]);
        }),
        data(b"hello"),
        block("././@LongLink", b'K', 121, |block| {
            put(block, 257, b"ustar  \0");
        }),
        data(&name),
        block("hard", b'1', 0, |block| {
            gnu(block);
            put(block, 157, &name[..100]);
        }),
        pax(&[
            "comment=kept",
            "mtime=1700000000.5",
            "atime=1400000001.25",
            "ctime=1700000001",
            "uid=3000000",
            "uname=somebody",
            "SCHILY.xattr.user.a=b",
        ]),
        block("pax", b'0', 0, owned),
        pax(&["mtime=1700000000.5"]),
        block("plain", b'0', 0, owned),
        block("deep/name", b'0', 0, |block| {
            owned(block);
            put(block, 345, "p".repeat(110).as_bytes());
        }),
        block("sized", b'1', 7, |block| {
            owned(block);
            put(block, 157, b"plain");
        }),
        block("spaces", b'5', 0, |block| {
            owned(block);
            put(block, 108, b"000000 \0");
            put(block, 124, b"00000000000 ");
        }),
        block("v7", 0, 0, |block| {
            time(block);
            put(block, 257, &[0; 8]);
        }),
        pax(&["path=./d/../x/é", "linkpath=l"]),
        block("utf8", b'2', 0, owned),
        pax(&[
            "GNU.sparse.major=1",
            "GNU.sparse.minor=0",
            "GNU.sparse.name=holes",
            "GNU.sparse.realsize=1027",
        ]),
        block("GNUSparseFile.0/holes", b'0', 512 + 3, owned),
        data(b"1\n512\n3\n"),
        data(b"end"),
        block("device", b'3', 0, |block| {
            owned(block);
            put(block, 329, b"000001 \x00000003 \0");
        }),
    ];
    [parts.concat(), vec![0; 20 * BLOCK]].concat()
}

/// The digests are those of what Go's `archive/tar` makes of the same bytes when BuildKit changes
/// the times.
#[test]
fn rewritten_archives_stay_in_their_formats_as_go_writes_them() {
    let archive = archive_of_all_formats();
    let go = [
        (
            0,
            "6ee6c9e635b63bb56de59e353ed82219d4693c4de840b55841864366ed0abf53",
        ),
        (
            1_500_000_000,
            "19f1820eead04e63d9b8dc148bcc055c690dd2f3ac9e13f2b8c5a70ca1e74f4a",
        ),
        (
            4_000_000_000,
            "b34a12d7f8e91f101b96a4ab769c0ed81c13687e887403ba428e7d421bac42d1",
        ),
    ];
    for (latest, digest) in go {
        let out = rewritten(&archive, latest);
        assert_eq!(BlobDigest::of(&out).to_string(), format!("sha256:{digest}"));
        assert_eq!(rewritten(&out, latest), out);
    }
    // What is read of it is the same, but for times.
    let late = rewritten(&archive, 4_000_000_000);
    let (before, after) = (read_bytes(&archive).unwrap(), read_bytes(&late).unwrap());
    for ((before, _), (after, _)) in before.iter().zip(&after) {
        assert_eq!((&before.path, before.mtime), (&after.path, after.mtime));
    }
    for ((before, _), (after, _)) in before.iter().zip(&after) {
        let plain = Header {
            sparse: false,
            ..before.clone()
        };
        assert_eq!(plain, *after);
    }
}

#[test]
fn global_headers_stay_in_rewritten_archives() {
    let global = raw_pax(
        b"52 comment=0123456789012345678901234567890123456789\n",
        b'g',
    );
    let archive = [global, file("a", "1"), vec![0; 2 * BLOCK]].concat();
    let out = rewritten(&archive, 4_000_000_000);
    assert_eq!(
        BlobDigest::of(&out).to_string(),
        "sha256:c5d997dd7f1c5207a783e683e07a51d7b5a81668172eb3ca8378120deaf2e75a"
    );
}

#[test]
fn class_12_holes_of_rewritten_archives_are_bounded() {
    let entries = [
        pax(&[
            "GNU.sparse.major=1",
            "GNU.sparse.minor=0",
            "GNU.sparse.name=holes",
            "GNU.sparse.realsize=8000000000000000000",
        ]),
        block("holes", b'0', 512, |_| ()),
        data(b"0\n"),
    ];
    let archive = [entries.concat(), vec![0; 2 * BLOCK]].concat();
    let mut out = Vec::new();
    let error = rewrite_times(
        &archive[..],
        &mut out,
        Timestamp::default(),
        LIMIT,
        &Cancel::new(),
    );
    assert!(
        matches!(error, Err(RewriteError::TooLarge { .. })),
        "{error:?}"
    );
    assert!(out.len() < 10 * BLOCK);
}

#[test]
fn rewritten_files_have_as_many_bytes_as_the_limit_says() {
    let archive = [file("a", "12"), file("b", "345"), vec![0; 2 * BLOCK]].concat();
    let rewritten = |limit: u64| {
        let latest = Timestamp::default();
        rewrite_times(&archive[..], io::sink(), latest, limit, &Cancel::new())
    };
    assert!(rewritten(5).is_ok());
    let error = rewritten(4).unwrap_err();
    assert!(
        matches!(error, RewriteError::TooLarge { limit: 4 }),
        "{error}"
    );
}

#[test]
fn class_12_what_follows_an_archive_is_read_until_it_is_cancelled() {
    /// Raises the flag when it is read.
    struct Rest<'a>(&'a Cancel, u64);
    impl Read for Rest<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.cancel();
            self.1 += 1;
            Ok(if self.1 > 100 { 0 } else { buffer.len() })
        }
    }
    let archive = [file("a", "1"), vec![0; 2 * BLOCK]].concat();
    let cancel = Cancel::new();
    let mut rest = Rest(&cancel, 0);
    let whole = (&archive[..]).chain(&mut rest);
    let ended = rewrite_times(whole, io::sink(), Timestamp::default(), LIMIT, &cancel);
    assert!(
        matches!(ended, Err(RewriteError::Cancelled(_))),
        "{ended:?}"
    );
    assert_eq!(rest.1, 1);

    let folder = tempfile::tempdir().unwrap();
    let fs = std::fs::File::open(folder.path()).unwrap();
    let cancel = Cancel::new();
    let mut rest = Rest(&cancel, 0);
    let whole = (&archive[..]).chain(&mut rest);
    let options = crate::tree::apply::ApplyOptions { privileged: false };
    let limits = crate::limits::Limits::default();
    let ended = crate::tree::apply::apply(whole, fs.as_fd(), options, &limits, &cancel);
    assert!(
        matches!(ended, Err(crate::tree::apply::ApplyError::Cancelled(_))),
        "{ended:?}"
    );
    assert_eq!(rest.1, 1);
}
