//! Copies that unpack archives.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_llb::pb;
use ashlar_llb::pb::file_action::Action;
use ashlar_llb::pb::user_opt::User;
use ashlar_solver::cancel::Cancel;
use ashlar_solver::error::OperationError;
use ashlar_solver::executor::ScriptedExecutor;
use ashlar_solver::limits::Limits;
use ashlar_solver::operation::Operation as _;
use ashlar_solver::ops::file::{FileError, FileOperation, FileProblem};
use ashlar_solver::refs::{Lazy, Ref};
use ashlar_solver::snapshot::Stack;
use ashlar_solver::tree::checksum::FileHasher;
use ashlar_solver::tree::writer::WriteError;
use ashlar_solver::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};

use crate::ops_kit::Kit;

fn kit() -> Kit {
    Kit::with(Arc::new(ScriptedExecutor::default()))
}

/// One entry of an archive: kind, name, link, mode, bytes.
type Item<'a> = (tar::EntryType, &'a str, &'a str, u32, &'a [u8]);

const FILE: tar::EntryType = tar::EntryType::Regular;
const DIRECTORY: tar::EntryType = tar::EntryType::Directory;
const LINK: tar::EntryType = tar::EntryType::Symlink;
const HARD: tar::EntryType = tar::EntryType::Link;

/// An archive of these entries, owned by 7:8, of second 1000.
fn archive(items: &[Item<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for &(kind, name, link, mode, data) in items {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1000);
        header.set_size(data.len() as u64);
        // As they are: the library refuses what leads out.
        let raw = header.as_mut_bytes();
        raw[..name.len()].copy_from_slice(name.as_bytes());
        raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

fn copy(dest: &str) -> pb::FileActionCopy {
    pb::FileActionCopy {
        src: "/archive".into(),
        dest: dest.into(),
        mode: -1,
        timestamp: -1,
        create_dest_path: true,
        attempt_unpack_docker_compatibility: true,
        ..pb::FileActionCopy::default()
    }
}

fn run(kit: &Kit, actions: Vec<pb::FileAction>, inputs: Vec<Ref>) -> Result<Ref, OperationError> {
    let op = pb::FileOp { actions };
    let operation = FileOperation::new(&op, inputs.len(), "test", &kit.engine)?;
    let context = kit.context();
    let done = kit.runtime.block_on(operation.run(inputs, &context));
    done.map(|mut outputs| outputs.remove(0))
}

fn action(input: i64, secondary_input: i64, action: Action) -> pb::FileAction {
    pb::FileAction {
        input,
        secondary_input,
        output: 0,
        action: Some(action),
    }
}

/// A tree with a file `/archive` of these bytes.
fn holding(kit: &Kit, bytes: Vec<u8>) -> Ref {
    let made = Action::Mkfile(pb::FileActionMkFile {
        path: "/archive".into(),
        mode: 0o600,
        data: bytes.into(),
        owner: None,
        timestamp: 5_000_000_000,
    });
    run(kit, vec![action(-1, -1, made)], vec![]).unwrap()
}

/// What copying the archive onto an empty tree gives.
fn unpacked(kit: &Kit, bytes: Vec<u8>, copy: pb::FileActionCopy) -> Result<Ref, OperationError> {
    let source = holding(kit, bytes);
    run(kit, vec![action(-1, 0, Action::Copy(copy))], vec![source])
}

/// What copying one archive after another to the same place gives.
fn both(kit: &Kit, first: &[Item<'_>], second: &[Item<'_>]) -> Result<Ref, OperationError> {
    let base = unpacked(kit, archive(first), copy("/to"))?;
    let inputs = vec![base, holding(kit, archive(second))];
    run(kit, vec![action(0, 1, Action::Copy(copy("/to")))], inputs)
}

fn listing(tree: &Ref) -> Vec<String> {
    let view = tree.view().unwrap();
    let line = |(path, node): (TreePath, &Arc<Node>)| {
        let entry = node.entry();
        let attributes = &entry.attributes;
        let about = format!(
            "{path} {:o} {}:{}",
            attributes.mode, attributes.uid, attributes.gid
        );
        match entry.kind {
            Kind::File => {
                let mut text = String::new();
                let mut file = node.files().unwrap().open(&path).unwrap();
                file.read_to_string(&mut text).unwrap();
                let text = text.replace('\0', ".");
                format!("{about} {text:?}")
            }
            Kind::Symlink => format!("{about} -> {}", String::from_utf8_lossy(&entry.target)),
            Kind::Directory => format!("{about} /"),
            kind => format!("{about} {kind:?} {:?}", entry.device),
        }
    };
    view.walk().map(line).collect()
}

fn problem(result: Result<Ref, OperationError>) -> FileProblem {
    let Err(OperationError::Failed(failure)) = &result else {
        panic!("{:?}", result.map(|tree| listing(&tree)));
    };
    let Some(FileError::Action { problem, .. }) = failure.downcast_ref() else {
        panic!("{failure:?}");
    };
    // Problems hold errors of the system, which cannot be cloned.
    match problem {
        FileProblem::Unpack { problem, .. } => match &**problem {
            FileProblem::TooLarge { limit } => FileProblem::TooLarge { limit: *limit },
            FileProblem::TooMany { limit } => FileProblem::TooMany { limit: *limit },
            FileProblem::NotFound { path, .. } => FileProblem::NotFound {
                path: path.clone(),
                nearest: Vec::new(),
            },
            FileProblem::NotADirectory { path } => {
                FileProblem::NotADirectory { path: path.clone() }
            }
            FileProblem::Tar(error) => FileProblem::Pattern {
                pattern: "tar".into(),
                reason: error.to_string(),
            },
            other => FileProblem::Pattern {
                pattern: "other".into(),
                reason: other.to_string(),
            },
        },
        FileProblem::Write(WriteError::InputChanged { path }) => {
            FileProblem::Write(WriteError::InputChanged { path: path.clone() })
        }
        other => panic!("{other:?}"),
    }
}

const HELLO: &[Item<'_>] = &[
    (DIRECTORY, "d/", "", 0o750, b""),
    (FILE, "d/hello", "", 0o644, b"hi"),
    (LINK, "link", "d/hello", 0o777, b""),
];

#[test]
fn every_compression_is_unpacked() {
    let kit = kit();
    let plain = archive(HELLO);
    let (one, two) = plain.split_at(700);
    let skippable = [
        &[0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2][..],
        &zstd(&plain),
    ]
    .concat();
    for (name, bytes) in [
        ("none", plain.clone()),
        ("gzip", gzip(&plain)),
        ("bzip2", bzip2(&plain)),
        ("xz", xz(&plain)),
        ("zstd", zstd(&plain)),
        ("gzip in two members", [gzip(one), gzip(two)].concat()),
        ("bzip2 in two streams", [bzip2(one), bzip2(two)].concat()),
        ("xz in two streams", [xz(one), xz(two)].concat()),
        ("zstd in two frames", [zstd(one), zstd(two)].concat()),
        ("zstd after a skippable frame", skippable),
        (
            "gzip with rubbish behind",
            [gzip(&plain), vec![1; 100]].concat(),
        ),
    ] {
        let tree = unpacked(&kit, bytes, copy("/to")).unwrap();
        let expected = [
            "/to 755 0:0 /",
            "/to/d 750 7:8 /",
            "/to/d/hello 644 7:8 \"hi\"",
            "/to/link 777 7:8 -> d/hello",
        ];
        assert_eq!(listing(&tree), expected, "{name}");
        let view = tree.view().unwrap();
        for path in ["to/d", "to/d/hello", "to/link"] {
            let node = view.lookup(&TreePath::new(path).unwrap()).unwrap();
            assert_eq!(
                node.entry().attributes.mtime.seconds,
                1000,
                "{name}: {path}"
            );
        }
    }
}

#[test]
fn what_is_no_archive_is_copied() {
    let kit = kit();
    let damaged = gzip(&archive(HELLO));
    for bytes in [
        b"text".to_vec(),
        Vec::new(),
        vec![0; 2048],
        gzip(b"text"),
        bzip2(b"text"),
        xz(b"text"),
        zstd(b"text"),
        b"BZh9 is no archive".to_vec(),
        damaged[..20].to_vec(),
    ] {
        let tree = unpacked(&kit, bytes.clone(), copy("/to")).unwrap();
        let view = tree.view().unwrap();
        let node = view.lookup(&TreePath::new("to").unwrap()).unwrap();
        assert_eq!(node.entry().size, bytes.len() as u64, "{bytes:?}");
    }
    let mut plain = copy("/to");
    plain.attempt_unpack_docker_compatibility = false;
    let tree = unpacked(&kit, archive(HELLO), plain).unwrap();
    assert_eq!(tree.view().unwrap().walk().count(), 1);
}

#[test]
fn an_owner_replaces_all_owners_and_a_time_only_that_of_the_destination() {
    let kit = kit();
    let id = |id| {
        Some(pb::UserOpt {
            user: Some(User::ById(id)),
        })
    };
    let mut owned = copy("/made/to");
    owned.owner = Some(pb::ChownOpt {
        user: id(1),
        group: id(2),
    });
    owned.timestamp = 9_000_000_000;
    owned.mode = 0o600;
    let tree = unpacked(&kit, archive(HELLO), owned).unwrap();
    let expected = [
        "/made 755 1:2 /",
        "/made/to 755 1:2 /",
        "/made/to/d 750 1:2 /",
        "/made/to/d/hello 644 1:2 \"hi\"",
        "/made/to/link 777 1:2 -> d/hello",
    ];
    assert_eq!(listing(&tree), expected);
    let view = tree.view().unwrap();
    let seconds = |path: &str| {
        let node = view.lookup(&TreePath::new(path).unwrap()).unwrap();
        node.entry().attributes.mtime.seconds
    };
    assert_eq!((seconds("made"), seconds("made/to/d")), (9, 1000));
}

#[test]
fn what_is_there_is_replaced_and_directories_are_merged() {
    let kit = kit();
    let first: &[Item<'_>] = &[
        (DIRECTORY, "d", "", 0o700, b""),
        (FILE, "d/kept", "", 0o600, b"kept"),
        (FILE, "d/file", "", 0o600, b"old"),
        (DIRECTORY, "gone", "", 0o700, b""),
        (FILE, "gone/x", "", 0o600, b""),
        (FILE, "becomes", "", 0o600, b""),
        (LINK, "link", "d", 0o777, b""),
    ];
    let second: &[Item<'_>] = &[
        (DIRECTORY, ".", "", 0o711, b""),
        (DIRECTORY, "d", "", 0o711, b""),
        (FILE, "d/file", "", 0o644, b"new"),
        (FILE, "gone", "", 0o644, b"file"),
        (FILE, "becomes/a/directory", "", 0o644, b"x"),
    ];
    let refused = both(&kit, first, second);
    assert!(
        matches!(problem(refused), FileProblem::NotADirectory { path } if path.as_bytes() == b"to/becomes")
    );
    let mut second = second.to_vec();
    second[4] = (DIRECTORY, "becomes", "", 0o711, b"");
    second.push((FILE, "link", "", 0o644, b"no link"));
    let expected = [
        "/to 755 0:0 /",
        "/to/becomes 711 7:8 /",
        "/to/d 711 7:8 /",
        "/to/d/file 644 7:8 \"new\"",
        "/to/d/kept 600 7:8 \"kept\"",
        "/to/gone 644 7:8 \"file\"",
        "/to/link 644 7:8 \"no link\"",
    ];
    assert_eq!(listing(&both(&kit, first, &second).unwrap()), expected);
}

#[test]
fn hard_links_are_of_what_is_there() {
    let kit = kit();
    let second: &[Item<'_>] = &[
        (FILE, "a", "", 0o644, b"a"),
        (HARD, "b", "a", 0o644, b""),
        (HARD, "c", "/d/../d/hello", 0o600, b""),
    ];
    let tree = both(&kit, HELLO, second).unwrap();
    let expected = [
        "/to 755 0:0 /",
        "/to/a 644 7:8 \"a\"",
        "/to/b 644 7:8 \"a\"",
        "/to/c 600 7:8 \"hi\"",
        "/to/d 750 7:8 /",
        "/to/d/hello 600 7:8 \"hi\"",
        "/to/link 777 7:8 -> d/hello",
    ];
    assert_eq!(listing(&tree), expected);
    let view = tree.view().unwrap();
    let group = |path: &str| {
        let node = view.lookup(&TreePath::new(path).unwrap()).unwrap();
        node.entry().link_group
    };
    assert!(group("to/a") != 0 && group("to/a") == group("to/b"));
    assert!(group("to/c") != 0 && group("to/c") == group("to/d/hello"));
    assert_ne!(group("to/a"), group("to/c"));
    for target in ["missing", "b"] {
        let refused = unpacked(
            &kit,
            archive(&[(HARD, "b", target, 0o600, b"")]),
            copy("/to"),
        );
        assert!(
            matches!(problem(refused), FileProblem::NotFound { .. }),
            "{target}"
        );
    }
}

/// CVE class 9: what an archive names stays below the destination, whatever links there are.
#[test]
fn cve_class_9_no_entry_leaves_the_destination() {
    let kit = kit();
    let first: &[Item<'_>] = &[
        (LINK, "up", "../../..", 0o777, b""),
        (LINK, "absolute", "/inner", 0o777, b""),
        (LINK, "loop", "loop", 0o777, b""),
        (LINK, "dangling", "nowhere/at/all", 0o777, b""),
        (DIRECTORY, "inner", "", 0o755, b""),
    ];
    let second: &[Item<'_>] = &[
        (FILE, "../../dots", "", 0o644, b"1"),
        (FILE, "/rooted", "", 0o644, b"2"),
        (FILE, "up/through", "", 0o644, b"3"),
        (FILE, "absolute/through", "", 0o644, b"4"),
        (HARD, "hard", "../../../dots", 0o644, b""),
    ];
    let tree = both(&kit, first, second).unwrap();
    let expected = [
        "/to 755 0:0 /",
        "/to/absolute 777 7:8 -> /inner",
        "/to/dangling 777 7:8 -> nowhere/at/all",
        "/to/dots 644 7:8 \"1\"",
        "/to/hard 644 7:8 \"1\"",
        "/to/inner 755 7:8 /",
        "/to/inner/through 644 7:8 \"4\"",
        "/to/loop 777 7:8 -> loop",
        "/to/rooted 644 7:8 \"2\"",
        "/to/through 644 7:8 \"3\"",
        "/to/up 777 7:8 -> ../../..",
    ];
    assert_eq!(listing(&tree), expected);
    for name in ["loop/x", "dangling/x"] {
        let refused = both(&kit, first, &[(FILE, name, "", 0o644, b"")]);
        problem(refused);
    }
    let root: &[Item<'_>] = &[(FILE, "..", "", 0o644, b"")];
    problem(unpacked(&kit, archive(root), copy("/to")));
}

#[test]
fn special_files_are_made_and_whiteouts_are_not() {
    let kit = kit();
    let mut bytes = archive(&[(tar::EntryType::Fifo, "pipe", "", 0o600, b"")]);
    let tree = unpacked(&kit, bytes.clone(), copy("/to")).unwrap();
    assert!(listing(&tree)[1].starts_with("/to/pipe 600 7:8 Fifo"));
    bytes = archive(&[(tar::EntryType::Char, "null", "", 0o666, b"")]);
    problem(unpacked(&kit, bytes.clone(), copy("/to")));
    // 1:3 instead of 0:0.
    bytes[329..337].copy_from_slice(b"0000001\0");
    bytes[337..345].copy_from_slice(b"0000003\0");
    let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    let tree = unpacked(&kit, bytes, copy("/to")).unwrap();
    assert!(listing(&tree)[1].starts_with("/to/null 666 7:8 CharDevice"));
}

/// GNU tar's own sparse files and long names.
#[test]
#[expect(clippy::disallowed_methods, reason = "the archive is GNU tar's")]
fn archives_of_gnu_tar_are_unpacked() {
    let (kit, folder) = (kit(), tempfile::tempdir().unwrap());
    let long = "l".repeat(150);
    std::fs::write(folder.path().join(&long), "long").unwrap();
    let mut holes = File::create(folder.path().join("holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    holes.write_all(b"start").unwrap();
    let packed = std::process::Command::new("tar")
        .args([
            "--sparse",
            "--owner=3",
            "--group=4",
            "--mtime=@50",
            "--create",
        ])
        .arg("--directory")
        .args([folder.path(), Path::new(&long), Path::new("holes")])
        .output()
        .unwrap();
    assert!(packed.status.success(), "{packed:?}");
    let tree = unpacked(&kit, packed.stdout, copy("/to")).unwrap();
    let view = tree.view().unwrap();
    let read = |name: &str| {
        let path = TreePath::new(format!("to/{name}")).unwrap();
        let node = view.lookup(&path).unwrap();
        assert_eq!(
            (node.entry().attributes.uid, node.entry().attributes.gid),
            (3, 4)
        );
        let mut bytes = Vec::new();
        let mut file = node.files().unwrap().open(&path).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(&long), b"long");
    let mut expected = vec![0; 1 << 20];
    expected[..5].copy_from_slice(b"start");
    assert!(read("holes") == expected);
}

/// CVE class 12: archives that promise more than they are.
#[test]
fn cve_class_12_bombs_are_stopped_at_the_limit() {
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 20;
    limits.layer_entries = 100;
    let kit = Kit::limited(Arc::new(ScriptedExecutor::default()), limits);
    let zeros = vec![0; 8 << 20];
    let bomb = archive(&[(FILE, "zeros", "", 0o644, &zeros)]);
    for bytes in [
        bomb.clone(),
        gzip(&bomb),
        bzip2(&bomb),
        xz(&bomb),
        zstd(&bomb),
    ] {
        let stopped = problem(unpacked(&kit, bytes, copy("/to")));
        assert!(
            matches!(stopped, FileProblem::TooLarge { limit } if limit == 1 << 20),
            "{stopped}"
        );
    }
    let many: Vec<String> = (0..101).map(|number| format!("f{number}")).collect();
    let many: Vec<Item<'_>> = many
        .iter()
        .map(|name| (FILE, &name[..], "", 0o644, &b""[..]))
        .collect();
    let stopped = problem(unpacked(&kit, archive(&many), copy("/to")));
    assert!(
        matches!(stopped, FileProblem::TooMany { limit: 100 }),
        "{stopped}"
    );
    unpacked(&kit, archive(&many[..100]), copy("/to")).unwrap();
}

/// CVE class 12: a decoder that is asked for gigabytes of memory.
#[test]
fn cve_class_12_dictionaries_are_bounded() {
    let kit = kit();
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(options.dict_size(1 << 30));
    let check = liblzma::stream::Check::Crc32;
    let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check).unwrap();
    let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    out.write_all(&archive(HELLO)).unwrap();
    let bytes = out.finish().unwrap();
    // It cannot be told what is in there, so it is a file like others.
    let tree = unpacked(&kit, bytes, copy("/to")).unwrap();
    assert_eq!(tree.view().unwrap().walk().count(), 1);
}

#[test]
fn damaged_archives_are_refused() {
    let kit = kit();
    let text = vec![b'x'; 5000];
    let whole = archive(&[(FILE, "a", "", 0o644, &text)]);
    for bytes in [whole[..2000].to_vec(), gzip(&whole[..2000]), {
        let mut damaged = xz(&whole);
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        damaged
    }] {
        let problem = match unpacked(&kit, bytes, copy("/to")) {
            // Damage before the first header makes it no archive.
            Ok(tree) if tree.view().unwrap().walk().count() == 1 => continue,
            refused => problem(refused),
        };
        assert!(
            matches!(&problem, FileProblem::Pattern { pattern, .. } if pattern == "tar"),
            "{problem}"
        );
    }
}

/// A directory of the caller's, whose files may change at any time.
#[derive(Debug)]
struct Changing {
    folder: PathBuf,
    /// Written to the file when it is opened for the last time.
    last: Vec<u8>,
    opened: std::sync::atomic::AtomicUsize,
}

impl Files for Changing {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let path = self
            .folder
            .join(String::from_utf8_lossy(path.as_bytes()).as_ref());
        // Once for the checksum, once to see what it is, once to unpack it.
        if self
            .opened
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            == 2
        {
            std::fs::write(&path, &self.last)?;
        }
        File::open(path)
    }

    fn immutable(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Tree(View);

impl Lazy for Tree {
    fn view(&self) -> Result<Option<View>, OperationError> {
        Ok(Some(self.0.clone()))
    }

    fn materialize(&self, _: &Cancel) -> Result<Stack, OperationError> {
        panic!("a copy needs no layers");
    }
}

#[test]
fn an_archive_that_changes_is_not_unpacked_under_its_old_key() {
    let (kit, folder) = (kit(), tempfile::tempdir().unwrap());
    let before = gzip(&archive(HELLO));
    let mut after = before.clone();
    let end = after.len() - 1;
    after[end] ^= 1;
    for (last, fails) in [(&before, false), (&after, true)] {
        std::fs::write(folder.path().join("archive"), &before).unwrap();
        let files: Arc<dyn Files> = Arc::new(Changing {
            folder: folder.path().to_path_buf(),
            last: last.clone(),
            opened: 0.into(),
        });
        let mut entry = Entry::new(Kind::File, Attributes::default());
        entry.size = before.len() as u64;
        let node = Node::leaf(entry.clone(), Some(files));
        let root = Entry::new(Kind::Directory, Attributes::default());
        let root = Node::directory(root, None, vec![(Arc::from(&b"archive"[..]), node.clone())]);
        let source = Ref::lazy(Arc::new(Tree(View::new(root))));
        let copied = run(
            &kit,
            vec![action(-1, 0, Action::Copy(copy("/to")))],
            vec![source],
        );
        if fails {
            assert!(matches!(
                problem(copied),
                FileProblem::Write(WriteError::InputChanged { .. })
            ));
        } else {
            assert_eq!(listing(&copied.unwrap()).len(), 4);
        }
        let mut hasher = FileHasher::new(&entry);
        hasher.update(&before);
        assert_eq!(node.digest_memo().get(), Some(&hasher.finish()));
    }
}

#[test]
fn unpacking_can_be_cancelled() {
    let kit = kit();
    let source = holding(&kit, archive(HELLO));
    let op = pb::FileOp {
        actions: vec![action(-1, 0, Action::Copy(copy("/to")))],
    };
    let operation = FileOperation::new(&op, 1, "test", &kit.engine).unwrap();
    let context = kit.context();
    context.cancel.cancel();
    let ended = kit.runtime.block_on(operation.run(vec![source], &context));
    assert!(matches!(ended, Err(OperationError::Cancelled)), "{ended:?}");
}
