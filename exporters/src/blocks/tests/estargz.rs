//! The table of contents, read as its specification says and by none of the code that writes it.

use std::collections::BTreeMap;
use std::io::Read as _;

use ashlar_solver::tree::tar::{Header, TarFormat, TarKind, TarReader, TarWriter};
use serde_json::Value;

use super::*;
use crate::blocks::estargz::plain;

fn entry(name: &str, kind: TarKind, size: u64, link: &str) -> Header {
    let mut header = plain(name, size);
    header.kind = kind;
    header.link = link.as_bytes().to_vec();
    header.mtime.seconds = 1_650_000_000;
    header.uid = 7;
    header.xattrs = vec![(b"user.x".to_vec(), vec![0xff, 0])];
    header
}

fn tar(files: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut tar = TarWriter::new(&mut bytes);
    for (header, data) in files {
        tar.header(header, TarFormat::Pax).unwrap();
        tar.data(data).unwrap();
    }
    tar.finish().unwrap();
    bytes
}

fn files() -> Vec<(Header, Vec<u8>)> {
    let file = |name: &str, bytes: Vec<u8>| {
        let size = bytes.len() as u64;
        (entry(name, TarKind::File, size, ""), bytes)
    };
    let mut files = vec![
        (entry("d/", TarKind::Directory, 0, ""), Vec::new()),
        file("d/empty", Vec::new()),
        file("d/small", b"small".to_vec()),
        // Two chunks.
        file("large", data((4 << 20) + 100_000)),
        (entry("l", TarKind::Symlink, 0, "d/small"), Vec::new()),
        (entry("h", TarKind::HardLink, 0, "d/small"), Vec::new()),
        (entry("c", TarKind::CharDevice, 0, ""), Vec::new()),
    ];
    files[6].0.device.major = 5;
    for at in 0..200 {
        files.push(file(&format!("many/{at}"), data(at * 40)));
    }
    files
}

const ESTARGZ: Compression = Compression::Estargz { level: 1 };

/// The table, where it begins, and its digest.
fn table(blob: &[u8]) -> (Value, usize, BlobDigest) {
    let footer = &blob[blob.len() - 51..];
    let digits = std::str::from_utf8(&footer[16..32]).unwrap();
    let at = usize::from_str_radix(digits, 16).unwrap();
    assert_eq!(&footer[32..38], b"STARGZ");
    assert!(inflate(ESTARGZ, footer).is_empty());
    let tar = inflate(ESTARGZ, &blob[at..]);
    let mut reader = TarReader::new(&tar[..]);
    let header = reader.next_entry().unwrap().unwrap();
    assert_eq!(header.path, b"stargz.index.json");
    let mut json = Vec::new();
    loop {
        let more = reader.data(u64::MAX).unwrap();
        if more.is_empty() {
            break;
        }
        json.extend_from_slice(more);
    }
    assert!(reader.next_entry().unwrap().is_none(), "it is the last one");
    let digest = BlobDigest::of(&json);
    (serde_json::from_slice(&json).unwrap(), at, digest)
}

/// The bytes of one member, from its start.
fn member(blob: &[u8], offset: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut decoder = flate2::bufread::GzDecoder::new(&blob[offset..]);
    decoder.read_to_end(&mut out).unwrap();
    out
}

#[test]
fn every_file_can_be_read_by_the_table_alone() {
    let files = files();
    let tar = tar(&files);
    let (blob, told) = make(2, ESTARGZ, &tar);
    let (table, at, digest) = table(&blob);
    assert_eq!(
        (table["version"].as_u64(), told.contents),
        (Some(1), Some(digest))
    );
    // The tar is kept, and the rest stands behind its end.
    let whole = inflate(ESTARGZ, &blob);
    assert!(whole.starts_with(&tar));
    assert_eq!(told.diff_id, Some(DiffId::of(&whole)));
    assert_eq!(told.size, whole.len() as u64);
    let mut read: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut seen = Vec::new();
    for entry in table["entries"].as_array().unwrap() {
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| usize::try_from(entry[name].as_u64().unwrap_or(0)).unwrap();
        let (name, kind) = (text("name"), text("type"));
        if kind != "chunk" {
            seen.push((name.clone(), kind.clone()));
        }
        if number("size") == 0 && kind != "chunk" {
            continue;
        }
        assert!(number("offset") > 0 && number("offset") < at);
        let so_far = read.entry(name.clone()).or_default();
        assert_eq!(number("chunkOffset"), so_far.len());
        let header = files
            .iter()
            .find(|(header, _)| header.path == name.as_bytes());
        let size = header.map_or(1, |(header, _)| usize::try_from(header.size).unwrap());
        let length = match number("chunkSize") {
            0 => size - so_far.len(),
            length => length,
        };
        let bytes = member(&blob, number("offset"))[..length].to_vec();
        assert_eq!(
            text("chunkDigest"),
            BlobDigest::of(&bytes).to_string(),
            "{name}"
        );
        so_far.extend(bytes);
        if kind == "reg" {
            let whole = header.map_or(&[0xf][..], |(_, bytes)| bytes);
            assert_eq!(text("digest"), BlobDigest::of(whole).to_string());
        }
    }
    let mut expected = Vec::new();
    for (header, bytes) in &files {
        let name = String::from_utf8(header.path.clone()).unwrap();
        let kind = match header.kind {
            TarKind::File => "reg",
            TarKind::Directory => "dir",
            TarKind::Symlink => "symlink",
            TarKind::HardLink => "hardlink",
            _ => "char",
        };
        expected.push((name.clone(), kind.to_owned()));
        assert_eq!(read.remove(&name).unwrap_or_default(), *bytes, "{name}");
    }
    expected.push((".no.prefetch.landmark".to_owned(), "reg".to_owned()));
    assert_eq!(seen, expected);
    assert_eq!(read[".no.prefetch.landmark"], [0xf]);
    let find = |name: &str| {
        let mut all = table["entries"].as_array().unwrap().iter();
        all.find(|entry| entry["name"] == name).unwrap().clone()
    };
    assert_eq!(find("l")["linkName"], "d/small");
    assert_eq!(
        (&find("c")["devMajor"], &find("c")["uid"]),
        (&5.into(), &7.into())
    );
    assert_eq!(find("d/small")["modtime"], "2022-04-15T05:20:00Z");
    assert_eq!(find("d/small")["xattrs"]["user.x"], "/wA=");
    assert!(make(8, ESTARGZ, &tar).0 == blob);
}

#[test]
fn what_cannot_be_in_a_table_is_refused() {
    let mut name = entry("x", TarKind::File, 0, "");
    name.path = b"\xff".to_vec();
    let twice = entry("./stargz.index.json", TarKind::File, 0, "");
    for (header, part) in [(name, "UTF-8"), (twice, "already")] {
        let tar = tar(&[(header, Vec::new())]);
        let error = refusal(&tar);
        assert!(error.contains(part), "{error}");
    }
    let cut = &tar(&files())[..700];
    assert!(refusal(cut).contains("in the middle"));
    assert!(refusal(&[7; 2000]).contains("malformed"));
}

fn refusal(data: &[u8]) -> String {
    let work = Memory {
        compression: ESTARGZ,
        data,
        fail: None,
    };
    let error = run_on(threads(2), &[work], &Cancel::new()).unwrap_err();
    let Failed::Io(error) = error else {
        panic!("{error:?}")
    };
    error.to_string()
}

#[test]
fn a_landmark_that_is_there_is_enough() {
    let file = (entry(".prefetch.landmark", TarKind::File, 1, ""), vec![0xf]);
    let tar = tar(&[file]);
    let (blob, _) = make(1, ESTARGZ, &tar);
    let entries = table(&blob).0["entries"].as_array().unwrap().len();
    assert_eq!(entries, 1);
    // Much that follows the archive is kept.
    let more = [&tar[..], &vec![0; 5 << 20]].concat();
    let (blob, _) = make(2, ESTARGZ, &more);
    assert!(inflate(ESTARGZ, &blob).starts_with(&more));
}
