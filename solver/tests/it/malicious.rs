//! Layers that somebody made to do harm: each is refused, or stays in its directory and takes no
//! more than the limits. The same archives are the seeds of the fuzz target `layer`.

mod archive;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ashlar_solver::cancel::Cancel;
use ashlar_solver::content::{Compression, Inflate};
use ashlar_solver::error::{Blame as _, Fault};
use ashlar_solver::limits::Limits;
use ashlar_solver::tree::View;
use ashlar_solver::tree::apply::{ApplyError, ApplyOptions, apply};
use ashlar_solver::tree::tar::{TarError, TarReader};

use archive::{Archive, Entry};

/// What becomes of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is not an archive that all readers understand alike.
    Archive,
    /// It asks for what no layer may have.
    Layer,
    /// It takes more than the limits.
    Limit,
    /// It is unpacked, with these paths and no others; removals end in `!`.
    Inside(&'static [&'static str]),
}

use Fate::{Archive as NoArchive, Inside, Layer, Limit};

fn file(name: &str) -> Entry {
    Entry::file(name, "evil")
}

fn of(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    Archive::new().entries(entries).end()
}

/// Names, archives, fates.
fn cases() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let mut all = leaving();
    all.extend(links());
    all.extend(special());
    all.extend(readers());
    all.extend(bombs());
    all
}

/// Names that lead upwards.
fn leaving() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let long = [&[b'd'; 250][..], b"/"].concat().repeat(20);
    let long = [&long[..], b"end"].concat();
    let removal = |name: &str| Entry::file(name, "");
    vec![
        ("up", of([file("../canary")]), Inside(&["canary"])),
        (
            "up-deep",
            of([file("a/b/../../../../../canary")]),
            Inside(&["canary"]),
        ),
        ("absolute", of([file("/canary")]), Inside(&["canary"])),
        ("dots", of([file("./.././canary")]), Inside(&["canary"])),
        ("root-as-file", of([file("..")]), Layer),
        ("root-as-link", of([Entry::symlink(".", "/")]), Layer),
        (
            "root-mode",
            of([Entry::directory("../").mode("0000000\0")]),
            Inside(&[]),
        ),
        (
            "removal-up",
            of([removal("../../.wh.canary")]),
            Inside(&["canary!"]),
        ),
        ("removal-of-parent", of([removal(".wh...")]), Layer),
        ("removal-of-parent-below", of([removal("d/.wh...")]), Layer),
        ("removal-of-itself", of([removal("d/.wh..")]), Layer),
        ("removal-of-nothing", of([removal(".wh.")]), Layer),
        ("below-a-removal", of([file(".wh.d/canary")]), Layer),
        (
            "opaque-up",
            of([removal("../../.wh..wh..opq")]),
            Inside(&[]),
        ),
        (
            "name-too-long",
            Archive::new()
                .pax(&[("path", &[b'n'; 300])])
                .entry(file("n"))
                .end(),
            Layer,
        ),
        (
            "path-too-long",
            Archive::new()
                .pax(&[("path", &long)])
                .entry(file("n"))
                .end(),
            Layer,
        ),
    ]
}

/// Symbolic and hard links that lead elsewhere.
fn links() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let link = Entry::symlink;
    vec![
        (
            "link-absolute",
            of([link("out", "/"), file("out/canary")]),
            Inside(&["canary", "out"]),
        ),
        (
            "link-up",
            of([link("out", ".."), file("out/canary")]),
            Inside(&["canary", "out"]),
        ),
        (
            "link-to-link",
            of([link("a", "b"), link("b", "../../.."), file("a/canary")]),
            Inside(&["a", "b", "canary"]),
        ),
        (
            "link-made-directory",
            of([
                Entry::directory("d/"),
                file("d/in"),
                link("d", ".."),
                file("d/canary"),
            ]),
            Inside(&["canary", "d"]),
        ),
        (
            "link-circle",
            of([link("a", "b"), link("b", "a"), file("a/x")]),
            Layer,
        ),
        ("link-to-itself", of([link("a", "a"), file("a/x")]), Layer),
        (
            "link-replaced",
            of([link("f", "../canary"), file("f")]),
            Inside(&["f"]),
        ),
        (
            "link-under-directory",
            of([
                link("d", ".."),
                Entry::directory("d/").mode("0007777\0"),
                file("d/x"),
            ]),
            Inside(&["d", "d/x"]),
        ),
        (
            "link-removed",
            of([link("out", ".."), Entry::file("out/.wh.canary", "")]),
            Inside(&["canary!", "out"]),
        ),
        ("file-as-directory", of([file("f"), file("f/x")]), Layer),
        (
            "hard-link-up",
            of([Entry::hard_link("h", "../canary")]),
            Layer,
        ),
        (
            "hard-link-absolute",
            of([Entry::hard_link("h", "/etc/passwd")]),
            Layer,
        ),
        (
            "hard-link-through-link",
            of([link("out", ".."), Entry::hard_link("h", "out/canary")]),
            Layer,
        ),
        (
            "hard-link-to-link",
            of([
                link("l", "../canary"),
                Entry::hard_link("h", "l"),
                file("h"),
            ]),
            Inside(&["h", "l"]),
        ),
        (
            "hard-link-to-directory",
            of([Entry::directory("d/"), Entry::hard_link("h", "d")]),
            Layer,
        ),
        (
            "hard-link-to-itself",
            of([file("f"), Entry::hard_link("f", "f")]),
            Layer,
        ),
        (
            "hard-link-to-removal",
            of([
                Entry::file(".wh.canary", ""),
                Entry::hard_link("h", "canary"),
            ]),
            Layer,
        ),
    ]
}

/// Devices, attributes, owners.
fn special() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let attributes: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.metacopy", b""),
    ];
    let huge = [0x80, 0, 0, 1, 0, 0, 0, 0];
    let negative = [0xff; 8];
    vec![
        (
            "device",
            of([Entry::char_device("null", 1, 3)]),
            Inside(&["null"]),
        ),
        (
            "device-of-removal",
            of([Entry::char_device("canary", 0, 0)]),
            Layer,
        ),
        ("pipe", of([Entry::new(b'6', "pipe")]), Inside(&["pipe"])),
        (
            "socket-or-other",
            of([Entry::new(b'Z', "other")]),
            NoArchive,
        ),
        (
            "overlay-attributes",
            Archive::new()
                .pax(attributes)
                .entry(Entry::directory("d/"))
                .end(),
            Inside(&["d"]),
        ),
        (
            "setuid",
            of([file("su").mode("0006755\0")]),
            Inside(&["su"]),
        ),
        ("owner-beyond", of([file("f").uid(huge)]), NoArchive),
        ("owner-negative", of([file("f").uid(negative)]), NoArchive),
        (
            "owner-no-number",
            of([file("f").uid(*b"0000xyz\0")]),
            NoArchive,
        ),
        (
            "group-of-nobody",
            Archive::new()
                .pax(&[("gid", b"4294967295")])
                .entry(Entry::directory("d/"))
                .end(),
            Layer,
        ),
        (
            "owner-of-nobody",
            Archive::new()
                .pax(&[("uid", b"4294967295")])
                .entry(file("f"))
                .end(),
            Layer,
        ),
    ]
}

/// What readers understand differently.
fn readers() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let inner = of([file("hidden")]);
    let pax = |records: &[(&str, &[u8])]| Archive::new().pax(records);
    vec![
        // The header says nothing follows, PAX says something does: what follows is an entry to one
        // reader and the content of a file to the other.
        (
            "pax-size-larger",
            pax(&[("size", b"1024")])
                .entry(
                    Entry::new(b'0', "f")
                        .size(*b"00000000000\0")
                        .data(inner.clone()),
                )
                .end(),
            NoArchive,
        ),
        (
            "pax-size-smaller",
            pax(&[("size", b"0")])
                .entry(Entry::file("f", "").data(inner.clone()))
                .end(),
            NoArchive,
        ),
        (
            "pax-size-negative",
            pax(&[("size", b"-1")]).entry(file("f")).end(),
            NoArchive,
        ),
        (
            "pax-size-hexadecimal",
            pax(&[("size", b"0x4")]).entry(file("f")).end(),
            NoArchive,
        ),
        (
            "pax-path-with-zero",
            pax(&[("path", b"a\0b")]).entry(file("f")).end(),
            NoArchive,
        ),
        (
            "pax-link-with-zero",
            pax(&[("linkpath", b"a\0b")])
                .entry(Entry::symlink("l", "x"))
                .end(),
            NoArchive,
        ),
        (
            "pax-length-wrong",
            Archive::new().raw_pax("99 path=x\n").entry(file("f")).end(),
            NoArchive,
        ),
        (
            "pax-length-zero",
            Archive::new().raw_pax("0 path=x\n").entry(file("f")).end(),
            NoArchive,
        ),
        (
            "pax-without-end-of-line",
            Archive::new().raw_pax("9 path=xx").entry(file("f")).end(),
            NoArchive,
        ),
        (
            "pax-for-nothing",
            Archive::new().raw_pax("10 path=x\n").end(),
            NoArchive,
        ),
        (
            "pax-twice",
            pax(&[("path", b"one")])
                .pax(&[("path", b"two")])
                .entry(file("f"))
                .end(),
            NoArchive,
        ),
        (
            "pax-and-long-name",
            pax(&[("path", b"one")])
                .entry(Entry::new(b'L', "././@LongLink").data(*b"two\0"))
                .entry(file("f"))
                .end(),
            NoArchive,
        ),
        (
            "pax-global",
            Archive::new()
                .entry(Entry::new(b'g', "g").data("13 path=../x\n"))
                .entry(file("f"))
                .end(),
            NoArchive,
        ),
        (
            "size-on-a-link",
            of([Entry::symlink("l", "x").data(inner.clone())]),
            NoArchive,
        ),
        (
            "size-on-a-directory",
            of([Entry::directory("d/").data(inner)]),
            NoArchive,
        ),
        ("size-negative", of([file("f").size([0xff; 12])]), NoArchive),
        (
            "size-no-number",
            of([file("f").size(*b"nonsense....")]),
            NoArchive,
        ),
        (
            "cut-in-a-header",
            Archive::new().entry(file("f")).cut(700),
            NoArchive,
        ),
        (
            "cut-in-a-file",
            Archive::new().entry(file("f").data([0; 2000])).cut(1000),
            NoArchive,
        ),
        (
            "zeros-in-the-middle",
            [Archive::new().end()[..512].to_vec(), of([file("f")])].concat(),
            NoArchive,
        ),
    ]
}

/// A little that becomes a lot.
fn bombs() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let sparse = |size: &[u8]| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"0"),
            ("GNU.sparse.minor", b"1"),
            ("GNU.sparse.size", size),
            ("GNU.sparse.map", b"0,4"),
        ];
        Archive::new().pax(records).entry(file("f")).end()
    };
    let many = (0..600).map(|number| Entry::new(b'0', &number.to_string()));
    vec![
        (
            "bomb-size",
            of([file("f").size([
                0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            ])]),
            Limit,
        ),
        (
            "bomb-octal-size",
            of([file("f").size(*b"77777777777\0")]),
            Limit,
        ),
        ("bomb-sparse", sparse(b"1152921504606846976"), Limit),
        (
            "bomb-sparse-overflow",
            sparse(b"18446744073709551615"),
            NoArchive,
        ),
        ("bomb-entries", of(many), Limit),
        (
            "bomb-long-name",
            of([Entry::new(b'L', "././@LongLink").size(*b"77777777777\0")]),
            NoArchive,
        ),
        (
            "bomb-pax",
            of([Entry::new(b'x', "pax").size(*b"77777777777\0")]),
            NoArchive,
        ),
    ]
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 20;
    limits.layer_entries = 500;
    limits
}

/// A layer directory with canaries around it.
struct Jail(tempfile::TempDir);

impl Jail {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("outer/fs")).unwrap();
        for canary in ["canary", "outer/canary"] {
            fs::write(folder.path().join(canary), "alive").unwrap();
        }
        Self(folder)
    }

    fn fs(&self) -> PathBuf {
        self.0.path().join("outer/fs")
    }

    /// Everything around the layer: names, kinds, modes, owners, links, content.
    fn around(&self) -> Vec<(PathBuf, u32, u32, u64, Vec<u8>)> {
        let mut all = Vec::new();
        for name in ["", "canary", "outer", "outer/canary", "outer/fs"] {
            let path = self.0.path().join(name);
            let data = fs::symlink_metadata(&path).unwrap();
            let content = fs::read(&path).unwrap_or_default();
            let links = if data.is_dir() { 0 } else { data.nlink() };
            // The mode of the layer's own root is the layer's business.
            let mode = if name == "outer/fs" { 0 } else { data.mode() };
            all.push((path, mode, data.uid(), links, content));
        }
        for folder in ["", "outer"] {
            let names = fs::read_dir(self.0.path().join(folder)).unwrap();
            assert_eq!(names.count(), 2, "{folder}");
        }
        all
    }

    fn unpack(&self, tar: &[u8], privileged: bool) -> Result<Vec<String>, ApplyError> {
        let fs = fs::File::open(self.fs()).unwrap();
        let options = ApplyOptions { privileged };
        let raw = apply(tar, fs.as_fd(), options, &limits(), &Cancel::new())?;
        let normalized = raw.normalize(&View::empty(), fs.as_fd())?;
        let entries = normalized.index.entries().iter();
        let shown = |(path, entry): &(_, ashlar_solver::tree::Entry)| {
            let overlay =
                |(name, _): (&[u8], &[u8])| name.windows(7).any(|part| part == b"overlay");
            assert!(!entry.attributes.xattrs.iter().any(overlay), "{path}");
            let removed = entry.kind == ashlar_solver::tree::Kind::Whiteout;
            let path: &ashlar_solver::tree::TreePath = path;
            let path = path.to_string();
            format!(
                "{}{}",
                path.trim_start_matches('/'),
                if removed { "!" } else { "" }
            )
        };
        Ok(entries.map(shown).filter(|path| !path.is_empty()).collect())
    }
}

fn fate(error: &ApplyError) -> Fate {
    match error {
        ApplyError::Tar(
            TarError::Malformed { .. } | TarError::Truncated { .. } | TarError::Unsupported { .. },
        ) => NoArchive,
        ApplyError::TooManyEntries { .. }
        | ApplyError::TooLarge { .. }
        | ApplyError::TooMuchMetadata { .. } => Limit,
        ApplyError::Disk { .. } | ApplyError::Tar(_) | ApplyError::Cancelled(_) => {
            panic!("{error:?}")
        }
        _ => Layer,
    }
}

#[test]
fn class_9_10_and_12_malicious_layers_stay_inside_or_are_refused() {
    let root = rustix::process::geteuid().is_root();
    let mut wrong = Vec::new();
    for (name, tar, expected) in cases() {
        for privileged in [false, true] {
            if privileged && !root {
                continue;
            }
            let jail = Jail::new();
            let before = jail.around();
            let unpacked = jail.unpack(&tar, privileged);
            assert_eq!(jail.around(), before, "{name}");
            let same = match (&unpacked, expected) {
                (Ok(paths), Inside(inside)) => paths == inside,
                (Err(error), expected) => {
                    assert_eq!(error.fault(), Fault::Input, "{name}: {error:?}");
                    fate(error) == expected
                }
                (Ok(_), _) => false,
            };
            if !same {
                wrong.push(format!("{name}: {unpacked:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whoever has the same uid can do what they like with the state directory, but not have others
/// write elsewhere for them.
#[test]
fn class_17_directories_exchanged_while_a_layer_is_unpacked_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    // More directories than are kept open, so that each is opened again and again.
    let directories: Vec<String> = (0..40).map(|number| format!("d{number}")).collect();
    let mut tar = Archive::new().entries(directories.iter().map(|name| Entry::directory(name)));
    for number in 0..400 {
        let name = |directory: &String| format!("{directory}/{number}");
        tar = tar.entries(directories.iter().map(|directory| file(&name(directory))));
    }
    let tar = tar.end();
    let mut limits = Limits::default();
    limits.layer_bytes = 1 << 30;
    for round in 0..5 {
        let jail = Jail::new();
        let (stop, exchanged) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let at = |name: &str| jail.fs().join(name);
                while !stop.load(Ordering::Relaxed) {
                    for name in &directories {
                        if fs::rename(at(name), at("aside")).is_err() {
                            continue;
                        }
                        if std::os::unix::fs::symlink(outside.path(), at(name)).is_ok() {
                            exchanged.fetch_add(1, Ordering::Relaxed);
                            std::thread::yield_now();
                            let _gone = fs::remove_file(at(name));
                        }
                        let _back = fs::rename(at("aside"), at(name));
                    }
                }
            });
            let fs = fs::File::open(jail.fs()).unwrap();
            let options = ApplyOptions { privileged: false };
            let unpacked = apply(&tar[..], fs.as_fd(), options, &limits, &Cancel::new());
            let noticed = |error: &ApplyError| matches!(error, ApplyError::Disk { .. });
            assert!(
                unpacked.is_ok() || unpacked.as_ref().is_err_and(noticed),
                "{unpacked:?}"
            );
            stop.store(true, Ordering::Relaxed);
        });
        assert!(round > 0 || exchanged.into_inner() > 0);
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

/// The names in an archive, as we read them.
fn names(tar: &[u8]) -> Option<Vec<String>> {
    let mut reader = TarReader::new(tar);
    let mut names = Vec::new();
    while let Some(header) = reader.next_entry().ok()? {
        names.push(String::from_utf8(header.path).ok()?);
    }
    Some(names)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the other reader is GNU tar")]
fn class_10_what_we_take_for_an_archive_has_the_same_entries_for_gnu_tar() {
    if Command::new("tar").arg("--version").output().is_err() {
        println!("SKIPPED: class_10_what_we_take_for_an_archive: needs tar");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for (name, tar, _) in cases() {
        let Some(ours) = names(&tar) else { continue };
        let path = folder.path().join(name);
        fs::write(&path, &tar).unwrap();
        let listed = Command::new("tar")
            .args(["-P", "--quoting-style=literal", "-tf"])
            .arg(&path)
            .output()
            .unwrap();
        // What another reader refuses is no danger.
        if listed.status.success() {
            let theirs = String::from_utf8(listed.stdout).unwrap();
            assert_eq!(ours, theirs.lines().collect::<Vec<_>>(), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn class_12_streams_that_inflate_without_end_stop_at_the_limit() {
    let zeros = vec![0; 4 << 20];
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 19).unwrap();
    let bombs: BTreeMap<&str, (Compression, Vec<u8>)> = [
        ("gzip", (Compression::Gzip, gzip(&zeros))),
        (
            "gzip of many members",
            (Compression::Gzip, gzip(&zeros[..1024]).repeat(4096)),
        ),
        ("zstd", (Compression::Zstd, zstd(&zeros))),
        (
            "zstd of many frames",
            (Compression::Zstd, zstd(&zeros[..4096]).repeat(1024)),
        ),
        // A frame that asks for a window of 2 GiB.
        (
            "zstd window",
            (
                Compression::Zstd,
                vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 3, 0, 0],
            ),
        ),
        ("plain", (Compression::Uncompressed, zeros.clone())),
    ]
    .into();
    for (name, (compression, bytes)) in bombs {
        let mut inflate = Inflate::new(&bytes[..], compression, 1 << 20).unwrap();
        let mut piece = vec![0; 64 << 10];
        let mut read = 0;
        let error = loop {
            match inflate.read(&mut piece) {
                Ok(0) => panic!("{name} ends"),
                Ok(length) => read += length,
                Err(error) => break error,
            }
        };
        assert!(read <= 1 << 20, "{name}: {read}");
        let inner = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<ashlar_solver::content::ContentError>());
        assert_eq!(
            inner.map(ashlar_solver::error::Blame::fault),
            Some(Fault::Input),
            "{name}: {error:?}"
        );
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/layer")
}

#[test]
fn the_corpus_has_every_malicious_layer() {
    let mut there: Vec<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for (name, tar, _) in cases() {
        let at = there.iter().position(|other| other == name);
        assert!(
            at.is_some(),
            "{name} is missing: run the ignored test write_the_corpus"
        );
        there.swap_remove(at.unwrap());
        assert!(
            fs::read(corpus().join(name)).unwrap() == tar,
            "{name} is another one"
        );
    }
    assert!(there.is_empty(), "{there:?}");
}

#[test]
#[ignore = "writes the seeds of the fuzz target `layer`"]
fn write_the_corpus() {
    fs::create_dir_all(corpus()).unwrap();
    for (name, tar, _) in cases() {
        fs::write(corpus().join(name), tar).unwrap();
    }
}
