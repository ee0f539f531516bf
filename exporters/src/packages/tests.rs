//! Trees that anybody may have made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};
use proptest::prelude::*;
use rustix::fs::MemfdFlags;

use super::tree::text;
use super::{Package, Tree, packages};
use crate::sbom::{ScanError, ScanLimits};

/// Files in memory.
#[derive(Debug)]
struct Memory(BTreeMap<TreePath, Vec<u8>>);

impl Files for Memory {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let bytes = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        let mut file = File::from(rustix::fs::memfd_create("file", MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(file)
    }

    fn immutable(&self) -> bool {
        true
    }
}

/// A view with these files.
fn view(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> View {
    let files: BTreeMap<TreePath, Vec<u8>> = files
        .into_iter()
        .map(|(path, bytes)| (TreePath::new(path).unwrap(), bytes))
        .collect();
    let memory = Arc::new(Memory(files));
    let mut view = View::empty();
    for (path, bytes) in &memory.0 {
        let mut parents: Vec<TreePath> =
            std::iter::successors(path.parent(), TreePath::parent).collect();
        parents.reverse();
        for parent in parents {
            if view.lookup(&parent).is_none() {
                let entry = Entry::new(Kind::Directory, Attributes::default());
                view = view.with(&parent, Node::directory(entry, None, Vec::new()));
            }
        }
        let mut entry = Entry::new(Kind::File, Attributes::default());
        entry.size = bytes.len() as u64;
        view = view.with(path, Node::leaf(entry, Some(memory.clone())));
    }
    view
}

/// The package URLs found in such files.
fn found(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Vec<String>, ScanError> {
    let (packages, _) = scan(files, &ScanLimits::default())?;
    Ok(packages.into_iter().map(|package| package.purl).collect())
}

/// What is found in such files, and what is remarked.
fn scan(
    files: impl IntoIterator<Item = (String, Vec<u8>)>,
    limits: &ScanLimits,
) -> Result<(Vec<Package>, Vec<String>), ScanError> {
    let (view, cancel) = (view(files), Cancel::new());
    let tree = Tree::new(&view, limits, &cancel);
    Ok(packages(&tree)?.into_parts())
}

/// A text file.
fn file(path: &str, text: impl Into<String>) -> (String, Vec<u8>) {
    (path.to_owned(), text.into().into_bytes())
}

/// A header of rpm with a name and a version.
fn header(name: &str) -> Vec<u8> {
    let data = format!("{name}\0{}\0{}\0", "1.0", "2");
    let mut bytes = Vec::new();
    let fields: [(usize, usize); 3] = [(1000, 0), (1001, name.len() + 1), (1002, name.len() + 5)];
    let words = [3, data.len()].into_iter();
    let words = words.chain(fields.into_iter().flat_map(|(tag, at)| [tag, 6, at, 1]));
    for word in words {
        bytes.extend(u32::try_from(word).unwrap().to_be_bytes());
    }
    bytes.extend(data.into_bytes());
    bytes
}

/// An SQLite database with these headers, its pages as small as they can be.
fn sqlite(headers: &[Vec<u8>]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch(
            "PRAGMA page_size=512; CREATE TABLE Other(a); \
            CREATE TABLE Packages(hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);",
        )
        .unwrap();
    for header in headers {
        let insert = "INSERT INTO Packages(blob) VALUES (?)";
        database.execute(insert, [header]).unwrap();
    }
    drop(database);
    std::fs::read(path).unwrap()
}

/// A database in rpm's own format.
fn ndb(headers: &[Vec<u8>]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    let mut file = b"RpmP".to_vec();
    file.extend(
        [
            word(0),
            word(1),
            word(1),
            word(9),
            word(0),
            word(0),
            word(0),
        ]
        .concat(),
    );
    let mut blobs = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        let (index, place) = (word(index + 1), (4096 + blobs.len()) / 16);
        let mut blob = b"BlbS".to_vec();
        blob.extend([index, word(1), word(header.len())].concat());
        blob.extend(header);
        blob.resize((blob.len() + 12).next_multiple_of(16), 0);
        file.extend([*b"Slot", index, word(place), word(blob.len() / 16)].concat());
        blobs.extend(blob);
    }
    while file.len() < 4096 {
        file.extend([*b"Slot", word(0), word(0), word(0)].concat());
    }
    file.extend(blobs);
    file
}

/// A hash table of Berkeley DB: one page of entries, the first value on it, others on pages of
/// their own.
fn berkeley(headers: &[Vec<u8>]) -> Vec<u8> {
    let mut meta = vec![0; 512];
    meta[12..16].copy_from_slice(&0x0006_1561_u32.to_le_bytes());
    meta[20..24].copy_from_slice(&512_u32.to_le_bytes());
    meta[25] = 8;
    let mut table = vec![0; 512];
    table[25] = 13;
    let mut pages = Vec::new();
    let (mut end, mut entries) = (512, 0_usize);
    let mut add = |item: &[u8]| {
        end -= item.len();
        table[end..end + item.len()].copy_from_slice(item);
        let at = 26 + 2 * entries;
        table[at..at + 2].copy_from_slice(&u16::try_from(end).unwrap().to_le_bytes());
        entries += 1;
        let count = u16::try_from(entries).unwrap();
        table[20..22].copy_from_slice(&count.to_le_bytes());
    };
    for (index, header) in headers.iter().enumerate() {
        add(&[1, 0, 0, 0, 1]);
        if index == 0 {
            add(&[&[1], &header[..]].concat());
            continue;
        }
        let first = u32::try_from(2 + pages.len() / 512).unwrap();
        let length = u32::try_from(header.len()).unwrap();
        add(&[
            &[3, 0, 0, 0],
            &first.to_le_bytes()[..],
            &length.to_le_bytes(),
        ]
        .concat());
        let parts: Vec<&[u8]> = header.chunks(40).collect();
        for (number, part) in parts.iter().enumerate() {
            let mut page = vec![0; 512];
            let next = match number + 1 < parts.len() {
                true => first + u32::try_from(number).unwrap() + 1,
                false => 0,
            };
            page[16..20].copy_from_slice(&next.to_le_bytes());
            page[22..24].copy_from_slice(&u16::try_from(part.len()).unwrap().to_le_bytes());
            page[25] = 7;
            page[26..26 + part.len()].copy_from_slice(part);
            pages.extend(page);
        }
    }
    [meta, table, pages].concat()
}

/// Files that are what their names promise, and what is found in them.
fn intact() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let headers = [header("one"), header(&"long".repeat(300)), header("two")];
    let short = [header("one"), header(&"x".repeat(100)), header("two")];
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        (
            "var/lib/rpm/rpmdb.sqlite",
            sqlite(&headers),
            &["pkg:rpm/one@1.0-2", "pkg:rpm/two@1.0-2"],
        ),
        (
            "var/lib/rpm/Packages.db",
            ndb(&headers),
            &["pkg:rpm/one@1.0-2", "pkg:rpm/two@1.0-2"],
        ),
        (
            "var/lib/rpm/Packages",
            berkeley(&short),
            &["pkg:rpm/one@1.0-2", "pkg:rpm/two@1.0-2"],
        ),
        (
            "var/lib/dpkg/status",
            text(
                "Package: a\nVersion: 1\nDescription: x\n y\nSource: b (2)\n\nPackage: c\nVersion: 1\n",
            ),
            &["pkg:deb/debian/a@1?upstream=b%402", "pkg:deb/debian/c@1"],
        ),
        (
            "lib/apk/db/installed",
            text("P:a\nV:1\nF:x\nR:y\n\nP:b\nV:2\n"),
            &["pkg:apk/alpine/a@1", "pkg:apk/alpine/b@2"],
        ),
        (
            "Cargo.lock",
            text("[[package]]\nname=\"a\"\nversion=\"1\"\n"),
            &["pkg:cargo/a@1"],
        ),
        (
            "package-lock.json",
            text(
                r#"{"packages":{"node_modules/a":{"version":"1.0"}},"dependencies":{"b":{"version":"2","dependencies":{"c":{"version":"3"}}}}}"#,
            ),
            &["pkg:npm/a@1.0"],
        ),
        (
            "yarn.lock",
            text("a@^1:\n  version \"1.0\"\n"),
            &["pkg:npm/a@1.0"],
        ),
        (
            "node_modules/a/package.json",
            text(r#"{"name":"a","version":"1.0","license":{"type":"MIT"}}"#),
            &["pkg:npm/a@1.0"],
        ),
        (
            "Pipfile.lock",
            text(r#"{"default":{"a":{"version":"==1"}}}"#),
            &["pkg:pypi/a@1"],
        ),
        ("requirements.txt", text("a==1\n"), &["pkg:pypi/a@1"]),
        (
            "x.dist-info/METADATA",
            text("Name: a\nVersion: 1\n"),
            &["pkg:pypi/a@1"],
        ),
    ]
}

#[test]
fn each_kind_of_file_is_read() {
    for (path, bytes, expected) in intact() {
        let found = found([(path.to_owned(), bytes)]).unwrap();
        for package in expected {
            assert!(
                found.iter().any(|found| found == package),
                "{path}: {found:?}"
            );
        }
    }
}

/// The limit that is kept by refusing these files.
fn beyond(files: impl IntoIterator<Item = (String, Vec<u8>)>, limits: &ScanLimits) -> &'static str {
    match scan(files, limits).map(|(packages, _)| packages.len()) {
        Err(ScanError::Limit { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

/// A database of dpkg with so many packages.
fn debian(packages: usize) -> String {
    let paragraph = |number| format!("Package: p{number}\nVersion: 1\n\n");
    (0..packages).map(paragraph).collect()
}

#[test]
fn class_12_what_all_packages_share_is_short() {
    let long = "+".repeat(30_000);
    let files = [
        file("etc/os-release", format!("ID={long}\nVERSION_ID={long}\n")),
        file("var/lib/dpkg/status", debian(100)),
    ];
    let found = found(files).unwrap();
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|purl| purl.len() < 2000));
}

#[test]
fn class_12_more_than_a_document_may_have_is_not_collected() {
    let mut limits = ScanLimits::default();
    let files = || [file("var/lib/dpkg/status", debian(1000))];
    assert_eq!(scan(files(), &limits).unwrap().0.len(), 1000);
    limits.document_bytes = 10_000;
    assert_eq!(beyond(files(), &limits), "bytes of documents about it");
    // Nor of one package, of which many files tell.
    let lock = |number: u32| {
        let sum = format!("{number:064}");
        let lock = format!("[[package]]\nname=\"a\"\nversion=\"1\"\nchecksum=\"{sum}\"\n");
        file(&format!("{number}/Cargo.lock"), lock)
    };
    assert_eq!(scan((0..100).map(lock), &limits).unwrap().0.len(), 1);
    let many = beyond((0..1000).map(lock), &limits);
    assert_eq!(many, "bytes of documents about it");
}

#[test]
fn class_12_lists_of_files_are_bounded() {
    let mut limits = ScanLimits::default();
    let deep = format!("{}x", "directory/".repeat(100));
    let files = |list: String| {
        [
            file("var/lib/dpkg/status", debian(1)),
            file("var/lib/dpkg/info/p0.list", list),
            file(&deep, ""),
        ]
    };
    let (found, _) = scan(files(format!("/{deep}\n")), &limits).unwrap();
    assert_eq!(found[0].files.len(), 1);
    // Of files that are not there, too.
    limits.files = 1000;
    let missing = |count: usize| files("/missing\n".repeat(count));
    assert!(scan(missing(900), &limits).is_ok());
    assert_eq!(beyond(missing(1001), &limits), "files of packages");
    limits.path_bytes = 1000;
    let paths = beyond(files(format!("/{deep}\n")), &limits);
    assert_eq!(paths, "bytes of paths of files of packages");
}

#[test]
fn class_12_entries_of_a_page_do_not_share_it() {
    // Each time the same entry of a hash table.
    let mut table = berkeley(&[header(&"x".repeat(100))]);
    let pair: [u8; 4] = *table[512 + 26..].first_chunk().unwrap();
    table[512 + 20..512 + 22].copy_from_slice(&120_u16.to_le_bytes());
    for at in 0..60 {
        let at = 512 + 26 + 4 * at;
        table[at..at + 4].copy_from_slice(&pair);
    }
    // And the same row of a table.
    let mut database = sqlite(&[header(&"x".repeat(100))]);
    let page = database
        .chunks_exact_mut(512)
        .find(|page| page[0] == 13 && page.windows(4).any(|part| part == b"xxxx"))
        .unwrap();
    let place: [u8; 2] = *page[8..].first_chunk().unwrap();
    page[3..5].copy_from_slice(&60_u16.to_be_bytes());
    for at in 0..60 {
        page[8 + 2 * at..10 + 2 * at].copy_from_slice(&place);
    }
    for (name, bytes, reason) in [
        ("Packages", table, "its entries overlap"),
        ("rpmdb.sqlite", database, "its rows overlap"),
    ] {
        let files = [(format!("var/lib/rpm/{name}"), bytes)];
        let (_, remarks) = scan(files, &ScanLimits::default()).unwrap();
        assert!(remarks[0].ends_with(reason), "{remarks:?}");
    }
}

#[test]
fn class_12_remarks_that_are_kept_are_bounded() {
    let files = (0..60).map(|number| file(&format!("{number}/Cargo.lock"), "no lock"));
    let (_, remarks) = scan(files, &ScanLimits::default()).unwrap();
    assert_eq!(remarks.len(), 51, "{remarks:?}");
    assert_eq!(remarks[50], "10 more files could not be read");
}

#[test]
fn class_8_remarks_and_licenses_have_no_credentials_and_an_end() {
    let address = "https://me:hunter2@host/x";
    let long = format!("{address} {}", "y".repeat(100_000));
    let license = format!(
        r#"{{"packages":{{"node_modules/a":{{"version":"1","license":"see {address}"}}}}}}"#
    );
    let files = [
        file("Pipfile.lock", format!(r#"{{"default":"{long}"}}"#)),
        file("package-lock.json", license),
    ];
    let (found, remarks) = scan(files, &ScanLimits::default()).unwrap();
    assert!(
        remarks[0].contains("https://xxxxx:xxxxx@host"),
        "{remarks:?}"
    );
    assert!(remarks[0].len() < 400, "{remarks:?}");
    let references = found[0].license.references();
    let told = references.values().next().unwrap();
    assert_eq!(told, "see https://xxxxx:xxxxx@host/x");
}

#[test]
fn class_8_an_address_that_is_cut_has_no_credentials() {
    let address = b"see https://me:hunter2@host/x";
    for most in 0..=address.len() {
        let shown = text(address, most);
        assert!(shown.len() <= most && !shown.contains("hunt"), "{shown}");
    }
    assert_eq!(text("ää".as_bytes(), 3), "ä");
    assert_eq!(text(b" a b ", 2), "a");
    assert_eq!(text(b"\xff\xff", 4), "\u{fffd}");
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Change {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    use prop::sample::Index;
    let pieces = prop::sample::select(vec![
        &b"\n\n"[..],
        b"{\"",
        b"[[",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"://a:b@",
        b"LicenseRef-",
        b"((",
    ]);
    prop_oneof![
        8 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
        2 => (any::<Index>(), pieces).prop_map(|(at, piece)| Change::Insert(at, piece.to_vec())),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    let at = |index: &prop::sample::Index| index.index(bytes.len().max(1));
    match change {
        _ if bytes.is_empty() => {}
        Change::Byte(index, byte) => {
            let at = at(index);
            bytes[at] = *byte;
        }
        Change::Cut(index) => bytes.truncate(at(index)),
        Change::Repeat(from, to) => {
            let (from, to) = (at(from), at(to));
            let part = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.splice(from..from, part);
        }
        Change::Insert(index, piece) => {
            let at = at(index);
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn class_12_no_bytes_make_a_scan_fail_or_panic(
        kind in 0..12_usize,
        changes in prop::collection::vec(change(), 1..8),
    ) {
        thread_local! {
            static INTACT: Vec<(&'static str, Vec<u8>, &'static [&'static str])> = intact();
        }
        let (path, mut bytes) = INTACT.with(|all| (all[kind].0.to_owned(), all[kind].1.clone()));
        for change in &changes {
            apply(&mut bytes, change);
        }
        prop_assert!(found([(path, bytes)]).is_ok());
    }
}
